"""From a failed check to its probable cause and what to look at next: an ordered rule file, first match wins."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RULES = Path(__file__).with_name("rules.toml")


@dataclass(frozen=True)
class Diagnosis:
    """A probable cause in words and what to do next, most promising first. Empty when no rule matches."""

    cause: str = ""
    next_steps: tuple[str, ...] = ()


@cache
def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = tomllib.loads(RULES.read_text(encoding="utf-8"))["rule"]
    return rules


def explain(check_id: str, values: dict[str, Any]) -> Diagnosis:
    """The first rule whose `check` names this check (`*` names all) and whose `when` values all equal the check's values.

    A status of `broken` or `unprovable` says nothing about the model, so only rules that ask for that status may explain it.
    """
    for rule in _rules():
        checks = rule["check"] if isinstance(rule["check"], list) else [rule["check"]]
        when = rule.get("when", {})
        if not {check_id, "*"}.intersection(checks) or when.get("status") != values.get("status"):
            continue
        if all(values.get(key) == value for key, value in when.items()):
            return Diagnosis(rule["cause"].format_map(_Known(values)), tuple(rule["next_steps"]))
    return Diagnosis()


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"
