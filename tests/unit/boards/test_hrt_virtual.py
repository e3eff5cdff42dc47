"""The virtual board's tool speaks its board's dialect: its consoles and dumps are read back by the parsers that read a real board's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder.boards import hrt
from qatladder.boards.virtual.hrt import __main__ as tool
from qatladder.boards.virtual.hrt.model import Model, Tensor

PICTURE = Tensor("image", "pyramid", (1, 3, 4, 6), (1, 3, 4, 6), (0, 0, 0, 0), 36, "IMG_TYPE_NV12", np.dtype("u1"), "NCHW")
POINTS = Tensor("points", "ddr", (1, 3), (1, 8), (16, 2), 16, "TENSOR_TYPE_S16", np.dtype("<i2"), "NHWC", "SCALE", (), (0.5,), -1)
SCORES = Tensor(
    "head/scores", "", (1, 2, 3), (1, 2, 4), (32, 16, 4), 32, "TENSOR_TYPE_S32", np.dtype("<i4"), "NHWC", "SCALE", (), (0.5, 0.25, 2.0), 2
)
VALUES = np.arange(6, dtype="<i4").reshape(1, 2, 3)
DIALECTS = sorted(hrt.DIALECTS)

fed: list[bytes] = []
"""What the model of the last run was fed."""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the tool in an empty folder with a model of two inputs and one padded output; what it was fed is in `fed`."""

    def run(buffers: Sequence[bytes]) -> list[bytes]:
        fed[:] = buffers
        padded = np.full((1, 2, 4), -7, "<i4")
        padded[..., :3] = VALUES
        return [padded.tobytes()]

    fed.clear()
    model = Model("net", "bayes-e", "1.24.3", (), (PICTURE, POINTS), (SCORES,), run)
    monkeypatch.setattr(tool.model, "load", lambda path: [model])
    monkeypatch.setattr(tool.hbm, "simulator_version", lambda: "3.15.55.0")
    monkeypatch.setattr(tool, "_tool_version", lambda: "1.24.3")
    monkeypatch.chdir(tmp_path)

    def call(dialect: str, *argv: str) -> tuple[int, str]:
        code = tool.main(["bayes-e", *([dialect] if dialect else []), *argv])
        return code, "".join(capfd.readouterr())

    return call


def inputs(dialect: str, folder: Path) -> str:
    """Files for the model's inputs, as the dialect wants them."""
    files = (
        {"y.bin": bytes(range(24)), "uv.bin": bytes(range(24, 36))} if hrt.DIALECTS[dialect].split_nv12 else {"nv12.bin": bytes(range(36))}
    )
    files["points.bin"] = np.array([1, 2, 3, 0, 0, 0, 0, 0], "<i2").tobytes()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return ",".join(files)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_model_info_states_what_the_dialect_states(ran: Any, dialect: str) -> None:
    code, console = ran(dialect, *hrt.model_info_argv("t", "m.bin")[1:])
    (model,) = hrt.parse_model_info(console)
    output, kind = model.outputs[0], hrt.DIALECTS[dialect]
    assert (code, model.name, hrt.failure(console)) == (0, "net", None)
    assert (output.valid_shape, output.scale, output.quantize_axis) == ((1, 2, 3), (0.5, 0.25, 2.0), 2)
    assert len(model.inputs) == (3 if kind.split_nv12 else 2)
    assert (output.name, output.stride) == (("head/scores", (32, 16, 4)) if kind.states_memory else ("", ()))
    assert model.versions["hbrt"].startswith("3.15.55")
    if kind.split_nv12:
        assert [item.name for item in model.inputs] == ["image_y", "image_uv", "points"]
        assert [item.valid_shape for item in model.inputs[:2]] == [(1, 4, 6, 1), (1, 2, 3, 2)]
        assert model.inputs[0].is_dynamic and not model.inputs[2].is_dynamic
        assert output.aligned_shape == () and model.versions["ucp"] == "1.24.3"
    else:
        assert model.inputs[0].tensor_type == "NV12" and output.aligned_shape == (1, 2, 4)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_infer_dumps_what_the_parsers_read(ran: Any, tmp_path: Path, dialect: str) -> None:
    _, console = ran(dialect, "model_info", "--model_file=m.bin")
    (model,) = hrt.parse_model_info(console)
    code, console = ran(dialect, *hrt.infer_argv("t", "m.bin", inputs(dialect, tmp_path), dialect)[1:])
    assert code == 0, console
    infer = hrt.parse_infer(console)
    name = "model_infer_output_0_head_scores.bin" if hrt.DIALECTS[dialect].named_dumps else "model_infer_output_0.bin"
    assert infer.dumps[-1] == name and infer.unknown == ()
    np.testing.assert_array_equal(hrt.read_dump(hrt.find_dumps(tmp_path)[0], model.outputs[0]), VALUES)
    assert b"".join(fed)[:36] == bytes(range(36)), "Y and UV are one picture again"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_flag_of_another_dialect_is_refused_as_gflags_does(ran: Any, dialect: str) -> None:
    for flag in sorted(set().union(*(kind.flags for kind in hrt.DIALECTS.values())) - hrt.DIALECTS[dialect].flags):
        code, console = ran(dialect, "infer", "--model_file=m.bin", f"--{flag}=1")
        assert (code, console) == (1, f"ERROR: unknown command line flag '{flag}'\n")
        found = hrt.failure(console, code)
        assert found is not None and found.kind == "console"


