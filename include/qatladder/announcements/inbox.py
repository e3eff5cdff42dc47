"""What is known of each announcement, in the object store:

    announcements/pending/<id>.json     arrived; its DAG run does not exist yet
    announcements/done/<id>.json        what became of it
    announcements/latest/<ladder>.json  what was last validated of a model, version and target after an announcement

Written whole or not at all. `done` is written before `pending` goes, so an interruption anywhere leaves an announcement pending or done, and
never neither.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qatladder.announcements.form import MAX_BYTES, Announcement
from qatladder.evidence.store import Store, safe_name

PENDING, DONE, LATEST = "announcements/pending/", "announcements/done/", "announcements/latest/"


@dataclass(frozen=True)
class Letter:
    """Something that arrived: an announcement, or what was taken for one.

    Attributes:
        id: 20 hex digits.
        source: how it came: `asset event 12`, a file's address, `mlflow lanes 7`.
        received: ISO 8601, UTC.
        announcement: None when it is none.
        problem: why it is none.
        raw: what it was then, its first part.
    """

    id: str
    source: str
    received: str
    announcement: Announcement | None = None
    problem: str = ""
    raw: str = ""

    @property
    def label(self) -> str:
        return self.announcement.label if self.announcement else f"unreadable ({self.source.rpartition('/')[2]})"

    @property
    def when(self) -> datetime.datetime:
        """End of the training, at the latest when the announcement arrived: a clock that is ahead must not outdo what comes after."""
        arrived = datetime.datetime.fromisoformat(self.received)
        stated = self.announcement.when if self.announcement else None
        return min(stated, arrived) if stated else arrived

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"id": self.id, "source": self.source, "received": self.received}
        if self.announcement is not None:
            return {**data, "announcement": self.announcement.model_dump(mode="json", exclude_defaults=True)}
        return {**data, "problem": self.problem, "raw": self.raw}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Letter:
        known = data.get("announcement")
        announcement = None if known is None else Announcement.model_validate_json(json.dumps(known))
        return cls(data["id"], data["source"], data["received"], announcement, data.get("problem", ""), data.get("raw", ""))


@dataclass(frozen=True)
class Latest:
    """The newest announcement of a model, version and target whose ladder was started."""

    id: str
    when: datetime.datetime
    content: str
    run: str = field(default="")


def letter_of(announcement: Announcement, source: str) -> Letter:
    return Letter(announcement.id, source, _now(), announcement)


def problem_letter(raw: bytes, source: str, problem: str) -> Letter:
    """Something that is no announcement, to be rejected where people see it."""
    digest = hashlib.sha256(source.encode() + b"\0" + raw).hexdigest()[:20]
    return Letter(digest, source, _now(), None, problem, raw[:MAX_BYTES].decode("utf-8", "replace"))


def receive(store: Store, letter: Letter) -> bool:
    """Put a letter into the inbox. False when it is there, or was settled, already."""
    if is_known(store, letter):
        return False
    _write(store, f"{PENDING}{letter.id}.json", letter.to_json())
    return True


def is_known(store: Store, letter: Letter) -> bool:
    """It is in the inbox, or settled."""
    return any(_read(store, f"{place}{letter.id}.json") is not None for place in (DONE, PENDING))


def overdue(store: Store, seconds: float) -> list[str]:
    """Ids of what has been pending for longer than that: its run was not created, and somebody must look again."""
    before = datetime.datetime.now(datetime.UTC).timestamp() - seconds
    return [item.key.removeprefix(PENDING).removesuffix(".json") for item in store.items(PENDING) if item.modified < before]


def pending(store: Store) -> list[Letter]:
    """What waits, the newest training first. A damaged record is a letter with a problem: it is shown, and never holds up the others."""
    found = []
    for key in store.keys(PENDING):
        name = key.removeprefix(PENDING).removesuffix(".json")
        if _read(store, f"{DONE}{name}.json") is not None:  # interrupted between the two
            store.delete_key(key)
            continue
        try:
            raw = store.read_key(key)
        except FileNotFoundError:  # settled meanwhile
            continue
        try:
            letter = Letter.from_json(json.loads(raw))
            if letter.id != name:
                raise ValueError(f"it says it is {letter.id}")
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            letter = Letter(
                name, store.uri(key), _now(), None, f"the inbox's record is damaged: {error}", raw[:MAX_BYTES].decode("utf-8", "replace")
            )
        found.append(letter)
    return sorted(found, key=lambda item: (item.when, item.id), reverse=True)


def settle(store: Store, letter: Letter, outcome: str, why: str, run: str = "", latest: Mapping[str, str] | None = None) -> None:
    """Write down what became of a letter; it is pending no longer.

    Args:
        outcome, why: as of `Decision`.
        run: the DAG run that exists now.
        latest: `key` of the ladder and `content` that is being validated, when a run was started.
    """
    if latest:
        known = latest_of(store, latest["key"])
        if known is None or known.when <= letter.when or known.content != latest["content"]:
            when = letter.when.isoformat()
            _write(store, f"{LATEST}{latest['key']}.json", {"id": letter.id, "when": when, "content": latest["content"], "run": run})
    _write(store, f"{DONE}{letter.id}.json", {**letter.to_json(), "outcome": outcome, "why": why, "run": run, "settled": _now()})
    store.delete_key(f"{PENDING}{letter.id}.json")


def latest_of(store: Store, key: str) -> Latest | None:
    """What was last started for a ladder; None when nothing was, or when that record is damaged: then a ladder too many is climbed."""
    data = _read(store, f"{LATEST}{key}.json")
    try:
        return None if data is None else Latest(data["id"], datetime.datetime.fromisoformat(data["when"]), data["content"], data["run"])
    except (KeyError, TypeError, ValueError):
        return None


def ladder_key(model: str, version: str, target: str | None) -> str:
    """Name of a model, version and target in the inbox; neither name nor version can hold an `@`."""
    return safe_name(f"{model}@{version}@{target or ''}")


def settled(store: Store, last: int | None = None) -> list[dict[str, Any]]:
    """What became of the announcements, oldest first; the `last` ones."""
    items = sorted(store.items(DONE), key=lambda item: item.modified)
    found = [_read(store, item.key) for item in items[-last if last else None :]]
    return [record for record in found if record]


def forget(store: Store, older_than: float) -> int:
    """Remove what became of announcements before that time (seconds since 1970); returns how many."""
    old = [item.key for item in store.items(DONE) if item.modified < older_than]
    for key in old:
        store.delete_key(key)
    return len(old)


def note(store: Store, name: str) -> dict[str, Any]:
    """What a way in remembers (`announcements/<name>.json`); empty when nothing, or when it is damaged."""
    return _read(store, f"announcements/{name}.json") or {}


def remember(store: Store, name: str, data: Mapping[str, Any]) -> None:
    _write(store, f"announcements/{name}.json", data)


def _read(store: Store, key: str) -> dict[str, Any] | None:
    """A record; None when there is none, or when it is damaged."""
    try:
        data = json.loads(store.read_key(key))
    except (FileNotFoundError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _write(store: Store, key: str, data: Mapping[str, Any]) -> None:
    with tempfile.NamedTemporaryFile(prefix="qatladder-") as file:
        file.write(json.dumps(data, indent=1).encode())
        file.flush()
        store.write_key(key, Path(file.name))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()
