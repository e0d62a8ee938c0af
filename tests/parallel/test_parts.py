"""The parts of tensor parallelism by themselves: what the first process says, and what the others make of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle_draft import OracleDraft
from small_models import small_config
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from ltd.cli.main import main
from ltd.common.launch import is_first, launched_processes
from ltd.decoding.decoder import Decoder
from ltd.errors import InputError
from ltd.loading import check_place, load
from ltd.parallel.follower import Follower
from ltd.parallel.layers import LeadingLayers
from ltd.parallel.leader import Leader
from ltd.parallel.sharding import check_heads, is_sharded
from ltd.policies import Static
from ltd.target.target import Target

Folder = Callable[[str], Path]
CPU = torch.device("cpu")


class Tape:
    """In the place of `Ranks`: keeps what is said until somebody listens."""

    count, is_first, device = 2, True, CPU

    def __init__(self) -> None:
        self.said: list[tuple[bytes, list[Tensor]]] = []

    def say(self, message: Any, tensors: Any = ()) -> None:
        self.said.append((pickle.dumps(message), [tensor.clone() for tensor in tensors]))

    def hear(self) -> tuple[Any, list[Tensor]]:
        content, tensors = self.said.pop(0)
        return pickle.loads(content), tensors

    @property
    def kinds(self) -> list[str]:
        return [pickle.loads(content)[0] for content, _ in self.said]


def whole_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def led(tape: Tape) -> Leader:
    leader: Any = Leader
    made: Leader = leader(tape)
    return made


def following(tape: Tape) -> Follower:
    follower: Any = Follower
    made: Follower = follower(tape)
    return made


def caches_of(target: Target) -> dict[int, Any]:
    """The first process's caches that wait for their next use, by number."""
    free: Any = target.pool._free
    return {cache.number: cache for cache in free}


# A model that is not spread is its own part, so both sides can be compared bit for bit in one process.
def test_others_do_to_their_caches_what_the_first_process_does(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        target = Target(model, (), LeadingLayers(model, leader))
        draft = OracleDraft(whole_model(tiny_target("llama")), noise=0.5)
        decoder = Decoder(target, draft, Static(3, 12), stop_ids=[2], reuse_mib=64)
        prompts = [[5, 6, 7], list(range(20, 50)), [9] * 11]
        decoder.generate(prompts, max_new_tokens=20)
        decoder.generate(prompts[1], max_new_tokens=8, temperature=0.7, seed=1)
        leader.say("result", 1, "test", None)
    assert {"adopt", "follow", "open", "change", "forward", "commit"} <= set(tape.kinds)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    caches = caches_of(target)
    assert caches
    for number, cache in caches.items():
        torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)
        torch.testing.assert_close(follower._caches[number].values, cache.values, rtol=0, atol=0)


def test_rows_are_copied_and_taken_by_number_and_let_go(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        layers = LeadingLayers(model, leader)
        target = Target(model, (), layers)
        with target.session(2, 64) as session:
            session.prefill(0, torch.arange(3, 23))
            rows = session.cache.copy_rows(0, 15)
            session.cache.take_rows(1, rows, 12)
            session.prefill(1, torch.arange(40, 45))
        leader.say("result", 1, "test", None)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    ((number, cache),) = caches_of(target).items()
    torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)
    assert len(follower._rows) == 1
    del rows, session, cache
    target.pool.clear()
    with leader.leading():
        leader.say("result", 2, "test", None)
    follower.once("test", lambda: None)
    assert not follower._rows and not follower._caches


def test_who_goes_back_tells_the_others_with_the_next_step(tiny_target: Folder) -> None:
    tape = Tape()
    leader, model = led(tape), whole_model(tiny_target("llama"))
    with leader.leading():
        target = Target(model, (), LeadingLayers(model, leader))
        with target.session(1, 64) as session:
            session.prefill(0, torch.arange(3, 23))
            session.cache.rewind([10])
            session.prefill(0, torch.arange(50, 55))
        leader.say("result", 1, "test", None)
    follower = following(tape)
    follower.once("test", lambda: None, model=whole_model(tiny_target("llama")))
    ((number, cache),) = caches_of(target).items()
    torch.testing.assert_close(follower._caches[number].keys, cache.keys, rtol=0, atol=0)


