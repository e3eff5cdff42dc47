"""What integration tests need, or the reason they are skipped."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import asyncssh
import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import connect
from qatladder.errors import BrokenError
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct

TRAINED = load_settings().home / "zoo"
"""The sample zoo of this installation; tests have data folders of their own."""


@pytest.fixture(autouse=True)
def _climbed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer is carried over: these tests break what no key knows of."""
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "0")


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("vendor") and (reason := Hmct(load_settings()).unavailable()):
        pytest.skip(reason)
    if request.node.get_closest_marker("zoo") and not (TRAINED / "digits_cnn" / "manifest.json").exists():
        pytest.skip("the sample zoo is not trained: make zoo")


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


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's Docker engine on a socket of its own, and a program that talks to it."""
    if shutil.which("dockerd") is None or shutil.which("docker") is None or os.getuid() != 0:
        pytest.skip("no Docker engine can be started here (docker.io is not installed, or this is not root)")
    folder = tmp_path_factory.mktemp("docker")
    socket = f"unix://{folder}/docker.sock"
    program = folder / "engine"
    program.write_text(f'#!/bin/sh\nexec docker --host {socket} "$@"\n')
    program.chmod(0o755)
    flags = ["--bridge=none", "--iptables=false", f"--pidfile={folder}/pid", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", "--host", socket, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while subprocess.run([program, "info"], capture_output=True).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.2)
        empty = subprocess.run(["tar", "-c", "--files-from", "/dev/null"], capture_output=True, check=True).stdout
        subprocess.run([program, "import", "-", "toolchain:1"], input=empty, capture_output=True, check=True)
        yield str(program)
    finally:
        daemon.terminate()
        daemon.wait(30)
