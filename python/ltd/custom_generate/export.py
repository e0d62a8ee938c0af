"""`ltd export --to custom-generate`: a model's folder whose `generate` is ours.

It holds links to the model's files and to the draft's and the policy's folders, a config with the type of the weights,
and `custom_generate/`, which `transformers` runs where it is told to trust remote code.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ltd.common.files import expand_user, write_text
from ltd.common.foreign_errors import reason_of
from ltd.common.json_files import read_json
from ltd.decoding.generation_config import LOADED, check_config
from ltd.drafts.opening import LOOKUP, check_named, find_head
from ltd.drafts.opening import NONE as NO_DRAFT
from ltd.errors import InputError
from ltd.policy_choice import NONE, STATIC, ChosenPolicy, choose_policy, expected_setting, resolve_draft
from ltd.target.device import AUTO, resolve_device, resolve_dtype
from ltd.target.locate import CONFIG
from ltd.target.model import NamedModel
from ltd.target.quantised import QUANTISATION

FOLDER, HEAD, POLICY = "custom_generate", "head", "policy"
OWN_CODE = "auto_map"  # in a config: which code of the model's folder `transformers` would run
REWRITTEN = (CONFIG, "tokenizer_config.json")
WANTED_OF_A_HUB = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
GENERATE = '''"""What `transformers` calls as this model's `generate`: ltd decodes it. Written by `ltd export`."""

from ltd.custom_generate.folder import FolderGenerate

generate = FolderGenerate({draft!r}, policy={policy!r}, takes_weights={takes_weights!r})
'''


def export_model(
    target: str | Path | None,
    out: str | Path,
    *,
    draft: str | Path | None = None,
    policy: str | Path | None = None,
    dtype: str = "auto",
    takes_weights: bool = True,
) -> ChosenPolicy:
    """Writes a folder that `transformers` loads as the model and, if it trusts remote code, decodes with ltd.

    What fails leaves nothing behind. The folder is for its place: it names itself and what it links to.

    Args:
        target, draft, policy: see `ltd.load`; the policy by name.
        out: a folder, made where it is missing; it must be empty.
        dtype: of the weights, where whoever loads them asks for none; auto is the fastest of this machine.
        takes_weights: see `CustomGenerate`.

    Returns:
        the policy that decides on this machine as it is now.

    Raises:
        InputError: a folder that is not empty, a quantised model whose weights are to be taken, or anything that
            `ltd.load` would refuse without reading weights.
    """
    folder = free_folder(out)
    named, place = NamedModel(target), resolve_device(AUTO)
    kind = resolve_dtype(dtype, place)
    if takes_weights and getattr(named.config, QUANTISATION, None) is not None:
        raise InputError(f"{named.place!r} is quantised, so no engine can take its weights over; add --keep-weights")
    if str(draft) == NO_DRAFT and policy not in (None, NONE):
        raise InputError(f"the draft {draft} is plain decoding, which takes no policy {str(policy)!r}; leave it out")
    draft = NO_DRAFT if policy == NONE else resolve_draft(named, draft)
    check_named(draft, named.config)
    setting = partial(expected_setting, named, draft, kind, place)
    chosen = choose_policy(policy, setting, place, looks_up=str(draft) == LOOKUP)
    source = folder_of(named)
    check_generation_config(source)
    beside = next(path for path in folder.parents if path.is_dir())
    with tempfile.TemporaryDirectory(prefix=".ltd-export-", dir=beside) as unfinished:
        written = Path(unfinished) / folder.name
        (written / FOLDER).mkdir(parents=True)
        link_model(source, written, {"dtype": str(kind).removeprefix("torch.")})
        head = find_head(draft)
        names = {
            "draft": str(draft) if head is None else link(head, written, HEAD, folder),
            "policy": policy if policy in (None, NONE, STATIC) else link(expand_user(policy), written, POLICY, folder),
        }
        write_text(written / FOLDER / "generate.py", GENERATE.format(**names, takes_weights=takes_weights))
        write_text(written / FOLDER / "requirements.txt", "\n".join(requirements()) + "\n")
        _ = NamedModel(written).config  # raises unless it is a whole model
        folder.parent.mkdir(parents=True, exist_ok=True)
        written.rename(folder)
    return chosen


def free_folder(out: str | Path) -> Path:
    """The whole path of a folder that is not there yet, or is empty.

    Raises:
        InputError: it is neither, or has a name that `transformers serve` would read as something else.
    """
    folder = expand_user(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already, and not empty; name a new folder")
    if "@" in str(folder):
        raise InputError(f"{folder} has an @ in it, behind which transformers serve reads a revision; use another name")
    return folder


def folder_of(model: NamedModel) -> Path:
    """The folder with a model's files. Raises InputError if the hub does not give all of them."""
    if Path(model.place).is_dir():
        return Path(model.place)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model.place, allow_patterns=WANTED_OF_A_HUB))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(model.place, allow_patterns=["*.bin"])
        return folder
    except Exception as error:  # offline, no permission, no space: whatever the hub's client raises
        raise InputError(f"cannot have the files of {model.place!r} from the hub: {reason_of(error)}") from error


def check_generation_config(source: Path) -> None:
    """Raises InputError if a model's own generation settings ask for what no call could honour, as `ltd.load` does."""
    try:
        config = GenerationConfig.from_pretrained(source)
    except OSError:  # there are none
        return
    except (ValueError, TypeError) as error:
        raise InputError(f"the generation config in {source} cannot be read: {reason_of(error)}") from error
    check_config(config, LOADED, "the model's generation config")


def link_model(source: Path, written: Path, changes: dict[str, Any]) -> None:
    """Links a model's files into a folder; its config is written anew, and its own code stays behind."""
    for file in files_of(source):
        values = read_json(file, dict[str, Any]) if file.name in REWRITTEN else {}
        own_code = values.pop(OWN_CODE, None)
        if file.name == CONFIG:
            # As `ltd.load` has it, whatever its config says: the causal LM that `transformers` has for the family.
            family = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[values["model_type"]]]
            values = {**values, "architectures": family, **changes}
            values.pop("torch_dtype", None)
        if file.name == CONFIG or own_code is not None:
            write_text(written / file.name, json.dumps(values, indent=1) + "\n")
        else:
            (written / file.name).symlink_to(file.resolve())


def files_of(source: Path) -> Iterator[Path]:
    """The files and folders of a model that go along."""
    for file in sorted(source.iterdir()):
        if not file.name.startswith(".") and file.suffix != ".py" and file.name != FOLDER:
            yield file


def link(to: Path, written: Path, name: str, folder: Path) -> str:
    """Links something into `custom_generate/`; where it will be, once what is written becomes the folder."""
    (written / FOLDER / name).symlink_to(to.resolve())
    return str(folder / FOLDER / name)


def requirements() -> Iterator[str]:
    """What must be installed where the folder is loaded, in the words of pip."""
    for name in ("ltd", "transformers"):
        try:
            yield f"{name}>={metadata.version(name)}"
        except metadata.PackageNotFoundError:  # it is found by its path, as with `make SYSTEM=1`
            continue
