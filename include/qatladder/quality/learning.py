"""What did good nights look like, and how far may tonight be from them? Limits for the statistics of every output, learnt from tables.

The spread that was seen sets every limit; nothing is tuned by hand. Two kinds of it are told apart:

* **Samples of a night differ.** A statistic may lie beyond all that was seen by as much again as what was seen is wide (a little more when
  few samples were seen, see `margin`), and one sample in ten, at least one of five, may lie beyond even that. A changed model changes
  most samples; one odd frame changes one. If the frames of every night were drawn anew, a statistic of a sound night after three nights would be
  called wrong less than once in 10**4 nights of 24 samples, and less than 5 times in 1000 nights of 8 with tails as long as an exponential's;
  the frames are the same every night, so a sound night is never called wrong at all.
* **Nights differ.** The drift of a night is the share of its values that lie elsewhere than on the nights before, a step of rounding
  forgiven (`numerics.statistics.Histogram.distance`). Its limit is twice what any of the learnt nights drifted from the others, and never
  below `DRIFT_FLOOR`: nights with equal dumps have no spread at all.

A night whose table is among those learnt from meets every limit: its samples are within what was seen, and it drifts less from all nights
together than from the others alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qatladder.numerics.statistics import Histogram, representable_limits
from qatladder.quality.statistics import Row, Table

STATISTICS = ("min", "max", "saturation_share", "zero_share", "entropy")
"""Columns limits are learnt for, besides the drift."""

SIDES = {"min": "low", "max": "high", "saturation_share": "high"}
"""Statistics of which only one side is bad news; of the others both are."""

DRIFT_FLOOR = 0.1
"""A tenth of the values may lie elsewhere: what is less, no gate on accuracy would call another model."""

SHARE_FLOOR = 0.05
ENTROPY_FLOOR = 0.5
RANGE_FLOOR = 0.1
"""Margins of a statistic that never differed: of a share; of the entropy, in bits; of min and max, as a part of the output's whole range."""

FEW = 8
"""So many samples seen say about half of how wide a statistic is: with n of them the margin is 1 + FEW / n widths."""


def learn(tables: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """The limits every output learnt.

    Args:
        tables: distinct ones, one of each night; at least one.
    Returns:
        By output name: `samples` (seen), `limits`: {statistic: {`low`, `high` (None: no limit), `seen` ([lowest, highest])}},
        `drift`: {`high`, `seen` (largest drift of a learnt night)}, `step` (1 for integers, 0 for floats),
        `histogram` (of all nights, `Histogram.to_json`). Plain JSON.
    """
    outputs: dict[str, dict[str, Any]] = {}
    for output in sorted(set.intersection(*(set(table.histograms) for table in tables))):
        rows = [row for table in tables for row in table.rows if row["output"] == output]
        histograms = [table.histograms[output] for table in tables]
        whole = merged(histograms)
        if len({row["dtype"] for row in rows}) != 1 or not all(histogram.total for histogram in histograms):
            continue  # nights of two kinds of dumps, or without a single finite value, teach nothing
        step = 0.0 if rows[0]["dtype"].startswith("float") else 1.0
        drifts = [
            histogram.distance(merged([other for other in histograms if other is not histogram]), step)
            for histogram in (histograms if len(histograms) > 1 else ())
        ]
        most = max(drifts, default=0.0)
        outputs[output] = {
            "samples": len(rows),
            "limits": {statistic: _limits(statistic, rows) for statistic in STATISTICS},
            "drift": {"high": max(DRIFT_FLOOR, 2 * most), "seen": most},
            "step": step,
            "histogram": whole.to_json(),
        }
    return outputs


def drift(learnt: Mapping[str, Any], found: Histogram) -> float | None:
    """How much of an output's values lie elsewhere than learnt, 0 to 1; None when there are none."""
    return Histogram.from_json(learnt["histogram"]).distance(found, learnt["step"]) if found.total else None


def merged(histograms: Sequence[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def mostly(samples: int) -> float:
    """Share of a night's samples that must be within a learnt limit: all but one in ten, at least one of five or more."""
    beyond = max(1, samples // 10) if samples >= 5 else 0
    return (samples - beyond) / samples if samples else 1.0


def margin(seen: Sequence[float], floor: float) -> float:
    """How far beyond what was seen a statistic may lie."""
    return max(floor, (max(seen) - min(seen)) * (1 + FEW / len(seen)))


def _limits(statistic: str, rows: Sequence[Row]) -> dict[str, Any]:
    seen = [float(row[statistic]) for row in rows if row[statistic] is not None]
    if not seen:
        return {"low": None, "high": None, "seen": None}
    lowest, highest = _possible(statistic, rows)
    beyond = margin(seen, _floor(statistic, rows))
    low, high = min(seen) - beyond, max(seen) + beyond
    side = SIDES.get(statistic)
    return {
        "low": low if side != "high" and low > lowest else None,
        "high": high if side != "low" and high < highest else None,
        "seen": [min(seen), max(seen)],
    }


def _floor(statistic: str, rows: Sequence[Row]) -> float:
    if statistic == "entropy":
        return ENTROPY_FLOOR
    if statistic in ("min", "max"):
        whole = max(float(row["max"]) for row in rows) - min(float(row["min"]) for row in rows)
        return max(RANGE_FLOOR * whole, 0.0 if rows[0]["dtype"].startswith("float") else 1.0)
    return max(SHARE_FLOOR, 2 / min(int(row["count"]) for row in rows))  # and two elements of small outputs


def _possible(statistic: str, rows: Sequence[Row]) -> tuple[float, float]:
    """Values beyond which a limit asks nothing."""
    if statistic == "entropy":
        return 0.0, float("inf")
    return (0.0, 1.0) if statistic.endswith("_share") else representable_limits(rows[0]["dtype"])
