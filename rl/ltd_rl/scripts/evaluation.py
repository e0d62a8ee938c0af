"""The paper's evaluation: what `evaluate.py` takes, and what it runs.

The official names say which policies are asked: `--use_dyn_depth --depth_model FILE`, else `--depth`, and
`--use_dyn_token --token_model FILE`, else `--total_token`. Both together become a policy bundle, and `ltd eval`
compares plain decoding, the static tree of `--depth` and `--total_token`, and that bundle.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltd.common.files import expand_user
from ltd.common.terminal import terminal
from ltd.errors import InputError
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.questions import TASKS
from ltd.evaluation.report import write_report
from ltd.policies import Learned, Static
from ltd.policies.learned.bundle import Bundle, load_bundle
from ltd.policies.learned.setting import Setting
from ltd_rl.scripts.main import make_app, run_app
from ltd_rl.scripts.options import option
from ltd_rl.scripts.zips import read_zip
from ltd_rl.traces.observations import Role

POLICY = "policy"  # folder of the bundle, among the results
ABOUT = "Measure speedup and acceptance length of plain decoding, of EAGLE-3's static tree and of trained policies."
MODEL = "bundle folder, or zip of an official script or of a training here"


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What the evaluation asks; empty texts are not given."""

    save_path: Path = field(metadata={"help": "Folder for the results; a rerun goes on where the last one was."})
    data_dir: str = option("", "Folder that holds TASK/question.jsonl; well-known tasks are fetched without it.")
    bench_name: str = option(",".join(TASKS), "Tasks, with commas between.")
    base_model_path: str = option("", "Target: folder, GGUF file or hub name; empty is SmolLM2-135M-Instruct.")
    ea_model_path: str = option("", "Folder with an EAGLE-3 head; empty is the shipped head.")
    depth: int = option(8, "Depth of the static tree, 0 to 12; of the policies' too, without --use_dyn_depth.")
    total_token: int = option(60, "Candidates in the static tree; in the policies' too, without --use_dyn_token.")
    use_dyn_depth: bool = option(False, "Let the depth policy decide how deep to draft.")
    depth_model: str = option("", f"The depth policy: {MODEL}.")
    use_dyn_token: bool = option(False, "Let the size policy decide how many candidates to verify.")
    token_model: str = option("", f"The size policy: {MODEL}.")
    temperature: float = option(0.0, "0 is greedy.")
    num_choices: int = option(1, "Answers to each question; there is one.")
    max_new_token: int = option(128, "Most new tokens of an answer.")
    limit: int | None = option(None, "Only the first so many questions of every task.")
    device: str = option("auto", "cpu, cuda or cuda:N; auto is the GPU once make gpu-check has passed on it.")
    dtype: str = option("auto", "auto (the fastest here), float32, bfloat16 or float16.")
    threads: int | None = option(None, "CPU threads; torch's own choice if not given.")


def main(arguments: list[str] | None = None) -> int:
    """Runs the script and returns its exit code: 0, or 2 for wrong input, with one sentence.

    The official scripts write some names with `-` and some with `_`; either does for all.
    """
    words = [spelled(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    return run_app(make_app(EvaluationOptions, run_evaluation, ABOUT, {}), "evaluate.py", words)


def spelled(word: str) -> str:
    """An option's name with `_`; its value, after `=`, and everything else as it is."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def run_evaluation(options: EvaluationOptions) -> None:
    """Compares the methods, and prints and writes what `ltd eval` does.

    Raises:
        InputError: an option that cannot work, or a file that is no such policy.
    """
    if options.num_choices != 1:
        raise InputError(f"num_choices is {options.num_choices}, but every question is answered once here; use 1")
    Static(options.depth, options.total_token)  # raises if they are out of range
    methods = ["none", f"eagle3=static:{options.depth}:{options.total_token}"]
    bundles = {}
    if options.use_dyn_depth or options.use_dyn_token:
        bundles[f"ltd=bundle:{options.save_path / POLICY}"] = Bundle(policies_of(options))
    config = EvalConfig(
        data_dir=Path(options.data_dir) if options.data_dir else None,
        out=options.save_path,
        tasks=tuple(name.strip() for name in options.bench_name.split(",")),
        methods=(*methods, *bundles),
        limit=options.limit,
        max_new_tokens=options.max_new_token,
        temperature=options.temperature,
        target=options.base_model_path or None,
        draft=options.ea_model_path or None,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
    )
    write_report(evaluate(config, bundles=bundles), options.save_path, terminal())


def policies_of(options: EvaluationOptions) -> Learned:
    """The policies that are asked for, together; `depth` or `total_token` takes the place of one that is not.

    Raises:
        InputError: none is named where one is wanted, it cannot be read, or the two do not go together.
    """
    depth = read_policy("depth", options.depth_model) if options.use_dyn_depth else None
    size = read_policy("size", options.token_model) if options.use_dyn_token else None
    if depth is not None and size is not None and options.depth_model == options.token_model:
        return depth  # one bundle, which also knows what cycles cost
    return Learned(
        made_for=made_for([policy.made_for for policy in (depth, size) if policy is not None]),
        depth_limit=options.depth if depth is None else depth.depth_limit,
        sizes=(options.total_token,) if size is None else size.sizes,
        depth_network=None if depth is None else depth.depth_network,
        size_network=None if size is None else size.size_network,
        min_depth=0 if depth is None else depth.min_depth,
    )


def made_for(settings: list[Setting]) -> Setting:
    """What policies were made for, all of them for the same; what one does not know, as a zip, another may.

    Raises:
        InputError: some are for something else than others.
    """
    known: dict[str, Any] = asdict(settings[0])
    for setting in settings[1:]:
        for name, value in asdict(setting).items():
            if None not in (value, known[name]) and value != known[name]:
                raise InputError(
                    f"the two policies were not made for the same {name}: {known[name]} and {value}; use two that were "
                    "trained together"
                )
            known[name] = value if known[name] is None else known[name]
    return Setting(**known)


def read_policy(role: Role, name: str) -> Learned:
    """The policy of a role in a bundle or in a zip, see `read_zip`.

    Raises:
        InputError: no name, neither of the two, or no such policy inside.
    """
    flag, option_name = {"depth": ("use_dyn_depth", "depth_model"), "size": ("use_dyn_token", "token_model")}[role]
    if not name:
        raise InputError(f"--{flag} needs a {role} policy; name its file or folder with --{option_name}")
    path = expand_user(name)
    if path.is_dir():
        policy = load_bundle(path).policy
        if (policy.depth_network if role == "depth" else policy.size_network) is None:
            raise InputError(f"the bundle {path} has no {role} network; name one that has")
        return policy
    return read_zip(role, path)
