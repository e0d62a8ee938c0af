"""Chain speculation with two separate models, the setting of SpecDec++: draft a chain, verify it, accept a part.

        ┌──────────────────── one cycle ────────────────────┐
prompt ─▶ draft.step ─▶ draw ─▶ target.verify ─▶ accept ─▶ commit ─▶ tokens out
              ▲           │                                   │
              └── length ─┘                                   ▼
                 more?                            draft.rewind, next cycle's root
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ltd.chains.draft import ChainDraft, ChainSession
from ltd.chains.length import MAX_LENGTH, Length, LengthCall
from ltd.chains.noise_sampling import NoiseSampling
from ltd.chains.samplers import NOISE, RESIDUAL, check_sampler
from ltd.chains.sampling import Chain, ChainSampler, ChainSampling, chain_nodes
from ltd.common.argument_types import as_whole, as_wholes, check_offers, truth_from
from ltd.common.out_of_memory import room_for
from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder, Generation
from ltd.decoding.open_streams import closed_at_exit
from ltd.decoding.prompts import Messages, Tokens, check_prompts, encode, length_limit, normalise
from ltd.decoding.request import CallOptions
from ltd.decoding.statistics import Statistics, Stopwatch
from ltd.decoding.stopping import StopRule, take
from ltd.errors import InputError
from ltd.target.target import Target, TargetSession, check_target


@dataclass(slots=True)
class ChainRequest:
    """What one call wants, and its answer.

    Attributes:
        prompt: token ids.
        sampling: draws and keeps tokens.
        stops: says when the answer ends.
        length, call: the rule for the chains' length.
        answer: the new tokens so far.
        cycles: finished ones.
        statistics: of this call.
        target, draft: its sequence in either, while it runs.
    """

    prompt: list[int]
    sampling: ChainSampler
    stops: StopRule
    length: Length
    call: LengthCall
    answer: list[int] = field(default_factory=list)
    cycles: int = 0
    statistics: Statistics = field(init=False)
    target: TargetSession = field(init=False, repr=False)
    draft: ChainSession = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.statistics = Statistics(len(self.prompt), sequences=1)

    @property
    def position(self) -> int:
        """Of the last token so far."""
        return len(self.prompt) + len(self.answer) - 1

    @property
    def room(self) -> int:
        """How many drafted tokens the answer can take besides the target's own."""
        return self.stops.limit(0) - len(self.answer) - 1


