"""Labelled samples for the baselines' classifiers: which drafted candidates the target accepted, and what told it.

As in the paper, greedy answers are drafted with EAGLE-3's default tree and every verified candidate is labelled.
Of every cycle all accepted ones are kept and, by a seeded draw, as many rejected ones, but at least one. The same goes,
apart from them, for the candidates whose draft state is known and whose parents were accepted, as SpecDec++ needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ltd import ops
from ltd.common.journal import Journal
from ltd.common.number_ranges import check_least
from ltd.common.shards import SHARDS, read_shard, shard_file, write_shard
from ltd.decoding.decoder import Decoder
from ltd.decoding.gain import Gain
from ltd.decoding.prefill import prefill
from ltd.decoding.request import CallOptions
from ltd.decoding.speculation import Speculation
from ltd.decoding.statistics import Stopwatch
from ltd.decoding.stopping import take
from ltd.drafts.opening import find_head
from ltd.errors import InputError
from ltd.evaluation.encoding import check_turns, encode_turn
from ltd.evaluation.questions import Question, all_turns, load_questions
from ltd.evaluation.run_config import RunConfig, run_settings
from ltd.loading import load as load_decoder
from ltd.policies import Static
from ltd.policies.tree_signals import levels_of
from ltd.tree import NOT_ASKED, DraftTree
from ltd_rl.traces.opening import open_decoder
from ltd_rl.traces.record import LARGEST_STATE

TREE = Static(depth=8, size=60)  # EAGLE-3's default
NOT_IN_SETTINGS = ("threads", "cores")
RUN = "run.jsonl"  # says which run the samples are of
FORMAT = 1
SHARD = {
    "probability": (torch.float32, 1),
    "joint": (torch.float32, 1),
    "entropy": (torch.float32, 1),
    "level": (torch.int32, 1),
    "accepted": (torch.bool, 1),
    "question": (torch.int32, 1),
    "states": (torch.float16, 2),
    "state_accepted": (torch.bool, 1),
    "state_question": (torch.int32, 1),
}
OF_STATES = ("states", "state_accepted", "state_question")
ALIKE = (tuple(name for name in SHARD if name not in OF_STATES), OF_STATES)
CycleSamples = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class SampleConfig(RunConfig):
    """What to record; `out` is a folder.

    Attributes:
        seed: of the rejected candidates that are kept.
        shard_questions: questions per file; what a kill loses at most.
    """

    seed: int = 0
    shard_questions: int = 2

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # not super(): a dataclass with slots is a new class that super() does not know
        check_least(self, shard_questions=1)
        if find_head(self.draft) is None:
            raise InputError("samples are of a draft, so there must be one; name a head, or leave the shipped one")


def record_samples(config: SampleConfig, load: Callable[..., Decoder] = load_decoder) -> None:
    """Records what is missing in the folder: shards of `CycleSamples`, see `cycle_samples`, and the questions' numbers.

    Args:
        config: what to record.
        load: stands in for `ltd.load`.

    Raises:
        InputError: something in the config or the data is wrong, or the folder is another run's, before a model loads;
            or a turn is too long, before any is answered.
    """
    questions = load_questions(config.data_dir, config.tasks, config.limit)
    starts = range(0, len(questions), config.shard_questions)
    settings = {**run_settings(config, questions), "format": FORMAT}
    with Journal(config.out / RUN, {k: v for k, v in settings.items() if k not in NOT_IN_SETTINGS}, SHARDS):
        missing = [n for n in range(len(starts)) if not shard_file(config.out, n).exists()]
        if not missing:
            return
        decoder = open_decoder(config, load)
        check_turns(decoder, all_turns(questions))
        done = len(starts) - len(missing)
        with tqdm(total=len(questions), initial=done * config.shard_questions, unit="question", desc="sampling") as bar:
            for number in missing:
                first = starts[number]
                parts: list[CycleSamples] = []
                for place, question in enumerate(questions[first : first + config.shard_questions], first):
                    parts += question_samples(decoder, question, place, config)
                    bar.update()
                write_shard(joined_samples(parts), shard_file(config.out, number))


def question_samples(decoder: Decoder, question: Question, place: int, config: SampleConfig) -> Iterator[CycleSamples]:
    """The samples of a question, cycle by cycle; the draw depends on the seed and the question's place alone."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + place)
    answers: list[list[int]] = []
    for turn in all_turns([question]):
        prompt = encode_turn(decoder, turn, answers)
        answer: list[int] = []
        for samples in answer_samples(decoder, prompt, config.max_new_tokens, generator, answer):
            for name in ("question", "state_question"):
                like = samples["level" if name == "question" else "state_accepted"]
                samples[name] = torch.full_like(like, place, dtype=torch.int32)
            yield samples
        answers.append(answer)


