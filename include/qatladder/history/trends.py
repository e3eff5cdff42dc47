"""Regression verdicts: what has moved since the accepted result, judged for all ladders of a night together.

Each movement is one figure of one check against its baseline:

    regression         worse, and not by chance: the night's tests are adjusted together (Holm), so that the chance of any false alarm in a
                       night is below `alpha`; or worse at all where nothing that determines it has changed; or a check that passed and fails
    suspicious         worse, and one test alone would say so; not enough for the night
    progression        better, and not by chance
    no_regression      none of these
    insufficient_data  it cannot be said: other samples, too few, no measurement
    new                the ladder has no accepted result yet
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qatladder.history.baselines import Baseline
from qatladder.history.changes import determinants_of, suspects
from qatladder.history.significance import change_point, holm
from qatladder.ladder import LadderResult, Rung, RungResult, Status

WORST_FIRST = ("regression", "suspicious", "progression", "new", "insufficient_data", "no_regression")

COMPILED = ("latency_ms", "ddr_mb", "size_mb")
"""Figures of hbm.compile; the compiler gives the same ones for the same model."""

SINCE_ANCHOR = " in the long run"
"""Behind the name of a figure that is held against the baseline's anchor."""

LEAST_NIGHTS = 8
"""Measured nights before a noisy figure is judged by its own scatter."""


@dataclass(frozen=True)
class Policy:
    """What counts.

    Attributes:
        alpha: chance of any false alarm in a night.
        suspicious: probability below which a single test is worth a look.
        min_change: smallest change of an accuracy that matters, in the metric's own unit.
        min_growth: smallest relative change of a latency, of DDR traffic or of the size that matters.
    """

    alpha: float = 0.001
    suspicious: float = 0.01
    min_change: float = 0.0
    min_growth: float = 0.02


@dataclass
class Movement:
    """One figure against its baseline; see the module for `verdict`.

    Attributes:
        check_id, metric: of what.
        value, baseline: now and at the baseline; None where there is none.
        p_value: of one test alone, one-sided in the direction it moved; None where nothing was tested.
        samples: pairs, or nights.
        method: of the test.
        why: one line.
    """

    check_id: str
    metric: str
    verdict: str
    value: float | None = None
    baseline: float | None = None
    baseline_run: str = ""
    baseline_time: str = ""
    delta: float | None = None
    p_value: float | None = None
    samples: int | None = None
    method: str = ""
    why: str = ""


@dataclass
class _Test:
    """A movement that waits for the night's other tests."""

    movement: Movement
    p_worse: float
    p_better: float
    matters: bool


@dataclass(frozen=True)
class Past:
    """What is known of a ladder before tonight.

    Attributes:
        baseline: the accepted result, `before` its rungs, `anchor` those of its anchor if that is another result.
        previous: (run, time, verdict) of its last run; None when there was none.
        series: by check, what earlier nights measured of board.perf, oldest first.
    """

    baseline: Baseline | None = None
    before: Mapping[Rung, RungResult] | None = None
    previous: tuple[str, str, str] | None = None
    series: Mapping[str, Sequence[float]] | None = None
    anchor: Mapping[Rung, RungResult] | None = None


def judge_night(night: Sequence[tuple[LadderResult, Past]], policy: Policy) -> list[dict[str, Any]]:
    """The trend of every ladder of a night, in order, as plain data.

    Returns:
        `verdict`, the worst of the movements; `movements`; `suspects` where something became worse, most probable first; `recovered`,
        `broke`: {"since", "time"} of the run before, or None.
    """
    movements: list[list[Movement]] = []
    tests: dict[str, _Test] = {}
    for result, past in night:
        found: list[Movement] = []
        for item in _observed(result, past, policy):
            if isinstance(item, _Test):
                tests[f"{len(movements)}/{len(found)}"] = item
            found.append(item.movement if isinstance(item, _Test) else item)
        movements.append(found)
    worse = holm({name: test.p_worse for name, test in tests.items()})
    better = holm({name: test.p_better for name, test in tests.items()})
    for name, test in tests.items():
        _decide(test, worse[name], better[name], policy, len(tests))
    told = [[item for item in found if item.verdict != "no_regression" or not item.metric.endswith(SINCE_ANCHOR)] for found in movements]
    return [_trend(result, past, found) for (result, past), found in zip(night, told, strict=True)]


