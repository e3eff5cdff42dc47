"""Promises: a warm-up is thrown away, the median is judged, a limit inside too wide a spread is never a coin toss, and what a limit is
relative to is said."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.unit.toy import ToyZoo

from qatladder.boards.device import Health
from qatladder.boards.hrt import Perf
from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.settings import load_settings
from qatladder.validation.ask import ask
from qatladder.validation.baselines import LOOK_BACK
from qatladder.validation.context import Context, rung_file
from qatladder.validation.perf import measure
from qatladder.zoo.load import load_zoo

LADDER = {"model": "toy", "version": "1", "target": "bayes"}


class Bench:
    """A board that answers with the latencies it is given; the first is the warm-up's."""

    def __init__(self, zoo: ToyZoo) -> None:
        self.zoo = zoo
        self.gate: dict[str, Any] = {}
        self.temperatures = [50.0, 60.0]
        self.throttled: tuple[str, ...] = ()
        self.runs = 0
        self.looks = 0
        self.estimated = False
        self.store = open_store(load_settings())
        self.context: Context | None = None

    def ask(self, latencies: Sequence[float], estimate_ms: float | None = 1.0, **changes: Any) -> CheckResult:
        self.zoo.entry(targets=[{"march": "bayes", "perf": {"repeats": max(1, len(latencies) - 1), **self.gate}}])
        settings = load_settings()
        (entry,) = load_zoo(settings).entries.values()
        (self.zoo.folder / "work").mkdir(exist_ok=True)
        context = Context(
            LADDER, entry, entry.targets[0], Rung.BOARD, "sweep-20261125T010000Z-ffff", settings, load_zoo(settings), self.store,
            None, self.zoo.folder / "work", print,  # type: ignore[arg-type]
        )  # fmt: skip

        def run() -> Perf:
            latency = latencies[self.runs]
            self.runs += 1
            found = Perf(latency, 2 * latency, latency / 2, 1000 / latency, 200, 1, estimated=self.estimated)
            return dataclasses.replace(found, **changes)

        def health() -> Health:
            found = Health("tool", {}, "bayes", 1.0, 1.0, 1.0, 0.0, None, None)
            self.looks += 1
            return dataclasses.replace(
                found, temperatures={"bpu": self.temperatures[self.looks - 1], "cpu": 40.0}, throttled=self.throttled
            )

        self.context = context
        return ask(context, "board.perf", lambda: measure(context, run, health, "bench-1", estimate_ms, 200))

    def earlier(self, run: str, latency_ms: float, status: Status = Status.PASSED, estimated: bool = False) -> None:
        """An earlier run of the ladder, whole."""
        values = {"latency_ms": latency_ms, "estimated": estimated, "board": "bench-2"}
        result = RungResult(Rung.BOARD, (CheckResult("board.perf", status, values=values),))
        self.store.write_run_file(run, rung_file(LADDER, Rung.BOARD), json.dumps(result.to_json()).encode())
        self.store.write_run_file(run, "manifest.json", b"{}")


@pytest.fixture
def bench(toy_zoo: ToyZoo) -> Bench:
    return Bench(toy_zoo)


def test_the_median_of_the_repeats_counts_and_the_warm_up_does_not(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0, "min_fps": 400}
    check = bench.ask([9.0, 2.0, 1.9, 1.95, 1.98, 1.97])
    assert check.status is Status.PASSED, check
    assert check.measured == (
        "latency 1.97 ms, 508 FPS median of 5 x 200 frames after a warm-up, spread 5.1%, 1 thread (measured on bench-1); bpu 50 -> 60 °C"
    )
    assert check.expected == "latency_ms <= 2; fps >= 400"
    assert (check.values["latency_ms"], check.values["board"], check.values["estimated"]) == (1.97, "bench-1", False)
    assert bench.runs == 6
    assert bench.context is not None and len(bench.context.facts["perf"]["runs"]) == 5
    assert [item.name for item in check.evidence] == ["board_perf.json"]


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"max_latency_ms": 1.9}, "latency_ms 2 misses latency_ms <= 1.9"),
        ({"min_fps": 600}, "fps 500 misses fps >= 600"),
        ({"max_vs_estimate": 1.5}, "latency_ms 2 misses latency_ms <= 1.5 x 1 (the compiler's estimate)"),
        ({"max_vs_baseline": 1.1, "baseline_ms": 1.5}, "misses latency_ms <= 1.1 x 1.5 (baseline_ms of the entry)"),
    ],
)
def test_a_limit_that_is_missed_fails(bench: Bench, gate: dict[str, Any], said: str) -> None:
    bench.gate = gate
    check = bench.ask([2.0] * 4)
    assert check.status is Status.FAILED
    assert said in check.reason
    assert "slower than the gate" in check.cause


@pytest.mark.parametrize(
    "gate",
    [{"max_latency_ms": 2.0}, {"min_fps": 500}, {"max_vs_estimate": 2.0}, {"max_vs_baseline": 1.0, "baseline_ms": 2.0}],
)
def test_at_its_limit_a_gate_holds(bench: Bench, gate: dict[str, Any]) -> None:
    bench.gate = gate
    assert bench.ask([2.0] * 4)


