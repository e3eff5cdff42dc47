"""A board's time, against the loop one writes first: one SSH call per frame. Both in one run: `make bench`. Prints; asserts the integers.

200 frames of digits_cnn on a virtual board. What is compared is what surrounds inference: round trips, starts of the tool, bytes;
on a virtual board inference itself is the vendor's simulator.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import connect
from qatladder.boards.virtual import control
from qatladder.evidence import open_store
from qatladder.ladder import Rung
from qatladder.settings import load_settings
from qatladder.validation import plan, run_rung
from qatladder.validation.context import load_rung

FRAMES, NAIVE_FRAMES = 200, 20
SPEC = BoardSpec(name="bench", march="bayes-e", dialect="x5", host="127.0.0.1", port=0, virtual=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The compiled digits_cnn, and a board that is on."""
    if not (load_settings().home / "zoo" / "digits_cnn").is_dir() or not load_settings().vendor_python.is_file():
        pytest.skip("make zoo, with the vendor environment")
    home = tmp_path_factory.mktemp("home")
    (home / "zoo").symlink_to(load_settings().home / "zoo")
    (home / "fleet.yaml").write_text("boards:\n  - {name: bench, march: bayes-e, host: 127.0.0.1, port: 0, virtual: true}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_HOME", str(home))
        patch.setenv("QATLADDER_FLEET", str(home / "fleet.yaml"))
        settings = replace(load_settings(), home=home)
        (ladder,) = plan(["digits_cnn"])
        for rung in ("float", "calib", "qat", "int"):
            run_rung(ladder, rung, "bench", lambda _line: None)
        store = open_store(load_settings())
        built = load_rung(store, "bench", ladder, Rung.INT)
        assert built is not None
        path = store.fetch(built.products["hbm"], home / "digits_cnn.hbm")
        control.start_background(SPEC, settings)
        yield path
        control.stop(SPEC, settings)


def naive(model: Path, frames: list[Path], out: Path) -> tuple[int, int]:
    """Per frame a connection, an upload, a run, a download. Round trips: connections, commands and file operations."""
    trips = sent = 0
    for index, frame in enumerate(frames):
        client = connect(SPEC)
        sftp = client.open_sftp()
        sftp.put(str(model), "/userdata/naive.hbm")
        sftp.put(str(frame), "/userdata/naive.bin")
        argv = hrt.infer_argv("hrt_model_exec", "/userdata/naive.hbm", "/userdata/naive.bin", "x5")
        _, stdout, _ = client.exec_command("cd /userdata && " + " ".join(argv))
        console = stdout.read().decode()
        name = re.findall(r"Dump path: (\S*model_infer_output_0\S*)", console)[0]
        sftp.get(f"/userdata/{Path(name).name}", str(out / f"{index}.bin"))
        sent += model.stat().st_size + frame.stat().st_size
        trips += 5
        client.close()
    return trips, sent


def test_200_frames_of_digits_cnn(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "naive").mkdir()
    lines: list[str] = []
    with Board(SPEC, log=lines.append) as board:
        info = board.model_info(model)
        frames = []
        for index in range(FRAMES):
            frames.append(tmp_path / f"{index}.bin")
            rng.integers(0, 256, info.inputs[0].byte_size, dtype=np.uint8).tofile(frames[-1])
        inputs = [[frame] for frame in frames]
        marks, bytes_sent, trips = [], [], []
        for _ in range(2):
            before, sent, commands = time.monotonic(), board.session.bytes_sent, board.session.commands
            timed = Board(SPEC, board.session)
            dumps = timed.infer(model, inputs, tmp_path / "ours", info=info)
            marks.append((time.monotonic() - before, timed.inference_ms / 1e3, timed.held_ms / 1e3))
            bytes_sent.append(board.session.bytes_sent - sent)
            trips.append(board.session.commands - commands)
        started = time.monotonic()
        slow_trips, _ = naive(model, frames[:NAIVE_FRAMES], tmp_path / "naive")
        slow = (time.monotonic() - started) * FRAMES / NAIVE_FRAMES
        for index in range(NAIVE_FRAMES):
            np.testing.assert_array_equal(
                hrt.read_dump(dumps[index][0], info.outputs[0]), hrt.read_dump(tmp_path / "naive" / f"{index}.bin", info.outputs[0])
            )
        plain = time.monotonic()
        Board(SPEC, board.session).infer(model, inputs[:NAIVE_FRAMES], tmp_path / "plain", info=info, stream=False)
        plain = (time.monotonic() - plain) * FRAMES / NAIVE_FRAMES
    seconds, inference, held = marks[1]
    print(
        f"\n{FRAMES} frames: inside inference {inference:.2f} s, the board is held {held:.2f} s: utilisation {inference / held:.2f} (goal 0.85); "
        f"the whole call, transfers included, {seconds:.2f} s: {inference / seconds:.2f}"
    )
    print(f"bytes sent: first run {bytes_sent[0]}, second {bytes_sent[1]} (goal 0)")
    print(
        f"naive loop, {NAIVE_FRAMES} frames scaled to {FRAMES}: {slow:.1f} s, {slow / seconds:.1f} x ours (goal 3); "
        f"round trips {slow_trips * FRAMES // NAIVE_FRAMES} against {trips[1]}: {slow_trips * FRAMES / NAIVE_FRAMES / trips[1]:.0f} x fewer (goal 10)"
    )
    print(f"without bindings, one process per frame on the board: {plain:.1f} s, naive / that = {slow / plain:.1f}")
