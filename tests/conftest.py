"""What all tests share: tiny models of every family, with a tokenizer and a head; instruction sets; threads."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from call_runner import ARM, arm_runner, engine_on, has_arm
from emulated_tiles import EMULATED_TILES, add_emulated_tiles
from hypothesis import settings
from op_cases import ISA_IN_USE, ISAS
from recordings import DEPTH, NEW_TOKENS, QUESTIONS, Recorded, load_bigrams
from small_models import FAMILIES, VOCABULARY, small_config, small_tokenizer
from transformers import (
    AutoModelForCausalLM,
)

from ltd import _C
from ltd.evaluation.questions import load_questions
from ltd_rl.traces.format import load_traces
from ltd_rl.traces.record import RecordConfig, record
from ltd_rl.traces.samplings import GREEDY, samplings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Before any test runs, so that none sees or changes what the user's own cache holds, such as tuned policies.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ltd-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Workers share the cores: each has its part where a test asks for no number of threads, and none spins."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // len(specs))))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# How long an example takes says nothing on a machine that others use too.
settings.register_profile("ltd", deadline=None)
settings.load_profile("ltd")


# What takes minutes begins first, so that at the end no process waits for another one's last test.
SLOWEST = ("test_sdist.py", "test_cuda_kernels.py", "test_cuda_barriers.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Changes the order alone."""
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="session")
def tiny_target(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_target(family) → the folder of a random float32 model of that family, with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in made:
            torch.manual_seed(FAMILIES.index(family))
            made[family] = tmp_path_factory.mktemp(family)
            AutoModelForCausalLM.from_config(small_config(family)).save_pretrained(made[family])
            small_tokenizer().save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_head(tiny_target: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_head(family) → the folder of a random head for tiny_target(family), with a reduced vocabulary of 64."""
    from ltd.drafts.eagle3.files import save_head
    from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head

    made: dict[str, Path] = {}

    def folder(family: str = "llama") -> Path:
        if family not in made:
            torch.manual_seed(100 + FAMILIES.index(family))
            head = Eagle3Head(Eagle3Config.for_target(small_config(family), draft_vocab_size=64))
            chosen = torch.randperm(VOCABULARY)[:64].sort().values
            head.d2t.copy_(chosen - torch.arange(64))
            head.t2d.fill_(False)
            head.t2d[chosen] = True
            made[family] = tmp_path_factory.mktemp(f"{family}-head")
            save_head(head, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with two tasks, one of them with two turns."""
    folder = tmp_path_factory.mktemp("data")
    for task, conversations in QUESTIONS.items():
        (folder / task).mkdir()
        lines = [json.dumps({"question_id": 7 + number, "turns": turns}) for number, turns in enumerate(conversations)]
        (folder / task / "question.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def recorded(
    data: Path,
    tiny_target: Callable[[str], Path],
    tiny_head: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Recorded]:
    """recorded(family) → the traces of a tiny model; recorded(family, at=…) of questions at these temperatures."""
    made: dict[tuple[str, tuple[float, ...]], Recorded] = {}

    def get(family: str = "llama", at: tuple[float, ...] = GREEDY) -> Recorded:
        if (family, at) not in made:
            config = RecordConfig(
                data_dir=data,
                out=tmp_path_factory.mktemp("traces"),
                tasks=tuple(QUESTIONS),
                max_new_tokens=NEW_TOKENS,
                target=str(tiny_target(family)),
                draft=str(tiny_head(family)),
                dtype="float32",
                depth=DEPTH,
                rows=7,
                shard_questions=1,
                temperatures=at,
                seed=5,
            )
            chosen = samplings(load_questions(data, config.tasks), at, config.top_k, config.top_p, config.seed)
            load = partial(load_bigrams, samplings=chosen)
            record(config, load)
            decoder = load(config.target, config.draft, dtype="float32")
            made[family, at] = Recorded(decoder, load_traces(config.out), config)
        return made[family, at]

    return get


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, one after the other."""
    _C.use_cpu_isa(request.param)
    yield request.param
    _C.use_cpu_isa(ISA_IN_USE)


@pytest.fixture(params=[*ISAS, EMULATED_TILES, *[ARM] * has_arm()])
def engine_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this machine, and a processor's tiles, emulated, in all of the engine's operators; where
    there is what it takes, an emulated Arm processor too."""
    if request.param == ARM:
        with engine_on(arm_runner()):
            yield ARM
        return
    if request.param == EMULATED_TILES:
        add_emulated_tiles()
    _C.use_cpu_isa(request.param)
    yield request.param
    _C.use_cpu_isa(ISA_IN_USE)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
