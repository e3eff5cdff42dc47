"""Nights of a zoo: reports with as many ladders as wanted, and a lab that is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from qatladder.alerts.messages import StoreLinks
from qatladder.alerts.outbox import Outcome, deliver_items
from qatladder.alerts.routing import load_routes
from qatladder.alerts.send import Delivery, Message
from qatladder.alerts.tell import Telling, tell
from qatladder.evidence.store import FolderStore, Store
from qatladder.ladder import check_ids
from qatladder.settings import load_settings

START = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)  # a Monday

HMCT = {"what": "toolchain hmct", "was": "1.1.0", "now": "1.2.0", "why": "the only thing that changed for all of them"}


def ladder(
    model: str = "lane_net",
    fails: Sequence[str] = (),
    broken: str = "",
    owner: str = "lanes",
    trend: dict[str, Any] | None = None,
    target: str = "bayes-e",
    version: str = "1",
    board: str = "",
    rungs: Sequence[str] = ("float", "calib", "qat", "int", "hbm", "board"),
    **check: Any,
) -> dict[str, Any]:
    """A ladder of a report: every check passed but those named; fields of `check` go to the failed ones."""
    checks = []
    for name in check_ids():
        if name.split(".")[0] not in rungs:
            continue
        status = "failed" if name in fails else "broken" if name == broken else "passed"
        fields = {"measured": f"measured {name} of {model}", "expected": f"expected of {name}", "reason": "", "cause": "", "values": {}}
        if status != "passed":
            fields |= {
                "next_steps": [f"look at {name}"],
                "evidence": [{"name": "probe.npz", "sha256": "ab" * 32, "size": 3, "uri": URI}],
            } | check
        checks.append(
            {"id": name, "rung": name.split(".")[0], "status": status, "required": True, "evidence": [], "next_steps": [], **fields}
        )
    deciding = next(iter([name for name in check_ids() if name in fails]), broken or None)
    item = {
        "model": model,
        "version": version,
        "target": target,
        "owner": owner,
        "verdict": "no-ship" if fails else "undecided" if broken or len(rungs) < 6 else "ship",
        "why": "",
        "deciding_check": deciding,
        "rungs_asked": list(rungs),
        "checks": checks,
        "rungs": [{"rung": "board", "facts": {"board": board}}] if board else [],
    }
    return item | ({"trend": trend} if trend is not None else {})


URI = f"file:///store/objects/ab/{'ab' * 32}.npz"


def movement(verdict: str = "regression", check: str = "int.accuracy", value: float = 0.91, baseline: float = 0.95) -> dict[str, Any]:
    return {
        "check_id": check,
        "metric": "top1",
        "verdict": verdict,
        "value": value,
        "baseline": baseline,
        "baseline_run": "n0",
        "baseline_time": "2026-11-22T01:00:00+00:00",
        "delta": value - baseline,
        "p_value": 0.0003,
        "samples": 360,
        "method": "exact McNemar on 14 flipped samples",
        "why": "14 samples flipped to wrong, none to right",
    }


def trend(
    verdict: str = "no_regression", *movements: dict[str, Any], suspects: Sequence[dict[str, str]] = (), **fields: Any
) -> dict[str, Any]:
    return {"verdict": verdict, "recovered": None, "broke": None, "movements": list(movements), "suspects": list(suspects), **fields}


def report(*ladders: dict[str, Any], run: str = "n1", missing: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    counts = {verdict: sum(item["verdict"] == verdict for item in ladders) for verdict in ("ship", "no-ship", "undecided")}
    found = {"schema": 1, "run": {"id": run}, "summary": {**counts, "total": len(ladders)}, "ladders": list(ladders)}
    return found | ({"missing": list(missing)} if missing else {})


class Lab:
    """A store, a clock and a pretended network: what arrived where, in order."""

    def __init__(self, folder: Path, store: Store | None = None) -> None:
        self.zoo = folder / "zoo"
        self.zoo.mkdir(parents=True, exist_ok=True)
        self.store = store or FolderStore(folder / "store")
        self.now = START
        self.arrived: list[tuple[str, Message]] = []
        self.down: set[str] = set()
        self.count = 0

    def send(self, message: Message, url: str) -> Delivery:
        if url in self.down:
            return Delivery("json://****", False, "error=500")
        self.arrived.append((url, message))
        return Delivery("json://****", True)

    def routing(self, text: str) -> None:
        (self.zoo / "alerts.yaml").write_text(text)

    def acknowledged(self, text: str) -> None:
        (self.zoo / "acknowledged.yaml").write_text(text)

    def night(self, *ladders: dict[str, Any], days: float = 1, **fields: Any) -> list[Message]:
        """Tell one night; returns what arrived. The clock then goes on to the next."""
        self.count += 1
        self.tell(report(*ladders, run=f"n{self.count}", **fields), f"n{self.count}")
        self.now += timedelta(days=days)
        return self.take()

    def tell(self, data: dict[str, Any], key: str) -> Telling:
        return tell(
            data, self.store, load_settings(), StoreLinks(f"s3://lab/runs/{key}/report.html"), key, now=lambda: self.now, send=self.send
        )

    def deliver(self) -> list[Outcome]:
        return deliver_items(self.store, load_routes(load_settings()), lambda: self.now, send=self.send)

    def take(self, url: str | None = None) -> list[Message]:
        """What arrived (at one address) since the last time."""
        found = [message for place, message in self.arrived if url in (None, place)]
        self.arrived = [(place, message) for place, message in self.arrived if url not in (None, place)]
        return found
