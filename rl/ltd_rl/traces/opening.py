"""From what a config names to a decoder that records, calibrates or trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ltd.decoding.decoder import Decoder


class NamedModels(Protocol):
    """What names a target and a draft, and where they run, as `ltd.load` takes it."""

    @property
    def target(self) -> str | None: ...

    @property
    def draft(self) -> str | None: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def threads(self) -> int | None: ...


def open_decoder(models: NamedModels, load: Callable[..., Decoder]) -> Decoder:
    """Loads them by `load`, which is `ltd.load` or stands in for it, with a policy that is not looked for.

    Nothing is reused of earlier texts: what is compared reads whole prompts.
    """
    options: dict[str, Any] = {"device": models.device, "dtype": models.dtype, "threads": models.threads}
    return load(models.target, models.draft, policy="static", reuse_mib=0, **options)
