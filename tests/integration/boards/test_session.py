"""One SSH connection against a real server: commands, and every way it can fail."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest

from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect
from qatladder.boards.virtual import control
from qatladder.errors import BrokenError, ConfigError

from .conftest import X5, Bench  # type: ignore[import-not-found]


@pytest.fixture
def session(bare_bench: Bench) -> Iterator[BoardSession]:
    bare_bench.start(X5)
    with BoardSession(functools.partial(connect, X5), X5.name) as session:
        yield session


@pytest.fixture
def tools(bare_bench: Bench) -> Iterator[Path]:
    """A folder on the board's PATH to put broken tools in; they are gone after the test."""
    folder = bare_bench.root(X5) / "usr" / "bin"
    before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    yield folder
    for path in folder.iterdir():
        if path.name not in before | {"hrt_model_exec", "sh"}:
            path.unlink()


def put_tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# --- commands ---


def test_a_command_gives_its_code_and_both_streams(session: BoardSession) -> None:
    done = session.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.exit_code, done.stdout, done.stderr, bool(done)) == (3, "out\n", "err\n", False)
    assert 0 < done.seconds < 5


@pytest.mark.parametrize("argument", ["a; rm -rf x", "$(touch x)", "`touch x`", "a'b\"c", "*", "a\nb", "", "-n", "ü&|>"])
def test_arguments_are_never_seen_by_a_shell(session: BoardSession, argument: str) -> None:
    assert session.run(["printf", "%s", argument]).stdout == argument


def test_long_output_arrives_whole_and_in_lines(session: BoardSession) -> None:
    lines: list[str] = []
    done = session.run(["sh", "-c", "seq 200000; seq 100000 >&2"], on_line=lines.append)
    assert lines == [str(number) for number in range(1, 200001)]
    assert done.stdout == "\n".join(lines) + "\n"
    assert done.stderr.count("\n") == 100000


def test_a_missing_working_directory_runs_nothing(session: BoardSession) -> None:
    assert session.run(["echo", "ran"], cwd="/userdata/nowhere").stdout == ""


