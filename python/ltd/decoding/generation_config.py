"""What a `GenerationConfig` of `transformers` asks for, by name: what is honoured, what says nothing about the text,
and what is refused because it is neither."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from ltd.common.foreign_errors import reason_of
from ltd.decoding.acceptance import Sampling
from ltd.decoding.in_step import InStep, InStepAcceptor, chooser
from ltd.decoding.stopping import StopRule
from ltd.errors import InputError

# `transformers` makes logits processors of these, also where it decodes greedily.
PROCESSED = frozenset(
    {
        "sequence_bias", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "bad_words_ids", "min_length", "min_new_tokens", "forced_bos_token_id",
        "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
        "begin_suppress_tokens", "renormalize_logits", "watermarking_config",
    }
)  # fmt: skip
SAMPLED = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)
TOKENS = frozenset({"pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"})
LENGTHS = frozenset({"max_length", "max_new_tokens"})
# How `transformers` computes, but not what: caches, compilation, how its own assistants draft; and what beams need.
NO_EFFECT = frozenset(
    {
        "use_cache", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config", "disable_compile",
        "continuous_batching_config", "low_memory", "num_assistant_tokens", "num_assistant_tokens_schedule",
        "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight",
        "max_matching_ngram_size", "early_stopping", "length_penalty", "diversity_penalty", "transformers_version",
    }
)  # fmt: skip
OUTPUTS = frozenset(
    {"return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states"}
)
# With these values, the rest of what there is asks for nothing.
NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "guidance_scale": 1,
}
PLENTY = 1_000_000  # new tokens, more than any model's least length
LOSSY_CACHES = ("quantized", "paged")
LOADED = PROCESSED | SAMPLED | TOKENS | LENGTHS | NO_EFFECT | OUTPUTS


def check_config(config: GenerationConfig, known: frozenset[str], subject: str) -> None:
    """Refuses what a configuration asks for beyond what is known to be honoured, or to say nothing about the text.

    Keys that are not of `GenerationConfig` are nobody's: `transformers` carries them along and reads none of them.

    Args:
        config: with or without its defaults filled in.
        known: names that may have any value.
        subject: who asks, for people.

    Raises:
        InputError: something that is not known, by its name.
    """
    for name in sorted(vars(GenerationConfig())):
        value = getattr(config, name, None)
        if name.startswith("_") or name in known or value is None or value is False or value == NEUTRAL.get(name):
            continue
        if name == "cache_implementation" and value not in LOSSY_CACHES:
            continue
        if name == "num_beams":
            raise InputError(f"{subject} asks for beam search (num_beams {value}), which speculation cannot; use 1")
        raise InputError(
            f"{subject} asks for {name} ({value!r}), which speculative decoding does not honour; leave it out"
        )


class ModelRules:
    """The logits processors that a model's own generation settings ask for, such as a repetition penalty.

    `transformers` applies them in its greedy `generate` as well, so they belong to the text that has to come out. What
    its settings say about sampling is not applied: it is greedy unless a call asks for something else.

    Args:
        model: as it was loaded; only its kind, settings and device are used.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        kept = {name: value for name in PROCESSED if (value := getattr(model.generation_config, name)) is not None}
        # A shallow copy, as `generate` takes what a call leaves open from the model's settings.
        self._model = copy.copy(model)
        self._model.generation_config = GenerationConfig(**kept)

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelRules | None:
        """A model's rules; None if it has none.

        Raises:
            InputError: its settings ask for something that is not honoured.
        """
        check_config(model.generation_config, LOADED, "the model's generation config")
        try:
            rules = cls(model)
            return rules if rules.of_any_prompt() else None
        except (ValueError, TypeError) as error:
            raise InputError(f"the model's generation config cannot be used: {reason_of(error)}") from error

    def __str__(self) -> str:
        return ", ".join(type(each).__name__ for each in self.of_any_prompt())

    def of_any_prompt(self) -> LogitsProcessorList:
        """The processors that every prompt has."""
        return self.prepare([0], PLENTY, (0,)).processors

    def prepare(self, prompt: list[int], max_new_tokens: int, stop_ids: Sequence[int]) -> Prepared:
        """What `generate` prepares for a prompt by itself."""
        input_ids = torch.tensor([prompt], device=self._model.device)
        prepared: Prepared = self._model.generate(  # type: ignore[operator]  # its stub does not know the method
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=0,
            custom_generate=_prepared,
        )
        return prepared

    def scores(
        self, logits: torch.Tensor, prompt: list[int], answer: list[int], max_new_tokens: int, stop_ids: Sequence[int]
    ) -> torch.Tensor:
        """The logits (vocabulary,) after a prompt and a part of its answer, as the processors leave them."""
        ids = torch.tensor([prompt + answer], device=logits.device)
        processors = self.prepare(prompt, max_new_tokens, stop_ids).processors
        scores: torch.Tensor = processors(cast(torch.LongTensor, ids), cast(torch.FloatTensor, logits[None].float()))
        return scores[0].to(logits.dtype)

    def acceptor(self, prompts: list[list[int]], sampling: Sampling, stops: StopRule) -> InStepAcceptor:
        """`Acceptor` and `Stops` of one call, by these rules.

        Raises:
            InputError: a watermark where text is sampled: `transformers` applies it after temperature, top-k and top-p,
                and all rules here come before.
        """
        if sampling.temperature > 0.0 and self._model.generation_config.watermarking_config is not None:
            raise InputError(
                "the model's generation config asks for watermarking_config, which is honoured in greedy text alone; "
                "use temperature 0, or ltd.CustomGenerate"
            )
        choose, batches = chooser(sampling), []
        for row, prompt in enumerate(prompts):
            made = self.prepare(prompt, stops.limit(row), sorted(stops.stop_ids))
            batches.append(InStep([row], made.input_ids, made.processors, made.criteria, choose, 0))
        return InStepAcceptor(batches)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `generate` hands to a decoding method."""

    input_ids: torch.Tensor
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList


def _prepared(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    **_: Any,
) -> Prepared:
    """A decoding method that only shows what it is given."""
    return Prepared(input_ids, logits_processor, stopping_criteria)