@torch.inference_mode()
def answer_samples(
    decoder: Decoder, prompt: list[int], max_new_tokens: int, generator: torch.Generator, answer: list[int]
) -> Iterator[CycleSamples]:
    """Answers a prompt greedily, and labels the candidates of every cycle.

    Args:
        decoder: with a draft.
        generator: draws the rejected candidates.
        answer: the new tokens are appended.

    Raises:
        InputError: a decoder without a draft.
    """
    draft, target = decoder.draft, decoder.target
    if draft is None:
        raise InputError("samples are recorded with a draft; load one")
    speculation = Speculation(draft, TREE)
    request = decoder.request([prompt], CallOptions(max_new_tokens), speculation)
    watch = Stopwatch(request.statistics, target.device)
    with request.open(target):
        gain = prefill(target, request)
        while take([0], gain.accepted.token_lists, request.answers, request.stops)[1]:
            tree = decoder.begin_tree(request, gain, watch)
            speculation.speculates(tree, gain, watch)
            speculation.deepen(tree, NOT_ASKED, watch)
            seen = Seen(tree)
            for depth in range(TREE.depth):
                speculation.deepen(tree, depth, watch)
                seen.look(tree)
            gain = decoder.verify(request, tree, TREE.depth, TREE.size, watch)
            yield cycle_samples(tree, seen, *labelled(tree, gain), generator)
    answer += request.answers[0]


class Seen:
    """What a tree shows of its levels while it grows.

    Attributes:
        entropies: float32 (W,) or (1,) per level, of the distributions that the level was drafted from.
        states: float16 (W, H) per level but the first, the draft's states at its parents; (W, 0) if it has none.
    """

    def __init__(self, tree: DraftTree) -> None:
        self.entropies: list[Tensor] = []
        self.states: list[Tensor] = []
        self.look(tree)

    def look(self, tree: DraftTree) -> None:
        """Keeps what the newest level shows; buffers may be reused for the next."""
        assert tree.logits is not None
        self.entropies.append(ops.row_entropy(tree.logits)[0].cpu())
        if tree.levels > 1:
            state = torch.zeros(tree.width, 0) if tree.states is None else tree.states[0].float()
            self.states.append(state.clamp(-LARGEST_STATE, LARGEST_STATE).to(torch.float16).cpu())


def labelled(tree: DraftTree, gain: Gain) -> tuple[Tensor, Tensor]:
    """int64 (n,), the verified candidates; and bool (C,), of all candidates, which of them were accepted."""
    chosen = tree.nodes.candidates[0, 1 : min(TREE.size, tree.candidates) + 1].long().cpu()
    path = gain.accepted.path[0, 1 : gain.accepted.counts[0]].long().cpu() - 1  # without the root
    accepted = torch.zeros(tree.candidates, dtype=torch.bool)
    accepted[chosen[path]] = True
    return chosen, accepted


def cycle_samples(
    tree: DraftTree, seen: Seen, verified: Tensor, accepted: Tensor, generator: torch.Generator
) -> CycleSamples:
    """The samples of one cycle.

    Args:
        tree: of one sequence, full grown. seen: what it showed.
        verified: int64 (n,), candidates. accepted: bool (C,).
        generator: draws the rejected ones.

    Returns:
        of m candidates: "probability" given the parent, "joint" of the path, "entropy" of the distribution it came
        from (float32 each), "level" int32 and "accepted" bool; and of k whose states are known and whose parents are
        accepted: "states" float16 (k, H) and "state_accepted" bool.
    """
    scores, parents = tree.scores[0, : tree.candidates].cpu(), tree.parents[0, : tree.candidates].long().cpu()
    levels = levels_of(tree.counts[: tree.levels + 1], torch.device("cpu")).long()
    kept = verified[balanced(accepted[verified], generator)]
    above = torch.where(parents[kept] < 0, 0.0, scores[parents[kept]])
    level = levels[kept]
    row = (kept - torch.tensor(tree.counts)[level]) // tree.width
    entropies = torch.stack([entropy.expand(tree.width) for entropy in seen.entropies])

    grown = tree.beam_nodes[0, : tree.levels - 1].long().cpu()  # (levels - 1, W), those with states
    fair = torch.isin(grown, verified) & ((parents[grown] < 0) | accepted[parents[grown]])
    nodes, states = grown[fair], torch.stack(seen.states)[fair]
    chosen = balanced(accepted[nodes], generator)
    return {
        "probability": (scores[kept] - above).exp(),
        "joint": scores[kept].exp(),
        "entropy": entropies[level, row],
        "level": level.int(),
        "accepted": accepted[kept],
        "states": states[chosen],
        "state_accepted": accepted[nodes[chosen]],
    }


def balanced(accepted: Tensor, generator: torch.Generator) -> Tensor:
    """int64, ascending: all places that are True in bool (n,), and as many of the others, but at least one of them."""
    true, false = accepted.nonzero()[:, 0], (~accepted).nonzero()[:, 0]
    drawn = false[torch.randperm(len(false), generator=generator)[: max(len(true), 1)]]
    return torch.cat([true, drawn]).sort().values


def joined_samples(parts: Sequence[CycleSamples]) -> CycleSamples:
    """The samples of some cycles as one; of none, none.

    Raises:
        InputError: there is no cycle.
    """
    if not parts:
        raise InputError("these questions have no answer of two tokens, so there is no cycle; give others")
    return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}


def load_samples(files: Sequence[Path]) -> CycleSamples:
    """What shards hold together.

    Raises:
        InputError: there are none, or one is damaged.
    """
    if not files:
        raise InputError("there are no samples; record some with ltd train-baseline, without --samples")
    return joined_samples([read_shard(file, SHARD, ALIKE) for file in files])
