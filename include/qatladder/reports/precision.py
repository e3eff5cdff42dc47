"""The page on the precision of a calib or qat model: the verdict, what each fake-quantisation loses, how the difference grows."""

from __future__ import annotations

from typing import Any

from qatladder.reports.report import template

_LEFT, _WIDTH, _TOP, _HEIGHT = 48, 904, 10, 160


def precision_html(title: str, found: dict[str, Any], words: str) -> str:
    """A self-contained page.

    Args:
        title: model, version and rung.
        found: what `qatladder.runner.debug.precision` returned.
        words: its cause in words.
    """
    levels = [max(0.0, min(80.0, row["db"])) for row in found["layers"]]
    pitch = _WIDTH / max(1, len(levels) - 1)

    def y(level: float) -> float:
        return round(_TOP + (80 - level) / 80 * _HEIGHT, 1)

    view = {
        "title": title,
        "found": found,
        "verdict": words,
        "ticks": [{"db": level, "y": y(level)} for level in (0, 20, 40, 60, 80)],
        "points": " ".join(f"{round(_LEFT + index * pitch, 1)},{y(level)}" for index, level in enumerate(levels)),
    }
    return str(template("precision.html.j2").render(**view))
