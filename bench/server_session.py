"""A session with `transformers serve` and OpenAI's client, as a Python prompt shows it: everything printed is real.

    python bench/server_session.py [MODEL] [--draft HEAD]

The model, by default the default one, is exported as `ltd export --to custom-generate` does it, and served.
"""

from __future__ import annotations

import tempfile
from code import InteractiveConsole
from pathlib import Path
from typing import Annotated

import typer

from ltd.custom_generate.export import export_model
from server_process import served

# A stream in its pieces, two requests at once, and one that is not honoured.
SESSION = """\
from concurrent.futures import ThreadPoolExecutor
from openai import APIError, OpenAI
client = OpenAI(base_url=ADDRESS, api_key="none")
def ask(question, **options):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=24, **options)

print(*(chunk.choices[0].delta.content or "" for chunk in ask("Why is the sky blue?", stream=True)), sep="|")
with ThreadPoolExecutor() as pool:
    for answer in pool.map(ask, ["Why is the sky blue?", "Name three rivers."]):
        print(answer.usage.completion_tokens, repr(answer.choices[0].message.content))

try:
    ask("Why is the sky blue?", extra_body={"generation_config": '{"num_beams": 2}'})
except APIError as error:
    print(error, error.body)

ask("Name three rivers.").choices[0].message.content
"""


def show(address: str, model: Path) -> None:
    """Prints what a Python prompt shows where the session is typed into it.

    Args:
        address: of the server; the session's ADDRESS.
        model: that it serves; its MODEL.
    """
    console = InteractiveConsole({"ADDRESS": f"{address}/v1", "MODEL": str(model)})
    more = False
    for line in SESSION.splitlines():
        print(f"{'...' if more else '>>>'} {line}".rstrip(), flush=True)
        more = console.push(line)


def main(
    model: Annotated[str | None, typer.Argument(help="As of ltd export; the default one if not given.")] = None,
    draft: Annotated[str | None, typer.Option(help="As of ltd generate.")] = None,
) -> None:
    """Print a session with a served model."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "served"
        export_model(model, folder, draft=draft)
        with served(folder, Path(place), "--trust-remote-code") as address:
            show(address, folder)


if __name__ == "__main__":
    typer.run(main)
