"""Who is told, and what: one compact message per run, sent through apprise; a file when nobody configured an address.

A delivery that fails is an answer (`Delivery.ok` is False, with the reason), never an exception and never silent.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from qatladder.errors import ConfigError
from qatladder.ladder.results import Verdict
from qatladder.settings import load_settings

MAX_LADDERS = 10
"""Ladders told in full; the rest is counted, the report has them."""

MAX_LENGTH = 240
"""Characters of one fact; chats cut long messages in places nobody chose."""


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


def alert_message(report: Mapping[str, Any], report_uri: str) -> Message | None:
    """The alert of a run; None when every ladder ships.

    Args:
        report: as `qatladder.reports.report.report_json` made it.
        report_uri: where its page is.
    """
    broken = [ladder for ladder in report["ladders"] if ladder["verdict"] != str(Verdict.SHIP)]
    if not broken:
        return None
    broken.sort(key=lambda ladder: ladder["verdict"] != str(Verdict.NO_SHIP))
    summary = report["summary"]
    counts = ", ".join(f"{summary[str(verdict)]} {verdict}" for verdict in (Verdict.NO_SHIP, Verdict.UNDECIDED, Verdict.SHIP))
    blocks = [_block(ladder, report["run"]) for ladder in broken[:MAX_LADDERS]]
    if len(broken) > MAX_LADDERS:
        blocks.append(f"... and {len(broken) - MAX_LADDERS} more in the report.")
    blocks.append(f"Report: {report_uri}")
    return Message(f"QATLadder {report['run'].get('id', '')}: {counts}".replace("  ", " "), "\n\n".join(blocks))


def _block(ladder: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """What the owner of a ladder must know, a line per fact."""
    check = next((check for check in ladder["checks"] if check["id"] == ladder.get("deciding_check")), None)
    owner = f" (owner {ladder['owner']})" if ladder.get("owner") else ""
    lines = [f"{ladder['model']} {ladder['version']} on {ladder['target']}: {ladder['verdict']}{owner}"]
    if check is None:
        return "\n".join([*lines, f"- {_short(ladder['why'])}"])
    lines.append(f"- {'first failing check' if check['status'] == 'failed' else 'left open by'}: {check['id']} {check['status']}")
    facts = [
        ("measured", check["measured"]),
        ("expected", check["expected"]),
        ("reason", check["reason"]),
        ("probable cause", check["cause"]),
        ("next step", next(iter(check["next_steps"]), "")),
    ]
    lines += [f"- {label}: {_short(text)}" for label, text in facts if text]
    lines += [f"- evidence: {item['name']} {item['uri']}" for item in check["evidence"][:3]]
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"


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
    return [_deliver(message, url) for url in urls]


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


def _deliver(message: Message, url: str) -> Delivery:
    import apprise  # 0.1 s and 27 MB: only who sends pays

    from qatladder.reports.file_notify import register

    register()
    shown = _without_secrets(url)
    try:
        server = apprise.Apprise()
        if not server.add(url):
            return Delivery(shown, False, "not an address apprise understands")
        shown = _public(str(server[0].url(privacy=True)))  # type: ignore[no-untyped-call]
        outcome = server.notify(title=message.title, body=message.body, body_format=apprise.NotifyFormat.TEXT, log_level=logging.WARNING)
        # The overall status calls a failure at an `?optional=yes` address a success; the last attempt does not.
        attempts = [attempt for result in outcome.results for attempt in list(result.attempts)[-1:]]
        if attempts and all(attempt.status is apprise.AppriseResultStatus.SUCCESS for attempt in attempts):
            return Delivery(shown, True)
        return Delivery(shown, False, _masked(" ".join(entry.message for entry in outcome.logs()) or "refused without a reason", url))
    except Exception as error:
        return Delivery(shown, False, _masked(f"{type(error).__name__}: {error}", url))


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
