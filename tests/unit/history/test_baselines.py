"""Promises: a ladder is held against its last accepted result; who accepted it, when and why is kept; nothing bad is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import Store
from qatladder.history.baselines import advance, baseline_of, baselines, promote


def run(store: Store, name: str, verdict: str = "ship", whole: bool = True, **ladder: Any) -> None:
    ladders = [{"model": "m", "version": "1", "target": target, "verdict": verdict, "why": "because"} | ladder for target in ("x5", "j5")]
    report = {"run": {"id": name, "started": f"2026-11-{int(name):02}T00:00:00+00:00"}, "ladders": ladders}
    store.write_run_file(name, "report.json", json.dumps(report).encode())
    if whole:
        store.write_run_file(name, "manifest.json", b"{}")


def at(store: Store, version: str = "1", target: str = "x5", asking: str = "") -> str:
    found = baseline_of(store, "m", version, target, asking)
    return found.run_id if found else ""


def test_good_nights_become_the_baseline_in_order(store: Store) -> None:
    assert at(store) == ""
    assert advance(store, "m", "1", "x5", "2", "2026-11-02")
    assert not advance(store, "m", "1", "x5", "1", "2026-11-01"), "an older night that ends later"
    assert at(store) == "2"
    assert at(store, target="j5") == ""


def test_a_run_is_never_held_against_itself(store: Store) -> None:
    advance(store, "m", "1", "x5", "1", "2026-11-01")
    advance(store, "m", "1", "x5", "2", "2026-11-02")
    advance(store, "m", "1", "x5", "2", "2026-11-02")
    assert at(store) == "2"
    assert at(store, asking="2") == "1", "the summary of a run may be made twice"
    assert at(store, asking="3") == "2"


def test_a_new_version_is_held_against_the_newest_of_the_others(store: Store) -> None:
    advance(store, "m", "1", "x5", "1", "2026-11-01")
    advance(store, "m", "1.5", "x5", "3", "2026-11-03")
    advance(store, "other", "9", "x5", "4", "2026-11-04")
    assert at(store, version="2") == "3"
    advance(store, "m", "2", "x5", "5", "2026-11-05")
    assert at(store, version="2") == "5"
    assert at(store, version="1") == "1"


def test_an_accepted_baseline_stays_and_says_who_when_and_why(store: Store) -> None:
    advance(store, "m", "1", "x5", "1", "2026-11-01")
    run(store, "2")
    (found,) = promote(store, "2", "m", "x5", None, " ann ", "stricter labels")
    assert (found.run_id, found.by, found.why, found.approved) == ("2", "ann", "stricter labels", True)
    assert found.accepted
    assert not advance(store, "m", "1", "x5", "3", "2026-11-03")
    assert at(store) == "2"
    run(store, "4")
    assert len(promote(store, "4", "m", None, None, "bob", "again")) == 2, "every target of the run"
    known = baseline_of(store, "m", "1", "x5")
    assert known is not None
    assert [(item["run_id"], item["by"]) for item in known.before] == [("2", "ann"), ("1", "")]
    assert len(list(baselines(store))) == 2


def test_what_somebody_accepts_while_a_sweep_ends_is_not_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep has looked, and writes after the person has."""
    advance(store, "m", "1", "x5", "1", "2026-11-01")
    run(store, "2")
    write = store.write_bytes

    def overtaken(key: str, data: bytes) -> None:
        monkeypatch.setattr(store, "write_bytes", write)
        promote(store, "2", "m", "x5", None, "ann", "stricter labels")
        write(key, data)

    monkeypatch.setattr(store, "write_bytes", overtaken)
    assert advance(store, "m", "1", "x5", "3", "2026-11-03")
    known = baseline_of(store, "m", "1", "x5")
    assert known is not None
    assert (known.run_id, known.by) == ("2", "ann")
    assert [item.run_id for item in baselines(store)] == ["2"]
    assert not advance(store, "m", "1", "x5", "4", "2026-11-04")


def test_what_was_accepted_before_people_had_a_file_of_their_own_stays(store: Store) -> None:
    old = {"model": "m", "version": "1", "target": "x5", "run_id": "1", "time": "2026-11-01", "by": "ann", "why": "because"}
    store.write_bytes("baselines/m/1@x5.json", json.dumps(old).encode())
    assert not advance(store, "m", "1", "x5", "2", "2026-11-02")
    run(store, "3")
    promote(store, "3", "m", "x5", None, "bob", "again")
    known = baseline_of(store, "m", "1", "x5")
    assert known is not None
    assert (known.run_id, [item["by"] for item in known.before]) == ("3", ["ann"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"verdict": "no-ship"}, "only a ladder that ships"),
        ({"whole": False}, "did not end"),
        ({"model": "another"}, "no such ladder"),
    ],
)
def test_what_is_not_good_is_not_accepted(how: dict[str, Any], message: str, store: Store) -> None:
    run(store, "2", **how)
    with pytest.raises(ConfigError, match=message):
        promote(store, "2", "m", "x5", "1", "ann", "because")
    assert at(store) == ""


@pytest.mark.parametrize(("by", "why"), [("", "because"), ("ann", "  ")])
def test_nobody_and_no_reason_accept_nothing(by: str, why: str, store: Store) -> None:
    run(store, "2")
    with pytest.raises(ConfigError, match="by somebody, for a reason"):
        promote(store, "2", "m", "x5", "1", by, why)


def test_a_damaged_baseline_is_an_error_that_says_where(store: Store) -> None:
    advance(store, "m", "1", "x5", "1", "2026-11-01")
    store.write_bytes("baselines/m/1@x5.json", b'{"model": "m", ')
    with pytest.raises(BrokenError, match="baseline cannot be read") as caught:
        at(store)
    assert "baselines/m/1" in str(caught.value.where["file"])
