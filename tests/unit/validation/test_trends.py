"""Promises: a night is held against the accepted one in the run itself: movements, suspects and missing ladders stand in the report."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.fakes import Lab, model_data

from qatladder.evidence import open_store
from qatladder.history.baselines import baseline_of, promote
from qatladder.reports.text import trend_text
from qatladder.settings import load_settings
from qatladder.validation import finish_run, plan, run_rung
from qatladder.validation import trends as trends_module
from qatladder.validation.pairing import OTHER_SAMPLES


@pytest.fixture
def big(lab: Lab) -> Lab:
    """Sixty samples instead of twelve: fewer than twenty say nothing."""
    adapter = lab.zoo.folder / "zoo" / "linear.py"
    text = adapter.read_text()
    adapter.write_text(text.replace("range(12 if limit", "range(60 if limit"))
    assert adapter.read_text() != text
    return lab


def climb(run_id: str, **options: Any) -> dict[str, Any]:
    ladders = plan(**options)
    for ladder in ladders:
        for rung in ladder["rungs"]:
            run_rung(ladder, rung, run_id, lambda line: None)
    finish_run(ladders, run_id)
    report: dict[str, Any] = json.loads(open_store(load_settings()).read_run_file(run_id, "report.json"))
    return report


def worse(lab: Lab) -> None:
    """Weights that take several classes for others."""
    data = model_data()
    data["weights"] = {
        name: [[0.0 if index < 5 else value for index, value in enumerate(row)] for row in rows] for name, rows in data["weights"].items()
    }
    for which in ("float", "calib", "qat", "onnx"):
        lab.artifact(which, data)


def ladder(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = report["ladders"]
    return dict(found["trend"])


def test_the_first_good_night_is_new_and_then_the_baseline(big: Lab) -> None:
    assert ladder(climb("one"))["verdict"] == "new"
    found = baseline_of(open_store(load_settings()), "toy", "1", "bayes")
    assert found is not None and found.run_id == "one"
    second = climb("two")
    assert ladder(second)["verdict"] == "no_regression"
    assert trend_text(second) == ""


def test_a_worse_model_is_a_regression_with_its_weights_as_the_suspect(big: Lab) -> None:
    big.entry(gates={"float": {"min": 0.1}, "calib": {"max_drop": 1.0}, "qat": {"max_drop": 1.0}, "int": {"max_drop": 1.0}})
    climb("one")
    worse(big)
    report = climb("two")
    trend = ladder(report)
    assert trend["verdict"] == "regression"
    moved = next(item for item in trend["movements"] if item["check_id"] == "float.accuracy")
    assert moved["verdict"] == "regression"
    assert moved["method"].startswith("exact McNemar")
    assert moved["value"] < moved["baseline"]
    assert trend["suspects"][0]["what"] == "weights float"
    text = trend_text(report)
    assert text.startswith("regression   toy 1 on bayes, against one")
    assert "1. weights float" in text
    page = open_store(load_settings()).read_run_file("two", "report.html").decode()
    assert "Against the baseline" in page and "What has changed since" in page and "weights float" in page
    store = open_store(load_settings())
    held = baseline_of(store, "toy", "1", "bayes")
    assert held is not None and held.run_id == "one", "a worse night is no baseline"
    assert ladder(climb("three"))["verdict"] == "regression", "until somebody does something"
    promote(store, "three", "toy", None, None, "ann", "meant to be")
    assert ladder(climb("four"))["verdict"] == "no_regression"


def test_a_check_that_passed_and_fails_is_a_regression(big: Lab) -> None:
    climb("one")
    big.entry(targets=[{"march": "bayes", "perf": {"max_latency_ms": 0.0001}}])
    trend = ladder(climb("two"))
    assert trend["verdict"] == "regression"
    assert trend["broke"] == {"since": "one", "time": trend["broke"]["time"]}
    assert {item["check_id"] for item in trend["movements"] if item["metric"] == "status"} == {"hbm.compile", "board.perf"}
    assert [item["what"] for item in trend["suspects"]] == ["entry"]
    big.entry()
    third = ladder(climb("three"))
    assert third["recovered"]["since"] == "two"
    assert third["verdict"] == "no_regression"


def test_other_samples_or_too_few_are_insufficient(big: Lab, lab: Lab) -> None:
    climb("one")
    adapter = lab.zoo.folder / "zoo" / "linear.py"
    adapter.write_text(adapter.read_text().replace("range(60 if", "range(61 if"))
    trend = ladder(climb("two"))
    assert trend["verdict"] == "insufficient_data"
    assert {item["why"] for item in trend["movements"] if item["check_id"] == "float.accuracy"} == {OTHER_SAMPLES}
    held = baseline_of(open_store(load_settings()), "toy", "1", "bayes")
    assert held is not None and held.run_id == "one", "a person accepts what cannot be compared"


def test_a_ladder_that_is_gone_is_missing_only_when_the_whole_zoo_was_asked_for(big: Lab) -> None:
    climb("one")
    (big.zoo.folder / "zoo" / "toy.yaml").rename(big.zoo.folder / "zoo" / "other.yaml")
    text = (big.zoo.folder / "zoo" / "other.yaml").read_text().replace("model: toy", "model: other")
    (big.zoo.folder / "zoo" / "other.yaml").write_text(text)
    assert "missing" not in climb("two", models=["other"])
    report = climb("three")
    assert [(item["model"], item["last_run"]) for item in report["missing"]] == [("toy", "one")]
    assert "missing      toy 1 on bayes: not in this run; last in one" in trend_text(report)
    assert "not in this run; last in one" in open_store(load_settings()).read_run_file("three", "report.html").decode()


def test_a_summary_that_is_made_again_says_the_same(big: Lab) -> None:
    climb("one")
    ladders = plan()
    for rung in ladders[0]["rungs"]:
        run_rung(ladders[0], rung, "two", lambda line: None)
    reports = []
    for _ in range(2):
        finish_run(ladders, "two")
        reports.append(json.loads(open_store(load_settings()).read_run_file("two", "report.json")))
    assert ladder(reports[0])["movements"] == ladder(reports[1])["movements"]
    assert ladder(reports[1])["baseline"]["run_id"] == "one"


def test_without_trends_the_run_is_whole_and_says_why(big: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(trends_module, "judge_night", broken)
    report = climb("one")
    assert report["run"]["trends"] == "nothing is said about trends: no space left"
    assert report["ladders"][0]["verdict"] == "ship"
    assert "trend" not in report["ladders"][0]
    assert open_store(load_settings()).runs() == ["one"]
