"""What is started is stopped: children, orphans, and what a killed predecessor left behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from qatladder.airflow import processes as module
from qatladder.airflow.processes import Processes
from qatladder.errors import BrokenError, ConfigError

# A service that forks a child which ignores SIGTERM, leaves an orphan, and writes all three pids down.
STUBBORN = """
import os, signal, sys, time
pids = [os.getpid()]
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(300)
pids.append(child)
read, write = os.pipe()
middle = os.fork()
if middle == 0:
    orphan = os.fork()
    if orphan == 0:
        time.sleep(300)
    os.write(write, str(orphan).encode())
    os._exit(0)
os.waitpid(middle, 0)
pids.append(int(os.read(read, 20)))
with open(sys.argv[1] + ".part", "w") as file:
    file.write(" ".join(map(str, pids)))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(300)
"""


def stubborn(processes: Processes, path: Path) -> list[int]:
    processes.start("stubborn", [sys.executable, "-c", STUBBORN, str(path)], dict(os.environ))
    return pids_in(path)


def pids_in(path: Path) -> list[int]:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, "the service did not start"
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def test_stop_ends_children_that_refuse_and_orphans(tmp_path):
    with Processes(tmp_path) as processes:
        pids = stubborn(processes, tmp_path / "pids")
        assert alive(pids) == pids
    assert alive(pids) == []


def test_an_exception_stops_everything_too(tmp_path):
    pids: list[int] = []
    with contextlib.suppress(KeyboardInterrupt), Processes(tmp_path) as processes:
        pids += stubborn(processes, tmp_path / "pids")
        raise KeyboardInterrupt
    assert len(pids) == 3
    assert alive(pids) == []


def test_what_a_killed_predecessor_left_is_ended_at_the_next_start(tmp_path):
    killed = f"""
import os, sys
from pathlib import Path
from qatladder.airflow import processes as module
from qatladder.airflow.processes import Processes
processes = Processes(Path({str(tmp_path)!r})).__enter__()
processes.start("stubborn", [sys.executable, "-c", {STUBBORN!r}, {str(tmp_path / "pids")!r}], dict(os.environ))
os._exit(9)
"""
    include = Path(__file__).resolve().parents[3] / "include"
    subprocess.run([sys.executable, "-c", killed], check=False, env={**os.environ, "PYTHONPATH": str(include)})
    pids = pids_in(tmp_path / "pids")
    assert alive(pids) == pids
    with Processes(tmp_path) as processes:
        assert processes.interrupted
        assert alive(pids) == []
        processes.stop(clean=True)
    with Processes(tmp_path) as processes:
        assert not processes.interrupted


def test_a_stale_record_never_hits_a_stranger_with_the_same_pid(tmp_path):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    try:
        (tmp_path / "services.json").write_text(json.dumps([[stranger.pid, psutil.Process(stranger.pid).create_time() - 3600]]))
        with Processes(tmp_path):
            assert alive([stranger.pid]) == [stranger.pid]
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("torn", ["", "{", "[1]", '[["x", null]]'])
def test_a_torn_record_is_no_obstacle(tmp_path, torn):
    (tmp_path / "services.json").write_text(torn)
    with Processes(tmp_path) as processes:
        assert processes.interrupted


def test_two_at_once_on_one_folder_are_refused(tmp_path):
    with Processes(tmp_path), pytest.raises(ConfigError, match="already running"), Processes(tmp_path):
        pass


def test_a_service_that_ends_by_itself_is_started_again_and_said_so(tmp_path, capsys):
    with Processes(tmp_path) as processes:
        first = processes.start("scheduler", [sys.executable, "-c", "import time; print('up'); time.sleep(300)"], dict(os.environ))
        first.process.kill()
        first.process.wait(20)
        processes.check()
        (second,) = processes.services
        assert alive([first.process.pid, second.process.pid]) == [second.process.pid]
        processes.check()
        assert processes.services == [second], "once"
        assert "the scheduler ended by itself (exit code -9) and is started again; its log: " in capsys.readouterr().err
    assert alive([second.process.pid]) == []


def test_what_a_service_left_behind_ends_with_us(tmp_path):
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    with Processes(tmp_path) as processes:
        first = processes.start("scheduler", [sys.executable, "-c", code], dict(os.environ))
        while not first.log.read_text().endswith("\n"):
            time.sleep(0.05)
        worker = int(first.log.read_text())
        first.process.kill()
        first.process.wait(20)
        processes.check()
        assert alive([worker]) == [worker], "it may be at work"
        assert [first.process.pid] == [pid for pid, _ in json.loads((tmp_path / "services.json").read_text())][:1]
    assert alive([worker]) == []


def test_a_service_that_ends_again_and_again_is_reported_with_its_last_words(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("short", [sys.executable, "-c", "print('last words'); raise SystemExit(7)"], dict(os.environ))
        for _ in range(3):
            processes.services[0].process.wait(20)
            processes.check()
        processes.services[0].process.wait(20)
        with pytest.raises(BrokenError, match="short ended by itself, and 3 times before") as caught:
            processes.check()
        assert caught.value.console.count("last words") == 4, "the log keeps them all"
        assert caught.value.where["found"] == "exit code 7"


def test_ends_of_long_ago_are_forgiven(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WITHIN", 0.0)
    with Processes(tmp_path) as processes:
        processes.start("short", [sys.executable, "-c", ""], dict(os.environ))
        for _ in range(6):
            processes.services[0].process.wait(20)
            processes.check()


def test_the_end_of_a_service_nobody_needs_is_not_the_end(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("board", [sys.executable, "-c", ""], dict(os.environ), essential=False).process.wait(20)
        processes.check()
