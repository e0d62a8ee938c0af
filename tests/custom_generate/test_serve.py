"""`transformers serve` on an exported folder, with OpenAI's client: the text is the model's, whoever asks beside."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import server_session
from ltd.custom_generate.export import export_model
from server_process import served

for name in ("fastapi", "uvicorn"):
    pytest.importorskip(name, reason="what transformers serve needs is not installed, see requirements-dev.txt")
openai = pytest.importorskip("openai", reason="the client is not installed, see requirements-dev.txt")

Folder = Callable[[str], Path]
Ask = Callable[..., str]
QUESTIONS = ["Name three rivers.", "Why?", "A much longer question, about nothing at all.", "0123456789"]
NEW = 24
LONG = 60_000  # more tokens than a server makes while a test waits
WAIT = 30.0  # seconds for one answer on a busy machine
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": NEW}


@pytest.fixture(scope="module")
def folder(tiny_target: Folder, tiny_head: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model that drafts trees."""
    out = tmp_path_factory.mktemp("served") / "out"
    export_model(tiny_target("llama"), out, draft=tiny_head("llama"), policy="static", dtype="float32")
    return out


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with (
        served(folder, tmp_path_factory.mktemp("server"), "--trust-remote-code") as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=WAIT, max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def plain(tiny_target: Folder) -> Ask:
    """plain(question, …) → the text of `transformers`' own `generate`."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))

    def ask(question: str, chat: bool = True, new: int = NEW, **more: Any) -> str:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if chat else question
        inputs = tokenizer(text, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=new, do_sample=False, tokenizer=tokenizer, **more)
        return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return ask


@pytest.fixture
def chat(client: openai.OpenAI, folder: Path) -> Ask:
    """chat(question, …) → the server's text."""

    def ask(question: str, **options: Any) -> str:
        messages: Any = [{"role": "user", "content": question}]
        answer = client.chat.completions.create(model=str(folder), messages=messages, **{**GREEDY, **options})
        return answer.choices[0].message.content

    return ask


@pytest.fixture
def stream(client: openai.OpenAI, folder: Path) -> Callable[..., Any]:
    """stream(question, …) → the server's chunks as they come, to be closed."""

    def ask(question: str, **options: Any) -> Any:
        messages: Any = [{"role": "user", "content": question}]
        given = {**GREEDY, **options, "stream": True}
        return client.chat.completions.create(model=str(folder), messages=messages, **given)

    return ask


def pieces(chunks: Any) -> list[str]:
    """The pieces of text in a stream, to its end."""
    with chunks:
        return [text for chunk in chunks if (text := chunk.choices[0].delta.content)]


def test_the_text_is_that_of_transformers(chat: Ask, plain: Ask) -> None:
    expected = [plain(question) for question in QUESTIONS]
    assert [chat(question) for question in QUESTIONS] == expected and len(set(expected)) == len(QUESTIONS)


def test_a_stream_is_the_same_text_in_pieces(stream: Callable[..., Any], plain: Ask) -> None:
    for question in QUESTIONS[:2]:
        said = pieces(stream(question))
        assert "".join(said) == plain(question) and len(said) > 5


def test_the_end_and_the_numbers_are_told(client: openai.OpenAI, folder: Path, plain: Ask) -> None:
    messages: Any = [{"role": "user", "content": QUESTIONS[0]}]
    whole = client.chat.completions.create(model=str(folder), messages=messages, **GREEDY)
    chunks = list(client.chat.completions.create(model=str(folder), messages=messages, stream=True, **GREEDY))
    assert whole.usage == chunks[-1].usage and whole.usage is not None
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason
    assert (whole.usage.completion_tokens == NEW) == (whole.choices[0].finish_reason == "length")


def test_settings_of_a_request(chat: Ask, plain: Ask) -> None:
    """They come to logits processors and stopping criteria; `stop` needs the tokenizer."""
    question = QUESTIONS[2]
    text = plain(question)
    assert chat(question, frequency_penalty=0.3) == plain(question, repetition_penalty=1.3) != text
    assert chat(question, logit_bias={"2": -100.0, "40": 3.0}) == plain(
        question, sequence_bias={(2,): -100.0, (40,): 3.0}
    )
    assert chat(question, stop=[text[4:6]]) == plain(question, stop_strings=[text[4:6]]) != text
    assert chat(question, max_tokens=5) == plain(question, new=5)


def test_text_without_a_chat(client: openai.OpenAI, folder: Path, plain: Ask) -> None:
    answer = client.completions.create(model=str(folder), prompt="Once upon", **GREEDY)
    assert answer.choices[0].text == plain("Once upon", chat=False)


def test_a_seed_is_one_text(chat: Ask) -> None:
    settings = json.dumps({"do_sample": True, "temperature": 1.5, "max_new_tokens": NEW})

    def sampled(seed: int) -> str:
        return chat(QUESTIONS[0], seed=seed, temperature=1.5, extra_body={"generation_config": settings})

    assert sampled(1) == sampled(1) != sampled(2)


def test_requests_at_once_are_not_mixed_up(chat: Ask, stream: Callable[..., Any], plain: Ask) -> None:
    def ask(number: int) -> str:
        question = QUESTIONS[number % len(QUESTIONS)]
        return chat(question) if number % 2 else "".join(pieces(stream(question)))

    expected = [plain(question) for question in QUESTIONS]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(12))) == expected * 3


