"""Promises: SIGTERM and Ctrl-C end a run cleanly: its job, the virtual board it started, and its work folder are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
import yaml
from tests.unit.toy import ADAPTER, ToyZoo

from qatladder.boards.fleet import load_fleet
from qatladder.boards.virtual import control
from qatladder.settings import PROJECT, load_settings


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process that was killed is gone: init takes a moment to bury it."""
    try:
        psutil.Process(pid).wait(5)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def hear_ctrl_c() -> None:
    """A shell has what it runs in the background ignore Ctrl-C, and the tests may be run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def slow_zoo(toy_zoo: ToyZoo, monkeypatch: pytest.MonkeyPatch) -> ToyZoo:
    """A model that loads for ever and writes down its process, and a virtual board on a free port.

    The board's server needs an interpreter where the vendor's would be, not the vendor's simulator: nothing runs on it here.
    """
    monkeypatch.setenv("QATLADDER_VENDOR", "1")
    monkeypatch.setenv("QATLADDER_VENDOR_PYTHON", sys.executable)
    fleet = {"boards": [{"name": "b", "march": "bayes", "dialect": "j5", "host": "127.0.0.1", "port": 0, "virtual": True}]}
    (toy_zoo.folder / "zoo" / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    hang = "import os, time; (artifact.parent / 'pid').write_text(str(os.getpid())); time.sleep(600)"
    (toy_zoo.folder / "zoo" / "toy.py").write_text(
        ADAPTER.replace('wrong = json.loads(artifact.read_text())["wrong"]', hang + "; wrong = 0")
    )
    return toy_zoo


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_that_is_ended_leaves_nothing_behind(slow_zoo: ToyZoo, number: signal.Signals, code: int) -> None:
    settings = load_settings()
    board = load_fleet(settings.fleet).board("b")
    job = slow_zoo.artifacts / "pid"
    process = subprocess.Popen(
        [sys.executable, "-m", "qatladder.cli", "validate", "toy", "--rungs", "float,board"],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "include")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    server = None
    try:
        wait_for(lambda: job.exists() and job.read_text(), process)
        server = control.running(board, settings)
        assert server is not None
        assert list(settings.work.iterdir())
        process.send_signal(number)
        assert process.wait(60) == code
        assert control.running(board, settings) is None
        assert gone(server)
        assert gone(int(job.read_text()))
        assert list(settings.work.iterdir()) == []
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        control.stop(board, settings)


def test_a_board_that_is_being_started_is_stopped_too(slow_zoo: ToyZoo) -> None:
    settings = load_settings()
    board = load_fleet(settings.fleet).board("b")
    log = settings.home / "boards" / "b" / "server.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "qatladder.cli", "validate", "toy", "--rungs", "float,board"],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "include")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        wait_for(log.exists, process)  # made just before the server's process
        wait_for(lambda: psutil.Process(process.pid).children(), process)
        (child,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        control.stop(board, settings)
