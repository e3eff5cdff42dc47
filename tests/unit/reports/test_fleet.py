"""The page "Boards" and what a health task logs: everything known, nothing unescaped, nothing needed from elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from qatladder.boards.device import Health
from qatladder.boards.state import BoardState
from qatladder.reports.fleet import fleet_html, health_log, state_line

NOW = datetime(2026, 11, 25, 3, 5, tzinfo=UTC)
HEALTH = Health(
    tool="/usr/bin/hrt_model_exec",
    versions={"libdnn": "1.24.5"},
    march="bayes-e",
    disk_free_mb=12000.0,
    memory_free_mb=3100.0,
    uptime_s=7200.0,
    clock_skew_s=0.25,
    bpu_ratio=(0,),
    bpu_users=(),
    temperatures={"BPU": 58.5, "DDR": 61.0},
    frequencies={"policy0": (300.0, 1500.0)},
    throttled=("thermal-cpufreq-0",),
)
PASSED = {
    "when": "2026-11-25T03:00:04+00:00",
    "passed": True,
    "message": "",
    "seconds": 3.4,
    "samples": 2,
    "hbm": "ab12" * 16,
    "versions": {"hbrt": "3.15"},
}
OUT = BoardState(
    status="quarantined",
    since="2026-11-25T02:15:00+00:00",
    reason="<b>hot</b>",
    failures=3,
    recent=({"when": "2026-11-25T02:15:00+00:00", "kind": "timeout", "message": "it <i>hung</i>", "run": "nightly m"},),
)


def row(state: BoardState, **more: Any) -> dict[str, Any]:
    spec = {"name": "x5", "march": "bayes-e", "dialect": "x5", "cores": 1, "slots": 1, "tags": ["lab"], "virtual": False}
    data: dict[str, Any] = json.loads(json.dumps({**spec, **state.to_json(), **more}))
    return data


def seen(when: str, problems: list[str]) -> dict[str, Any]:
    return {"when": when, "problems": problems, **asdict(HEALTH)}


def test_everything_known_of_a_board_is_on_the_page() -> None:
    state = BoardState(
        health=seen("2026-11-25T03:00:00+00:00", []),
        golden=PASSED,
        ladder={"when": "2026-11-25T02:00:00+00:00", "run": "nightly m", "answered": True},
    )
    page = fleet_html([row(state)], NOW)
    for text in (
        "x5",
        "bayes-e",
        "lab",
        "✔ ready",
        "61 °C (DDR)",
        "12000 MB disk",
        "✔ passed",
        "ab12ab12ab12",
        "nightly m",
        "answered",
        "1.24.5",
        "3.15",
        "throttled: thermal-cpufreq-0",
    ):
        assert text in page, text
    assert 'class="late"' not in page


def test_a_board_out_of_service_says_why_and_nothing_of_it_is_markup() -> None:
    page = fleet_html([row(OUT), row(BoardState())], NOW)
    assert "✖ in quarantine" in page
    assert "&lt;b&gt;hot&lt;/b&gt;" in page and "it &lt;i&gt;hung&lt;/i&gt;" in page
    assert "<i>" not in page
    assert re.findall(r"<b>(\d)</b>", page) == ["1", "1"]
    assert not re.search(r"<script|<link|src=|https?:", page)


def test_a_board_nobody_looked_at_for_long_stands_out() -> None:
    page = fleet_html([row(BoardState(health=seen("2026-11-25T01:00:00+00:00", ["only 3 MB free on disk"])))], NOW)
    assert 'class="late"' in page
    assert "only 3 MB free on disk" in page


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (BoardState(), "ready"),
        (BoardState(failures=2, golden=PASSED), "ready; 2 failures in a row; golden model passed 2026-11-25 03:00:04 UTC"),
        (OUT, "in quarantine since 2026-11-25 02:15:00 UTC: <b>hot</b>; back when its golden model passes"),
        (BoardState(status="quarantined", since="2026-11-25T02:15:00+00:00", reason="fan", by_hand=True), "an operator gives it back"),
    ],
)
def test_a_state_in_one_line(state: BoardState, words: str) -> None:
    assert words in state_line(state)


def test_a_health_log_has_one_thing_a_line() -> None:
    lines = health_log(HEALTH)
    assert "temperature  DDR 61.0 °C" in lines
    assert "frequency    policy0 300 of 1500 MHz" in lines
    assert "throttled    thermal-cpufreq-0" in lines
    assert "version      libdnn 1.24.5" in lines
    assert not any("\n" in line for line in lines)
