"""`train_draft` on a tiny random target: its stages, resuming, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ltd.common.lock import LOCK
from ltd.drafts.eagle3.files import load_head
from ltd.drafts.eagle3.head import Eagle3Config
from ltd.engine.attention import attend_in_lockstep
from ltd.engine.cpu import Engine
from ltd.engine.forward import Forward
from ltd.errors import InputError
from ltd.target.model import load_model
from ltd.target.transformers_layers import TransformersLayers, tapped
from ltd.training import TrainDraftConfig, train_draft
from ltd.training import loop as training_loop
from ltd.training.data.batches import epoch_order
from ltd.training.data.chat_format import ChatFormat, read_chat_format
from ltd.training.data.conversation import ANSWER, TEMPLATE, USER, Conversation
from ltd.training.data.conversations import load_conversations, save_shard
from ltd.training.data.features import FeatureReader
from ltd.training.data.lockstep import Lockstep, read_states
from ltd.training.data.mix import KINDS
from ltd.training.data.openings import OPENINGS
from ltd.training.data.writers import Writer, new_sheet, new_writers
from ltd.training.data.writing import close_ranks, sample
from ltd.training.eagle3.trials import Trial
from ltd.training.eagle3.trim import frequent_words, keep_words, largest_fast
from ltd.training.kinds import UNROLLED, open_maker
from ltd.training.vocabulary import choose_vocabulary

Target = Callable[[str], Path]


def small_config(out: Path, target: Path, **changes: Any) -> TrainDraftConfig:
    values: dict[str, Any] = {
        "tokens": 1500, "length": 90, "user_length": 12, "answer_length": 30, "rows": 8, "held_out_share": 0.3,
        "draft_vocab_size": 48, "ttt_steps": 3, "batch": 4, "epochs": 3, "learning_rate": 3e-3, "dtype": "float32",
        "seed": 5, "greedy_share": 0.5, "trim_vocabulary": False, "context_length": 224,
    }  # fmt: skip
    return TrainDraftConfig(out=out, target=str(target), **{**values, **changes})


@pytest.fixture(scope="module")
def finished(tiny_target: Target, tmp_path_factory: pytest.TempPathFactory) -> TrainDraftConfig:
    """A run that was never stopped."""
    config = small_config(tmp_path_factory.mktemp("run") / "out", tiny_target("llama"))
    with pytest.MonkeyPatch.context() as patch:
        choose_averaged(patch)
        assert train_draft(config) == Path(config.out) / "head"
    return config


def choose_averaged(patch: pytest.MonkeyPatch) -> None:
    """Speeds are never the same twice, so what is chosen by them is not either."""
    patch.setattr("ltd.training.kinds.faster", lambda trials: len(trials) - 1)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_finished_run(finished: TrainDraftConfig, tiny_target: Target) -> None:
    out = Path(finished.out)
    head = load_head(out / "head", torch.float32, "cpu")
    assert head.config.feature_layers == (2, 4, 5)
    assert head.config.target == tiny_target("llama").name
    report = json.loads((out / "head" / "training.json").read_text())
    assert len(report["held_out"]["accuracy"]) == 3
    assert report["held_out"]["slots"] > 0
    assert report["data"]["training"]["tokens"] + report["data"]["held_out"]["tokens"] >= 1500
    assert str(out) not in json.dumps(report)
    assert (out / "head" / "training.png").read_bytes().startswith(b"\x89PNG")
    on_the_way = json.loads((out / "training.json").read_text())["curves"]["held_out"]
    assert on_the_way == report["curves"]["held_out"]
    assert [point["seen_tokens"] for point in on_the_way] == sorted({point["seen_tokens"] for point in on_the_way})
    assert all(point["tau"] >= 1 and point["tokens_per_second"] > 0 for point in on_the_way)
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert report["weights"]["chosen"] == "averaged"
    assert sum(each["slots"] for each in report["held_out_by_kind"].values()) == report["held_out"]["slots"]
    kinds = report["data"]["kinds"]
    assert len(kinds) > 1 and kinds.keys() >= report["held_out_by_kind"].keys()
    assert report["data"]["writing"].keys() == {"all", *kinds}
    assert report["learning"]["answer_tokens_per_second"] > 0 and 0 < report["learning"]["share_of_floor"] < 1
    assert not list(out.rglob("*.tmp"))
    assert len(head.t2d) == 96
    embedding = AutoModelForCausalLM.from_pretrained(tiny_target("llama")).get_output_embeddings().weight
    rows = embedding[head.d2t + torch.arange(48)]
    # A few small updates away from where it started, the target's own rows.
    assert 0 < (head.lm_head.weight - rows).abs().max() < 0.1


def test_vocabulary_is_trimmed_to_the_fastest(tiny_target: Target, tmp_path: Path) -> None:
    folder = train_draft(small_config(tmp_path / "out", tiny_target("llama"), trim_vocabulary=True))
    head = load_head(folder, torch.float32, "cpu")
    trials = json.loads((folder / "training.json").read_text())["vocabulary_sizes"]
    assert [trial["words"] for trial in trials] == [10, 12, 24, 36, 48]
    assert all(trial["acceptance_length"] >= 1 for trial in trials)
    assert head.config.draft_vocab_size in [trial["words"] for trial in trials]


@pytest.mark.parametrize(
    ("speeds", "kept"), [((100, 90, 80), 1), ((100, 99, 97), 2), ((98, 97, 100), 3), ((98.1, 100, 98.1), 3), ((5,), 1)]
)
def test_the_largest_of_the_fastest_sizes_stays(speeds: tuple[float, ...], kept: int) -> None:
    trials = [Trial(words, 1.5, speed) for words, speed in enumerate(speeds, start=1)]
    assert largest_fast(trials).words == kept


def test_keeping_words_keeps_their_logits(tiny_head: Target) -> None:
    head = load_head(tiny_head("llama"), torch.float32, "cpu")
    tokens = torch.randint(96, (500,), generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(tokens, minlength=96)
    words = frequent_words(head, tokens, 10)
    kept = keep_words(head, words)
    ids = torch.arange(10) + kept.d2t
    assert torch.equal(ids, words + head.d2t[words])
    assert kept.t2d.nonzero()[:, 0].tolist() == ids.tolist()
    left_out = head.t2d & ~kept.t2d
    assert counts[ids].min() >= counts[left_out].max()
    states = torch.randn(1, 3, 32)
    torch.testing.assert_close(kept.logits(states), head.logits(states)[..., words])


def test_finished_run_is_not_repeated(finished: TrainDraftConfig) -> None:
    out = Path(finished.out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    train_draft(finished)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before


class Killed(Exception):
    pass


@pytest.mark.parametrize("stage", ["data", "later data", "features", "training", "finish"])
def test_resume_equals_uninterrupted_run(
    stage: str, finished: TrainDraftConfig, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tmp_path / "out", tiny_target("llama"), checkpoint_seconds=1e-9)
    choose_averaged(monkeypatch)
    with monkeypatch.context() as patch:
        _kill_in(stage, patch)
        with pytest.raises(Killed):
            train_draft(config)
    assert not (tmp_path / "out" / "head" / "training.json").exists()
    steps: list[int] = []
    step = training_loop.Training.step
    monkeypatch.setattr(
        training_loop.Training, "step", lambda self, batch: (steps.append(self.update), step(self, batch))[1]
    )
    train_draft(config)
    assert json.loads((tmp_path / "out" / "head" / "training.json").read_text())["learning"]  # of earlier updates too
    # Nothing that a checkpoint held is done again.
    assert steps[:1] == {"training": [3], "finish": []}.get(stage, [0])
    once, twice = (load_file(Path(each.out) / "head" / "model.safetensors") for each in (finished, config))
    assert once.keys() == twice.keys()
    for name in once:
        assert torch.equal(once[name], twice[name]), name
    checkpoints = [torch.load(Path(each.out) / "checkpoint.pt", weights_only=True) for each in (finished, config)]
    for checkpoint in checkpoints:
        for measured in checkpoint["measurements"]:
            assert measured.pop("tokens_per_second") > 0  # the only number that is never the same twice
    for name in ("tokens", "losses", "measurements"):
        assert checkpoints[0][name] == checkpoints[1][name], name
    for one, other in zip(*(checkpoint["head"].values() for checkpoint in checkpoints), strict=True):
        assert torch.equal(one, other)
    assert checkpoints[0]["average"]["count"] == checkpoints[1]["average"]["count"] > 0
    for one, other in zip(*(checkpoint["average"]["values"] for checkpoint in checkpoints), strict=True):
        assert torch.equal(one, other)


def _kill_in(stage: str, patch: pytest.MonkeyPatch) -> None:
    """Raise Killed in the middle of a stage: at the second shard or the fourth update."""
    places = {
        "data": ("ltd.training.data.writing.write_batch", 1),
        "later data": ("ltd.training.data.writing.write_batch", 2),
        "features": ("ltd.training.data.writing.save_shard", 1),  # those of the shard are there already
        "training": ("ltd.training.eagle3.measure.loss_of_batch", 3 * 4),  # four conversations an update
        "finish": ("ltd.training.kinds.save_head", 0),
    }
    place, allowed = places[stage]
    module, _, name = place.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    calls = 0

    def wrapper(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise Killed
        return original(*arguments, **options)

    patch.setattr(place, wrapper)


def test_half_written_files_are_ignored(finished: TrainDraftConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    (out / "data" / "00099.tmp").write_bytes(b"half")
    (out / "checkpoint.tmp").write_bytes(b"half")
    (out / "head" / "training.json").unlink()
    config = TrainDraftConfig(**{**finished.to_dict(), "out": out})
    assert (train_draft(config) / "training.json").exists()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", 0), ("tokens", 1.5), ("length", 3), ("rows", 0), ("ttt_steps", 0), ("batch", True), ("epochs", -1),
        ("greedy_share", 1.5), ("two_turn_share", -0.1),
        ("opening_share", 2), ("user_temperature", 0.0), ("held_out_share", 0.0), ("learning_rate", 0.0),
        ("learning_rate", float("nan")), ("ttt_decay", float("inf")), ("dtype", "int8"), ("threads", 0),
        ("feature_layers", (2, 1)), ("feature_layers", ()), ("intermediate_size", 0),
        ("mix", "chat"), ("mix", "chat=-1"), ("mix", "summary=1"), ("mix", "chat=1,chat=1"), ("mix", "poem=1"),
        ("mix", 3), ("hours", 0.0), ("loss", "hard"), ("features", "none"), ("average_share", 1.5),
        ("context_length", 100), ("warmup_share", 1.0), ("checkpoint_seconds", "soon"),
        ("cache_gigabytes", -1), ("seed", -1),
    ],
)  # fmt: skip
def test_bad_config_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field):
        TrainDraftConfig(out="x", **{field: value})


def test_changed_config_names_the_field(finished: TrainDraftConfig) -> None:
    changed = TrainDraftConfig(**{**finished.to_dict(), "learning_rate": 0.5})
    with pytest.raises(InputError, match=r"learning_rate = 0\.003, but this run says 0\.5"):
        train_draft(changed)
    train_draft(TrainDraftConfig(**{**finished.to_dict(), "checkpoint_seconds": 7.0}))  # how to run may change


def test_foreign_folder_is_left_alone(tmp_path: Path, tiny_target: Target) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no training run"):
        train_draft(small_config(tmp_path, tiny_target("llama")))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"draft_vocab_size": 97}, "draft_vocab_size is 97, but the target has only 96"),
        ("llama", {"length": 300, "context_length": 300}, "^length is 300, but the target attends to at most 256"),
        ("llama", {"context_length": 150}, "context_length is 150, but conversations about given texts need"),
        ("llama", {"context_length": 257}, "context_length is 257, but the target attends to at most 256"),
        ("mistral", {"length": 90}, "attends to at most 24"),
        ("llama", {"feature_layers": (2, 9)}, r"feature_layers is \(2, 9\), but the target has only hs\[0\] … hs\[8\]"),
        ("llama", {"length": 20}, "the chat template alone needs"),
    ],
)
def test_config_that_does_not_suit_the_target(
    family: str, changes: dict[str, Any], message: str, tiny_target: Target, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train_draft(small_config(tmp_path / "out", tiny_target(family), **changes))
    assert [file.name for file in (tmp_path / "out").iterdir()] == [LOCK]  # still free for another command


@pytest.mark.parametrize(("cache", "free", "message"), [
    (1e-6, 10**12, "the features of 1500 tokens need 0.000396 GB, but cache_gigabytes is 1e-06"),
    (1.0, 1000, "need 0.000396 GB, but the disk has only 1e-06 GB left"),
])  # fmt: skip
def test_too_little_disk_space(
    cache: float, free: int, message: str, tiny_target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))
    with pytest.raises(InputError, match=message):
        train_draft(small_config(tmp_path / "out", tiny_target("llama"), cache_gigabytes=cache))
    assert [file.name for file in (tmp_path / "out").iterdir()] == [LOCK]


# --- the chat template ----------------------------------------------------------------------------------------------

TEMPLATES = {
    "chatml with a system text": (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nhi<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>system\nhi<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n",
         "<|im_end|>\n<|im_start|>user\n"),
    ),
    "brackets": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[Q]{{ m['content'] }}[/Q]"
        "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}",
        ("[Q]", "[/Q]", "<|im_end|>[Q]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_format(name: str, tiny_target: Target) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    template, texts = TEMPLATES[name]
    tokenizer.chat_template = template
    chat = read_chat_format(tokenizer, (2,))
    parts = tuple(tuple(tokenizer(text, add_special_tokens=False).input_ids) for text in texts)
    assert (chat.prefix, chat.to_answer, chat.to_user) == parts
    assert tokenizer.decode(chat.openings[0]) == OPENINGS[0]
    assert len(chat.openings) == len(OPENINGS)
    assert chat.user_ends == {2, parts[1][0]}
    assert chat.answer_ends == {2, parts[2][0]}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ 'fixed' }}", "changes or drops"),
        ("{{ messages[-1]['content'] }}", "drops|no text"),
    ],
)
def test_unusable_templates(template: str | None, message: str, tiny_target: Target) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message):
        read_chat_format(tokenizer, (2,))


# --- the conversations ----------------------------------------------------------------------------------------------

CHAT = ChatFormat((1, 1), (2, 3, 4), (2, 5), frozenset({2}), frozenset({2}))


def written(tokens: list[int], turns: int = 1, **changes: Any) -> Writer:
    """A writer fed the tokens as a target would write them."""
    config = small_config(Path("x"), Path("y"), **{"length": 200, **changes})
    writer = Writer(CHAT, config, greedy=False, turns=turns)
    for token in tokens:
        assert not writer.done
        writer.accept(token)
    return writer


def test_writer_puts_the_turns_into_the_template() -> None:
    writer = written([10, 11, 2, 20, 2, 12, 2, 21, 22, 2], turns=2)
    conversation = writer.finished()
    assert writer.done
    assert conversation is not None
    assert conversation.tokens == [1, 1, 10, 11, 2, 3, 4, 20, 2, 5, 12, 2, 3, 4, 21, 22, 2]
    t, u, a = TEMPLATE, USER, ANSWER
    assert conversation.roles == [t, t, u, u, t, t, t, a, a, t, u, t, t, t, a, a, a]


def test_writer_cuts_long_turns() -> None:
    writer = written([10, 11, 12, 20, 21], user_length=2, answer_length=2)
    conversation = writer.finished()
    assert writer.done
    assert conversation is not None
    assert conversation.tokens == [1, 1, 10, 11, 2, 3, 4, 20, 21]


def test_writer_drops_empty_user_turns() -> None:
    assert written([2]).done
    assert written([2]).finished() is None
    second = written([10, 2, 20, 2, 2], turns=2)
    assert second.done
    assert second.finished() == Conversation([1, 1, 10, 2, 3, 4, 20, 2], [0, 0, 1, 0, 0, 0, 2, 2])


def test_conversations_are_what_the_target_writes(finished: TrainDraftConfig, tiny_target: Target) -> None:
    """Greedy answers must be the target's argmax at every token; template parts must stand where they belong."""
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_target("llama"))
    chat = read_chat_format(tokenizer, (2,))
    conversations = load_conversations(Path(finished.out) / "data")
    assert len(conversations) == len({tuple(each.tokens) for each in conversations})
    greedy = 0
    for conversation in conversations:
        tokens = torch.tensor([conversation.tokens])
        assert tuple(conversation.tokens[: len(chat.prefix)]) == chat.prefix
        best = model(tokens).logits[0].argmax(-1)
        answer = torch.tensor(conversation.roles)[1:] == ANSWER
        greedy += bool((best[:-1] == tokens[0, 1:])[answer].all())
        assert len(conversation.tokens) <= (224 if KINDS[conversation.kind].is_long else 90)
    assert 0.2 < greedy / len(conversations) < 0.8


