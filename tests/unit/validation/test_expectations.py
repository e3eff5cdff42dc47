"""Promises: good nights teach, bad ones and tonight do not; a sound night never fails for what was learnt, another model always does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.fakes import Lab, model_data

from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.evidence.retention import sweep
from qatladder.ladder import CheckResult, LadderResult, Rung, Verdict
from qatladder.settings import load_settings
from qatladder.validation import carry, expectations, finish_ladder, finish_run, plan, run_rung
from qatladder.validation import run as run_module
from qatladder.validation.context import load_rung
from qatladder.validation.expectations import good_nights, kept, learns_since, nights_of, relearn

LADDER = {"model": "toy", "version": "1", "target": "bayes"}


@pytest.fixture
def night(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LadderResult]:
    """Climbs the ladder on a day of November; the clock stands still at 01:00. Two good nights are enough to learn from."""
    monkeypatch.setenv("QATLADDER_LEARN_MINIMUM", "2")

    def climb(day: int, run: str = "", hour: int = 1) -> LadderResult:
        when = f"2026-11-{day:02}T{hour:02}:00:00+00:00"
        monkeypatch.setattr(run_module, "_now", lambda: when)
        run_id = run or f"night-{re.sub('[-:]', '', when[:19])}Z"
        (ladder,) = plan()
        lines: list[str] = []
        for rung in ladder["rungs"]:
            run_rung(ladder, rung, run_id, lines.append)
        finish_run([ladder], run_id)
        climb.log = lines  # type: ignore[attr-defined]
        return finish_ladder(ladder, run_id)

    return climb


def quality(result: LadderResult) -> CheckResult:
    return next(check for check in result.checks if check.id == "board.quality")


def halved() -> dict[str, Any]:
    """The model retrained: every weight half as large, every prediction the same."""
    model = model_data()
    model["weights"] = {name: (np.array(values) // 2).tolist() for name, values in model["weights"].items()}
    return model


def replace_model(lab: Lab, model: dict[str, Any]) -> None:
    for which in ("float", "calib", "qat", "onnx"):
        lab.artifact(which, model)


def said(climb: Any, text: str) -> bool:
    return any(text in line for line in climb.log)


def test_three_good_nights_teach_the_fourth_and_equal_nights_always_pass(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QATLADDER_LEARN_MINIMUM")
    for day in (1, 2, 3):
        check = quality(night(day))
        assert check.values["state"] == "learning" and check.values["learnt"] == 0
        assert f"learning: {day - 1} of 3 good nights so far" in check.expected
    for day in (4, 5):
        result = night(day)
        check = quality(result)
        assert result.verdict is Verdict.SHIP and check
        assert (check.values["state"], check.values["nights"]) == ("learnt", day - 1)
        assert check.values["learnt"] >= 3
        assert (
            f"learnt from {day - 1} good nights, 2026-11-01 to 2026-11-0{day - 1}, all alike, of the same frames and this hbm"
            in check.expected
        )
    suite = kept(open_store(load_settings()), LADDER)
    assert suite is not None
    assert [item.when[:10] for item in nights_of(suite)] == [f"2026-11-0{day}" for day in (4, 3, 2, 1)]
    assert {item["meta"]["source"] for item in suite["expectations"]} == {"fixed", "learnt"}


def test_outputs_that_good_nights_did_not_have_are_named(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    night(1), night(2)
    monkeypatch.setattr(expectations, "learn", lambda tables: {"another": {}})  # as after a compiler that names outputs otherwise
    check = quality(night(3))
    assert check and check.values["learnt"] == 0
    assert check.expected.endswith("; they teach nothing about y_int")


def test_each_night_keeps_the_suite_it_was_held_against(lab: Lab, night: Any, tmp_path: Path) -> None:
    store = open_store(load_settings())
    for day in range(1, 4):
        result = night(day)
        evidence = {item.name: item for item in quality(result).evidence}["suite.json"]
        assert store.fetch(evidence, tmp_path / "suite.json").read_bytes() == store.read_key("expectations/toy@1@bayes/suite.json")
        assert result.rungs[5].products["suite"] == evidence


def test_a_model_replaced_under_its_version_fails_and_says_what_when_and_what_to_do(lab: Lab, night: Any) -> None:
    for day in (1, 2):
        night(day)
    before = load_rung(open_store(load_settings()), "night-20261102T010000Z", LADDER, Rung.INT)
    replace_model(lab, halved())
    result = night(4)
    check = quality(result)
    assert {item.id for item in result.checks if item.status == "failed"} == {"board.quality"}
    assert result.verdict is Verdict.NO_SHIP
    assert check.values["blame"] == "other_model"
    assert before is not None and before.products["hbm"].sha256[:12] + " then" in check.expected
    assert re.search(
        r"y_int: the share of values that lie elsewhere than on the learnt nights is as learnt: drift [\d.]+; "
        r"expected drift <= 0.1 \(2 good nights, 2026-11-01 to 2026-11-02: 0 to 0\)",
        check.reason,
    )
    assert "under the same version" in check.cause
    assert any("relearn" in step for step in check.next_steps)
    assert quality(night(5)).values["nights"] == 2, "a night that did not ship teaches nothing"


def test_relearning_is_how_a_person_says_that_the_change_is_wanted(lab: Lab, night: Any) -> None:
    store = open_store(load_settings())
    for day in (1, 2):
        night(day)
    replace_model(lab, halved())
    assert night(4).verdict is Verdict.NO_SHIP
    relearn(store, LADDER, "2026-11-04T09:00:00+00:00")
    assert kept(store, LADDER) is None and learns_since(store, LADDER) == "2026-11-04T09:00:00+00:00"
    for day in (5, 6):
        result = night(day)
        assert result.verdict is Verdict.SHIP and quality(result).values["state"] == "learning"
    assert quality(night(7)).values["state"] == "learnt"
    replace_model(lab, model_data())
    assert night(8).verdict is Verdict.NO_SHIP, "the old model is now the other one"


def test_a_failed_answer_is_carried_over_until_a_person_says_otherwise(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "7")
    monkeypatch.setenv("QATLADDER_LEARN_MINIMUM", "1")
    lab.entry(data_version="1")
    night(1)
    replace_model(lab, halved())
    failed = night(2)
    assert failed.verdict is Verdict.NO_SHIP and not failed.rungs[5].carried
    again = night(3)
    assert again.verdict is Verdict.NO_SHIP and again.rungs[5].carried
    relearn(open_store(load_settings()), LADDER, "2026-11-03T09:00:00+00:00")
    anew = night(4)
    assert anew.verdict is Verdict.SHIP and not anew.rungs[5].carried
    assert anew.rungs[0].carried, "only what depends on it is done again"


def test_nights_on_which_nothing_changed_teach_too(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ladder that is carried over has no dumps of its own; it was good all the same, and its statistics are known."""
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "100000")
    monkeypatch.setattr(carry, "_now", lambda: run_module._now())
    lab.entry(data_version="1")
    night(1)
    assert night(2).rungs[5].carried
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "0")
    check = quality(night(3))
    assert (check.values["state"], check.values["nights"]) == ("learnt", 2)
    assert "all alike" in check.expected


