"""Decoding held-out questions in all ways in turns: the fourth stage."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from ltd.common.files import content_hash, write_text
from ltd.common.journal import Record
from ltd.evaluation.compare import EvalConfig, evaluate
from ltd.evaluation.method_table import BASELINE
from ltd.evaluation.methods import Method
from ltd.evaluation.questions import load_questions
from ltd.evaluation.run_config import hash_files
from ltd.policies import Both, Lookup
from ltd.policies.learned.store import QUICK, kept_bundle, kept_rule, shipped_bundle
from ltd.policies.static import Static
from ltd_rl.traces.format import RecordedGeneration
from ltd_rl.traces.samplings import name_of, texts_at
from ltd_rl.tuning.fixed import method_of
from ltd_rl.tuning.work import BUNDLE, DEFAULT, HELD_OUT, LEARNED, SHIPPED, Work, announce

FEW = 10  # questions of a task


def compare(
    work: Work, held_out: list[RecordedGeneration], static: Static | None, rule: Both | Lookup
) -> tuple[dict[float, Record], dict[str, str]]:
    """Decodes held-out questions by all methods in turns.

    Returns:
        the results of `ltd eval` by temperature, and names for people.
    """
    names = {
        "plain decoding": BASELINE,
        DEFAULT: method_of(work.default),
        **static_names(static),
        "the best of both" if work.drafts else "the best lookup": method_of(rule),
        **untuned(work),
        LEARNED: f"bundle:{work.folder / BUNDLE}",
    }
    methods = tuple(dict.fromkeys(names.values()))
    data_dir = work.folder / HELD_OUT
    count = write_held_out(work, held_out, data_dir)
    texts = texts_at(work.config.temperatures)
    announce(4, f"decoding {count} other questions in {len(methods)} ways, in turns: {texts}")
    if count < FEW * len(work.config.tasks):
        print(f"warning: fewer than {FEW} questions of a task leave wide intervals, so little is kept", file=sys.stderr)
    # Other policies, another comparison: learned ones, and those that are used without.
    known = [[name, hash_files(Method.parse(name))] for name in methods]
    mark = content_hash(json.dumps(known).encode())[:8]
    config = EvalConfig(
        data_dir=data_dir,
        out=work.folder / f"validation-{mark}",
        tasks=work.config.tasks,
        max_new_tokens=work.config.max_new_tokens,
        target=work.config.target,
        draft=work.config.draft,
        device=work.config.device,
        dtype=work.config.dtype,
        threads=work.config.threads,
        methods=methods,
    )
    results = {}
    for temperature in work.config.temperatures:
        out = config.out.with_name(f"{config.out.name}-at-{name_of(temperature)}") if temperature else config.out
        results[temperature] = evaluate(replace(config, out=out, temperature=temperature), work.load)
    return results, names


def untuned(work: Work) -> dict[str, str]:
    """The method that would be used here without tuning, by its name for people; empty if that is the default."""
    if (quick := kept_bundle(work.setting, QUICK)) is not None:
        return {QUICK: f"bundle:{quick.folder}"}
    if (found := kept_rule(work.setting, QUICK)) is not None:
        return {QUICK: method_of(found[1])}
    shipped = shipped_bundle(work.setting, work.decoder.target.device)
    return {} if shipped is None else {SHIPPED: f"bundle:{shipped.folder}"}


def static_names(static: Static | None) -> dict[str, str]:
    """The static trees of a draft that are compared, by names for people: EAGLE-3's, and the best here."""
    if static is None:
        return {}
    best = f"best static ({static.depth}, {static.size})"
    return {"EAGLE-3's static (8, 60)": "eagle3", best: method_of(static)}


def write_held_out(work: Work, held_out: list[RecordedGeneration], data_dir: Path) -> int:
    """Writes the questions of held-out generations as a data folder of their own; how many there are."""
    chosen = {(generation.task, generation.question_id) for generation in held_out}
    assert work.source.data_dir is not None
    questions = load_questions(work.source.data_dir, work.config.tasks, work.config.limit)
    each = work.config.questions // len(work.config.tasks)
    count = 0
    for task in work.config.tasks:
        kept = [q for q in questions if q.task == task and (task, q.question_id) in chosen][:each]
        lines = [json.dumps({"question_id": q.question_id, "turns": list(q.turns)}) for q in kept]
        (data_dir / task).mkdir(parents=True, exist_ok=True)
        write_text(data_dir / task / "question.jsonl", "\n".join(lines) + "\n")
        count += len(kept)
    return count
