"""The numbers of a results file as the cells of a table: each view is one kind of file or of table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

Rows = dict[str, dict[str, str]]


def scores(data: dict[str, Any], choice: str) -> Rows:
    """A comparison at one temperature: speedup and τ of every task, and what stands beside their mean."""
    rows = {}
    for name, score in data[choice]["scores"].items():
        tasks = score["tasks"]
        cells = {task: f"{found['speedup']:.2f}x / {found['acceptance_length']:.2f}" for task, found in tasks.items()}
        low, high = tasks["mean"]["interval"]
        sampled = data.get("temperature 1", {"scores": {}})["scores"].get(name)
        rows[label(name)] = {
            **cells,
            "95 %": f"{low:.2f} … {high:.2f}",
            "tokens/s": f"{tasks['mean']['tokens_per_second']:.1f}",
            "speedup": f"{tasks['mean']['speedup']:.2f}x",
            "τ": f"{tasks['mean']['acceptance_length']:.2f}",
            "speedup at temperature 1": "-" if sampled is None else f"{sampled['tasks']['mean']['speedup']:.2f}x",
        }
    return rows


def drafted(data: dict[str, Any], choice: str) -> Rows:
    """A comparison at one temperature: what was drafted and where the time went, over all tasks."""
    rows = {}
    for name, score in data[choice]["scores"].items():
        counts, shares = score["drafted"], score["time"]["shares"]
        if counts["depth"] is not None:
            rows[label(name)] = {
                "mean D": f"{counts['depth']:.2f}",
                "mean V": f"{counts['size']:.2f}",
                **waste(counts),
                **{part: f"{shares[part] * 100:.1f} %" for part in ("draft", "verify", "policy")},
            }
    return rows


def chains(data: dict[str, Any], choice: str | None) -> Rows:
    """Rules for the length of chains: what was drafted, speedups, time by part."""
    rows = {}
    for name, score in data["scores"].items():
        tasks, parts = score["tasks"], score["time"]["milliseconds"]
        low, high = tasks["mean"]["interval"]
        rows[label(name)] = {
            "mean K": f"{score['drafted']['size']:.2f}",
            **waste(score["drafted"]),
            **{task: f"{found['speedup']:.2f}x" for task, found in tasks.items()},
            "95 %": f"{low:.2f} … {high:.2f}",
            "ms per token: draft, verify, rule": f"{parts['draft']:.2f}, {parts['verify']:.2f}, {parts['policy']:.2f}",
        }
    return rows


def forwards(data: dict[str, Any], choice: str | None) -> Rows:
    """Forwards of so many tokens, in milliseconds."""
    return {
        f"{found['tokens']}": {
            "engine, ms": f"{found['engine']['median'] / 1000:.1f}",
            "floor, ms": f"{found['floor'] / 1000:.1f}",
            "`transformers` with packed linear layers, ms": f"{found['transformers']['median'] / 1000:.1f}",
        }
        for found in data["forwards"]
    }


def instruction_sets(data: dict[str, Any], choice: str | None) -> Rows:
    """Forwards of so many tokens in the type `choice`, in milliseconds, and the floors where they were measured."""
    rows: Rows = {}
    for isa, sizes in data["instruction_sets"][choice].items():
        for tokens, found in sizes.items():
            shown = {
                "bytes floor": "bytes_floor",
                f"`{isa}`": "median",
                f"`{isa}`: arithmetic floor": "arithmetic_floor",
            }
            named = {title: f"{found[name] / 1000:.1f}" for title, name in shown.items() if name in found}
            rows.setdefault(tokens, {}).update(named)
    return rows


def recipes(data: dict[str, Any], choice: str | None) -> Rows:
    """Ways to train: throughput as a ratio to the best static tree's, and what training took."""
    rows = {}
    for row in data["rows"]:
        held_out, training = row["figures"]["held out"], row["training"]
        rows[row["name"]] = {
            "held out": f"{held_out['to_static']:.3f}",
            "95 %": f"{held_out['low']:.3f} … {held_out['high']:.3f}",
            "chat": f"{row['figures']['chat']['to_static']:.3f}",
            "steps": training.get("steps", "-"),
            "CPU seconds": f"{training['cpu_seconds']:.0f}" if training else "-",
        }
    return rows


def environments(data: dict[str, Any], choice: str | None) -> Rows:
    """Replay environments: numbers in an observation, and cycles a second."""
    return {
        name: {"numbers observed": f"{found['width']}", "cycles per second": f"{round(found['cycles'], -3):,.0f}"}
        for name, found in data["rates"].items()
    }


def busy(data: dict[str, Any], choice: str | None) -> Rows:
    """Tokens per second beside other processes, and the part of the fair share that they are; one answer a cell."""
    rows: Rows = {}
    for sample in data["samples"]:
        rate, threads, competitors = sample["tokens"] / sample["seconds"], sample["threads"], sample["competitors"]
        fair = sample["tokens"] / sample["quiet_seconds"] * min(1, data["cores"] / (threads + competitors))
        shown = f"{rate:.1f} / {fair:.1f} = {rate / fair:.2f}" if competitors else f"{rate:.1f}"
        rows.setdefault(f"{sample['engine']}, {threads} threads", {})[f"{competitors} competitors"] = shown
    return rows