def test_a_new_version_starts_with_learning(lab: Lab, night: Any) -> None:
    for day in (1, 2):
        night(day)
    replace_model(lab, halved())
    lab.entry(version="2")
    assert quality(night(4)).values["state"] == "learning"


def test_other_frames_are_said_as_warnings_until_they_were_seen_often_enough(lab: Lab, night: Any) -> None:
    for day in (1, 2):
        night(day)
    replace_model(lab, halved())
    lab.entry(samples={"probe": 4, "board": 7})
    result = night(4)
    check = quality(result)
    assert result.verdict is Verdict.SHIP
    assert check.values["state"] == "advisory" and check.values["warned"] >= 1
    assert "of other frames and another hbm" in check.expected and "as warnings only" in check.expected
    assert "; as a warning: y_int: " in check.measured and "drift" in check.measured
    night(5)
    assert quality(night(6)).values["state"] == "learnt"


def test_the_night_judged_is_not_among_its_teachers_even_when_it_is_climbed_again(lab: Lab, night: Any) -> None:
    for day in (1, 2):
        night(day)
    for _ in range(3):
        assert quality(night(3, run="the same run")).values["nights"] == 2
    (ladder,) = plan()
    found = good_nights(open_store(load_settings()), ladder, load_settings(), but="the_same_run")
    assert [item.when[:10] for item in found] == ["2026-11-02", "2026-11-01"]


