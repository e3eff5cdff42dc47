"""Promises of qatladder.alerts.outbox: nothing is lost, nothing comes twice, quiet hours hold, and what fails for good is seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.alerts.nights import START, Lab, ladder, report
from tests.unit.alerts.receivers import Mailbox, Receiver

from qatladder.alerts.messages import StoreLinks
from qatladder.alerts.outbox import BACKOFF, DELIVERED, LOST, WAITING, Item, deliver_items, items, prune, put_back, queue, undelivered
from qatladder.alerts.routing import load_routes
from qatladder.alerts.tell import tell
from qatladder.evidence.store import FolderStore, Store
from qatladder.settings import load_settings

BAD = report(ladder(fails=["int.input"]))


def item(name: str = "i1", **fields: str) -> Item:
    data = {"run": "n1", "to": "default", "address": "$QATLADDER_ALERTS", "kind": "no-ship", "title": "t", "body": "b"}
    return Item(id=name, created=START.isoformat(), **(data | fields))


@pytest.mark.parametrize("trouble", [500, "cut", "hang"])
def test_a_receiver_in_trouble_gets_the_message_at_the_next_try_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int | str
) -> None:
    """A real HTTP server that answers 500, cuts the connection, or hangs longer than the timeout, and then accepts."""
    receiver = Receiver(script=(trouble,))
    monkeypatch.setenv("QATLADDER_ALERTS", f"{receiver.url}?rto=1")
    store = FolderStore(tmp_path / "store")
    try:
        (first,) = tell(BAD, store, load_settings(), StoreLinks("s3://lab/report.html"), "n1").outcomes
        assert (first.state, receiver.received) == ("waiting", [])
        assert first.reason and "hook-token-1" not in first.line()
        (again,) = tell(BAD, store, load_settings(), StoreLinks("s3://lab/report.html"), "n1").outcomes
    finally:
        receiver.close()
    assert again.state == "delivered"
    (got,) = receiver.received
    assert got["title"] == "QATLadder no-ship: int.input, lane_net 1 @ bayes-e"
    for part in ("first failing check: int.input failed", "measured: measured int.input of lane_net", "report: s3://lab/report.html"):
        assert part in got["message"]
    assert receiver.refused == [trouble]


def test_a_receiver_that_is_not_there_yet_gets_the_message_when_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    receiver.close()
    monkeypatch.setenv("QATLADDER_ALERTS", receiver.url)
    store = FolderStore(tmp_path / "store")
    (first,) = tell(BAD, store, load_settings(), StoreLinks("x"), "n1").outcomes
    assert first.state == "waiting"
    there = Receiver()
    try:
        monkeypatch.setenv("QATLADDER_ALERTS", there.url)  # the address was corrected
        soon = datetime.now(UTC) + timedelta(seconds=30)
        assert deliver_items(store, load_routes(load_settings()), lambda: soon) == [], "not before its next try is due"
        (again,) = deliver_items(store, load_routes(load_settings()), lambda: soon + timedelta(minutes=1))
    finally:
        there.close()
    assert again.state == "delivered"
    assert len(there.received) == 1


def test_a_mail_server_gets_it_after_it_was_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Mailbox(refuse=1)
    monkeypatch.setenv("QATLADDER_ALERTS", box.url)
    store = FolderStore(tmp_path / "store")
    try:
        states = [tell(BAD, store, load_settings(), StoreLinks("x"), "n1").outcomes for _ in range(3)]
    finally:
        box.close()
    assert [[outcome.state for outcome in found] for found in states] == [["waiting"], ["delivered"], []]
    (mail,) = box.messages
    assert mail["Subject"] == "QATLadder no-ship: int.input, lane_net 1 @ bayes-e"


CHILD = """
import sys
from pathlib import Path
from tests.unit.alerts.nights import ladder, report
from qatladder.alerts.messages import StoreLinks
from qatladder.alerts.tell import tell
from qatladder.evidence.store import FolderStore
from qatladder.settings import load_settings
tell(report(ladder(fails=["int.input"])), FolderStore(Path(sys.argv[1])), load_settings(), StoreLinks("x"), "n1")
"""


def test_a_process_killed_between_two_addresses_leaves_the_second_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepting: Receiver
) -> None:
    """A real process, a real SIGKILL: the first address has accepted, the second one hangs."""
    hanging = Receiver(script=("hang",))
    monkeypatch.setenv("QATLADDER_ALERTS", f"{accepting.url},{hanging.url}?rto=30")
    project = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{project / 'include'}:{project}"}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "store")], env=environment)
    deadline = time.monotonic() + 60
    while not hanging.refused and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL
    assert len(accepting.received) == 1

    store = FolderStore(tmp_path / "store")
    routes = load_routes(load_settings())
    (busy,) = deliver_items(store, routes)
    assert (busy.state, len(hanging.received)) == ("busy", 0), "the dead process may still be alive"
    later = datetime.now(UTC) + timedelta(minutes=11)
    (done,) = deliver_items(store, routes, lambda: later)
    hanging.close()
    assert done.state == "delivered"
    assert (len(accepting.received), len(hanging.received)) == (1, 1)
    assert list(store.keys(WAITING)) == []
    assert len(list(store.keys(DELIVERED))) == 1


def test_an_item_somebody_else_is_sending_is_left_to_them(lab: Lab) -> None:
    queue(lab.store, item())
    took: list[str] = []

    def slow(message: object, url: str) -> object:
        took.extend(outcome.state for outcome in lab.deliver())
        return lab.__class__.send(lab, message, url)  # type: ignore[arg-type]

    deliver_items(lab.store, load_routes(load_settings()), lambda: lab.now, send=slow)  # type: ignore[arg-type]
    assert took == ["busy"]
    assert len(lab.take()) == 1


def test_every_store_keeps_the_outbox(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder and two S3 servers over HTTP."""
    monkeypatch.setenv("QATLADDER_ALERTS", "json://chat")
    lab = Lab(tmp_path, store)
    lab.down.add("json://chat")
    lab.tell(BAD, "n1")
    assert [found.tries for found in items(store)] == [1]
    lab.down.clear()
    lab.now += timedelta(minutes=2)
    assert [outcome.state for outcome in lab.deliver()] == ["delivered"]
    assert len(lab.take()) == 1
    lab.count = 1
    assert lab.night(ladder(fails=["int.input"]))[0].title.startswith("QATLadder: still open")
    assert lab.night(ladder())[0].title.startswith("QATLadder recovered")
    assert list(store.keys("alerts/main/open/")) == list(store.keys(WAITING)) == []


