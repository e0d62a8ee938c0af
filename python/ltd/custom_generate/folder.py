"""`generate` of a model's folder: what `transformers` loads with `trust_remote_code` and calls instead of its own.

`ltd export --to custom-generate` writes such folders. `transformers serve` serves them.
"""

from __future__ import annotations

import inspect
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import GenerationMixin, PreTrainedModel

from ltd.common.threads import set_threads
from ltd.custom_generate.arguments import take_stop_strings
from ltd.custom_generate.call import CustomGenerate
from ltd.drafts.opening import check_named
from ltd.errors import InputError

SERVER = "transformers.cli.serving.server"  # is imported where `transformers serve` runs
KEPT = "_ltd_generate"  # under this name a model has what decodes it
NOT_IN_JSON = str.maketrans({'"': "'", "\\": "/", "\n": " "})
MAKING = threading.Lock()  # not of the objects, which are copied with their models
SIGNATURE = inspect.signature(GenerationMixin.generate)


class FolderGenerate:
    """Called as a model's `generate`, with the arguments of that of `transformers`: the model is decoded by ltd.

    Every model has a `CustomGenerate` of its own, made at its first call, and kept by the model, with which it ends.
    Stop strings are honoured where the call brings the `tokenizer`. Where `transformers serve` calls, what is refused
    becomes the answer 400 with the sentence that says why.

    Args:
        draft: see `CustomGenerate`.
        policy: "static", "none", the folder of a bundle, or None, see `ltd.load`.
        takes_weights: see `CustomGenerate`.

    Raises:
        InputError: there is no such head or policy. No OSError: `transformers` would take that for a folder without
            a `generate`, and decode plainly.
    """

    def __init__(
        self, draft: str | Path | None = None, *, policy: str | Path | None = None, takes_weights: bool = True
    ) -> None:
        self.draft, self.policy, self.takes_weights = draft, policy, takes_weights
        try:
            check_named(draft)
            self._make()  # now, as the policy may not be there
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}; export the folder anew") from error

    def __call__(self, *args: Any, model: PreTrainedModel, **kwargs: Any) -> Any:
        """What `model.generate(*args, **kwargs)` of `transformers` returns, see there.

        Raises:
            InputError: something that speculative decoding does not honour, by its name.
        """
        given: dict[str, Any] = SIGNATURE.bind(model, *args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        del given["self"]
        try:
            if given.get("custom_generate") is None:
                given = {**take_stop_strings(given), "custom_generate": self.made_for(model)}
            return GenerationMixin.generate(model, **given)  # type: ignore[arg-type]  # a model is one of these
        except InputError as error:
            raise as_answer(error) from error

    def made_for(self, model: PreTrainedModel) -> CustomGenerate:
        """What decodes a model; the same at every call."""
        with MAKING:
            kept: KeptByModel = vars(model).setdefault(KEPT, KeptByModel())
            if self not in kept:
                set_threads(None)
                kept[self] = self._make()
            return kept[self]

    def _make(self) -> CustomGenerate:
        return CustomGenerate(self.draft, policy=self.policy, takes_weights=self.takes_weights)


class KeptByModel(dict[FolderGenerate, CustomGenerate]):
    """What decodes a model, by the folder's `generate`. A copy of the model is another model, and has none yet."""

    def __reduce__(self) -> tuple[type[KeptByModel], tuple[()]]:
        return KeptByModel, ()


def as_answer(error: InputError) -> Exception:
    """What to raise: in a server of `transformers` what it answers with code 400, elsewhere the error itself.

    A stream of the server puts the message into JSON as it is.
    """
    if SERVER not in sys.modules:
        return error
    answer: Exception = import_module("fastapi").HTTPException(400, str(error).translate(NOT_IN_JSON))
    return answer