def test_a_timeout_kills_the_remote_command(session: BoardSession, bare_bench: Bench) -> None:
    started = time.monotonic()
    with pytest.raises(BrokenError) as caught:
        session.run(["sh", "-c", "echo begun; echo $$ > pid; sleep 300; echo ended"], timeout=1.0, cwd="/userdata")
    assert caught.value.kind == "timeout"
    assert caught.value.where["board"] == X5.name
    assert "begun" in caught.value.console
    assert time.monotonic() - started < 5
    pid = int((bare_bench.root(X5) / "userdata" / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists(), "the command outlived its channel"
    assert session.run(["echo", "next"]).stdout == "next\n"


def test_a_server_that_dies_is_a_lost_connection_and_comes_back(session: BoardSession, bare_bench: Bench) -> None:
    pid = control.running(X5, bare_bench.settings)
    assert pid
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(BrokenError) as caught:
        session.run(["sleep", "60"])
    assert caught.value.kind == "connection_lost"
    os.waitpid(pid, 0)
    with pytest.raises(BrokenError) as caught:
        session.run(["true"])
    assert caught.value.kind == "unreachable"
    assert "virtual start virtual-x5" in caught.value.next_step
    bare_bench.start(X5)
    assert session.run(["echo", "back"]).stdout == "back\n"


# --- who is there ---


def spec(**changes: object) -> BoardSpec:
    return BoardSpec.model_validate({**X5.model_dump(), "key_file": str(X5.private_key), "known_hosts": str(X5.host_keys), **changes})


def broken(board: BoardSpec) -> BrokenError:
    with pytest.raises(BrokenError) as caught:
        connect(board)
    assert caught.value.where["board"] == board.name
    return caught.value


def test_an_unknown_host_key_is_refused_with_the_command_that_learns_it(session: BoardSession, tmp_path: Path) -> None:
    port = X5.address[1]
    for known in (tmp_path / "missing", tmp_path / "empty"):
        if known.name == "empty":
            known.touch()
        error = broken(spec(known_hosts=str(known)))
        assert error.kind == "host_key"
        assert f"ssh-keyscan -p {port} 127.0.0.1 >> {known}" in error.next_step


def test_a_changed_host_key_is_refused(session: BoardSession, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{X5.address[1]} {other}")
    error = broken(spec(known_hosts=str(known)))
    assert error.kind == "host_key"
    assert f"ssh-keygen -f {known} -R '[127.0.0.1]:{X5.address[1]}'" in error.next_step


def test_another_key_is_refused_and_nothing_else_is_tried(
    session: BoardSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The right key lies where an SSH client would look for it; it must not be used.
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    assert X5.private_key
    shutil.copy(X5.private_key, tmp_path / ".ssh" / "id_ed25519")
    key = tmp_path / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    caplog.set_level("DEBUG", "paramiko")
    error = broken(spec(key_file=str(key)))
    assert error.kind == "auth"
    assert "authorized_keys" in error.next_step
    assert str(key) in caplog.text
    assert ".ssh" not in caplog.text


def test_another_user_is_refused(session: BoardSession) -> None:
    assert broken(spec(user="somebody")).kind == "auth"


def test_passwords_are_off_unless_asked_for(session: BoardSession) -> None:
    client = paramiko.SSHClient()
    client.load_host_keys(str(X5.host_keys))
    with pytest.raises(paramiko.BadAuthenticationType) as caught, client:
        client.connect("127.0.0.1", X5.address[1], "root", "bpu", allow_agent=False, look_for_keys=False)
    assert caught.value.allowed_types == ["publickey"]


def test_a_key_that_is_no_key(session: BoardSession, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nonsense")
    with pytest.raises(ConfigError) as caught:
        connect(spec(key_file=str(tmp_path / "key")))
    assert caught.value.where["file"] == str(tmp_path / "key")


def test_nobody_at_the_port_and_somebody_who_does_not_speak_ssh(session: BoardSession, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        real = {"virtual": False, "host": "127.0.0.1", "port": port}
        monkeypatch.setattr("qatladder.boards.session.CONNECT_TIMEOUT", 0.5)
        assert broken(spec(**real)).kind == "unreachable"
    assert broken(spec(**real)).kind == "unreachable"


# --- health without a tool ---


def test_a_board_without_the_tool(bare_bench: Bench) -> None:
    bare_bench.start(X5)
    board = X5.model_copy(update={"tool": "/userdata/no/hrt_model_exec"})
    with pytest.raises(BrokenError) as caught, Board(board) as device:
        device.health()
    assert caught.value.kind == "tool_missing"
    assert caught.value.where["tool"] == board.tool


def test_health_reads_what_a_real_board_says(session: BoardSession, tools: Path, bare_bench: Bench) -> None:
    put_tool(tools / "real_tool", "echo 'hrt_model_exec 1.24.5'")
    bpu = bare_bench.root(X5) / "sys" / "devices" / "system" / "bpu"
    (bpu / "bpu0").mkdir(parents=True)
    (bpu / "ratio").write_text("0\n12\n")
    (bpu / "bpu0" / "users").write_text("User: pid 4711 hrt_model_exec\n")
    with Board(X5.model_copy(update={"tool": "real_tool"})) as device:
        health = device.health()
        assert (health.bpu_ratio, health.bpu_users, health.bpu_idle) == ((0, 12), ("User: pid 4711 hrt_model_exec",), False)
        assert health.versions["hrt_model_exec"] == "1.24.5"
        assert health.march is None
        assert abs(health.clock_skew_s) < 3
        assert health.disk_free_mb > 0
        assert health.memory_free_mb > 0
        (bpu / "ratio").write_text("0\n0\n")
        (bpu / "bpu0" / "users").write_text("")
        assert device.health().bpu_idle is True
    shutil.rmtree(bare_bench.root(X5) / "sys")
