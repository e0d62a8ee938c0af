"""The floors of the house: no import runs upwards, and none runs in a circle. `docs/design.md` draws them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A room may import from those on lower floors, and within itself.
PYTHON_FLOORS = (
    ("ltd.errors", "ltd._C"),
    ("ltd.common",),
    ("ltd.ops",),
    ("ltd.lookup", "ltd.noise"),
    ("ltd.engine", "ltd.tree"),
    ("ltd.target", "ltd.drafts", "ltd.policies"),
    ("ltd.parallel",),
    ("ltd.decoding",),
    ("ltd.policy_choice",),
    ("ltd.chains", "ltd.latency", "ltd.rejection"),
    ("ltd.loading",),
    ("ltd.custom_generate",),
    ("ltd.evaluation",),
    ("ltd.training",),
    ("ltd_rl.traces",),
    ("ltd_rl.environments", "ltd_rl.baselines"),
    ("ltd_rl.trainers", "ltd_rl.analysis"),
    ("ltd_rl.tuning", "ltd_rl.scripts"),
    ("ltd.cli", "rl"),
    ("ltd.__main__",),
    ("ltd", "ltd_rl"),
)
# What the faces hand on is imported when it is asked for; within the house, everything is imported from where it lives.
FACES = ("ltd", "ltd_rl")
C_FLOORS = (
    ("common",),
    ("noise",),
    ("accept", "attention", "commit", "entropy", "expand", "forward", "lookup", "policy", "select"),
    ("engine",),
    ("dispatch",),
    ("bindings",),
)
OUTSIDE = ("emulation/",)  # headers that only tests bring

Imports = Mapping[str, set[str]]


def python_modules() -> dict[str, Path]:
    """Every module of the project by its name."""
    modules = {}
    for base, prefix in ((ROOT / "python", ()), (ROOT / "rl", ())):
        for file in base.rglob("*.py"):
            parts = (*prefix, *file.relative_to(base).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name if parts[0] in FACES else f"rl.{name}"] = file
    return modules


def imported(source: str, names: Iterable[str]) -> Iterator[str]:
    """The modules among `names` that a source imports anywhere, also inside functions and for types only."""
    known = set(names)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "imports name the whole module"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def python_imports() -> Imports:
    """The project's modules and which of them each imports; the faces left out."""
    modules = python_modules()
    names = {*modules, "ltd._C"}
    return {
        name: set(imported(file.read_text(encoding="utf-8"), names)) - {name}
        for name, file in modules.items()
        if name not in FACES
    }


def c_includes() -> Imports:
    """The files of csrc and which of them each includes."""
    folder = ROOT / "csrc"
    files = {
        str(file.relative_to(folder)): file
        for file in folder.rglob("*")
        if file.suffix in (".h", ".cuh", ".cpp", ".cu")
    }
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        included = re.findall(r'^\s*#\s*include "([^"]+)"', file.read_text(encoding="utf-8"), re.M)
        found[name] = {other for other in included if not other.startswith(OUTSIDE)}
        missing = found[name] - set(files)
        assert not missing, f"{name} includes {missing}, which are not in csrc; write the path from csrc"
    return found


def room_of_module(name: str) -> str:
    """ltd.drafts.base → ltd.drafts."""
    return ".".join(name.split(".")[:2]) if not name.startswith("rl.") else "rl"


def room_of_file(name: str) -> str:
    """attention/products.h → attention."""
    return name.split("/")[0]


def upward(imports: Imports, floors: tuple[tuple[str, ...], ...], room_of: Callable[[str], str]) -> list[str]:
    """Every import that does not lead to a lower floor or stay in its room."""
    floor = {room: height for height, rooms in enumerate(floors) for room in rooms}
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if room_of(name) != room_of(other) and floor[room_of(name)] <= floor[room_of(other)]
    ]


def circle(imports: Imports) -> list[str]:
    """A circle of imports, if there is one."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


TREES = [
    pytest.param(python_imports, PYTHON_FLOORS, room_of_module, id="python"),
    pytest.param(c_includes, C_FLOORS, room_of_file, id="csrc"),
]


@pytest.mark.parametrize(("read", "floors", "room_of"), TREES)
def test_every_room_has_a_floor(
    read: Callable[[], Imports], floors: tuple[tuple[str, ...], ...], room_of: Callable[[str], str]
) -> None:
    rooms = {room_of(name) for name in read()}
    assert rooms <= {room for rooms in floors for room in rooms}, (
        "a new room needs a floor in this test and in docs/design.md"
    )


@pytest.mark.parametrize(("read", "floors", "room_of"), TREES)
def test_no_import_runs_upwards(
    read: Callable[[], Imports], floors: tuple[tuple[str, ...], ...], room_of: Callable[[str], str]
) -> None:
    assert upward(read(), floors, room_of) == []


@pytest.mark.parametrize(("read", "floors", "room_of"), TREES)
def test_no_imports_run_in_a_circle(
    read: Callable[[], Imports], floors: tuple[tuple[str, ...], ...], room_of: Callable[[str], str]
) -> None:
    imports = read()
    assert circle(imports) == []
    rooms: dict[str, set[str]] = {}
    for name, others in imports.items():
        rooms.setdefault(room_of(name), set()).update(room_of(other) for other in others)
    assert circle({room: others - {room} for room, others in rooms.items()}) == []


def test_the_guard_sees_what_it_guards_against() -> None:
    floors = (("a.low",), ("a.middle", "a.beside"), ("a.high",))
    imports = {"a.low.x": {"a.high.y"}, "a.high.y": {"a.middle"}, "a.middle": {"a.beside"}, "a.beside": set[str]()}
    assert upward(imports, floors, room_of_module) == ["a.low.x imports a.high.y", "a.middle imports a.beside"]
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    source = "from ltd import tree\ndef f():\n    import ltd.ops\n    from ltd.drafts.base import Draft\n"
    assert list(imported(source, ["ltd.tree", "ltd.ops", "ltd.drafts.base"])) == [
        "ltd.tree",
        "ltd.ops",
        "ltd.drafts.base",
    ]
