"""Promises: what stays is whole, whenever the sweep is interrupted and whoever writes meanwhile; what only old nights needed goes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence.retention import GRACE_DAYS, sweep
from qatladder.evidence.store import FolderStore, Store
from qatladder.ladder import Evidence

DAY = 86400.0


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(FolderStore(tmp_path / "store"))


class Lab:
    """A folder store whose nights are as old as a test says."""

    def __init__(self, store: FolderStore) -> None:
        self.store, self.now = store, time.time()
        self.evidence: dict[str, list[Evidence]] = {}

    def night(self, days_ago: int, verdicts: dict[str, str], shared: str = "", whole: bool = True) -> str:
        """A run with an object of its own per model, and perhaps one that other nights have, too."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(self.now - days_ago * DAY))
        run = f"night-{days_ago:03}"
        texts = [f"{run} {model}" for model in verdicts] + ([shared] if shared else [])
        self.evidence[run] = [self.store.put_bytes(text.encode() * 100, "dump.npy") for text in texts]
        rung = {"products": [item.sha256 for item in self.evidence[run]]}
        self.store.write_run_file(run, "m/int.json", json.dumps(rung).encode())
        if whole:
            ladders = [{"model": model, "version": "1", "target": "bayes", "verdict": verdict} for model, verdict in verdicts.items()]
            report = {"run": {"id": run, "started": when}, "ladders": ladders, "objects": rung}
            self.store.write_run_file(run, "report.json", json.dumps(report).encode())
            self.store.write_run_file(run, "manifest.json", json.dumps({"objects": rung}).encode())
        for path in self.store.root.rglob("*"):
            if (
                path.is_file()
                and path.stat().st_mtime > self.now - 1
                and (run in str(path) or any(e.sha256 in path.name for e in self.evidence[run]))
            ):
                os.utime(path, (self.now - days_ago * DAY,) * 2)
        return run

    def whole(self, run: str, folder: Path) -> bool:
        """Everything the run's manifest refers to comes back verified."""
        for item in self.evidence[run]:
            self.store.fetch(item, folder / item.sha256)
        return True

    def sweep(self, keep: int = 2, **options: Any) -> Any:
        return sweep(self.store, keep, self.now, **options)


def test_new_nights_findings_and_baselines_stay_and_the_rest_goes(lab: Lab, tmp_path: Path) -> None:
    runs = [
        lab.night(40, {"a": "ship", "b": "ship"}),
        lab.night(30, {"a": "ship", "b": "no-ship"}),
        lab.night(20, {"a": "ship"}),
        lab.night(10, {"a": "ship"}),
        lab.night(2, {"a": "undecided"}),
        lab.night(1, {"a": "no-ship"}),
    ]
    kept = lab.sweep()
    assert kept.runs == {
        "night-040": "baseline",  # the last in which b shipped
        "night-030": "finding",
        "night-010": "baseline",
        "night-002": "new",
        "night-001": "new",
    }
    assert kept.gone == ["night-020"]
    assert lab.store.runs() == sorted(kept.runs)
    assert all(lab.whole(run, tmp_path / "out") for run in kept.runs)
    with pytest.raises(BrokenError, match="not in the object store"):
        lab.whole(runs[2], tmp_path / "out")
    assert list(lab.store.keys("runs/night-020/")) == []
    assert lab.sweep().gone == [] and lab.sweep().objects == []


def test_what_a_night_that_stays_shares_with_one_that_goes_stays(lab: Lab, tmp_path: Path) -> None:
    lab.night(20, {"a": "ship"}, shared="the same model")
    new = lab.night(1, {"a": "ship"}, shared="the same model")
    kept = lab.sweep(keep=1)
    assert kept.gone == ["night-020"] and len(kept.objects) == 1
    assert lab.whole(new, tmp_path / "out")


def test_a_run_that_is_not_finished_keeps_its_objects_until_nobody_can_be_at_it(lab: Lab, tmp_path: Path) -> None:
    young = lab.night(2, {"a": "ship"}, whole=False)
    old = lab.night(9, {"a": "ship"}, whole=False)
    kept = lab.sweep()
    assert (kept.runs, kept.gone) == ({young: "unfinished"}, [old])
    assert lab.whole(young, tmp_path / "out")


def test_an_object_stored_and_not_yet_mentioned_stays(lab: Lab, tmp_path: Path) -> None:
    lab.night(1, {"a": "ship"})
    evidence = lab.store.put_bytes(b"of a rung that is being written", "x.npy")
    lab.sweep()
    lab.store.fetch(evidence, tmp_path / "x")


def test_an_old_object_stored_again_counts_as_new(lab: Lab, tmp_path: Path) -> None:
    """A rung stores what an old night had; nothing mentions it yet, and the old night goes."""
    lab.night(20, {"a": "ship"}, shared="weights")
    lab.night(1, {"a": "ship"})
    evidence = lab.store.put_bytes(b"weights" * 100, "dump.npy")
    lab.sweep(keep=1)
    lab.store.fetch(evidence, tmp_path / "x")