@settings(max_examples=50)
@given(tokens=st.lists(st.integers(0, 99), min_size=1, max_size=20), share=st.floats(0, 1))
def test_held_out_split_is_fixed_and_monotone(tokens: list[int], share: float) -> None:
    conversation, again = Conversation(tokens, []), Conversation(list(tokens), [1])
    assert conversation.is_held_out(share) == again.is_held_out(share)
    assert not conversation.is_held_out(0.0)
    assert conversation.is_held_out(1.0)
    assert not (conversation.is_held_out(share / 2) and not conversation.is_held_out(share))


@pytest.mark.parametrize("run", [Engine, partial(TransformersLayers, attention=attend_in_lockstep), TransformersLayers])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_lockstep_equals_plain_forward(
    family: str, run: Callable[[PreTrainedModel], Forward], tiny_target: Target
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target(family)).eval()
    torch.manual_seed(0)
    tokens = torch.randint(96, (4, 20))  # within the window of the families that have one
    output = model(tokens, use_cache=False, output_hidden_states=True)
    expected = output.logits.detach()
    forward = run(model)
    lockstep = Lockstep(forward, 4, 20, layers=(1, 8))

    def check(position: int, rows: list[int], count: int = 1) -> None:
        logits, best = lockstep.append(tokens[rows, position : position + count])
        torch.testing.assert_close(logits, expected[rows, position + count - 1], rtol=1e-3, atol=1e-3)
        assert torch.equal(best, expected[rows, position + count - 1].argmax(-1))
        assert lockstep.length == position + count

    check(0, [0, 1, 2, 3], 5)
    for position in range(5, 12):
        check(position, [0, 1, 2, 3])
    lockstep.keep([0, 3, 2])
    check(12, [0, 3, 2])
    lockstep.keep([1, 2])
    for position in range(13, 20):
        check(position, [3, 2])

    def check_states(row: int, states: dict[str, torch.Tensor], size: int) -> None:
        close = partial(torch.testing.assert_close, rtol=1e-2, atol=2e-2)  # they are kept in bfloat16
        final = output.hidden_states[-1][row, :size]
        close(states["features"][:size, :32].float(), output.hidden_states[1][row, :size])
        close(states["final"][:size].float(), final)
        close(model.model.norm(states["features"][:size, 32:].float()), final)
        assert torch.equal(states["best"][:size].long(), expected[row, :size].argmax(-1))
        torch.testing.assert_close(states["total"][:size], expected[row, :size].logsumexp(-1), rtol=1e-4, atol=1e-3)

    sizes = {0: 12, 2: 20, 3: 17}  # the last token of each has none
    assert lockstep.states is not None
    joined = lockstep.states.joined(sizes)
    parts = {name: dict(zip(sizes, kept.split(list(sizes.values())), strict=True)) for name, kept in joined.items()}
    for row in sizes:
        states = {name: of_rows[row] for name, of_rows in parts.items()}
        check_states(row, states, sizes[row] - 1)
        assert not any(kept[-1].any() for kept in states.values())
    texts = [row[: 20 - 3 * i].tolist() for i, row in enumerate(tokens)]
    for index, states in read_states(forward, texts, (1, 8)):
        assert len(states["best"]) == 20 - 3 * index
        check_states(index, states, 20 - 3 * index)