def _decide(test: _Test, worse: float, better: float, policy: Policy, tests: int) -> None:
    movement = test.movement
    falls = test.p_worse < test.p_better
    movement.p_value = min(test.p_worse, test.p_better)
    odds = f"p {movement.p_value:.2g} ({movement.method}; {tests} test{'s' if tests > 1 else ''} this night)"
    if not test.matters:
        movement.verdict, movement.why = "no_regression", f"{_told(movement)}: too little to matter; {odds}"
    elif falls and worse < policy.alpha:
        movement.verdict, movement.why = "regression", f"{_told(movement)}: not by chance; {odds}"
    elif falls and test.p_worse < policy.suspicious:
        movement.verdict, movement.why = "suspicious", f"{_told(movement)}: perhaps by chance; {odds}"
    elif not falls and better < policy.alpha:
        movement.verdict, movement.why = "progression", f"{_told(movement)}: not by chance; {odds}"
    else:
        movement.verdict, movement.why = "no_regression", f"{_told(movement)}: as much as chance gives; {odds}"


def _told(movement: Movement) -> str:
    return f"{movement.metric} {movement.baseline:.6g} -> {movement.value:.6g}"


def _observed(result: LadderResult, past: Past, policy: Policy) -> Iterator[Movement | _Test]:
    if past.baseline is None or past.before is None:
        yield Movement("", "", "new", why="no result of this model on this target has been accepted yet")
        return
    same = True
    for rung in result.rungs:
        before = past.before.get(rung.rung)
        same = same and before is not None and determinants_of(rung) == determinants_of(before)
        yield from _fallen(rung, before, past.baseline)
        if rung.facts.get("paired"):
            yield _accuracy(rung, same, rung.facts["paired"], policy)
        if (rung.facts.get("paired_anchor") or {}).get("p_worse") is not None and not rung.facts["paired_anchor"].get("identical"):
            crept = _accuracy(rung, False, rung.facts["paired_anchor"], policy)
            assert isinstance(crept, _Test)
            crept.movement.metric += SINCE_ANCHOR
            yield replace(crept, p_better=1.0)  # better than long ago is no news
        if before is not None:
            if rung.rung is Rung.HBM:
                yield from _compiled(rung, before, past.baseline, policy)
                yield from _crept(rung, past, policy)
            if rung.rung is Rung.BOARD:
                yield from _speed(rung, before, past, policy)


def _fallen(rung: RungResult, before: RungResult | None, baseline: Baseline) -> Iterator[Movement]:
    """Checks that passed at the baseline and fail now."""
    for check in rung.checks:
        old = before.check(check.id) if before else None
        if check.status is Status.FAILED and old is not None and old.status is Status.PASSED:
            yield Movement(
                check.id,
                "status",
                "regression",
                baseline_run=baseline.run_id,
                baseline_time=baseline.time,
                method="passed at the baseline",
                why=f"passed at the baseline, fails now: {check.cause or check.reason or check.measured}",
            )


def _accuracy(rung: RungResult, same: bool, paired: Mapping[str, Any], policy: Policy) -> Movement | _Test:
    movement = Movement(
        check_id=f"{rung.rung}.accuracy",
        metric=str(paired["metric"]) if "metric" in paired else "",
        verdict="insufficient_data",
        value=paired.get("value"),
        baseline=paired.get("baseline"),
        baseline_run=paired.get("baseline_run", ""),
        baseline_time=paired.get("baseline_time", ""),
        samples=paired.get("count"),
        method=paired.get("method", ""),
        why=paired.get("reason", ""),
    )
    if "p_worse" not in paired or movement.value is None or movement.baseline is None:
        return movement
    movement.delta = movement.value - movement.baseline
    if paired.get("identical"):
        movement.verdict, movement.why = "no_regression", f"{movement.metric} {movement.value:.6g}: {movement.method}"
        return movement
    if same:
        movement.verdict = "regression" if movement.delta < 0 else "suspicious"
        movement.method = "nothing that determines it has changed: no tolerance"
        movement.why = f"{_told(movement)}, and samples are answered differently, although nothing that determines it has changed"
        return movement
    return _Test(movement, paired["p_worse"], paired["p_better"], abs(movement.delta) >= policy.min_change)


def _compiled(rung: RungResult, before: RungResult, baseline: Baseline, policy: Policy) -> Iterator[Movement]:
    now, old = rung.check("hbm.compile"), before.check("hbm.compile")
    for name in COMPILED:
        value, held = (check.values.get(name) if check else None for check in (now, old))
        if not isinstance(value, (int, float)) or not isinstance(held, (int, float)) or held <= 0:
            continue
        yield _deterministic("hbm.compile", name, float(value), float(held), baseline, policy, "the compiler's figures have no scatter")


