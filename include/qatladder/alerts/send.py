"""One message to one address, through apprise; to a file when nobody configured an address.

A delivery that fails is an answer (`Delivery.ok` is False, with the reason), never an exception and never silent.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qatladder.errors import ConfigError
from qatladder.settings import load_settings

_WEBHOOKS = ("json", "jsons", "xml", "xmls", "form", "forms")


@dataclass(frozen=True)
class Message:
    """An alert: a title of one line and a plain-text body; apprise converts (and escapes) it for services that want HTML."""

    title: str
    body: str


@dataclass(frozen=True)
class Delivery:
    """What became of a message at one address.

    Attributes:
        url: the address without its secrets.
        ok: the service accepted the message.
        reason: why not; empty when it did.
    """

    url: str
    ok: bool
    reason: str = ""


def default_file(home: Path) -> Path:
    """Where alerts go when no address is configured."""
    return home / "alerts" / "alerts.jsonl"


def send(message: Message, urls: Sequence[str] = (), home: Path | None = None) -> list[Delivery]:
    """Send a message to every address, each on its own.

    Args:
        message: what to say.
        urls: apprise addresses; also `file:///absolute/path.jsonl`, which appends a JSON line, and readable text to `path.txt`
            beside it. Without any, the file of `default_file`.
        home: the data folder of the default file; default: the settings'.
    Returns:
        One delivery per address, in order. Failures are deliveries too; nothing is raised for them.
    """
    if not urls:
        urls = [default_file(home or load_settings().home).resolve().as_uri()]
    return [deliver(message, url) for url in urls]


def append_alert(path: Path, message: Message) -> None:
    """Append a message to `path` (one JSON line) and to its `.txt` neighbour; safe with several writers on one machine.

    Raises:
        ConfigError: the path ends in `.txt` and would be its own neighbour.
        OSError: the files cannot be written.
    """
    if path.suffix == ".txt":
        raise ConfigError(
            "an alert file needs another ending than .txt, which is its readable neighbour", file=path, expected="alerts.jsonl"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": now, **asdict(message)}, ensure_ascii=False) + "\n"
    readable = f"{now}  {message.title}\n\n{message.body}\n\n{'-' * 72}\n"
    with _locked(path) as lines:
        _append(lines, line)
        with _locked(path.with_suffix(".txt")) as text:
            _append(text, readable)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """A descriptor of the file, open for appending, under the advisory lock every other writer takes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _append(descriptor: int, text: str) -> None:
    """All of it or, when the disk fills up, none of it."""
    data = text.encode()
    start = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, start)
        raise


def deliver(message: Message, url: str) -> Delivery:
    """Send a message to one address; a failure is a `Delivery`, too."""
    from qatladder.alerts.plugins import register  # apprise takes 0.1 s and 27 MB: only who sends pays

    register()
    shown = _without_secrets(url)
    with _unlogged():
        return _attempt(message, url, shown)


@contextmanager
def _unlogged() -> Iterator[None]:
    """apprise and urllib3 log addresses, tokens included; what matters of it is in the `Delivery`, masked."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3")]
    before = [logger.propagate for logger in loggers]
    try:
        for logger in loggers:
            logger.propagate = False
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate


def _attempt(message: Message, url: str, shown: str) -> Delivery:
    import apprise

    try:
        server = apprise.Apprise()
        if not server.add(url):
            return Delivery(shown, False, "not an address apprise understands")
        shown = _public(str(server[0].url(privacy=True)))  # type: ignore[no-untyped-call]
        outcome = server.notify(
            title=message.title,
            body=shorten(message.body, server[0].body_maxlen - len(message.title.encode()) - 16),
            body_format=apprise.NotifyFormat.TEXT,
            log_level=logging.WARNING,
        )
        # The overall status calls a failure at an `?optional=yes` address a success; the last attempt does not.
        attempts = [attempt for result in outcome.results for attempt in list(result.attempts)[-1:]]
        if attempts and all(attempt.status is apprise.AppriseResultStatus.SUCCESS for attempt in attempts):
            return Delivery(shown, True)
        return Delivery(shown, False, _masked(" ".join(entry.message for entry in outcome.logs()) or "refused without a reason", url))
    except Exception as error:
        return Delivery(shown, False, _masked(f"{type(error).__name__}: {error}", url))


CUT = "... shortened; the report has all of it"


def shorten(body: str, limit: int) -> str:
    """A body that a service takes: whole lines go from the middle, so that what failed and the links stay.

    Args:
        limit: bytes of UTF-8. Services count characters or bytes; bytes are never fewer.
    """
    if len(body.encode()) <= limit:
        return body
    head, _, links = body.rpartition("\n\n")
    tail = f"\n{CUT}\n\n{links}" if head and len(links.encode()) < limit // 2 else f"\n{CUT}"
    kept = ""
    for line in (head or body).split("\n"):
        if len((kept + line + "\n" + tail).encode()) > limit:
            break
        kept += line + "\n"
    if not kept:  # one line that is longer than all
        room = max(0, limit - len(tail.encode()))
        return (head or body).encode()[:room].decode(errors="ignore") + tail
    return kept.rstrip("\n") + tail


def _without_secrets(url: str) -> str:
    """The scheme and nothing else: of an address that cannot be parsed any part may be the secret."""
    scheme = url.partition("://")[0]
    return f"{scheme}://****" if scheme != url and scheme.isalnum() else "****"


def _public(url: str) -> str:
    """apprise's address for logs, which masks passwords and tokens, further without the path of a generic webhook: often a token too."""
    base = url.partition("?")[0]
    scheme, _, rest = base.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}/****" if scheme in _WEBHOOKS and slash and path else base


def _masked(text: str, url: str) -> str:
    """A log line without the address's user, password and path tokens."""
    parts = urlsplit(url)
    secrets = {url, *(part for part in (parts.password, parts.query, *parts.path.split("/")) if part and len(part) >= 6)}
    for secret in sorted(secrets, key=len, reverse=True) if parts.scheme != "file" else []:
        text = text.replace(secret, "****").replace(unquote(secret), "****")
    return text
