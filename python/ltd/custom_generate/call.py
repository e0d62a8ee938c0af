"""`model.generate(..., custom_generate=ltd.CustomGenerate())`: the cycle inside `transformers`' own interface."""

from __future__ import annotations

import math
import threading
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
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from ltd import ops
from ltd.common.argument_types import as_truth, check_offers
from ltd.custom_generate.arguments import arguments_kept_back, check_arguments, unpadded
from ltd.custom_generate.streaming import TokenStream, ended
from ltd.custom_generate.taken import check_takeable, check_whole, guard
from ltd.decoding.acceptance import Acceptor, Draws, Sampling
from ltd.decoding.decoder import Decoder
from ltd.decoding.in_step import InStep, InStepAcceptor, choose_best, chooser, length_of
from ltd.decoding.request import Request
from ltd.decoding.reuse import REUSE_MIB, as_reuse
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Statistics
from ltd.decoding.stopping import StopRule, Stops
from ltd.drafts.opening import NONE as NO_DRAFT
from ltd.drafts.opening import default_draft, find_head, find_text_scores
from ltd.errors import InputError
from ltd.loading import prepare
from ltd.parallel.follower import FollowingProcess
from ltd.parallel.joining import join
from ltd.parallel.sharding import is_sharded
from ltd.policy_choice import (
    NONE,
    STATIC,
    PolicyRequest,
    check_asked,
    choose_policy,
    read_bundle,
    setting_of,
)
from ltd.target.model import LoadedModel