QUIET = """
default:
  zone: Asia/Shanghai
  quiet: [{days: [mon, tue, wed, thu, fri], from: "19:00", to: "08:00"}, {days: [sat, sun]}]
  urgent: [broken run]
"""


def test_quiet_hours_hold_and_the_next_delivery_after_them_sends(lab: Lab) -> None:
    lab.routing(QUIET)
    lab.now = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)  # Saturday, 02:00 in Shanghai: the end of Friday's night, then the weekend
    (held,) = lab.tell(BAD, "n1").outcomes
    assert (held.state, lab.take()) == ("held", [])
    assert held.reason == "quiet hours until 2026-11-30T00:00+08:00"
    lab.now = datetime(2026, 11, 29, 15, 59, tzinfo=UTC)
    assert [outcome.state for outcome in lab.deliver()] == ["held"]
    lab.now = datetime(2026, 11, 29, 16, 1, tzinfo=UTC)  # Monday, 00:01: nobody said Sunday's night is quiet
    assert [outcome.state for outcome in lab.deliver()] == ["delivered"]
    assert len(lab.take()) == 1
    assert lab.deliver() == []


def test_urgent_kinds_pass_in_quiet_hours(lab: Lab) -> None:
    lab.routing(QUIET.replace("[broken run]", "[no-ship]"))
    lab.now = datetime(2026, 11, 25, 18, 0, tzinfo=UTC)
    outcomes = lab.tell(report(ladder(fails=["int.input"]), ladder("u", broken="board.health")), "n1").outcomes
    assert [(outcome.item.kind, outcome.state) for outcome in outcomes] == [("no-ship", "delivered"), ("undecided", "held")]


def test_owners_have_quiet_hours_of_their_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANES", "json://lanes")
    lab.routing('owners: {lanes: {addresses: [$LANES], quiet: [{from: "00:00", to: "06:00"}]}}')
    outcomes = lab.tell(BAD, "n1").outcomes
    assert [(outcome.item.to, outcome.state) for outcome in outcomes] == [("default", "delivered"), ("lanes", "held")]
    lab.now += timedelta(hours=4)
    assert [outcome.item.to for outcome in lab.deliver()] == ["lanes"]


def test_a_message_is_given_up_after_a_day_seen_and_put_back(lab: Lab) -> None:
    lab.down.add("json://chat")
    lab.tell(BAD, "n1")
    states = []
    for pause in BACKOFF:
        lab.now += pause - timedelta(seconds=1)
        assert lab.deliver() == [], "not before the pause is over"
        lab.now += timedelta(seconds=1)
        states += [outcome.state for outcome in lab.deliver()]
    assert states == ["waiting"] * (len(BACKOFF) - 1) + ["lost"]
    assert lab.now - START >= timedelta(hours=23)
    lab.now += timedelta(days=1)
    assert lab.deliver() == []
    (row,) = undelivered(lab.store)
    assert (row["state"], row["address"], row["reason"]) == ("lost", "$QATLADDER_ALERTS", "json://****: error=500")
    lab.tell(BAD, "n1")
    assert len(list(lab.store.keys(LOST))) == 1, "the run told again does not hide it"
    lab.down.clear()
    assert len(put_back(lab.store)) == 1
    assert [outcome.state for outcome in lab.deliver()] == ["delivered"]
    assert undelivered(lab.store) == []


