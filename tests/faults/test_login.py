"""Who is let in, who is believed to be the board, and what of it all may be read in a log. No test here needs the simulator."""

from __future__ import annotations

import functools
import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest

from qatladder.airflow import ssh
from qatladder.boards.device import Board
from qatladder.boards.session import BoardSession, connect
from qatladder.errors import BrokenError

from .lab import LabBoard, laboratory

PASSWORD = secrets.token_urlsafe(16)


@pytest.fixture
def board(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabBoard]:
    """A board that also takes a password; nobody's own SSH files are near."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "home").mkdir()
    monkeypatch.setenv("HOME", str(folder / "home"))
    with laboratory(folder, password=PASSWORD) as (board,):
        yield board


def refused(session: BoardSession) -> BrokenError:
    with pytest.raises(BrokenError) as caught, session:
        session.run(["touch", "/mnt/in"])
    assert caught.value.where["board"] == session.name
    return caught.value


def fleet_session(board: LabBoard) -> BoardSession:
    return BoardSession(functools.partial(connect, board.spec), board.spec.name)


def airflow_session(
    board: LabBoard, monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD, host_key: str | None = None
) -> BoardSession:
    """Through Airflow's SSH hook and a connection with a password."""
    pinned = " ".join(board.known_hosts.read_text().split()[1:3])
    connection = {
        "conn_type": "ssh",
        "host": board.spec.host,
        "login": board.spec.user,
        "password": password,
        "extra": {"host_key": host_key or pinned, "look_for_keys": "false"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps(connection))
    return BoardSession(functools.partial(ssh.connect, board.spec.model_copy(update={"conn_id": "lab"})), board.spec.name)


def assert_fine(board: LabBoard) -> None:
    """Nobody who was refused did anything, and whom the board knows is let in."""
    assert not (board.folder / "in").exists()
    with fleet_session(board) as session:
        assert session.run(["echo", "welcome"]).stdout == "welcome\n"
    board.assert_clean()


def test_an_unknown_host_key(board: LabBoard) -> None:
    known = board.known_hosts.read_text()
    board.known_hosts.write_text("")
    error = refused(fleet_session(board))
    assert error.kind == "host_key"
    assert "ssh-keyscan" in error.next_step and board.spec.host in error.next_step
    board.known_hosts.write_text(known)
    assert_fine(board)


def test_a_host_key_that_changed_between_two_commands(board: LabBoard) -> None:
    with fleet_session(board) as session:
        session.run(["true"])
        board.kill_sshd()
        board.new_host_key(known=False)
        board.start_sshd()
        error = refused(session)
        if error.kind == "connection_lost":  # of the old server; the next command meets the new one
            error = refused(session)
    assert error.kind == "host_key"
    assert "ssh-keygen" in error.next_step
    board.new_host_key()
    board.kill_sshd()
    board.start_sshd()
    assert_fine(board)


def test_a_wrong_key(board: LabBoard) -> None:
    key = board.keys / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    spec = board.spec.model_copy(update={"key_file": key})
    error = refused(BoardSession(functools.partial(connect, spec), spec.name))
    assert error.kind == "auth"
    assert str(key) in str(error)
    assert_fine(board)


def test_a_password_through_airflow(board: LabBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    with airflow_session(board, monkeypatch) as session:
        assert session.run(["echo", "welcome"]).stdout == "welcome\n"
    wrong = refused(airflow_session(board, monkeypatch, password=f"not-{PASSWORD}"))
    assert wrong.kind == "auth"
    assert PASSWORD not in str(wrong)
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    assert refused(airflow_session(board, monkeypatch, host_key=other)).kind == "host_key"
    assert_fine(board)


def test_no_client_of_ours_takes_unknown_hosts(project: Path) -> None:
    """Nor may anything in the sources make one that does."""
    sources = [path for folder in ("include", "dags", "plugins", "scripts") for path in (project / folder).rglob("*.py")]
    assert sources
    for path in sources:
        text = path.read_text()
        assert "AutoAddPolicy" not in text and "WarningPolicy" not in text, path
        assert "StrictHostKeyChecking=no" not in text, path


@pytest.mark.vendor
def test_no_password_and_no_private_key_in_any_log(
    board: LabBoard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Everything logs as much as it can; then every log on both sides, every error and every command line is read."""
    caplog.set_level(logging.DEBUG)
    paramiko.util.log_to_file(str(tmp_path / "paramiko.log"), logging.DEBUG)
    said: list[str] = []
    key = board.spec.key_file
    assert key
    try:
        for session in (airflow_session(board, monkeypatch), fleet_session(board)):
            with Board(board.spec, session, log=said.append) as device:
                said.append(str(device.health()))
                # What a command of the board sees of us: its environment, and every command line on the board.
                said.append(device.session.run(["sh", "-c", "env; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).console)
        said += [str(refused(airflow_session(board, monkeypatch, password=f"{PASSWORD}-{n}"))) for n in range(2)]
        for error_session in (airflow_session(board, monkeypatch), fleet_session(board)):
            with error_session:
                error_session.run(["true"])
                board.kill_sshd()
                said.append(repr(refused(error_session)))
                board.start_sshd()
    finally:
        for handler in list(logging.getLogger("paramiko").handlers):
            if isinstance(handler, logging.StreamHandler):
                logging.getLogger("paramiko").removeHandler(handler)
                handler.close()
    captured = capfd.readouterr()
    texts = {"log": caplog.text, "stdout": captured.out, "stderr": captured.err, "said": "\n".join(said)}
    kept = {board.folder / "etc" / name for name in ("shadow", "host_key")}
    for path in (tmp_path / "paramiko.log", *board.folder.rglob("*")):
        if path.is_file() and path not in kept:
            texts[str(path)] = path.read_text(errors="replace")
    assert "Authentication (password) successful" in texts["log"] + texts[str(tmp_path / "paramiko.log")], (
        "the logs are not those of this login"
    )
    assert "Accepted password for" in texts[str(board.folder / "sshd.log")]
    lines = [line for line in key.read_text().splitlines() if not line.startswith("-----")]
    for where, text in texts.items():
        assert PASSWORD not in text, where
        assert not [line for line in lines if line in text], where
        assert "PRIVATE KEY" not in text, where
