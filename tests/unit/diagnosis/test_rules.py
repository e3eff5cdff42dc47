"""Promises: every check has an explanation, special rules win over general ones, no rule names a check that does not exist."""

import tomllib

import pytest

from qatladder.diagnosis import RULES, explain
from qatladder.ladder import check_ids

RULE_LIST = tomllib.loads(RULES.read_text())["rule"]


@pytest.mark.parametrize("check_id", check_ids())
def test_every_check_is_explained(check_id: str) -> None:
    found = explain(check_id, {})
    assert found.cause
    assert found.next_steps


def test_no_rule_is_about_a_check_that_does_not_exist() -> None:
    for rule in RULE_LIST:
        checks = rule["check"] if isinstance(rule["check"], list) else [rule["check"]]
        assert set(checks) <= {*check_ids(), "*"}


def test_no_rule_is_hidden_by_an_earlier_one() -> None:
    seen: list[tuple[str, dict[str, object]]] = []
    for rule in RULE_LIST:
        for check in rule["check"] if isinstance(rule["check"], list) else [rule["check"]]:
            when = rule.get("when", {})
            same_kind = [earlier for name, earlier in seen if name in (check, "*") and earlier.get("status") == when.get("status")]
            assert not any(earlier.items() <= when.items() for earlier in same_kind), rule
            seen.append((check, when))


def test_the_special_rule_wins() -> None:
    assert "red and blue" in explain("int.input", {"fingerprint": "channel_swap"}).cause
    assert "red and blue" not in explain("int.input", {"fingerprint": "none"}).cause


@pytest.mark.parametrize("check_id", check_ids())
@pytest.mark.parametrize("status", ["broken", "unprovable"])
def test_what_is_not_the_models_fault_never_accuses_the_model(check_id: str, status: str) -> None:
    accusations = {rule["cause"] for rule in RULE_LIST if rule.get("when", {}).get("status") is None}
    for kind in ("", "killed", "tool_crashed", "disk_full", "something new"):
        found = explain(check_id, {"status": status, "kind": kind})
        assert found.cause
        assert found.next_steps
        assert found.cause not in accusations


@pytest.mark.parametrize("error", ["ConfigError", "ArtifactError", "RunnerError"])
def test_a_kind_of_error_explains_itself_before_the_check_does(error: str) -> None:
    assert explain("int.input", {"error": error}).cause != explain("int.input", {}).cause