@pytest.mark.parametrize("dialect", ["j6", "s100"])
def test_the_newer_tool_pads_an_input_of_the_valid_size(ran: Any, tmp_path: Path, dialect: str) -> None:
    files = inputs(dialect, tmp_path)
    (tmp_path / "points.bin").write_bytes(np.array([1, 2, 3], "<i2").tobytes())
    _, console = ran(dialect, "infer", "--model_file=m.bin", f"--input_file={files}")
    assert hrt.parse_infer(console).paddings == (hrt.Padding("points.bin", (1, 3), (16, 2)),)
    assert fed[1] == np.array([1, 2, 3, 0, 0, 0, 0, 0], "<i2").tobytes()


def test_an_older_tool_refuses_an_input_of_the_valid_size(ran: Any, tmp_path: Path) -> None:
    files = inputs("x5", tmp_path)
    (tmp_path / "points.bin").write_bytes(bytes(6))
    code, console = ran("x5", "infer", "--model_file=m.bin", f"--input_file={files}")
    found = hrt.failure(console, code)
    assert found is not None and found.kind == "input_refused"


@pytest.mark.parametrize(
    ("dialect", "flag"),
    [
        ("x5", "hybrid_dequantize_process"),
        ("j5", "hybrid_dequantize_process"),
        ("j6", "dequantize_process"),
        ("j6", "remove_padding_process"),
    ],
)
def test_dumps_that_are_not_raw(ran: Any, tmp_path: Path, dialect: str, flag: str) -> None:
    _, console = ran(dialect, "infer", "--model_file=m.bin", f"--input_file={inputs(dialect, tmp_path)}", "--enable_dump", f"--{flag}=true")
    hrt.parse_infer(console)
    dump = hrt.find_dumps(tmp_path)[0]
    if flag == "remove_padding_process":
        np.testing.assert_array_equal(np.fromfile(dump, "<i4").reshape(1, 2, 3), VALUES)
    else:
        np.testing.assert_array_equal(np.fromfile(dump, "<f4").reshape(1, 2, 3), VALUES * np.float32([0.5, 0.25, 2.0]))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_perf_is_an_estimate_in_every_dialect(ran: Any, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    class Part:
        march, runtime_version = "bayes-e", "3.15.55.0"

        def estimate(self) -> dict[str, float]:
            return {"FPS": 500.0}

    model = Model("net", "bayes-e", "", (Part(),), (PICTURE,), (SCORES,), lambda buffers: [])  # type: ignore[arg-type]
    monkeypatch.setattr(tool.model, "load", lambda path: [model])
    _, console = ran(dialect, *hrt.perf_argv("t", "m.bin", 20, 2, 0, dialect)[1:])
    perf = hrt.parse_perf(console)
    assert (perf.fps, perf.average_ms, perf.frames, perf.threads, perf.estimated, perf.unknown) == (500.0, 2.0, 20, 2, True, ())
    assert ("FPS: 500" in console) == hrt.DIALECTS[dialect].states_memory


def test_a_model_of_another_march_is_refused(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Part:
        march, runtime_version = "bayes", "3.15.55.0"

    model = Model("net", "bayes", "", (Part(),), (PICTURE,), (SCORES,), lambda buffers: [])  # type: ignore[arg-type]
    monkeypatch.setattr(tool.model, "load", lambda path: [model])
    code, console = ran("x5", "model_info", "--model_file=m.bin")
    found = hrt.failure(console, code)
    assert found is not None and found.kind == "model_refused"


def test_without_a_dialect_it_is_the_x5_tool(ran: Any) -> None:
    """Load times differ."""
    said = {dialect: re.sub(r"cost [\d.]+ms", "", ran(dialect, "model_info", "--model_file=m.bin")[1]) for dialect in ("", "x5", "x3")}
    assert said[""] == said["x5"] != said["x3"]