class CustomGenerate:
    """Speculative decoding for `model.generate(..., custom_generate=CustomGenerate(...))`.

    `GenerationConfig`, logits processors, stopping criteria and the sampling settings mean what they mean in
    `transformers`; greedy output is the same, sampled output has the same distribution. Sampling draws its seed from
    torch's global generator. Unless its weights are taken, the model is never changed: other threads may use it
    meanwhile.

    Args:
        draft: a folder with an EAGLE-3 head for the model; "lookup" looks tokens up in the text so far instead; "none"
            leaves plain decoding only, and so does the policy "none". None is the shipped head for
            SmolLM2-135M-Instruct, and "lookup" for others.
        policy: see `ltd.load`.
        streamer: is told the prompt and every token, as by `generate`, if that is given none itself.
        reuse_mib: see `ltd.load`. The model's weights are compared before a text is taken over, and while it has hooks
            nothing is.
        takes_weights: whether an engine takes the weights of the first model over, at its first call, as in
            `ltd.load`: as fast as there, and with no second copy. That model then generates by this object alone, and
            what else would read its weights is refused. If not, the layers of `transformers` run, which are slower.

    Raises:
        InputError: an argument of the wrong type, or no policy of that name.

    Attributes:
        policy: as it was asked for, or as it was read from a bundle; another one counts from the next call on.
        reuse_mib: as it was asked for; another one counts from the next call on.
        last_statistics: of the call whose cycle ran last.

    A model that `transformers` has spread over processes is called in all of them, as ever. The first one decides, with
    its own prompts and settings, and it alone tells a streamer the new tokens and has statistics.
    """

    def __init__(
        self,
        draft: str | Path | None = None,
        *,
        policy: PolicyRequest = None,
        streamer: Any = None,
        reuse_mib: int = REUSE_MIB,
        takes_weights: bool = False,
    ) -> None:
        find_head(draft)  # raises if it is no path
        self.reuse_mib = as_reuse(reuse_mib)
        check_asked(policy)
        if streamer is not None:
            check_offers(streamer, ("put", "end"), "streamer", "a streamer of transformers")
        self.draft, self.takes_weights = draft, as_truth(takes_weights, "takes_weights")
        self.policy, self.streamer = policy, streamer
        if isinstance(policy, str | Path) and policy not in (NONE, STATIC):
            self.policy = read_bundle(policy).policy  # now, as there may be none
        self.decoder: Decoder | None = None
        self._chosen_for: tuple[PolicyRequest] | None = None  # what the decoder's policy was asked for by
        self._preparing = threading.Lock()

    @property
    def last_statistics(self) -> Statistics:
        """Statistics of the call whose cycle ran last; empty before the first."""
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
        """What `model.generate` calls; returns what it returns: (B, n + new) ids, or an output object with them alone.

        Args:
            model, input_ids, logits_processor, stopping_criteria, generation_config: as `generate` prepared them.
            streamer: instead of this object's own; it has the prompt already.
            model_kwargs: what `generate` prepared for the model's forward.

        Raises:
            InputError: something that speculative decoding does not honour, such as beam search, by its name.
        """
        kept_back = arguments_kept_back()
        receiver = kept_back.get("streamer") if streamer is None else streamer
        if receiver is None and self.streamer is not None:
            receiver = self.streamer
            receiver.put(input_ids.cpu())
        config = generation_config if generation_config is not None else model.generation_config
        criteria = stopping_criteria if stopping_criteria is not None else StoppingCriteriaList()
        lists = logits_processor or LogitsProcessorList(), criteria

        def answer() -> list[list[int]]:
            check_arguments(config, kept_back, model_kwargs, input_ids)
            prompts = unpadded(input_ids, model_kwargs.get("attention_mask"))
            return self._answers(model, input_ids, prompts, lists, config, receiver)

        with ended(receiver):
            answers = join().once("generate", answer, model=model) if is_sharded(model) else answer()
        sequences = torch.cat([input_ids, padded_answers(answers, padding(config) or 0, input_ids)], dim=1)
        return (
            GenerateDecoderOnlyOutput(sequences=cast(torch.LongTensor, sequences))
            if config.return_dict_in_generate
            else sequences
        )

    def _answers(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        prompts: list[list[int]],
        lists: tuple[LogitsProcessorList, StoppingCriteriaList],
        config: GenerationConfig,
        receiver: Any,
    ) -> list[list[int]]:
        """The new tokens of every row, told to a streamer as they come; the prompts are those of `input_ids`."""
        processors, criteria = lists
        # Before a head is made, which takes numbers from torch's generator as well.
        draws = draws_of(processors) if config.do_sample else None
        decoder, speculation = self._prepared_for(model)
        accept, stops = acceptance(input_ids, processors, criteria, config)
        request = Request(prompts, accept, stops, speculation, draws=draws)
        stream = None if receiver is None else TokenStream(receiver, request, padding(config) or 0)
        for _ in decoder.run(request):
            if stream is not None:
                stream.advance()
        return request.answers

    def _prepared_for(self, model: PreTrainedModel) -> tuple[Decoder, Speculation | None]:
        """The decoder for a model as it is now, and what drafts in it for one call."""
        with self._preparing:
            decoder, name = self.decoder, self._draft_for(model)
            if decoder is None or not is_for(decoder, model, plain=name == NO_DRAFT):
                if self.takes_weights and decoder is not None:
                    raise InputError(
                        "this CustomGenerate has the weights of another model, or its model was changed since it took "
                        "them; make another for a model as it was loaded"
                    )
                decoder, self._chosen_for = read(model, name, takes_weights=self.takes_weights), None
                self.decoder = decoder
            if self._chosen_for is None or self._chosen_for[0] is not self.policy:
                setting = partial(setting_of, decoder)
                chosen = choose_policy(self.policy, setting, model.device, looks_up=decoder.looks_up)
                decoder.policy = chosen.policy if decoder.looks_up or decoder.draft is not None else None
                self._chosen_for = (self.policy,)
            decoder.reuse_mib = self.reuse_mib
            return decoder, decoder.speculation()

    def _draft_for(self, model: PreTrainedModel) -> str | Path | None:
        """What drafts for a model, named as for `ltd.load`.

        Weights are taken once, and the draft's layers tapped from then on: so it is there with the policy "none" too.
        """
        if self.policy == NONE and not self.takes_weights:
            return NO_DRAFT
        return self.draft or default_draft(model.config)


