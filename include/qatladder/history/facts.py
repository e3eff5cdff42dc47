"""One row per check, ladder and run, as Parquet in the object store; written once, never changed.

    history/facts/2026-11/<run>.parquet          one file per run, so that writers never meet
    history/facts/2026-10/whole-<hash>.parquet   a closed month in one file; its metadata names the files it replaces

A reader takes a file that another one replaces for gone, so compaction may be interrupted anywhere, and two may run at once.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qatladder.errors import BrokenError
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name
from qatladder.ladder import CheckResult, LadderResult, RungResult

FOLDER = "history/facts"
REPLACES = b"qatladder.replaces"
"""Metadata of a whole month: JSON list of the names it replaces."""

MAX_NUMBERS = 64
"""Numbers kept of one check; a detector's per-output figures fit."""

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("time", pa.timestamp("ms", tz="UTC")),
        ("model", pa.string()),
        ("version", pa.string()),
        ("target", pa.string()),
        ("march", pa.string()),
        ("toolchain", pa.string()),
        ("owner", pa.string()),
        ("verdict", pa.string()),
        ("rung", pa.string()),
        ("check_id", pa.string()),
        ("status", pa.string()),
        ("required", pa.bool_()),
        ("value", pa.float64()),
        ("unit", pa.string()),
        ("measured", pa.string()),
        ("expected", pa.string()),
        ("reason", pa.string()),
        ("cause", pa.string()),
        ("numbers", pa.map_(pa.string(), pa.float64())),
        ("board", pa.string()),
        ("seconds", pa.float64()),
        ("determinants", pa.string()),
        ("determined_by", pa.string()),
        ("carried_from", pa.string()),
        ("trend", pa.string()),
    ]
)
"""Columns. `value` is the one number of a check (see `headline`), `numbers` are all of them; `determinants` is the JSON of every hash and
version that decided the rung's answer, `determined_by` its sha256. `carried_from` is the run whose answer was carried over, empty where this one
answered; `trend` is the ladder's, see `qatladder.history.trends`."""

_DETERMINANTS = ("determinants", "artifacts", "identity", "versions", "samples_sha256", "environments", "hbm_sha256")
"""Facts of a rung that say what decided its answer."""


def facts_of(results: Sequence[LadderResult], run: dict[str, Any], trends: Sequence[str] = ()) -> pa.Table:
    """Rows of a run.

    Args:
        run: `id` and `started` (ISO 8601, UTC).
        trends: the verdict about each ladder's trend, in order; empty where nothing is known.
    """
    rows = [
        {**_row(result, rung, check, run, determinants), "trend": trend}
        for result, trend in zip(results, trends or [""] * len(results), strict=True)
        for rung in result.rungs
        for determinants in [_determinants(rung)]
        for check in rung.checks
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(result: LadderResult, rung: RungResult, check: CheckResult, run: dict[str, Any], determinants: str) -> dict[str, Any]:
    value, unit = headline(check)
    return {
        "run_id": run["id"],
        "time": _moment(run["started"]),
        "model": result.model,
        "version": result.version,
        "target": result.target,
        "march": result.march,
        "toolchain": result.toolchain,
        "owner": result.owner,
        "verdict": str(result.verdict),
        "rung": str(rung.rung),
        "check_id": check.id,
        "status": str(check.status),
        "required": check.required,
        "value": value,
        "unit": unit,
        "measured": check.measured,
        "expected": check.expected,
        "reason": check.reason,
        "cause": check.cause,
        "numbers": list(numbers(check.values))[:MAX_NUMBERS],
        "board": str(rung.facts.get("board", "")),
        "seconds": check.seconds,
        "determinants": determinants,
        "carried_from": rung.carried.get("run_id", ""),
        "determined_by": hashlib.sha256(determinants.encode()).hexdigest(),
    }


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)


def headline(check: CheckResult) -> tuple[float | None, str]:
    """The one number of a check and its unit; None when it has none.

    Accuracies: the metric. hbm.compile, board.perf: milliseconds. Comparisons of integers: how many differ in all outputs.
    """
    values = check.values
    if "metric" in values and "value" in values:
        return _number(values["value"]), str(values["metric"])
    for key in ("latency_ms", "average_ms"):
        if key in values:
            return _number(values[key]), "ms"
    differing = [item["differing"] for item in values.values() if isinstance(item, dict) and isinstance(item.get("differing"), int)]
    return (float(sum(differing)), "integers differ") if differing else (None, "")