def test_a_day_teaches_once_by_its_newest_good_run(lab: Lab, night: Any) -> None:
    for hour in (1, 5, 9):
        night(1, hour=hour)
    night(2)
    check = quality(night(3))
    assert check.values["nights"] == 2
    (_, first) = nights_of(kept(open_store(load_settings()), LADDER))
    assert first.when == "2026-11-01T09:00:00+00:00"


def test_nights_that_did_not_ship_teach_nothing(lab: Lab, night: Any) -> None:
    lab.bench.perf = {"average_ms": 5.0}
    for day in (1, 2):
        assert night(day).first_failed_check == "board.perf"
    lab.bench.perf = {}
    assert quality(night(4)).values["nights"] == 0


def test_the_number_of_nights_is_a_setting(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_LEARN_MINIMUM", "1")
    monkeypatch.setenv("QATLADDER_LEARN_NIGHTS", "2")
    night(1)
    assert quality(night(2)).values["state"] == "learnt"
    night(3)
    assert quality(night(4)).values["nights"] == 2
    monkeypatch.setenv("QATLADDER_LEARN_NIGHTS", "0")
    check = quality(night(5))
    assert check.values["state"] == "off" and "nothing is learnt" in check.expected


# --- the object store --------------------------------------------------------------------------------------------------------


def test_a_damaged_suite_is_learnt_again_and_said(lab: Lab, night: Any, tmp_path: Path) -> None:
    store = open_store(load_settings())
    for day in (1, 2):
        night(day)
    (tmp_path / "x").write_bytes(b"{")
    store.write_key("expectations/toy@1@bayes/suite.json", tmp_path / "x")
    check = quality(night(4))
    assert check and check.values["nights"] == 2
    assert said(night, "is damaged") and said(night, "learnt again")
    assert len(nights_of(kept(store, LADDER))) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{}", b'{"expectations": [], "meta": {"qatladder": {"nights": [1], "words": ""}}}', b'{"meta": 3}', b"\xff"]
)
def test_every_damage_of_a_suite_is_noticed(toy_zoo: Any, tmp_path: Path, damage: bytes) -> None:
    store = open_store(load_settings())
    (tmp_path / "x").write_bytes(damage)
    store.write_key("expectations/toy@1@bayes/suite.json", tmp_path / "x")
    lines: list[str] = []
    assert kept(store, LADDER, lines.append) is None
    assert len(lines) == 1 and "is damaged" in lines[0]


def test_nights_teach_on_when_retention_has_let_their_runs_go(lab: Lab, night: Any) -> None:
    store = open_store(load_settings())
    replace_model(lab, halved())  # nights that no later one shares an object with
    for day in (1, 2):
        night(day)
    lab.entry(samples={"probe": 4, "board": 8}, owner="somebody else")
    night(4)
    gone = sweep(store, 1, now=2e9).gone
    assert gone == ["night-20261102T010000Z"], "the first is the anchor of the baseline, the last is new"
    check = quality(night(5))
    assert check and (check.values["state"], check.values["nights"]) == ("learnt", 3)
    assert not said(night, "teaches nothing")


def test_statistics_that_are_gone_or_of_an_older_version_teach_nothing_and_it_is_said(lab: Lab, night: Any) -> None:
    store = open_store(load_settings())
    for day in (1, 2):
        night(day)
    statistics = nights_of(kept(store, LADDER))[0].statistics
    store.discard(statistics)
    assert quality(night(4)).values["nights"] == 0  # all nights were alike and shared the table
    assert said(night, "teaches nothing")
    assert quality(night(5)).values["nights"] == 3, "the third night stored it anew"
    assert not said(night, "teaches nothing")


