"""A tool that is missing, hangs, dies or lies; a full disk; others on the board. A wrong result is never taken for a right one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from qatladder.boards.jobs import Job

from .lab import LOCK_FILE, REAL, LabBoard, until
from .probe import AWAY, Probe, when

pytestmark = pytest.mark.vendor

DUMPED = f"{REAL} || exit; cd $OUT; dump=$(ls model_infer_output_0_*.bin); "
"""The real tool has dumped; now something happens to its dump."""

LIES = {
    "the tool is missing": ("exec /mnt/bin/nothing", {"tool_missing"}),
    "it dies of a signal": ("kill -SEGV $$", {"tool_failed", "killed", "device_error"}),
    "it dies after its dumps": (f"{REAL}; exec 2>&1; echo 'Segmentation fault'; kill -SEGV $$", {"tool_failed", "killed", "device_error"}),
    "it fails with exit code 0": (f"{REAL}; echo 'hbDNNInfer failed, error code: -6000009'; true", {"tool_failed", "device_error"}),
    "it says nothing": ("true", {"console"}),
    "its dump is truncated": (DUMPED + "truncate -s -1 $dump", {"dump_truncated"}),
    "its dump is empty": (DUMPED + "truncate -s 0 $dump", {"dump_truncated"}),
    "its dump is missing": (DUMPED + "rm $dump", {"dump_missing"}),
    "its dump is of a larger model": (DUMPED + "truncate -s +64 $dump", {"dump_size"}),
    "its dump is of another model of the same size": (
        DUMPED + "mv $dump model_infer_output_0_somebody_elses.bin",
        {"dump_missing", "dump_size"},
    ),
    "it dumps more outputs than the model has": (DUMPED + "cp $dump model_infer_output_1_more.bin", {"dump_size", "dump_ambiguous"}),
    "two dumps are of one output": (DUMPED + "cp $dump model_infer_output_0_more.bin", {"dump_ambiguous"}),
    "only the second sample fails": (
        f'case $PWD in */1) echo "hbDNNInfer failed"; exit 1 ;; *) {REAL} ;; esac',
        {"tool_failed", "device_error"},
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_tool_that_fails_or_lies_gives_an_error(lie: str, board: LabBoard, probe: Probe) -> None:
    script, kinds = LIES[lie]
    board.behave(infer=script)
    probe.part(0, 2).refused(board, *kinds)
    board.assert_clean()
    probe.part(0, 1).assert_fine(board)


def test_a_tool_that_is_not_installed_at_all(board: LabBoard, probe: Probe) -> None:
    (board.folder / "bin" / "hrt_model_exec").unlink()
    assert probe.refused(board, "tool_missing").where["tool"] == board.spec.tool
    probe.part(0, 1).assert_fine(board)


def test_a_tool_that_hangs_is_killed_with_all_it_started(board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Job.start
    monkeypatch.setattr(Job, "start", lambda job, argv, limit, lock_wait: start(job, argv, 2.0, lock_wait))
    board.behave(infer="sleep 1000 & trap '' TERM INT HUP; sleep 1000; wait")
    probe.refused(board, "timeout")
    board.assert_clean()
    monkeypatch.undo()
    probe.part(0, 1).assert_fine(board)


# --- what lies about ---


def test_the_dumps_of_an_earlier_run_are_never_taken_for_new_ones(board: LabBoard, probe: Probe) -> None:
    board.behave(infer=f"{REAL}; code=$?; cp $OUT/model_infer_output_0_*.bin /mnt/userdata/; exit $code")
    assert probe.attempt(board) is None
    (old,) = (board.folder / "userdata").glob("model_infer_output_0_*.bin")
    # A run that the board's power loss ended leaves its job folder; old dumps lie wherever a tool may have put them.
    with board.held(), when(lambda: board.starts > len(probe), "an inference began", board.kill_sshd):
        probe.refused(board, *AWAY, patience=0.5)
    board.reboot()
    folders = [path for path in board.path(f"{board.spec.workdir}/jobs").rglob("*") if path.is_dir()]
    assert folders, "no job folder was left"
    for folder in [*folders, board.path(board.spec.workdir)]:
        (folder / old.name).write_bytes(bytes(old.stat().st_size))
    board.behave(infer="echo 'Infer time: 1.0 ms'")
    board.go_on()
    error = probe.attempt(board, {"dump_missing", "dump_stale", "killed"})
    assert error, "a stale dump was taken for a new one"
    probe.assert_fine(board)


def test_a_tool_that_presents_an_old_dump_is_not_believed(board: LabBoard, probe: Probe) -> None:
    board.behave(infer=f"{REAL}; code=$?; cp $OUT/model_infer_output_0_*.bin /mnt/userdata/; exit $code")
    assert probe.attempt(board) is None
    board.behave(infer="touch -d '1 hour ago' /mnt/userdata/*.bin; cp -p /mnt/userdata/*.bin $OUT/; echo 'Infer time: 1.0 ms'")
    probe.part(1, 3).refused(board, "dump_stale", "dump_missing")
    board.assert_clean()


# --- disk ---


@contextmanager
def disk(board: LabBoard, kilobytes: int) -> Iterator[Callable[[], object]]:
    """The workdir on a file system of that size. Gives what makes it large."""
    argv = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", "/mnt/userdata"]
    subprocess.run(board.inside(*argv), check=True)
    larger = ["mount", "-o", "remount,size=1g", "/mnt/userdata"]
    yield lambda: subprocess.run(board.inside(*larger), check=True)


def test_a_disk_too_small_for_the_model(board: LabBoard, probe: Probe) -> None:
    with disk(board, 40) as enlarge:
        probe.refused(board, "disk_full")
        assert board.starts == 0
        enlarge()
        probe.assert_fine(board)


@pytest.mark.parametrize("phase", ["files", "dumps", "archive"])
def test_a_disk_that_fills_up_on_the_way(phase: str, board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else writes to the disk after the product looked at the free space."""
    monkeypatch.setattr("qatladder.boards.transfer.SPARE_MB", 0)
    fill = "cat /dev/zero >/mnt/userdata/else 2>/dev/null;"
    scripts = {"files": {"other": f"{REAL}; code=$?; {fill} exit $code"}, "dumps": {"infer": fill + REAL}}
    scripts["archive"] = {"infer": f"{REAL}; code=$?; case $PWD in */2) {fill} ;; esac; exit $code"}
    with disk(board, 20_000) as enlarge:
        board.behave(**scripts[phase])
        probe.refused(board, "disk_full")
        assert board.lock_is_free()
        enlarge()
        board.path("/mnt/userdata/else").unlink()
        probe.assert_fine(board)


