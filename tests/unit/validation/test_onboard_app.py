"""Promises: a sound on-board program passes, each mistake programs make is found with its cause, and no dump that is missing, cut, stale,
of another frame or of too few digits passes in silence.

The programs run for real, in a process of their own; the board they believe to run on is a folder, and its BPU a matrix product.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.toy import ToyZoo

from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.numerics.contract import InputContract
from qatladder.numerics.tensor import TensorContract, pad, quantize
from qatladder.runner.client import JobAnswer
from qatladder.settings import load_settings
from qatladder.validation import context as context_module
from qatladder.validation.ask import ask
from qatladder.validation.context import Context
from qatladder.validation.onboard_app import MAX_BYTES, App, find
from qatladder.zoo.load import load_zoo

SIZE, COUNT, FED_SCALE = 16, 5, 0.125
SCALE = [float(np.float32(value)) for value in (0.01, 0.04, 0.02, 0.008)]
OUTPUT = TensorContract("y_int", "int32", (1, 4, 2, 3), (1, 4, 2, 4), (128, 32, 16, 4), 128)
"""Three columns in rows of four: the last one is padding."""

ADAPTER = '''
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Camera(Adapter):
    """Smooth pictures; of 2 x 3 cells the strongest channel, or the cells above a score as detections."""
    metric = "accuracy"

    def __init__(self, detect=False, seed=3, features=False):
        self.detect, self.seed, self.features = detect, seed, features

    def samples(self, split, limit=None):
        rng = np.random.default_rng(self.seed)
        y, x = np.mgrid[0:16, 0:16] / 16
        for index in range(limit):
            if self.features:
                x = rng.uniform(-3, 3, (2, 3))
                x[0, :2] = 0.3125, 0.0625  # 2.5 and 0.5 steps of 1/8: where roundings differ
                yield Sample({"x": x.astype("float32")}, 0)
                continue
            ramps = rng.uniform(-80, 80, (3, 4))
            planes = [128 + a * x + b * y + c * np.sin(6 * x + index) + d * x * y for a, b, c, d in ramps]
            pixels = np.stack(planes, -1) + rng.uniform(-20, 20, (16, 16, 3))
            yield Sample({"image": np.clip(pixels, 0, 255).astype("uint8")}, 0)

    def postprocess(self, outputs):
        y = outputs["y"][0]
        if not self.detect:
            return y.argmax(0).tolist()
        rows, columns = np.nonzero((y[0] > y[1]) & (self.detect != "never"))
        boxes = np.stack([columns, rows, columns + 1, rows + 1], 1)
        return {"boxes": boxes.tolist(), "scores": (y[0] - y[1])[rows, columns].tolist(), "labels": y[:, rows, columns].argmax(0).tolist()}

    def score(self, predictions, targets):
        return {"accuracy": 1.0}
'''

PROGRAM = """
import array, json, sys
from pathlib import Path

