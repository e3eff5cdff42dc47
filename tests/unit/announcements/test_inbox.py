"""Promises: what arrived is pending until it is settled, once, whoever does it and whenever it is interrupted; in a folder and in S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.announcements.conftest import letter

from qatladder.announcements import inbox
from qatladder.errors import BrokenError


def test_a_letter_is_pending_until_it_is_settled_and_never_comes_again(store):
    one = letter(artifacts={"float": "0" * 64}, training={"git": "1f"}, who="me", target="bayes")
    assert inbox.receive(store, one)
    assert inbox.pending(store) == [one]
    assert not inbox.receive(store, one), "it is there already"
    inbox.settle(store, one, "run", "why", "announced-1")
    assert inbox.pending(store) == []
    assert not inbox.receive(store, one), "it was settled already"
    (record,) = inbox.settled(store)
    assert (record["outcome"], record["run"], inbox.Letter.from_json(record)) == ("run", "announced-1", one)


def test_the_newest_training_comes_first(store):
    for at in (3, 1, 2):
        inbox.receive(store, letter(at=at))
    assert [item.when.minute for item in inbox.pending(store)] == [3, 2, 1]


def test_a_clock_that_is_ahead_counts_as_the_arrival(store):
    ahead = letter(at=60 * 24 * 365)
    assert ahead.when.isoformat() == ahead.received


@pytest.mark.parametrize("broken", ["done", "pending"])
def test_an_interruption_while_settling_loses_nothing(store, monkeypatch, broken):
    one = letter()
    inbox.receive(store, one)

    def fail(*_: object) -> None:
        raise BrokenError("the store went away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_key" if broken == "done" else "delete_key", fail)
        with pytest.raises(BrokenError):
            inbox.settle(store, one, "run", "why", "run-1")
    if broken == "done":
        assert inbox.pending(store) == [one], "nobody knows it was settled, so it waits"
    else:
        assert inbox.pending(store) == [], "it was settled; what is left of it goes"
        assert list(store.keys(inbox.PENDING)) == []


def test_a_damaged_record_is_shown_and_holds_up_nobody(store, tmp_path):
    (tmp_path / "torn").write_text('{"id": "abc", "sour')
    store.write_key(f"{inbox.PENDING}abc.json", tmp_path / "torn")
    good = letter()
    inbox.receive(store, good)
    found = inbox.pending(store)
    assert good in found
    (bad,) = [item for item in found if item != good]
    assert bad.announcement is None and "damaged" in bad.problem and bad.raw.startswith('{"id"')
    inbox.settle(store, bad, "rejected", bad.problem)
    assert inbox.pending(store) == [good]


def test_a_damaged_memory_is_no_memory(store, tmp_path):
    (tmp_path / "torn").write_text("[]")
    store.write_key(f"{inbox.LATEST}a.json", tmp_path / "torn")
    store.write_key("announcements/events.json", tmp_path / "torn")
    assert inbox.latest_of(store, "a") is None
    assert inbox.note(store, "events") == {}


def test_many_announcers_at_once_lose_nothing_and_double_nothing(store):
    letters = [letter(at=at) for at in range(12)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: inbox.receive(store, item), letters * 3))
    assert sorted(item.id for item in inbox.pending(store)) == sorted(item.id for item in letters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: inbox.settle(store, item, "run", "why", "run"), letters * 2))
    assert inbox.pending(store) == []
    assert sorted(item["id"] for item in inbox.settled(store)) == sorted(item.id for item in letters)


def test_the_latest_is_the_newest_training_whatever_the_order_of_settling(store):
    new, old = letter(at=5), letter(at=1)
    inbox.settle(store, new, "run", "", "run-new", {"key": "k", "content": "c"})
    inbox.settle(store, old, "run", "", "run-old", {"key": "k", "content": "c"})
    assert inbox.latest_of(store, "k").run == "run-new"


def test_what_waits_for_too_long_is_named_and_what_is_old_is_forgotten(store):
    one = letter()
    inbox.receive(store, one)
    assert inbox.overdue(store, 3600) == []
    assert inbox.overdue(store, -3600) == [one.id]
    inbox.settle(store, one, "run", "", "run")
    assert inbox.forget(store, 0) == 0
    assert inbox.forget(store, 1e11) == 1
    assert inbox.settled(store) == []
