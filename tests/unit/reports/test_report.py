"""Promises of qatladder.reports.report: the JSON is whole, the page says it all, asks nobody for anything and trusts no text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from tests.unit.reports.ladders import COMPILE, RUN, evidence, no_ship, ship, undecided

from qatladder.ladder import CheckResult, Evidence, LadderResult, Rung, RungResult, Status
from qatladder.reports.chart import chart, gate_level
from qatladder.reports.report import report_html, report_json, show_duration, show_moment, show_value

VOID = {"meta", "link", "br", "col", "img", "hr", "line", "rect"}


class Page(HTMLParser):
    """Text, tags and links of a page; fails on a tag that is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def links(self) -> list[str]:
        return [attributes["href"] for tag, attributes in self.tags if tag == "a"]


def page(*ladders: LadderResult, **run: Any) -> Page:
    return Page(report_html(report_json(ladders, {**RUN, **run})))


def test_the_json_round_trips_to_the_same_ladders() -> None:
    ladders = [ship(), no_ship(), undecided()]
    report = json.loads(json.dumps(report_json(ladders, RUN), allow_nan=False))
    for item, ladder in zip(report["ladders"], ladders, strict=True):
        assert LadderResult.from_json(item) == LadderResult.from_json(json.loads(json.dumps(ladder.to_json())))
        assert {key: item[key] for key in item if key != "deciding_check"} == json.loads(json.dumps(ladder.to_json()))
    assert report["summary"] == {"ship": 1, "no-ship": 1, "undecided": 1, "total": 3}
    # A failed check is false in a boolean context; the id must be there all the same.
    assert [item["deciding_check"] for item in report["ladders"]] == [None, "int.input", "board.health"]


def test_numbers_json_cannot_hold_are_kept_as_words() -> None:
    values = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "array": np.arange(3),
        "rung": Rung.INT,
        "n": np.int64(4),
        "flag": np.bool_(True),
    }
    check = CheckResult("int.fidelity", Status.UNPROVABLE, values=values)
    report = report_json([LadderResult("m", "1", "t", (RungResult(Rung.INT, (check,)),))], {"id": "r"})
    kept = json.loads(json.dumps(report, allow_nan=False))["ladders"][0]["checks"][0]["values"]
    assert kept == {"nan": "nan", "inf": "inf", "array": [0, 1, 2], "rung": "int", "n": 4, "flag": True}


def test_the_page_shows_everything_a_reader_needs() -> None:
    text = page(ship(), no_ship(), undecided()).text
    for ladder in (ship(), no_ship(), undecided()):
        assert ladder.why in text
        for check in ladder.checks:
            for part in (check.id, check.question, check.measured, check.expected, check.reason, check.cause, *check.next_steps):
                assert part in text
            for item in check.evidence:
                assert item.sha256[:12] in text
    for fact in ("nightly-2026-11-23", "2026-11-23 02:00:00 UTC", "67 min 02 s", "s3://qatladder/evidence", "0.1873", "block1/conv"):
        assert fact in text
    for fact in ("rdkx5-01", "temperature_c", "horizon_tc_ui", "3.49.15", "b2" * 32, "1x64x64x4", '{"cached": true}'):
        assert fact in text


def test_the_deciding_check_has_its_box() -> None:
    assert "First failing check: int.input failed" in page(no_ship()).text
    assert "Left open by: board.health broken" in page(undecided()).text
    assert "First failing check" not in page(ship()).text
    partial = replace(ship(), rungs_asked=(Rung.FLOAT,))
    assert "? Undecided" in page(partial).text


def test_what_is_worst_comes_first_and_is_open() -> None:
    found = page(ship(), undecided(), no_ship())
    anchors = [link for link in found.links() if link.startswith("#")]
    assert anchors == ["#ladder-2", "#ladder-1", "#ladder-0"]
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    assert {link[1:] for link in anchors} <= ids
    blocks = [attributes for tag, attributes in found.tags if tag == "details" and "ladder" in attributes["class"].split()]
    assert ["open" in attributes for attributes in blocks] == [True, True, False]


def test_the_page_asks_nobody_for_anything() -> None:
    found = page(ship(), no_ship())
    assert not {tag for tag, _ in found.tags} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    html = report_html(report_json([ship(), no_ship()], RUN))
    assert not re.search(r"@import|url\(", html)
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    assert all(attributes.get("rel") == "noopener noreferrer" for tag, attributes in found.tags if tag == "a" and "target" in attributes)


