"""Policy bundles: what is written is read again, what is wrong is told, and where they are accepted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ltd
from ltd.cli.generate import asked_policy
from ltd.common.files import file_hash
from ltd.evaluation.methods import Method, TreeMethod
from ltd.evaluation.run_config import RunConfig, run_settings
from ltd.loading import load
from ltd.policies.learned.allowance import Costs
from ltd.policies.learned.bundle import Bundle, load_bundle, save_bundle
from ltd.policies.learned.network import Network
from ltd.policies.learned.observation import ANY_LENGTH, Summary, depth_layout, size_layout
from ltd.policies.learned.policy import Learned
from ltd.policies.learned.setting import Setting, check_fits
from ltd.policy_choice import setting_of

Folder = Callable[[str], Path]
Change = Callable[[dict[str, Any]], Any]


def network(layout: Any, hidden: list[int], outputs: int) -> Network:
    sizes = [layout.width, *hidden, outputs]
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    return Network(
        layout, tuple(t for rows, columns in shapes for t in (torch.randn(rows, columns), torch.randn(rows)))
    )


def bundle(made_for: Setting) -> Bundle:
    depth, size = network(depth_layout(10), [8], 2), network(size_layout(10, 3), [6, 5], 3)
    policy = Learned(made_for, 3, (0, 8, 20), depth, size, min_depth=1)
    return Bundle(policy, "renewal", {"steps": 1000}, {"speedup": 1.5})


def tensors(policy: Learned) -> list[torch.Tensor]:
    networks = [net for net in (policy.depth_network, policy.size_network) if net is not None]
    return [tensor for net in networks for tensor in net.weights]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(bundle(Setting(10)), tmp_path / "policy")
    return tmp_path / "policy"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    setting = Setting(10, "a model", 96, 32, 8, "abc", "a processor", "float32", 2)
    written = bundle(setting)
    save_bundle(written, tmp_path / "deep" / "policy")
    read = load_bundle(tmp_path / "deep" / "policy")
    assert sorted(path.name for path in (tmp_path / "deep" / "policy").iterdir()) == [
        "policy.json",
        "policy.safetensors",
    ]
    assert (read.reward, read.training, read.validation) == ("renewal", {"steps": 1000}, {"speedup": 1.5})
    assert read.versions == written.versions and set(read.versions) == {"ltd", "torch"}
    assert read.policy.made_for == setting and str(read.policy) == str(written.policy)
    assert (read.policy.depth_limit, read.policy.min_depth, read.policy.sizes) == (3, 1, (0, 8, 20))
    for one, other in zip(tensors(read.policy), tensors(written.policy), strict=True):
        assert torch.equal(one, other)
    weights = load_file(tmp_path / "deep" / "policy" / "policy.safetensors")
    assert sorted(weights) == sorted(["depth.w0", "depth.b0", "depth.w1", "depth.b1",
                                      *(f"size.{kind}{layer}" for kind in "wb" for layer in range(3))])  # fmt: skip


@pytest.mark.parametrize("name", ["renewal", None])
def test_bundles_of_before_call_their_reward_objective(folder: Path, name: str | None) -> None:
    edit(folder, lambda v: (v.pop("reward"), v.update(objective=name, training={"objective": name})))
    read = load_bundle(folder)
    assert (read.reward, read.training) == (name, {"objective": name})


def test_summaries_costs_and_activations_are_kept(tmp_path: Path) -> None:
    known = {5: (81, 550), 0: ANY_LENGTH}
    depth, size = (network(Summary(24, 8, states, length_range), [4], 3) for states, length_range in known.items())
    depth = Network(depth.layout, (*depth.weights[:2], torch.randn(2, 4), torch.randn(2)), "tanh")
    written = Learned(Setting(10, threads=2), 3, (0, 8, 20), depth, size, costs=Costs(0.5, 0.25, (1.0, 1.5, 2.5)))
    save_bundle(Bundle(written), tmp_path)
    read = load_bundle(tmp_path).policy
    assert (read.costs, read.made_for) == (written.costs, written.made_for)
    assert read.depth_network is not None and read.size_network is not None
    assert (read.depth_network.layout, read.size_network.layout) == (depth.layout, size.layout)
    assert (read.depth_network.activation, read.size_network.activation) == ("tanh", "relu")
    edit(tmp_path, lambda v: v["depth_network"].update(ranked_unit=5.0))
    with pytest.raises(ltd.InputError, match=r"ranked_unit of its depth network is 5\.0"):
        load_bundle(tmp_path)


def test_whether_the_text_is_read_is_kept_and_bundles_of_before_do_not_read_it(tmp_path: Path) -> None:
    def written_and_read(text: int, *unknown: str) -> tuple[list[int], list[Any], int]:
        """What is written of the text; the layouts and the most candidates of the text that are read again."""
        layouts = Summary(24, 8, 5, text=text), Summary(12, 6, text=text)
        networks = network(layouts[0], [4], 2), network(layouts[1], [4], 3)
        save_bundle(Bundle(Learned(Setting(10), 3, (0, 8, 20), *networks, max_text=2 * text)), tmp_path)
        written = json.loads((tmp_path / "policy.json").read_text())
        facts = [written[f"{name}_network"]["text"] for name in ("depth", "size")]
        for name in unknown:
            edit(tmp_path, lambda v, name=name: (v[f"{name}_network"].pop("text"), v.pop("max_text", None)))
        read = load_bundle(tmp_path).policy
        assert read.depth_network is not None and read.size_network is not None
        assert (read.depth_network.layout, read.size_network.layout) == layouts
        return facts, [read.depth_network.layout.text, read.size_network.layout.text], read.max_text

    assert written_and_read(0, "depth", "size") == ([0, 0], [0, 0], 0)
    assert written_and_read(24) == ([24, 24], [24, 24], 48)
    for wrong, message in ((5, "5 numbers of the text cannot be"), ("24", "text is '24', but must be of type int")):
        edit(tmp_path, lambda v, wrong=wrong: v["depth_network"].update(text=wrong))
        with pytest.raises(ltd.InputError, match=message):
            load_bundle(tmp_path)


def test_the_range_of_lengths_is_kept_and_bundles_of_before_have_none(tmp_path: Path) -> None:
    layouts = replace(depth_layout(10), length_range=(81, 550)), replace(size_layout(10, 1), length_range=(90, 700))
    save_bundle(
        Bundle(Learned(Setting(10), 1, (0, 8, 20), network(layouts[0], [], 2), network(layouts[1], [], 3))), tmp_path
    )
    written = json.loads((tmp_path / "policy.json").read_text())
    assert [written[f"{name}_network"]["length_range"] for name in ("depth", "size")] == [[81, 550], [90, 700]]

    def read() -> list[Any]:
        policy = load_bundle(tmp_path).policy
        assert policy.depth_network is not None and policy.size_network is not None
        return [policy.depth_network.layout, policy.size_network.layout]

    assert read() == list(layouts)
    edit(tmp_path, lambda v: v["depth_network"].pop("length_range"))
    edit(tmp_path, lambda v: v["size_network"].update(length_range=None))
    assert read() == [depth_layout(10), size_layout(10, 1)] and read()[0].length_range == ANY_LENGTH


FORMER = {"recents": 0, "recent_rates": [0.5, 0.85], "recent_start": 1.0}


def test_bundles_of_before_say_that_they_do_not_read_what_was_accepted_lately(tmp_path: Path) -> None:
    networks = network(Summary(best=24, newest=8), [4], 2), network(size_layout(10, 1), [4], 3)
    save_bundle(Bundle(Learned(Setting(10), 1, (0, 8, 20), networks[0], networks[1])), tmp_path)
    edit(tmp_path, lambda v: v["depth_network"].update(FORMER))
    read = load_bundle(tmp_path).policy
    assert read.depth_network is not None and read.depth_network.layout == networks[0].layout
    edit(tmp_path, lambda v: v["depth_network"].update(recents=2))
    with pytest.raises(
        ltd.InputError, match=r"depth network reads how much was accepted lately, .* ltd tune"
    ) as caught:
        load_bundle(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["depth_network", "size_network"])
def test_a_network_may_be_missing(tmp_path: Path, missing: str) -> None:
    both = bundle(Setting(10)).policy
    sizes = (60,) if missing == "size_network" else both.sizes
    save_bundle(Bundle(replace(both, sizes=sizes, **{missing: None})), tmp_path)
    read = load_bundle(tmp_path).policy
    assert getattr(read, missing) is None and read.sizes == sizes and len(tensors(read)) in (4, 6)


def edit(folder: Path, change: Change) -> None:
    values = json.loads((folder / "policy.json").read_text())
    change(values)
    (folder / "policy.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema=2), "schema is 2, but this version of ltd reads 1"),
        (lambda v: v.update(format="other"), "does not say"),
        (lambda v: v.pop("sizes"), "policy.json lacks sizes"),
        (lambda v: (v.pop("costs"), v.pop("depth_network")), "policy.json lacks costs, depth_network"),
        (lambda v: v.update(sizes=None), "sizes is None, but must be of type list"),
        (lambda v: v.update(sizes=[1, "2", 3]), "sizes is '2', but must be of type int"),
        (lambda v: v.update(sizes=[1, 2]), "holds 2 sizes, but its network has 3"),
        (lambda v: v.update(depth_limit="3"), "depth_limit is '3'"),
        (lambda v: v.update(depth_limit=True), "depth_limit is True"),
        (lambda v: v.update(depth_limit=12), "up to 1210"),
        (lambda v: v.update(reward=3), "reward is 3"),
        (lambda v: v.pop("reward"), "policy.json lacks reward"),
        (lambda v: (v.pop("reward"), v.update(objective=3)), "objective is 3"),
        (lambda v: v.update(training=[]), "training is"),
        (lambda v: v.update(size_network=None, sizes=[60]), "tensors that no network has: size.b0"),
        (lambda v: v["made_for"].pop("width"), "width is None"),
        (lambda v: v.update(min_dept=1, size=3), "policy.json holds what .* does not know: min_dept, size$"),
        (lambda v: v["made_for"].update(colour="blue"), "made_for holds what .* does not know: colour"),
        (lambda v: v["depth_network"].update(best=3), "its depth network holds what .* does not know: best"),
        (
            lambda v: v.update(costs={"begin": 1, "expand": 1, "verify": [1, 2, 3], "look_up": 1}),
            "costs holds what .* does not know: look_up",
        ),
        (lambda v: v["depth_network"].update(slots=99), "depth network: layer 0 reads 127 numbers"),
        (lambda v: v["depth_network"].update(repeats=-14), "-14"),
        (lambda v: v["depth_network"].update(length_unit=100.0), "length_unit of its depth network is 100.0"),
        (lambda v: v["size_network"].update(activation="gelu"), "activation of its size network is 'gelu'"),
        (lambda v: v["size_network"].pop("activation"), "activation of its size network is None"),
        (lambda v: v["size_network"].update(observation="pixels"), "observation of its size network is 'pixels'"),
        (lambda v: v["size_network"].update(observation=[]), "observation of its size network is"),
        (lambda v: v["size_network"].update(observation="summary"), "ranked_unit of its size network is None"),
        (lambda v: v["depth_network"].update(length_range=550), "length_range is 550, but must be of type list"),
        (lambda v: v["depth_network"].update(length_range=[1, 2, 3]), "must be the shortest and the longest"),
        (lambda v: v["depth_network"].update(length_range=[1, "2"]), "length_range is '2', but must be of type int"),
        (
            lambda v: v["size_network"].update(length_range=[9, 8]),
            "size network: context lengths of 9 … 8 are no range",
        ),
        (lambda v: v.update(costs=[]), "costs is \\[\\], but must be of type dict"),
        (lambda v: v.update(costs={"begin": 1, "expand": 1.5, "verify": [1, "2", 3]}), "a cost is '2'"),
        (lambda v: v.update(costs={"begin": 1, "expand": True, "verify": [1, 2, 3]}), "a cost is True"),
        (lambda v: v.update(costs={"begin": 10**400, "expand": 1, "verify": [1, 2, 3]}), "a cost is 1000"),
        (lambda v: v.update(costs={"begin": -1, "expand": 1, "verify": [1, 2, 3]}), "a cost of -1.0 plain tokens"),
        (lambda v: v.update(costs={"begin": 1, "expand": 1, "verify": [1, 2]}), "costs of 2 sizes"),
        (lambda v: v["made_for"].update(threads="2"), "threads is '2'"),
        (lambda v: v.update(weights_sha256="0"), "not the file that policy.json was written for"),
    ],
)
def test_wrong_facts_are_one_sentence(folder: Path, change: Change, message: str) -> None:
    edit(folder, change)
    with pytest.raises(ltd.InputError, match=message) as caught:
        load_bundle(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ltd.InputError, match=f"{name} is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"{"])
def test_facts_that_are_no_json_object(folder: Path, content: bytes) -> None:
    (folder / "policy.json").write_bytes(content)
    with pytest.raises(ltd.InputError, match=r"policy\.json"):
        load_bundle(folder)


def test_damaged_weights(folder: Path) -> None:
    (folder / "policy.safetensors").write_bytes(b"no weights")
    edit(folder, lambda v: v.update(weights_sha256=file_hash(folder / "policy.safetensors")))
    with pytest.raises(ltd.InputError, match="cannot be read"):
        load_bundle(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ltd.InputError, match="cannot write"):
        save_bundle(bundle(Setting(10)), tmp_path / "file")


HERE = Setting(10, None, 96, 32, 8, "abc", "a processor", "float32", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 95}, "vocabulary of 95, but here it is 96"),
        ({"layers": 9}, "layers of 9"),
        ({"hidden_size": 31}, "hidden states of 31"),
        ({"head_sha256": "def"}, "hash of def"),
    ],
)
def test_a_policy_for_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    policy = Learned(replace(HERE, **change), 3, (60,))
    with pytest.raises(ltd.InputError, match=message):
        check_fits(policy.made_for, HERE)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({}, []),
        ({"target": "a name"}, []),
        ({"hardware": "another"}, ["tuned on another, but runs on a processor"]),
        ({"dtype": "bfloat16"}, ["tuned on bfloat16, but runs on float32"]),
        ({"threads": 8}, ["tuned on 8 threads, but runs on 2 threads"]),
        ({"hardware": None, "dtype": None, "threads": None}, ["unknown hardware", "unknown dtype", "unknown threads"]),
        ({"vocab_size": None, "layers": None, "hidden_size": None, "head_sha256": None}, []),
    ],
)
def test_a_policy_tuned_elsewhere_is_warned_of(change: dict[str, Any], messages: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_fits(replace(HERE, **change), HERE)
    assert len(caught) == len(messages)
    for warning, message in zip(caught, messages, strict=True):
        assert warning.category is ltd.TunedElsewhereWarning
        assert message in str(warning.message) and "ltd tune" in str(warning.message)


@pytest.mark.filterwarnings("error::ltd.policies.learned.setting.TunedElsewhereWarning")
def test_a_folder_is_a_policy_wherever_one_is_chosen(tiny_target: Folder, tiny_head: Folder, tmp_path: Path) -> None:
    names: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
    plain = load(tiny_target("llama"), tiny_head("llama"), **names)
    setting = setting_of(plain)
    assert (setting.vocab_size, setting.hidden_size, setting.layers, setting.dtype) == (96, 32, 8, "float32")
    assert setting.head_sha256 == file_hash(tiny_head("llama") / "model.safetensors")
    save_bundle(bundle(setting), tmp_path / "fits")
    save_bundle(bundle(replace(setting, head_sha256="other")), tmp_path / "other")
    decoder = load(tiny_target("llama"), tiny_head("llama"), policy=str(tmp_path / "fits"), **names)
    assert isinstance(decoder.policy, ltd.Learned)
    options: dict[str, Any] = {"max_new_tokens": 12}
    assert decoder.generate([5, 6], **options).token_ids == plain.generate([5, 6], policy="none", **options).token_ids
    assert min(decoder.last_statistics.depths) >= 1
    with pytest.raises(ltd.InputError, match="hash of other"):
        load(tiny_target("llama"), tiny_head("llama"), policy=tmp_path / "other", **names)
    with pytest.raises(ltd.InputError, match=r"policy\.json is missing"):
        load(tiny_target("llama"), tiny_head("llama"), policy=tmp_path, **names)
    assert isinstance(ltd.CustomGenerate(tiny_head("llama"), policy=tmp_path / "fits").policy, ltd.Learned)


def test_names_on_the_command_line(folder: Path) -> None:
    assert asked_policy(str(folder), None, None) == str(folder)
    with pytest.raises(ltd.InputError, match="neither --depth nor --size"):
        asked_policy(str(folder), 3, None)
    method = TreeMethod.named(f"bundle:{folder}")
    assert isinstance(method.policy, Learned) and method.name == f"bundle:{folder}"
    with pytest.raises(ltd.InputError, match=r"policy\.json is missing"):
        TreeMethod.named(f"bundle:{folder.parent}")


def test_results_depend_on_the_bundles_content(folder: Path, tmp_path: Path) -> None:
    from ltd.evaluation.compare import EvalConfig

    config = EvalConfig(tmp_path, tmp_path / "out", methods=("none", f"bundle:{folder}"))
    methods = [Method.parse(name) for name in config.methods]
    before = run_settings(config, [], methods)
    edit(folder, lambda v: v.update(validation={"speedup": 2.0}))
    assert run_settings(config, [], methods) != before
    assert "policies_sha256" not in run_settings(RunConfig(tmp_path, tmp_path / "out"), [])


def test_an_evaluation_compares_a_bundle_and_checks_that_it_fits(
    tiny_target: Folder, tiny_head: Folder, tmp_path: Path
) -> None:
    from ltd.evaluation.compare import EvalConfig, evaluate

    (tmp_path / "data" / "t").mkdir(parents=True)
    (tmp_path / "data" / "t" / "question.jsonl").write_text(json.dumps({"question_id": 1, "turns": ["Hello"]}) + "\n")
    model = {"target": str(tiny_target("llama")), "draft": str(tiny_head("llama")), "dtype": "float32"}
    setting = setting_of(load(model["target"], model["draft"], dtype="float32"))
    for name, made_for in (("fits", setting), ("other", replace(setting, layers=9))):
        save_bundle(bundle(made_for), tmp_path / name)

    def samples(name: str) -> list[dict[str, Any]]:
        methods = ("none", f"bundle:{tmp_path / name}")
        config = EvalConfig(
            tmp_path / "data", tmp_path / f"out-{name}", ("t",), max_new_tokens=8, methods=methods, **model
        )
        found: list[dict[str, Any]] = evaluate(config)["samples"]
        return found

    assert {sample["identical_to_none"] for sample in samples("fits")} == {None, True}
    with pytest.raises(ltd.InputError, match="layers of 9"):
        samples("other")