# --- others ---


def turns(board: LabBoard) -> list[list[str]]:
    """The log of inferences in pairs; each must be one inference from begin to end."""
    lines = [line.split() for line in board.log() if line.split()[1] == "infer"]
    return [[*begin, *end] for begin, end in zip(lines[::2], lines[1::2], strict=True)]


def begun_jobs(board: LabBoard) -> list[str]:
    folder = board.path(f"{board.spec.workdir}/jobs")
    return [name for name in board.job_folders() if "infer" in name and (folder / name / "begun").exists()]


@pytest.mark.parametrize("same", [False, True], ids=["other pictures", "the same question"])
def test_two_clients_at_once_use_the_bpu_one_after_the_other(same: bool, board: LabBoard, probe: Probe) -> None:
    ours, theirs = (probe, probe.part(0, 3)) if same else (probe.part(0, 2), probe.part(1, 3))
    with ThreadPoolExecutor(2) as pool, board.held():
        answers = [pool.submit(each.attempt, board, run=run) for each, run in ((ours, "ours"), (theirs, "theirs"))]
        until(lambda: len(begun_jobs(board)) == 2, "both jobs began")
        until(lambda: board.starts, "the first inference began")
        time.sleep(2)
        assert board.starts == 1, "two inferences ran at the same time"
        board.go_on()
        assert [answer.result() for answer in answers] == [None, None]
    for begin, _, pid, end, _, same_pid in turns(board):
        assert (begin, end, pid) == ("begin", "end", same_pid), "two inferences ran at the same time"
    board.assert_clean()


def test_two_workers_with_one_job_share_it(board: LabBoard, probe: Probe) -> None:
    """A task that was taken for dead and started again, while it still lives."""
    with ThreadPoolExecutor(2) as pool, board.held():
        first = pool.submit(probe.attempt, board, AWAY | {"killed", "remote_file"})
        until(lambda: board.starts, "the first inference began")
        second = pool.submit(probe.part(0, 3).attempt, board, AWAY | {"killed", "remote_file"})
        time.sleep(1)
        board.go_on()
        errors = [first.result(), second.result()]
    assert None in errors, f"neither got the result: {errors}"
    probe.assert_fine(board)


@contextmanager
def verifier(board: LabBoard) -> Iterator[None]:
    """The vendor's verifier uses the board."""
    process = subprocess.Popen(board.inside("flock", "-x", LOCK_FILE, "sleep", "1000"))
    until(lambda: not board.lock_is_free(), "the verifier has the lock")
    try:
        yield
    finally:
        board.kill("sleep 1000")
        process.wait()


def test_the_vendors_verifier_is_waited_for(board: LabBoard, probe: Probe) -> None:
    with ThreadPoolExecutor(1) as pool:
        with verifier(board):
            answer = pool.submit(probe.attempt, board)
            until(lambda: any("run.sh" in command for command in board.processes()), "our job waits")
            time.sleep(2)
            assert board.starts == 0, "the lock was not respected"
        assert answer.result() is None
    board.assert_clean()


def test_a_board_in_use_for_too_long_is_busy(board: LabBoard, probe: Probe) -> None:
    with verifier(board):
        probe.refused(board, "board_busy", lock_timeout=1.0)
        assert board.starts == 0
    probe.assert_fine(board)


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_a_lock_file_that_nobody_holds_does_not_matter(mode: int, board: LabBoard, probe: Probe) -> None:
    lock = board.path(LOCK_FILE)
    lock.write_text("4711\n")
    lock.chmod(mode)
    probe.part(0, 1).assert_fine(board)
