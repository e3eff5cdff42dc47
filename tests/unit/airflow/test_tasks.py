"""What a task does with what the library answers: logs it in groups, keeps it, and lets Airflow do the right thing next."""

from __future__ import annotations

import json

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from tests.unit.airflow.results import FakeTask, rung_result

import qatladder.validation
from qatladder.airflow import tasks
from qatladder.errors import BrokenError, ConfigError, InternalError
from qatladder.evidence import open_store
from qatladder.ladder import LadderResult, Rung
from qatladder.settings import load_settings


@pytest.fixture
def answer(monkeypatch):
    """Sets what `run_rung` returns or raises; collects its arguments."""
    calls = []

    def set_answer(value):
        def run_rung(ladder, rung, run_id, log, connect=None, patience=None):
            calls.append({"ladder": ladder, "rung": rung, "run_id": run_id, "connect": connect, "patience": patience})
            log("a line of the tool")
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(qatladder.validation, "run_rung", run_rung)
        return calls

    return set_answer


def test_each_check_is_a_group_of_the_log_and_groups_are_closed(ladder, context, answer, log_lines):
    answer(rung_result(("int.input", "passed"), ("int.fidelity", "failed"), expected=">= 1", question="Is it so?"))
    with pytest.raises(AirflowFailException):
        tasks.climb(ladder, "int", context)
    lines = log_lines()
    opened = [line for line in lines if line.startswith("::group::")]
    assert opened == ["::group::int of m 1 @ bayes-e: what ran", "::group::int.input passed", "::group::int.fidelity failed"]
    depth = 0
    for line in lines:
        depth += line.startswith("::group::") - line.startswith("::endgroup::")
        assert depth in (0, 1), "groups do not nest in Airflow's log view"
    assert depth == 0
    text = "\n".join(lines[lines.index("::group::int.fidelity failed") :])
    for part in ("Is it so?", "measured int.fidelity", ">= 1", "int.fidelity failed"):
        assert part in text
    assert "a line of the tool" in lines
    assert lines[-1].startswith("int.fidelity failed"), "the answer can be read with every group closed"


def test_the_answer_is_kept_even_when_the_task_goes_red(ladder, context, answer):
    answer(rung_result(("int.fidelity", "failed")))
    with pytest.raises(AirflowFailException):
        tasks.climb(ladder, "int", context)
    kept = context["ti"].pushed["answer"]
    assert kept["label"] == "m 1 @ bayes-e"
    assert kept["status"] == "failed"
    assert "int.fidelity" in kept["why"]
    json.dumps(kept)


def test_the_run_is_named_after_dag_and_run_and_airflows_connections_are_offered(ladder, context, answer):
    calls = answer(rung_result(("float.accuracy", "passed")))
    tasks.climb(ladder, "float", context)
    assert calls[0]["run_id"] == "nightly_sweep@sweep-1"
    from qatladder.airflow.ssh import connect

    assert calls[0]["connect"] is connect


def test_a_rung_nobody_asked_for_is_skipped_without_running(ladder, context, answer):
    calls = answer(rung_result(("qat.accuracy", "passed")))
    with pytest.raises(AirflowSkipException):
        tasks.climb({**ladder, "rungs": ["float"]}, "qat", context)
    assert calls == []


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (BrokenError("no store", kind="store", console="tail of the console"), True),
        (ConfigError("a wrong entry"), False),
        (InternalError("impossible"), False),
    ],
)
def test_only_broken_infrastructure_is_worth_another_try(ladder, context, answer, error, retried, log_lines):
    answer(error)
    with pytest.raises(AirflowException) as caught:
        tasks.climb(ladder, "float", context)
    assert isinstance(caught.value, AirflowFailException) is not retried
    assert error.args[0] in str(caught.value)
    out = "\n".join(log_lines())
    assert out.count("::group::") == out.count("::endgroup::")
    assert ("tail of the console" in out) is retried


def test_a_result_is_handed_on_before_the_task_fails_for_it(ladder, context, answer):
    result = rung_result(("board.quality", "failed"))
    answer(result)
    found = []
    with pytest.raises(AirflowFailException):
        tasks.climb(ladder, "board", context, done=found.append)
    assert found == [result]


def test_an_unknown_error_reaches_airflow_as_it_is(ladder, context, answer):
    answer(ZeroDivisionError("?"))
    with pytest.raises(ZeroDivisionError):
        tasks.climb(ladder, "float", context)


def test_another_try_asks_the_planned_board_again_where_its_job_may_be(ladder, context, answer, two_boards):
    calls = answer(rung_result(("board.health", "passed")))
    for attempt in (1, 2):
        context["ti"] = FakeTask(attempt)
        tasks.climb(ladder, "board", context)
    assert [call["ladder"]["board"] for call in calls] == ["a", "a"]


