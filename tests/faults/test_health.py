"""A board that is not fit says so: its own files are what is changed, seen by it alone."""

from __future__ import annotations

import subprocess
import time

import pytest

from qatladder.boards.device import Health
from qatladder.validation.fleet import unfit

from .lab import LabBoard
from .probe import Probe, client

pytestmark = pytest.mark.vendor


def health(board: LabBoard) -> Health:
    with client(board) as device:
        return device.health()


def overlay(board: LabBoard, path: str, text: str, mode: int = 0o444) -> None:
    """Another content for one file, on the board only."""
    other = board.folder / "etc" / path.strip("/").replace("/", "-")
    other.write_text(text)
    other.chmod(mode)
    subprocess.run(board.inside("mount", "--bind", f"/mnt/etc/{other.name}", path), check=True)


def test_a_board_that_is_fit(board: LabBoard) -> None:
    assert unfit(health(board), "bayes-e") == []


def test_little_memory(board: LabBoard) -> None:
    overlay(board, "/proc/meminfo", "MemTotal: 1024000 kB\nMemFree: 9000 kB\nMemAvailable: 20480 kB\n")
    found = health(board)
    assert found.memory_free_mb == pytest.approx(20480 * 1024 / 1e6)
    assert any("memory" in problem for problem in unfit(found, "bayes-e"))


def test_a_clock_that_is_off_by_an_hour(board: LabBoard, probe: Probe) -> None:
    """The kernel has one clock for all; what is off here is the board's `date`, which is what the product asks."""
    date = board.folder / "bin" / "date"
    date.write_bytes(board.path("/usr/bin/date").read_bytes())
    date.chmod(0o755)
    script = '#!/bin/sh\nexec /mnt/bin/date -d "@$(($(/mnt/bin/date +%s) + 3600))" "$@"\n'
    overlay(board, "/usr/bin/date", script, 0o755)
    found = health(board)
    assert found.clock_skew_s == pytest.approx(3600, abs=30)
    assert any("clock" in problem for problem in unfit(found, "bayes-e"))
    assert probe.part(0, 1).attempt(board) is None, "a wrong clock is no reason for a wrong result"
    board.assert_clean()


def test_a_small_disk(board: LabBoard) -> None:
    subprocess.run(board.inside("mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", "/mnt/userdata"), check=True)
    found = health(board)
    assert found.disk_free_mb < 11
    assert any("disk" in problem for problem in unfit(found, "bayes-e"))


def test_a_board_that_came_back_from_a_reboot_is_fit(board: LabBoard, probe: Probe) -> None:
    assert probe.part(0, 1).attempt(board) is None
    before = time.monotonic()
    board.reboot()
    assert unfit(health(board), "bayes-e") == []
    assert time.monotonic() - before < 60
    probe.part(0, 1).assert_fine(board)
