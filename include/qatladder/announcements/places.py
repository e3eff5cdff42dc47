"""Folders and S3 prefixes that announcements are dropped into, one JSON file each.

    <place>/*.json               announcements; other names, and names that start with a dot, are left alone
    <place>/.taken/              (folders) files on their way into the inbox; empty unless that was interrupted
    <place>/rejected/<name>      what is no announcement, and beside it <name>.why.txt

A file that cannot be read as JSON and is younger than `STILL_WRITTEN` is left for the next time: a JSON object is readable only when its
last brace is there, so half a file is never taken. A file of a folder is moved aside before it is read for good, so what a writer puts there
under the same name meanwhile is an announcement of its own. S3 knows no move: give every object a name of its own there, as
`qatladder announce` does.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qatladder.announcements.form import MAX_BYTES, parse
from qatladder.announcements.inbox import letter_of, problem_letter, receive
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import FolderStore, Item, S3Store, Store, s3_access
from qatladder.settings import Settings

STILL_WRITTEN = 60.0
"""Seconds since its last change that an unreadable file may still be written."""

TAKEN, REJECTED = ".taken/", "rejected/"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """One folder or prefix.

    Attributes:
        uri: as the setting names it.
        files: access to it; nothing of the evidence is there.
        optional: it need not exist yet.
    """

    uri: str
    files: Store
    optional: bool = False

    def waiting(self) -> list[Item]:
        """Announcements that may be taken; those whose taking was interrupted, too.

        Raises:
            BrokenError: the place cannot be looked at.
        """
        with self._reachable():
            self._look_at_folder()
            return [item for item in self._items() if _is_announcement(item.key.removeprefix(TAKEN))]

    def take(self, inbox: Store, log: Log) -> int:
        """Put everything that waits into the inbox, then remove it here; returns how many were new.

        Raises:
            BrokenError: the place or the inbox cannot be read or written; whatever was not taken is still there.
        """
        new = 0
        for item in self.waiting():
            with self._reachable(), contextlib.suppress(FileNotFoundError):  # somebody else took it
                new += self._take(item, inbox, log)
        return new

    def _take(self, item: Item, inbox: Store, log: Log) -> bool:
        uri = self.files.uri(item.key)
        try:
            parse(self._read(item), uri, _time(item))
        except ConfigError as error:
            if _is_half_written(error, item):
                log(f"{uri}: no JSON yet, still being written? It is looked at again")
                return False
        key = self._move_aside(item.key)
        item = item if key == item.key else next(self.files.items(key), item)
        raw = self._read(item)
        try:
            found = parse(raw, uri, _time(item))
        except ConfigError as error:
            # Written anew, in place, since it was looked at: its writer goes on writing it where it is now.
            return False if _is_half_written(error, item) else self._reject(key, raw, error, inbox, log)
        new = receive(inbox, letter_of(found, uri))
        self.files.delete_key(key)
        log(f"{uri}: {found.label}, announcement {found.id}" + ("" if new else ", which is known already"))
        return new

    def _read(self, item: Item) -> bytes:
        """The bytes, or so many that they are seen to be too many."""
        if item.size > MAX_BYTES:
            return b" " * (MAX_BYTES + 1)
        return self.files.read_key(item.key)

    def _move_aside(self, key: str) -> str:
        if not isinstance(self.files, FolderStore) or key.startswith(TAKEN):
            return key
        aside = f"{TAKEN}{secrets.token_hex(4)}-{key}"  # a name of its own: one of that name may still be there
        (self.files.root / TAKEN).mkdir(exist_ok=True)
        os.replace(self.files.root / key, self.files.root / aside)  # noqa: PTH105
        return aside

    def _reject(self, key: str, raw: bytes, error: ConfigError, inbox: Store, log: Log) -> bool:
        """Keep it, with the reason, where its writer finds it; and in the inbox, where everybody else does."""
        name = key.removeprefix(TAKEN)
        stamp = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-"
        with tempfile.TemporaryDirectory(prefix="qatladder-") as folder:
            copy, why = Path(folder) / "file", Path(folder) / "why"
            self.files.fetch_key(key, copy)
            why.write_text(f"{error}\n", encoding="utf-8")
            self.files.write_key(f"{REJECTED}{stamp}{name}", copy)
            self.files.write_key(f"{REJECTED}{stamp}{name}.why.txt", why)
        where = self.files.uri(f"{REJECTED}{stamp}{name}")
        new = receive(inbox, problem_letter(stamp.encode() + raw.strip(), self.files.uri(name), f"{error}\n  kept: {where}"))
        self.files.delete_key(key)
        log(f"{self.files.uri(name)}: rejected, now {where}\n{error}")
        return new

    def _items(self) -> Iterator[Item]:
        """What may be an announcement; of a folder without going through the folders below, which may be large."""
        if not isinstance(self.files, FolderStore):
            yield from self.files.items("")
            return
        for folder in (self.files.root, self.files.root / TAKEN):
            for path in sorted(folder.glob("*.json")):
                yield from self.files.items(path.relative_to(self.files.root).as_posix())

    def _look_at_folder(self) -> None:
        """A folder that is gone, or that nothing can be taken from, looks empty otherwise."""
        if not isinstance(self.files, FolderStore) or (self.optional and not self.files.root.exists()):
            return
        if not self.files.root.is_dir():
            raise NotADirectoryError(f"{self.files.root} is no folder")
        if not os.access(self.files.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{self.files.root} cannot be read and written")

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BrokenError(
                "announcements cannot be taken from their place",
                kind="announcements",
                place=self.uri,
                found=error,
                next_step="check QATLADDER_ANNOUNCEMENTS and who may read and write there",
            ) from error


def places(settings: Settings) -> list[Place]:
    """The configured places.

    Raises:
        ConfigError: an s3:// place without a bucket.
    """
    found = []
    for uri in settings.announcements:
        if not uri.startswith("s3://"):
            folder = Path(uri).expanduser()
            found.append(Place(uri, FolderStore(folder), optional=folder == settings.home / "announcements"))
            continue
        bucket, _, prefix = uri[len("s3://") :].partition("/")
        if not bucket:
            raise ConfigError(
                "the place of announcements names no bucket",
                found=uri,
                expected="s3://bucket/prefix",
                next_step="set QATLADDER_ANNOUNCEMENTS",
            )
        found.append(Place(uri, S3Store(bucket, prefix, s3_access(settings), settings.s3_encryption, settings.s3_kms_key)))
    return found


def _is_announcement(name: str) -> bool:
    return "/" not in name and name.endswith(".json") and not name.startswith(".")


def _is_half_written(error: ConfigError, item: Item) -> bool:
    return "unreadable" in error.where and time.time() - item.modified < STILL_WRITTEN


def _time(item: Item) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(item.modified, datetime.UTC)
