"""Promises: what is dropped is taken once and whole; half a file is left, what is none is kept with the reason; in a folder and in S3."""

from __future__ import annotations

import os
import threading
import time

import pytest

from qatladder import announce
from qatladder.announcements import inbox, places
from qatladder.announcements.form import MAX_BYTES
from qatladder.announcements.places import Place
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import FolderStore, S3Store
from qatladder.settings import load_settings

GOOD = b'{"model": "lanes", "training": {"git": "1f"}}'


@pytest.fixture
def place(store):
    """A place to drop into: a folder, and prefixes of two S3 servers."""
    return Place("the place", store, optional=True)


@pytest.fixture
def box(tmp_path):
    return FolderStore(tmp_path / "inbox")


@pytest.fixture
def said():
    return []


def put(place, name, data, tmp_path, age=0.0):
    (tmp_path / "data").write_bytes(data)
    place.files.write_key(name, tmp_path / "data")
    if age and isinstance(place.files, FolderStore):
        os.utime(place.files.root / name, (time.time() - age,) * 2)


def names(place):
    return sorted(place.files.keys(""))


def test_an_announcement_is_taken_once(place, box, tmp_path, said):
    put(place, "lanes.json", GOOD, tmp_path)
    assert [item.key for item in place.waiting()] == ["lanes.json"]
    assert place.take(box, said.append) == 1
    (found,) = inbox.pending(box)
    assert found.announcement.training == {"git": "1f"} and found.source.endswith("lanes.json")
    assert names(place) == [] and place.take(box, said.append) == 0


def test_what_is_written_twice_with_one_content_is_one_announcement(place, box, tmp_path, said):
    data = b'{"model": "lanes", "when": "2026-11-27T08:30:00Z"}'
    for name in ("a.json", "b.json"):
        put(place, name, data, tmp_path)
    assert place.take(box, said.append) == 1
    assert any("known already" in line for line in said)


def test_other_files_are_left_alone(place, box, tmp_path, said):
    for name in ("notes.txt", "lanes.json.part", ".lanes.json", "rejected/old.json", "below/lanes.json"):
        put(place, name, GOOD, tmp_path)
    if isinstance(place.files, FolderStore):
        (place.files.root / "folder.json").mkdir()
        put(place, "folder.json/lanes.json", GOOD, tmp_path)
    before = names(place)
    assert place.waiting() == [] and place.take(box, said.append) == 0 and names(place) == before


def test_half_a_file_waits_for_its_other_half(place, box, tmp_path, said):
    put(place, "lanes.json", GOOD[:20], tmp_path)
    assert place.take(box, said.append) == 0
    assert names(place) == ["lanes.json"] and inbox.pending(box) == []
    put(place, "lanes.json", GOOD, tmp_path)
    assert place.take(box, said.append) == 1


@pytest.mark.parametrize("data", [b"", GOOD[:20], b"PK\x03\x04\xff"])
def test_half_a_file_that_stays_half_is_kept_with_the_reason(place, box, tmp_path, said, monkeypatch, data):
    monkeypatch.setattr(places, "STILL_WRITTEN", -10.0)  # S3's clock has whole seconds
    put(place, "lanes.json", data, tmp_path)
    put(place, "good.json", GOOD, tmp_path)
    assert place.take(box, said.append) == 2
    rejected, why = names(place)
    assert rejected.startswith("rejected/") and rejected.endswith("-lanes.json") and why == rejected + ".why.txt"
    assert place.files.read_key(rejected) == data
    assert b"cannot be read as JSON" in place.files.read_key(why)
    good, bad = sorted(inbox.pending(box), key=lambda item: item.announcement is None)
    assert good.announcement.model == "lanes"
    assert "cannot be read as JSON" in bad.problem and rejected in bad.problem


def test_a_wrong_field_is_rejected_at_once(place, box, tmp_path, said):
    put(place, "lanes.json", b'{"modle": "lanes"}', tmp_path)
    assert place.take(box, said.append) == 1
    assert "modle" in inbox.pending(box)[0].problem
    assert b"modle" in place.files.read_key(names(place)[1])


