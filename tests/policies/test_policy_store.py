"""Policies that are taken by themselves: which one is found for a setting, and which is left alone."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import ltd
from ltd.common.assets import TRACES_FACTS, shipped_traces
from ltd.common.files import file_hash
from ltd.drafts.opening import LOOKUP
from ltd.drafts.sharpness import Sharpness, SharpnessAt, save_sharpness
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.methods import TreeMethod
from ltd.loading import load
from ltd.policies.learned import store
from ltd.policies.learned.bundle import Bundle, save_bundle
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting
from ltd.policies.learned.store import bundle_folder, quick_folder, remove_kept
from ltd.policies.rule_file import RULE, write_rule
from ltd.policy_choice import ChosenPolicy, choose_policy, expected_setting, quick_tunes, setting_of
from ltd.target.device import resolve_device

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
HERE = Setting(10, None, 96, 32, 8, "abc", "A Processor (R) 9", "float32")
CHANGES = [
    {"head_sha256": "other"},
    {"hardware": "another"},
    {"dtype": "bfloat16"},
    {"vocab_size": 95},
    {"layers": 9},
]


def save(made_for: Setting, folder: Path, size: int = 5) -> Path:
    """A bundle without networks, told by its size."""
    save_bundle(Bundle(Learned(made_for, 2, (size,))), folder)
    return folder


def found(setting: Setting, device: torch.device = CPU) -> ChosenPolicy:
    return choose_policy(None, lambda: setting, device)


def found_folder(setting: Setting, device: torch.device = CPU) -> Path | None:
    bundle = found(setting, device).bundle
    return None if bundle is None else bundle.folder


def found_size(setting: Setting, device: torch.device = CPU) -> int | None:
    chosen = found(setting, device)
    assert (chosen.bundle is None) == (chosen.origin == "static")
    return None if chosen.bundle is None else chosen.policy.max_size


def static_tree(device: torch.device = CPU) -> Any:
    return choose_policy("static", must_not_be_asked, device).policy


def must_not_be_asked() -> Setting:
    raise AssertionError("the answer does not depend on the setting")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ltd" / "policies"


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "shipped_policies", lambda: tmp_path / "shipped")
    return tmp_path / "shipped"


def test_every_setting_has_its_folder(cache: Path) -> None:
    folders = {bundle_folder(replace(HERE, **change)) for change in ({}, *CHANGES)}
    assert len(folders) == 1 + len(CHANGES)
    assert bundle_folder(HERE).parent == cache
    assert bundle_folder(HERE).name.startswith("a-processor-r-9-float32-")
    for same in ({"target": "a name"}, {"width": 4}):  # a draft takes the beam width of its policy
        assert bundle_folder(replace(HERE, **same)) == bundle_folder(HERE)


def test_a_bundle_brings_its_beam_width() -> None:
    save(replace(HERE, width=4), bundle_folder(HERE))
    chosen = found(HERE)
    assert chosen.origin == "tuned" and isinstance(chosen.policy, Learned) and chosen.policy.width == 4


def test_a_tuned_bundle_is_for_its_setting_only() -> None:
    folder = save(replace(HERE, target="a name"), bundle_folder(HERE))
    chosen = found(HERE)
    assert (found_folder(HERE), chosen.origin, chosen.policy.sizes) == (folder, "tuned", (5,))
    assert chosen.files == [folder / "policy.json"]
    assert [found_size(replace(HERE, **change)) for change in CHANGES] == [None] * len(CHANGES)


def test_a_bundle_in_the_wrong_place_is_left_alone() -> None:
    save(replace(HERE, layers=9), bundle_folder(HERE))
    assert found_folder(HERE) is None


def test_nothing_is_found_for_an_unknown_head() -> None:
    unknown = replace(HERE, head_sha256=None)
    save(unknown, bundle_folder(unknown))
    assert found_folder(unknown) is None


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_damaged_bundle_is_told_and_left_out(shipped: Path, name: str) -> None:
    folder = save(HERE, bundle_folder(HERE))
    save(HERE, shipped / "one", size=7)
    (folder / name).write_bytes(b"{")
    with pytest.warns(UserWarning, match="cannot be used.*left out") as caught:
        assert found_size(HERE) == 7
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and str(folder) in str(caught[0].message)


def test_an_unfinished_bundle_is_none_yet() -> None:
    (save(HERE, bundle_folder(HERE)) / "policy.json").unlink()
    assert found_folder(HERE) is None


def test_a_shipped_bundle_may_be_from_another_processor_only(shipped: Path) -> None:
    save(HERE, shipped / "one")
    elsewhere = replace(HERE, hardware="another")
    assert (found_folder(elsewhere), found(elsewhere).origin) == (shipped / "one", "shipped")
    assert found_folder(elsewhere, torch.device("cuda")) is None
    for change in CHANGES:
        assert (found_size(replace(HERE, **change)) is None) == (change != {"hardware": "another"})


def test_the_most_similar_shipped_bundle_counts_and_a_tuned_one_before_all(shipped: Path) -> None:
    for name, hardware, size in (("a", "another", 1), ("b", HERE.hardware, 2), ("c", "a third", 3)):
        save(replace(HERE, hardware=hardware), shipped / name, size)
    assert (found_size(HERE), found_size(replace(HERE, hardware="unknown"))) == (2, 1)
    save(HERE, bundle_folder(HERE), 4)
    assert found_size(HERE) == 4


@pytest.mark.parametrize(
    ("here", "size"),
    [
        ("Intel Xeon (AMX)", 1),
        ("Another EPYC (AVX-512 BF16)", 1),
        ("AMD EPYC (AVX-512)", 1),
        ("Intel Xeon (AVX2)", 2),
        ("An Apple (aarch64)", 2),
        ("unknown", 2),
    ],
)
def test_vector_instructions_count_before_the_processor(shipped: Path, here: str, size: int) -> None:
    save(replace(HERE, hardware="AMD EPYC (AVX-512 BF16)"), shipped / "b", 1)
    save(replace(HERE, hardware="AMD EPYC (AVX2)"), shipped / "a", 2)
    assert found_size(replace(HERE, hardware=here)) == size


def test_what_was_quickly_tuned_comes_after_what_was_tuned_and_before_what_is_shipped(shipped: Path) -> None:
    save(replace(HERE, hardware="another"), shipped / "one", 1)
    assert (found_size(HERE), found(HERE).origin) == (1, "shipped")
    folder = save(HERE, quick_folder(HERE), 2)
    assert (found_size(HERE), found(HERE).origin, found(HERE).files) == (2, "quick", [folder / "policy.json"])
    assert "quickly tuned for this machine, in" in str(found(HERE)) and "ltd tune takes minutes" in str(found(HERE))
    for change in CHANGES:
        assert found(replace(HERE, **change)).origin != "quick"
    save(HERE, bundle_folder(HERE), 3)
    assert (found_size(HERE), found(HERE).origin) == (3, "tuned")
    remove_kept(bundle_folder(HERE))
    assert found(HERE).origin == "quick"
    remove_kept(folder)
    write_rule("both:depth=1:size=3", {}, folder / RULE)
    assert (str(found(HERE).policy), found(HERE).origin) == (str(ltd.Both(1, 3)), "quick")
    write_rule("lookup:size=4", {}, bundle_folder(HERE) / RULE)
    assert (found(HERE).policy, found(HERE).origin) == (ltd.Lookup(4), "tuned")


def test_a_damaged_quickly_tuned_bundle_is_left_out_with_a_warning(shipped: Path) -> None:
    save(replace(HERE, hardware="another"), shipped / "one", 1)
    folder = save(HERE, quick_folder(HERE), 2)
    (folder / "policy.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"policy.safetensors is not the file .* left out"):
        assert found(HERE).origin == "shipped"


def test_quick_tuning_is_for_the_target_and_the_head_of_the_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Setting(**json.loads((shipped_traces() / TRACES_FACTS).read_text())["made_for"])
    for change in (
        {},
        {"dtype": "float32"},
        {"hardware": "another", "threads": 1},
        {"head_sha256": LOOKUP, "width": 7},
    ):
        assert quick_tunes(replace(traced, **change), CPU)
        assert "ltd tune --quick" in found(replace(traced, **change)).advice
    for change in ({"layers": 9}, {"vocab_size": 96}, {"head_sha256": "other"}, {"head_sha256": None}):
        assert not quick_tunes(replace(traced, **change), CPU)
        assert "--quick" not in found(replace(traced, **change)).advice
    assert not quick_tunes(traced, torch.device("cuda"))
    monkeypatch.setattr("ltd.policy_choice.shipped_traces", lambda: Path("nowhere"))
    assert not quick_tunes(traced, CPU)


def test_threads_count_for_tuned_bundles_and_not_for_shipped_ones(shipped: Path) -> None:
    if "threads" not in {field.name for field in fields(Setting)}:
        pytest.skip("settings hold no threads")
    changes: list[dict[str, Any]] = [{"threads": 1}, {"threads": 2}]
    one, two = (replace(HERE, **change) for change in changes)
    save(one, bundle_folder(one), 1)
    assert (found_size(one), found_size(two)) == (1, None)
    save(one, shipped / "one", 3)
    assert found_size(two) == 3


# --- where it is used ---


@pytest.fixture
def model(tiny_target: Folder, tiny_head: Folder) -> dict[str, Any]:
    return {"target": str(tiny_target("llama")), "draft": str(tiny_head("llama")), "dtype": "float32"}


def test_the_setting_is_known_before_the_model_is_loaded(model: dict[str, Any]) -> None:
    expected = expected_setting(model["target"], model["draft"], torch.float32, CPU)
    assert expected == setting_of(load(**model, device="cpu"))
    assert expected_setting(model["target"], "none", torch.float32, CPU) is None


def test_load_takes_the_tuned_policy_unless_told_otherwise(model: dict[str, Any]) -> None:
    plain = load(**model, device="cpu")
    assert plain.policy == static_tree()
    save(setting_of(plain), bundle_folder(setting_of(plain)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned = load(**model, device="cpu")
    assert isinstance(tuned.policy, Learned) and tuned.policy.sizes == (5,)
    options: dict[str, Any] = {"max_new_tokens": 12}
    assert tuned.generate([5, 6], **options).token_ids == plain.generate([5, 6], policy="none", **options).token_ids
    assert load(**model, device="cpu", policy="static").policy == static_tree()
    assert load(**model, device="cpu", policy="none").policy is None
    assert load(**model, device="cpu", policy=ltd.Static(1, 2)).policy == ltd.Static(1, 2)
    assert load(**{**model, "draft": "none"}, device="cpu").policy is None
    assert load(**{**model, "dtype": "bfloat16"}, device="cpu").policy == static_tree()


def test_load_takes_a_shipped_policy_of_another_processor_without_a_warning(
    model: dict[str, Any], shipped: Path
) -> None:
    setting = setting_of(load(**model, device="cpu"))
    save(replace(setting, hardware="another"), shipped / "one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(load(**model, device="cpu").policy, Learned)


def test_a_policy_that_learned_beside_other_factors_is_taken_and_says_so(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path, shipped: Path
) -> None:
    head = tmp_path / "head"
    shutil.copytree(tiny_head("llama"), head)
    model: dict[str, Any] = {"target": tiny_target("llama"), "draft": head, "dtype": "float32", "device": "cpu"}
    before = setting_of(load(**model))
    save_sharpness(Sharpness((SharpnessAt(1.0, [0.5]),)), head, {})
    fitted = setting_of(load(**model))
    assert (before.sampling_sha256, fitted.sampling_sha256) == ("none", file_hash(head / "sampling.json"))
    assert bundle_folder(before) == bundle_folder(fitted)
    places = [(bundle_folder(fitted), None), (shipped / "one", None), (tmp_path / "given", tmp_path / "given")]
    for folder, policy in places:
        for learned_with, warns in ((before, True), (fitted, False), (replace(before, sampling_sha256=None), False)):
            save(learned_with, folder)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert isinstance(load(**model, policy=policy).policy, Learned)
            told = [each for each in caught if "with other factors for sampled text" in str(each.message)]
            assert len(told) == warns and all(each.category is ltd.TunedElsewhereWarning for each in told)
        remove_kept(folder)


def test_load_goes_on_without_a_damaged_policy(model: dict[str, Any]) -> None:
    setting = setting_of(load(**model, device="cpu"))
    (save(setting, bundle_folder(setting)) / "policy.json").write_text("[]")
    with pytest.warns(UserWarning, match="cannot be used"):
        assert load(**model, device="cpu").policy == static_tree()


def test_custom_generate_takes_it_too(model: dict[str, Any]) -> None:
    setting = setting_of(load(**model, device="cpu"))
    save(setting, bundle_folder(setting))
    custom = ltd.CustomGenerate(model["draft"], policy=ltd.Static(1, 3))
    transformer = AutoModelForCausalLM.from_pretrained(model["target"], dtype=torch.float32)
    choices: list[tuple[Any, int]] = [(custom.policy, 3), (None, 5), ("static", 3), ("none", 0)]
    for custom.policy, size in choices:
        transformer.generate(torch.tensor([[5, 6, 7]]), custom_generate=custom, max_new_tokens=8, do_sample=False)
        assert min(custom.last_statistics.sizes) == size  # static adds what it looks up


def test_an_evaluation_of_the_tuned_policy(model: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data" / "t").mkdir(parents=True)
    (tmp_path / "data" / "t" / "question.jsonl").write_text(json.dumps({"turns": ["Hello"]}) + "\n")
    config = EvalConfig(
        tmp_path / "data", tmp_path / "out", ("t",), max_new_tokens=8, methods=("none", "tuned"), **model
    )
    with pytest.raises(ltd.InputError, match="make one with ltd tune"):
        evaluate(config)
    assert not (tmp_path / "out").exists()
    setting = expected_setting(model["target"], model["draft"], torch.float32, resolve_device(None))
    assert setting is not None
    save(setting, bundle_folder(setting))
    plain, tuned = evaluate(config)["samples"]
    assert set(plain["sizes"]) == {0} and set(tuned["sizes"]) == {5} and tuned["identical_to_none"]
    save(setting, bundle_folder(setting), 6)
    with pytest.raises(ltd.InputError, match="with other policies or networks behind its methods"):
        evaluate(config)


# --- what a choice says of itself ---


def test_a_choice_is_a_sentence_and_names_its_files(shipped: Path) -> None:
    static = f"{static_tree()}, as no learned one fits; ltd tune makes one for this machine"
    assert (str(found(HERE)), found(HERE).files) == (static, [])
    save(replace(HERE, hardware="another"), shipped / "one")
    assert str(found(HERE)).startswith("depth 2, size 5, shipped with ltd and tuned on another; ltd tune")
    assert found(HERE).files == [shipped / "one" / "policy.json"]
    folder = save(HERE, bundle_folder(HERE))
    assert str(found(HERE)) == f"depth 2, size 5, tuned for this machine, in {folder}"
    given = choose_policy(str(folder), lambda: HERE, CPU)
    assert (str(given), given.origin, given.files) == (f"depth 2, size 5, in {folder}", "given", found(HERE).files)


def test_what_needs_no_setting_does_not_ask_for_it() -> None:
    plain = choose_policy("none", must_not_be_asked, CPU)
    assert (plain.policy, plain.origin, str(plain), plain.files) == (None, "none", "plain decoding", [])
    given = choose_policy(ltd.Static(1, 2), must_not_be_asked, CPU)
    assert (given.policy, given.origin, str(given)) == (
        ltd.Static(1, 2),
        "given",
        "static, depth 1, size 2, as asked for",
    )
    assert static_tree(torch.device("cuda")) == ltd.Static(8, 60) != static_tree()


def test_without_a_draft_there_is_nothing_to_choose() -> None:
    assert choose_policy(None, lambda: None, CPU).origin == "none"
    policy = Learned(replace(HERE, head_sha256="other"), 2, (5,))
    assert choose_policy(policy, lambda: None, CPU).policy is policy


def test_a_word_that_is_no_folder_is_refused(model: dict[str, Any]) -> None:
    for asked in ("magic", Path("magic")):
        with pytest.raises(ltd.InputError, match="unknown policy 'magic'; use static, none or the folder"):
            choose_policy(asked, must_not_be_asked, CPU)
        with pytest.raises(ltd.InputError, match="unknown policy 'magic'"):
            load(**model, device="cpu", policy=asked)
        with pytest.raises(ltd.InputError, match="unknown policy 'magic'"):
            ltd.CustomGenerate(model["draft"], policy=asked)


@pytest.mark.parametrize("origin", ["tuned", "shipped", "static"])
def test_load_takes_what_is_told_before_it_loads(model: dict[str, Any], shipped: Path, origin: str) -> None:
    setting = expected_setting(model["target"], model["draft"], torch.float32, CPU)
    assert setting is not None
    if origin != "static":
        save(setting, bundle_folder(setting) if origin == "tuned" else shipped / "one")
    told, taken = found(setting), load(**model, device="cpu").policy
    assert told.origin == origin
    assert (str(taken), type(taken)) == (str(told.policy), type(told.policy))


def test_a_policy_for_another_head_is_refused_before_the_weights_are_read(
    model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = expected_setting(model["target"], model["draft"], torch.float32, CPU)
    assert setting is not None
    save(replace(setting, head_sha256="other"), tmp_path / "other")
    monkeypatch.setattr("ltd.loading.load_model", must_not_be_asked)
    with pytest.raises(ltd.InputError, match="hash of other"):
        load(**model, device="cpu", policy=tmp_path / "other")


def test_custom_generate_checks_every_policy_that_it_is_given(model: dict[str, Any]) -> None:
    custom = ltd.CustomGenerate(model["draft"], policy="none")
    transformer = AutoModelForCausalLM.from_pretrained(model["target"], dtype=torch.float32)
    options: dict[str, Any] = {"custom_generate": custom, "max_new_tokens": 4, "do_sample": False}
    transformer.generate(torch.tensor([[5, 6, 7]]), **options)
    setting = setting_of(load(**model, device="cpu"))
    custom.policy = Learned(replace(setting, head_sha256="other"), 2, (5,))
    for _ in range(2):
        with pytest.raises(ltd.InputError, match="hash of other"):
            transformer.generate(torch.tensor([[5, 6, 7]]), **options)
    custom.policy = Learned(setting, 2, (5,))
    transformer.generate(torch.tensor([[5, 6, 7]]), **options)
    assert set(custom.last_statistics.sizes) == {5}


def test_a_model_of_another_family_is_refused_before_its_sizes_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))  # it has no vocab_size
    with pytest.raises(ltd.InputError, match="'clip' model; ltd supports"):
        expected_setting(tmp_path, None, torch.float32, CPU)


# --- the best static tree of a bundle ---


def grid(setting: Setting) -> ChosenPolicy | None:
    return TreeMethod.named("grid").choose(lambda: setting, CPU).chosen


def save_with_best(best: object) -> Path:
    folder = bundle_folder(HERE)
    save_bundle(Bundle(Learned(HERE, 2, (5,)), training={} if best is None else {"best_static": best}), folder)
    return folder


def test_the_method_grid_is_the_best_static_tree_of_the_bundle() -> None:
    with pytest.raises(ltd.InputError, match="which static tree is the best here; find it with ltd tune"):
        grid(HERE)
    save_with_best(None)
    with pytest.raises(ltd.InputError, match="which static tree is the best here; find it with ltd tune"):
        grid(HERE)
    folder = save_with_best((3, 9))
    chosen = grid(HERE)
    assert chosen is not None and (chosen.policy, chosen.files) == (
        ltd.Static(3, 9, width=10),
        [folder / "policy.json"],
    )
    assert TreeMethod.named("tuned").choose(lambda: HERE, CPU).files == [folder / "policy.json"]


@pytest.mark.parametrize("best", [5, "3:9", [3], [3, 9, 1], [3.0, 9], [True, 9], [13, 9], [3, -1], {"depth": 3}])
def test_a_bundle_whose_best_static_tree_is_none_is_refused(best: object) -> None:
    save_with_best(best)
    with pytest.raises(ltd.InputError, match=r"best_static is .*, but must be a tree's depth and size"):
        grid(HERE)
