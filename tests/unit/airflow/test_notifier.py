"""Promises: the notifiers tell what the report calls for, say when nothing does, link to Airflow, and never lose an alert in silence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.unit.reports.ladders import no_ship, ship

from qatladder.airflow.apprise import alert_connection
from qatladder.airflow.notifier import AirflowLinks, LadderNotifier, OutboxNotifier
from qatladder.alerts.findings import Finding, Kind, Ladder
from qatladder.alerts.memory import write_json
from qatladder.alerts.outbox import items
from qatladder.errors import BrokenError, ConfigError
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


def test_a_delivery_that_failed_is_made_good_by_the_outbox(context, alerts, tmp_path, monkeypatch):
    write_report(no_ship())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QATLADDER_ALERTS", (tmp_path / "file" / "below.jsonl").as_uri())
    with pytest.raises(BrokenError, match="deliver_alerts goes on trying"):
        LadderNotifier()(context)
    monkeypatch.setenv("QATLADDER_ALERTS", alerts.as_uri())
    OutboxNotifier()(context)
    assert told(alerts) == [], "its next try is not due"
    make_due()
    OutboxNotifier()(context)
    assert len(told(alerts)) == 1
    LadderNotifier()(context)
    OutboxNotifier()(context)
    assert len(told(alerts)) == 1


def test_a_message_that_is_given_up_turns_the_task_red_with_the_reason_and_without_secrets(context, alerts, monkeypatch, log_lines):
    write_report(no_ship())
    monkeypatch.setenv("QATLADDER_ALERTS", "json://user:hunter2secret@127.0.0.1:1/hunter2secret")
    with pytest.raises(BrokenError) as first:
        LadderNotifier()(context)
    make_due(tries=99)
    with pytest.raises(BrokenError, match="given up") as last:
        OutboxNotifier()(context)
    assert "json://user:****@127.0.0.1:1/****" in str(last.value)
    assert "Connection error" in str(last.value)
    assert "hunter2secret" not in str(first.value) + str(last.value) + "".join(log_lines())
    OutboxNotifier()(context)  # red once; it is in the report and in `qatladder alerts list` from now on


def test_a_mistake_in_the_acknowledgements_is_an_error_after_everybody_was_told(context, alerts, tmp_path, monkeypatch):
    write_report(no_ship())
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "acknowledged.yaml").write_text("acknowledged: nonsense")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
    with pytest.raises(ConfigError, match="something else than acknowledgements"):
        LadderNotifier()(context)
    (message,) = told(alerts)
    assert no_ship().first_failed_check in message["title"]
    assert "PROBLEM" in message["body"]


def test_links_lead_to_the_log_the_report_and_the_evidence_in_airflow(context, alerts, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://lab.example:8080/")
    bad = no_ship()
    ladder = {"model": bad.model, "version": bad.version, "target": bad.target}
    context["ti"].xcom_pull = lambda task_ids: {"no_board": [], "b.2": [{**ladder, "model": "another"}, ladder]}
    write_report(bad)
    LadderNotifier()(context)
    (message,) = told(alerts)
    base = "http://lab.example:8080"
    assert f"log: {base}/dags/nightly_sweep/runs/sweep-1/tasks/on_b_2.int/mapped/1" in message["body"].splitlines()
    assert f"report: {base}/qatladder/report/nightly_sweep/sweep-1" in message["body"].splitlines()


def test_links_of_a_board_check_and_of_odd_names():
    links = AirflowLinks(
        "http://a:1",
        "d",
        "manual__2026-11-23T01:00:00+00:00",
        {"no_board": [{"model": "m", "version": "1", "target": "t"}]},
        "s3://b/r.html",
    )
    finding = Finding(Kind.NO_SHIP, Ladder("m", "1", "t"), "", "board.perf")
    run = "manual__2026-11-23T01%3A00%3A00%2B00%3A00"
    assert links.log(finding) == f"http://a:1/dags/d/runs/{run}/tasks/no_board.board/mapped/0"
    assert links.log(replace(finding, check="missing")) == f"http://a:1/dags/d/runs/{run}/tasks/no_board.verdict/mapped/0"
    assert links.log(replace(finding, ladder=Ladder("other", "1", "t"))) == ""
    assert links.report() == (f"http://a:1/qatladder/report/d/{run}", "s3://b/r.html")
    assert links.evidence("s3://b/objects/ab/abc.npz") == "http://a:1/qatladder/objects/ab/abc.npz"
    assert links.evidence("https://elsewhere/x") == "https://elsewhere/x"


@pytest.mark.parametrize(
    ("extra", "urls"),
    [
        ('{"config": [{"path": "json://a/x", "tag": "t"}, {"path": "json://b"}]}', ["json://a/x", "json://b"]),
        ('{"config": {"path": "json://a"}}', ["json://a"]),
        ('{"config": "[{\\"path\\": \\"json://a\\"}]"}', ["json://a"]),
        ('{"config": []}', None),
        ('{"config": 3}', None),
        ("{}", None),
    ],
)
def test_addresses_come_from_airflow_connections(monkeypatch, extra, urls):
    connection = json.dumps({"conn_type": "apprise", "extra": json.loads(extra)})
    monkeypatch.setenv("AIRFLOW_CONN_LAB_MAIL", connection)
    if urls is None:
        with pytest.raises(ConfigError, match="holds no address"):
            alert_connection("lab_mail")
    else:
        assert alert_connection("lab_mail") == urls


def test_a_connection_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no such connection"):
        alert_connection("nobody_defined_this")


def test_an_alert_goes_through_an_airflow_connection(context, alerts, tmp_path, monkeypatch):
    write_report(no_ship())
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "alerts.yaml").write_text("owners: {lanes: {addresses: ['airflow:lab_mail']}}")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
    mine = tmp_path / "mine.jsonl"
    monkeypatch.setenv("AIRFLOW_CONN_LAB_MAIL", json.dumps({"conn_type": "apprise", "extra": {"config": [{"path": mine.as_uri()}]}}))
    LadderNotifier()(context)
    assert len(told(alerts)) == len(told(mine)) == 1


def make_due(**fields):
    """Time passes: what waits in the outbox is due."""
    store = open_store(load_settings())
    for item in list(items(store)):
        write_json(store, f"alerts/outbox/{item.id}.json", {**item.model_dump(), "next": "", **fields})