def test_a_huge_file_is_moved_and_never_read(place, box, tmp_path, said, monkeypatch):
    put(place, "weights.json", b"x" * (MAX_BYTES + 1), tmp_path)
    monkeypatch.setattr(type(place.files), "read_key", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(inbox, "_read", lambda *_: None)
    assert place.take(box, said.append) == 1
    assert [item.size for item in place.files.items("rejected/") if item.key.endswith(".json")] == [MAX_BYTES + 1]


def test_an_interruption_before_the_inbox_loses_nothing(place, box, tmp_path, said, monkeypatch):
    put(place, "lanes.json", GOOD, tmp_path)

    def fail(*_):
        raise BrokenError("the inbox is away")

    with monkeypatch.context() as patch:
        patch.setattr(box, "write_key", fail)
        with pytest.raises(BrokenError):
            place.take(box, said.append)
    assert len(place.waiting()) == 1
    assert place.take(box, said.append) == 1 and names(place) == []


def test_a_file_of_the_same_name_written_meanwhile_is_another_announcement(tmp_path, box, said, monkeypatch):
    (tmp_path / "drop").mkdir()
    place = Place("drop", FolderStore(tmp_path / "drop"))
    put(place, "lanes.json", GOOD, tmp_path)
    receive = inbox.receive

    def slow(store, letter):
        if letter.announcement.model == "lanes":
            put(place, "lanes.json", GOOD.replace(b"lanes", b"cars"), tmp_path)
        return receive(store, letter)

    monkeypatch.setattr(places, "receive", slow)
    place.take(box, said.append)
    place.take(box, said.append)
    assert sorted(item.announcement.model for item in inbox.pending(box)) == ["cars", "lanes"]


def test_a_file_that_is_written_anew_in_place_while_it_is_taken_is_waited_for(tmp_path, box, said, monkeypatch):
    (tmp_path / "drop").mkdir()
    place = Place("drop", FolderStore(tmp_path / "drop"))
    put(place, "lanes.json", GOOD, tmp_path)
    with (tmp_path / "drop" / "lanes.json").open("r+b") as writer:
        move = Place._move_aside

        def truncated(self, key):
            writer.truncate(9)
            return move(self, key)

        with monkeypatch.context() as patch:
            patch.setattr(Place, "_move_aside", truncated)
            assert place.take(box, said.append) == 0 and inbox.pending(box) == []
        put(place, "lanes.json", GOOD, tmp_path)  # another, of the same name
        assert place.take(box, said.append) == 1
        writer.write(GOOD.replace(b"lanes", b"roads"))
    assert len(place.waiting()) == 1
    assert place.take(box, said.append) == 1
    assert sorted(item.label for item in inbox.pending(box)) == ["lanes", "roads"] and names(place) == []


def test_announcers_and_takers_at_once_lose_nothing(tmp_path, box, said):
    (tmp_path / "drop").mkdir()
    place = Place("drop", FolderStore(tmp_path / "drop"))
    wanted, over = 40, threading.Event()

    def announcer(first):
        for index in range(first, wanted, 4):
            announce.announce(f"m{index}", to=str(tmp_path / "drop"), who="")

    def taker():
        while not over.is_set():
            place.take(box, said.append)

    takers = [threading.Thread(target=taker) for _ in range(2)]
    announcers = [threading.Thread(target=announcer, args=(first,)) for first in range(4)]
    for thread in [*takers, *announcers]:
        thread.start()
    for thread in announcers:
        thread.join()
    over.set()
    for thread in takers:
        thread.join()
    place.take(box, said.append)
    assert sorted(item.announcement.model for item in inbox.pending(box)) == sorted(f"m{index}" for index in range(wanted))
    assert [item for item in inbox.pending(box) if item.problem] == []
    assert names(place) == []


def test_a_place_that_cannot_be_reached_is_broken_and_named(tmp_path, box, said, monkeypatch):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(BrokenError, match="S3"):
        Place("s3://b/p", S3Store("b", "p", "http://127.0.0.1:9")).take(box, said.append)


def test_a_folder_that_is_gone_is_not_called_empty_unless_it_is_our_own(tmp_path, box, said, monkeypatch):
    assert Place("drop", FolderStore(tmp_path / "none"), optional=True).take(box, said.append) == 0
    with pytest.raises(BrokenError) as caught:
        Place("drop", FolderStore(tmp_path / "none")).take(box, said.append)
    assert "none is no folder" in caught.value.where["found"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(BrokenError) as caught:
        Place("drop", FolderStore(tmp_path)).waiting()
    assert "cannot be read and written" in caught.value.where["found"]


def test_places_come_from_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    monkeypatch.delenv("QATLADDER_ANNOUNCEMENTS", raising=False)
    (own,) = places.places(load_settings())
    assert own.files.root == tmp_path / "announcements" and own.optional
    monkeypatch.setenv("QATLADDER_ANNOUNCEMENTS", f"{tmp_path / 'a'}, s3://bucket/some/prefix")
    folder, bucket = places.places(load_settings())
    assert folder.files.root == tmp_path / "a" and not folder.optional and bucket.files.uri("x") == "s3://bucket/some/prefix/x"
    monkeypatch.setenv("QATLADDER_ANNOUNCEMENTS", "off")
    assert places.places(load_settings()) == []
    monkeypatch.setenv("QATLADDER_ANNOUNCEMENTS", "s3://")
    with pytest.raises(ConfigError, match="bucket"):
        places.places(load_settings())
