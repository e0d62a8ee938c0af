"""What is wrong with a page of documentation: every check returns sentences, none if all is well."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from result_views import VIEWS, Rows

from ltd.cli.app import app

ROOT = Path(__file__).resolve().parent.parent.parent
MARKER = re.compile(r"<!-- numbers: (?P<file>[^|]+) \| (?P<view>\w+)(?: \| (?P<choice>[^|]+))? -->")
MEASURED = re.compile(r"\d\.\d+x\b|\d ?(?:tokens/s|µs|ms)\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code: its language, and its text."""

    language: str
    text: str


def split_page(text: str) -> tuple[str, list[Block]]:
    """A page without its fenced blocks, and the blocks."""
    fenced = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", flags=re.M | re.S)
    return fenced.sub("", text), [Block(found["language"], found["body"]) for found in fenced.finditer(text)]


def table_at(lines: list[str], start: int) -> list[list[str]]:
    """The cells of the table that begins here, row by row, the header first."""
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))
    return [
        [cell.strip() for cell in row.strip()[1:-1].split("|")]
        for row in rows
        if not re.fullmatch(r"[|:\- ]*-[|:\- ]*", row)
    ]


def row_name(cell: str) -> str:
    """What a row of a table is about: its first code, or all of the cell."""
    code = re.search(r"`([^`]+)`", cell)
    return code[1] if code else cell.strip("*")


def wrong_numbers(page: Path, text: str) -> list[str]:
    """What marked tables say otherwise than the data: every column but the first is the data's."""
    lines = text.splitlines()
    problems = []
    for place, marker in enumerate(map(MARKER.fullmatch, lines)):
        if marker is None:
            continue
        rows = rows_for(page, marker)
        header, *body = table_at(lines, place + 1) or [[]]
        if not body:
            problems.append(f"no table follows {marker[0]}")
        for name, row in ((row_name(row[0]), row) for row in body):
            for column, shown in zip(header[1:], row[1:], strict=True):
                expected = rows.get(name, {}).get(column, "nothing")
                if shown != expected:
                    problems.append(f"{name}, {column}: {shown}, but the data says {expected}")
    return problems


def rows_for(page: Path, marker: re.Match[str]) -> Rows:
    """What the data says of a marked table's rows."""
    data = json.loads((page.parent / marker["file"]).read_text(encoding="utf-8"))
    return VIEWS[marker["view"]](data, marker["choice"])


def filled(page: Path, text: str) -> str:
    """A page whose marked tables say what the data does, in the rows and columns that they have; what the data does
    not know stays."""
    lines = text.split("\n")
    for place, marker in enumerate(map(MARKER.fullmatch, lines)):
        if marker is None:
            continue
        rows = rows_for(page, marker)
        header, *body = table_at(lines, place + 1) or [[]]
        for at, (first, *cells) in enumerate(body, start=place + 3):  # behind the marker, the header and its rule
            known = rows.get(row_name(first), {})
            numbers = [known.get(column, cell) for column, cell in zip(header[1:], cells, strict=True)]
            lines[at] = f"| {' | '.join([first, *numbers])} |"
    return "\n".join(lines)


def unmarked_numbers(text: str) -> list[str]:
    """Measured speeds and times outside marked tables: a number stands once, and elsewhere there is a link."""
    lines, kept, inside = split_page(text)[0].splitlines(), [], False
    for line in lines:
        inside = MARKER.fullmatch(line) is not None or (inside and line.startswith("|"))
        kept += [] if inside else [line]
    return MEASURED.findall("\n".join(kept))


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a block of shell, without variables that are set before it."""
    for line in re.split(r"\n|&&", text.replace("\\\n", "")):
        words = list(itertools.dropwhile(re.compile(r"\w+=").match, shlex.split(line, comments=True)))
        if words:
            yield words


def wrong_commands(text: str) -> list[str]:
    """What a page's commands name that is not there: commands and options of ltd, scripts, targets of make."""
    prose, blocks = split_page(text)
    shell = [block.text for block in blocks if block.language == "bash"]
    inline = [span for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"(ltd|make|python) [a-z]", span)]
    return [problem for source in shell + inline for words in commands(source) for problem in wrong_words(words)]


def wrong_words(words: list[str]) -> Iterator[str]:
    """What one command names that is not there."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "ltd" and rest and not rest[0].startswith("-"):
        known = typer.main.get_command(app).commands
        if rest[0] not in known:
            yield f"there is no command ltd {rest[0]}"
            return
        there = {name for option in known[rest[0]].params for name in (*option.opts, *option.secondary_opts)}
        given = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
        yield from (f"ltd {rest[0]} has no option {option}" for option in sorted(given - there - {"--help"}))
    elif program == "python" and rest[0].endswith(".py"):
        yield from (f"there is no script {rest[0]}" for _ in range(not (ROOT / rest[0]).is_file()))
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        yield from (f"make has no target {word}" for word in rest if "=" not in word and word not in targets)


def wrong_imports(code: str) -> list[str]:
    """What a block of Python imports, or takes from ltd itself, that is not there."""
    wanted: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            wanted += [(name.name, None) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted += [(str(node.module), name.name) for name in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ltd":
            wanted.append(("ltd", node.attr))
    return [f"{module} has no {name}" if name else f"no {module}" for module, name in wanted if not there(module, name)]


def there(module: str, name: str | None) -> bool:
    """Whether a module can be imported and has a name."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return False
    return name is None or hasattr(found, name)


def broken_links(page: Path, text: str) -> list[str]:
    """The relative links of a page that lead nowhere, its pictures among them."""
    targets = [target for target in LINK.findall(split_page(text)[0]) if not re.match(r"https?://", target)]
    return [target for target in targets if not leads_somewhere(page, *target.partition("#")[::2])]


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    """Whether there is such a file and, in a page, such a heading."""
    file = page.parent / path if path else page
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", split_page(file.read_text(encoding="utf-8"))[0], flags=re.M)
    return anchor in [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


def missing_paths(text: str) -> list[str]:
    """The files and folders of the repository that a page names in its prose and that are not there."""
    named = re.findall(r"`((?:bench|csrc|docs|examples|python|rl|tests)/[a-z0-9_./-]*)`", split_page(text)[0])
    return [path for path in named if not (ROOT / path).exists()]


def wrapped_lines(text: str) -> list[str]:
    """Lines that go on with the paragraph of the line before: a paragraph is one line."""
    lines = split_page(text)[0].splitlines()
    goes_on = [bool(line.strip()) and not re.match(r"\s*([|#>]|<!--|[-*] |\d+\. |!\[)", line) for line in lines]
    return [line for line, before, here in zip(lines[1:], lines, goes_on[1:], strict=False) if here and before.strip()]