@settings(max_examples=60)
@given(alive=st.sets(st.integers(0, 30), min_size=1))
def test_closing_ranks_moves_few_rows_forwards(alive: set[int]) -> None:
    rows = close_ranks(sorted(alive))
    assert sorted(rows) == sorted(alive)
    moved = [row for place, row in enumerate(rows) if row != place]
    assert all(row >= len(rows) for row in moved)


def test_openings_begin_their_share_of_the_turns() -> None:
    chat = ChatFormat((1, 1), (2, 3, 4), (2, 5), frozenset({2}), frozenset({2}), ((7, 8), (9,)))
    config = small_config(Path("x"), Path("y"), rows=400, opening_share=0.3)
    generator = torch.Generator().manual_seed(1)
    writers = new_writers(chat, config, new_sheet(KINDS[0], chat, config, generator), None, generator)
    openings = [tuple(writer.tokens[2:]) for writer in writers]
    assert set(openings) == {(), (7, 8), (9,)}
    assert 0.2 < sum(map(bool, openings)) / 400 < 0.4
    writer = next(each for each in writers if each.tokens[2:] == [7, 8])
    assert writer.roles == [TEMPLATE, TEMPLATE, USER, USER]
    for token in (12, 2, 20, 2):
        writer.accept(token)
    assert writer.tokens[:9] == [1, 1, 7, 8, 12, 2, 3, 4, 20]


