"""The commands of the official repository, word for word but for paths and numbers, from traces and live."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ltd.errors import InputError
from ltd.policies.learned.bundle import load_bundle
from ltd.policies.learned.observation import depth_layout, size_layout
from ltd.policies.learned.sb3_import import import_policies, read_network

pytest.importorskip("stable_baselines3")
pytest.importorskip("tensorboard")

from official_zips import official_zip
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ltd_rl.scripts.evaluation import EvaluationOptions, policies_of
from ltd_rl.scripts.main import main
from ltd_rl.scripts.options import DepthOptions, SizeOptions
from ltd_rl.scripts.zips import read_zip

ROOT = Path(__file__).parents[2]
# As in the official train_depth.sh and train_size.sh, with their shell variables in braces.
COMMAND = """
python3 -m rl.{script} \
    --base_model_path {base_model_path} \
    --ea_model_path {ea_model_path} \
    --rl_token_model_path "{rl_token_model_path}" \
    --rl_checkpoint_path "{rl_checkpoint_path}" \
    --data_dir {data_dir} \
    --dataset_train {dataset_train} \
    --save_path {save_path} \
    --total_timesteps {total_timesteps} \
    --batch_size {batch_size} \
    --n_steps {n_steps} \
    --lr {lr} \
    --pi_arch 16 8 \
    --vf_arch 16 8