def calibration(data: dict[str, Any], choice: str | None) -> Rows:
    """Scores of a level of trees at a temperature, in sums over the level: what they say, and what came."""
    rows = {}
    for temperature, sides in data.get("temperatures", data).items():
        for level, before in sides["before"]["levels"].items():
            after = sides["after"]["levels"][level]
            rows[f"{temperature}, level {level}"] = {
                "accepted": f"{before['observed_per_tree']:.3f}",
                "predicted before": f"{before['predicted_per_tree']:.3f}",
                "predicted after": f"{after['predicted_per_tree']:.3f}",
                "error before": f"{before['error']:.3f}",
                "error after": f"{after['error']:.3f}",
            }
    return rows


def tau(data: dict[str, Any], choice: str | None) -> Rows:
    """τ of static trees at a temperature."""
    return {
        f"{temperature}, {name}": {size: f"{value:.2f}" for size, value in sides[when]["tau"].items()}
        for temperature, sides in data.get("temperatures", data).items()
        for when, name in (("before", "factor 1"), ("after", "fitted factors"))
    }


def heads(data: dict[str, Any], choice: str | None) -> Rows:
    """Held-out accuracy of a head before and after more training, by kind of text, at steps 0 and 3."""
    return {
        kind: {
            "conversations": str(count),
            **{
                f"{when}, step {step}": f"{100 * data[when][kind]['accuracy'][step]:.1f}"
                for when in ("before", "after")
                for step in (0, 3)
            },
        }
        for kind, count in data["conversations"].items()
    }


def layouts(data: dict[str, Any], choice: str | None) -> Rows:
    """Heads of several layouts, trained alike: held-out accuracy per step, and τ of a tree at the end."""
    return {
        name: {
            **{f"step {step}": f"{100 * share:.1f}" for step, share in enumerate(found["held_out"]["accuracy"])},
            "τ at (8, 60)": f"{found['curve'][-1]['tau']:.2f}",
        }
        for name, found in data["layouts"].items()
    }


def analysis(data: dict[str, Any], choice: str) -> Rows:
    """An analysis by replay: what ways to decide come to in the mean of all tasks, or kinds of text."""
    return {
        way: {
            "tokens/s": f"{found['tokens_per_second']:.1f}",
            "x plain": f"{found['to_plain']:.3f}",
            "x best both": f"{found['to_static']:.3f}",
            "of the gap": f"{100 * found['share_of_gap']:.1f} %",
            "τ": f"{found['acceptance_length']:.2f}",
            "mean D": f"{found['mean_depth']:.2f}",
            "mean V": f"{found['mean_size']:.2f}",
        }
        for way, found in data[choice]["summary"]["mean"].items()
    }


def by_kind(data: dict[str, Any], choice: str) -> Rows:
    """The same by task, beside the best setting of both sources."""
    return {
        kind: {way: f"{found['to_static']:.3f}" for way, found in ways.items()}
        for kind, ways in data[choice]["summary"].items()
    }


def widths(data: dict[str, Any], choice: str | None) -> Rows:
    """By beam width: milliseconds of an expansion, and τ of fixed trees."""
    return {
        str(found["width"]): {
            "expansion, ms": "{median:.2f} ({low:.2f} … {high:.2f})".format(
                **{name: value / 1e3 for name, value in found["expansion"].items()}
            ),
            **{tree: f"{value:.2f}" for tree, value in found["tau"].items()},
        }
        for found in data["widths"]
    }


def noise(data: dict[str, Any], choice: str | None) -> Rows:
    """What sampling takes of a cycle: milliseconds of its parts, and shares of it."""
    rows = {}
    for way in data["ways"]:
        parts = way["milliseconds"]
        rows[f"{way['method']}, temperature {way['temperature']:g}"] = {
            "τ": f"{way['tau']:.2f}",
            "cycle, ms": f"{way['cycle_milliseconds']:.2f}",
            **{f"{part}, ms": f"{parts[part]:.2f}" for part in ("draft", "verify", "accept")},
            "noise": f"{100 * way['noise_share']:.1f} %",
            "noise and accepting": f"{100 * way['noise_and_accept_share']:.1f} %",
        }
    return rows


def waits(data: dict[str, Any], choice: str | None) -> Rows:
    """From nothing to the first token, by part: seconds, the median and all rounds."""
    rounds = [{**found, "counted": found["install"] + found["first_token"]} for found in data["rounds"]]
    return {
        part: {
            "seconds": f"{median(found[part] for found in rounds):.1f}",
            "of every round": ", ".join(f"{found[part]:.1f}" for found in rounds),
        }
        for part in rounds[0]
    }


