"""The shell wrapper around every remote command: transparent while the channel is open, deadly when it closes.

Boards have dash, bash or busybox behind `sh`; what is installed here is tried. (dash's `kill` knows no `--`: seen.)
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from qatladder.boards.session import _WATCHED

SHELLS = [argv for argv in (["dash"], ["bash", "--posix"], ["busybox", "sh"]) if shutil.which(argv[0])]


@pytest.fixture(params=SHELLS, ids=lambda argv: str(argv[0]))
def shell(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


def start(shell: list[str], *argv: str) -> subprocess.Popen[str]:
    command = [*shell, "-c", _WATCHED, "sh", "/", *argv]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("code", [0, 3, 127])
def test_code_and_streams_pass_through_while_stdin_stays_open(shell: list[str], code: int) -> None:
    child = start(shell, "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert child.stdout
    assert child.stderr
    assert (child.stdout.read(), child.stderr.read()) == ("out\n", "err\n")  # both end: no watcher holds them
    assert child.wait(5) == code


def test_the_command_itself_sees_no_input(shell: list[str]) -> None:
    assert start(shell, "cat").wait(5) == 0


def test_closing_stdin_kills_the_command_and_what_it_started(shell: list[str]) -> None:
    child = start(shell, "sh", "-c", "sleep 300 & echo $!; wait")
    assert child.stdin
    assert child.stdout
    grandchild = Path("/proc") / child.stdout.readline().strip()
    assert grandchild.exists()
    child.stdin.close()
    child.wait(5)
    deadline = time.monotonic() + 5
    while grandchild.exists() and "\nState:\tZ" not in (grandchild / "status").read_text():
        assert time.monotonic() < deadline, "the command outlived its channel"
        time.sleep(0.02)