def test_repeated_questions_are_one(tmp_path: Path) -> None:
    conversations = [
        Conversation([1, 5, 2, 9], [0, 1, 0, 2]),
        Conversation([1, 5, 2, 8], [0, 1, 0, 2]),
        Conversation([1, 6, 2, 9], [0, 1, 0, 2]),
    ]
    save_shard(conversations, tmp_path / "00000.safetensors")
    loaded = load_conversations(tmp_path)
    assert [each.tokens for each in loaded] == [[1, 5, 2, 9], [1, 6, 2, 9]]
    assert conversations[0].is_held_out(0.5) == conversations[1].is_held_out(0.5)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf, 2.0]).repeat(30_000, 1)
    temperatures = torch.tensor([0.0, 0.5, 1.0]).repeat(10_000)
    tokens = sample(logits, logits.argmax(-1), temperatures, torch.Generator().manual_seed(1))
    assert (tokens[temperatures == 0] == 4).all()
    for temperature in (0.5, 1.0):
        shares = torch.bincount(tokens[temperatures == temperature], minlength=5) / 10_000
        torch.testing.assert_close(shares, (logits[0] / temperature).softmax(-1), rtol=0, atol=0.02)
        assert shares[3] == 0


# --- features, vocabulary, order ------------------------------------------------------------------------------------


