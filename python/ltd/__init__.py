"""Learning to Draft: Hugging Face language models, several times faster, with the same output.

>>> import ltd
>>> decoder = ltd.load()  # SmolLM2-135M-Instruct, with the head that comes with this package
>>> answer = decoder.generate(decoder.encode("Why is the sky blue?"))
>>> decoder.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ltd.common.version import VERSION

if TYPE_CHECKING:
    from ltd.custom_generate.call import CustomGenerate as CustomGenerate
    from ltd.decoding.decoder import Decoder as Decoder
    from ltd.decoding.decoder import Generation as Generation
    from ltd.decoding.self_check import ImplausibleHeadWarning as ImplausibleHeadWarning
    from ltd.decoding.statistics import Statistics as Statistics
    from ltd.decoding.text_stream import TextStream as TextStream
    from ltd.errors import InputError as InputError
    from ltd.loading import load as load
    from ltd.policies import Both as Both
    from ltd.policies import Learned as Learned
    from ltd.policies import Lookup as Lookup
    from ltd.policies import Policy as Policy
    from ltd.policies import Static as Static
    from ltd.policies.learned.setting import TunedElsewhereWarning as TunedElsewhereWarning

__version__ = VERSION

# Imported on first use: torch and transformers take seconds, and `ltd --help` needs neither.
_HOMES = {
    "Both": "ltd.policies",
    "CustomGenerate": "ltd.custom_generate.call",
    "Decoder": "ltd.decoding.decoder",
    "Generation": "ltd.decoding.decoder",
    "ImplausibleHeadWarning": "ltd.decoding.self_check",
    "InputError": "ltd.errors",
    "Learned": "ltd.policies",
    "Lookup": "ltd.policies",
    "Policy": "ltd.policies",
    "Static": "ltd.policies",
    "Statistics": "ltd.decoding.statistics",
    "TextStream": "ltd.decoding.text_stream",
    "TunedElsewhereWarning": "ltd.policies.learned.setting",
    "load": "ltd.loading",
}
__all__ = [
    "Both",
    "CustomGenerate",
    "Decoder",
    "Generation",
    "ImplausibleHeadWarning",
    "InputError",
    "Learned",
    "Lookup",
    "Policy",
    "Static",
    "Statistics",
    "TextStream",
    "TunedElsewhereWarning",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