def test_an_address_that_fails_does_not_hold_up_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_ALERTS", "json://a,json://b,json://c")
    lab.down.add("json://b")
    assert [outcome.state for outcome in lab.tell(BAD, "n1").outcomes] == ["delivered", "delivered", "waiting"]
    lab.down.clear()
    lab.now += timedelta(minutes=2)
    assert [outcome.state for outcome in lab.deliver()] == ["delivered"]
    assert [place for place, _ in lab.arrived] == ["json://a", "json://c", "json://b"]


def test_an_address_that_is_not_set_is_a_failure_with_its_name(lab: Lab) -> None:
    lab.routing("owners: {lanes: {addresses: [$NOBODY_SET_THIS, 'airflow:mail']}}")
    outcomes = lab.tell(BAD, "n1").outcomes
    assert [outcome.state for outcome in outcomes] == ["delivered", "waiting", "waiting"]
    assert "$NOBODY_SET_THIS" in outcomes[1].reason and "not set" in outcomes[1].reason
    assert "only Airflow can read" in outcomes[2].reason


def test_a_look_up_that_breaks_is_a_failure_without_its_words(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_name: str) -> list[str]:
        raise RuntimeError("json://hunter2secret")

    monkeypatch.setattr("qatladder.settings.alert_connections", breaks)
    lab.routing("owners: {lanes: {addresses: ['airflow:mail']}}")
    outcomes = lab.tell(BAD, "n1").outcomes
    assert [(outcome.state, outcome.reason) for outcome in outcomes] == [
        ("delivered", ""),
        ("waiting", "the address cannot be looked up: RuntimeError"),
    ]


def test_the_line_about_what_is_open_is_never_urgent(lab: Lab) -> None:
    lab.night(ladder(fails=["int.input"]))
    lab.routing("default: {quiet: [{from: '00:00', to: '06:00'}], urgent: [no-ship]}")
    (outcome,) = lab.tell(report(ladder(fails=["int.input"]), run="n2"), "n2").outcomes
    assert (outcome.item.title[:21], outcome.state) == ("QATLadder: still open", "held")


def test_no_address_is_in_the_store(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QATLADDER_ALERTS", "json://user:hunter2secret@127.0.0.1:1/hunter2secret")
    store = FolderStore(tmp_path / "real")
    for given in (None, ["json://user:hunter2secret@127.0.0.1:1/hunter2secret"]):
        outcomes = tell(BAD, store, load_settings(), StoreLinks("x"), "n1", given).outcomes
        assert [outcome.state for outcome in outcomes] == ["waiting"]
        assert "hunter2secret" not in outcomes[0].line()
    files = [path for path in (tmp_path / "real").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if "hunter2secret" in path.read_text() or "hunter2secret" in str(path)]


def test_a_message_only_its_notifier_knows_the_address_of_waits_for_it(lab: Lab) -> None:
    queue(lab.store, item(address="given:0123456789abcdef"))
    (outcome,) = lab.deliver()
    assert outcome.state == "waiting"
    assert "only the notifier" in outcome.reason


def test_a_damaged_item_is_seen_and_holds_up_nobody(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "store" / "alerts" / "outbox"
    folder.mkdir(parents=True)
    (folder / "00-damaged.json").write_text("{")
    queue(lab.store, item())
    outcomes = lab.deliver()
    assert [outcome.state for outcome in outcomes] == ["lost", "delivered"]
    assert "cannot be read" in outcomes[0].line()
    assert [row["state"] for row in undelivered(lab.store)] == ["waiting"]


def test_what_was_delivered_is_not_queued_again(lab: Lab) -> None:
    queue(lab.store, item())
    lab.deliver()
    queue(lab.store, item())
    assert lab.deliver() == []
    assert len(lab.take()) == 1


def test_messages_arrive_in_the_order_they_were_made(lab: Lab) -> None:
    for name in ("b", "a", "c"):
        queue(lab.store, item(name, title=name))
    lab.deliver()
    assert [message.title for message in lab.take()] == ["a", "b", "c"]


def test_old_deliveries_and_plans_go_and_nothing_that_waits(lab: Lab, tmp_path: Path) -> None:
    lab.tell(BAD, "n1")
    lab.down.add("json://chat")
    lab.tell(report(ladder(fails=["float.accuracy"])), "n2")
    for path in (tmp_path / "store").rglob("*.json"):
        os.utime(path, (1, 1))
    prune(lab.store, lab.now)
    left = sorted(key.split("/")[1] + "/" + key.split("/")[2][:4] for key in lab.store.keys("alerts/"))
    assert left == ["main/open", f"outbox/{START:%Y}"]
    assert json.loads(lab.store.read_key(next(lab.store.keys(WAITING))))["tries"] == 1
