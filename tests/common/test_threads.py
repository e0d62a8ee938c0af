"""How many threads: what affinity, hyper-threads and control groups leave, read from files as Linux has them."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltd.common.threads as threads
from ltd.common.threads import Processors, choose_threads, find_processors
from ltd.errors import InputError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder; this process may be placed on processors 0 ... 7, of which 4 ... 7 are second hardware threads."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for number in range(8):
        write(tmp_path, f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list", f"{number % 4},{number % 4 + 4}")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_hardware_threads_of_a_core_count_once(machine: Path) -> None:
    assert find_processors(machine) == Processors(usable=8, cores=4)
    assert find_processors(machine).threads == 4


@pytest.mark.parametrize(("allowed", "cores"), [({0, 4}, 1), ({0, 1, 6}, 3), ({2}, 1)])
def test_only_what_the_process_may_use_counts(
    machine: Path, allowed: set[int], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert find_processors(machine) == Processors(len(allowed), cores)


def test_old_kernels_name_siblings_otherwise(machine: Path) -> None:
    for folder in machine.glob("sys/devices/system/cpu/cpu*/topology"):
        (folder / "core_cpus_list").rename(folder / "thread_siblings_list")
    assert find_processors(machine).cores == 4


def test_what_no_file_says_is_no_limit(machine: Path, tmp_path: Path) -> None:
    assert find_processors(tmp_path / "nothing") == Processors(usable=8, cores=8)


QUOTAS = {
    "own group": ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "250000 100000"}, 2.5),
    "none": ({"proc/self/cgroup": "0::/app", "sys/fs/cgroup/app/cpu.max": "max 100000"}, None),
    "group above": (
        {
            "proc/self/cgroup": "0::/slice/app",
            "sys/fs/cgroup/slice/cpu.max": "100000 100000",
            "sys/fs/cgroup/slice/app/cpu.max": "300000 100000",
        },
        1.0,
    ),
    "container": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/app\n4:cpu,cpuacct:/app\n1:name=systemd:/app",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000",
        },
        1.5,
    ),
    "version 1, none": (
        {
            "proc/self/cgroup": "4:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "version 1 in a container, named as outside": (
        {
            "proc/self/cgroup": "4:cpuacct,cpu:/docker/0123",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        2.0,
    ),
    "both versions": (
        {
            "proc/self/cgroup": "4:cpu:/\n0::/app",
            "sys/fs/cgroup/unified/app/cpu.max": "100000 100000",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        1.0,
    ),
    "unreadable": ({"proc/self/cgroup": "0::/app\nnonsense", "sys/fs/cgroup/app/cpu.max": "many often"}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_of_control_groups(machine: Path, name: str) -> None:
    files, quota = QUOTAS[name]
    for file, text in files.items():
        write(machine, file, text)
    assert find_processors(machine) == Processors(8, 4, quota)


@pytest.mark.parametrize(("quota", "count"), [(None, 4), (0.5, 1), (1.0, 1), (1.5, 2), (2.5, 3), (16.0, 4)])
def test_a_quota_bounds_the_threads(quota: float | None, count: int) -> None:
    assert Processors(8, 4, quota).threads == count


@pytest.mark.parametrize(
    ("present", "quota", "expected"),
    [
        (8, None, (4, "one for each core")),
        (4, None, (4, "one for each core")),
        (4, 1.5, (2, "what the quota allows")),
        (8, 1.5, (2, "what the quota allows")),
        (3, 1.5, (3, "as torch was told")),  # a number that torch does not take by itself
        (1, 1.5, (1, "as torch was told")),
    ],
)
def test_only_a_number_of_torchs_own_is_lowered(
    present: int, quota: float | None, expected: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert choose_threads(present, Processors(8, 4, quota)) == expected


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_what_the_environment_says_stays(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(variable, "8")
    assert choose_threads(8, Processors(8, 4, 1.0)) == (8, f"as {variable} says")


@pytest.mark.parametrize("text", [" 8", "8 ", "8,4", "+8", "08"])
def test_numbers_as_openmp_has_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert choose_threads(8, Processors(8, 4)) == (8, "as OMP_NUM_THREADS says")


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.parametrize("text", ["abc", "0", "-2", "1.5", "two", ","])
def test_what_is_no_number_of_threads_is_refused(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InputError, match=f"{variable} is {text!r}, but must be a positive whole number of threads"):
        choose_threads(8, Processors(8, 4))


@pytest.mark.parametrize("text", ["99999999999", "1025", "8, 1025", "0099999999999", "9" * 5000])
def test_more_threads_than_can_be_are_refused_before_they_are_started(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(InputError, match=f"OMP_NUM_THREADS is '{text}', but must be a .* of threads, at most 1024$"):
        choose_threads(8, Processors(8, 4))


@pytest.mark.parametrize(("text", "usable"), [("1024", 8), ("0001024", 8), ("999", 8), ("1500", 1600)])
def test_many_threads_are_left_to_who_asks_for_them(text: str, usable: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert choose_threads(999, Processors(usable, 4)) == (999, "as OMP_NUM_THREADS says")


def test_words_for_people() -> None:
    assert str(Processors(1, 1)) == "1 core"
    assert str(Processors(8, 4, 2.5)) == "4 cores, 8 hardware threads, a quota of 2.5 processors"
