"""The cycle: draft a tree, verify it in one target forward, keep what the target agrees with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ltd.acceptance import MAX_GAIN, Acceptor, Gain, Sampling
from ltd.drafts import Draft
from ltd.errors import InputError
from ltd.policies import Policy
from ltd.prompts import Messages, Tokens, check_prompts, encode, normalise
from ltd.statistics import Statistics, Stopwatch
from ltd.stopping import StopRule, Stops, take
from ltd.target import Target
from ltd.tree import DraftTree, check_tree_limits, root_only

PolicyChoice = Policy | Literal["none"] | None


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    Attributes:
        token_ids: the new tokens, with the stop token if there was one.
        statistics: of the call that made it (shared by all answers of a batch).
    """

    token_ids: list[int]
    statistics: Statistics


class Decoder:
    """Generates with a target, a draft and a policy. The output is the target's own, whatever the other two do.

    Args:
        target: the model.
        draft: proposes tokens; None leaves plain decoding only.
        policy: how deep to draft and how many candidates to verify, unless a call says otherwise; None is plain
        decoding.
        tokenizer: for `encode` and for people; not needed to generate from ids.
        stop_ids: tokens that end an answer, unless a call says otherwise.
        max_length: prompt and answer together; by default the model's context limit.

    Raises:
        InputError: a policy that does not fit the draft, or a max_length beyond the context limit.
    """

    def __init__(
        self,
        target: Target,
        draft: Draft | None = None,
        policy: Policy | None = None,
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
        self.target, self.draft, self.policy = target, draft, policy
        self.tokenizer, self.stop_ids = tokenizer, tuple(stop_ids)
        self.last_statistics = Statistics()
        self.tree: DraftTree | None = None
        self.resolve(policy)

    def encode(self, text: str | Messages, *, chat: bool | None = None) -> list[int]:
        """Token ids of a text or of chat messages; chat=None uses the chat template if there is one."""
        return encode(self.tokenizer, text, chat)

    def generate(
        self,
        input_ids: Tokens,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_token_ids: Sequence[int] | None = None,
        policy: PolicyChoice = None,
    ) -> Generation | list[Generation]:
        """Generates to the end.

        Args:
            input_ids: one prompt, (n,) or (1, n) or a list of ids; or a batch, (B, n) or a list of lists.
            max_new_tokens: at most so many new tokens; the context limit ends an answer too.
            temperature, top_k, top_p, seed: see `ltd.acceptance.Sampling`.
            stop_token_ids: tokens that end an answer; by default the model's.
            policy: instead of the decoder's own; "none" is plain decoding.

        Returns:
            a Generation; for a batch a list of them.

        Raises:
            InputError: an empty prompt, one longer than the context, unknown ids, or a number out of range.
        """
        prompts, is_batch = normalise(input_ids)
        sampling = Sampling(temperature, top_k, top_p, seed)
        answers, cycles = self._begin(prompts, sampling, max_new_tokens, stop_token_ids, policy)
        for _ in cycles:
            pass
        generations = [Generation(answer, self.last_statistics) for answer in answers]
        return generations if is_batch else generations[0]

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
        policy: PolicyChoice = None,
    ) -> Iterator[list[int]]:
        """`generate` for one prompt, yielding the new tokens of each cycle; `last_statistics` has the numbers."""
        prompts, _ = normalise(input_ids)
        if len(prompts) != 1:
            raise InputError(f"stream takes one prompt, not {len(prompts)}; use generate for a batch")
        sampling = Sampling(temperature, top_k, top_p, seed)
        _, cycles = self._begin(prompts, sampling, max_new_tokens, stop_token_ids, policy)
        return (news[0] for news in cycles)

    def _begin(
        self,
        prompts: list[list[int]],
        sampling: Sampling,
        max_new_tokens: int,
        stop_token_ids: Sequence[int] | None,
        policy: PolicyChoice,
    ) -> tuple[list[list[int]], Iterator[dict[int, list[int]]]]:
        """The answers, still empty, and the cycles that fill them."""
        stop_ids = self.stop_ids if stop_token_ids is None else stop_token_ids
        stops = StopRule.usual(prompts, stop_ids, max_new_tokens, self.max_length)
        answers: list[list[int]] = [[] for _ in prompts]
        return answers, self.cycles(prompts, answers, sampling.acceptor(), stops, self.resolve(policy))

    def cycles(
        self, prompts: list[list[int]], answers: list[list[int]], accept: Acceptor, stops: Stops, policy: Policy | None
    ) -> Iterator[dict[int, list[int]]]:
        """Runs all prompts to their ends, in lockstep.

        Yields, after the prefill and after every cycle, {prompt: its new tokens}; they are then also in `answers`.
        """
        check_prompts(prompts, self.target.vocab_size, self.max_length)
        return self._cycles(prompts, answers, accept, stops, policy)

    @torch.inference_mode()
    def _cycles(
        self, prompts: list[list[int]], answers: list[list[int]], accept: Acceptor, stops: Stops, policy: Policy | None
    ) -> Iterator[dict[int, list[int]]]:
        rows = list(range(len(prompts)))
        self.last_statistics = statistics = Statistics(sum(map(len, prompts)), sequences=len(prompts))
        watch = Stopwatch(statistics, self.target.device)
        capacity = self._capacity(prompts, stops, policy)
        with self.target.session(len(prompts), capacity, tap=policy is not None):
            gain = self._prefill(prompts, answers, accept, capacity, policy)
            watch.lap("prefill")
            while True:
                news, alive = take(rows, gain.accepted.token_lists, answers, stops)
                statistics.add_news(news)
                watch.lap("other")
                yield news
                watch.skip()
                if not alive:
                    return
                if len(alive) < len(rows):
                    rows, gain = [rows[index] for index in alive], self._keep(alive, gain, policy)
                gain = self._cycle(rows, gain, answers, accept, policy, watch)

    def _prefill(
        self, prompts: list[list[int]], answers: list[list[int]], accept: Acceptor, capacity: int, policy: Policy | None
    ) -> Gain:
        """Reads the prompts; gains each one's first token."""
        if policy is not None:
            assert self.draft is not None
            self.draft.start(len(prompts), capacity)
        logits, features = [], []
        for row, prompt in enumerate(prompts):
            token_ids = torch.tensor(prompt, device=self.target.device)
            verified = self.target.prefill(row, token_ids)
            logits.append(verified.logits)
            if policy is not None and verified.features is not None:
                assert self.draft is not None
                # The last feature goes with the first new token, which the first cycle knows.
                self.draft.read_prompt(row, verified.features[:, :-1], token_ids[1:])
                features.append(verified.features[:, -1:])
        last_tokens = torch.tensor([prompt[-1] for prompt in prompts], device=self.target.device)
        positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.target.device)
        accepted = accept(torch.cat(logits), root_only(last_tokens, positions), list(range(len(prompts))), answers)
        return Gain(accepted, torch.cat(features) if features else None)

    def _cycle(
        self,
        rows: list[int],
        gain: Gain,
        answers: list[list[int]],
        accept: Acceptor,
        policy: Policy | None,
        watch: Stopwatch,
    ) -> Gain:
        """One cycle for the sequences of the prompts `rows`, from the last gain to the next."""
        target, tree = self.target, self._tree_for(len(rows), policy)
        tree.begin(gain.roots, target.lengths)
        depth, size = self._draft(tree, gain, policy, watch) if policy is not None else (0, 0)
        nodes = tree.select(size)
        watch.lap("select")
        verified = target.verify(nodes)
        watch.lap("verify")
        accepted = accept(verified.logits, nodes, rows, answers)
        watch.lap("accept")
        features = target.commit(accepted.path, accepted.gained, accepted.counts, verified)
        watch.lap("commit")
        self.last_statistics.depths.append(depth)
        self.last_statistics.sizes.append(nodes.tokens.shape[1] - 1)
        return Gain(accepted, features)

    def _draft(self, tree: DraftTree, gain: Gain, policy: Policy, watch: Stopwatch) -> tuple[int, int]:
        """Grows the tree as deep as the policy wants; that depth, and the size the policy wants verified."""
        assert self.draft is not None
        tree.expand(self.draft.begin(gain.features, gain.following, gain.accepted.counts), self.draft.d2t)
        watch.lap("draft")
        depth = 0
        while depth < policy.max_depth and policy.continue_drafting(tree, depth):
            watch.lap("policy")
            tree.expand(self.draft.expand(tree), self.draft.d2t)
            depth += 1
            watch.lap("draft")
        size = policy.choose_size(tree, depth)
        watch.lap("policy")
        return depth, size

    def _keep(self, alive: list[int], gain: Gain, policy: Policy | None) -> Gain:
        """Lets the finished sequences of the batch go."""
        self.target.keep(alive)
        if policy is not None:
            assert self.draft is not None
            self.draft.keep(alive)
        return gain.keep(alive)

    def _tree_for(self, batch: int, policy: Policy | None) -> DraftTree:
        """The tree's buffers, allocated anew only when its limits change."""
        width = self.draft.width if policy is not None and self.draft is not None else 1
        limits = (batch, width, policy.max_depth, policy.max_size) if policy is not None else (batch, 1, 0, 0)
        if self.tree is None or self.tree.limits != limits:
            self.tree = DraftTree(*limits, self.target.device)
        return self.tree

    def _capacity(self, prompts: list[list[int]], stops: Stops, policy: Policy | None) -> int:
        """Cache rows for the longest sequence, what a last cycle may gain beyond its end, and the largest tree."""
        longest = max(len(prompt) + stops.limit(row) for row, prompt in enumerate(prompts)) + MAX_GAIN
        if policy is None or self.draft is None:
            return longest + 1
        return longest + max(policy.max_size + 1, (policy.max_depth + 1) * self.draft.width)

    def resolve(self, policy: PolicyChoice) -> Policy | None:
        """The policy of a call, else the decoder's; None is plain decoding. Raises InputError if it cannot run."""
        if policy == "none":
            return None
        chosen = self.policy if policy is None else policy
        if chosen is None:
            return None
        if self.draft is None:
            raise InputError("a policy needs a draft to decide about; load one, or use the policy none")
        check_tree_limits(self.draft.width, chosen.max_depth, chosen.max_size)
        return chosen