def test_an_object_stored_again_while_the_sweep_runs_stays(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.night(20, {"a": "ship"}, shared="weights")
    lab.night(1, {"a": "ship"})
    given = lab.store.items
    stored: list[Evidence] = []

    def items(prefix: str) -> Any:
        found = list(given(prefix))
        if prefix == "objects/":
            stored.append(lab.store.put_bytes(b"weights" * 100, "dump.npy"))
        return iter(found)

    monkeypatch.setattr(lab.store, "items", items)
    lab.sweep(keep=1)
    assert lab.store.fetch(stored[0], tmp_path / "x").exists()


def test_a_conversion_nobody_used_goes_with_its_objects(lab: Lab, tmp_path: Path) -> None:
    lab.night(1, {"a": "ship"})
    evidence = {name: lab.store.put_bytes(name.encode(), "model.hbm") for name in ("used", "unused")}
    for name, item in evidence.items():
        lab.store.write_run_file("conversions", f"{name}.json", json.dumps({"products": item.sha256}).encode())
    for path in [*lab.store.root.glob("objects/*/*.hbm"), *lab.store.root.glob("runs/conversions/*")]:
        os.utime(path, (lab.now - 40 * DAY,) * 2)
    lab.store.touch_run_file("conversions", "used.json")
    kept = lab.sweep()
    assert kept.records == ["runs/conversions/unused.json"]
    lab.store.fetch(evidence["used"], tmp_path / "x")
    with pytest.raises(BrokenError):
        lab.store.fetch(evidence["unused"], tmp_path / "y")


@pytest.mark.parametrize("survives", range(12))
def test_interrupted_anywhere_what_stays_is_whole(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int) -> None:
    for days in (50, 40, 30, 1):
        lab.night(days, {"a": "ship", "b": "ship"}, shared="common")
    left = iter(range(survives))
    given = lab.store._delete

    def dying(key: str) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        given(key)

    monkeypatch.setattr(lab.store, "_delete", dying)
    with contextlib.suppress(KeyboardInterrupt):
        lab.sweep(keep=1)
    monkeypatch.setattr(lab.store, "_delete", given)
    assert all(lab.whole(run, tmp_path / str(survives)) for run in lab.store.runs())
    lab.sweep(keep=1)
    assert lab.store.runs() == ["night-001"]
    assert {key.split("/")[-1] for key in lab.store.keys("objects/")} == {f"{item.sha256}.npy" for item in lab.evidence["night-001"]}


def test_a_dry_run_removes_nothing_and_says_what_would_go(lab: Lab) -> None:
    for days in (50, 40, 1):
        lab.night(days, {"a": "ship"})
    before = sorted(lab.store.keys(""))
    dry = lab.sweep(keep=1, dry_run=True)
    assert sorted(lab.store.keys("")) == before
    real = lab.sweep(keep=1)
    assert (dry.gone, dry.objects, dry.bytes) == (real.gone, real.objects, real.bytes)
    assert real.bytes > 0


def test_no_night_at_all_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="at least one night"):
        lab.sweep(keep=0)


def test_every_store_knows_ages_and_forgets_only_what_is_old(store: Store, tmp_path: Path) -> None:
    """Over S3 nothing can be made old; time itself is moved instead."""
    mentioned, loose = (store.put_bytes(text, "x.npy") for text in (b"mentioned", b"loose"))
    report = {"run": {"id": "r", "started": "2026-11-01T00:00:00+00:00"}, "ladders": [], "objects": [mentioned.sha256]}
    store.write_run_file("r", "report.json", json.dumps(report).encode())
    store.write_run_file("r", "manifest.json", json.dumps({"objects": [mentioned.sha256]}).encode())
    (item,) = [item for item in store.items("objects/") if loose.sha256 in item.key]
    assert item.size == 5 and abs(item.modified - time.time()) < 60
    assert [found.key for found in store.items(item.key)] == [item.key]
    assert sweep(store, 1, time.time()).objects == []
    later = time.time() + (GRACE_DAYS + 1) * DAY
    assert sweep(store, 1, later).objects == [item.key]
    assert store.fetch(mentioned, tmp_path / "x").read_bytes() == b"mentioned"
    with pytest.raises(BrokenError):
        store.fetch(loose, tmp_path / "y")


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_run_whose_report_cannot_be_read_stays_with_all_it_mentions(lab: Lab, tmp_path: Path, damage: str) -> None:
    old = lab.night(40, {"a": "ship"})
    lab.night(1, {"a": "ship"})
    report = lab.store.root / "runs" / old / "report.json"
    report.unlink() if damage == "missing" else report.write_bytes(report.read_bytes()[:30])
    (lab.store.root / "runs" / old / "manifest.json").write_text("{}")
    kept = lab.sweep(keep=1)
    assert kept.runs[old] == "unreadable"
    assert lab.whole(old, tmp_path / "out")


def test_the_statistics_a_kept_suite_was_learnt_from_stay_when_their_nights_go(lab: Lab, tmp_path: Path) -> None:
    old = lab.night(40, {"a": "ship"})
    lab.night(1, {"a": "ship"})
    (tmp_path / "suite.json").write_text(json.dumps({"meta": {"nights": [{"statistics": {"sha256": lab.evidence[old][0].sha256}}]}}))
    lab.store.write_key("expectations/a@1@bayes/suite.json", tmp_path / "suite.json")
    kept = lab.sweep(keep=1)
    assert kept.gone == [old] and kept.objects == []
    assert lab.whole(old, tmp_path / "out")
    lab.store.delete_key("expectations/a@1@bayes/suite.json")
    assert len(lab.sweep(keep=1).objects) == 1
