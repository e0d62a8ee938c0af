"""`model.generate(..., custom_generate=ltd.CustomGenerate())`: the cycle inside `transformers`' own interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.generation.stopping_criteria import MaxLengthCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from ltd.decoding.acceptance import MAX_GAIN, Acceptor, Sampling, collect
from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Accepted
from ltd.decoding.request import Request
from ltd.decoding.statistics import Statistics
from ltd.drafts.opening import find_head
from ltd.errors import InputError
from ltd.loading import prepare
from ltd.policy_choice import NONE, STATIC, PolicyRequest, choose_policy, read_bundle, setting_of
from ltd.target.model import LoadedModel
from ltd.tree import TreeNodes, root_only


class CustomGenerate:
    """Speculative decoding for `model.generate(..., custom_generate=CustomGenerate(...))`.

    `GenerationConfig`, logits processors, stopping criteria and the sampling settings mean what they mean in
    `transformers`; greedy output is the same, sampled output has the same distribution. Sampling draws its seed from
    torch's global generator.

    Args:
        draft: a folder with an EAGLE-3 head for the model; None is the shipped head (for SmolLM2-135M-Instruct);
            "none" leaves plain decoding only.
        policy: see `ltd.load`.
        streamer: receives every token. Give it here: `transformers` (5.23) passes neither `streamer` nor the
            `tokenizer` that `stop_strings` needs on to custom generation; for the latter pass a `StopStringCriteria`
            yourself.

    Attributes:
        policy: as it was asked for, or as it was read from a bundle; another one counts from the next call on.
        last_statistics: of the last call.
    """

    def __init__(self, draft: str | Path | None = None, *, policy: PolicyRequest = None, streamer: Any = None) -> None:
        self.head_folder = find_head(draft)
        self.policy, self.streamer = policy, streamer
        if isinstance(policy, str | Path) and policy not in (NONE, STATIC):
            self.policy = read_bundle(policy).policy  # now, as there may be none
        self.decoder: Decoder | None = None
        self._chosen_for: tuple[PolicyRequest] | None = None  # what the decoder's policy was asked for by

    @property
    def last_statistics(self) -> Statistics:
        """Statistics of the last call; empty before the first."""
        return Statistics() if self.decoder is None else self.decoder.last_statistics

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """What `model.generate` calls; returns what it returns: (B, n + new) ids, or the output object asked for.

        Raises:
            InputError: a setting that speculative decoding cannot honour, such as beam search.
        """
        config = generation_config if generation_config is not None else model.generation_config
        processors, criteria = list(logits_processor or ()), stopping_criteria or StoppingCriteriaList()
        check_settings(config, processors)
        decoder = self._decoder_for(model)
        padded, prompts = input_ids.tolist(), unpadded(input_ids, model_kwargs.get("attention_mask"))
        accept = acceptor_for(processors, bool(config.do_sample), padded)
        stops = CriteriaStops(
            criteria, padded, [decoder.max_length - len(prompt) for prompt in prompts], input_ids.device
        )
        receiver = streamer if streamer is not None else self.streamer
        request = Request(prompts, accept, stops, decoder.speculation())
        for news in decoder.run(request):
            for token in news.get(0, ()) if receiver is not None else ():
                receiver.put(torch.tensor([token]))
        if receiver is not None:
            receiver.end()
        sequences = torch.cat([input_ids, padded_answers(request.answers, config, input_ids)], dim=1)
        return (
            GenerateDecoderOnlyOutput(sequences=cast(torch.LongTensor, sequences))
            if config.return_dict_in_generate
            else sequences
        )

    def _decoder_for(self, model: PreTrainedModel) -> Decoder:
        if self.decoder is None or self.decoder.target.model is not model:
            loaded = LoadedModel(model, tokenizer=None, source=model.name_or_path or type(model).__name__)
            target, draft = prepare(loaded, self.head_folder, model.dtype, model.device)
            self.decoder, self._chosen_for = Decoder(target, draft), None
        if self._chosen_for is None or self._chosen_for[0] is not self.policy:
            chosen = choose_policy(self.policy, partial(setting_of, self.decoder), model.device)
            self.decoder.policy = None if self.decoder.draft is None else chosen.policy
            self._chosen_for = (self.policy,)
        return self.decoder


def check_settings(config: GenerationConfig, processors: Sequence[Any]) -> None:
    """Raises InputError for what speculative decoding cannot honour."""
    if (config.num_beams or 1) != 1:
        raise InputError(
            f"speculative decoding does not do beam search (num_beams {config.num_beams}); use num_beams=1"
        )
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, False):
            raise InputError(f"{name} is not kept by speculative decoding; leave it off")
    for processor in processors:
        if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):
            raise InputError(
                "guidance_scale runs the model a second time per token, which speculation cannot; leave it off"
            )


def unpadded(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
    """The prompts (B, n) without what the attention mask (B, n) hides on their left."""
    if attention_mask is None:
        listed: list[list[int]] = input_ids.tolist()
        return listed
    mask = attention_mask.bool()
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise InputError("the prompts are padded on the right; a causal model generates after left padding only")
    return [row[keep].tolist() for row, keep in zip(input_ids, mask, strict=True)]


def padded_answers(answers: list[list[int]], config: GenerationConfig, like: torch.Tensor) -> torch.Tensor:
    """int64 (B, longest answer), padded on the right as `transformers` pads."""
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    longest = max(map(len, answers))
    return like.new_tensor([answer + [pad] * (longest - len(answer)) for answer in answers])


@dataclass(frozen=True, slots=True)
class CriteriaStops:
    """`transformers`' stopping criteria, asked after every token of every sequence.

    Attributes:
        criteria: as `generate` prepared them (end of sequence, length, time, stop strings, the user's own).
        padded: the prompts as `generate` saw them; its length criterion counts their padding.
        limits: the most new tokens that the context allows, per prompt.
    """

    criteria: StoppingCriteriaList
    padded: list[list[int]]
    limits: list[int]
    device: torch.device

    def limit(self, row: int) -> int:
        """The most new tokens of this prompt."""
        longest = min((c.max_length for c in self.criteria if isinstance(c, MaxLengthCriteria)), default=None)
        return self.limits[row] if longest is None else min(self.limits[row], longest - len(self.padded[row]))

    def finished(self, row: int, answer: list[int]) -> bool:
        """Whether any criterion is met, or the context is full."""
        ids = torch.tensor([self.padded[row] + answer], device=self.device)
        return len(answer) >= self.limits[row] or bool(self.criteria(ids, None).all())


def acceptor_for(processors: list[Any], do_sample: bool, padded: list[list[int]]) -> Acceptor:
    """The operators' own acceptance where they know all processors, else the one that runs the processors."""
    if not do_sample and not processors:
        return Sampling().acceptor()
    if do_sample:
        known = known_warpers(processors)
        if known is not None:
            return known.acceptor()
    chooser = Sampling(temperature=1.0 if do_sample else 0.0).acceptor()
    return ProcessedAcceptor(LogitsProcessorList(processors), chooser, padded)


def known_warpers(processors: list[Any]) -> Sampling | None:
    """The settings behind temperature, top-k and top-p in this order, each at most once; None for other lists."""
    order = [TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper]
    kinds = [type(processor) for processor in processors]
    if kinds != [kind for kind in order if kind in kinds]:
        return None
    if any(getattr(p, "filter_value", -torch.inf) != -torch.inf for p in processors):
        return None
    if any(getattr(p, "min_tokens_to_keep", 1) != 1 for p in processors):
        return None
    found = dict(zip(kinds, processors, strict=True))
    return Sampling(
        temperature=found[TemperatureLogitsWarper].temperature if TemperatureLogitsWarper in found else 1.0,
        top_k=found[TopKLogitsWarper].top_k if TopKLogitsWarper in found else 0,
        top_p=found[TopPLogitsWarper].top_p if TopPLogitsWarper in found else 1.0,
    )


@dataclass(frozen=True, slots=True)
class ProcessedAcceptor:
    """Runs logits processors along the accepted path, node by node.

    A processor sees each position once and in order, with the ids before it, as in plain decoding; so any processor
    that is a function of ids and scores is honoured. It may see a few positions behind the end of an answer.

    Attributes:
        processors: as `generate` prepared them.
        choose: greedy or sampling, over the processed scores of one node.
        padded: the prompts as `generate` saw them.
    """

    processors: LogitsProcessorList
    choose: Acceptor
    padded: list[list[int]]

    def __call__(self, logits: torch.Tensor, nodes: TreeNodes, rows: list[int], answers: list[list[int]]) -> Accepted:
        device = logits.device
        path = torch.zeros(len(rows), MAX_GAIN, dtype=torch.int32)
        tokens, gained = torch.zeros(len(rows), MAX_GAIN, dtype=torch.int64), torch.zeros(len(rows), dtype=torch.int32)
        for index, row in enumerate(rows):
            walked = self._walk(logits[index], nodes, index, row, self.padded[row] + answers[row])
            gained[index] = len(walked)
            for step, (node, token) in enumerate(walked):
                path[index, step], tokens[index, step] = node, token
        return collect(path.to(device), tokens.to(device), gained.to(device))

    def _walk(
        self, logits: torch.Tensor, nodes: TreeNodes, index: int, row: int, ids: list[int]
    ) -> list[tuple[int, int]]:
        """(node, token after it) along the accepted path of one sequence."""
        words, positions = nodes.tokens[index].tolist(), nodes.positions[index]
        first, following = nodes.first_child[index].tolist(), nodes.next_sibling[index].tolist()
        walked, node = [], 0
        while node >= 0:
            so_far = torch.tensor([ids], device=logits.device)
            scores = self.processors(
                cast(torch.LongTensor, so_far), cast(torch.FloatTensor, logits[node : node + 1].float())
            )
            single = root_only(so_far[:, -1], positions[node : node + 1])
            token = self.choose(scores[None].contiguous(), single, [row], []).token_lists[0][0]
            walked.append((node, token))
            ids = [*ids, token]
            node = first[node]
            while node >= 0 and words[node] != token:
                node = following[node]
        return walked