def test_cached_features_equal_hidden_states(finished: TrainDraftConfig, tiny_target: Target) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    reader = FeatureReader(Path(finished.out) / "features")
    for conversation in load_conversations(Path(finished.out) / "data")[::7]:
        output = model(torch.tensor([conversation.tokens]), output_hidden_states=True)
        read = reader.read(conversation)
        features = torch.cat([output.hidden_states[layer][0] for layer in (2, 4, 5)], dim=-1)
        # Nothing follows the last token, so the target did not read it.
        assert not any(kept[-1].any() for kept in read.values())
        torch.testing.assert_close(read["features"][:-1].float(), features[:-1], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(read["final"][:-1].float(), output.hidden_states[-1][0, :-1], rtol=1e-2, atol=1e-2)
        assert torch.equal(read["best"][:-1].long(), output.logits[0, :-1].argmax(-1))
        torch.testing.assert_close(read["total"][:-1], output.logits[0, :-1].logsumexp(-1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("missing", [["data/00001"], ["data/00000", "features/00000"], ["features/00002"]])
def test_shards_that_were_deleted_are_made_again(
    missing: list[str], finished: TrainDraftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the message about a damaged one advises."""
    out = tmp_path / "out"
    shutil.copytree(finished.out, out, ignore=shutil.ignore_patterns("checkpoint.pt", "head"))
    for name in missing:
        (out / f"{name}.safetensors").unlink()
    choose_averaged(monkeypatch)
    head = train_draft(TrainDraftConfig(**{**finished.to_dict(), "out": out}))
    for file in (Path(finished.out) / "data").iterdir():
        assert (out / "data" / file.name).read_bytes() == file.read_bytes()
    once, twice = (load_file(folder / "model.safetensors") for folder in (Path(finished.out) / "head", head))
    for name in once:
        assert torch.equal(once[name], twice[name]), name


def test_features_that_were_deleted_are_made_again(
    finished: TrainDraftConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out, ignore=shutil.ignore_patterns("features", "checkpoint.pt", "head"))
    choose_averaged(monkeypatch)
    head = train_draft(TrainDraftConfig(**{**finished.to_dict(), "out": out}))
    once, twice = (load_file(folder / "model.safetensors") for folder in (Path(finished.out) / "head", head))
    for name in once:
        assert torch.equal(once[name], twice[name]), name
    written, made = (FeatureReader(Path(folder) / "features") for folder in (finished.out, out))
    for conversation in load_conversations(out / "data"):
        one, other = written.read(conversation), made.read(conversation)
        for name in one:
            assert torch.equal(one[name][:-1], other[name][:-1]), name


def test_cached_features_that_are_not_whole_are_named(tmp_path: Path) -> None:
    save_file({"features": torch.zeros(2, 3), "best": torch.zeros(2)}, tmp_path / "00000.safetensors")
    with pytest.raises(InputError, match="is damaged: it lacks final; delete it, and run again"):
        FeatureReader(tmp_path)


def test_taps_reach_the_last_boundary(tiny_target: Target) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_target("llama"))
    seen: list[torch.Tensor] = []
    handle = model.model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with tapped(model, (8, 0)) as features:
        tokens = torch.arange(5)[None]
        model(tokens)
        assert torch.equal(features(), torch.cat([seen[0], model.model.embed_tokens(tokens)], dim=-1))
    handle.remove()
    assert not model.model.norm._forward_pre_hooks


@settings(max_examples=60)
@given(tokens=st.lists(st.integers(0, 29), max_size=80), size=st.integers(1, 30))
def test_vocabulary_equals_counting(tokens: list[int], size: int) -> None:
    vocabulary = choose_vocabulary(torch.tensor(tokens, dtype=torch.int64), 30, size)
    ranked = sorted(range(30), key=lambda word: (-tokens.count(word), word))[:size]
    assert vocabulary.target_ids.tolist() == sorted(ranked)
    covered = sum(token in ranked for token in tokens)
    assert vocabulary.coverage == pytest.approx(covered / max(1, len(tokens)))
    d2t, t2d = vocabulary.mappings(30)
    assert [draft + int(offset) for draft, offset in enumerate(d2t)] == sorted(ranked)
    assert [word for word in range(30) if t2d[word]] == sorted(ranked)


def test_vocabulary_larger_than_the_targets() -> None:
    with pytest.raises(InputError, match="draft_vocab_size is 31, but the target has only 30 words"):
        choose_vocabulary(torch.tensor([1]), 30, 31)


@settings(max_examples=100)
@given(work=st.lists(st.integers(1, 2000), min_size=1, max_size=300), batch=st.integers(1, 7), epoch=st.integers(0, 3))
def test_batches_visit_everything_once_and_are_as_much_work(work: list[int], batch: int, epoch: int) -> None:
    order = epoch_order(work, batch, seed=3, epoch=epoch)
    assert sorted(index for indices in order for index in indices) == list(range(len(work)))
    assert len(order) == -(-len(work) // batch)
    assert max(map(len, order)) <= batch
    assert order == epoch_order(work, batch, seed=3, epoch=epoch)

    def waits(batches: list[list[int]]) -> int:
        return sum(max(work[i] for i in each) - min(work[i] for i in each) for each in batches)

    if len(work) % batch == 0:  # a last batch that is smaller may happen to fit better elsewhere
        assert waits(order) <= waits(epoch_order([0] * len(work), batch, seed=3, epoch=epoch))


@pytest.mark.parametrize(("kind", "expected"), [("eagle3", 7 + UNROLLED * 3), ("chain", 7)])
def test_what_a_conversation_takes(kind: str, expected: int, tiny_target: Target) -> None:
    config = TrainDraftConfig(out="x", kind=kind, draft_vocab_size=48)
    maker = open_maker(config, load_model(str(tiny_target("llama")), torch.float32, torch.device("cpu")))
    assert (
        maker.work(Conversation([1, 2, 3, 4, 5, 6, 7], [TEMPLATE, USER, TEMPLATE, ANSWER, ANSWER, ANSWER, USER]))
        == expected
    )


def test_default_feature_layers_of_a_shallow_target() -> None:
    from transformers import LlamaConfig

    shallow = LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    assert Eagle3Config.for_target(shallow, draft_vocab_size=10).feature_layers == (2, 1, 0)
