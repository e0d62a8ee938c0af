"""Names: a class or type alias can be found by its name alone, because no other has it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("python/ltd", "rl/ltd_rl")


def defined_types(source: str) -> Iterator[str]:
    """The classes and type aliases (type variables are among them) that a module defines, in order."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef):
            yield statement.name
        targets = statement.targets if isinstance(statement, ast.Assign) else ()
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and is_type_name(target.id):
                yield target.id


def is_type_name(name: str) -> bool:
    """`CapWords`; not `CONSTANT`, `variable` or the usual type variable `T`."""
    return name.lstrip("_")[:1].isupper() and not name.isupper()


def shared_names(sources: dict[str, str]) -> dict[str, list[str]]:
    """The names that more than one module defines, with these modules."""
    modules: dict[str, list[str]] = {}
    for module, source in sources.items():
        for name in defined_types(source):
            modules.setdefault(name, []).append(module)
    return {name: found for name, found in modules.items() if len(found) > 1}


def test_no_two_types_share_a_name() -> None:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    sources = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}
    assert len(sources) > 100 and "class Decoder" in sources["python/ltd/decoding/decoder.py"]
    assert shared_names(sources) == {}


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("class Sample:\n    pass", "class Sample(int):\n    pass", ["Sample"]),
        ("class Sample:\n    pass", "Sample = dict[str, int]", ["Sample"]),
        ("Sample = int | str", "Sample: TypeAlias = int", ["Sample"]),
        ("class Sample:\n    pass", "from one import Sample\nSAMPLE = sample = T = 1", []),
        ("class Sample:\n    class Part:\n        pass", "def make():\n    class Part:\n        pass", []),
    ],
)
def test_shared_names_are_found(one: str, other: str, shared: list[str]) -> None:
    found = shared_names({"one.py": one, "other.py": f"{other}\nclass Own:\n    pass"})
    assert list(found) == shared and all(modules == ["one.py", "other.py"] for modules in found.values())
