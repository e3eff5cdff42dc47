"""Promises of qatladder.alerts.routing: who, where, when; no secret in the file; a mistake names itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.alerts.nights import Lab

import qatladder.settings
from qatladder.alerts.findings import Kind
from qatladder.alerts.routing import Quiet, Recipient, load_routes, reference_of
from qatladder.errors import ConfigError
from qatladder.settings import load_settings


def recipients(lab: Lab, text: str = "") -> list[tuple[str, tuple[str, ...]]]:
    if text:
        lab.routing(text)
    return load_routes(load_settings()).recipients()


def test_without_a_file_everything_is_as_before(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert recipients(lab) == [("default", ("$QATLADDER_ALERTS",))]
    monkeypatch.delenv("QATLADDER_ALERTS")
    assert recipients(lab) == [("default", ((tmp_path / "home" / "alerts" / "alerts.jsonl").as_uri(),))]


def test_the_environment_wins_over_the_file(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "default: {addresses: [$LAB]}\nowners: {lanes: {addresses: [$LANES, 'airflow:mail']}, signs: {minimum: error}}\n"
    assert recipients(lab, text) == [("default", ("$QATLADDER_ALERTS",)), ("lanes", ("$LANES", "airflow:mail"))]
    monkeypatch.delenv("QATLADDER_ALERTS")
    assert recipients(lab)[0] == ("default", ("$LAB",))


def test_a_variable_may_hold_several_addresses(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_ALERTS", " json://a/x , json://b,")
    assert load_routes(load_settings()).urls("$QATLADDER_ALERTS") == ["json://a/x", "json://b"]


def test_airflow_connections_are_looked_up_where_airflow_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qatladder.settings, "alert_connections", lambda name: [f"json://{name}"])
    assert load_routes(load_settings()).urls("airflow:mail") == ["json://mail"]


@pytest.mark.parametrize(
    "address",
    ["slack://hunter2/hunter2/hunter2", "mailto://me:hunter2@host", "mailto://host?pass=hunter2", "hunter2", "$", "json://host/hunter2"],
)
def test_an_address_that_may_hold_a_secret_is_refused_and_not_repeated(lab: Lab, address: str) -> None:
    lab.routing(f"owners: {{lanes: {{addresses: ['{address}']}}}}")
    problem = load_routes(load_settings()).problem
    assert problem is not None
    assert "owners.lanes.addresses.0" in str(problem)
    assert "$NAME" in str(problem)
    assert "hunter2" not in str(problem)
    assert reference_of(address).startswith("given:")


@pytest.mark.parametrize("address", ["$LAB_CHAT", "airflow:lab.mail", "file:///tmp/a.jsonl", "mailto://127.0.0.1:25?from=a@b.c&to=d@e.f"])
def test_addresses_without_a_secret_may_be_written_down(lab: Lab, address: str) -> None:
    lab.routing(f"owners: {{lanes: {{addresses: ['{address}']}}}}")
    assert load_routes(load_settings()).problem is None
    assert reference_of(address) == address


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("owners: [", "cannot be read"),
        ("default: {adresses: [$A]}", "default.adresses"),
        ("default: {zone: Mars/Olympus}", "there is no time zone 'Mars/Olympus'"),
        ("default: {minimum: panic}", "default.minimum"),
        ('default: {quiet: [{from: "22:00"}]}', "from and to go together"),
        ('default: {quiet: [{from: "25:00", to: "07:00"}]}', "default.quiet.0.from"),
        ("default: {quiet: [{}]}", "no hour of the week"),
        ("default: {urgent: [everything]}", "default.urgent.0"),
        ("reminder_days: 0", "reminder_days"),
        ("owners: {default: {addresses: [$A]}}", "no owner can be named default"),
        ("- a list", "(file)"),
    ],
)
def test_a_mistake_names_itself_and_the_default_still_gets_everything(lab: Lab, text: str, named: str) -> None:
    assert recipients(lab, text) == [("default", ("$QATLADDER_ALERTS",))]
    problem = load_routes(load_settings()).problem
    assert isinstance(problem, ConfigError)
    assert named in str(problem)
    assert "alerts.yaml" in str(problem) and "next: correct it" in str(problem)


NIGHTS = Recipient(
    zone="Europe/Berlin",
    quiet=(Quiet(days=("mon", "tue", "wed", "thu", "fri"), **{"from": "19:00", "to": "08:00"}), Quiet(days=("sat", "sun"))),
    urgent=(Kind.RUN,),
)


@pytest.mark.parametrize(
    ("local", "until"),
    [
        ("2026-11-23T18:59", None),  # Monday
        ("2026-11-23T19:00", "2026-11-24T08:00+01:00"),
        ("2026-11-24T07:59", "2026-11-24T08:00+01:00"),
        ("2026-11-24T08:00", None),
        ("2026-11-27T23:00", "2026-11-30T00:00+01:00"),  # Friday's night, then the weekend
        ("2026-11-23T03:00", None),  # Monday's small hours are Sunday's night, which nobody named
        ("2026-10-24T12:00", "2026-10-26T00:00+01:00"),  # over the end of summer time
        ("2026-07-01T20:00", "2026-07-02T08:00+02:00"),
    ],
)
def test_quiet_hours_are_the_wall_clocks_of_their_zone(local: str, until: str | None) -> None:
    from zoneinfo import ZoneInfo

    now = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    found = NIGHTS.quiet_until(now, "no-ship")
    assert (found.isoformat(timespec="minutes") if found else None) == until
    assert NIGHTS.quiet_until(now, "broken run") is None


def test_the_minimum_is_a_level() -> None:
    assert [kind for kind in Kind if Recipient(minimum="error").wants(kind)] == [Kind.RUN, Kind.NO_SHIP, Kind.REGRESSION]
    assert [kind for kind in Kind if not Recipient(minimum="warning").wants(kind)] == [Kind.RECOVERY, Kind.PROGRESSION]


def test_the_sample_files_are_right() -> None:
    from dataclasses import replace
    from datetime import date

    from qatladder.alerts.acknowledged import Acknowledged, load_acknowledged

    zoo = Path(__file__).resolve().parents[3] / "include" / "zoo"
    assert load_routes(replace(load_settings(), zoo=zoo)).problem is None
    assert load_acknowledged(zoo / "acknowledged.yaml", date.today()) == Acknowledged()
    example = (zoo / "alerts.yaml").read_text().split("#\n", 1)[1].replace("# ", "").replace("#", "")
    (Path(load_settings().zoo)).mkdir(exist_ok=True)
    load_settings().alert_routing.write_text(example)
    routes = load_routes(load_settings())
    assert routes.problem is None, "the commented example works as it is"
    assert [name for name, _ in routes.recipients()] == ["default", "perception"]
