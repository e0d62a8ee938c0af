"""What README, docs and the notes beside results say is so: numbers, links, commands, options, imports."""

from __future__ import annotations

import json

import pytest
import typer
from page_checks import (
    MARKER,
    ROOT,
    broken_links,
    filled,
    missing_paths,
    split_page,
    unmarked_numbers,
    wrapped_lines,
    wrong_commands,
    wrong_imports,
    wrong_numbers,
)

from ltd.cli.app import app

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTES = sorted((ROOT / "bench" / "results").glob("*/README.md"))
PAGES = [*DOCS, *NOTES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
MOST_README_BYTES = 12_000
ENTRIES = ("Measured", "Machine", "Date and commit", "Data")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_numbers_are_those_of_the_data(page):
    assert wrong_numbers(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_measured_numbers_stand_in_marked_tables_only(page):
    assert unmarked_numbers(page.read_text(encoding="utf-8")) == []


@each_page
def test_commands_and_options_are_there(page):
    assert wrong_commands(page.read_text(encoding="utf-8")) == []


@each_page
def test_imports_are_there(page):
    blocks = split_page(page.read_text(encoding="utf-8"))[1]
    assert [wrong for block in blocks if block.language == "python" for wrong in wrong_imports(block.text)] == []


@each_page
def test_links_lead_somewhere(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@each_page
def test_files_and_folders_are_there(page):
    assert missing_paths(page.read_text(encoding="utf-8")) == []


@each_page
def test_paragraphs_are_one_line(page):
    assert wrapped_lines(page.read_text(encoding="utf-8")) == []


@each_page
def test_blocks_name_their_language(page):
    languages = {block.language for block in split_page(page.read_text(encoding="utf-8"))[1]}
    assert languages <= {"bash", "python", "json", "text"}


def test_readme_is_read_in_two_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= MOST_README_BYTES


def test_every_command_is_described():
    text = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    assert [name for name in typer.main.get_command(app).commands if f"`ltd {name}`" not in text] == []


def test_every_page_is_reached_from_the_readme():
    readme, index = (page.read_text(encoding="utf-8") for page in (ROOT / "README.md", ROOT / "docs" / "results.md"))
    assert [page.name for page in DOCS[1:] if f"](docs/{page.name})" not in readme] == []
    assert [
        note.parent.name for note in NOTES if f"](../bench/results/{note.parent.name}/README.md)" not in index
    ] == []


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.parent.name)
def test_results_say_how_they_were_measured_and_where_the_data_is(note):
    text = note.read_text(encoding="utf-8")
    assert [entry for entry in ENTRIES if f"\n- **{entry}**: " not in text] == []
    beside = [file.name for file in note.parent.iterdir() if file != note]
    assert [name for name in beside if f"]({name})" not in text] == []
    assert "results.json" in beside or "data not kept" in text.lower()
    assert "results.json" not in beside or any(map(MARKER.fullmatch, text.splitlines()))


def test_tables_are_filled_from_the_data(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "results.json").write_text(json.dumps({"rates": {"depth": {"width": 5, "cycles": 1234.0}}}))
    marker = "<!-- numbers: results.json | environments -->"
    text = f"1 cell\n\n{marker}\n| | cycles per second | numbers observed |\n|---|---:|---:|\n"
    empty, full = "| policy `depth` | | ? |\n", "| policy `depth` | 1,000 | 5 |\n"
    assert filled(page, f"{text}{empty}| size | 2 | 3 |\n\nend\n") == f"{text}{full}| size | 2 | 3 |\n\nend\n"
    assert filled(page, text + full) == text + full and wrong_numbers(page, text + full) == []


def test_mistakes_are_found(tmp_path):
    """The checks above can fail."""
    page = tmp_path / "page.md"
    (tmp_path / "results.json").write_text(json.dumps({"rates": {"depth": {"width": 5, "cycles": 1234.0}}}))
    marker = "<!-- numbers: results.json | environments -->"
    right = f"{marker}\n| | numbers observed | cycles per second |\n|---|---:|---:|\n| depth | 5 | 1,000 |\n"
    assert wrong_numbers(page, right) == [] and unmarked_numbers(right + "1.00x") == ["1.00x"]
    assert wrong_numbers(page, right.replace("5", "6")) == ["depth, numbers observed: 6, but the data says 5"]
    assert (
        wrong_numbers(page, right.replace("depth", "size"))[0] == "size, numbers observed: 5, but the data says nothing"
    )
    assert len(wrong_numbers(page, right.replace("observed", "seen"))) == len(wrong_numbers(page, marker)) == 1
    assert unmarked_numbers(f"{marker}\n| 1.41x |\n\n1.41x, 25 µs and 200.6 tokens/s") == [
        "1.41x",
        "5 µs",
        "6 tokens/s",
    ]

    assert (
        wrong_commands('```bash\ncd x && A=1 ltd generate "a b" \\\n  --depth 4 # --no\nltd tune\n```\n`make demo`')
        == []
    )
    assert wrong_commands("```bash\nltd generates\n```\nand `ltd info --depth=4`") == [
        "there is no command ltd generates",
        "ltd info has no option --depth",
    ]
    assert wrong_commands("`make tea` and `python bench/tea.py`") == [
        "make has no target tea",
        "there is no script bench/tea.py",
    ]

    assert wrong_imports("import json\nfrom pathlib import Path\nimport ltd\nltd.InputError") == []
    assert wrong_imports("import ltd.tea\nfrom json import tea\nltd.tea") == [
        "no ltd.tea",
        "json has no tea",
        "ltd has no tea",
    ]

    page.write_text("# A page: of tea\n\n```text\n# no\n```\n", encoding="utf-8")
    assert (
        broken_links(page, "[a](page.md#a-page-of-tea) ![b](results.json) [c](https://c.de) [d](#a-page-of-tea)") == []
    )
    assert broken_links(page, "[a](page.md#no) ![b](tea.png) [c](#no)") == ["page.md#no", "tea.png", "#no"]

    assert missing_paths("`tests/`, `tests/NAME.py`, `docs/tea.md`\n```text\n`docs/no.md`\n```\n") == ["docs/tea.md"]

    assert wrapped_lines("# a\n\na line\n\n- one\n- two\n\n| a |\n| b |\n") == []
    assert wrapped_lines("a line that\ngoes on\n\n- one that\n  goes on\n") == ["goes on", "  goes on"]
