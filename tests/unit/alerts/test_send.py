"""Promises of qatladder.alerts.send: real deliveries, no secret shown, and a failed delivery is an answer."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.alerts.receivers import Mailbox, Receiver

from qatladder.alerts.send import Message, append_alert, send

MESSAGE = Message("QATLadder n1: 1 no-ship", "lane_net <image> & *more*\n- measured: 1 < 2")


def test_a_real_receiver_gets_the_text_as_it_is(accepting: Receiver) -> None:
    (delivery,) = send(MESSAGE, [f"json://127.0.0.1:{accepting.port}/hook-token-1"])
    assert delivery.ok
    assert delivery.reason == ""
    (got,) = accepting.received
    assert (got["title"], got["message"]) == (MESSAGE.title, MESSAGE.body)


def test_a_real_mail_server_gets_subject_addresses_and_text(mailbox: Mailbox) -> None:
    (delivery,) = send(MESSAGE, [mailbox.url])
    assert delivery.ok, delivery.reason
    (mail,) = mailbox.messages
    assert mailbox.envelopes == [("qatladder@lab.example", ["lanes@lab.example"])]
    assert mail["Subject"] == MESSAGE.title
    assert "lanes@lab.example" in mail["To"]
    text = mail.get_body(("plain", "html"))
    assert text is not None
    assert "measured: 1" in text.get_content()
    assert "<image>" not in text.get_content() or text.get_content_type() == "text/plain", "markup of a model's name must not act"


def test_a_mail_server_that_refuses_is_a_failure() -> None:
    box = Mailbox(refuse=1)
    try:
        (first,), (second,) = send(MESSAGE, [box.url]), send(MESSAGE, [box.url])
    finally:
        box.close()
    assert (first.ok, second.ok) == (False, True)
    assert len(box.messages) == 1


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
    assert refusing.refused == [500]
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
def test_no_secret_of_an_address_is_shown_or_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    (delivery,) = send(MESSAGE, [url])
    assert not delivery.ok
    assert "hunter2secret" not in caplog.text
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


def test_alerts_import_without_apprise() -> None:
    code = "import sys, qatladder.alerts.tell, qatladder.alerts.outbox; print('apprise' in sys.modules, 'jinja2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "include"})
    assert result.stdout.split() == ["False", "False"]
