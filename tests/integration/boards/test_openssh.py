"""The session against OpenSSH's own sshd, which unlike the virtual board does not kill a command whose channel closes."""

from __future__ import annotations

import functools
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect, sha256_of
from qatladder.errors import BrokenError


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardSpec]:
    sshd = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("openssh-server is not installed")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "client_key"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "client_key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "config")], stdin=subprocess.DEVNULL, stderr=log)
    spec = BoardSpec(
        name="openssh",
        march="bayes-e",
        host="127.0.0.1",
        port=port,
        user=getpass.getuser(),
        key_file=folder / "client_key",
        known_hosts=folder / "known_hosts",
        workdir=str(folder / "userdata"),
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                connect(spec).close()
                break
            except BrokenError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"sshd does not serve this user here: {error.message}; {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.1)
        yield spec
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def session(openssh: BoardSpec) -> Iterator[BoardSession]:
    with BoardSession(functools.partial(connect, openssh), openssh.name, openssh.workdir) as session:
        yield session


def test_codes_streams_and_arguments(session: BoardSession) -> None:
    done = session.run(["sh", "-c", 'echo "$1"; echo err >&2; exit 3', "sh", "a; rm -rf x"])
    assert (done.exit_code, done.stdout, done.stderr) == (3, "a; rm -rf x\n", "err\n")


def test_a_timeout_leaves_no_process_behind(session: BoardSession, tmp_path: Path) -> None:
    with pytest.raises(BrokenError) as caught:
        session.run(["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/pid; wait"], timeout=1.0)
    assert caught.value.kind == "timeout"
    process = Path("/proc") / (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 5
    while process.exists() and "\nState:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < deadline, "the command outlived its channel"
        time.sleep(0.02)


def test_the_lock_is_exclusive_and_dies_with_its_holder(session: BoardSession, openssh: BoardSpec) -> None:
    other = BoardSession(functools.partial(connect, openssh), "other")
    with session.lock(), pytest.raises(BrokenError) as caught, other.lock(timeout=0.5):
        pass
    assert caught.value.kind == "board_busy"
    with pytest.raises(BrokenError), other.lock(timeout=5.0):
        other.close()
    with session.lock(timeout=5.0):
        pass


def test_files_cache_and_job(session: BoardSession, tmp_path: Path) -> None:
    local = tmp_path / "m.hbm"
    local.write_bytes(os.urandom(2 << 20))
    with session.job() as job:
        cached = session.cache([local])[local]
        session.link({job / "m.hbm": cached})
        session.get(job / "m.hbm", tmp_path / "back")
    assert sha256_of(tmp_path / "back") == cached.name
    assert not Path(job).exists()
    with pytest.raises(BrokenError) as caught:
        session.put(local, "/nowhere/x")
    assert caught.value.kind == "remote_file"
