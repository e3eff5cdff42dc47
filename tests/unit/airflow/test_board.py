"""The board rung as a task: short jobs are waited for, long ones hold no worker, and a kill ends the job on the board."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from tests.unit.airflow.results import rung_result

from qatladder.airflow import board as module
from qatladder.airflow import tasks
from qatladder.airflow.board import BoardJobTrigger, BoardRung
from qatladder.boards.jobs import JobState, StillRunning
from qatladder.errors import BrokenError
from qatladder.ladder import Evidence


@pytest.fixture
def rung(ladder):
    return BoardRung(task_id="board", ladder=ladder, patience=7.0)


@pytest.fixture
def climb(monkeypatch):
    """Sets what `tasks.climb` does; collects its patience."""
    asked = []

    def set_climb(error=None, result=None):
        def fake(ladder, rung, context, patience=None, done=None):
            asked.append((ladder["label"], rung, patience))
            if result is not None:
                done(result)
            if error:
                raise error

        monkeypatch.setattr(tasks, "climb", fake)
        return asked

    return set_climb


def test_a_job_that_ends_in_time_is_waited_for(rung, climb, context):
    asked = climb()
    rung.execute(context)
    assert asked == [("m 1 @ bayes-e", "board", 7.0)]


def test_a_job_that_goes_on_defers_and_the_same_is_asked_again(rung, climb, context, log_lines):
    asked = climb(StillRunning("bench-1", "infer-1", 1234))
    with pytest.raises(TaskDeferred) as caught:
        rung.execute(context)
    assert caught.value.method_name == "resume"
    path, fields = caught.value.trigger.serialize()
    assert path == f"{BoardJobTrigger.__module__}.{BoardJobTrigger.__name__}"
    assert fields == {"board": "bench-1", "job": "infer-1", "offset": 1234}
    climb()
    rung.resume(context, {**fields, "why": "is over: ended"})
    assert asked == [("m 1 @ bayes-e", "board", 7.0)] * 2
    assert "bench-1: job infer-1 is over: ended" in log_lines()


@pytest.mark.parametrize("error", [None, AirflowFailException("board.quality failed")])
def test_the_data_docs_of_a_night_are_linked_whether_it_passed_or_failed(rung, climb, context, error):
    """Airflow asks the link in the task's process when the task ends, and keeps the answer."""
    (link,) = rung.operator_extra_links
    assert link.name == "Data Docs"
    assert link.get_link(rung, ti_key=None) == "", "no button before any dumps were judged"
    page = Evidence("data_docs.html", "ab" * 32, 10, "file:///store")
    result = replace(rung_result(("board.quality", "passed")), products={"data_docs_page": page})
    climb(error, result)
    with pytest.raises(AirflowFailException) if error else nullcontext():
        rung.execute(context)
    assert link.get_link(rung, ti_key=None) == f"/qatladder/objects/ab/{'ab' * 32}.html"
    climb(None, rung_result(("board.quality", "skipped")))
    rung.execute(context)
    assert link.get_link(rung, ti_key=None) == "", "the link of an earlier try is not this one's"


def test_the_link_survives_the_dags_serialisation(ladder):
    """The UI knows the button from the serialised DAG: its name and the XCom its target is kept under."""
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("d") as dag:
        BoardRung.partial(task_id="board").expand(ladder=[ladder])
    again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert "Data Docs" in again.get_task("board").extra_links


def test_a_kill_leaves_the_climb_as_an_exception_so_that_the_job_is_cancelled(rung):
    with pytest.raises(SystemExit):
        rung.on_kill()


class FakeSession:
    closed = False

    def close(self):
        FakeSession.closed = True


async def first_event(trigger):
    async for event in trigger.run():
        return event.payload
    return None


def run(trigger, monkeypatch, looks):
    """The trigger's event, over scripted answers of the board."""
    monkeypatch.setattr(module, "POLL", 0.0)
    monkeypatch.setattr(trigger, "_session", FakeSession)

    def look(_session):
        answer = looks.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer.state

    monkeypatch.setattr(trigger, "_look", look)
    return asyncio.run(first_event(trigger))


def test_the_trigger_fires_when_the_job_is_over_and_a_cut_does_not_matter(monkeypatch):
    looks = [
        JobState("running", None, 5),
        BrokenError("cut", kind="connection_lost"),
        JobState("running", None, 9),
        JobState("ended", 0, 9),
    ]
    assert run(BoardJobTrigger("b", "j"), monkeypatch, looks) == {"board": "b", "job": "j", "why": "is over: ended"}
    assert looks == []
    assert FakeSession.closed


def test_a_board_that_stays_away_wakes_the_task(monkeypatch):
    monkeypatch.setattr(module, "AWAY", -1.0)
    event = run(BoardJobTrigger("b", "j"), monkeypatch, [BrokenError("no answer", kind="unreachable")])
    assert "no answer" in event["why"]