def test_a_cancelled_request_makes_room(chat: Ask, stream: Callable[..., Any], plain: Ask) -> None:
    """It would go on for minutes; the next one is answered soon."""
    chunks = stream(QUESTIONS[0], max_tokens=LONG, logit_bias={"2": -100.0})
    began = time.monotonic()
    with chunks:
        first = [next(iter(chunks)).choices[0].delta for _ in range(5)]
    assert len(first) == 5
    assert chat(QUESTIONS[1]) == plain(QUESTIONS[1])
    assert time.monotonic() - began < WAIT


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ({"extra_body": {"generation_config": '{"num_beams": 2}'}}, 400, "beam search (num_beams 2)"),
        ({"extra_body": {"generation_config": '{"dola_layers": "low"}'}}, 400, "dola_layers ('low')"),
        ({"extra_body": {"what": 1}}, 422, "Unexpected fields"),
        ({"model": "other"}, 400, "pinned"),
    ],
)
def test_a_bad_request_is_told_why(
    client: openai.OpenAI, folder: Path, chat: Ask, plain: Ask, options: dict[str, Any], code: int, sentence: str
) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    for streams in (False, True):
        given = {"model": str(folder), "messages": messages, "stream": streams, **options}
        with pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(**given))
        told = str(caught.value) + json.dumps(caught.value.body)
        assert sentence in told
        # A stream has begun by then where it is the model that refuses.
        assert getattr(caught.value, "status_code", 400) == code
    assert chat(QUESTIONS[1]) == plain(QUESTIONS[1])


def test_the_session_of_the_docs(
    client: openai.OpenAI, folder: Path, plain: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it prints for a stream, for requests at once and for one on a bad one."""
    server_session.show(str(client.base_url).removesuffix("/v1/"), folder)
    shown = capsys.readouterr()
    first, other = plain("Why is the sky blue?"), plain("Name three rivers.")
    before, _, after = shown.out.partition("\n>>> with ")
    streamed = before.partition('sep="|")\n')[2]
    assert shown.err == "" and streamed.replace("|", "") == first and streamed.count("|") >= 2
    lines = [line for line in after.splitlines()[1:] if not line.startswith((">>>", "..."))]
    assert [line.partition(" ")[2] for line in lines[:2]] == [repr(first), repr(other)]
    assert "Error code: 400" in lines[2] and "beam search (num_beams 2)" in lines[2]
    assert lines[3:] == [repr(other)]