def _crept(rung: RungResult, past: Past, policy: Policy) -> Iterator[Movement]:
    """Compiler figures that grew little by little since the anchor; one that did not is not worth a line."""
    assert past.baseline is not None
    old = (past.anchor or {}).get(rung.rung)
    anchor = past.baseline.anchored
    if old is None or anchor is None:
        return
    for movement in _compiled(rung, old, anchor, policy):
        if movement.verdict == "regression":
            movement.metric += SINCE_ANCHOR
            yield movement


def _deterministic(check_id: str, name: str, value: float, held: float, baseline: Baseline, policy: Policy, method: str) -> Movement:
    """A figure without scatter, lower is better."""
    growth = value / held - 1
    verdict = "regression" if growth > policy.min_growth else "progression" if growth < -policy.min_growth else "no_regression"
    found = Movement(check_id, name, verdict, value, held, baseline.run_id, baseline.time, value - held, None, None, method)
    found.why = f"{_told(found)} ({growth:+.1%}; what matters: {policy.min_growth:.0%})"
    return found


def _speed(rung: RungResult, before: RungResult, past: Past, policy: Policy) -> Iterator[Movement | _Test]:
    """board.perf: measured, so it scatters; held against the nights before, for a jump tonight and for a change of level lately."""
    from scipy import stats

    assert past.baseline is not None
    now, old = rung.check("board.perf"), before.check("board.perf")
    value, held = (check.values.get("latency_ms") if check else None for check in (now, old))
    if not isinstance(value, (int, float)) or not isinstance(held, (int, float)) or held <= 0:
        return
    if (rung.facts.get("perf") or {}).get("estimated"):
        yield _deterministic("board.perf", "latency_ms", value, held, past.baseline, policy, "an estimate has no scatter")
        return
    movement = Movement(
        "board.perf", "latency_ms", "insufficient_data", value, held, past.baseline.run_id, past.baseline.time, value - held
    )
    nights = list((past.series or {}).get("board.perf", ()))
    movement.samples = len(nights)
    if len(nights) < LEAST_NIGHTS:
        movement.why = f"{_told(movement)}; measured on {len(nights)} nights before, its scatter is known from {LEAST_NIGHTS} on"
        yield movement
        return
    middle = statistics.median(nights)
    scatter = max(1.4826 * statistics.median(abs(night - middle) for night in nights), 0.002 * middle)
    t = (value - middle) / (scatter * (1 + 1 / len(nights)) ** 0.5)
    freedom = 0.37 * (len(nights) - 1)  # a median deviation knows as much of a scatter as a standard one of so many nights
    p_worse, p_better = float(stats.t.sf(t, freedom)), float(stats.t.cdf(t, freedom))
    movement.method = f"against the scatter of {len(nights)} nights, {scatter:.3g} ms around {middle:.6g} ms"
    movement.baseline, movement.delta = middle, value - middle
    changed = change_point([*nights, value])
    if changed is not None:
        at, level, since = changed
        count = len(nights) + 1
        p = min(1.0, count * float(stats.mannwhitneyu([*nights, value][at:], [*nights, value][:at], alternative="two-sided").pvalue) / 2)
        if p < min(p_worse, p_better):  # of two tests the better one: twice its probability, below
            p_worse, p_better = (p, 1.0) if since > level else (1.0, p)
            movement.baseline, movement.delta = level, since - level
            movement.method = f"change of level {count - at} nights ago, {level:.6g} -> {since:.6g} ms"
    matters = abs(movement.delta) > policy.min_growth * movement.baseline
    yield _Test(movement, min(1.0, 2 * p_worse), min(1.0, 2 * p_better), matters)


def _trend(result: LadderResult, past: Past, movements: Sequence[Movement]) -> dict[str, Any]:
    # a latency whose scatter is not known yet takes nothing from what is known of the rest
    verdicts = [item.verdict for item in movements if item.check_id != "board.perf" or item.verdict != "insufficient_data"]
    verdict = next((name for name in WORST_FIRST if name in verdicts), "insufficient_data")
    ships, previous = result.verdict == "ship", past.previous
    worse = next((item for item in movements if item.verdict in ("regression", "suspicious")), None)
    moved = Rung(worse.check_id.split(".")[0]) if worse else None
    return {
        "verdict": verdict,
        "recovered": _since(previous) if ships and previous is not None and previous[2] != "ship" else None,
        "broke": (
            {"since": past.baseline.run_id, "time": past.baseline.time}
            if past.baseline is not None and str(result.verdict) == "no-ship"
            else None
        ),
        "baseline": None if past.baseline is None else asdict(past.baseline) | {"before": []},
        "movements": [asdict(item) for item in movements],
        "suspects": suspects(past.before, result.rungs, moved) if past.before is not None and moved is not None else [],
    }


def _since(previous: tuple[str, str, str]) -> dict[str, str]:
    return {"since": previous[0], "time": previous[1]}
