"""How fast is the model on the board, and can the measurement carry the answer?

A warm-up run is thrown away: clocks rise, caches fill, memory is mapped. Of the repeats the median counts and the spread is told. Where
the repeats scatter more than the entry allows and a limit lies between the fastest and the slowest, the limit is not judged: the next
run might answer the other way. A virtual board prints the compiler's estimate, the same every time: it is asked once, and limits that
are relative to a measurement are not judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from qatladder.boards.device import Health
from qatladder.boards.hrt import Perf
from qatladder.errors import BrokenError
from qatladder.validation.ask import Answer, Unprovable
from qatladder.validation.baselines import newest_passed
from qatladder.validation.context import Context

HOT_C = 85.0
"""Degrees from which boards of this kind begin to throttle."""


@dataclass(frozen=True)
class Baseline:
    """A latency in milliseconds, and where it comes from."""

    latency_ms: float
    source: str


@dataclass(frozen=True)
class _Limit:
    """One limit on a figure; `low` when the figure may not be below it.

    Attributes:
        text: the limit in words.
        repeats: the figure of each repeat.
    """

    text: str
    value: float
    repeats: Sequence[float]
    low: bool = False

    def misses(self, figure: float) -> bool:
        return figure < self.value if self.low else figure > self.value

    @property
    def between(self) -> bool:
        """Some repeats miss it and others do not."""
        return len({self.misses(figure) for figure in self.repeats}) > 1


def measure(
    context: Context,
    run: Callable[[], Perf],
    health: Callable[[], Health],
    board: str,
    estimate_ms: float | None,
    frames: int,
) -> Answer:
    """Check board.perf.

    Args:
        run: one performance run on the board.
        health: looks at the board without touching the BPU; asked after the warm-up and after the last repeat.
        board: its name.
        estimate_ms: latency the compiler estimates; None when it is not known.
        frames: how many a run has to have.
    Raises:
        BrokenError: a run is not what was asked for.
        Unprovable: a limit lies within a spread that is too wide, or nothing is known to hold the latency against.
    """
    gate = context.target.perf
    runs = [_checked(run(), board, frames)]  # the warm-up
    estimated = runs[0].estimated
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    throttled: tuple[str, ...] = ()
    if not estimated:
        before = health().temperatures
        runs = [_checked(run(), board, frames) for _ in range(gate.repeats)]
        state = health()
        after, throttled = state.temperatures, state.throttled
    latencies, rates = [found.average_ms for found in runs], [found.fps for found in runs]
    latency, fps = statistics.median(latencies), statistics.median(rates)
    spread = _spread(latencies)
    kept = {
        "estimated": estimated,
        "board": board,
        "before_c": before,
        "after_c": after,
        "throttled": throttled,
        "runs": [asdict(found) for found in runs],
    }
    context.facts["perf"] = {"average_ms": latency, "fps": fps, "spread": spread, **kept}

    limits, notes = _limits(context, latencies, rates, estimate_ms, estimated)
    problems, doubts = [], []
    for limit in limits:
        figure, scatter = statistics.median(limit.repeats), _spread(limit.repeats)
        if limit.between and scatter > gate.max_spread:
            doubts.append(
                f"{limit.text} lies between the repeats, {min(limit.repeats):g} to {max(limit.repeats):g}: they scatter by {scatter:.0%}, "
                f"more than {gate.max_spread:.0%} (max_spread)"
            )
        elif limit.misses(figure):
            problems.append(f"{limit.text.split()[0]} {figure:g} misses {limit.text}")
    heat = _heat(before, after, throttled)
    if doubts and not problems:
        raise Unprovable("; ".join([*doubts, *heat]))
    source = "the compiler's estimate: a virtual board cannot measure" if estimated else f"measured on {board}"
    how = f"over {frames} frames" if estimated else f"median of {len(runs)} x {frames} frames after a warm-up, spread {spread:.1%}"
    return Answer(
        not problems,
        "; ".join([f"latency {latency:g} ms, {fps:.0f} FPS {how}, {runs[0].threads} thread ({source})", *heat]),
        "; ".join([*(limit.text for limit in limits), *notes]) or "no gate in the entry; recorded only",
        "; ".join(problems),
        {
            "latency_ms": latency,
            "fps": fps,
            "spread": spread,
            "estimated": estimated,
            "board": board,
            "hot": bool(throttled) or max(after.values(), default=0.0) >= HOT_C,
        },
        [context.store.put_json(kept, "board_perf.json")],
    )


def _limits(
    context: Context, latencies: Sequence[float], rates: Sequence[float], estimate_ms: float | None, estimated: bool
) -> tuple[list[_Limit], list[str]]:
    """The limits that can be judged, and what is to be said of the others."""
    gate = context.target.perf
    limits, notes = [], []
    stated = Baseline(estimate_ms, "the compiler's estimate") if estimate_ms else None
    if gate.max_latency_ms is not None:
        limits.append(_Limit(f"latency_ms <= {gate.max_latency_ms:g}", gate.max_latency_ms, latencies))
    if gate.min_fps is not None:
        limits.append(_Limit(f"fps >= {gate.min_fps:g}", gate.min_fps, rates, low=True))
    for factor, name in ((gate.max_vs_estimate, "estimate"), (gate.max_vs_baseline, "baseline")):
        if factor is None:
            continue
        if estimated:
            notes.append(f"latency <= {factor:g} x {name} not judged: a virtual board does not measure")
            continue
        reference = stated if name == "estimate" else baseline(context)
        if reference is not None:
            text = f"latency_ms <= {factor:g} x {reference.latency_ms:g} ({reference.source})"
            limits.append(_Limit(text, factor * reference.latency_ms, latencies))
        elif name == "baseline":
            notes.append(
                f"latency <= {factor:g} x baseline not judged: no earlier run of this ladder passed on a real board; this one is the first"
            )
        else:
            raise Unprovable("the compiler states no latency, so max_vs_estimate cannot be judged")
    return limits, notes


def baseline(context: Context) -> Baseline | None:
    """What the latency is held against: the entry's `baseline_ms`, else the newest earlier run of this ladder that measured and passed."""
    stated = context.target.perf.baseline_ms
    if stated is not None:
        return Baseline(stated, "baseline_ms of the entry")
    found = newest_passed(
        context, "board.perf", lambda check: not check.values.get("estimated", True) and bool(check.values.get("latency_ms"))
    )
    if found is None:
        return None
    run, check = found
    return Baseline(float(check.values["latency_ms"]), f"run {run} on {check.values.get('board', '?')}")


def _checked(found: Perf, board: str, frames: int) -> Perf:
    if found.average_ms > 0 and found.fps > 0 and found.frames == frames:
        return found
    raise BrokenError(
        "the board's performance run is not what was asked for",
        kind="console",
        board=board,
        expected=f"{frames} frames, latency and frame rate above 0",
        found=f"{found.frames} frames, {found.average_ms:g} ms, {found.fps:g} FPS",
    )


def _spread(figures: Sequence[float]) -> float:
    """(max - min) / median."""
    return (max(figures) - min(figures)) / statistics.median(figures)


def _heat(before: dict[str, float], after: dict[str, float], throttled: Sequence[str]) -> list[str]:
    """The thermal state in words: the hottest sensor, and what slows the board down."""
    words = [f"throttled by {', '.join(throttled)}"] if throttled else []
    if after:
        sensor = max(after, key=lambda name: after[name])
        hot = f", hot from {HOT_C:.0f}" if after[sensor] >= HOT_C else ""
        words.append(f"{sensor} {before.get(sensor, after[sensor]):.0f} -> {after[sensor]:.0f} °C{hot}")
    return words