def test_the_plan_sorts_ladders_by_board(ladder, monkeypatch):
    asked = {}

    def plan(**arguments):
        asked.update(arguments)
        return [ladder, {**ladder, "board": ""}, {**ladder, "board": "joined a minute ago"}]

    unchanged = {**ladder, "label": "unchanged 1 @ bayes"}
    monkeypatch.setattr(qatladder.validation, "plan", lambda **arguments: [*plan(**arguments), unchanged])
    monkeypatch.setattr(qatladder.validation, "carry_over", lambda ladders, run_id, log, connect: [unchanged] if run_id == "run" else [])
    planned = tasks.plan_ladders({"model": "m", "version": None, "target": "bayes-e", "rungs": ["float"]}, ["a", "no_board"], "run")
    assert [len(planned["a"]), len(planned["no_board"]), planned["unchanged"]] == [1, 2, [unchanged]]
    assert asked == {"models": ["m"], "version": None, "target": "bayes-e", "rungs": ["float"], "force": False}
    tasks.plan_ladders({"models": None, "rungs": None}, ["a", "no_board"], "run")
    assert asked["models"] is None


def test_a_wrong_zoo_stops_the_plan_without_a_retry(monkeypatch):
    def plan(**_):
        raise ConfigError("field metric is missing", file="m.yaml")

    monkeypatch.setattr(qatladder.validation, "plan", plan)
    with pytest.raises(AirflowFailException, match=r"m\.yaml"):
        tasks.plan_ladders({}, ["no_board"], "run")


def test_the_verdict_is_the_state_of_its_task(ladder, context, monkeypatch):
    result = LadderResult("m", "1", "bayes-e", (rung_result(("int.fidelity", "failed")),))
    monkeypatch.setattr(qatladder.validation, "finish_ladder", lambda ladder, run_id: result)
    with pytest.raises(AirflowFailException, match="no-ship"):
        tasks.judge(ladder, context)
    assert context["ti"].pushed["answer"]["status"] == "no-ship"


def test_the_summary_prints_the_table_and_returns_little(ladder, context, home, monkeypatch, log_lines):
    result = LadderResult("m", "1", "bayes-e", (rung_result(("int.fidelity", "failed")),), rungs_asked=(Rung.INT,))

    def finish_run(ladders, run_id):
        assert ladders == [ladder, ladder]
        report = {"ladders": [result.to_json()] * 2}
        uri = open_store(load_settings()).write_run_file(run_id, "report.json", json.dumps(report).encode())
        return {
            "report_json": uri,
            "report_html": "file:///r.html",
            "verdicts": [{"model": "m"}],
            "counts": {"no-ship": 2},
            "problem": "nothing is said about trends: a reason",
            "big": "x" * 9999,
        }

    monkeypatch.setattr(qatladder.validation, "finish_run", finish_run)
    summary = tasks.summarise({"a": [ladder], "no_board": [ladder]}, context)
    assert set(summary) == {"report_json", "report_html", "verdicts", "counts"}
    out = "\n".join(log_lines())
    assert "no-ship" in out
    assert "2 ladders" in out
    assert "file:///r.html" in out
    assert "nothing is said about trends: a reason" in out


def test_a_run_without_a_plan_has_no_summary(context):
    with pytest.raises(AirflowFailException, match="nothing was planned"):
        tasks.summarise(None, context)


def test_housekeeping_lets_old_nights_go_and_compacts_closed_months(home, log_lines):
    from tests.unit.history.test_history import night

    from qatladder.history import facts_of, write_facts
    from qatladder.reports.report import report_json

    store = open_store(load_settings())
    for number in (1, 2, 3):
        results, run = night(number)
        write_facts(store, facts_of(results, run), run)
        store.write_run_file(run["id"], "report.json", json.dumps(report_json(results, run)).encode())
        store.write_run_file(run["id"], "manifest.json", b"{}")
    assert tasks.retention({"keep_nights": 1, "dry_run": True}) == {"stay": 1, "go": 2, "objects": 0, "bytes": 0}
    assert len(store.runs()) == 3
    assert tasks.retention({"keep_nights": 1, "dry_run": False})["go"] == 2
    assert store.runs() == ["night-20261003"]
    (whole,) = tasks.compact_history()
    assert "whole-" in whole
    assert len(list(store.keys("history/facts/"))) == 1
    with pytest.raises(AirflowFailException, match="at least one night"):
        tasks.retention({"keep_nights": 0, "dry_run": False})
