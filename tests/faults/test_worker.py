"""The worker dies in the middle: what the board does for it goes on, and whoever asks again gets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .lab import PATIENCE, LabBoard, until
from .probe import RUN, Probe

pytestmark = pytest.mark.vendor

CLIENT = Path(__file__).with_name("client.py")


def worker(board: LabBoard, probe: Probe, folder: Path) -> subprocess.Popen[bytes]:
    spec = folder / "spec.json"
    spec.write_text(board.spec.model_dump_json())
    files = [str(path) for (path,) in probe.files]
    argv = [sys.executable, str(CLIENT), RUN, str(spec), str(probe.model.hbm), str(folder / "out"), *files]
    return subprocess.Popen(argv, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_worker_killed_during_the_inference_loses_and_repeats_nothing(board: LabBoard, probe: Probe, tmp_path: Path) -> None:
    with board.held():
        process = worker(board, probe, tmp_path)
        until(lambda: board.starts, "the first inference began")
        process.kill()
        process.wait(PATIENCE)
    assert not list(tmp_path.glob("out/**/model_infer_output_*"))
    assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
    probe.assert_fine(board)


def test_a_worker_killed_during_the_upload_leaves_nothing_in_the_way(board: LabBoard, probe: Probe, tmp_path: Path) -> None:
    board.wire.tell(rate=60_000)
    process = worker(board, probe, tmp_path)
    until(lambda: board.wire.tell()[0] > 30_000, "30 kB went to the board")
    process.kill()
    process.wait(PATIENCE)
    board.wire.restore()
    probe.assert_fine(board)
    assert board.starts == len(probe)


def test_a_worker_killed_during_the_download_repeats_nothing(board: LabBoard, probe: Probe, tmp_path: Path) -> None:
    with board.held():
        process = worker(board, probe, tmp_path)
        until(lambda: board.starts, "the first inference began")
        board.wire.tell(rate=60_000)
        before = board.wire.tell()[1]
    until(lambda: board.wire.tell()[1] - before > 30_000, "30 kB came back")
    process.kill()
    process.wait(PATIENCE)
    board.wire.restore()
    assert not list(tmp_path.glob("out/**/model_infer_output_*")), "half an archive was unpacked"
    assert probe.attempt(board) is None
    assert board.starts == len(probe), "an inference was run twice"
    board.assert_clean()
