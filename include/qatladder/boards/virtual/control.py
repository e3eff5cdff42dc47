"""Start and stop virtual boards in the background. A board is started when its server answers, and stopped when it is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.virtual.server import INCLUDE
from qatladder.errors import BrokenError
from qatladder.settings import Settings

PASSWORD = "QATLADDER_BOARD_PASSWORD"
"""Environment variable with the password, for `password=True`."""


def running(board: BoardSpec, settings: Settings) -> int | None:
    """Process id of the board's server, or None. A pid file whose number now belongs to another process counts for nothing."""
    try:
        pid = int((settings.home / "boards" / board.name / "pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"qatladder.boards.virtual" in words and board.name.encode() in words else None


def start_background(
    board: BoardSpec,
    settings: Settings,
    port: int | None = None,
    host: str | None = None,
    password: bool = False,
    fleet: Path | None = None,
    timeout: float = 20.0,
) -> int:
    """Start a board's server unless it runs, and wait until it answers.

    Args:
        port, host: override the fleet's; port 0 takes a free one.
        password: also accept the password in the environment variable QATLADDER_BOARD_PASSWORD.
        fleet: fleet file that holds the board (default: the settings' one).
    Returns:
        The port it listens on.
    Raises:
        BrokenError: kind `not_started`, with what the server printed.
    """
    folder = settings.home / "boards" / board.name
    if running(board, settings):
        return int((folder / "port").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("port", "pid"):
        (folder / name).unlink(missing_ok=True)
    argv = [sys.executable, "-m", "qatladder.boards.virtual", "serve", board.name]
    argv += ["--port", str(port)] if port is not None else []
    argv += ["--host", host] if host else []
    argv += ["--password"] if password else []
    environment = {
        **os.environ,
        "PYTHONPATH": str(INCLUDE),
        "QATLADDER_HOME": str(settings.home),
        "QATLADDER_FLEET": str(fleet or settings.fleet),
        "QATLADDER_VENDOR_PYTHON": str(settings.vendor_python),
    }
    log = folder / "server.log"
    with log.open("wb") as stream:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError, ValueError):
            found = int((folder / "port").read_text())
            with socket.create_connection((host or board.host, found), timeout=2.0) as connection:
                if connection.recv(4) == b"SSH-":
                    return found
        time.sleep(0.05)
    if child.poll() is None:
        child.kill()
    child.wait()
    said = log.read_text(errors="replace")
    raise BrokenError(
        "the virtual board did not start",
        kind="not_started",
        console=said,
        board=board.name,
        file=log,
        found=said.strip()[-800:] or "no output",
    )


def stop(board: BoardSpec, settings: Settings, timeout: float = 10.0) -> bool:
    """Stop a board's server by its pid, gently first. False when none ran."""
    pid = running(board, settings)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while running(board, settings) or _alive(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += timeout
        time.sleep(0.05)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    for name in ("port", "pid"):
        (settings.home / "boards" / board.name / name).unlink(missing_ok=True)
    return True


def _alive(pid: int) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
