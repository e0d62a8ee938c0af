"""Reading and writing draft heads.

Our own folder is `config.json` (an `Eagle3Config`) and `model.safetensors` with the canonical names. Published heads of
other layouts are converted on load, see `ltd.drafts.eagle3.published`. Nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from ltd.common.files import write_bytes, write_text
from ltd.common.foreign_errors import reason_of
from ltd.common.json_files import read_json
from ltd.common.tensor_files import DAMAGE, load_pickled, read_tensors
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.eagle3.published import HeadDecisions, convert
from ltd.drafts.weights import weight_files
from ltd.errors import InputError

FORMAT = "ltd-eagle3"
ACTIVATIONS = ("silu", "swish")  # two names of one function


def load_head(
    folder: str | Path,
    dtype: torch.dtype,
    device: str | torch.device,
    *,
    target: PreTrainedModel | None = None,
    feature_layers: tuple[int, ...] | None = None,
    rope_theta: float | None = None,
    decisions: HeadDecisions | None = None,
) -> Eagle3Head:
    """Load an EAGLE-3 head, in evaluation mode, from our own or any published layout.

    `target` is needed only by published heads that name no feature layers or bring no output layer. `feature_layers`
    (hs[] indices) and `rope_theta` override what the checkpoint says, for the ones that say it wrongly. `decisions` are
    told what was made of a published layout.
    Raises InputError for anything that is not a complete, consistent EAGLE-3 head.
    """
    folder = Path(folder)
    values, tensors = read_config(folder), _read_tensors(folder)
    check_activation(values, str(folder))
    if values.get("format") == FORMAT:
        config = Eagle3Config.from_dict(values, f"the config of the draft head in {folder}")
    else:
        config, tensors = convert(
            values, tensors, target=target, feature_layers=feature_layers, where=str(folder), decisions=decisions
        )
    if feature_layers is not None:
        config = replace(config, feature_layers=feature_layers)
    if rope_theta is not None:
        config = replace(config, rope_theta=rope_theta)
    head = build_head(config, tensors, str(folder))
    return head.to(device=device, dtype=dtype).eval()


def save_head(head: Eagle3Head, folder: str | Path, report: dict[str, Any] | None = None) -> None:
    """Write a head in our own layout, weights in bfloat16; `report` becomes `training.json`.

    Every file is written under a temporary name first, and the config after the weights, so that a folder with a config
    is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (tensor.bfloat16() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in head.state_dict().items()
    }
    write_bytes(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_text(folder / "config.json", json.dumps({"format": FORMAT, **head.config.to_dict()}, indent=1) + "\n")
    if report is not None:
        write_text(folder / "training.json", json.dumps(report, indent=1) + "\n")


def build_head(config: Eagle3Config, tensors: dict[str, Tensor], where: str) -> Eagle3Head:
    """A head from canonical tensors. Raises InputError naming every missing, unknown or misshapen one."""
    own_embedding = "embed_tokens.weight" in tensors
    with torch.device("meta"):  # nothing is allocated before the sizes are known to be those of the file
        outline = Eagle3Head(replace(config, rope_scaling=None), own_embedding=own_embedding)
    expected = {name: tensor.shape for name, tensor in outline.state_dict().items()}
    if missing := sorted(expected.keys() - tensors.keys()):
        raise InputError(f"the draft head in {where} lacks {', '.join(missing)}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        hint = " (quantised heads are not supported)" if any(name.endswith("_scale") for name in unknown) else ""
        raise InputError(f"the draft head in {where} holds tensors that an EAGLE-3 head does not have{hint}: "
                         f"{', '.join(unknown)}")  # fmt: skip
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"the draft head in {where}: {name} has shape {tuple(tensors[name].shape)},"
                f" but its config asks for {tuple(shape)}"
            )
        if name not in ("d2t", "t2d") and not tensors[name].is_floating_point():
            raise InputError(f"the draft head in {where}: {name} is {tensors[name].dtype}, but must hold real numbers")
    check_vocabulary(tensors["d2t"], tensors["t2d"], config, where)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"the draft head in {where}: {name} holds numbers that are not finite; train it again")
    head = Eagle3Head(config, own_embedding=own_embedding)
    head.load_state_dict(tensors)
    return head


def check_activation(values: dict[str, Any], where: str) -> None:
    """Raises InputError if a config, of whatever layout, names another activation than that of every EAGLE-3 head."""
    for part in (values, values.get("transformer_layer_config")):
        name = part.get("hidden_act") if isinstance(part, dict) else None
        if name not in (None, *ACTIVATIONS):
            raise InputError(
                f"the draft head in {where} has the activation {name!r}; only {ACTIVATIONS[0]} is supported"
            )


def _join(tensors: dict[str, Any], more: dict[str, Any], file: Path) -> None:
    """Adds the tensors of one more file. Raises InputError for one that is there already."""
    if again := sorted(map(str, tensors.keys() & more.keys())):
        raise InputError(f"{file} holds {again[0]}, which another file beside it holds too; keep one of them")
    tensors.update(more)


def check_vocabulary(d2t: Tensor, t2d: Tensor, config: Eagle3Config, where: str) -> None:
    """Raise InputError unless d2t (Vd,) and t2d (V,) describe one draft vocabulary."""
    if d2t.is_floating_point() or d2t.dtype == torch.bool:
        raise InputError(f"the draft head in {where}: d2t is {d2t.dtype}, but must hold whole numbers")
    ids = d2t.long() + torch.arange(len(d2t))
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise InputError(
            f"the draft head in {where}: d2t leads to token {int(ids.min() if ids.min() < 0 else ids.max())},"
            f" outside the target's {config.vocab_size}"
        )
    if len(ids.unique()) != len(ids):
        raise InputError(f"the draft head in {where}: d2t maps several draft tokens to one target token")
    members = torch.zeros(config.vocab_size, dtype=torch.bool).index_fill(0, ids, True)
    if not torch.equal(members, t2d.bool()):
        raise InputError(
            f"the draft head in {where}: t2d marks {int(t2d.bool().sum())} tokens, but not just the {len(ids)} of d2t"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """What a head's `config.json` says, unchecked. Raises InputError if there is none, or none that can be read."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(_missing(folder, "config.json"))
    return read_json(file, dict[str, Any], str(file))


def _missing(folder: Path, name: str) -> str:
    """What to say of a folder without a head, which may be that of a training run: its head lies in a folder there."""
    there = folder / "head"
    advice = f"; give {there}, where there is one" if weight_files(there) else ""
    return f"there is no draft head in {folder}: {name} is missing{advice}"


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors (in one file or several), else a `.bin` without pickled code."""
    tensors: dict[str, Any] = {}
    files = weight_files(folder)
    if not files:
        raise InputError(_missing(folder, "model.safetensors"))
    for file in files:
        if file.suffix == ".safetensors":
            _join(tensors, read_tensors(file, f"the draft head in {folder}"), file)
            continue
        try:
            _join(tensors, dict(load_pickled(file.read_bytes())), file)
        except InputError:
            raise
        except pickle.UnpicklingError as error:
            raise InputError(
                f"{file} holds pickled code or is damaged; only plain tensors are read, so convert it to safetensors"
            ) from error
        except DAMAGE as error:
            raise InputError(f"{file} cannot be read as tensors: {reason_of(error)}") from error
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise InputError(f"the draft head in {folder} holds something that is not a tensor")
    return tensors
