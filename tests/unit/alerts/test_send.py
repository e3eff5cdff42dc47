"""Promises of qatladder.reports.alerts: who must know is told once, by real deliveries, and a failed delivery is an answer."""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qatladder.reports.alerts import MAX_LADDERS, MAX_LENGTH, Message, alert_message, append_alert, send
from tests.unit.reports.ladders import RUN, no_ship, ship, undecided

from qatladder.ladder import LadderResult
from qatladder.reports.report import report_json

MESSAGE = Message("QATLadder n1: 1 no-ship", "lane_net <image> & *more*\n- measured: 1 < 2")


class Receiver:
    """A real HTTP server on the loopback that keeps what it is sent."""

    def __init__(self, status: int) -> None:
        received = self.received = []  # type: list[dict[str, str]]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def accepting() -> Iterator[Receiver]:
    receiver = Receiver(200)
    yield receiver
    receiver.close()


@pytest.fixture
def refusing() -> Iterator[Receiver]:
    receiver = Receiver(500)
    yield receiver
    receiver.close()


def alert(*ladders: LadderResult) -> Message | None:
    return alert_message(report_json(ladders, RUN), "s3://qatladder/runs/n1/report.html")


def test_a_run_that_ships_alerts_nobody() -> None:
    assert alert(ship(), ship()) is None
    assert alert() is None


def test_the_message_says_what_failed_and_what_to_do() -> None:
    message = alert(ship(), undecided(), no_ship())
    assert message is not None
    assert message.title == "QATLadder nightly-2026-11-23: 1 no-ship, 1 undecided, 1 ship"
    check = no_ship().deciding_check
    assert check is not None
    for part in (
        "lane_net 2026.11.2 on x3: no-ship (owner lanes)",
        "first failing check: int.input failed",
        f"measured: {check.measured}",
        f"expected: {check.expected}",
        f"probable cause: {check.cause}",
        f"next step: {check.next_steps[0]}",
        check.evidence[0].uri,
        "left open by: board.health broken",
        "Report: s3://qatladder/runs/n1/report.html",
    ):
        assert part in message.body
    assert check.next_steps[1] not in message.body  # one next step: compact
    assert message.body.index("lane_net") < message.body.index("digits_cnn 2")  # no-ship before undecided
    assert "digits_cnn 3" not in message.body


def test_many_ladders_stay_one_compact_message() -> None:
    message = alert(*[no_ship()] * (MAX_LADDERS + 3))
    assert message is not None
    assert message.body.count("first failing check") == MAX_LADDERS
    assert "... and 3 more" in message.body
    assert max(len(line) for line in message.body.splitlines()) <= MAX_LENGTH + 20


def test_a_real_receiver_gets_the_text_as_it_is(accepting: Receiver) -> None:
    (delivery,) = send(MESSAGE, [f"json://127.0.0.1:{accepting.port}/hook-token-1"])
    assert delivery.ok
    assert delivery.reason == ""
    (got,) = accepting.received
    assert (got["title"], got["message"]) == (MESSAGE.title, MESSAGE.body)


def test_failures_are_reported_per_address_and_stop_nothing(accepting: Receiver, refusing: Receiver, tmp_path: Path) -> None:
    urls = [
        f"json://127.0.0.1:{refusing.port}/hook",
        "json://127.0.0.1:1/nobody-listens",
        "nonsense://token",
        "no url at all",
        f"json://127.0.0.1:{accepting.port}/hook",
        (tmp_path / "alerts.jsonl").as_uri(),
    ]
    deliveries = send(MESSAGE, urls)
    assert [delivery.ok for delivery in deliveries] == [False, False, False, False, True, True]
    assert all(bool(delivery.reason) != delivery.ok for delivery in deliveries)
    assert "500" in deliveries[0].reason
    assert len(refusing.received) == 1
    assert len(accepting.received) == 1


def test_an_optional_address_that_fails_is_still_a_failure(refusing: Receiver) -> None:
    """apprise calls the overall result a success for `?optional=yes`."""
    (delivery,) = send(MESSAGE, [f"json://127.0.0.1:{refusing.port}/hook?optional=yes"])
    assert not delivery.ok


@pytest.mark.parametrize(
    "url",
    [
        "json://user:hunter2secret@127.0.0.1:1/hunter2secret?+X-Token=hunter2secret",
        "nonsense://hunter2secret/x",
        "slack://hunter2secret",
        "hunter2secret",
    ],
)
def test_no_secret_of_an_address_is_shown(url: str) -> None:
    (delivery,) = send(MESSAGE, [url])
    assert not delivery.ok
    assert "hunter2secret" not in delivery.url + delivery.reason


def test_without_addresses_the_alert_goes_to_the_data_folder(tmp_path: Path) -> None:
    for _ in range(2):
        (delivery,) = send(MESSAGE, [], home=tmp_path)
        assert delivery.ok
    lines = (tmp_path / "alerts" / "alerts.jsonl").read_text().splitlines()
    assert [(json.loads(line)["title"], json.loads(line)["body"]) for line in lines] == [(MESSAGE.title, MESSAGE.body)] * 2
    assert (tmp_path / "alerts" / "alerts.txt").read_text().count(MESSAGE.body) == 2


def test_the_default_folder_is_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    assert send(MESSAGE)[0].ok
    assert (tmp_path / "home" / "alerts" / "alerts.jsonl").is_file()


def test_odd_paths_reach_the_file_they_name(tmp_path: Path) -> None:
    path = tmp_path / "Ünï Code" / "A+b%20c.jsonl"
    (delivery,) = send(MESSAGE, [path.as_uri()])
    assert delivery.ok, delivery.reason
    assert json.loads(path.read_text())["title"] == MESSAGE.title


@pytest.mark.parametrize("make", ["file://host/x.jsonl", "{tmp}/folder/", "{tmp}/alerts.txt", "{tmp}/file/below.jsonl"])
def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path, make: str) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    (delivery,) = send(MESSAGE, [make.replace("{tmp}", tmp_path.as_uri())])
    assert not delivery.ok
    assert delivery.reason


def _append_many(path: str, worker: int, together: Any) -> None:
    whole = os.write
    os.write = lambda descriptor, data: whole(descriptor, data[:700])  # a kernel may write less than it was given
    together.wait(60)
    for index in range(40):
        append_alert(Path(path), Message(f"{worker}-{index}", "x" * 5000))


def test_writers_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    workers = [context.Process(target=_append_many, args=(str(path), worker, together)) for worker in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(60)
    titles = [json.loads(line)["title"] for line in path.read_text().splitlines()]
    assert sorted(titles) == sorted(f"{worker}-{index}" for worker in range(3) for index in range(40))


def test_reports_import_without_apprise() -> None:
    code = "import sys, qatladder.reports.alerts, qatladder.reports.text; print('apprise' in sys.modules, 'jinja2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "include"})
    assert result.stdout.split() == ["False", "False"]
