"""A board end to end on the vendor's simulator: the same integers as the quantized ONNX, or an error, never a wrong result."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.boards.virtual import control
from qatladder.errors import ArtifactError, BrokenError

from .conftest import J5, X5, Bench, Model, Pictures  # type: ignore[import-not-found]

pytestmark = pytest.mark.vendor


@contextmanager
def tool_wrapped(bench: Bench, script: str) -> Iterator[None]:
    """Put a script in the tool's place; `$REAL` in it is the real tool."""
    folder = bench.root(X5) / "usr" / "bin"
    real = folder / "hrt_model_exec.real"
    shutil.copy2(folder / "hrt_model_exec", real)
    wrapper = folder / "wrapper"
    wrapper.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    wrapper.chmod(0o755)
    wrapper.replace(folder / "hrt_model_exec")
    try:
        yield
    finally:
        real.replace(folder / "hrt_model_exec")


def dumps(board: Board, model: Path, files: list[list[Path]], folder: Path) -> npt.NDArray[np.generic]:
    info = board.model_info(model)
    results = board.infer(model, files, folder, info=info)
    return np.stack([hrt.read_dump(paths[0], info.outputs[0]) for paths in results])


def test_health(bench: Bench) -> None:
    with bench.board(X5) as board:
        health = board.health()
    assert health.march == "bayes-e"
    assert "virtual board" in health.versions["tool"]
    assert health.disk_free_mb > 0
    assert health.bpu_idle is None