def test_status_is_never_told_by_colour_alone() -> None:
    text = page(ship(), no_ship(), undecided()).text
    for words in ("✔ passed", "✖ failed", "– skipped", "! broken", "✔ ship", "✖ no-ship", "? undecided"):
        assert words in text


def test_no_text_becomes_markup() -> None:
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    item = replace(evidence("x", "0", 1), name=evil, uri="javascript:alert(1)", sha256=evil)
    check = CheckResult("int.input", Status.FAILED, evil, evil, evil, evil, evil, (evil,), {evil: evil}, (item,))
    facts = {
        "metric": evil,
        "metrics": {evil: 0.5},
        "versions": {evil: evil},
        "identity": evil,
        "board": evil,
        "perf": {evil: evil},
        "health": {evil: evil},
        "compile": {**COMPILE, "layers": [{evil: evil}], "problems": [evil], "march": evil},
        evil: {evil: evil},
    }
    rungs = tuple(RungResult(rung, (check,) if rung is Rung.INT else (), {evil: item}, facts) for rung in Rung)
    ladder = LadderResult(evil, evil, evil, rungs, run_id=evil, march=evil, toolchain=evil, owner=evil, started=evil)
    found = page(ladder, id=evil, store=evil, started=evil, evil=evil)
    assert not [tag for tag, _ in found.tags if tag in ("script", "img")]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert not [link for link in found.links() if link.startswith("javascript")]
    assert "{{ 7*7 }}" in found.text
    assert "alert(1)>49" not in found.text


def test_evidence_of_the_store_is_linked_relative_to_the_page_and_nothing_else() -> None:
    check = CheckResult(
        "float.accuracy",
        Status.PASSED,
        evidence=(
            Evidence("a.json", "ab" * 32, 1, "file:///data/evidence/objects/ab/" + "ab" * 32 + ".json"),
            Evidence("b.json", "cd" * 32, 1, "s3://bucket/lab/objects/cd/" + "cd" * 32 + ".json"),
            Evidence("c.json", "ef" * 32, 1, "javascript:alert(1)"),
        ),
    )
    links = page(LadderResult("m", "1", "t", (RungResult(Rung.FLOAT, (check,)),))).links()
    assert f"../../objects/ab/{'ab' * 32}.json" in links
    assert f"../../objects/cd/{'cd' * 32}.json" in links
    assert not [link for link in links if link.startswith(("javascript", "s3", "file"))]


def test_what_is_missing_is_left_out() -> None:
    bare = LadderResult("m", "1", "t", tuple(RungResult(rung, ()) for rung in Rung))
    text = page(bare).text
    assert "Compiler estimate" not in text
    assert "at each rung" not in text
    assert "No check was answered." in text
    assert "No ladder was validated" in Page(report_html(report_json([], {}))).text
    partial = RungResult(Rung.HBM, (), facts={"compile": {"latency_ms": 1.5}, "metrics": None, "gate": None, "metric": "top1"})
    assert "1.5 ms" in page(LadderResult("m", "1", "t", (partial,))).text


def board_state(ladder: LadderResult) -> list[str]:
    return [
        attributes["title"] for tag, attributes in page(ladder).tags if tag == "span" and attributes.get("title", "").startswith("board:")
    ]


def test_a_skip_greys_a_passed_rung_only_when_it_was_required() -> None:
    good = ship()
    assert board_state(good) == ["board: passed"]
    board = good.rungs[-1]
    required = tuple(replace(check, required=True) for check in board.checks)
    assert board_state(replace(good, rungs=(*good.rungs[:-1], replace(board, checks=required)))) == ["board: skipped"]


# ---- the chart


def facts(value: float, gate: dict[str, Any] | None = None, reference: float | None = None) -> dict[str, Any]:
    return {"metric": "top1", "metrics": {"top1": value}, "gate": gate, "reference": {"rung": "float", "value": reference}}


@pytest.mark.parametrize(
    ("gate", "reference", "level"),
    [
        ({"min": 0.9}, None, 0.9),
        ({"max_drop": 0.01}, 0.98, 0.97),
        ({"min": 0.975, "max_drop": 0.01}, 0.98, 0.975),
        ({"min": 0.9, "max_drop": 0.01}, 0.98, 0.97),
        ({"max_drop": 0.01}, None, None),
        ({"min": None, "max_drop": None}, 0.98, None),
        (None, None, None),
    ],
)
def test_the_gate_is_the_stricter_bound(gate: dict[str, Any] | None, reference: float | None, level: float | None) -> None:
    found = gate_level(facts(0.5, gate, reference))
    assert found == (pytest.approx(level) if level is not None else None)


