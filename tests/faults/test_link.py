"""Servers that die and links that fail, in every phase of an inference.

A job on the board outlives the connection, so each sample runs once, whatever happened on the way. After every fault: the right
integers or an error of the right kind, never a wrong result; a clean board; and the next inference is right.
"""

from __future__ import annotations

import os
import time

import pytest

from .lab import LabBoard, until
from .probe import AWAY, Probe, when

pytestmark = pytest.mark.vendor

SLOW = 60_000
"""Bytes per second at which every transfer of these tests takes long enough to be hit."""


def restart_sshd(board: LabBoard) -> None:
    board.kill_sshd()
    board.start_sshd()
    board.wire.restore()


def sent(board: LabBoard, since: int, count: int) -> bool:
    return board.wire.tell()[0] - since > count


def received(board: LabBoard, since: int, count: int) -> bool:
    return board.wire.tell()[1] - since > count


def let_a_transfer_begin(board: LabBoard) -> int:
    """Slow the wire down while the last inference is held, then let it go: what comes now are the dumps. Bytes received before."""
    board.wire.tell(rate=SLOW)
    before = board.wire.tell()[1]
    board.go_on()
    return before


def test_the_server_dies_during_the_upload(board: LabBoard, probe: Probe) -> None:
    board.wire.tell(rate=SLOW)
    # Logging in takes less than 10 kB; the model has 60 kB at least.
    with when(lambda: sent(board, 0, 30_000), "30 kB went to the board", lambda: restart_sshd(board)):
        probe.attempt(board, AWAY)
    probe.assert_fine(board)
    assert board.starts <= 2 * len(probe)


def test_the_server_dies_during_the_inference(board: LabBoard, probe: Probe) -> None:
    with board.held(), when(lambda: board.starts, "the first inference began", lambda: restart_sshd(board), board.go_on):
        error = probe.attempt(board, AWAY)
    if error:
        assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


def test_the_server_dies_during_the_download(board: LabBoard, probe: Probe) -> None:
    before: list[int] = []
    with (
        board.held(),
        when(lambda: board.starts, "the first inference began", lambda: before.append(let_a_transfer_begin(board))),
        when(lambda: before and received(board, before[0], 30_000), "30 kB came back", lambda: restart_sshd(board)),
    ):
        error = probe.attempt(board, AWAY)
    if error:
        assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


def test_the_board_loses_power_during_the_inference(board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    with board.held(), when(lambda: board.starts, "the first inference began", board.reboot, board.go_on):
        probe.attempt(board, {*AWAY, "killed"})
    probe.assert_fine(board)


def test_a_link_that_was_cut_for_a_moment_is_not_noticed(board: LabBoard, probe: Probe) -> None:
    with (
        board.held(),
        when(lambda: board.starts, "the first inference began", board.wire.cut, board.go_on),
        when(lambda: len(board.log("end infer")) == len(probe), "the board finished alone", board.wire.restore),
    ):
        assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


def test_a_link_that_was_cut_until_the_connection_died_is_taken_up_again(
    board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    with (
        board.held(),
        when(lambda: board.starts, "the first inference began", board.wire.cut, board.go_on, lambda: time.sleep(5), board.wire.restore),
    ):
        assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


@pytest.mark.parametrize("phase", ["upload", "inference", "download"])
def test_a_link_that_is_cut_for_good_is_an_error_and_the_work_is_found_again(
    phase: str, board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    before: list[int] = []
    if phase == "upload":
        board.wire.tell(rate=SLOW)
        with when(lambda: sent(board, 0, 30_000), "30 kB went to the board", board.wire.cut):
            probe.refused(board, *AWAY, patience=1.0)
    elif phase == "inference":
        with board.held(), when(lambda: board.starts, "the first inference began", board.wire.cut):
            probe.refused(board, *AWAY, patience=1.0)
    else:
        with (
            board.held(),
            when(lambda: board.starts, "the first inference began", lambda: before.append(let_a_transfer_begin(board))),
            when(lambda: before and received(board, before[0], 30_000), "30 kB came back", board.wire.cut),
        ):
            probe.refused(board, *AWAY, patience=1.0)
    board.wire.restore()
    assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


def test_a_slow_and_lossy_link_is_no_fault(board: LabBoard, probe: Probe) -> None:
    board.wire.tell(delay=0.1, loss=0.01)
    started, (before, _) = time.monotonic(), board.wire.tell()
    assert probe.part(0, 1).attempt(board) is None
    assert time.monotonic() - started > 1, "the wire did not delay"
    assert sent(board, before, 10_000)
    board.assert_clean()


def test_what_the_client_of_a_night_left_behind_is_gone_the_next_night(board: LabBoard, probe: Probe) -> None:
    with board.held(), when(lambda: board.starts, "the first inference began", board.kill_sshd):
        probe.refused(board, *AWAY, patience=0.5, run="last night")
    board.start_sshd()
    until(lambda: not board.processes(), "the job nobody waits for ended")
    (left,) = board.job_folders()
    yesterday = time.time() - 86400
    os.utime(board.path(f"{board.spec.workdir}/jobs/{left}"), (yesterday, yesterday))
    probe.assert_fine(board)


def test_a_board_that_is_off_is_unreachable(board: LabBoard, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    board.wire.cut()
    assert "power" in probe.refused(board, "unreachable").next_step
    board.wire.restore()
    probe.assert_fine(board)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead connection is noticed in seconds."""
    for name, seconds in (("CONNECT_TIMEOUT", 1.0), ("KEEPALIVE", 1), ("DEAD_AFTER", 2.0)):
        monkeypatch.setattr(f"qatladder.boards.session.{name}", seconds)
