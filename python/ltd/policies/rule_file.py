"""A rule with the free numbers that were found for a machine, as `ltd train-baseline rules` and `ltd tune` write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltd.common.trained_folder import read_facts, write_facts
from ltd.errors import InputError
from ltd.policies.base import Policy
from ltd.policies.by_name import parse_policy

FORMAT, SCHEMA = "ltd-rule", 1
RULE = "rule.json"  # in the folder that `ltd tune` keeps its result in


def write_rule(policy: str, facts: Mapping[str, Any], file: Path) -> None:
    """Writes a policy, as a user would type it, and what is to be known of it, as JSON values.

    Raises:
        InputError: it cannot be written.
    """
    write_facts(file, FORMAT, SCHEMA, {"policy": policy, **facts})


def rule_text(file: str | Path) -> str:
    """The policy in a file, as a user would type it: `ddd:floor=-0.5:size=6`.

    Raises:
        InputError: there is no such file, or it names no policy.
    """
    values = read_facts(Path(file).expanduser(), FORMAT, SCHEMA, ("policy",))
    if not isinstance(values["policy"], str):
        raise InputError(f"policy is {values['policy']!r}, but must be a text")
    return values["policy"]


def load_rule(file: str | Path) -> Policy:
    """The policy in a file.

    Raises:
        InputError: there is no such file, or it holds no such policy.
    """
    try:
        return parse_policy(rule_text(file))
    except InputError as error:
        raise InputError(f"the rule {file} cannot be used: {error}") from error
