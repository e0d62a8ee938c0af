"""The cycle: draft a tree, verify it in one target forward, keep what the target agrees with."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from ltd.common.argument_types import as_whole, as_wholes, check_offers, wrong_type
from ltd.decoding.gain import Gain
from ltd.decoding.generation_config import ModelRules
from ltd.decoding.open_streams import closed_at_exit
from ltd.decoding.prefill import prefill
from ltd.decoding.prompts import Messages, Tokens, check_ids, check_prompts, encode, length_limit, normalise
from ltd.decoding.request import CallOptions, Request
from ltd.decoding.reuse import Reuse, as_reuse
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Statistics, Stopwatch
from ltd.decoding.stopping import take
from ltd.drafts import Draft
from ltd.drafts.base import reads_features
from ltd.errors import InputError
from ltd.lookup import SEPARATOR, TextHistory, TextScores
from ltd.policies import Policy
from ltd.policies.base import check_policy
from ltd.target.target import Target, check_target
from ltd.tree import NOT_ASKED, DraftTree, check_tree_limits

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
        draft: proposes tokens; None leaves plain decoding, and policies that look tokens up in the text alone.
        policy: how deep to draft and how many candidates to verify, unless a call says otherwise; None is plain
            decoding.
        text_scores: how likely tokens are that are looked up in the text so far, for policies that know them; None is
            what is known without a fit to this target and draft.
        history: token ids of other texts in which tokens are looked up as well, -1 between two texts.
        tokenizer: for `encode` and for people; not needed to generate from ids.
        stop_ids: tokens that end an answer, unless a call says otherwise.
        max_length: prompt and answer together; by default the model's context limit.
        rules: the logits processors of the model's own generation settings; None is none.
        least_room: every forward that decodes, a plain one too, has room for so many candidates at least. Where that is
            all that any policy verifies, all have one width and run the same kernels, see docs/lossless.md.
        reuse_mib: MiB of memory for what was read of earlier texts, so that a request which begins like one of them
            reads the rest alone, with the same result bit for bit; 0 keeps nothing. May be changed between calls.

    Raises:
        InputError: a draft that reads other hidden states than the target keeps, a policy that does not fit the draft,
            a max_length beyond the context limit, or an argument of the wrong type.

    Attributes:
        last_statistics: of the call whose cycle ran last.
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
        rules: ModelRules | None = None,
        text_scores: TextScores | None = None,
        history: Sequence[int] = (),
        least_room: int = 0,
        reuse_mib: int = 0,
    ) -> None:
        check_target(target)
        self.least_room, self.reuse_mib = as_whole(least_room, "least_room"), as_reuse(reuse_mib)
        check_tree_limits(1, 0, self.least_room)
        if draft is not None:
            wanted = "a Draft; ltd.load makes a decoder from names and folders"
            check_offers(draft, ("width", "feature_layers", "start"), "draft", wanted)
            check_features(draft, target)
        self.max_length = length_limit(max_length, target.context_limit)
        self.target, self.draft, self.policy = target, draft, policy
        self.tokenizer, self.stop_ids, self.rules = tokenizer, as_wholes(stop_ids, "stop_ids"), rules
        if text_scores is not None and not isinstance(text_scores, TextScores):
            raise wrong_type("text_scores", text_scores, "TextScores; ltd.lookup.load_text_scores reads a file of them")
        self.text_scores, self.history = text_scores, history
        self.last_statistics = Statistics()
        self.speculation()  # raises if they do not fit

    @property
    def looks_up(self) -> bool:
        """Whether tokens are looked up in the text alone: there is no draft, but there are scores for them."""
        return self.draft is None and self.text_scores is not None

    @property
    def history(self) -> tuple[int, ...]:
        """Token ids of other texts in which tokens are looked up as well, -1 between two texts.

        It may be changed between calls. It is indexed when it is first looked up in, in about a microsecond for three
        tokens, and calls share that index.

        Raises:
            InputError: what it is set to holds something that is no token of the target.
        """
        return self._history.tokens

    @history.setter
    def history(self, tokens: Sequence[int]) -> None:
        history, last = as_wholes(tokens, "history"), self.target.vocab_size - 1
        unknown = next((token for token in history if not SEPARATOR <= token <= last), None)
        if unknown is not None:
            raise InputError(
                f"history holds the token id {unknown}, which is not in the target's vocabulary (0 … {last}); make it "
                "with the target's own tokenizer"
            )
        self._history = TextHistory(history)

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
            temperature, top_k, top_p, seed: see `ltd.decoding.acceptance.Sampling`.
            stop_token_ids: tokens that end an answer; by default the model's.
            policy: instead of the decoder's own: a policy, "none", which is plain decoding, or None, which is the
                decoder's. The names and folders that `ltd.load` takes are not for a call.

        Returns:
            a Generation; for a batch a list of them.

        Raises:
            InputError: an empty prompt, one longer than the context, unknown ids, a number out of range, or an argument
                of the wrong type.

        Warns:
            UserWarning: top-k or top-p at temperature 0, where they change nothing.
        """
        prompts, is_batch = normalise(input_ids)
        options = CallOptions(max_new_tokens, temperature, top_k, top_p, seed, stop_token_ids)
        request = self.request(prompts, options, self.speculation(policy))
        for _ in self.run(request):
            pass
        generations = [Generation(answer, request.statistics) for answer in request.answers]
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
        """`generate` for one prompt, yielding the new tokens of each cycle.

        `last_statistics` has the numbers; where streams are read in turns, those of the stream that was read last.
        """
        prompts, _ = normalise(input_ids)
        if len(prompts) != 1:
            raise InputError(f"stream takes one prompt, not {len(prompts)}; use generate for a batch")
        options = CallOptions(max_new_tokens, temperature, top_k, top_p, seed, stop_token_ids)
        request = self.request(prompts, options, self.speculation(policy))
        return (news[0] for news in self.run(request))

    def request(self, prompts: list[list[int]], options: CallOptions, speculation: Speculation | None) -> Request:
        """A request that ends at stop tokens and lengths.

        Raises:
            InputError: a prompt that cannot be answered, an option out of range, or no new token wanted.
        """
        sampling = options.sampling()
        check_prompts(prompts, self.target.vocab_size, self.max_length)
        stops = options.stops(prompts, self.stop_ids, self.max_length)
        if self.rules is None:
            return Request(prompts, sampling.acceptor(), stops, speculation, self.least_room, sampling.draws())
        ruled = self.rules.acceptor(prompts, sampling, stops)
        return Request(prompts, ruled, ruled, speculation, self.least_room, sampling.draws())

    def speculation(self, policy: PolicyChoice = None) -> Speculation | None:
        """The draft with a call's policy, or else the decoder's; None is plain decoding.

        Raises:
            InputError: it is no policy, there is no draft for it to decide about, or it does not fit the draft.
        """
        chosen = self.policy if policy is None else policy
        if chosen is None or chosen == "none":
            return None
        check_policy(chosen, 'None, "none" or a policy such as ltd.Static(3, 24); names and folders are for ltd.load')
        return Speculation(self.draft, chosen, self.text_scores, self._history)

    def run(self, request: Request) -> Iterator[dict[int, list[int]]]:
        """Runs all prompts to their ends, in lockstep.

        Yields, after the prefill and after every cycle, {prompt: its new tokens}; they are then also in the answers.

        Raises:
            InputError: an empty prompt, an unknown id, or a request that has been run; at once.
        """
        check_ids(request.prompts, self.target.vocab_size)
        if request.was_run:
            raise InputError("this request has been run, and a second answer would be added to its first; make another")
        request.was_run = True
        return closed_at_exit(self._run(request))

    @torch.inference_mode()
    def _run(self, request: Request) -> Generator[dict[int, list[int]], None, None]:
        rows = list(range(len(request.prompts)))
        statistics = request.statistics
        watch, turn = Stopwatch(statistics, self.target.device), self.target.turn
        reuse = Reuse(self.target, request, self.reuse_mib << 20)
        with request.open(self.target):
            with turn:
                watch.skip()
                gain = prefill(self.target, request, reuse)
                watch.lap("prefill")
            while True:
                # Behind the sequences that go on there may be copies of them, which nobody asked for.
                lists = gain.accepted.token_lists[: len(rows)]
                news, alive = take(rows, lists, request.answers, request.stops)
                statistics.add_news(news)
                reuse.leave([place for place in range(len(rows)) if place not in alive], rows)
                watch.lap("other")
                if request.tree.text is not None:
                    statistics.add_sources(gain.accepted.count_sources(request.tree, list(news.values())))
                    watch.lap("lookup")
                self.last_statistics = statistics  # of streams that are read in turns, the one that ran last
                if not alive:
                    watch.settle()
                try:
                    yield news
                except GeneratorExit:  # nobody wants to know more, but a later request may begin like this one
                    reuse.leave(alive, rows)
                    raise
                if not alive:
                    return
                with turn:
                    watch.skip()
                    if len(alive) < len(rows):
                        rows, gain = [rows[index] for index in alive], request.keep(alive, gain)
                    gain = self.cycle(request, gain, watch)

    def cycle(self, request: Request, gain: Gain, watch: Stopwatch) -> Gain:
        """One cycle for the sequences of a request, from the last gain to the next."""
        speculation, tree = request.speculation, self.begin_tree(request, gain, watch)
        depth, size = speculation.grow(tree, gain, watch) if speculation is not None else (NOT_ASKED, 0)
        return self.verify(request, tree, depth, size, watch)

    def begin_tree(self, request: Request, gain: Gain, watch: Stopwatch) -> DraftTree:
        """A cycle's first part: a tree that begins at the roots of the last gain, and what the text proposes there."""
        roots = gain.accepted.roots
        text = None if request.speculation is None else request.speculation.look_up(gain)
        watch.lap("lookup" if text is not None else "other")
        request.tree.begin(roots, request.session.lengths, text)
        watch.lap("other")
        return request.tree

    def verify(self, request: Request, tree: DraftTree, depth: int, size: int, watch: Stopwatch) -> Gain:
        """A cycle's last part: verifies the `size` best candidates of a tree that was expanded `depth` times."""
        session, report, space = request.session, request.report, request.workspace
        run = space.captures.run
        if request.speculation is not None:
            request.speculation.hold()
        taken, room = tree.verified_size(size), request.room(tree, size)
        nodes = tree.select(size, room)
        watch.lap("select")
        verified = run(space.verify_part(room), partial(session.verify, nodes))
        watch.lap("verify")
        run(space.walk_part(room), partial(request.walk, nodes, verified))
        report.send()
        watch.lap("accept")
        run(("commit", room), request.commit)
        watch.lap("commit")
        accepted = report.read()
        session.note(accepted.counts)
        request.statistics.depths.append(depth)
        request.statistics.sizes.append(taken)
        watch.lap("accept")
        return Gain(accepted, session.features)


def check_features(draft: Draft, target: Target) -> None:
    """Raises InputError if a draft reads hidden states, and a target keeps others or none."""
    read, kept = tuple(draft.feature_layers), tuple(target.feature_layers)
    if reads_features(draft) and read != kept:
        raise InputError(
            f"the draft reads the hidden states {', '.join(map(str, read))} of the target, which keeps "
            f"{', '.join(map(str, kept)) or 'none'}; make the target with feature_layers={read}, as ltd.load does"
        )
