"""Hooks of mkdocs: the site has the files of the repository at their own places, and a page for every package."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("*.md", "*.cff", "LICENSE", "NOTICE", "docs/*.md", "bench/results/**/*", "examples/*.*")
PACKAGES = (Path("python", "ltd"), Path("rl", "ltd_rl"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds results and reference to the navigation."""
    results = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("bench/results/*/README.md"))
    config.nav = [
        *(config.nav or ()),
        {"Results": ["docs/results.md", *results]},
        {"Reference": [{package: page_of(package)} for package in packages()]},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts every file where it is in the repository, and adds the pages of the packages."""
    for file in list(files):
        if file.abs_src_path is not None and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    for path in sorted({path for pattern in SHOWN for path in ROOT.glob(pattern) if path.is_file()}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for package, modules in packages().items():
        text = "\n\n".join([f"# {package}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, page_of(package), content=text))
    return files


def packages() -> dict[str, list[str]]:
    """The packages, each with its own name and those of the public modules in it."""
    found = {}
    for start in PACKAGES:
        for marker in sorted((ROOT / start).rglob("__init__.py")):
            package = ".".join(marker.parent.relative_to(ROOT / start.parent).parts)
            modules = [f"{package}.{file.stem}" for file in sorted(marker.parent.glob("[!_]*.py"))]
            found[package] = [package, *modules]
    return found


def page_of(package: str) -> str:
    """Where the page of a package is."""
    return f"reference/{package}.md"
