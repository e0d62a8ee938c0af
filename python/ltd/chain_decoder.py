"""Chain speculation with two separate models, the setting of SpecDec++: draft a chain, verify it, accept a part.

        ┌──────────────────── one cycle ────────────────────┐
prompt ─▶ draft.step ─▶ draw ─▶ target.verify ─▶ accept ─▶ commit ─▶ tokens out
              ▲           │                                   │
              └── length ─┘                                   ▼
                 more?                            draft.rewind, next cycle's root
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ltd.acceptance import Sampling
from ltd.chain_acceptance import ChainAcceptor, Drafted, GreedyChain, SampledChain
from ltd.decoder import Decoder, Generation
from ltd.drafts.chain import ChainDraft
from ltd.errors import InputError
from ltd.lengths import Length, LengthCall
from ltd.lengths.base import MAX_LENGTH
from ltd.prompts import Tokens, check_prompts, normalise
from ltd.statistics import Statistics, Stopwatch
from ltd.stopping import StopRule, take
from ltd.target import Target
from ltd.tree import TreeNodes


class ChainDecoder:
    """Generates one prompt at a time with a target, a chain draft and a rule for the length of the chains.

    The output is the target's own: greedily its text, sampled its distribution.

    Args:
        target: on the CPU engine.
        draft: proposes chains.
        length: how long they are, unless a call says otherwise.
        tokenizer: for people; not needed to generate from ids.
        stop_ids: tokens that end an answer, unless a call says otherwise.
        max_length: prompt and answer together; by default the model's context limit.

    Raises:
        InputError: a length or max_length out of range.

    Attributes:
        last_statistics: of the last call; sizes are the drafted tokens K of every cycle, depths K - 1.
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
    ) -> None:
        self.max_length = target.context_limit if max_length is None else max_length
        if not 2 <= self.max_length <= target.context_limit:
            raise InputError(
                f"max_length {max_length} is out of range; this target takes 2 … {target.context_limit} tokens"
            )
        self.target, self.draft, self.length = target, draft, check_length(length)
        self.tokenizer, self.stop_ids = tokenizer, tuple(stop_ids)
        self.last_statistics = Statistics()

    @classmethod
    def beside(cls, decoder: Decoder, folder: str | Path, length: Length) -> ChainDecoder:
        """Shares the target and tokenizer of a loaded decoder, with the chain draft of a folder.

        Raises:
            InputError: no chain draft in the folder, or it does not fit the target.
        """
        draft = ChainDraft.load(folder, decoder.target)
        return cls(
            decoder.target,
            draft,
            length,
            tokenizer=decoder.tokenizer,
            stop_ids=decoder.stop_ids,
            max_length=decoder.max_length,
        )

    def generate(self, input_ids: Tokens, **options: Any) -> Generation:
        """Generates to the end; options as `stream`."""
        token_ids = [token for news in self.stream(input_ids, **options) for token in news]
        return Generation(token_ids, self.last_statistics)

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
        """Yields the new tokens of the prefill and of each cycle.

        Args:
            input_ids: one prompt, (n,) or (1, n) or a list of ids.
            max_new_tokens: at most so many new tokens; the context limit ends an answer too.
            temperature, top_k, top_p, seed: see `ltd.acceptance.Sampling`. One seed gives one text, which depends on
                the lengths of the chains; its distribution does not.
            stop_token_ids: tokens that end an answer; by default the model's.
            length: instead of the decoder's own.

        Raises:
            InputError: more than one prompt, an empty one or one longer than the context, unknown ids, or a number out
                of range; at once.
        """
        prompts, _ = normalise(input_ids)
        if len(prompts) != 1:
            raise InputError(f"chains are drafted for one prompt at a time, not {len(prompts)}; call once for each")
        check_prompts(prompts, self.target.vocab_size, self.max_length)
        stop_ids = self.stop_ids if stop_token_ids is None else stop_token_ids
        stops = StopRule.usual(prompts, stop_ids, max_new_tokens, self.max_length)
        sampling = Sampling(temperature, top_k, top_p, seed)
        acceptor: ChainAcceptor = SampledChain(sampling) if temperature > 0.0 else GreedyChain()
        rule = self.length if length is None else check_length(length)
        return self._cycles(prompts[0], stops, acceptor, rule)

    @torch.inference_mode()
    def _cycles(self, prompt: list[int], stops: StopRule, acceptor: ChainAcceptor, rule: Length) -> Iterator[list[int]]:
        target, draft, call = self.target, self.draft, rule.start()
        self.last_statistics = statistics = Statistics(len(prompt), sequences=1)
        watch, answers = Stopwatch(statistics, target.device), [list[int]()]
        text, capacity = list(prompt), len(prompt) + stops.limit(0) + MAX_LENGTH + 1
        with target.session(1, capacity, tap=False):
            logits = target.prefill(0, torch.tensor(prompt)).logits
            draft.start(capacity)
            draft.read(prompt)
            gained = acceptor.accept(logits, chain_nodes(prompt[-1:], len(prompt) - 1), [], draft.words).token_lists[0]
            watch.lap("prefill")
            while True:
                news, alive = take([0], [gained], answers, stops)
                text += news[0]
                statistics.add_news(news)
                watch.lap("other")
                yield news[0]
                watch.skip()
                if not alive:
                    return
                # The target adds a token of its own to what it accepts, so the last one is never drafted.
                most = min(rule.max_length, stops.limit(0) - len(answers[0]) - 1)
                chain = self._draft(text, most, acceptor, call, rule.reads_states, watch)
                gained = self._verify(text, chain, acceptor, watch)
                call.verified(len(chain), len(gained) - 1)

    def _draft(
        self, text: list[int], most: int, acceptor: ChainAcceptor, call: LengthCall, reads: bool, watch: Stopwatch
    ) -> list[Drafted]:
        """A chain behind the text, of at most so many tokens; `reads` is the rule's `reads_states`."""
        draft, chain = self.draft, list[Drafted]()
        if most == 0:
            return chain
        step = draft.step(text[draft.length :])
        while True:
            index, chance, distribution = acceptor.draw(step.logits)
            token = index if draft.words is None else int(draft.words[index])
            chain.append(Drafted(token, chance, distribution))
            if len(chain) == most:
                watch.lap("draft")
                return chain
            if reads:
                step = draft.step([token])
            watch.lap("draft")
            more = call.more(len(chain), chance, step.state if reads else None)
            watch.lap("policy")
            if not more:
                return chain
            if not reads:
                step = draft.step([token])

    def _verify(self, text: list[int], chain: list[Drafted], acceptor: ChainAcceptor, watch: Stopwatch) -> list[int]:
        """What the target gains with a chain; both models forget what it rejects."""
        target, root = self.target, len(text) - 1
        nodes = chain_nodes([text[-1], *(drafted.token for drafted in chain)], root)
        watch.lap("select")
        verified = target.verify(nodes)
        watch.lap("verify")
        accepted = acceptor.accept(verified.logits, nodes, chain, self.draft.words)
        watch.lap("accept")
        target.commit(accepted.path, accepted.gained, accepted.counts, verified)
        self.draft.rewind(min(self.draft.length, root + accepted.counts[0]))
        watch.lap("commit")
        self.last_statistics.depths.append(max(len(chain) - 1, 0))
        self.last_statistics.sizes.append(len(chain))
        return accepted.token_lists[0]


def check_length(length: Length) -> Length:
    """The rule itself, or InputError if it asks for chains that are too long."""
    if not 1 <= length.max_length <= MAX_LENGTH:
        raise InputError(f"chains of {length.max_length} tokens are out of range; use 1 … {MAX_LENGTH}")
    return length


def chain_nodes(tokens: list[int], position: int) -> TreeNodes:
    """A chain as a tree: the root at `position`, and each token the only child of the one before."""
    count = len(tokens)
    indices = torch.arange(count)
    children = torch.where(indices < count - 1, indices + 1, -1).to(torch.int32)
    return TreeNodes(
        tokens=torch.tensor([tokens]),
        parents=(indices - 1).to(torch.int32)[None],
        positions=(position + indices)[None],
        masks=((2 << indices) - 1)[None, :, None],
        first_child=children[None],
        next_sibling=torch.full((1, count), -1, dtype=torch.int32),
        candidates=(indices - 1).to(torch.int32)[None],
    )
