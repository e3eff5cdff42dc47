"""Lets old nights go, and what only they needed; never what anything that stays refers to.

A run stays whole or goes whole. It stays when it is

* of the newest nights (`keep_nights` days on which runs started),
* a finding: a ladder in it did not ship,
* a baseline: what a ladder is held against (`qatladder.history.baselines`), or the newest run in which it shipped, for every ladder,
* not whole and younger than `GRACE_DAYS`: it may still be running, or
* whole by its manifest, and its report cannot be read: nobody knows what it found.

Its manifest goes first: from then on nothing of it is promised, and an interruption anywhere leaves a run that is not whole and goes the next
time. Objects go last, and only those that no JSON file of what stays mentions, and that nobody stored or stored again within
`GRACE_DAYS`: a run that is writing now stores an object before it mentions it. The history's facts never go, nor do the statistics that
expectations were learnt from.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.store import Store, safe_name

GRACE_DAYS = 3.0
RECORDS = ("conversions", "rungs", "fleet")
"""Runs by name only: records of their own, which are no nights."""

UNUSED_GO = ("conversions", "rungs")
"""Those whose files go when nobody used them for as long: what may be carried over."""

_DIGEST = re.compile(rb"[0-9a-f]{64}")


@dataclass
class Kept:
    """Why each run stays, and what goes.

    Attributes:
        runs: reason per run that stays: `new`, `finding`, `baseline`, `unfinished`, `unreadable`.
        gone: runs that go.
        records: keys of conversions and rungs' answers nobody used for as long.
        objects: keys of objects that go.
        bytes: their size together.
    """

    runs: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    bytes: int = 0


def sweep(store: Store, keep_nights: int, now: float, dry_run: bool = False, log: Callable[[str], None] = lambda line: None) -> Kept:
    """Remove what does not stay; see the module.

    Args:
        keep_nights: newest days with runs that stay whole.
        now: seconds since 1970.
        dry_run: only say what would go.
    Raises:
        ConfigError: `keep_nights` below 1.
    """
    if keep_nights < 1:
        raise ConfigError("at least one night stays", found=keep_nights, expected="keep_nights >= 1")
    kept = _runs(store, keep_nights, now)
    oldest = now - 86400 * max(float(keep_nights), GRACE_DAYS)
    kept.records = [item.key for name in UNUSED_GO for item in store.items(f"runs/{name}/") if item.modified < oldest]
    for run in kept.gone:
        log(f"{run} goes")
        if not dry_run:
            store.delete_run_file(run, "manifest.json")
            for key in list(store.keys(f"runs/{run}/")):
                store.delete_key(key)
    for key in kept.records if not dry_run else ():
        store.delete_key(key)
    readable = {run for run, reason in kept.runs.items() if reason not in ("unfinished", "unreadable")}
    named = _named(store, set(kept.gone), set(kept.records), readable)
    for item in store.items("objects/"):
        digest = item.key.split("/")[-1].partition(".")[0].encode()
        young = now - 86400 * GRACE_DAYS
        if digest in named or item.modified >= young:
            continue
        if not dry_run:
            found = next(iter(store.items(item.key)), None)
            if found is None or found.modified >= young:  # stored again since it was listed
                continue
            store.delete_key(item.key)
        kept.objects.append(item.key)
        kept.bytes += item.size
    log(f"{len(kept.runs)} runs stay, {len(kept.gone)} go; {len(kept.objects)} objects go, {kept.bytes / 1e6:.1f} MB")
    return kept


@dataclass(frozen=True)
class _Run:
    """A whole run: when it started (ISO 8601, UTC), and (model, version, target, verdict) of its ladders."""

    started: str
    ladders: tuple[tuple[str, str, str, str], ...]


def _runs(store: Store, keep_nights: int, now: float) -> Kept:
    kept = Kept()
    newest: dict[str, float] = {}
    whole: dict[str, _Run] = {}
    for item in store.items("runs/"):
        run = item.key.split("/")[1]
        newest[run] = max(item.modified, newest.get(run, 0.0))
    for run in store.runs():
        try:
            report = json.loads(store.read_run_file(run, "report.json"))
            ladders = tuple((item["model"], item["version"], item["target"], item["verdict"]) for item in report["ladders"])
            whole[run] = _Run(_when(report["run"]["started"]), ladders)
        except (FileNotFoundError, ValueError, KeyError):
            kept.runs[run] = "unreadable"
    nights = sorted({found.started[:10] for found in whole.values()}, reverse=True)[:keep_nights]
    shipped: dict[tuple[str, ...], tuple[str, str]] = {}
    for run, found in whole.items():
        for *ladder, verdict in found.ladders:
            if verdict == "ship":
                shipped[tuple(ladder)] = max(shipped.get(tuple(ladder), ("", "")), (found.started, run))
    baselines = {run for _, run in shipped.values()} | _accepted(store)
    for run in sorted(newest):
        if run in RECORDS or run in kept.runs:
            continue
        if run not in whole:
            reason = "unfinished" if newest[run] > now - 86400 * GRACE_DAYS or run in baselines else ""
        elif whole[run].started[:10] in nights:
            reason = "new"
        elif any(verdict != "ship" for *_, verdict in whole[run].ladders):
            reason = "finding"
        else:
            reason = "baseline" if run in baselines else ""
        if reason:
            kept.runs[run] = reason
        else:
            kept.gone.append(run)
    return kept


def _accepted(store: Store) -> set[str]:
    """Runs that are somebody's baseline.

    Raises:
        BrokenError: a baseline cannot be read, so nobody knows which run it needs.
    """
    runs = set()
    for key in list(store.keys("baselines/")):
        try:
            data = json.loads(store.read_key(key))
            runs |= {safe_name(item["run_id"]) for item in (data, data.get("anchor") or data)}
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenError(
                "a baseline cannot be read, so nothing is removed",
                "delete it from the store; the next good night becomes the baseline, or `qatladder baseline accept` another",
                kind="store",
                file=store.uri(key),
                found=str(error),
            ) from error
    return runs


def _when(started: str) -> str:
    return datetime.datetime.fromisoformat(started).astimezone(datetime.UTC).isoformat()


def _named(store: Store, gone: set[str], records: set[str], readable: set[str]) -> set[bytes]:
    """Every sha256 that a JSON file of what stays mentions: more than it refers to, never less."""
    named: set[bytes] = set()
    for key in list(store.keys("expectations/")):  # kept suites name the statistics they were learnt from
        with contextlib.suppress(FileNotFoundError):
            named |= set(_DIGEST.findall(store.read_key(key)))
    for key in list(store.keys("runs/")):
        run, name = key.split("/")[1], key.split("/")[-1]
        if run in gone or key in records or not name.endswith(".json"):
            continue
        if run in readable and name not in ("manifest.json", "report.json"):
            continue  # the report of a whole run holds all of its rungs
        try:
            named |= set(_DIGEST.findall(store.read_key(key)))
        except FileNotFoundError:  # replaced or removed by its owner while this looks
            continue
    return named
