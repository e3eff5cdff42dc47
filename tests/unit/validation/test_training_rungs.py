"""Promises: drops are held against their gates, shortcuts are taken only as the process allows, without the vendor the rest says so."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any

import pytest
from tests.unit.toy import ToyZoo

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, LadderResult, Rung, Status, Verdict
from qatladder.settings import load_settings
from qatladder.validation import finish_ladder, finish_run, plan, run_rung
from qatladder.validation import run as run_module


def climb(rungs: list[str] | None = None, run_id: str = "run") -> LadderResult:
    (ladder,) = plan(rungs=rungs)
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, run_id, print)
    return finish_ladder(ladder, run_id)


def statuses(result: LadderResult) -> dict[str, str]:
    return {check.id: str(check.status) for check in result.checks}


def test_good_rungs_pass_and_say_what_was_measured(toy_zoo: ToyZoo) -> None:
    result = climb(["float", "calib", "qat"])
    assert all(check.status is Status.PASSED for check in result.checks)
    check = result.checks[1]
    assert check.measured == "accuracy 1.0000 on 10 samples (+0.0000 from float)"
    assert check.expected == "drop from float (1.0000) <= 0.1"
    assert check.evidence[0].name == "calib_predictions.json"
    assert result.verdict is Verdict.UNDECIDED
    assert result.why == "not validated in this run: int, hbm, board"


@pytest.mark.parametrize(
    ("wrong", "failed"),
    [
        ({"float": 2, "calib": 2, "qat": 2}, "float.accuracy"),
        ({"calib": 2}, "calib.accuracy"),
        ({"qat": 1}, "qat.accuracy"),
        ({"calib": 1}, None),
    ],
)
def test_a_drop_beyond_its_gate_fails_the_right_rung(toy_zoo: ToyZoo, wrong: dict[str, int], failed: str | None) -> None:
    for which, count in wrong.items():
        toy_zoo.artifact(which, count)
    result = climb(["float", "calib", "qat"])
    assert result.first_failed_check == failed
    if failed:
        check = result.deciding_check
        assert check is not None
        assert check.cause
        assert check.next_steps
        assert result.verdict is Verdict.NO_SHIP


def test_a_failed_rung_does_not_keep_the_next_from_being_measured(toy_zoo: ToyZoo) -> None:
    toy_zoo.artifact("calib", 5)
    assert statuses(climb(["float", "calib", "qat"])) == {"float.accuracy": "passed", "calib.accuracy": "failed", "qat.accuracy": "passed"}


def test_qat_is_skipped_when_calib_is_good_enough(toy_zoo: ToyZoo) -> None:
    toy_zoo.entry(artifacts={"float": "toy/float.json", "calib": "toy/calib.json"})
    check = climb(["float", "calib", "qat"]).checks[2]
    assert check.status is Status.SKIPPED
    assert not check.required
    assert "calib already meets its gate" in check.reason


def test_qat_is_missed_when_calib_is_not_good_enough(toy_zoo: ToyZoo) -> None:
    toy_zoo.entry(artifacts={"float": "toy/float.json", "calib": "toy/calib.json"})
    toy_zoo.artifact("calib", 4)
    check = climb(["float", "calib", "qat"]).checks[2]
    assert check.status is Status.FAILED
    assert "no qat artifact" in check.reason


def test_without_the_vendor_the_later_rungs_are_skipped_with_the_reason_and_nothing_ships(toy_zoo: ToyZoo) -> None:
    result = climb()
    later = [check for check in result.checks if check.rung in (Rung.INT, Rung.HBM, Rung.BOARD)]
    assert len(later) == 13
    assert all(check.status is Status.SKIPPED and check.required for check in later)
    assert all("QATLADDER_VENDOR=0" in check.reason for check in later)
    assert result.verdict is Verdict.UNDECIDED


def test_a_missing_artifact_names_model_rung_file_and_next_step(toy_zoo: ToyZoo) -> None:
    (toy_zoo.artifacts / "calib.json").unlink()
    check = climb(["float", "calib"]).checks[1]
    assert check.status is Status.FAILED
    assert "calib.json" in check.reason
    assert "toy" in check.reason
    assert "make zoo" in check.next_steps[0]


def test_a_drop_without_its_reference_is_not_judged(toy_zoo: ToyZoo) -> None:
    check = climb(["calib"]).checks[0]
    assert check.status is Status.SKIPPED
    assert check.required
    assert "float" in check.reason


def test_a_metric_that_is_not_the_entrys_is_refused(toy_zoo: ToyZoo) -> None:
    toy_zoo.entry(metric="mAP")
    check = climb(["float"]).checks[0]
    assert check.status is Status.FAILED
    assert check.expected == "mAP"
    assert check.measured == "accuracy"


def test_a_rung_that_never_answered_is_broken(toy_zoo: ToyZoo) -> None:
    (ladder,) = plan(rungs=["float", "calib"])
    run_rung(ladder, "float", "run", print)
    result = finish_ladder(ladder, "run")
    assert statuses(result) == {"float.accuracy": "passed", "calib.accuracy": "broken"}
    assert result.verdict is Verdict.UNDECIDED


def test_an_old_runs_answer_is_not_this_runs(toy_zoo: ToyZoo) -> None:
    climb(["float"], "monday")
    (ladder,) = plan(rungs=["float"])
    assert finish_ladder(ladder, "tuesday").checks[0].status is Status.BROKEN


def test_a_run_ends_with_report_and_manifest(toy_zoo: ToyZoo) -> None:
    ladders = plan(rungs=["float"])
    run_rung(ladders[0], "float", "run", print)
    summary = finish_run(ladders, "run")
    store = open_store(load_settings())
    assert store.runs() == ["run"]
    report = json.loads(store.read_run_file("run", "report.json"))
    assert report["ladders"][0]["checks"][0]["status"] == "passed"
    html = store.read_run_file("run", "report.html").decode()
    assert "float.accuracy" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    manifest = json.loads(store.read_run_file("run", "manifest.json"))
    assert {"report.json", "report.html", "toy@1@bayes/float.json"} <= set(manifest["files"])
    evidence = report["ladders"][0]["checks"][0]["evidence"][0]
    assert evidence["sha256"] in manifest["objects"]
    assert summary["counts"] == {"undecided": 1}


def test_no_work_file_is_left(toy_zoo: ToyZoo) -> None:
    climb(["float"])
    assert list(load_settings().work.iterdir()) == []


def test_editing_the_zoo_during_a_run_changes_nothing_in_that_run(toy_zoo: ToyZoo) -> None:
    (ladder,) = plan(rungs=["float"])
    toy_zoo.entry(gates={"float": {"min": 1.1}})
    run_rung(ladder, "float", "run", print)
    assert finish_ladder(ladder, "run").checks[0].status is Status.PASSED


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"models": ["toy", "nope"]}, "no such model"),
        ({"version": "9"}, "no ladder matches"),
        ({"target": "bayes-e"}, "no ladder matches"),
        ({"rungs": ["flaot"]}, "no such rung"),
    ],
)
def test_a_plan_of_what_does_not_exist_is_refused(toy_zoo: ToyZoo, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        plan(**arguments)


def test_what_goes_wrong_outside_a_check_is_an_answer_too(toy_zoo: ToyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: object) -> list[CheckResult]:
        raise BrokenError("the store is away", kind="store")

    monkeypatch.setitem(run_module.VALIDATORS, Rung.BOARD, broken)
    result = climb(["board"])
    assert {check.status for check in result.checks} == {Status.BROKEN}
    assert len(result.checks) == 7
    assert result.verdict is Verdict.UNDECIDED


def test_every_result_says_what_determined_it(toy_zoo: ToyZoo) -> None:
    facts = climb(["float"]).rungs[0].facts
    assert facts["artifacts"]["float"] == hashlib.sha256((toy_zoo.artifacts / "float.json").read_bytes()).hexdigest()
    assert facts["determinants"]["adapter"] == hashlib.sha256((toy_zoo.folder / "zoo" / "toy.py").read_bytes()).hexdigest()
    before = facts["determinants"]["entry"]
    toy_zoo.entry(gates={"float": {"min": 0.8}})
    assert climb(["float"], "other").rungs[0].facts["determinants"]["entry"] != before
    assert "numpy" in facts["environments"]["product"]


def test_what_a_killed_rung_left_is_forgotten_after_two_days(toy_zoo: ToyZoo) -> None:
    work = load_settings().work
    for name, age in (("old", 3 * 86400), ("new", 60)):
        (work / name).mkdir(parents=True)
        os.utime(work / name, (time.time() - age,) * 2)
    climb(["float"])
    assert [path.name for path in work.iterdir()] == ["new"]


def test_a_broken_calib_does_not_make_qat_fail(toy_zoo: ToyZoo) -> None:
    toy_zoo.entry(artifacts={"float": "toy/float.json", "calib": "toy/calib.json"}, environment="gone")
    (toy_zoo.folder / "zoo" / "zoo.yaml").write_text("environments: {gone: {python: /no/such/python}}\n")
    result = climb(["float", "calib", "qat"])
    assert statuses(result) == {"float.accuracy": "broken", "calib.accuracy": "broken", "qat.accuracy": "skipped"}
    assert result.verdict is Verdict.UNDECIDED
    assert result.checks[2].required


def test_a_declared_drop_is_never_dropped_silently(toy_zoo: ToyZoo) -> None:
    toy_zoo.entry(gates={"float": {"min": 0.9}, "calib": {"min": 0.5, "max_drop": 0.1}})
    assert climb(["calib"], "alone").checks[0].status is Status.SKIPPED
    toy_zoo.artifact("calib", 8)
    assert climb(["calib"], "bad").checks[0].status is Status.FAILED


def test_rungs_judged_on_different_samples_are_not_compared(toy_zoo: ToyZoo) -> None:
    adapter = toy_zoo.folder / "zoo" / "toy.py"
    adapter.write_text(adapter.read_text().replace("else -1.0, index]", "else -1.0, index + np.random.rand() / 9]"))
    check = climb(["float", "calib"]).checks[1]
    assert check.status is Status.FAILED
    assert "same samples" in check.reason
    assert "deterministic" in check.next_steps[0]


def test_an_artifact_replaced_during_the_run_is_broken(toy_zoo: ToyZoo) -> None:
    (ladder,) = plan(rungs=["float", "calib"])
    run_rung(ladder, "float", "run", print)
    toy_zoo.artifact("calib", 1)
    run_rung(ladder, "calib", "run", print)
    check = finish_ladder(ladder, "run").checks[1]
    assert check.status is Status.BROKEN
    assert check.values["kind"] == "artifact_changed"


def test_an_unreadable_entry_is_undecided_and_the_others_are_validated(toy_zoo: ToyZoo) -> None:
    (toy_zoo.folder / "zoo" / "torn.yaml").write_text("model: [")
    ladders = plan(rungs=["float"])
    assert [ladder["model"] for ladder in ladders] == ["toy", "torn"]
    for ladder in ladders:
        run_rung(ladder, "float", "run", print)
    results = [finish_ladder(ladder, "run") for ladder in ladders]
    assert results[0].checks[0].status is Status.PASSED
    assert results[1].verdict is Verdict.UNDECIDED
    assert "cannot be read" in results[1].why
    with pytest.raises(ConfigError, match="YAML"):
        plan(["torn"])