def test_an_error_in_the_middle_of_a_forward_is_the_end() -> None:
    tape = Tape()
    leader = led(tape)

    def work() -> None:
        leader.say("forward")
        with leader.in_step():
            raise torch.OutOfMemoryError("2 GiB are too much")

    with pytest.raises(InputError, match="too little memory for a forward: 2 GiB"):
        leader.once("generate", work)
    assert tape.kinds == ["forward"]  # nobody would hear of the error
    with pytest.raises(InputError, match="out of step, as OutOfMemoryError was raised in the middle of a forward"):
        leader.once("generate", lambda: None)


def test_an_error_elsewhere_is_told() -> None:
    tape = Tape()
    leader, follower = led(tape), following(tape)

    def refuse(error: Exception) -> None:
        raise error

    for error, told in (
        (InputError("the prompt is empty"), "the prompt is empty"),
        (KeyError("x"), "the first process ended with KeyError: 'x'"),
    ):
        with pytest.raises(type(error)):
            leader.once("generate", lambda error=error: refuse(error))  # type: ignore[misc]
        with pytest.raises(InputError) as found:
            follower.once("generate", lambda: None)
        assert str(found.value) == told


def test_processes_that_do_different_things_are_told_so() -> None:
    tape = Tape()
    leader, follower = led(tape), following(tape)
    leader.once("generate", lambda: 1)
    with pytest.raises(InputError, match="here it is stream, in the first process generate; all must make the same"):
        follower.once("stream", lambda: None)
    leader.once("generate", lambda: 1)
    leader.once("generate", lambda: 2)
    tape.hear()
    with pytest.raises(InputError, match="all must make the same calls in the same order"):
        follower.once("generate", lambda: None)


def test_a_part_of_something_is_not_told_by_itself() -> None:
    tape = Tape()
    leader = led(tape)
    assert leader.once("load", lambda: leader.once("generate", lambda: 1) + 1, tell=str) == 2
    assert following(tape).once("load", lambda: None) == "2"
    assert tape.said == []


def test_nothing_is_said_to_who_does_not_listen(tiny_target: Folder) -> None:
    leader = led(Tape())
    with pytest.raises(InputError, match="works inside generate and stream of its decoder"):
        LeadingLayers(whole_model(tiny_target("llama")), leader)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "count", "advice"),
    [
        (32, 8, 3, "32 heads with 8 key/value heads, which cannot be divided among 3 processes; use 2, 4, 8"),
        (9, 3, 2, "use 3"),
        (4, 1, 2, "it runs in one process only"),
        (8, 8, 16, "use 2, 4, 8"),
    ],
)
def test_heads_that_cannot_be_divided(heads: int, kv_heads: int, count: int, advice: str) -> None:
    config: PretrainedConfig = small_config("llama")
    config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
    with pytest.raises(InputError, match=advice):
        check_heads(config, count)


@pytest.mark.parametrize(("heads", "kv_heads", "count"), [(32, 8, 8), (32, 8, 2), (9, 3, 3), (4, 4, 1)])
def test_heads_that_can(heads: int, kv_heads: int, count: int) -> None:
    config: PretrainedConfig = small_config("llama")
    config.num_attention_heads, config.num_key_value_heads = heads, kv_heads
    check_heads(config, count)


def test_a_device_that_is_not_the_processes() -> None:
    check_place(CPU, led(Tape()))
    with pytest.raises(InputError, match="the device is cuda:1, but a target is spread over the cpu devices"):
        check_place(torch.device("cuda", 1), led(Tape()))


def test_one_process_is_not_enough(tiny_target: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="start the program with torchrun --nproc-per-node N"):
        load(tiny_target("llama"), "none", tensor_parallel=True)
    with pytest.raises(InputError, match="tensor_parallel is 2, but must be"):
        load(tiny_target("llama"), "none", tensor_parallel=2)  # type: ignore[arg-type]


def test_a_model_of_one_process_is_not_sharded(tiny_target: Folder) -> None:
    assert not is_sharded(whole_model(tiny_target("llama")))


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launched_processes() == 1  # somebody else's
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launched_processes() == 4 and not is_first()


def test_commands_of_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, said in (("0", "error: ltd calibrate runs in one process, but torchrun started several"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["calibrate"]) == 2
        assert capsys.readouterr().err.partition(";")[0].strip() == said