model, frames, out = (Path(name) for name in sys.argv[1:4])
weights = json.loads(model.read_text())["weights"]
scales = json.loads(model.with_suffix(".json").read_text())["outputs"][0]["scale"]
for number in range(5):
    rgb = (frames / f"image_{number}.ppm").read_bytes()[-768:]
    red, green, blue = rgb[0::3], rgb[1::3], rgb[2::3]
    luma = [299 * red[i] + 587 * green[i] + 114 * blue[i] for i in range(256)]
    frame = bytearray((y + 500) // 1000 for y in luma)
    for top in range(0, 16, 2):
        for left in range(0, 16, 2):
            four = [16 * (top + y) + left + x for y in (0, 1) for x in (0, 1)]
            u = (2 * sum(1000 * blue[i] - luma[i] for i in four) + 4 * 1772) // (8 * 1772) + 128
            v = (2 * sum(1000 * red[i] - luma[i] for i in four) + 4 * 1402) // (8 * 1402) + 128
            frame += bytes([min(max(u, 0), 255), min(max(v, 0), 255)])
    (out / f"input_{number}.yuv").write_bytes(frame)
    sums = [sum(a * b for a, b in zip(row, frame)) for row in weights]
    buffer = [value for cell in range(8) for value in (*sums[3 * cell : 3 * cell + 3], 7777)]
    raw = [buffer[4 * row + column] for row in range(8) for column in range(3)]
    (out / f"raw_{number}.bin").write_bytes(array.array("i", raw).tobytes())
    values = array.array("f", [raw[i] * scales[i // 6] for i in range(24)])
    (out / f"float_{number}.bin").write_bytes(values.tobytes())
    best = [max(range(4), key=lambda channel: values[6 * channel + cell]) for cell in range(6)]
    (out / f"best_{number}.txt").write_text("".join(f"{label}\\n" for label in best))
    print(f"frame {number}")
"""

OUTPUTS = [
    {"stage": "postprocessed", "name": "best", "pattern": "best_{sample}.txt"},
    {"stage": "raw", "name": "y", "pattern": "raw_{sample}.bin"},
    {"stage": "dequantised", "name": "y", "pattern": "float_{sample}.bin"},
]


def run_here(environment: Any, call: str, args: dict[str, Any], folder: Path, **_: Any) -> JobAnswer:
    """A job of the model's code in this process; only JSON goes in and out, as between processes."""
    module, function = call.split(":")
    value = getattr(importlib.import_module(module), function)(**json.loads(json.dumps(args)))
    return JobAnswer(json.loads(json.dumps(value)), {}, 0.0)


def frames_of(contract: InputContract, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, TensorContract]:
    """Training tensor (not kept of pictures), the board's bytes, and the hbm's feature."""
    frames = contract.runtime(pictures).reshape(COUNT, -1)
    return frames, frames, TensorContract("image", "int8", (1, SIZE, SIZE, 3), source="pyramid")


def rgb_of(contract: InputContract, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, TensorContract]:
    feature = TensorContract("image_int", "int8", (1, SIZE, SIZE, 3), (1, SIZE, 32, 3), (1536, 96, 3, 1), 1536, "ddr")
    padded = [feature.pad(sample[None]) for sample in contract.intermediate(contract.runtime(pictures))]
    return pictures, np.stack([np.frombuffer(row, np.uint8) for row in padded]), feature


def features_of(contract: InputContract, training: np.ndarray) -> tuple[np.ndarray, np.ndarray, TensorContract]:
    feature = TensorContract("x_int", "int8", (1, 1, 2, 3), (1, 1, 2, 16), (32, 32, 16, 1), 32, "ddr")
    integers = quantize(training, [FED_SCALE], "half_even").reshape(COUNT, 1, 1, 2, 3)
    return training, np.stack([np.frombuffer(feature.pad(sample), np.uint8) for sample in integers]), feature


class FolderBoard:
    """A board that is a folder of this machine: programs run in it, and `dumped` is what one left in its dump folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dumped = folder / "dumped"
        self.sent: dict[str, bytes] = {}
        self.printed: list[str] = []
        self.asked: tuple[str, float | None, int] | None = None

    def run_program(self, files: Mapping[str, Path], argv: Sequence[str], out_dir: Path, timeout: float) -> Path:
        job = self.folder / "job"
        for name, path in files.items():
            (job / name).parent.mkdir(parents=True, exist_ok=True)
            (job / name).write_bytes(path.read_bytes())
            self.sent[name] = path.read_bytes()
        (job / "out").mkdir()
        done = subprocess.run(argv, cwd=job, capture_output=True, text=True, timeout=timeout)
        self.printed += done.stdout.splitlines()
        if done.returncode:
            raise BrokenError("the program failed", kind="program_failed", console=done.stdout + done.stderr)
        (job / "out").rename(out_dir)
        return out_dir

    def fetch_folder(self, remote: str, out_dir: Path, newer_than: float | None, max_bytes: int) -> Path:
        self.asked = (remote, newer_than, max_bytes)
        old = [path for path in self.dumped.iterdir() if newer_than is not None and path.stat().st_mtime < newer_than]
        if old:
            raise BrokenError("the dumps are old", kind="dump_stale", found=old[0].name)
        self.dumped.rename(out_dir)
        return out_dir


class Stand:
    """A ladder that has reached the board, with a program on it; a test changes one thing and asks both checks."""

    def __init__(self, zoo: ToyZoo, board: FolderBoard) -> None:
        self.zoo, self.board = zoo, board
        self.program = PROGRAM
        self.onboard: dict[str, Any] = {
            "command": [sys.executable, "app.py", "{model}", "{inputs}", "{out}"],
            "files": ["onboard/app.py"],
            "inputs": [{"name": "image", "pattern": "input_{sample}.yuv"}],
            "outputs": OUTPUTS,
        }
        self.options: dict[str, Any] = {}
        self.input: dict[str, Any] = {
            "name": "image",
            "shape": [1, 3, SIZE, SIZE],
            "type_train": "rgb",
            "type_rt": "nv12",
            "source": "pyramid",
        }
        self.feed: Callable[[InputContract, np.ndarray], tuple[np.ndarray, np.ndarray, TensorContract]] = frames_of
        self.log: list[str] = []
        self.make: Callable[[], App]
        self.raw: Callable[[np.ndarray], np.ndarray] = lambda integers: integers

    def edit(self, old: str, new: str) -> None:
        """Put a mistake into the program."""
        assert self.program.count(old) == 1
        self.program = self.program.replace(old, new)

    def ask(self) -> tuple[CheckResult, CheckResult]:
        zoo = self.zoo.folder / "zoo"
        (zoo / "camera.py").write_text(ADAPTER)
        (zoo / "onboard").mkdir(exist_ok=True)
        (zoo / "onboard" / "app.py").write_text(self.program)
        target = {"march": "bayes-e", "onboard": self.onboard}
        self.zoo.entry(adapter="camera.py:Camera", adapter_options=self.options, inputs=[self.input], targets=[target])
        settings = load_settings()
        (entry,) = load_zoo(settings).entries.values()
        folder = self.zoo.folder / "work"
        folder.mkdir()
        context = Context(
            {"model": "toy", "version": "1", "target": "bayes-e"}, entry, entry.targets[0], Rung.BOARD, "run", settings,
            load_zoo(settings), open_store(settings), None, folder, self.log.append,  # type: ignore[arg-type]
        )  # fmt: skip
        exported = context.model_job("export_samples", {"split": "evaluation", "limit": COUNT, "out": str(folder / "raw")}, "export")
        training, bundle, feature = self.feed(entry.inputs[0].contract(), np.load(exported["inputs"][entry.inputs[0].name]))
        weights = np.random.default_rng(1).integers(-100, 100, (24, bundle.shape[1]))
        (folder / "model.hbm").write_text(json.dumps({"weights": weights.tolist()}))
        for name, array in (("bundle", bundle), ("training", training)):
            np.save(folder / f"{name}.npy", array)
        np.save(folder / "y.npy", self.raw((bundle.astype(np.int64) @ weights.T).astype(np.int32).reshape(COUNT, 1, 4, 2, 3)))
        output = {
            "name": "y",
            "shape": [1, 4, 2, 3],
            "raw_name": "y_int",
            "raw_dtype": "int32",
            "raw_shape": [1, 4, 2, 3],
            "scale": SCALE,
            "axis": 1,
        }
        name = entry.inputs[0].name
        int_model = {"inputs": [{"name": name, "scale": [FED_SCALE], "raw_name": feature.name}], "outputs": [output]}
        fed = {f"fed/{name}": context.store.put(folder / "training.npy"), f"board/{name}": context.store.put(folder / "bundle.npy")}
        built = RungResult(Rung.INT, (), fed, json.loads(json.dumps({"int_model": int_model})))
        compiled = RungResult(Rung.HBM, (), fed, json.loads(json.dumps({"compile": {"inputs": [asdict(feature)]}})))
        assert context.target.onboard is not None
        self.make = lambda: App(context, context.target.onboard, built, compiled, self.board, folder / "model.hbm")  # type: ignore[arg-type]
        app = self.make()
        went_in = ask(context, "board.app_input", app.input)
        return went_in, ask(context, "board.app_output", lambda: app.output({"y_int": folder / "y.npy"}, [OUTPUT]))


@pytest.fixture
def stand(toy_zoo: ToyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr(context_module, "run_job", run_here)
    monkeypatch.setattr(sys, "path", list(sys.path))
    board = FolderBoard(tmp_path / "board")
    board.dumped.mkdir(parents=True)
    return Stand(toy_zoo, board)


def words(check: CheckResult) -> str:
    return " | ".join([check.measured, check.expected, check.reason])


# --- a sound program ---------------------------------------------------------------------------------------------------------


def test_a_sound_program_passes_at_every_stage(stand: Stand) -> None:
    went_in, came_out = stand.ask()
    assert went_in.status is Status.PASSED, words(went_in)
    assert went_in.measured == "5 of 5 frames: every input byte for byte what hrt_model_exec was fed"
    assert came_out.status is Status.PASSED, words(came_out)
    assert came_out.measured == "y raw: 5 of 5 frames agree; y dequantised: 5 of 5 frames agree; best postprocessed: 5 of 5 frames agree"
    assert [item.name for item in came_out.evidence] == ["app_dumps.tar"]
    assert "frame 4" in stand.board.printed
    assert {"app.py", "program.sh", "model.hbm", "model.json", "inputs/image_0.ppm", "inputs/image_4.ppm"} <= set(stand.board.sent)
    assert stand.board.sent["inputs/image_0.ppm"].startswith(b"P6\n16 16\n255\n")


def test_a_second_board_may_be_asked_the_same(stand: Stand) -> None:
    stand.ask()
    shutil.rmtree(stand.board.folder / "job")
    assert stand.make().input().passed


def test_a_program_may_be_called_once_per_sample(stand: Stand) -> None:
    stand.onboard["command"] = [sys.executable, "app.py", "{model}", "{inputs}", "{out}", "{sample}"]
    stand.edit("range(5)", "[int(sys.argv[4])]")
    assert all(stand.ask())
    assert stand.board.printed.count("frame 3") == 1


def test_dumps_may_hold_the_padding(stand: Stand) -> None:
    """As somebody writes them who dumps the whole buffer: it is the tool that states what of it is padding."""
    stand.edit('array.array("i", raw)', 'array.array("i", buffer)')
    assert all(stand.ask())


def test_a_row_stride_of_the_frame_is_taken_off_where_it_is_stated(stand: Stand) -> None:
    stand.edit(".write_bytes(frame)", '.write_bytes(b"".join(frame[16 * y : 16 * y + 16] + bytes(16) for y in range(24)))')
    stand.onboard["inputs"][0]["stride"] = 32
    assert all(stand.ask())


def test_dumps_may_be_numpy_or_text_and_in_another_layout(stand: Stand) -> None:
    stand.edit(
        'float_{number}.bin").write_bytes(values.tobytes())',
        "float_{number}.txt\").write_text(' '.join(f'{values[6 * c + i]:.9g}' for i in range(6) for c in range(4)) + '\\n')",
    )
    stand.onboard["outputs"] = [{"stage": "dequantised", "name": "y", "pattern": "float_{sample}.txt", "shape": [2, 3, 4]}]
    assert all(stand.ask())


# --- what goes wrong before the model ----------------------------------------------------------------------------------------

SWAPPED = ("frame += bytes([min(max(u, 0), 255), min(max(v, 0), 255)])", "frame += bytes([min(max(v, 0), 255), min(max(u, 0), 255)])")


@pytest.mark.parametrize(
    ("old", "new", "cause", "said"),
    [
        (*SWAPPED, "channel_swap", "U and V are exchanged (NV21)"),
        ("red, green, blue = rgb[0::3], rgb[1::3], rgb[2::3]", "blue, green, red = rgb[0::3], rgb[1::3], rgb[2::3]", "channel_swap", "BGR"),
        ("(y + 500) // 1000 for y", "(y * 219 // 255 + 16500) // 1000 for y", "none", "integers differ"),
        ("(y + 500) // 1000", "y // 1000", "rounding", "at most 2 levels apart"),
        (".write_bytes(frame)", ".write_bytes(bytes(384))", "all_zero", "all_zero"),
        (".write_bytes(frame)", ".write_bytes(rgb)", "type", "3 bytes a pixel: RGB, BGR or YUV444, not NV12"),
        (".write_bytes(frame)", ".write_bytes(frame[:256])", "type", "chroma"),
        (".write_bytes(frame)", ".write_bytes(frame[:-7])", "size", "the file is truncated, expected 384 bytes"),
        (".write_bytes(frame)", '.write_bytes(b"".join(frame[16 * y : 16 * y + 16] + bytes(16) for y in range(24)))', "padding", "stride: 32"),
        (".write_bytes(frame)", ".write_bytes(frame[2:] + frame[:2])", "shifted", "shifted"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_named(stand: Stand, old: str, new: str, cause: str, said: str) -> None:
    stand.edit(old, new)
    went_in, came_out = stand.ask()
    assert went_in.status is Status.FAILED
    assert went_in.values["fingerprint"] == cause, words(went_in)
    assert said in went_in.reason
    assert went_in.measured.startswith("0 of 5 frames")
    assert went_in.cause and went_in.next_steps
    assert came_out.status is Status.SKIPPED and came_out.required
    assert "no input of the program is proven" in came_out.reason


FEATURES = {
    "name": "x", "shape": [1, 2, 3], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr",
}  # fmt: skip
FEED_FEATURES = """
import array, sys
from pathlib import Path
frames, out = Path(sys.argv[2]), Path(sys.argv[3])
for number in range(5):
    x = array.array("f", (frames / f"x_{number}.bin").read_bytes())
    q = [min(max(round(value / 0.125), -128), 127) for value in x]
    (out / f"input_{number}.bin").write_bytes(array.array("b", q).tobytes())
"""
FEED_RGB = """
import sys
from pathlib import Path
frames, out = Path(sys.argv[2]), Path(sys.argv[3])
for number in range(5):
    rgb = (frames / f"image_{number}.ppm").read_bytes()[-768:]
    (out / f"input_{number}.bin").write_bytes(bytes(value ^ 128 for value in rgb))
"""


def feed(stand: Stand, kind: str) -> None:
    """A model that is fed a featuremap, or RGB, from DDR."""
    if kind == "features":
        stand.program, stand.input, stand.feed, stand.options = FEED_FEATURES, FEATURES, features_of, {"features": True}
    else:
        stand.program, stand.feed = FEED_RGB, rgb_of
        stand.input = {**stand.input, "layout": "NHWC", "shape": [1, SIZE, SIZE, 3], "type_rt": "rgb", "source": "ddr"}
    stand.onboard["inputs"] = [{"name": stand.input["name"], "pattern": "input_{sample}.bin"}]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("features", "", ""),
        ("features", ".tobytes())", ".tobytes()[:3] + bytes(13) + array.array('b', q).tobytes()[3:] + bytes(13))"),
        ("features", 'input_{number}.bin").write_bytes(array.array("b", q).tobytes())', 'input_{number}.bin").write_text(f"{str(q)[1:-1]}\\n")'),
        ("rgb", "", ""),
    ],
)  # fmt: skip
def test_inputs_from_ddr_pass_padded_or_not_binary_or_text(stand: Stand, kind: str, old: str, new: str) -> None:
    feed(stand, kind)
    stand.program = stand.program.replace(old, new) if old else stand.program
    went_in, _ = stand.ask()
    assert went_in.status is Status.PASSED, words(went_in)


@pytest.mark.parametrize(
    ("kind", "old", "new", "cause", "said"),
    [
        ("features", "round(value / 0.125)", "int(value // 0.125 + (value % 0.125 >= 0.0625))", "rounding", "half_up, declared is half_even"),
        ("features", "round(value / 0.125)", "round(value * 0.125)", "scale", "multiplied by the scale"),
        ("features", "round(value / 0.125)", "round(value)", "scale", "not divided by any scale"),
        ("features", 'array.array("b", q)', "x", "type", "float32: the input is not quantised"),
        ("features", ".tobytes())", ".tobytes()[:5])", "size", "the file is truncated"),
        ("rgb", "value ^ 128 for", "value for", "offset", "128 is subtracted, or is not"),
        ("rgb", "in rgb)", "in [rgb[3 * (i // 3) + 2 - i % 3] for i in range(768)])", "channel_swap", "is bgr, declared is rgb"),
    ],
)  # fmt: skip
def test_a_wrong_input_from_ddr_is_named(stand: Stand, kind: str, old: str, new: str, cause: str, said: str) -> None:
    feed(stand, kind)
    stand.edit(old, new)
    went_in, _ = stand.ask()
    assert went_in.status is Status.FAILED
    assert went_in.values["fingerprint"] == cause, words(went_in)
    assert said in went_in.reason, words(went_in)
    assert went_in.cause and went_in.next_steps


def test_an_exchanged_input_is_told_from_a_wrong_one(stand: Stand) -> None:
    stand.edit('(out / f"input_{number}.yuv")', '(out / f"input_{(number + 1) % 5}.yuv")')
    went_in, _ = stand.ask()
    assert went_in.values["fingerprint"] == "stale"
    assert "the input is that of sample 4" in went_in.reason
    assert [item.name for item in went_in.evidence] == ["app_dumps.tar", "difference.html"]


def test_outputs_are_judged_where_the_input_is_right(stand: Stand) -> None:
    stand.edit(".write_bytes(frame)", ".write_bytes(frame if number != 2 else bytes(384))")
    went_in, came_out = stand.ask()
    assert went_in.status is Status.FAILED
    assert went_in.measured.startswith("4 of 5 frames") and "frame 2: image, against sample 2" in went_in.reason
    assert came_out.status is Status.PASSED
    assert "4 of 4 frames agree" in came_out.measured and "1 frames left out, whose inputs differ" in came_out.measured


def test_other_samples_than_the_int_model_was_fed_are_nobodys_fault(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def changing(environment: Any, call: str, args: dict[str, Any], folder: Path, **rest: Any) -> JobAnswer:
        calls.append(call)
        return run_here(environment, call, {**args, "options": {"seed": len(calls)}}, folder, **rest)

    monkeypatch.setattr(context_module, "run_job", changing)
    went_in, _ = stand.ask()
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "samples_changed")


# --- what goes wrong behind it -----------------------------------------------------------------------------------------------

DENSE = ("buffer[4 * row + column] for row in range(8) for column in range(3)", "buffer[i] for i in range(24)")


@pytest.mark.parametrize(
    ("old", "new", "stage", "cause", "said"),
    [
        (*DENSE, "raw", "padding", "the aligned buffer is read as if it held no padding"),
        ('["weights"]', '["weights"][::-1]', "raw", "none", "integers differ"),
        ("raw[i] * scales[i // 6]", "raw[i]", "dequantised", "not_dequantised", "without their scale"),
        ("write_bytes(values.tobytes())", 'write_bytes(array.array("i", raw).tobytes())', "dequantised", "not_dequantised", "bits of the integers"),
        ("raw[i] * scales[i // 6]", "raw[i] * scales[0]", "dequantised", "scale", "the first channel's scale"),
        ("key=lambda channel: values[6 * channel + cell]", "key=lambda channel: raw[6 * channel + cell]", "postprocessed", "not_dequantised", "without their scale"),
        ("values[6 * channel + cell]", "values[4 * cell + channel]", "postprocessed", "transposed", "channels are taken for the last axis"),
        ("values[6 * channel + cell]", "-values[6 * channel + cell]", "postprocessed", "none", "integers differ"),
        ('f"{label}\\n" for label in best', 'f"0\\n" for label in best', "postprocessed", "all_zero", "all_zero"),
        ('out / f"best_{number}.txt"', 'out / f"best_{(number + 1) % 5}.txt"', "postprocessed", "stale", "previous frame"),
    ],
)  # fmt: skip
def test_a_wrong_output_is_named_at_the_first_stage_that_parts(stand: Stand, old: str, new: str, stage: str, cause: str, said: str) -> None:
    stand.edit(old, new)
    went_in, came_out = stand.ask()
    assert went_in.status is Status.PASSED, words(went_in)
    assert came_out.status is Status.FAILED, words(came_out)
    assert (came_out.values["stage"], came_out.values["fingerprint"]) == (stage, cause), words(came_out)
    assert said in came_out.reason
    assert came_out.cause and came_out.next_steps


def test_dumps_of_an_earlier_model_are_told_from_a_wrong_program(stand: Stand) -> None:
    stand.raw = lambda integers: integers + np.arange(24, dtype=np.int32).reshape(4, 2, 3) ** 2
    went_in, came_out = stand.ask()
    assert went_in and came_out.status is Status.FAILED
    assert came_out.values["stage"] == "raw"
    assert "another model" in came_out.cause


def test_nan_is_no_result(stand: Stand) -> None:
    stand.edit("values.tobytes()", 'array.array("f", [float("nan")] * 24).tobytes()')
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED and "NaN" in came_out.reason


# --- dumps that prove nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("for number in range(5)", "for number in range(4)", "no frames 4"),
        (".write_bytes(frame)", ".write_bytes(frame) if number else None", "no frames 0"),
        ("for number in range(5):", "(out / 'input_7.yuv').write_bytes(bytes(384))\nfor number in range(5):", "also frames 7"),
        ("for number in range(5):", "(out / 'input_01.yuv').write_bytes(bytes(384))\nfor number in range(5):", "input_01.yuv, input_1.yuv"),
    ],
)
def test_a_dump_too_few_or_too_many_is_broken(stand: Stand, old: str, new: str, said: str) -> None:
    stand.edit(old, new)
    went_in, _ = stand.ask()
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "app_dumps")
    assert said in "".join(stand.log)


def test_an_output_that_is_missing_or_cut_is_said(stand: Stand) -> None:
    stand.edit("write_bytes(values.tobytes())", "write_bytes(values.tobytes()) if number else None")
    _, came_out = stand.ask()
    assert (came_out.status, came_out.values["kind"]) == (Status.BROKEN, "app_dumps")


def test_a_truncated_output_fails_with_its_size(stand: Stand) -> None:
    stand.edit("write_bytes(values.tobytes())", "write_bytes(values.tobytes()[:-4])")
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED
    assert "the file is truncated" in came_out.reason and "92 bytes" in came_out.reason
    assert came_out.values["fingerprint"] == "size" and "y raw: 5 of 5 frames agree" in came_out.measured


def test_a_program_that_fails_is_broken(stand: Stand) -> None:
    stand.edit("for number in range(5):", "sys.exit('no camera')\nfor number in range(5):")
    went_in, came_out = stand.ask()
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "program_failed")
    assert came_out.status is Status.SKIPPED and came_out.required
    assert "no camera" in "".join(stand.log)


def test_a_program_file_that_is_not_there_is_the_entrys_fault(stand: Stand) -> None:
    stand.onboard["files"] = ["onboard/other.py"]
    went_in, _ = stand.ask()
    assert went_in.status is Status.FAILED and "does not exist" in went_in.reason


def test_a_text_of_too_few_digits_is_unprovable(stand: Stand) -> None:
    stand.edit(
        'float_{number}.bin").write_bytes(values.tobytes())',
        "float_{number}.txt\").write_text(' '.join(f'{v:.6g}' for v in values) + '\\n')",
    )
    stand.onboard["outputs"] = [{"stage": "dequantised", "name": "y", "pattern": "float_{sample}.txt"}]
    _, came_out = stand.ask()
    assert came_out.status is Status.UNPROVABLE
    assert "6 significant digits" in came_out.reason


# --- results with numbers of their own ---------------------------------------------------------------------------------------

DETECT = """
    found = [(c, r, c + 1, r + 1, values[i] - values[6 + i], max(range(4), key=lambda k: values[6 * k + i])) for i in range(6) for c, r in [(i % 3, i // 3)] if values[i] > values[6 + i]]
    (out / f"boxes_{number}.txt").write_text("".join(" ".join(f"{v:.7g}" for v in row) + "\\n" for row in found))
    print("""


def detections(stand: Stand, **changes: Any) -> None:
    stand.options = {"detect": True}
    stand.edit("\n    print(", DETECT)
    row = {"stage": "postprocessed", "name": "boxes", "pattern": "boxes_{sample}.txt", "fields": ["boxes", "scores", "labels"]}
    stand.onboard["outputs"] = [{**row, "tolerance": {"rtol": 1e-5}, **changes}]


def test_detections_agree_within_the_tolerance(stand: Stand) -> None:
    detections(stand)
    _, came_out = stand.ask()
    assert came_out.status is Status.PASSED, words(came_out)
    assert "(atol 0, rtol 1e-05)" in came_out.expected


def test_detections_in_another_order_agree_only_where_that_is_allowed(stand: Stand) -> None:
    detections(stand)
    stand.edit("in found))", "in found[::-1]))")
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED


def test_detections_in_any_order_agree_where_that_is_allowed(stand: Stand) -> None:
    detections(stand, ordered=False)
    stand.edit("in found))", "in found[::-1]))")
    _, came_out = stand.ask()
    assert came_out.status is Status.PASSED, words(came_out)


def test_a_detection_too_many_is_counted(stand: Stand) -> None:
    detections(stand, ordered=False)
    stand.edit("in found))", "in [*found, (0, 0, 1, 1, 0.5, 1)]))")
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED
    assert "rows of 6, found" in came_out.reason


def test_no_detection_agrees_with_none(stand: Stand) -> None:
    detections(stand)
    stand.options = {"detect": "never"}
    stand.edit("in found))", "in []))")
    _, came_out = stand.ask()
    assert came_out.status is Status.PASSED, words(came_out)


def test_a_detection_where_python_has_none_fails(stand: Stand) -> None:
    detections(stand)
    stand.options = {"detect": "never"}
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED
    assert "expected 0 rows" in came_out.reason


def test_digits_that_do_not_reach_the_tolerance_are_unprovable(stand: Stand) -> None:
    detections(stand, tolerance={"rtol": 1e-6})
    stand.edit(":.7g}", ":.4g}")
    _, came_out = stand.ask()
    assert came_out.status is Status.UNPROVABLE, words(came_out)
    assert "too few for the tolerance" in came_out.reason


def test_a_number_beyond_the_tolerance_fails(stand: Stand) -> None:
    detections(stand, tolerance={"rtol": 1e-3})
    stand.edit("values[i] - values[6 + i],", "(values[i] - values[6 + i]) * 1.0015,")
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED
    assert "numbers beyond the tolerance, first at [0, 4]: expected" in came_out.reason


def test_nan_is_beyond_any_tolerance(stand: Stand) -> None:
    stand.edit("values.tobytes()", 'array.array("f", [float("nan"), *values[1:]]).tobytes()')
    stand.onboard["outputs"] = [{"stage": "dequantised", "name": "y", "pattern": "float_{sample}.bin", "tolerance": {"rtol": 1e-3}}]
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED and "found nan" in came_out.reason


def test_numbers_printed_with_as_many_digits_as_they_need_do_not_show_a_tolerance(stand: Stand) -> None:
    """`1.0` may be 1, or anything that was cut to one decimal."""
    detections(stand)
    stand.edit('f"{v:.7g}"', 'f"{float(v)}"')
    _, came_out = stand.ask()
    assert came_out.status is Status.UNPROVABLE


def test_a_field_the_adapter_does_not_have_is_named(stand: Stand) -> None:
    detections(stand, fields=["boxes", "certainty"])
    _, came_out = stand.ask()
    assert came_out.status is Status.FAILED
    assert "certainty" in came_out.expected and "scores" in came_out.measured


# --- the dump folder of a program that ran by itself ---------------------------------------------------------------------------


def dumped(stand: Stand, frames: Sequence[int]) -> None:
    """Let the program run on the samples, as somebody did by hand, and keep some of its frames under numbers of their own."""
    command = dict(stand.onboard)
    stand.ask()
    (out,) = (stand.zoo.folder / "work").glob("app-*/dumps")
    for number, frame in enumerate(frames):
        for name in ("input_{}.yuv", "raw_{}.bin", "float_{}.bin", "best_{}.txt"):
            data = (out / name.format(frame)).read_bytes()
            (stand.board.dumped / name.format(100 + number)).write_bytes(data)
    (stand.zoo.folder / "work").rename(stand.zoo.folder / "by_hand")
    stand.onboard = {**{key: value for key, value in command.items() if key not in ("command", "files")}, "dump_dir": "/userdata/app/dumps"}


def test_dumps_find_their_samples_by_their_input(stand: Stand) -> None:
    dumped(stand, [3, 1, 3])
    went_in, came_out = stand.ask()
    assert went_in.status is Status.PASSED and went_in.measured.startswith("3 of 3 frames")
    assert came_out.status is Status.PASSED, words(came_out)
    assert stand.board.asked is not None
    remote, newer_than, most = stand.board.asked
    assert (remote, most) == ("/userdata/app/dumps", MAX_BYTES)
    assert newer_than is not None and 23 < (time.time() - newer_than) / 3600 < 25


def test_a_wrong_dump_of_a_known_picture_is_explained(stand: Stand) -> None:
    stand.edit(*SWAPPED)
    dumped(stand, [3, 1])
    went_in, _ = stand.ask()
    assert went_in.status is Status.FAILED
    assert went_in.values["fingerprint"] == "channel_swap" and "against sample 3" in went_in.reason


def test_pictures_of_somebody_else_prove_nothing(stand: Stand) -> None:
    dumped(stand, [3, 1])
    rng = np.random.default_rng(0)
    (stand.board.dumped / "input_101.yuv").write_bytes(rng.integers(0, 256, 384, np.uint8).tobytes())
    went_in, _ = stand.ask()
    assert went_in.status is Status.UNPROVABLE
    assert "1 of 2 dumped inputs are like no sample of this run" in went_in.reason


def test_an_exchanged_output_is_found(stand: Stand) -> None:
    dumped(stand, [3, 1])
    (stand.board.dumped / "raw_100.bin").rename(stand.board.dumped / "other")
    (stand.board.dumped / "raw_101.bin").rename(stand.board.dumped / "raw_100.bin")
    (stand.board.dumped / "other").rename(stand.board.dumped / "raw_101.bin")
    went_in, came_out = stand.ask()
    assert went_in.status is Status.PASSED
    assert came_out.status is Status.FAILED and came_out.values["stage"] == "raw"


def test_old_dumps_and_none_are_broken(stand: Stand) -> None:
    dumped(stand, [])
    went_in, _ = stand.ask()
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "app_dumps")


# --- names of dumps ----------------------------------------------------------------------------------------------------------


def test_a_pattern_takes_its_own_files_only(tmp_path: Path) -> None:
    for name in ("a_1.bin", "a_002.bin", "b_1.bin", "a_1.bin.part", "a_x.bin", "sub/a_9.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert sorted(find(tmp_path, "a_{sample}.bin")) == [1, 2]
    assert sorted(find(tmp_path, "*/a_{sample}.bin")) == [9]
    assert sorted(find(tmp_path, "b*_{sample}.b*")) == [1]


# the pad of the model's output, so that the layout the tests assume is the one they state
def test_the_padding_is_the_fourth_column() -> None:
    buffer = np.frombuffer(pad(np.ones((1, 4, 2, 3), np.int32), OUTPUT.stride, OUTPUT.byte_size), np.int32).reshape(8, 4)
    assert buffer[:, 3].tolist() == [0] * 8 and buffer[:, :3].all()