def test_a_limit_within_too_wide_a_spread_is_not_judged(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0}
    check = bench.ask([2.0, 1.8, 1.9, 2.1, 1.9])
    assert check.status is Status.UNPROVABLE
    assert "latency_ms <= 2 lies between the repeats, 1.8 to 2.1: they scatter by 16%, more than 10% (max_spread)" in check.reason
    assert "not equally fast" in check.cause


def test_a_spread_that_is_allowed_is_judged_by_the_median(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0, "max_spread": 0.2}
    assert bench.ask([2.0, 1.8, 1.9, 2.1, 1.9])


def test_a_wide_spread_matters_only_where_a_limit_lies_within(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 3.0}
    assert bench.ask([2.0, 1.5, 2.5, 2.0])


def test_what_fails_whatever_the_spread_is_failed(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0, "min_fps": 2000}
    assert bench.ask([2.0, 1.8, 1.9, 2.1, 1.9]).status is Status.FAILED


def test_a_hot_board_is_blamed_before_the_model(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 1.0}
    bench.temperatures = [70.0, 91.0]
    check = bench.ask([2.0] * 4)
    assert check.status is Status.FAILED
    assert "bpu 70 -> 91 °C, hot from 85" in check.measured
    assert "throttles" in check.cause


def test_a_board_that_says_it_throttles_is_blamed_too(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 1.0}
    bench.throttled = ("cpufreq",)
    check = bench.ask([2.0] * 4)
    assert "throttled by cpufreq" in check.measured
    assert "throttles" in check.cause


def test_an_estimate_is_asked_for_once_and_holds_absolute_limits_only(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0, "max_vs_estimate": 0.1, "max_vs_baseline": 0.1}
    bench.estimated = True
    bench.earlier("sweep-20261124T010000Z-aaaa", 0.1)
    check = bench.ask([2.0, 9.0, 9.0])
    assert check.status is Status.PASSED
    assert "the compiler's estimate: a virtual board cannot measure" in check.measured
    assert "0.1 x estimate not judged" in check.expected and "0.1 x baseline not judged" in check.expected
    assert (bench.runs, bench.looks) == (1, 0)
    bench.gate = {"max_latency_ms": 1.9}
    bench.runs = 0
    assert bench.ask([2.0]).status is Status.FAILED


def test_no_estimate_leaves_its_limit_open(bench: Bench) -> None:
    bench.gate = {"max_vs_estimate": 2.0}
    assert bench.ask([2.0] * 4, estimate_ms=None).status is Status.UNPROVABLE


def test_the_baseline_is_the_newest_run_that_measured_and_passed(bench: Bench) -> None:
    bench.gate = {"max_vs_baseline": 1.1}
    bench.earlier("zzz-20261101T010000Z-aaaa", 9.0)
    bench.earlier("nightly_sweep@scheduled__2026-11-23T01:00:00+00:00", 1.9)
    bench.earlier("cli-20261122T010000Z-aaaa", 9.0)
    bench.earlier("sweep-20261124T010000Z-aaaa", 5.0, Status.FAILED)
    bench.earlier("sweep-20261124T020000Z-aaaa", 5.0, estimated=True)
    bench.earlier("by-hand", 5.0)
    check = bench.ask([2.0] * 4)
    assert check.status is Status.PASSED
    assert check.expected == "latency_ms <= 1.1 x 1.9 (run nightly_sweep@scheduled__2026-11-23T01:00:00+00:00 on bench-2)"
    bench.earlier("sweep-20261124T030000Z-aaaa", 1.0)
    bench.runs = bench.looks = 0
    assert bench.ask([2.0] * 4).status is Status.FAILED


def test_a_runs_own_measurement_is_no_baseline(bench: Bench) -> None:
    bench.gate = {"max_vs_baseline": 1.1}
    bench.earlier("sweep-20261125T010000Z-ffff", 1.0)
    check = bench.ask([2.0] * 4)
    assert check.status is Status.PASSED
    assert "no earlier run of this ladder passed on a real board; this one is the first" in check.expected


def test_only_so_many_runs_are_looked_through(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.gate = {"max_vs_baseline": 1.1}
    for number in range(LOOK_BACK + 20):
        bench.store.write_run_file(f"cli-20261101T01{number // 60:02}{number % 60:02}Z-aaaa", "manifest.json", b"{}")
    read: list[str] = []
    whole: Callable[[str, str], bytes] = bench.store.read_run_file
    monkeypatch.setattr(bench.store, "read_run_file", lambda run, name: (read.append(run), whole(run, name))[1])
    assert bench.ask([2.0] * 4)
    assert len(read) == LOOK_BACK


@pytest.mark.parametrize("changes", [{"frames": 199}, {"fps": 0.0}, {"average_ms": 0.0}])
def test_a_run_that_is_not_what_was_asked_for_is_broken(bench: Bench, changes: dict[str, Any]) -> None:
    check = bench.ask([2.0] * 4, **changes)
    assert (check.status, check.values["kind"]) == (Status.BROKEN, "console")


def test_a_board_that_is_lost_in_the_middle_is_broken(bench: Bench) -> None:
    bench.gate = {"max_latency_ms": 2.0}

    class Lost(list[float]):
        def __getitem__(self, index: Any) -> Any:
            if index == 2:
                raise BrokenError("gone", kind="connection_lost")
            return super().__getitem__(index)

    assert bench.ask(Lost([1.0] * 4)).status is Status.BROKEN