def numbers(values: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, float]]:
    """(dotted name, number) of every finite number in nested values."""
    if isinstance(values, dict) and depth < 4:
        for key, item in values.items():
            yield from numbers(item, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(values, (bool, int, float)) and name:
        number = _number(values)
        if number is not None:
            yield name, number


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _determinants(rung: RungResult) -> str:
    return json.dumps({key: rung.facts[key] for key in _DETERMINANTS if key in rung.facts}, sort_keys=True, default=str)


def write_facts(store: Store, table: pa.Table, run: dict[str, Any]) -> str:
    """Write the rows of a run; writing them again replaces them. Returns the key."""
    key = f"{FOLDER}/{month_of(run['started'])}/{safe_name(str(run['id']))}.parquet"
    _write(store, table, key)
    return key


def month_of(started: str) -> str:
    return str(_moment(started).strftime("%Y-%m"))


def _write(store: Store, table: pa.Table, key: str) -> None:
    with tempfile.TemporaryDirectory(prefix="qatladder-facts-") as folder:
        path = Path(folder) / "facts.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=1 << 18)
        store.write_key(key, path)


def compact(store: Store, before: str) -> list[str]:
    """Put every month before `before` (`2026-11`) into one file; returns the new keys.

    The new file is whole before an old one goes, and says which ones it replaces: a reader never counts a run twice or misses one.
    """
    months: dict[str, list[str]] = {}
    for key in store.keys(FOLDER + "/"):
        months.setdefault(key.split("/")[-2], []).append(key)
    written = []
    for month, keys in sorted(months.items()):
        if month >= before or len(keys) < 2:
            continue
        try:
            whole = _merge(store, month, keys)
        except FileNotFoundError:  # somebody else compacts this month
            continue
        for key in keys:
            if key != whole:
                store.delete_key(key)
        written.append(whole)
    return written


def _merge(store: Store, month: str, keys: Sequence[str]) -> str:
    """Write what the files of a month hold as one file; returns its key."""
    with tempfile.TemporaryDirectory(prefix="qatladder-facts-") as folder:
        files = {}
        for index, key in enumerate(keys):
            files[key.split("/")[-1]] = Path(folder) / f"{index}.parquet"
            store.fetch_key(key, files[key.split("/")[-1]])
        names = sorted({name for path in files.values() for name in replaced_by(path)} | set(files))
        table = pa.concat_tables([pq.read_table(path, schema=SCHEMA) for path in live(files).values()])
        table = table.sort_by([(column, "ascending") for column in ("model", "target", "check_id", "time")])
        key = f"{FOLDER}/{month}/whole-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]}.parquet"
        _write(store, table.replace_schema_metadata({REPLACES: json.dumps(names)}), key)
    return key


def rebuild(store: Store) -> list[str]:
    """Write the facts of every whole run that has none, from its report; returns their run names.

    Runs of before there was a history, or whose facts could not be written.
    """
    keys = [key for key in store.keys(FOLDER + "/") if key.endswith(".parquet")]
    known = {key.split("/")[-1].removesuffix(".parquet") for key in keys}
    with tempfile.TemporaryDirectory(prefix="qatladder-facts-") as folder:
        for index, key in enumerate(keys):
            if "/whole-" in key:
                store.fetch_key(key, Path(folder) / f"{index}.parquet")
                known |= {name.removesuffix(".parquet") for name in replaced_by(Path(folder) / f"{index}.parquet")}
    written = []
    for run in store.runs():
        if run in known:
            continue
        try:
            report = json.loads(store.read_run_file(run, "report.json"))
        except FileNotFoundError:  # no run of ladders: the fleet, say
            continue
        results = [LadderResult.from_json(ladder) for ladder in report["ladders"]]
        trends = [(ladder.get("trend") or {}).get("verdict", "") for ladder in report["ladders"]]
        write_facts(store, facts_of(results, report["run"], trends), report["run"])
        written.append(run)
    return written


def replaced_by(path: Path) -> set[str]:
    """Names of the files a facts file replaces."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise BrokenError(
            "a facts file of the history is damaged",
            "delete it from the store; `qatladder history rebuild` makes a run's facts anew from its report",
            kind="history",
            file=path,
            found=str(error).splitlines()[0],
        ) from error
    return set(json.loads(metadata.get(REPLACES, b"[]")))


def live(files: dict[str, Path]) -> dict[str, Path]:
    """The files of a month that no other one replaces, by name."""
    gone: set[str] = set()
    replaces = {name: replaced_by(path) for name, path in files.items()}
    for name, names in replaces.items():
        gone |= names - {name}
        gone |= {other for other, theirs in replaces.items() if other != name and theirs and theirs < names}
    return {name: path for name, path in files.items() if name not in gone}
