"""The notifier tells what the report calls for, says when nothing does, and never loses an alert in silence."""

from __future__ import annotations

import json

import pytest
from tests.unit.reports.ladders import no_ship, ship

from qatladder.airflow.notifier import LadderNotifier
from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.reports.report import report_json
from qatladder.settings import load_settings


def write_report(*ladders):
    report = report_json(ladders, {"run_id": "r", "started": "2026-11-23T02:00:00+00:00", "finished": "2026-11-23T02:10:00+00:00"})
    open_store(load_settings()).write_run_file("nightly_sweep@sweep-1", "report.json", json.dumps(report).encode())


def told(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def alerts(home, tmp_path, monkeypatch):
    path = tmp_path / "alerts.jsonl"
    monkeypatch.setenv("QATLADDER_ALERTS", path.as_uri())
    return path


def test_a_no_ship_is_told_with_model_and_check(context, alerts):
    write_report(ship(), no_ship())
    LadderNotifier()(context)
    (message,) = told(alerts)
    text = message["title"] + message["body"]
    assert no_ship().model in text
    assert no_ship().first_failed_check in text
    assert "nightly_sweep@sweep-1/report.html" in text.replace("%40", "@")


def test_nothing_is_told_when_everything_ships(context, alerts, log_lines):
    write_report(ship())
    LadderNotifier()(context)
    assert told(alerts) == []
    assert any("nothing to tell" in line for line in log_lines())


def test_a_run_without_a_report_is_told_too(context, alerts):
    LadderNotifier()({**context, "exception": RuntimeError("disk full")})
    (message,) = told(alerts)
    assert "without a report" in message["title"]
    assert "disk full" in message["body"]


def test_addresses_of_the_notifier_win(context, alerts, tmp_path):
    write_report(no_ship())
    other = tmp_path / "other.jsonl"
    LadderNotifier(urls=[other.as_uri()])(context)
    assert len(told(other)) == 1
    assert told(alerts) == []


def test_an_alert_that_cannot_be_delivered_is_an_error(context, alerts, tmp_path, monkeypatch):
    write_report(no_ship())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QATLADDER_ALERTS", (tmp_path / "file" / "below.jsonl").as_uri())
    with pytest.raises(BrokenError, match="not delivered"):
        LadderNotifier()(context)
