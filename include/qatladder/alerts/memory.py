"""What was told before: a small file per ladder with open findings, so that two runs at once meet only over the same ladder.

    alerts/<channel>/open/<ladder>.json

A finding is open from the night it is seen until its check passes, its number is back, or the ladder ships; a night that does not answer its
check changes nothing. It is told when it is new or became worse, and again every `reminder_days`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from qatladder.alerts.findings import MISSING, Finding, Kind, Ladder
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name
from qatladder.ladder import Status, Verdict


class Open(BaseModel):
    """One finding that is not over.

    Attributes:
        since, run: when it was first seen, and in which run.
        told: when a message about it was last queued (ISO 8601, UTC); None: never, or not since it is acknowledged.
        cluster: key of the cluster it was told in.
    """

    kind: Kind
    since: str
    run: str
    told: str | None = None
    cluster: str = ""
    acknowledged: bool = False


class Record(BaseModel):
    """What is known of one ladder.

    Attributes:
        open: by check.
        better: progressions that were told, by check: the baseline's run.
        seen: last run it was in (ISO 8601, UTC).
    """

    model: str
    version: str
    target: str
    owner: str = ""
    open: dict[str, Open] = {}
    better: dict[str, str] = {}
    seen: str = ""

    @property
    def ladder(self) -> Ladder:
        return Ladder(self.model, self.version, self.target)

    @property
    def idle(self) -> bool:
        """Nothing in it is worth a file."""
        return not (self.open or self.better)


def key_of(channel: str, ladder: Ladder) -> str:
    return f"alerts/{channel}/open/{safe_name('@'.join(ladder))}.json"


def load(store: Store, channel: str) -> dict[Ladder, Record]:
    """Every record. One that cannot be read is as if it were not there: its findings are told again, never lost."""
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda key: _read(store, key), list(store.keys(f"alerts/{channel}/open/")))
        return {record.ladder: record for record in found if record is not None}


def _read(store: Store, key: str) -> Record | None:
    try:
        return Record.model_validate_json(store.read_key(key))
    except (FileNotFoundError, ValueError):
        return None


def save(store: Store, channel: str, records: Iterable[Record]) -> None:
    """Write records; one with nothing in it goes."""

    def write(record: Record) -> None:
        key = key_of(channel, record.ladder)
        if record.idle:
            store.delete_key(key)
        else:
            write_json(store, key, record.model_dump(mode="json"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, records))


def write_json(store: Store, key: str, data: Mapping[str, Any]) -> None:
    """Write JSON under a key, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="qatladder-alerts-") as folder:
        path = Path(folder) / "data.json"
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        store.write_key(key, path)


def merge(record: Record, findings: Iterable[tuple[Finding, bool]], item: Mapping[str, Any], run: str, now: str) -> dict[str, Open]:
    """Bring a record up to tonight; returns what is over.

    Args:
        findings: everything wrong with the ladder tonight, each with whether it is acknowledged.
        item: the ladder as the report has it; without `checks` for one that did not run.
    """
    tonight: dict[str, Open] = {}
    for finding, acknowledged in findings:
        old = record.open.get(finding.check)
        if old is None:
            tonight[finding.check] = Open(kind=finding.kind, since=now, run=run, acknowledged=acknowledged)
            continue
        # A night that could not answer the check does not make a failure better.
        kind = old.kind if finding.kind is Kind.UNDECIDED and old.kind.rank < finding.kind.rank else finding.kind
        told = None if acknowledged or kind.rank < old.kind.rank else old.told
        tonight[finding.check] = old.model_copy(update={"kind": kind, "told": told, "acknowledged": acknowledged})
    over = {check: old for check, old in record.open.items() if check not in tonight and _is_over(check, old, item)}
    record.open = tonight | {check: old for check, old in record.open.items() if check not in tonight and check not in over}
    record.seen = now
    return over


def _compared(check: str, trend: Mapping[str, Any]) -> bool:
    """Whether tonight the numbers of a check were held against a baseline; in doubt not."""
    verdicts = [move.get("verdict") for move in trend.get("movements") or () if move.get("check_id") == check]
    return not {"insufficient_data", "new"} & set(verdicts or [trend.get("verdict")]) and bool(trend)


def _is_over(check: str, old: Open, item: Mapping[str, Any]) -> bool:
    """Whether tonight's ladder, which has no finding at the check, says that there is none."""
    if "checks" not in item:
        return False  # it did not run
    if old.kind in (Kind.REGRESSION, Kind.SUSPICIOUS) and not _compared(check, item.get("trend") or {}):
        return False
    if check in ("", MISSING) or item.get("verdict") == str(Verdict.SHIP):
        return True
    return any(found["id"] == check and found["status"] == str(Status.PASSED) for found in item["checks"])