class ChainDecoder:
    """Generates with a target, a small model that drafts a chain, and a rule for the chain's length.

    The output is the target's own: greedily its text, sampled its distribution. With residuals the text of one seed
    depends on the lengths of the chains, its distribution does not; with noise it is plain decoding's.

    Args:
        target: on the CPU engine.
        draft: made for it; proposes chains.
        length: how many tokens to draft, unless a call says otherwise.
        tokenizer: for `encode` and for people; not needed to generate from ids.
        stop_ids: tokens that end an answer, unless a call says otherwise.
        max_length: prompt and answer together; by default the model's context limit.
        sampler: how a sampled chain is kept: "residual", by p/q acceptance; "noise", by the noise of the place, with
            which the draft draws too.

    Raises:
        InputError: a length or max_length out of range, another sampler, or an argument of the wrong type.

    Attributes:
        last_statistics: of the call whose cycle ran last; sizes are the drafted tokens K of every cycle, depths K - 1.
    """

    def __init__(
        self,
        target: Target,
        draft: ChainDraft,
        length: Length,
        *,
        tokenizer: Any = None,
        stop_ids: Sequence[int] = (),
        max_length: int | None = None,
        sampler: str = RESIDUAL,
    ) -> None:
        check_target(target)
        self.sampler = check_sampler(sampler)
        self.max_length = length_limit(max_length, target.context_limit)
        self.target, self.draft, self.length = target, draft, check_length(length)
        self.tokenizer, self.stop_ids = tokenizer, as_wholes(stop_ids, "stop_ids")
        self.last_statistics = Statistics()

    @classmethod
    def beside(
        cls, decoder: Decoder, draft_folder: str | Path, length: Length, *, sampler: str = RESIDUAL
    ) -> ChainDecoder:
        """Shares the target and the settings of a loaded decoder, with the chain draft of a folder.

        Raises:
            InputError: no chain draft in the folder, or it does not fit the target or its tokenizer; another sampler.
        """
        check_sampler(sampler)  # before a draft is read
        draft = ChainDraft.load(draft_folder, decoder.target, decoder.tokenizer)
        return cls.sharing(decoder, draft, length, sampler)

    @classmethod
    def sharing(cls, decoder: Decoder, draft: ChainDraft, length: Length, sampler: str = RESIDUAL) -> ChainDecoder:
        """Shares the target and the settings of a loaded decoder, with a chain draft for it.

        Raises:
            InputError: the model's generation settings ask for logits processors, which chains do not honour.
        """
        if decoder.rules is not None:
            raise InputError(
                f"the model's generation config asks for {decoder.rules}, which chains do not honour; "
                "take it out of generation_config.json, or draft trees"
            )
        return cls(
            decoder.target,
            draft,
            length,
            tokenizer=decoder.tokenizer,
            stop_ids=decoder.stop_ids,
            max_length=decoder.max_length,
            sampler=sampler,
        )

    def encode(self, text: str | Messages, *, chat: bool | None = None) -> list[int]:
        """Token ids of a text or of chat messages; chat=None uses the chat template if there is one."""
        return encode(self.tokenizer, text, chat)

    def generate(self, input_ids: Tokens, *, length: Length | None = None, **options: Any) -> Generation:
        """Generates to the end; takes what `stream` takes, and raises what it raises."""
        request = self._request(input_ids, CallOptions(**options), length)
        for _ in self._run(request):
            pass
        return Generation(request.answer, request.statistics)

    def stream(
        self,
        input_ids: Tokens,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_token_ids: Sequence[int] | None = None,
        length: Length | None = None,
    ) -> Iterator[list[int]]:
        """Generates, yielding the new tokens of the prefill and of each cycle; `last_statistics` has the numbers.

        Args:
            input_ids: one prompt, (n,) or (1, n) or a list of ids.
            max_new_tokens: at most so many new tokens; the context limit ends an answer too.
            temperature, top_k, top_p, seed: see `ltd.decoding.acceptance.Sampling`; the first three hold
                for the draft as well.
            stop_token_ids: tokens that end an answer; by default the model's.
            length: instead of the decoder's own.

        Raises:
            InputError: more than one prompt, one that cannot be answered, a number out of range, or an argument of
                the wrong type; at once.

        Warns:
            UserWarning: top-k or top-p at temperature 0, where they change nothing; nor does the sampler.
        """
        options = CallOptions(max_new_tokens, temperature, top_k, top_p, seed, stop_token_ids)
        return closed_at_exit(self._run(self._request(input_ids, options, length)))

    def _request(self, input_ids: Tokens, options: CallOptions, length: Length | None) -> ChainRequest:
        """A request from the arguments of `stream`."""
        prompts, _ = normalise(input_ids)
        if len(prompts) != 1:
            raise InputError(f"chain drafting takes one prompt at a time, not {len(prompts)}; call it for each of them")
        check_prompts(prompts, self.target.vocab_size, self.max_length)
        sampling, stops = options.sampling(), options.stops(prompts, self.stop_ids, self.max_length)
        rule = self.length if length is None else check_length(length)
        return ChainRequest(prompts[0], self._chain_sampler(sampling, rule), stops, rule, rule.start())

    def _chain_sampler(self, sampling: Sampling, length: Length) -> ChainSampler:
        """What draws and keeps the tokens of one generation."""
        words = self.draft.words
        if self.sampler == NOISE and sampling.temperature > 0.0:
            return NoiseSampling.start(sampling, words, self.target.vocab_size, length.max_length)
        return ChainSampling(sampling, words, sampling.drawn_seed())

    @torch.inference_mode()
    def _run(self, request: ChainRequest) -> Generator[list[int], None, None]:
        statistics = request.statistics
        watch, turn = Stopwatch(statistics, self.target.device), self.target.turn
        capacity = len(request.prompt) + request.stops.limit(0) + MAX_LENGTH + 1
        with ExitStack() as opened:
            with room_for(1, capacity):
                target, draft = self.target.with_memory(partial(self._sessions, capacity))
            request.target, request.draft = opened.enter_context(target), opened.enter_context(draft)
            with turn:
                watch.skip()
                gained = self._prefill(request)
                watch.lap("prefill")
            while True:
                news, alive = take([0], [gained], [request.answer], request.stops)
                statistics.add_news(news)
                watch.lap("other")
                self.last_statistics = statistics  # of streams that are read in turns, the one that ran last
                yield news[0]
                if not alive:
                    return
                with turn:
                    watch.skip()
                    gained = self._cycle(request, watch)

    def _sessions(self, capacity: int) -> tuple[TargetSession, ChainSession]:
        """A sequence of so many rows in either model."""
        return self.target.session(1, capacity, tap=False), self.draft.start(capacity)

    def _prefill(self, request: ChainRequest) -> list[int]:
        """Both models read the prompt; the target's first token."""
        request.draft.read(request.prompt)
        verified = request.target.prefill(0, torch.tensor(request.prompt))
        nothing = Chain(request.cycles, request.position)
        return [request.sampling.accept(nothing, verified.logits[0])[1]]

    def _cycle(self, request: ChainRequest, watch: Stopwatch) -> list[int]:
        """One cycle: what the answer gains."""
        target, draft = request.target, request.draft
        request.cycles += 1
        chain = self._draft_chain(request, watch)
        nodes = chain_nodes([request.answer[-1], *chain.tokens], request.position)
        watch.lap("select")
        verified = target.verify(nodes)
        watch.lap("verify")
        kept, token = request.sampling.accept(chain, verified.logits[0])
        watch.lap("accept")
        path, counts = torch.arange(kept + 1, dtype=torch.int32)[None], [kept + 1]
        target.commit(path, torch.tensor(counts, dtype=torch.int32))
        target.note(counts)
        draft.rewind(min(draft.length, request.position + 1 + kept))
        watch.lap("commit")
        if len(chain) > 0:
            request.call.verified(len(chain), kept)
        watch.lap("policy")
        request.statistics.depths.append(max(len(chain) - 1, 0))
        request.statistics.sizes.append(len(chain))
        return [*chain.tokens[:kept], token]

    def _draft_chain(self, request: ChainRequest, watch: Stopwatch) -> Chain:
        """Drafts until the rule stops, or the answer cannot take more: one forward for every token."""
        draft, words = request.draft, self.draft.words
        chain, most = Chain(request.cycles, request.position), min(request.room, request.length.max_length)
        if most < 1:
            return chain
        step = draft.step([*request.prompt, *request.answer][draft.length :])
        while True:
            choice, chance = request.sampling.draft(chain, step.logits)
            if choice < 0:  # nothing can be drawn from logits that are not finite
                break
            chain.add(choice, choice if words is None else int(words[choice]), step.logits)
            if len(chain) == most:
                break
            watch.lap("draft")
            goes_on = truth_from(request.length, "more", request.call.more(len(chain), chance, step.state))
            watch.lap("policy")
            if not goes_on:
                return chain
            step = draft.step([chain.tokens[-1]])
        watch.lap("draft")
        return chain


def check_length(length: Length) -> Length:
    """The rule itself, or InputError if it is none, or asks for chains that are too long."""
    check_offers(length, ("max_length", "start"), "length", "a rule such as ltd.chains.Constant(5)")
    if not 1 <= as_whole(length.max_length, "max_length of the rule") <= MAX_LENGTH:
        raise InputError(f"chains of {length.max_length} tokens are out of range; use 1 … {MAX_LENGTH}")
    return length
