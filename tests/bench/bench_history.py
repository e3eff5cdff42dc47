"""A thousand models over a year of nights: how long the questions of the zoo page and of a model's page take. Prints; `make bench`.

The facts are made up with numpy; the files, the mirror and the queries are the product's own. What is compared in one run: the questions on
monthly files against the same questions on one file per night.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qatladder.evidence.store import FolderStore
from qatladder.history import History, write_facts
from qatladder.history.facts import SCHEMA, compact
from qatladder.ladder.checks import check_ids

MODELS, NIGHTS = 1000, 365


def facts_of_night(night: int, rng: np.random.Generator) -> tuple[pa.Table, dict[str, str]]:
    started = datetime.datetime(2025, 11, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=night)
    run = {"id": f"scheduled__{started:%Y-%m-%dT%H:%M:%S}", "started": started.isoformat()}
    checks = check_ids()
    rows = MODELS * len(checks)
    failed = rng.random(MODELS) < 0.02
    constant = {
        "run_id": run["id"],
        "time": started,
        "version": "1",
        "target": "bayes",
        "march": "bayes",
        "toolchain": "hmct",
        "owner": "team",
    }
    columns = {name: pa.array([value] * rows, SCHEMA.field(name).type) for name, value in constant.items()}
    columns["model"] = pa.array(np.repeat([f"model_{index:04}" for index in range(MODELS)], len(checks)))
    columns["verdict"] = pa.array(np.repeat(np.where(failed, "no-ship", "ship"), len(checks)))
    columns["check_id"] = pa.array(list(checks) * MODELS)
    columns["rung"] = pa.array([check.split(".")[0] for check in checks] * MODELS)
    status = np.full((MODELS, len(checks)), "passed", object)
    status[failed, 4] = "failed"
    columns["status"] = pa.array(status.ravel().tolist())
    columns["required"] = pa.array([True] * rows)
    columns["value"] = pa.array(np.round(0.9 + rng.normal(0, 0.003, rows), 5))
    for name in ("unit", "measured", "expected", "reason", "cause", "board", "determinants", "determined_by", "carried_from", "trend"):
        columns[name] = pa.array(["top1 0.9012 on 5000 samples" if name == "measured" else ""] * rows)
    columns["numbers"] = pa.array([[("value", 0.9)]] * rows, SCHEMA.field("numbers").type)
    columns["seconds"] = pa.array(np.ones(rows))
    return pa.table([columns[field.name] for field in SCHEMA], schema=SCHEMA), run


@pytest.mark.timeout(1800)
def test_a_year_of_a_thousand_models(tmp_path: Path) -> None:
    store, rng = FolderStore(tmp_path / "store"), np.random.default_rng(0)
    started = time.perf_counter()
    for night in range(NIGHTS):
        table, run = facts_of_night(night, rng)
        write_facts(store, table, run)
    written = time.perf_counter() - started
    spent: dict[str, dict[str, float]] = {}
    for form in ("nightly", "monthly"):
        if form == "monthly":
            started = time.perf_counter()
            compact(store, "2026-11")
            compacting = time.perf_counter() - started
        history = History(store, tmp_path / form).refresh()
        size = sum(path.stat().st_size for path in (tmp_path / form).rglob("*.parquet"))
        questions = {"zoo": lambda: history.zoo(), "model": lambda: history.ladder("model_0500", nights=60)}  # noqa: B023
        spent[form] = {"size": size / 1e6}
        for name, question in questions.items():
            question()
            times = []
            for _ in range(5):
                started = time.perf_counter()
                rows = question()
                times.append(time.perf_counter() - started)
            spent[form][name] = min(times)
            assert len(rows) == (MODELS if name == "zoo" else 60 * len(check_ids()))
    facts = MODELS * NIGHTS * len(check_ids())
    print(
        f"\n{facts / 1e6:.1f} million facts; a night is written in {written / NIGHTS * 1e3:.0f} ms, a year compacted in {compacting:.0f} s"
    )
    for form, figures in spent.items():
        print(
            f"  {form:<8} {figures['size']:6.0f} MB   zoo page {figures['zoo'] * 1e3:5.0f} ms   a model's page {figures['model'] * 1e3:5.0f} ms"
        )
    ratios = [spent["nightly"][name] / spent["monthly"][name] for name in ("zoo", "model")]
    print(f"  one file per month against one per night: zoo page {ratios[0]:.1f} x, a model's page {ratios[1]:.1f} x faster")
