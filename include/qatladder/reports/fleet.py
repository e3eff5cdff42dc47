"""The fleet for people: one line per board, a health log, and the page "Boards" of the UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from qatladder.boards.device import Health
from qatladder.boards.state import BoardState
from qatladder.reports.report import show_moment, template

STALE_S = 60 * 60.0
"""After this long without a look at a board, the page says so: the health run does not reach it, or does not run."""


def state_line(state: BoardState) -> str:
    """`ready; golden model passed 2026-11-25 03:00:02 UTC`, `in quarantine since ...: ...`."""
    if not state.ready:
        text = f"in quarantine since {show_moment(state.since)}: {state.reason}"
        return text + ("; an operator gives it back: `qatladder fleet return`" if state.by_hand else "; back when its golden model passes")
    parts = ["ready"]
    if state.failures:
        parts.append(f"{state.failures} failure{'s' * (state.failures > 1)} in a row")
    if state.golden is not None:
        parts.append(f"golden model {'passed' if state.golden['passed'] else 'failed'} {show_moment(state.golden['when'])}")
    return "; ".join(parts)


def health_log(health: Health) -> list[str]:
    """What a board said of itself, one thing a line."""
    idle = {True: "idle", False: "in use", None: "load not stated"}[health.bpu_idle]
    lines = [
        f"march        {health.march or 'not stated'}",
        f"BPU          {idle}",
        f"disk         {health.disk_free_mb:.0f} MB free",
        f"memory       {health.memory_free_mb:.0f} MB free",
        f"clock        {health.clock_skew_s:+.1f} s",
        f"up           {health.uptime_s / 3600:.1f} h",
    ]
    lines += [f"temperature  {name} {value:.1f} °C" for name, value in sorted(health.temperatures.items())]
    lines += [f"frequency    {name} {now:.0f} of {most:.0f} MHz" for name, (now, most) in sorted(health.frequencies.items())]
    lines += [f"throttled    {name}" for name in health.throttled]
    return lines + [f"version      {name} {version}" for name, version in sorted(health.versions.items())]


def fleet_html(boards: Sequence[Mapping[str, Any]], now: datetime) -> str:
    """The page of `validation.fleet.fleet_status`: inline styles, no script, no request to anywhere, light and dark.

    Args:
        now: time zone aware.
    """
    views = [_view(board, now) for board in boards]
    counts = {
        "ready": sum(view["status"] == "ready" for view in views),
        "quarantined": sum(view["status"] == "quarantined" for view in views),
    }
    page: str = template("fleet.html.j2").render(boards=views, counts=counts, now=now.isoformat(timespec="seconds"))
    return page


def _view(board: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    health = board["health"]
    temperatures: dict[str, float] = (health or {}).get("temperatures", {})
    hottest = max(temperatures.items(), key=lambda item: item[1], default=None)
    age = (now - datetime.fromisoformat(health["when"])).total_seconds() if health else None
    return {
        **board,
        "labels": ", ".join(dict.fromkeys([*(["virtual"] if board["virtual"] else []), *board["tags"]])),
        "hottest": hottest and f"{hottest[1]:.0f} °C ({hottest[0]})",
        "stale": age is not None and age > STALE_S,
        "failures_newest_first": list(reversed(board["recent"])),
        "versions": {**((board["golden"] or {}).get("versions") or {}), **((health or {}).get("versions") or {})},
    }
