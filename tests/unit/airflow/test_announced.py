"""Promises: every event and every file of a batch is served, a run is created once, and what cannot be validated is red, not silent."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, DagRunTriggerException

from qatladder.airflow import announced
from qatladder.airflow.announced import AnnouncementBell, StartLadder, collect_announcements, decide_all, settle_started, waiting
from qatladder.airflow.names import ANNOUNCED
from qatladder.announcements import inbox, registry
from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.settings import load_settings

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _places(toy_zoo, monkeypatch):
    for name in ("QATLADDER_ANNOUNCEMENTS", "QATLADDER_MLFLOW"):
        monkeypatch.delenv(name, raising=False)


def event(at=0, **extra):
    return SimpleNamespace(timestamp=NOON + timedelta(seconds=at), extra={**extra, "from_rest_api": True})


class Events(list):
    """The asset's events, as a task's inlet gives them."""

    def after(self, when):
        return [item for item in self if item.timestamp > datetime.fromisoformat(when)]


def drop(name="a.json", text='{"model": "toy"}'):
    folder = load_settings().home / "announcements"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def labels():
    return sorted(item.label for item in inbox.pending(open_store(load_settings())))


def decisions():
    return {item["label"]: item for item in decide_all()}


def start(decided):
    return StartLadder(task_id="start", decided=decided)


def test_all_events_of_a_batch_are_taken_and_the_bells_carry_nothing():
    events = Events([event(0, model="a"), event(1, model="b"), event(2, from_trigger=True, payload={"waiting": ["x"]})])
    assert collect_announcements(events, events) == 2
    assert labels() == ["a", "b"]


def test_an_event_that_airflow_gave_to_no_run_is_taken_by_the_next():
    first, left_out, later = event(0, model="a"), event(1, model="b"), event(900, model="c")
    assert collect_announcements(Events([first, left_out]), [first]) == 2, "it was there already when the first run began"
    late = event(2, model="d")
    assert collect_announcements(Events([first, left_out, late, later]), [later]) == 2
    assert labels() == ["a", "b", "c", "d"]


def test_an_event_that_becomes_visible_late_is_taken():
    collect_announcements(Events([event(100, model="a")]), [event(100, model="a")])
    assert collect_announcements(Events([event(90, model="b"), event(100, model="a")]), []) == 1


def test_the_first_run_asks_for_no_history():
    assert collect_announcements(Events([event(0, model="old")]), [event(3600, model="new")]) == 1
    assert labels() == ["new"]


def test_an_event_that_is_no_announcement_is_red_and_named_once():
    events = Events([event(0, modle="toy")])
    collect_announcements(events, events)
    assert collect_announcements(events, events) == 0
    (decided,) = decide_all()
    with pytest.raises(AirflowFailException, match="modle"):
        start(decided).execute({})
    assert decide_all() == [], "it was said"


def test_files_and_events_and_versions_come_together(monkeypatch):
    drop()
    monkeypatch.setenv("QATLADDER_MLFLOW", "http://127.0.0.1:9")
    polled = []
    monkeypatch.setattr(registry, "poll", lambda server, *_: polled.append(server.url) or 1)
    assert collect_announcements(Events([event(model="a")]), [event(model="a")]) == 3
    assert polled == ["http://127.0.0.1:9"]


def test_one_way_that_is_closed_is_red_and_the_others_are_served(monkeypatch, tmp_path):
    monkeypatch.setenv("QATLADDER_MLFLOW", "http://127.0.0.1:9")
    (tmp_path / "file").touch()
    monkeypatch.setenv("QATLADDER_ANNOUNCEMENTS", f"{tmp_path / 'file' / 'none'},{drop().parent}")
    with pytest.raises(AirflowException, match=r"(?s)is no folder.*MLflow registry did not answer") as caught:
        collect_announcements(Events([event(model="a")]), [event(model="a")])
    assert not isinstance(caught.value, AirflowFailException), "it is tried again"
    assert labels() == ["a", "toy"]


def test_the_run_is_asked_for_with_exactly_that_model_and_who_announced_it():
    folder = drop(text='{"model": "toy", "target": "bayes", "who": "ci", "training": {"git": "1f3a"}}').parent
    collect_announcements(Events(), [])
    assert not list(folder.glob("*.json"))
    (decided,) = json.loads(json.dumps(decide_all()))
    assert decided["label"] == "toy @ bayes: run"
    with pytest.raises(DagRunTriggerException) as caught:
        start(decided).execute({})
    asked = caught.value
    assert (asked.trigger_dag_id, asked.conf) == ("validate_model", {"model": "toy", "version": "1", "target": "bayes"})
    assert asked.dag_run_id.startswith(ANNOUNCED), "an interruption of the services does not abandon it"
    assert asked.dag_run_id == f"announced-toy-1-{decided['decision']['letter']['id']}"
    assert asked.skip_when_already_exists and not asked.reset_dag_run
    assert "by ci" in asked.note and "git: 1f3a" in asked.note


def test_it_is_settled_only_when_the_run_is_there():
    drop()
    collect_announcements(Events(), [])
    (decided,) = decide_all()

    def nothing(dag, run):
        raise RuntimeError("no such run")

    with pytest.raises(RuntimeError):
        settle_started(decided, nothing)
    assert labels() == ["toy"], "it is tried again"
    asked = []
    settle_started(decided, lambda *run: asked.append(run) or "queued")
    assert labels() == [] and decide_all() == []
    store = open_store(load_settings())
    (record,) = inbox.settled(store)
    assert asked == [("validate_model", record["run"])]
    kept = json.loads(store.read_run_file(f"validate_model@{record['run']}", "announcement.json"))
    assert kept["announcement"]["model"] == "toy"


def test_a_duplicate_is_pink_and_is_settled():
    drop()
    collect_announcements(Events(), [])
    (decided,) = decide_all()
    settle_started(decided, lambda *_: "queued")
    drop("again.json")
    collect_announcements(Events(), [])
    (again,) = decide_all()
    with pytest.raises(AirflowSkipException, match="duplicate"):
        start(again).execute({})
    assert labels() == []
    with pytest.raises(AirflowSkipException):
        settle_started(again, lambda *_: pytest.fail("there is no run to look for"))


def test_what_is_waited_for_is_pink_and_stays():
    drop(text=json.dumps({"model": "toy", "artifacts": {"qat": "0" * 64}}))
    collect_announcements(Events(), [])
    (decided,) = decide_all()
    with pytest.raises(AirflowSkipException, match="waiting"):
        start(decided).execute({})
    assert labels() == ["toy"]


def test_an_unknown_model_is_red_and_the_others_are_served():
    drop("a.json", '{"model": "ghost"}')
    drop("b.json")
    collect_announcements(Events(), [])
    found = decisions()
    assert set(found) == {"ghost: unknown", "toy: run"}
    with pytest.raises(AirflowFailException, match="no model ghost; it has toy"):
        start(found["ghost: unknown"]).execute({})


def test_a_store_that_is_away_is_tried_again(monkeypatch):
    def away(*_):
        raise BrokenError("the store is away", kind="store")

    monkeypatch.setattr("qatladder.evidence.open_store", away)
    with pytest.raises(AirflowException, match="broken"):
        collect_announcements(Events(), [])
    with pytest.raises(AirflowException, match="broken"):
        decide_all()


def rings(count, bell=None, between=None):
    """The next rings of the bell; fails when one does not come."""

    async def listen():
        found = []
        async with aclosing((bell or AnnouncementBell(0.01)).run()) as ringing:
            for index in range(count):
                event = await asyncio.wait_for(anext(ringing), 5)
                found.append(event.payload["waiting"])
                if between:
                    between(index)
        return found

    return asyncio.run(listen())


def test_the_bell_can_be_made_again_from_what_it_says_of_itself():
    path, fields = AnnouncementBell(3.0).serialize()
    assert path == f"{AnnouncementBell.__module__}.{AnnouncementBell.__name__}"
    assert AnnouncementBell(**fields).every == 3.0


def test_the_bell_rings_once_for_a_file_and_again_for_another_of_its_name():
    path = drop()

    def again(_):
        path.unlink()
        drop(text='{"model": "toy", "who": "another"}')

    first, second = rings(2, between=again)
    assert "a.json" in first[0] and "a.json" in second[0] and first != second
    with pytest.raises(TimeoutError):
        rings(2)


def test_the_bell_rings_again_for_what_is_not_taken(monkeypatch):
    drop()
    monkeypatch.setattr(announced, "AGAIN", 0.05)
    assert len(rings(3)) == 3


def test_the_bell_rings_for_what_cannot_be_looked_at_and_rests(monkeypatch):
    monkeypatch.setenv("QATLADDER_ANNOUNCEMENTS", "off")
    monkeypatch.setenv("QATLADDER_MLFLOW", "http://127.0.0.1:9")
    assert waiting() == {"http://127.0.0.1:9: the MLflow registry did not answer as it should": announced.AWAY}
    monkeypatch.setenv("QATLADDER_MLFLOW", "not an address")
    assert list(waiting().values()) == [announced.AWAY]
    monkeypatch.setenv("QATLADDER_STORE", "s3://")
    assert "names no bucket" in next(iter(waiting()))


def test_the_bell_rings_for_what_waits_in_the_inbox_for_too_long(monkeypatch):
    drop()
    collect_announcements(Events(), [])
    assert waiting() == {}
    monkeypatch.setattr(announced, "OVERDUE", -10.0)
    assert len(waiting()) == 1