def test_an_unreadable_run_is_passed_over(lab: Lab, night: Any) -> None:
    store = open_store(load_settings())
    for day in (1, 2):
        night(day)
    store.write_run_file("night-20261101T010000Z", "toy@1@bayes/board.json", b"{")
    assert quality(night(4)).values["nights"] == 1
    assert said(night, "night-20261101T010000Z teaches nothing")


def test_a_damaged_word_of_a_person_is_broken_and_not_ignored(lab: Lab, night: Any, tmp_path: Path) -> None:
    store = open_store(load_settings())
    (tmp_path / "x").write_text("{")
    store.write_key("expectations/toy@1@bayes/since.json", tmp_path / "x")
    check = quality(night(1))
    assert check.status == "broken" and check.values["kind"] == "store"
    with pytest.raises(BrokenError, match="damaged"):
        learns_since(store, LADDER)


def test_an_equal_suite_is_not_written_again(lab: Lab, night: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in (1, 2):
        night(day)
    night(3)
    written: list[str] = []
    store = open_store(load_settings())
    monkeypatch.setattr(type(store), "write_key", lambda self, key, path: written.append(key))
    night(3)
    assert not [key for key in written if key.startswith("expectations/")]


# --- the zoo entry -----------------------------------------------------------------------------------------------------------


def test_what_the_entry_says_is_judged_by_the_output_names_of_model_and_board(lab: Lab, night: Any) -> None:
    lab.entry(expectations=[{"output": "y", "statistic": "max", "max": 1e6}, {"output": "y_int", "statistic": "entropy", "min": 0.1}])
    check = quality(night(1))
    assert check
    suite = kept(open_store(load_settings()), LADDER)
    assert suite is not None
    assert [item["meta"]["expected"] for item in suite["expectations"] if item["meta"]["source"] == "written"] == [
        "max <= 1e+06 (the zoo entry)",
        "entropy >= 0.1 (the zoo entry)",
    ]


def test_what_the_entry_says_and_the_dumps_are_not_fails_with_its_own_cause(lab: Lab, night: Any) -> None:
    lab.entry(expectations=[{"output": "y", "statistic": "max", "max": 1}])
    result = night(1)
    check = quality(result)
    assert result.first_failed_check == "board.quality" and check.values["blame"] == "written"
    assert re.search(
        r"y_int: the maximum is what the zoo entry says: max [\d.e+]+ to .*; expected max <= 1 \(the zoo entry\)", check.reason
    )
    assert "zoo entry" in check.cause


def test_an_output_the_model_does_not_have_is_named_with_those_it_has(lab: Lab, night: Any) -> None:
    lab.entry(expectations=[{"output": "z", "statistic": "max", "max": 1}])
    check = quality(night(1))
    assert check.status == "failed" and (check.measured, check.expected) == ("z", "y | y_int")


def test_an_expectation_of_another_target_is_not_asked(lab: Lab, night: Any) -> None:
    targets = [{"march": "bayes", "perf": {"max_latency_ms": 2}}, {"march": "bayes-e", "perf": {}}]
    lab.entry(targets=targets, expectations=[{"output": "y", "statistic": "max", "max": 1, "target": "bayes-e"}])
    (entry,) = expectations_entries()
    assert expectations.written(entry, "bayes", {"y": "y_int"}) == []
    assert [item["max"] for item in expectations.written(entry, "bayes-e", {"y": "y_int"})] == [1]


def expectations_entries() -> list[Any]:
    from qatladder.zoo import load_zoo

    return list(load_zoo(load_settings()).entries.values())


def test_the_records_of_a_suite_are_plain_json(lab: Lab, night: Any) -> None:
    night(1), night(2)
    suite = json.loads(open_store(load_settings()).read_key("expectations/toy@1@bayes/suite.json"))
    record = suite["meta"]["qatladder"]
    assert record["ladder"] == LADDER and record["state"] == "learning"
    assert record["nights"][0]["run"] == "night-20261101T010000Z"
