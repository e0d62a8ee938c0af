"""Live environments: every step drafts or verifies with a real decoder, and the clock says what it cost.

The paper trains in these. A cycle is the decoder's own, run in parts, so that the policy in training sees what one at
inference would see at the same position. Two things differ from a replay: a cycle's seconds are measured, and reading
the tokens of the last cycle counts in the cycle that reads them. In both, the policies' own thinking costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from ltd.common.arrays import Floats
from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Gain
from ltd.decoding.prefill import prefill
from ltd.decoding.prompts import check_prompts
from ltd.decoding.request import CallOptions
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Stopwatch
from ltd.decoding.stopping import take
from ltd.drafts.base import at_width
from ltd.errors import InputError
from ltd.policies import Policy
from ltd.policies.base import known_sizes
from ltd.policies.learned.observation import Layout, Summary
from ltd.policies.learned.policy import CONTINUE
from ltd.tree import MAX_DEPTH, NOT_ASKED, DraftTree
from ltd_rl.environments.live_partners import RandomDepth, Steered
from ltd_rl.environments.registration import action_space, observation_space
from ltd_rl.environments.rewards import Reward
from ltd_rl.environments.walk import CYCLE, EPISODE
from ltd_rl.traces.observations import Role, check_layout
from ltd_rl.traces.outcomes import checked_ladder

PAPER_SIZES = tuple(range(20, 241, 20))


class LiveEnv(gymnasium.Env[Floats, np.int64]):
    """One environment; an episode is an answer. `ltd/DepthLive-v0` and `ltd/SizeLive-v0`.

    Spaces, the end and its info are those of `ltd_rl.environments.replay_env.ReplayEnv`. `reset(seed=…)` makes the
    order of the prompts, random depths and everything but the measured times reproducible.

    Args:
        decoder: with a draft.
        role: which of the two policies decides.
        prompts: token ids; all are answered, greedily, before any again.
        layout: of the observation.
        reward: of a cycle at its end.
        partner: decides the other thing; "random" is a depth drawn uniformly from 1 … `depth` for every cycle.
        depth: the deepest tree, 1 … 12, where a cycle's drafting ends by itself.
        sizes: the ladder that a size policy's actions stand for.
        max_new_tokens: of an answer.
        width: the trees' beam width; None is the draft's own.

    Raises:
        InputError: a decoder without a draft, a prompt that cannot be answered, a layout or a partner that does not
            fit, or a number out of range.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        decoder: Decoder,
        role: Role,
        prompts: Sequence[list[int]],
        layout: Layout | Summary,
        reward: Reward,
        partner: Policy | Literal["random"],
        depth: int = MAX_DEPTH,
        sizes: Sequence[int] = PAPER_SIZES,
        max_new_tokens: int = 128,
        width: int | None = None,
    ) -> None:
        if decoder.draft is None:
            raise InputError("a live environment needs a decoder with a draft; load one")
        draft = at_width(decoder.draft, width)
        check_prompts(list(prompts), decoder.target.vocab_size, decoder.max_length)
        self.decoder, self.role, self.prompts = decoder, role, list(prompts)
        self.layout, self.reward, self.depth = layout, reward, depth
        self.sizes, self.max_new_tokens = checked_ladder(sizes), max_new_tokens
        self.speculation = Speculation(draft, self._steered(partner))
        deepest = depth - 1 if role == "depth" else depth
        check_layout(layout, role, draft.width, deepest, draft.state_size)
        self.observation_space = observation_space(layout)
        self.action_space = action_space(role, len(self.sizes))
        self.queue: list[int] = []
        self.session = ExitStack()

    def _steered(self, partner: Policy | Literal["random"]) -> Steered:
        """The partner within this environment's limits."""
        if not 1 <= self.depth <= MAX_DEPTH:
            raise InputError(f"depth {self.depth} is out of range; it must be 1 … {MAX_DEPTH}")
        if isinstance(partner, str):
            if self.role == "depth" or partner != "random":
                raise InputError(f"the {self.role} policy cannot have the partner {partner!r}; give a policy")
            partner = RandomDepth(self, self.depth)
        if self.role == "size":
            return Steered(partner, self.depth, int(self.sizes[-1]), tuple(self.sizes.tolist()))
        return Steered(partner, self.depth, partner.max_size, known_sizes(partner))

    @torch.inference_mode()
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Begins the next answer, with a seed the first of a new order.

        Raises:
            InputError: every answer ends with its first token, which the prefill gives.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.queue.clear()
            self.reward.restart()
        for _ in range(2 * len(self.prompts)):  # every prompt is among them
            if not self.queue:
                self.queue = self.np_random.permutation(len(self.prompts)).tolist()
            if self._begin_answer(self.prompts[self.queue.pop()]):
                return self._observe(), {}
        raise InputError("no answer to these prompts has a second token, so there is no cycle; give others")

    def _begin_answer(self, prompt: list[int]) -> bool:
        """Reads a prompt and begins the first cycle; says whether there is one."""
        self.close()
        target = self.decoder.target
        self.request = self.decoder.request([prompt], CallOptions(self.max_new_tokens), self.speculation)
        self.statistics = self.request.statistics
        self.watch = Stopwatch(self.statistics, target.device, waits=True)
        self.episode = dict.fromkeys(EPISODE, 0.0)
        self.session.enter_context(self.request.open(target))
        gain = prefill(target, self.request)
        self.watch.lap("prefill")
        _, goes_on = self._take(gain)
        if goes_on:
            self._begin_cycle(gain)
        return goes_on

    def _take(self, gain: Gain) -> tuple[int, bool]:
        """Adds the gained tokens to the answer: how many fit, and whether it goes on."""
        news, alive = take([0], gain.accepted.token_lists, self.request.answers, self.request.stops)
        self.statistics.add_news(news)
        self.watch.lap("other")
        return len(news[0]), bool(alive)

    def _begin_cycle(self, gain: Gain) -> None:
        """Drafts up to where the policy is asked first."""
        self.before, self.expansions = self._seconds, 0
        self.tree: DraftTree = self.decoder.begin_tree(self.request, gain, self.watch)
        if self.speculation.speculates(self.tree, gain, self.watch):
            self.speculation.deepen(self.tree, NOT_ASKED, self.watch)
        if self.role == "size":
            while self.expansions < self.depth and self.speculation.call.continue_drafting(self.tree, self.expansions):
                self._deepen()

    def _deepen(self) -> None:
        """Drafts one more level."""
        self.watch.skip()  # what decided
        self.speculation.deepen(self.tree, self.expansions, self.watch)
        self.expansions += 1

    @property
    def _seconds(self) -> float:
        """So far in this answer, without the prefill and without deciding."""
        return self.statistics.decode_seconds - self.statistics.seconds["policy"]

    @torch.inference_mode()
    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Observation, reward, whether the answer has ended, False, info."""
        self.episode["l"] += 1
        if self.role == "depth" and action == CONTINUE:
            self._deepen()
            if self.expansions < self.depth:
                return self._observe(), 0.0, False, False, {}
        # Asked for both roles, as at inference: a partner remembers only cycles that it was asked to end.
        size = self.speculation.call.choose_size(self.tree, self.expansions)
        cycle, goes_on = self._end_cycle(int(self.sizes[action]) if self.role == "size" else size)
        if goes_on:
            return self._observe(), cycle["reward"], False, False, {"cycle": cycle}
        self.close()
        nothing = np.zeros(self.layout.width, dtype=np.float32)
        return nothing, cycle["reward"], True, False, {"cycle": cycle, "answer": self.episode}

    def _end_cycle(self, size: int) -> tuple[dict[str, float], bool]:
        """Verifies, and begins the next cycle: what this one came to, by `CYCLE`, and whether there is a next."""
        self.watch.skip()  # what decided
        depth, length = self.expansions, int(self.tree.lengths[0])
        gain = self.decoder.verify(self.request, self.tree, self.expansions, size, self.watch)
        tokens, goes_on = self._take(gain)
        seconds = self._seconds - self.before
        reward = float(self.reward(np.array([tokens]), np.array([seconds], dtype=np.float32))[0])
        for name, value in (("r", reward), ("tokens", tokens), ("seconds", seconds), ("cycles", 1)):
            self.episode[name] += value
        if goes_on:
            self._begin_cycle(gain)
        return dict(zip(CYCLE, map(float, (reward, tokens, seconds, depth, size, length)), strict=True)), goes_on

    def _observe(self) -> Floats:
        """float32 (width,): what the policy sees now."""
        tree, layout = self.tree, self.layout
        scores = tree.scores[:, : tree.candidates]
        if isinstance(layout, Layout):
            shown = tree.newest_scores if self.role == "depth" else scores
            observation = layout.build(shown, tree.lengths, self.expansions)
        else:
            states = scores[:, :0]
            if layout.states:
                assert tree.root_states is not None  # the layout was checked against the draft
                states = tree.root_states[:, 0]
            observation = layout.build(scores, tree.newest_from, tree.lengths, self.expansions, states)
        values: Floats = observation[0].cpu().numpy()
        return values

    def close(self) -> None:
        """Ends the answer; another `reset` may follow."""
        self.session.close()
