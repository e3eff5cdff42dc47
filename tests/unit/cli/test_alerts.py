"""Promises: `qatladder alerts` shows what is open and what waits, answers for a finding in one command, and never prints a secret."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.alerts.nights import ladder, report
from tests.unit.alerts.receivers import Receiver

from qatladder import cli
from qatladder.alerts.acknowledged import load_acknowledged
from qatladder.evidence import open_store
from qatladder.settings import load_settings

IN_A_MONTH = datetime.now(UTC).date() + timedelta(days=30)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("QATLADDER_ALERTS", (tmp_path / "told.jsonl").as_uri())
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    (tmp_path / "zoo").mkdir()
    write_run("n1", ladder(fails=["int.accuracy", "board.accuracy"]), ladder("other"))
    return tmp_path / "zoo"


def write_run(run: str, *ladders: dict[str, Any]) -> None:
    store = open_store(load_settings())
    store.write_run_file(run, "report.json", json.dumps(report(*ladders, run=run)).encode())
    store.write_run_file(run, "manifest.json", json.dumps({"finished": f"2026-11-23T0{run[1:]}:00:00+00:00"}).encode())


def told(zoo: Path) -> list[dict[str, str]]:
    path = zoo.parent / "told.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def qatladder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qatladder", "alerts", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        return code, *capsys.readouterr()

    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    return run


ACKNOWLEDGE = ("acknowledge", "lane_net", "--owner", "lanes", "--reason", "the head is being retrained", "--expires")


def test_acknowledging_takes_the_checks_the_last_run_found(zoo: Path, qatladder: Any) -> None:
    code, out, _ = qatladder(*ACKNOWLEDGE, "30d", "--target", "bayes-e")
    assert code == 0
    assert f"lane_net @ bayes-e: int.accuracy, board.accuracy: acknowledged until {IN_A_MONTH}" in out
    (entry,) = load_acknowledged(zoo / "acknowledged.yaml", datetime.now(UTC).date()).active
    assert entry.check == ("int.accuracy", "board.accuracy")
    assert qatladder("send", "n1") == (0, "nothing to tell\n", "")
    assert told(zoo) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*ACKNOWLEDGE, "soon"), "not a day"),
        ((*ACKNOWLEDGE, "400d"), "must expire soon"),
        ((*ACKNOWLEDGE, "30d", "--check", "int.acuracy"), "there is no check int.acuracy"),
        ((*ACKNOWLEDGE, "30d", "--issue", "#12"), "issue"),
        (("acknowledge", "other", "--owner", "o", "--reason", "it is being looked at", "--expires", "3d"), "nothing of this model"),
        (("acknowledge", "lane_net", "--owner", "o", "--expires", "3d"), "--reason"),
    ],
)
def test_a_wrong_acknowledgement_is_refused_and_writes_nothing(zoo: Path, qatladder: Any, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = qatladder(*arguments)
    assert code == 3
    assert said in err
    assert "Traceback" not in err
    assert not (zoo / "acknowledged.yaml").exists()


def test_sending_a_run_tells_it_once_and_a_dry_run_tells_nobody(zoo: Path, qatladder: Any) -> None:
    code, out, _ = qatladder("send", "n1", "--dry-run")
    assert code == 0
    assert "QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e" in out and "first failing check: int.accuracy failed" in out
    assert told(zoo) == []
    for _ in range(2):
        assert qatladder("send", "n1")[0] == 0
    assert [message["title"] for message in told(zoo)] == ["QATLadder no-ship: int.accuracy, lane_net 1 @ bayes-e"]
    assert qatladder("send", "n9")[0] == 3


def test_what_could_not_be_sent_is_listed_and_retried(zoo: Path, qatladder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_ALERTS", "json://user:hunter2secret@127.0.0.1:1/hunter2secret")
    code, out, _ = qatladder("send", "n1")
    assert code == 2
    assert "waiting json://user:****@127.0.0.1:1/****" in out
    code, listed, _ = qatladder("list")
    assert code == 0
    assert "waiting " in listed and "$QATLADDER_ALERTS" in listed
    assert qatladder("retry")[0] == 2
    receiver = Receiver()
    monkeypatch.setenv("QATLADDER_ALERTS", receiver.url)
    code, retried, _ = qatladder("retry")
    receiver.close()
    assert (code, len(receiver.received)) == (0, 1)
    assert qatladder("retry") == (0, "nothing waits\n", "")
    assert "hunter2secret" not in out + listed + retried


def test_the_list_shows_findings_acknowledgements_and_addresses(zoo: Path, qatladder: Any) -> None:
    qatladder("send", "n1")
    qatladder(*ACKNOWLEDGE, "30d", "--check", "int.accuracy")
    (zoo / "other.yaml").write_text("model: other\n")
    qatladder(
        "acknowledge", "other", "--check", "int.input", "--owner", "lanes", "--reason", "it was so once upon a time", "--expires", "9d"
    )
    code, out, err = qatladder("list")
    assert (code, err) == (0, "")
    for part in (
        "no-ship     lane_net 1 @ bayes-e",
        f"acknowledged lane_net: int.accuracy, until {IN_A_MONTH}, lanes: the head is being retrained",
        "STALE        other: int.input",
        "addresses    default: $QATLADDER_ALERTS",
    ):
        assert part in out
    data = json.loads(qatladder("list", "--json")[1])
    assert [entry["model"] for entry in data["stale"]] == ["other"]
    assert list(data["open"][0]["open"]) == ["int.accuracy", "board.accuracy"]


def test_the_list_names_mistakes_and_exits_3(zoo: Path, qatladder: Any) -> None:
    (zoo / "acknowledged.yaml").write_text("acknowledged: [{model: a}]")
    (zoo / "alerts.yaml").write_text("nonsense: 1")
    code, _, err = qatladder("list")
    assert code == 3
    assert "the routing of alerts is wrong" in err and "an acknowledgement is wrong: check" in err


def test_a_test_message_goes_to_every_address_and_says_which_took_it(zoo: Path, qatladder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    monkeypatch.setenv("LANES", receiver.url)
    (zoo / "alerts.yaml").write_text(
        'owners: {lanes: {addresses: [$LANES], quiet: [{from: "00:00", to: "23:59"}]}, signs: {addresses: [$NOT_SET]}}'
    )
    code, out, _ = qatladder("test")
    assert code == 2
    assert "lanes: json://127.0.0.1" in out and ": accepted" in out
    assert "signs: $NOT_SET: the variable with the address is not set" in out
    assert [message["title"] for message in [*told(zoo), *receiver.received]] == ["QATLadder: a test"] * 2
    assert qatladder("test", "--owner", "lanes")[0] == 0
    receiver.close()
    assert "hook-token-1" not in out
    assert qatladder("test", "--owner", "nobody")[0] == 3
