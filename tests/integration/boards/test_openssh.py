"""The session against OpenSSH's own sshd, which unlike the virtual board does not kill a command whose channel closes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect
from qatladder.errors import BrokenError


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