"""
USUAL = {"rl_token_model_path": "", "rl_checkpoint_path": "", "dataset_train": "humaneval", "total_timesteps": "96",
         "batch_size": "12", "n_steps": "36", "lr": "3e-4"}  # fmt: skip
OURS = "--dtype float32 --max_new_tokens 12 --eval_freq 36"


@dataclass(frozen=True)
class World:
    """What the commands are about."""

    models: dict[str, str]
    folder: Path
    depth_zip: Path
    size_zip: Path

    def run(self, script: str, name: str, more: str = "", **changes: str) -> Path:
        """Runs a script by its official command, and returns its folder; the first one's traces serve all."""
        out, first = self.folder / name, self.folder / "first"
        words = {"script": script, **USUAL, **self.models, "save_path": str(out), **changes}
        made = "--calibration_seconds 0.01"
        if first.exists():
            made = f"--traces {first}/traces --latency {first}/latency.json"
        argv = shlex.split(" ".join([COMMAND.format(**words), OURS, made, more]))
        assert argv[:2] == ["python3", "-m"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", argv[2:])
            patch.syspath_prepend(ROOT)
            with pytest.raises(SystemExit) as ended:
                runpy.run_module(argv[2], run_name="__main__")
        assert ended.value.code == 0
        return out


@pytest.fixture(scope="module")
def world(
    tiny_target: Callable[[str], Path], tiny_head: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder = tmp_path_factory.mktemp("official")
    (folder / "data" / "humaneval").mkdir(parents=True)
    lines = [json.dumps({"question_id": n, "turns": [f"Say {n}"]}) for n in range(5)]
    (folder / "data" / "humaneval" / "question.jsonl").write_text("\n".join(lines) + "\n")
    models = {"base_model_path": str(tiny_target("llama")), "ea_model_path": str(tiny_head("llama")),
              "data_dir": str(folder / "data")}  # fmt: skip
    depth = official_zip(folder / "ppo_depth.zip", 128, 2)
    made = World(models, folder, depth, official_zip(folder / "ppo_size.zip", 1268, 24))
    made.run("rl_depth", "first")
    return made


def logged(folder: Path) -> dict[str, list[float]]:
    """Everything in TensorBoard's files of a run."""
    events = EventAccumulator(str(folder / "ppo" / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_depth_policy_by_the_official_command(world: World) -> None:
    found = load_bundle(world.folder / "first" / "bundle")
    assert found.policy.depth_network is not None and found.policy.sizes == (60,)
    assert found.policy.depth_network.layout.width == 128 and found.training["lr"] == 3e-4
    assert (found.training["n_steps"], found.training["count"], found.training["pi_arch"]) == (36, 4, [16, 8])


@pytest.mark.parametrize("live", ["", "--live"])
def test_the_size_policy_by_the_official_command(world: World, live: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = world.run("rl_total", f"size{live}", live)
    found = load_bundle(out / "bundle").policy
    assert found.size_network is not None and found.size_network.layout.width == 1268
    assert found.sizes == tuple(range(20, 241, 20)) and found.depth_network is None
    assert "begins with" not in capsys.readouterr().err


@pytest.mark.parametrize("live", ["", "--live"])
def test_official_zips_as_partners(world: World, live: str) -> None:
    out = world.run("rl_depth", f"depth-beside{live}", live, rl_token_model_path=str(world.size_zip))
    beside = load_bundle(out / "bundle").policy
    official = import_policies(None, world.size_zip).policy
    assert beside.sizes == official.sizes == tuple(range(10, 241, 10)) and beside.depth_network is not None
    assert beside.size_network is not None and beside.size_network.activation == "tanh"
    assert beside.size_network.layout == size_layout(10, 12)
    more = f"{live} --use_dyn_depth --depth_model {world.depth_zip} --target_kl 0.02"
    found = load_bundle(world.run("rl_total", f"size-beside{live}", more) / "bundle")
    assert found.training["target_kl"] == 0.02 and found.policy.min_depth == 1 and found.policy.depth_limit == 12
    assert found.policy.size_network is not None and found.policy.depth_network is not None
    expected = read_network(world.depth_zip, depth_layout(10)).weights
    assert all(torch.equal(a, b) for a, b in zip(found.policy.depth_network.weights, expected, strict=True))


def test_official_zips_to_go_on_from(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for script, file, name in (("rl_depth", world.depth_zip, "depth-on"), ("rl_total", world.size_zip, "size-on")):
        found = load_bundle(world.run(script, name, rl_checkpoint_path=str(file)) / "bundle")
        assert (
            f"the run begins with the networks and the optimiser of {file}, after 32 steps" in capsys.readouterr().err
        )
        assert found.training["activation"] == "tanh"
    assert found.policy.sizes == tuple(range(10, 241, 10))


@pytest.mark.parametrize(("script", "live"), [("rl_depth", ""), ("rl_total", ""), ("rl_depth", "--live")])
def test_tensorboard_shows_every_rollout(world: World, script: str, live: str) -> None:
    """With the reward `length` a cycle's reward is its tokens, which also says whether the parts are of one cycle."""
    out = world.run(script, f"logged-{script}{live}", f"{live} --reward length")
    shown = logged(out)
    cycles = {name: shown[f"cycle/{name}"] for name in ("reward", "tokens", "seconds", "depth", "size", "length")}
    assert {len(values) for values in cycles.values()} == {3} == {len(shown["rollout/reward_per_step"])}
    assert cycles["reward"] == cycles["tokens"] and min(cycles["tokens"]) >= 1 and min(cycles["seconds"]) > 0
    assert 0 <= min(cycles["depth"]) <= max(cycles["depth"]) <= 12 and min(cycles["length"]) > 1
    if script == "rl_total":  # every step is a cycle
        assert shown["rollout/reward_per_step"] == pytest.approx(cycles["reward"])
        assert min(cycles["size"]) > 20 and max(cycles["size"]) < 240
    else:
        assert cycles["size"] == [60.0] * 3 and max(cycles["depth"]) > 0
        assert all(step < cycle for step, cycle in zip(shown["rollout/reward_per_step"], cycles["reward"], strict=True))
    assert len(shown["validation/throughput"]) == 3


def test_a_checkpoint_for_every_eval_freq(world: World) -> None:
    run = world.folder / "first" / "ppo"
    files = sorted(run.glob("step_*.zip"), key=lambda file: int(file.stem[5:]))
    assert [file.name for file in files] == ["step_36.zip", "step_72.zip", "step_108.zip"]
    models = [PPO.load(file, device="cpu") for file in files]
    assert [model.num_timesteps for model in models] == [36, 72, 108]
    last = torch.load(run / "checkpoint.pt", weights_only=True)["policy"]
    for name, tensor in models[-1].policy.state_dict().items():
        assert torch.equal(tensor, last[name])
    assert not torch.equal(models[0].policy.action_net.weight, models[-1].policy.action_net.weight)
    out = world.run("rl_depth", "resumed", rl_checkpoint_path=str(files[-1]))
    assert load_bundle(out / "bundle").training["activation"] == "relu"


def test_a_zip_of_a_training_here_says_what_it_is(world: World, tmp_path: Path) -> None:
    size = world.run("rl_total", "ladder", "--sizes 5,50,100 --observation summary")
    for run, role in ((world.folder / "first", "depth"), (size, "size")):
        elsewhere = tmp_path / f"{role}.zip"  # where no file beside it helps
        elsewhere.write_bytes((run / "ppo" / "best.zip").read_bytes())
        bundle, found = load_bundle(run / "bundle").policy, read_zip(role, elsewhere)  # type: ignore[arg-type]
        networks = [getattr(policy, f"{role}_network") for policy in (bundle, found)]
        assert networks[0].layout == networks[1].layout
        assert all(torch.equal(a, b) for a, b in zip(*(network.weights for network in networks), strict=True))
        with pytest.raises(InputError, match="is of a training here, not of an official script"):
            import_policies(elsewhere, None)
    assert found.sizes == (5, 50, 100)
    with pytest.raises(InputError, match=r"is of a size policy; name one of a depth policy"):
        read_zip("depth", tmp_path / "size.zip")
    models = {"depth_model": str(tmp_path / "depth.zip"), "token_model": str(tmp_path / "size.zip")}
    both = policies_of(EvaluationOptions(Path(), Path(), use_dyn_depth=True, use_dyn_token=True, **models))
    assert (both.sizes, both.depth_limit, both.min_depth) == ((5, 50, 100), 12, 0)


@pytest.mark.parametrize(
    ("options", "arguments", "complaint"),
    [
        (SizeOptions, ["--use_dyn_depth"], "--use_dyn_depth needs a depth policy; name its file or folder with"),
        (SizeOptions, ["--rl_token_model_path", "a.zip"], "the size policy is what is trained here"),
        (SizeOptions, ["--use_dyn_depth", "--depth_model", "a", "--rl_depth_model_path", "b"], "name the same thing"),
        (SizeOptions, ["--use_dyn_depth", "--depth_model", "nowhere"], "policy bundle nowhere"),
        (DepthOptions, ["--target_kl", "-1"], "target_kl is -1"),
        (DepthOptions, ["--activation", "elu"], "activation is 'elu'"),
        (DepthOptions, ["--rl_token_model_path", "{depth}"], "does not read 1268 numbers"),
        (SizeOptions, ["--rl_checkpoint_path", "{depth}"], "does not read 1268 numbers"),
        (DepthOptions, ["--rl_checkpoint_path", "{depth}", "--activation", "relu"], "have tanh between their layers"),
        (DepthOptions, ["--rl_checkpoint_path", "{depth}", "--pi_arch", "9"], "not those that are to be trained"),
    ],
)
def test_one_sentence_about_a_mistake(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Any, arguments: list[str], complaint: str
) -> None:
    role: Any = "depth" if options is DepthOptions else "size"
    first, out = world.folder / "first", ["--save_path", str(tmp_path)]
    common = ["--traces", str(first / "traces"), "--latency", str(first / "latency.json"), "--pi_arch", "16", "8"]
    words = [word.format(depth=world.depth_zip) for word in arguments]
    assert main(role, options, [*out, *common, "--vf_arch", "16", "8", *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
