"""The board rung as a task: short jobs are waited for, long ones hold no worker, and a kill ends the job on the board."""

from __future__ import annotations

import asyncio

import pytest
from airflow.sdk.exceptions import TaskDeferred

from qatladder.airflow import board as module
from qatladder.airflow import tasks
from qatladder.airflow.board import BoardJobTrigger, BoardRung
from qatladder.boards.jobs import JobState, StillRunning
from qatladder.errors import BrokenError


@pytest.fixture
def rung(ladder):
    return BoardRung(task_id="board", ladder=ladder, patience=7.0)


@pytest.fixture
def climb(monkeypatch):
    """Sets what `tasks.climb` does; collects its patience."""
    asked = []

    def set_climb(error=None):
        def fake(ladder, rung, context, patience=None):
            asked.append((ladder["label"], rung, patience))
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