def test_higher_values_are_drawn_higher_and_inside() -> None:
    drawn = chart({"float": facts(0.98, {"min": 0.95}), "qat": facts(0.96), "int": facts(0.30, {"min": 0.95})}, {}, {"int": "failed"})
    assert drawn is not None
    by_rung = {column["rung"]: column for column in drawn["columns"]}
    assert by_rung["float"]["y"] < by_rung["qat"]["y"] < by_rung["int"]["y"]
    for column in drawn["columns"]:
        for y in (column["y"], column["gate_y"]):
            assert y is None or 0 < y < drawn["base"]
    assert by_rung["calib"]["note"] == "not run"
    assert [link["gap"] for link in drawn["links"]] == [True, False]  # calib lies between float and qat
    assert (by_rung["int"]["failed"], by_rung["int"]["value_above"], by_rung["float"]["failed"]) == (True, False, False)


@pytest.mark.parametrize("value", [0.0, 0.97, -3.0, 1e9, 1e-12])
def test_a_single_value_still_has_an_axis(value: float) -> None:
    drawn = chart({"float": facts(value)}, {}, {})
    assert drawn is not None
    ticks = drawn["ticks"]
    assert len(ticks) >= 2
    assert len({tick["text"] for tick in ticks}) == len(ticks)


@pytest.mark.parametrize("fact", [{}, {"metric": "top1"}, {"metric": "top1", "metrics": {"top1": "nan"}}, {"metrics": {"top1": 1.0}}])
def test_no_primary_metric_no_chart(fact: dict[str, Any]) -> None:
    assert chart({"float": fact}, {}, {}) is None


# ---- how values are shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (9999, "9999"),
        (14450688, "14,450,688"),
        (0.1 + 0.2, "0.3"),
        ([1, 3, 64, 64], "1x3x64x64"),
        (["a", "b"], "a, b"),
        ([], "–"),
        ({"a": [1.5]}, '{"a": [1.5]}'),
    ],
)
def test_values(value: Any, shown: str) -> None:
    assert show_value(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0851, "85 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (99.96, "1 min 40 s"),
        (245, "4 min 05 s"),
        (7380, "2 h 03 min"),
        (None, "–"),
    ],
)
def test_durations(seconds: Any, shown: str) -> None:
    assert show_duration(seconds) == shown


def test_moments_are_utc() -> None:
    assert show_moment("2026-11-23T04:00:05+02:00") == "2026-11-23 02:00:05 UTC"
    assert show_moment("2026-11-23T02:00:05") == "2026-11-23 02:00:05 UTC"
    assert show_moment("last night") == "last night"


def test_the_page_lists_who_answers_for_what_and_what_was_not_delivered() -> None:
    report = report_json((no_ship(),), RUN)
    by = {
        "model": "lane_net",
        "version": None,
        "target": None,
        "owner": "lanes",
        "reason": "<b>being retrained</b>",
        "expires": "2026-12-24",
    }
    row = {**by, "ladder": "lane_net 2026.11.2 @ x3", "check": "int.input", "issue": "https://example.com/12"}
    undelivered = {"id": "1", "title": "QATLadder no-ship", "to": "lanes", "address": "$LANES", "since": RUN["started"], "state": "lost"}
    report["alerts"] = {
        "acknowledged": [row],
        "expired": [{**row, "issue": None}],
        "stale": [{**by, "check": ["float.accuracy"]}],
        "problems": ["acknowledged.yaml: an entry is wrong"],
        "undelivered": [{**undelivered, "reason": "error=500"}],
    }
    found = Page(report_html(report))
    for part in (
        "lane_net 2026.11.2 @ x3int.input2026-12-24lanes<b>being retrained</b> issue",
        "expired: told again",
        "stale: matches nothing any more",
        "lost: QATLadder no-ship (to lanes, $LANES)2026-11-23 02:00:00 UTCerror=500",
        "acknowledged.yaml: an entry is wrong",
    ):
        assert part in found.text
    assert "https://example.com/12" in found.links()
    without = page(no_ship()).text
    assert "Acknowledged" not in without and "Alerts" not in without
