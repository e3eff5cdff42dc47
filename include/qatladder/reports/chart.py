"""The picture of a ladder: the primary metric as a tread at every rung, and the gate each had to reach.

Geometry only; the template draws it. Coordinates are SVG user units, origin at the top left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from qatladder.ladder.results import Rung

WIDTH, HEIGHT = 960, 250
_LEFT, _TOP, _BOTTOM = 64, 34, 190
_TREAD = 84
"""Length of a tread."""


def chart(facts: Mapping[str, Mapping[str, Any]], states: Mapping[str, str], accuracy: Mapping[str, str]) -> dict[str, Any] | None:
    """Lay out the chart of one ladder.

    Args:
        facts: facts by rung (`metric`, `metrics`, `count`, `gate`, `reference`).
        states: state by rung (`passed`, `failed` ... or `not run`).
        accuracy: status of the accuracy check by rung: whether a gate was met is said there, not computed again.
    Returns:
        `metric`, `width`, `height`, `ticks` [{y, text}], `columns` [{rung, state, x, left, right, value, y, gate, gate_y, note,
        title, failed, value_above}], `links` [{x1, y1, x2, y2, gap}] between the treads; None when no rung carries its primary metric.
    """
    values = {rung: _primary(fact) for rung, fact in facts.items()}
    gates = {rung: gate_level(fact) for rung, fact in facts.items()}
    known = [value for value in values.values() if value is not None]
    if not known:
        return None
    levels = known + [level for level in gates.values() if level is not None]
    low, high = min(levels), max(levels)
    span = max(high - low, 0.01 * max(abs(low), abs(high)), 1e-9)
    bottom, top = low - 0.2 * span, high + 0.2 * span
    pitch = (WIDTH - _LEFT) / len(Rung)

    def height(level: float) -> float:
        return round(_BOTTOM - (level - bottom) / (top - bottom) * (_BOTTOM - _TOP), 1)

    columns = []
    for index, rung in enumerate(map(str, Rung)):
        fact, value, gate = facts.get(rung, {}), values.get(rung), gates.get(rung)
        middle = round(_LEFT + pitch * (index + 0.5), 1)
        columns.append(
            {
                "rung": rung,
                "state": states.get(rung, "not run"),
                "x": middle,
                "left": middle - _TREAD / 2,
                "right": middle + _TREAD / 2,
                "value": value,
                "y": height(value) if value is not None else None,
                "gate": gate,
                "gate_y": height(gate) if gate is not None else None,
                "failed": accuracy.get(rung) == "failed",
                "value_above": gate is None or value is None or value >= gate,
                "note": "" if value is not None else ("no metric" if rung in facts else "not run"),
                "title": _title(rung, fact, value, gate),
            }
        )
    treads = [(index, column) for index, column in enumerate(columns) if column["y"] is not None]
    links = [
        {"x1": left["right"], "y1": left["y"], "x2": right["left"], "y2": right["y"], "gap": second - first > 1}
        for (first, left), (second, right) in pairwise(treads)
    ]
    names = [str(fact["metric"]) for fact in facts.values() if fact.get("metric")]
    ticks = [{"y": height(level), "text": text} for level, text in _ticks(bottom, top)]
    return {
        "metric": names[0],
        "width": WIDTH,
        "height": HEIGHT,
        "base": _BOTTOM,
        "left": _LEFT,
        "ticks": ticks,
        "columns": columns,
        "links": links,
    }


def gate_level(fact: Mapping[str, Any]) -> float | None:
    """The value the primary metric had to reach: the stricter of `min` and reference - `max_drop`; None without a gate."""
    gate, reference = fact.get("gate") or {}, fact.get("reference") or {}
    levels = []
    if _finite(gate.get("min")):
        levels.append(float(gate["min"]))
    if _finite(gate.get("max_drop")) and _finite(reference.get("value")):
        levels.append(float(reference["value"]) - float(gate["max_drop"]))
    return max(levels) if levels else None


def _primary(fact: Mapping[str, Any]) -> float | None:
    value: Any = (fact.get("metrics") or {}).get(fact.get("metric"))
    return float(value) if _finite(value) else None


def _title(rung: str, fact: Mapping[str, Any], value: float | None, gate: float | None) -> str:
    """What a pointer over the column says."""
    if value is None:
        return f"{rung}: no metric at this rung"
    parts = [f"{rung}: {fact['metric']} {value:.6g}"]
    if fact.get("count"):
        parts.append(f"{fact['count']} samples")
    if gate is not None:
        reference, drop = fact.get("reference") or {}, (fact.get("gate") or {}).get("max_drop")
        source = (
            f" ({reference.get('rung')} {reference['value']:.6g} - {drop:g})" if _finite(drop) and _finite(reference.get("value")) else ""
        )
        parts.append(f"gate >= {gate:.6g}{source}")
    return ", ".join(parts)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to six round levels within the range (steps of 1, 2 or 5), with as many decimals as the step has."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(index * step, f"{index * step:.{decimals}f}") for index in range(first, last + 1)]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