def test_nv12_integers_equal_the_quantized_onnx(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    model = models["nv12"]
    files, feed = pictures(4)
    seen: list[tuple[int, int]] = []
    with bench.board(X5) as board:
        info = board.model_info(model.hbm)
        assert info.skew == ""
        assert (info.inputs[0].source, info.inputs[0].tensor_type, info.inputs[0].byte_size) == ("pyramid", "NV12", 48 * 64 * 3 // 2)
        assert (info.outputs[0].valid_shape, info.outputs[0].aligned_shape) == ((1, 24, 32, 10), (1, 24, 32, 16))
        results = board.infer(model.hbm, files, tmp_path / "out", progress=lambda done, total: seen.append((done, total)), info=info)
    name = info.outputs[0].name
    expected = model.reference(feed, name)[name]
    found = np.stack([hrt.read_dump(paths[0], info.outputs[0]) for paths in results])
    assert found.dtype == expected.dtype == np.int32
    assert len(np.unique(found)) > 1000
    np.testing.assert_array_equal(found, expected)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert results[3][0].name == f"model_infer_output_0_{name}.bin"
    assert not list((bench.root(X5) / "userdata" / "qatladder" / "jobs").iterdir())


def test_padded_featuremap_integers_equal_the_quantized_onnx(
    bench: Bench, models: dict[str, Model], rng: np.random.Generator, tmp_path: Path
) -> None:
    model = models["featuremap"]
    with bench.board(J5) as board:
        info = board.model_info(model.hbm)
        tensor = info.inputs[0]
        assert (tensor.source, tensor.tensor_type) == ("ddr", "S8")
        assert tensor.valid_shape == (1, 5, 50, 50)
        assert tensor.aligned_shape == (1, 5, 50, 64)
        feed = rng.uniform(-80, 80, (3, 1, 5, 50, 50)).astype(np.float32)
        output = info.outputs[0].name
        expected = model.reference(feed, tensor.name, output)
        files = []
        for index, integers in enumerate(expected[tensor.name]):
            padded = np.full((1, 5, 50, 64), 0x55, np.int8)  # what is in the padding must not matter
            padded[..., :50] = integers
            files.append([tmp_path / f"{index}.bin"])
            padded.tofile(files[-1][0])
        found = dumps(board, model.hbm, files, tmp_path / "out")
        np.testing.assert_array_equal(found, expected[output])
        # The unpadded bytes are not what the runtime takes.
        expected[tensor.name][0].tofile(files[0][0])
        with pytest.raises(BrokenError) as caught:
            board.infer(model.hbm, files[:1], tmp_path / "out", info=info)
        assert caught.value.kind == "input_refused"
        assert "size 12500 is not equal to 16000" in str(caught.value)


@pytest.mark.parametrize("name", ["nv12", "featuremap"])
def test_a_bin_gives_the_floats_of_the_quantized_onnx(
    name: str, bench: Bench, models: dict[str, Model], pictures: Pictures, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = models[name]
    if name == "nv12":
        files, feed = pictures(2)
    else:
        feed = rng.uniform(-80, 80, (2, 1, 5, 50, 50)).astype(np.float32)
        files = [[tmp_path / f"{index}.bin"] for index in range(2)]
        for path, value in zip(files, feed, strict=True):
            value.tofile(path[0])
    with bench.board(X5 if name == "nv12" else J5) as board:
        found = dumps(board, model.bin, files, tmp_path / "out")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, model.reference(feed, "y")["y"])


def test_a_model_name_cannot_run_commands(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    evil = tmp_path / "a; rm -rf x $(touch owned).hbm"
    shutil.copy(models["nv12"].hbm, evil)
    files, _ = pictures(1)
    (tmp_path / "x, y; reboot").mkdir()
    moved = files[0][0].rename(tmp_path / "x, y; reboot" / "in,put.bin")
    with bench.board(X5) as board:
        assert dumps(board, evil, [[moved]], tmp_path / "out").shape == (1, 1, 24, 32, 10)
    assert not list(bench.root(X5).rglob("*owned*"))


def test_many_batches_are_one_result(
    bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = pictures(3)
    with bench.board(X5) as board:
        once = dumps(board, models["nv12"].hbm, files, tmp_path / "once")
        monkeypatch.setattr("qatladder.boards.device.BATCH_BYTES", 1)
        np.testing.assert_array_equal(dumps(board, models["nv12"].hbm, files, tmp_path / "thrice"), once)


def test_perf_of_a_virtual_board_says_it_is_an_estimate(bench: Bench, models: dict[str, Model]) -> None:
    with bench.board(X5) as board:
        perf = board.perf(models["nv12"].hbm, frame_count=50)
    assert perf.estimated
    assert perf.frames == 50
    assert 0 < perf.average_ms < 10
    assert perf.fps == pytest.approx(1e3 / perf.average_ms, rel=1e-3)


# --- everything that can go wrong ---


def test_the_server_dies_in_the_middle_and_the_next_run_is_whole(
    bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path
) -> None:
    model = models["nv12"]
    files, feed = pictures(8)
    with bench.board(X5) as board:
        info = board.model_info(model.hbm)
        pid = control.running(X5, bench.settings)
        assert pid

        def kill(done: int, _: int) -> None:
            if done == 2:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(BrokenError) as caught:
            board.infer(model.hbm, files, tmp_path / "out", progress=kill, info=info)
        assert caught.value.kind == "connection_lost"
        assert caught.value.where["board"] == "virtual-x5"
        os.waitpid(pid, 0)
        bench.start(X5)
        name = info.outputs[0].name
        np.testing.assert_array_equal(dumps(board, model.hbm, files, tmp_path / "out"), model.reference(feed, name)[name])


def failure(bench: Bench, model: Path, files: list[list[Path]], folder: Path) -> BrokenError:
    with pytest.raises(BrokenError) as caught, bench.board(X5) as board:
        dumps(board, model, files, folder)
    assert caught.value.where["board"] == "virtual-x5"
    return caught.value


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ('"$REAL" "$@" || exit; for f in model_infer_output_*; do truncate -s -1 "$f"; done', "dump_truncated"),
        ('"$REAL" "$@" || exit; rm -f model_infer_output_*', "dump_missing"),
        ('"$REAL" "$@"; echo "hbDNNInfer failed, error code: -6000009"', "tool_failed"),
        ('"$REAL" "$@"; exit 3', "tool_failed"),
        ('echo "hrt: not found" >&2; exit 127', "tool_missing"),
        ("exit 0", "console"),
        ("kill -SEGV $$", "tool_failed"),
    ],
)
def test_a_tool_that_lies_or_dies_gives_no_result(
    script: str, kind: str, bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path
) -> None:
    files, _ = pictures(2)
    with bench.board(X5) as board:
        info = board.model_info(models["nv12"].hbm)
        with tool_wrapped(bench, script), pytest.raises(BrokenError) as caught:
            board.infer(models["nv12"].hbm, files, tmp_path / "out", info=info)
    assert caught.value.kind == kind
    assert caught.value.where["board"] == "virtual-x5"


def test_only_the_sample_that_failed_is_named(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    files, _ = pictures(3)
    files[1][0].write_bytes(b"too short")
    error = failure(bench, models["nv12"].hbm, files, tmp_path / "out")
    assert error.where["sample"] == "1"
    assert "is not equal to" in error.console


def test_a_load_error_that_passes_is_tried_again(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    files, _ = pictures(1)
    flag = tmp_path / "flag"
    script = f'test -e {flag} || {{ touch {flag} model_infer_output_9_stale.bin; echo "open file failed, error code: -6000006"; exit 1; }}; exec "$REAL" "$@"'
    with bench.board(X5) as board:
        info = board.model_info(models["nv12"].hbm)
        with tool_wrapped(bench, script):
            assert len(board.infer(models["nv12"].hbm, files, tmp_path / "out", info=info)) == 1
    assert flag.exists()
    assert list(hrt.find_dumps(tmp_path / "out" / "0")) == [0], "the failed attempt's dump was kept"


def test_stale_dumps_are_never_taken_for_new_ones(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    files, _ = pictures(1)
    with bench.board(X5) as board:
        info = board.model_info(models["nv12"].hbm)
        board.infer(models["nv12"].hbm, files, tmp_path / "out", info=info)
        script = 'echo "Infer time: 1.0 ms"'  # says it worked, dumps nothing
        with tool_wrapped(bench, script), pytest.raises(BrokenError) as caught:
            board.infer(models["nv12"].hbm, files, tmp_path / "out", info=info)
    assert caught.value.kind == "dump_missing"


def test_a_model_of_another_march_is_refused(bench: Bench, models: dict[str, Model]) -> None:
    with bench.board(X5) as board, pytest.raises(BrokenError) as caught:
        board.model_info(models["featuremap"].hbm)
    assert caught.value.kind == "model_refused"
    assert "march bayes, the BPU is bayes-e" in str(caught.value)


def test_a_damaged_model_is_refused(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    files, _ = pictures(1)
    damaged = tmp_path / "damaged.hbm"
    data = bytearray(models["nv12"].hbm.read_bytes())
    data[0x10000] ^= 0x55  # the first byte of the hbm's second section; the header is under no checksum
    damaged.write_bytes(data)
    error = failure(bench, damaged, files, tmp_path / "out")
    assert error.kind == "model_refused"
    assert "hbrtErrorHBMCRC32VerifyFail" in error.console


def test_a_file_that_is_no_model(bench: Bench, tmp_path: Path) -> None:
    for name in ("noise.hbm", "noise.bin", "empty.hbm", "empty.bin"):
        (tmp_path / name).write_bytes(os.urandom(5000) if name.startswith("noise") else b"")
        with bench.board(X5) as board, pytest.raises(BrokenError) as caught:
            board.model_info(tmp_path / name)
        assert caught.value.kind == "model_refused"


def test_a_hanging_tool_is_stopped(bench: Bench, models: dict[str, Model]) -> None:
    with bench.board(X5) as board:
        with tool_wrapped(bench, "sleep 300"), pytest.raises(BrokenError) as caught:
            board.perf(models["nv12"].hbm, timeout=1.0)
        assert caught.value.kind == "timeout"
        assert board.perf(models["nv12"].hbm).frames == 200  # the lock is free again


def test_a_sample_needs_a_file_per_input(bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path) -> None:
    files, _ = pictures(2)
    with bench.board(X5) as board, pytest.raises(ArtifactError) as caught:
        board.infer(models["nv12"].hbm, [files[0], files[0] + files[1]], tmp_path / "out")
    assert caught.value.where["sample"] == "1"


# --- the board's bindings ---


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ('exec "$REAL" "$@"', "which repeats hrt_model_exec on the first one"),
        (
            '"$REAL" "$@" && for raw in out/*/stream_0.raw; do printf "\\125" | dd of="$raw" bs=1 conv=notrunc 2>/dev/null; done',
            "is not used",
        ),
        ("exit 69", "no usable bindings"),
        ("exit 1", "no usable bindings"),
        ('"$REAL" "$@"; kill -KILL $$', "no usable bindings"),
    ],
    ids=["sound", "other integers", "none", "failing", "killed"],
)
def test_bindings_are_used_only_where_they_repeat_the_tool(
    python: str, said: str, bench: Bench, models: dict[str, Model], pictures: Pictures, tmp_path: Path
) -> None:
    files, feed = pictures(3)
    folder = bench.root(X5) / "usr" / "bin"
    jobs = bench.root(X5) / "userdata" / "qatladder" / "jobs"
    lines: list[str] = []
    with bench.board(X5) as board:
        left = set(jobs.iterdir()) if jobs.is_dir() else set()  # a job of the server that was killed waits for an hour
        real = folder / "python3.real"
        shutil.copy2(folder / "python3", real)
        wrapper = folder / "wrapper"
        wrapper.write_text(f"#!/bin/sh\nREAL={real}\n{python}\n")
        wrapper.chmod(0o755)
        wrapper.replace(folder / "python3")
        board.log = lines.append
        try:
            info = board.model_info(models["nv12"].hbm)
            results = board.infer(models["nv12"].hbm, files, tmp_path / "out", info=info)
        finally:
            real.replace(folder / "python3")
    name = info.outputs[0].name
    found = np.stack([hrt.read_dump(paths[0], info.outputs[0]) for paths in results])
    np.testing.assert_array_equal(found, models["nv12"].reference(feed, name)[name])
    assert any(said in line for line in lines), lines
    assert set(jobs.iterdir()) <= left
