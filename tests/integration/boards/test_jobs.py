"""Detached jobs, over the virtual board's server and OpenSSH's: they run once, survive us, and hold the board while they run."""

from __future__ import annotations

import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

from qatladder.boards.jobs import KEEP_MINUTES, LOCK_FILE, Job, StillRunning
from qatladder.boards.session import BoardSession
from qatladder.boards.transfer import Files
from qatladder.errors import BrokenError

from .conftest import Reached  # type: ignore[import-not-found]


def new(session: BoardSession, files: dict[str, Path] | None = None) -> Job:
    job = Job(session, f"test-{uuid.uuid4().hex[:8]}")
    job.prepare(Files(session), files or {})
    return job


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_job_has_files_a_log_and_an_exit_code(session: BoardSession, reached: Reached, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("content\n")
    job = new(session, {"given": tmp_path / "in"})
    job.start(["sh", "-c", 'cat given; echo "$1"; printf end; exit 3', "sh", "a; rm -rf $HOME"], 60)
    lines: list[str] = []
    done = job.follow(lines.append)
    assert (done.exit_code, bool(done)) == (3, False)
    assert lines == ["content", "a; rm -rf $HOME", "end"]
    job.remove()
    assert not reached.path(job.folder).exists()


def test_a_job_that_is_started_again_runs_once(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    for _ in range(3):
        job.start(["sh", "-c", "echo ran >> count; sleep 1"], 60)
    assert job.follow().exit_code == 0
    job.start(["sh", "-c", "echo ran >> count"], 60)
    with reached.session() as other:  # another process, later, knows only the id
        again = Job(other, job.id)
        assert again.follow().exit_code == 0
    assert reached.path(job.folder / "count").read_text() == "ran\n"


def test_many_start_one_job_at_once(reached: Reached) -> None:
    job_id = f"test-{uuid.uuid4().hex[:8]}"

    def start() -> None:
        with reached.session() as session:
            job = Job(session, job_id)
            job.prepare(Files(session), {})
            job.start(["sh", "-c", "echo ran >> count; sleep 0.5"], 60)
            job.follow()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reached.path(f"{reached.spec.workdir}/jobs/{job_id}/count").read_text() == "ran\n"


def test_a_job_outlives_its_connection_and_its_log_is_read_once(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    job.start(["sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.3; done"], 60)
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if len(lines) in (2, 4):
            session.close()

    assert job.follow(on_line).exit_code == 0
    assert lines == [f"line {i}" for i in range(1, 7)]


def test_a_caller_need_not_wait(session: BoardSession) -> None:
    job = new(session)
    job.start(["sh", "-c", "echo one; while ! test -e go; do sleep 0.1; done; echo two"], 60)
    lines: list[str] = []
    with pytest.raises(StillRunning) as caught:
        job.follow(lines.append, patience=1.5)
    assert (caught.value.board, caught.value.job, lines) == (session.name, job.id, ["one"])
    state = job.look(caught.value.offset, lines.append)
    assert (state.state, state.exit_code, lines) == ("running", None, ["one"])
    session.run(["touch", str(job.folder / "go")])
    done = job.follow(lines.append, offset=caught.value.offset)
    assert (done.exit_code, lines) == (0, ["one", "two"])
    assert job.look().state == "ended"


def test_cancel_kills_the_whole_process_group(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    job.start(["sh", "-c", "sleep 300 & touch begun.too; sleep 301"], 600)
    folder = reached.path(job.folder)
    wait_for(folder / "begun.too")
    assert processes_in(folder)
    job.cancel()
    with pytest.raises(BrokenError) as caught:
        job.follow()
    assert caught.value.kind == "killed"
    assert processes_in(folder) == []
    assert session.run(["flock", "-n", LOCK_FILE, "true"])


def test_a_job_that_was_cancelled_before_it_began_never_begins(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    job.cancel()
    job.start(["touch", "ran"], 60)
    with pytest.raises(BrokenError) as caught:
        job.follow()
    assert caught.value.kind == "killed"
    assert not reached.path(job.folder / "ran").exists()


def test_the_board_ends_a_job_that_takes_too_long_whoever_watches(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    job.start(["sleep", "300"], 1)
    session.close()
    with pytest.raises(BrokenError) as caught:
        job.follow()
    assert caught.value.kind == "timeout"
    assert processes_in(reached.path(job.folder)) == []


def test_a_job_leaves_no_process_behind(session: BoardSession, reached: Reached) -> None:
    job = new(session)
    job.start(["sh", "-c", "sleep 300 & exit 0"], 60)
    assert job.follow().exit_code == 0
    deadline = time.monotonic() + 5
    while processes_in(reached.path(job.folder)):
        assert time.monotonic() < deadline, processes_in(reached.path(job.folder))
        time.sleep(0.02)


def test_a_job_waits_for_the_vendors_lock_and_a_lock_without_a_holder_does_not_matter(session: BoardSession, reached: Reached) -> None:
    lock = reached.path(LOCK_FILE)
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    holder = subprocess.Popen(["flock", "-x", str(lock), "sh", "-c", "echo held; read -r _"], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdin is not None
    holder.stdout.readline()
    impatient = new(session)
    impatient.start(["touch", "ran"], 60, lock_wait=1)
    with pytest.raises(BrokenError) as caught:
        impatient.follow()
    assert caught.value.kind == "board_busy"
    job = new(session)
    job.start(["touch", "ran"], 60, lock_wait=60)
    lines: list[str] = []
    with pytest.raises(StillRunning):
        job.follow(lines.append, patience=1.0)
    assert lines == ["waiting: somebody else holds the board"]
    assert not reached.path(job.folder / "ran").exists()
    assert not reached.path(impatient.folder / "ran").exists()
    holder.stdin.close()
    holder.wait(5)
    assert job.follow().exit_code == 0
    assert reached.path(job.folder / "ran").exists()


def test_jobs_use_the_board_one_at_a_time(reached: Reached) -> None:
    trace = reached.path(f"{reached.spec.workdir}/trace")
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.unlink(missing_ok=True)

    def work() -> None:
        with reached.session() as session:
            job = new(session)
            job.start(["sh", "-c", "echo begin >> ../../trace; sleep 0.2; echo end >> ../../trace"], 60)
            job.follow()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trace.read_text().split() == ["begin", "end"] * 4


def test_a_job_the_board_has_forgotten(session: BoardSession) -> None:
    with pytest.raises(BrokenError) as caught:
        Job(session, "nowhere").follow()
    assert caught.value.kind == "killed"
    assert "lost" in caught.value.message
    Job(session, "nowhere").cancel()
    Job(session, "nowhere").remove()


def test_old_jobs_go_and_living_ones_stay(session: BoardSession, reached: Reached) -> None:
    import os

    dead, alive = new(session), new(session)
    dead.start(["true"], 60)
    dead.follow()
    alive.start(["sh", "-c", "while ! test -e go; do sleep 0.1; done"], 60)
    for job in (dead, alive):
        os.utime(reached.path(job.folder), (time.time() - 60 * KEEP_MINUTES - 120,) * 2)
    new(session)
    assert not reached.path(dead.folder).exists()
    assert reached.path(alive.folder).exists()
    session.run(["touch", str(alive.folder / "go")])
    assert alive.follow().exit_code == 0