def calibrated(data: dict[str, Any], choice: str | None) -> Rows:
    """Candidates ranked by every kind of chances, on the texts of `choice`: the raw ones, and changes in per cent."""
    rows = {}
    for way, found in data["tests"][choice]["ways"].items():
        gains = {tree: f"{gain:.3f}" for tree, gain in found.get("gains", {}).items()}
        gains |= {tree: f"{signed(change)} %" for tree, change in found.get("change", {}).items()}
        rows[way] = {"log-loss": f"{found['log_loss']:.4f}", "AUC": f"{found['auc']:.4f}", **gains}
        if "tokens_per_second" in found:
            rows[way]["controller"] = f"{found['tokens_per_second']:.1f} tokens/s"
        if "controller_change" in found:
            mean, low, high = map(signed, found["controller_change"])
            rows[way]["controller"] = f"{mean} % ({low} … {high})"
    return rows


def vllm(data: dict[str, Any], choice: str | None) -> Rows:
    """vLLM by the number of drafted tokens: texts, and what was accepted of a draft there and here."""
    rows = {}
    for found in data["rows"]:
        of, drafts, accepted = found["questions"], found["drafts"], found["accepted"]
        rows["plain" if drafts == 0 else f"{found['drafted']} drafted"] = {
            "as plain vLLM": f"{found['same_as_plain']} of {of}",
            "as ltd": f"{found['same_as_ours']} of {of}",
            "drafts": f"{drafts or '-'}",
            "accepted, token by token": ", ".join(f"{count / drafts:.2f}" for count in accepted) if drafts else "-",
            "tokens per draft": f"{sum(accepted) / drafts:.2f}" if drafts else "-",
            "here": f"{found['ours']:.2f}" if drafts else "-",
        }
    return rows


def serving(data: dict[str, Any], choice: str | None) -> Rows:
    """Servers beside a decoder in the same process, answer by answer."""
    ways: dict[str, list[dict[str, Any]]] = {}
    for answer in data["answers"]:
        ways.setdefault(answer["way"], []).append(answer)
    ours, rows = ways["ltd generate"], {}
    for way, answers in ways.items():
        rates = [answer["tokens"] / answer["seconds"] for answer in answers]
        ratios = [rate / (own["tokens"] / own["seconds"]) for rate, own in zip(rates, ours, strict=True)]
        same = sum(answer["text"] == own["text"] for answer, own in zip(answers, ours, strict=True))
        rows[way] = {
            "tokens/s": f"{median(rates):.1f}",
            "over ltd generate": f"{median(ratios):.2f}x",
            "same text": f"{same} of {len(answers)}",
        }
    return rows


WAYS = {  # columns of tables on one pair of networks, by how its results name the ways
    "plain": "plain", "tree": "best tree", "fixed": "best fixed", "near": "of the nearest", "as it is": "shipped",
    "quick": "quickly tuned", "own": "its own", "long": "its own, longer", "one": "one pair", "wide": "one pair, wide",
    "best": "optimum",
}  # fmt: skip


def one_network_rates(data: dict[str, Any], choice: str | None) -> Rows:
    """Tokens per second of every way on every machine."""
    return {
        name: {WAYS[way]: f"{rate:.1f}" for way, rate in rates.items() if way in WAYS}
        for name, rates in data["tokens_per_second"].items()
    }


def one_network_ratios(data: dict[str, Any], choice: str | None) -> Rows:
    """The one pair over every other way, by machine and by group of machines."""
    rows = {}
    for group, ways in data["one_over"].items():
        intervals = {way: (found["ratio"], *found["interval"]) for way, found in ways.items() if way in WAYS}
        rows[group] = {WAYS[way]: "{:.3f} ({:.3f} … {:.3f})".format(*found) for way, found in intervals.items()}
    return rows


VIEWS: Mapping[str, Callable[[dict[str, Any], Any], Rows]] = {
    view.__name__: view
    for view in (
        *(scores, drafted, chains, forwards, instruction_sets, recipes, environments, busy),
        *(calibration, tau, heads, layouts, analysis, by_kind, calibrated, widths, noise, waits, vllm, serving),
        *(one_network_rates, one_network_ratios),
    )
}


def signed(percent: float) -> str:
    """A change with its sign; what rounds to nothing is +0.0."""
    return f"{round(percent, 1) + 0.0:+.1f}"


def label(name: str) -> str:
    """The label that a method has in tables, of `LABEL=METHOD` as `ltd eval` takes it."""
    start, equals, _ = name.partition("=")
    return start if equals and ":" not in start else name


def waste(counts: dict[str, Any]) -> dict[str, str]:
    """What the drafted tokens came to."""
    discarded = counts["discarded"]
    return {
        "discarded per accepted": "-" if discarded is None else f"{discarded:.2f}",
        "target calls per 100 tokens": f"{counts['target_calls']:.1f}",
    }