def read(model: PreTrainedModel, draft: str | Path | None, *, takes_weights: bool = False) -> Decoder:
    """What decodes a model with a draft, named as for `ltd.load`.

    Raises:
        InputError: a model without its weights, or whose weights are to be taken and cannot be, or a draft that does
            not fit it.
    """
    check_whole(model)
    leader = join() if is_sharded(model) else None
    assert not isinstance(leader, FollowingProcess)
    if takes_weights:
        check_takeable(model)
    loaded = LoadedModel(model, tokenizer=None, source=model.name_or_path or type(model).__name__)
    try:
        target, head = prepare(
            loaded, find_head(draft), model.dtype, model.device, takes_weights=takes_weights, leader=leader
        )
    finally:
        if takes_weights:
            guard(model)  # also where the draft does not fit, which is known only then
    return Decoder(target, head, text_scores=find_text_scores(draft))


def is_for(decoder: Decoder, model: PreTrainedModel, *, plain: bool) -> bool:
    """Whether a decoder is for a model as it is now, and has something to propose tokens, unless it decodes plainly."""
    is_current = decoder.target.model is model and decoder.target.is_current
    return is_current and (plain or decoder.text_scores is not None)


def padding(config: GenerationConfig) -> int | None:
    """What `transformers` writes behind finished rows: the padding token, or else the first end token."""
    for token in (config.pad_token_id, config.eos_token_id):
        if token is not None:
            first: int = token[0] if isinstance(token, list) else token
            return int(first)
    return None


def padded_answers(answers: list[list[int]], pad: int, like: torch.Tensor) -> torch.Tensor:
    """int64 (B, longest answer), padded on the right."""
    longest = max(map(len, answers))
    return like.new_tensor([answer + [pad] * (longest - len(answer)) for answer in answers])


def acceptance(
    input_ids: torch.Tensor, processors: LogitsProcessorList, criteria: StoppingCriteriaList, config: GenerationConfig
) -> tuple[Acceptor, Stops]:
    """The operators' own acceptance where they know all that is asked for, else the one that asks what is asked for."""
    do_sample = bool(config.do_sample)
    sampling, rule = known_sampling(processors, do_sample), known_stops(criteria, input_ids, config)
    if sampling is not None and rule is not None:
        return sampling.acceptor(), rule
    choose = chooser(Sampling(temperature=1.0 if do_sample else 0.0), greedy=choose_best)
    rows = range(len(input_ids))
    both = InStepAcceptor([InStep(rows, input_ids, processors, criteria, choose, padding(config))])
    return both, both


def draws_of(processors: LogitsProcessorList) -> Draws:
    """What is random in a call that samples: its seed from torch's generator, its temperature the processors'."""
    temperatures = (each.temperature for each in processors if isinstance(each, TemperatureLogitsWarper))
    # The draft only has to propose alike, so a temperature that no operator takes is brought within its range.
    temperature = min(max(math.prod(temperatures), ops.LEAST_TEMPERATURE), ops.LARGEST_TEMPERATURE)
    return Draws(Sampling().drawn_seed(), temperature)


def known_stops(criteria: StoppingCriteriaList, input_ids: torch.Tensor, config: GenerationConfig) -> StopRule | None:
    """The rule behind end tokens and a length; None for other lists."""
    if not {type(criterion) for criterion in criteria} <= {EosTokenCriteria, MaxLengthCriteria}:
        return None
    ends = [each.eos_token_id.tolist() for each in criteria if isinstance(each, EosTokenCriteria)]
    if ends and len(input_ids) > 1 and padding(config) is None:
        raise InputError("a batch with end tokens needs padding behind finished rows; give a pad_token_id")
    limit = length_of(criteria) - input_ids.shape[1]
    return StopRule(frozenset(token for each in ends for token in each), [limit] * len(input_ids))


def known_sampling(processors: LogitsProcessorList, do_sample: bool) -> Sampling | None:
    """The settings behind a list of processors; None where it asks for more than these can say."""
    if do_sample:
        return known_warpers(processors)
    return None if processors else Sampling()


def known_warpers(processors: LogitsProcessorList) -> Sampling | None:
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
