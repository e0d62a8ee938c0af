"""The recipes of `recipes.py`: ways to train a policy, each of which leaves its stages in a folder of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from ltd.common.files import write_text
from ltd.common.json_files import Real, read_json
from ltd.policies.learned.bundle import FACTS, Bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.tree import NOT_ASKED, candidate_count
from ltd_rl.traces.observations import Role
from ltd_rl.traces.outcomes import Outcomes
from ltd_rl.trainers.exact import Epoch, ExactConfig, train_exact
from ltd_rl.trainers.iterate import Schedule, iterations, stage_names
from ltd_rl.trainers.partners import constants, nearest_step
from ltd_rl.trainers.ppo_config import PPOConfig
from ltd_rl.trainers.stage import Partner, layout_named

FINISHED = f"bundles/*/{FACTS}"  # the files of finished recipes in the folder of all
SMALL: dict[str, Any] = {"pi_arch": (64, 64), "vf_arch": (64, 64)}  # networks beside our own observation
VALIDATIONS = 50  # in a training, about as many as the paper's settings make
NEVER = 10.0  # times the seconds that a decision costs which shall not be made
CLOCK = "seconds.json"

Fixed = Literal["", "depth", "size"]


@dataclass(frozen=True, eq=False)
class Ground:
    """What all recipes train on.

    Attributes:
        training, validation: of different questions, with the same ladder and depths.
        static: depth and step of the ladder of the best static setting.
        scale, small_scale: PPO's steps as a share of the paper's, with its networks and with small ones.
    """

    training: Outcomes
    validation: Outcomes
    static: tuple[int, int]
    scale: float
    small_scale: float

    @property
    def made_for(self) -> Setting:
        """Nothing but the traces is known."""
        return Setting(self.training.width)

    def ppo(self, role: Role, observation: str) -> PPOConfig:
        """The paper's settings with fewer steps; small networks for a small observation."""
        paper, small = PPOConfig.paper(role), observation != "paper"
        steps = max(1, round(paper.total_timesteps * (self.small_scale if small else self.scale)))
        every = max(paper.n_steps, steps // VALIDATIONS)
        return replace(paper, total_timesteps=steps, eval_freq=every, **(SMALL if small else {}))


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A trained policy, how many steps it took for people, and the folders of the stages that it took."""

    policy: Learned
    steps: str
    stages: Sequence[Path]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A way to train.

    Attributes:
        rows: names of the policies, in the order of the products.
        reward: for the bundles.
        make: the products; takes the ground and the folder of all stages.
    """

    rows: tuple[str, ...]
    reward: str
    make: Callable[[Ground, Path], Iterator[Product]]

    def train(self, ground: Ground, out: Path) -> None:
        """Writes the bundles, unless they are all there."""
        folders = [bundle_folder(out, row) for row in self.rows]
        if all((folder / FACTS).exists() for folder in folders):
            return
        for folder, made in zip(folders, self.make(ground, out / "stages"), strict=True):
            training = {"steps": made.steps, **clocked(made.stages)}
            save_bundle(Bundle(made.policy, self.reward, training), folder)


def bundle_folder(out: Path, row: str) -> Path:
    """Where the policy of a row is kept."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in row.lower())
    return out / "bundles" / "-".join(filter(None, kept.split("-")))


# --- time ---


class StageClock(TypedDict):
    """What the file of a stage says: the seconds that it took so far, and whether it is finished."""

    wall_seconds: Real
    cpu_seconds: Real
    finished: bool


@contextmanager
def on_the_clock(folder: Path) -> Iterator[None]:
    """Adds the seconds of a stage to those in its folder, unless it had been finished; also if it is interrupted."""
    file = folder / CLOCK
    taken: StageClock = {"wall_seconds": 0.0, "cpu_seconds": 0.0, "finished": False}
    if file.exists():
        taken = read_json(file, StageClock, str(file))
    finished, wall, cpu = taken["finished"], time.perf_counter(), time.process_time()
    try:
        yield
        taken["finished"] = True
    finally:
        if not finished:
            taken["wall_seconds"] += time.perf_counter() - wall
            taken["cpu_seconds"] += time.process_time() - cpu
            folder.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(taken) + "\n")


def clocked(folders: Sequence[Path]) -> dict[str, float]:
    """The seconds of several stages together."""
    read = [read_json(folder / CLOCK, StageClock, str(folder / CLOCK)) for folder in folders]
    return {
        "wall_seconds": sum(taken["wall_seconds"] for taken in read),
        "cpu_seconds": sum(taken["cpu_seconds"] for taken in read),
    }


# --- exact ---


def exactly(name: str, observation: str = "summary", reward: str = "renewal", fixed: Fixed = "") -> Recipe:
    """The exact trainer, maybe with one of the decisions as in the best static setting."""

    def make(ground: Ground, stages: Path) -> Iterator[Product]:
        config, folder = ExactConfig(reward=reward), stages / bundle_folder(stages, name).name
        tables = [limited(outcomes, ground.static, fixed) for outcomes in (ground.training, ground.validation)]
        layouts = layout_named(observation, "depth", tables[0]), layout_named(observation, "size", tables[0])
        with on_the_clock(folder), tqdm(total=config.epochs, unit="epoch", desc=name) as progress:

            def told(epoch: Epoch) -> None:
                progress.update()

            policy = train_exact(tables[0], tables[1], layouts, config, ground.made_for, told).policy
        yield Product(without(policy, fixed), f"{config.epochs} epochs", [folder])

    return Recipe((name,), reward, make)


def limited(outcomes: Outcomes, static: tuple[int, int], fixed: Fixed) -> Outcomes:
    """The outcomes in which one of the decisions is the static setting's."""
    depth, step = static
    if fixed == "size":
        kept = slice(step, step + 1)
        gains, seconds = outcomes.gains[:, :, kept], outcomes.seconds[:, :, kept]
        return replace(outcomes, sizes=outcomes.sizes[kept], gains=gains, seconds=seconds)
    if fixed == "depth":
        # Stopping earlier is made so dear that the depth network learns to go on, and it is dropped in the end.
        stages = [*range(depth + 1), NOT_ASKED]
        seconds = outcomes.seconds[:, stages]
        seconds[:, :depth] *= NEVER
        scores = outcomes.scores[:, : candidate_count(outcomes.width, depth)]
        return replace(outcomes, gains=outcomes.gains[:, stages], seconds=seconds, scores=scores)
    return outcomes


def without(policy: Learned, fixed: Fixed) -> Learned:
    """The policy without the network of a decision that was always the same."""
    if fixed == "size":
        return replace(policy, size_network=None)
    return replace(policy, depth_network=None) if fixed == "depth" else policy


# --- PPO ---


class Clocked(Schedule):
    """A schedule whose stages are on the clock."""

    def train(self, role: Role, partner: Partner, folder: Path, start: Path | None = None) -> Network:
        """As `Schedule`."""
        with on_the_clock(folder):
            return super().train(role, partner, folder, start)


def schedule_of(ground: Ground, observation: str, reward: str, count: int = 0) -> Clocked:
    """So many iterations after the first."""
    depth, size = (ground.ppo(role, observation) for role in ("depth", "size"))
    made_for = ground.made_for
    return Clocked(ground.training, ground.validation, made_for, depth, size, observation, reward, count)


def run_folder(stages: Path, observation: str, reward: str) -> Path:
    """Where the stages of an iterative training are."""
    return stages / f"ppo-{observation}-{reward}"


def in_turns(observation: str, reward: str, count: int = 3) -> Recipe:
    """The paper's iterative schedule; a row for every iteration."""

    def make(ground: Ground, stages: Path) -> Iterator[Product]:
        folder, names = run_folder(stages, observation, reward), stage_names(count)
        schedule = schedule_of(ground, observation, reward, count)
        for iteration, policy in enumerate(iterations(schedule, folder)):
            done = names[: iteration + 2]
            yield Product(policy, steps_of(ground, observation, done), [folder / name for name in done])

    rows = tuple(f"PPO, {observation}, {reward}, Iter{iteration}" for iteration in range(count + 1))
    return Recipe(rows, reward, make)


def steps_of(ground: Ground, observation: str, names: Sequence[str]) -> str:
    """What the stages of these names take, for depth and size policies apart."""
    counts = []
    for role in ("depth", "size"):
        each: Role = "depth" if role == "depth" else "size"
        stages = sum(name.endswith(role) for name in names)
        steps = ground.ppo(each, observation).total_timesteps
        counts += [f"{stages} x {steps / 1000:.3g}k {role}"] if stages else []
    return ", ".join(counts)


def alone(name: str, role: Role, reward: str = "ratio", size: int | None = None, times: float = 1) -> Recipe:
    """One policy beside a constant, which is the best static setting's, or the size that is nearest to `size`.

    Args:
        times: as many steps as otherwise.
    """

    def make(ground: Ground, stages: Path) -> Iterator[Product]:
        ground = replace(ground, scale=times * ground.scale)
        outcomes, (depth, step) = ground.training, ground.static
        step = step if size is None else nearest_step(outcomes.sizes, size)
        folder = stages / bundle_folder(stages, name).name
        # The first stage of the iterative training is the same, where its constant is.
        if (role, size, times) == ("depth", None, 1) and step == constants(outcomes)[1]:
            folder = run_folder(stages, "paper", reward) / stage_names(0)[0]
        partner = step if role == "depth" else depth
        network = schedule_of(ground, "paper", reward).train(role, partner, folder)
        steps = steps_of(ground, "paper", [role])
        if role == "depth":
            policy = Learned(ground.made_for, outcomes.depth, (outcomes.sizes[step],), depth_network=network)
        else:
            policy = Learned(ground.made_for, depth, outcomes.sizes, size_network=network)
        yield Product(policy, steps, [folder])

    return Recipe((name,), reward, make)


RECIPES = (
    exactly("exact, summary, renewal"),
    exactly("exact, summary, ratio", reward="ratio"),
    exactly("exact, summary, renewal, -size", fixed="size"),
    exactly("exact, summary, renewal, -depth", fixed="depth"),
    exactly("exact, summary+state, renewal", "summary+state"),
    exactly("exact, paper, renewal", "paper"),
    alone("PPO, paper, ratio, -size", "depth"),
    in_turns("paper", "ratio"),
    alone("PPO, paper, ratio, -depth", "size"),
    alone("PPO, paper, ratio, -depth, 10 x steps", "size", times=10),
    alone("PPO, paper, time, -depth", "size", "time"),
    alone("PPO, paper, length, -depth", "size", "length"),
    alone("PPO, paper, renewal, -depth", "size", "renewal"),
    in_turns("summary", "ratio"),
    in_turns("summary", "renewal"),
    alone("PPO, paper, ratio, -size, nearest to 60", "depth", size=60),
)
