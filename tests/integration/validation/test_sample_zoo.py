"""Promises, on the trained sample zoo, the vendor's compiler and simulator, and the virtual board over real SSH:
good entries ship, the bad one does not and says why, and one changed weight, byte or connection changes exactly the right answer.

Stand-in: hrt_model_exec on the virtual board (the vendor publishes none for x86). Everything else is the real thing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.unit.numerics.faults import FAULTS, PAIRS

from qatladder.boards import hrt
from qatladder.boards.fleet import load_fleet
from qatladder.boards.virtual import control
from qatladder.evidence import open_store
from qatladder.ladder import LadderResult, Rung, Status, Verdict
from qatladder.numerics.fingerprint import fingerprint
from qatladder.numerics.tensor import dequantize
from qatladder.settings import PROJECT, load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.validation import run as run_module

pytestmark = [pytest.mark.vendor, pytest.mark.zoo]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder of our own that borrows the trained artifacts, with virtual boards on free ports."""
    trained = load_settings().home / "zoo"
    home = tmp_path_factory.mktemp("home")
    (home / "zoo").symlink_to(trained)
    fleet = yaml.safe_load((PROJECT / "include" / "zoo" / "fleet.yaml").read_text())
    for board in fleet["boards"]:
        board["port"] = 0
    (home / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    patch = pytest.MonkeyPatch()
    patch.setenv("QATLADDER_HOME", str(home))
    patch.setenv("QATLADDER_FLEET", str(home / "fleet.yaml"))
    patch.delenv("QATLADDER_STORE", raising=False)
    settings = load_settings()
    boards = load_fleet(settings.fleet).boards
    for board in boards:
        control.start_background(board, settings)
    yield home
    for board in boards:
        control.stop(board, settings)
    patch.undo()


def climb(model: str, run_id: str) -> LadderResult:

    (ladder,) = plan([model])
    for rung in ladder["rungs"]:
        run_rung(ladder, rung, run_id, print)
    return finish_ladder(ladder, run_id)


@pytest.fixture(scope="module")
def good(home: Path) -> LadderResult:
    return climb("digits_cnn", "good")


@pytest.fixture
def prepared(home: Path, good: LadderResult) -> str:
    """A run whose rungs below the board are done, so that a test can climb to the board alone."""
    run_id = f"prepared-{time.monotonic_ns()}"
    shutil.copytree(home / "evidence" / "runs" / "good", home / "evidence" / "runs" / run_id)
    for path in (home / "evidence" / "runs" / run_id).rglob("board.json"):
        path.unlink()
    return run_id


def test_a_good_classifier_ships_with_every_check_answered(good: LadderResult) -> None:
    unanswered = [(check.id, check.reason) for check in good.checks if check.status is not Status.PASSED and check.required]
    assert unanswered == []
    assert good.verdict is Verdict.SHIP
    for check in good.checks:
        if check.status is Status.PASSED:
            assert check.measured, check.id
            assert check.expected, check.id


@pytest.fixture(scope="module")
def detector(home: Path) -> LadderResult:
    return climb("digits_det", "good")


def test_the_detector_ships(detector: LadderResult) -> None:
    assert detector.verdict is Verdict.SHIP, detector.why


def test_the_featuremap_model_ships(home: Path) -> None:
    result = climb("wdbc_mlp", "good")
    assert result.verdict is Verdict.SHIP, result.why


PTQ = """
model: digits_ptq
version: "1"
adapter: {adapter}:DigitsCnn
inputs:
  - name: image
    shape: [1, 3, 64, 64]
    type_train: rgb
    type_rt: nv12
    source: pyramid
    mean: [123.675, 116.28, 103.53]
    scale: [0.01712475, 0.017507, 0.01742919]
artifacts: {{float: digits_cnn/float.pt, onnx: {onnx}}}
metric: top1
gates:
  float: {{min: 0.95}}
  int: {{max_drop: 0.02}}
samples: {{board: 6}}
targets:
  - march: bayes-e
    ptq: {{method: max, samples: 16}}
    perf: {{max_cpu_ops: {cpu}}}
"""


@pytest.fixture(scope="module")
def float_onnx(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained float classifier with a softmax behind it, as a user exports it who leaves quantisation to the toolchain."""
    code = f"""
import sys
sys.path[:0] = [{str(PROJECT / "include" / "zoo")!r}, {str(PROJECT / "include" / "zoo" / "adapters")!r}]
import torch
from training.digits_cnn import Network

class Classes(Network):
    def forward(self, image):
        return torch.softmax(super().forward(image)[0], 1)

net = Classes()
net.load_state_dict(torch.load({str(home / "zoo" / "digits_cnn" / "float.pt")!r}, weights_only=True))
torch.onnx.export(net.eval(), (torch.zeros(1, 3, 64, 64),), sys.argv[1], input_names=["image"], output_names=["logits"],
                  opset_version=11, dynamo=False)
"""
    file = tmp_path_factory.mktemp("float") / "float.onnx"
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True)
    return file


@pytest.mark.parametrize("cpu", [1, 0])
def test_a_float_model_is_quantised_by_the_toolchain(
    cpu: int, home: Path, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float to board without a quantised training; the softmax behind the BPU part is named, and computed for the board's score."""
    adapter = PROJECT / "include" / "zoo" / "adapters" / "digits_cnn.py"
    (tmp_path / "digits_ptq.yaml").write_text(PTQ.format(adapter=adapter, onnx=float_onnx, cpu=cpu))
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    result = climb("digits_ptq", f"ptq-{cpu}")
    checks = {check.id: check for check in result.checks}
    for name in ("calib", "qat"):
        check = checks[f"{name}.accuracy"]
        assert (check.status, check.required) == (Status.SKIPPED, False)
        assert "the toolchain quantises" in check.reason
    assert "from float" in checks["int.accuracy"].measured
    assert "toolchain's own calibrated" in checks["int.fidelity"].expected
    assert checks["hbm.bit_exact"].status is Status.PASSED
    compiled = checks["hbm.compile"]
    if cpu:
        assert result.verdict is Verdict.SHIP, result.why
        assert checks["board.accuracy"].measured.startswith("top1 ")
        assert "1 on the CPU" in compiled.measured
    else:
        assert result.first_failed_check == "hbm.compile"
        assert "Softmax" in compiled.reason


@pytest.fixture(scope="module")
def tensors(home: Path, good: LadderResult, detector: LadderResult) -> dict[str, tuple[np.ndarray, int]]:
    """Real tensors of the zoo and their channel axis: pictures as both layouts, raw integers, dequantised outputs, few samples of each."""
    found: dict[str, tuple[np.ndarray, int]] = {}
    store = open_store(load_settings())
    for result, count in ((good, 6), (detector, 3)):
        int_rung = next(rung for rung in result.rungs if rung.rung is Rung.INT)
        described = int_rung.facts["int_model"]
        for item in (*described["inputs"], *described["outputs"]):
            evidence = int_rung.products[f"raw/{item['raw_name']}"]
            array = np.load(store.fetch(evidence, home / "tensors" / f"{evidence.sha256}.npy"))[:count]
            axis = 3 if array.shape[-1] == 3 else 1
            found[f"{result.model} {item['name']} {array.dtype}"] = (array, axis)
            if axis == 3:
                found[f"{result.model} {item['name']} NCHW"] = (np.ascontiguousarray(array.transpose(0, 3, 1, 2)), 1)
            elif array.size > 1000:
                found[f"{result.model} {item['name']} dequantised"] = (dequantize(array, item["scale"], item["axis"]), 1)
    return found


def inject(array: np.ndarray, axis: int, names: Sequence[str]) -> np.ndarray | None:
    changed: np.ndarray | None = array
    for name in names:
        assert changed is not None
        before, changed = changed, FAULTS[name](changed, axis, np.random.default_rng(1))
        if changed is None or np.array_equal(before, changed):
            return None
    return None if changed is None or np.array_equal(array, changed) else changed


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_injected_into_a_tensor_of_the_zoo_is_named(tensors: dict[str, tuple[np.ndarray, int]], name: str) -> None:
    seen = 0
    for where, (array, axis) in tensors.items():
        changed = inject(array, axis, [name])
        if changed is None:
            continue
        mark = fingerprint(array, changed)
        assert mark.cause == name and mark.confidence >= 0.9, (where, str(mark))
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_two_mistakes_in_a_tensor_of_the_zoo_are_told_apart(tensors: dict[str, tuple[np.ndarray, int]], names: tuple[str, str]) -> None:
    """In most of them; where one hides the other, nothing else is said."""
    both = seen = 0
    for where, (array, axis) in tensors.items():
        changed = inject(array, axis, names) if array.size > 2000 else None
        if changed is None:
            continue
        mark = fingerprint(array, changed)
        said = {mark.cause, mark.also} - {""}
        assert said <= {*names, "none"}, (where, str(mark))
        both += said == set(names)
        seen += 1
    assert seen >= 2
    assert both >= 0.6 * seen


def test_clean_and_unrelated_tensors_of_the_zoo_raise_no_alarm(tensors: dict[str, tuple[np.ndarray, int]]) -> None:
    rng = np.random.default_rng(0)
    for where, (array, _) in tensors.items():
        assert fingerprint(array, array.copy()).cause == "none", where
        if array[0].size > 50:
            mixed = rng.permutation(array.reshape(-1)).reshape(array.shape)
            assert fingerprint(array, mixed).cause == "none", (where, str(fingerprint(array, mixed)))


def test_the_bad_entry_is_stopped_at_its_input_with_the_cause(home: Path) -> None:
    result = climb("digits_cnn_bad", "bad")
    assert result.verdict is Verdict.NO_SHIP
    assert result.first_failed_check == "int.input"
    check = result.deciding_check
    assert check is not None
    assert check.values["fingerprint"] == "channel_swap"
    assert "red and blue" in check.cause
    by_id = {check.id: check for check in result.checks}
    assert by_id["int.accuracy"].status is Status.FAILED
    # The conversion itself is faithful and the later rungs are still measured: only the declared input is wrong.
    assert by_id["int.fidelity"].status is Status.PASSED
    assert by_id["hbm.bit_exact"].status is Status.PASSED
    assert by_id["board.runtime"].status is Status.PASSED


TAMPER = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
model = onnx.load(sys.argv[1])
convolutions = [node for node in model.graph.node if node.op_type == "HzSQuantizedConv"]
node = convolutions[int(sys.argv[2]) % len(convolutions)]
for item in model.graph.initializer:
    if item.name == node.input[1]:
        weights = numpy_helper.to_array(item).copy()
        index, step = np.argmax(np.abs(weights.astype(int)) < 28), int(sys.argv[3])
        weights.reshape(-1)[index] += step
        item.CopyFrom(numpy_helper.from_array(weights, item.name))
onnx.save(model, sys.argv[1])
"""


def tamper(int_model: Path, convolution: int, step: int = 1) -> None:
    """Change one weight of one convolution."""
    subprocess.run([str(load_settings().vendor_python), "-c", TAMPER, str(int_model), str(convolution), str(step)], check=True)


def test_one_weight_changed_in_the_int_model_breaks_bit_exactness(home: Path, good: LadderResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last convolution, where the integers show it too."""

    class Tampered(Hmct):
        def convert(self, *args: Any, **kwargs: Any) -> Any:
            conversion = super().convert(*args, **kwargs)
            tamper(conversion.products["int"], -1)
            return conversion

    monkeypatch.setitem(run_module.TOOLCHAINS, "hmct", Tampered)
    result = climb("digits_cnn", "tampered-weight")
    by_id = {check.id: check for check in result.checks}
    assert by_id["hbm.input"].status is Status.PASSED
    assert by_id["hbm.bit_exact"].status is Status.FAILED
    assert by_id["board.runtime"].status is Status.FAILED
    assert " 0 of " not in by_id["hbm.bit_exact"].measured
    assert "expected" in by_id["hbm.bit_exact"].reason
    assert "not compiled from this int model" in by_id["hbm.bit_exact"].reason
    assert result.verdict is Verdict.NO_SHIP


def test_the_first_layer_that_differs_is_named(home: Path, good: LadderResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the worst one: a step in an early convolution grows on its way."""

    class TamperedEarly(Hmct):
        def convert(self, *args: Any, **kwargs: Any) -> Any:
            conversion = super().convert(*args, **kwargs)
            tamper(conversion.products["int"], 2, 90)
            return conversion

    monkeypatch.setitem(run_module.TOOLCHAINS, "hmct", TamperedEarly)
    (ladder,) = plan(["digits_cnn"], rungs=["int", "hbm"])
    for rung in ladder["rungs"]:
        answer = run_rung(ladder, rung, "tampered-early", print)
    check = answer.check("hbm.bit_exact")
    assert check is not None and check.status is Status.FAILED
    rows = answer.facts["layers"]["layers"]
    differs = [bool(row["differing"]) for row in rows]
    convolutions = [index for index, row in enumerate(rows) if "Conv" in row["operator"]]
    assert len(convolutions) == 8
    first = differs.index(True)
    assert first == convolutions[2], "the third convolution was changed"
    assert not any(differs[:first])
    assert rows[first]["differing"] < rows[first]["size"] / 8, "one output channel alone"
    assert f"first layer that differs: {rows[first]['name']} (" in check.reason
    assert any(item.name == "layers.csv" for item in check.evidence)


def test_every_layer_of_a_sound_model_is_equal(home: Path, good: LadderResult) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qatladder.cli", "layers", "digits_cnn"], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if " of " in line]
    assert len(rows) >= 9
    assert all(" 0 of " in line for line in rows)


def test_one_weight_of_any_convolution_is_noticed(home: Path, good: LadderResult, tmp_path: Path) -> None:
    """Also where rounding hides it from every output of every sample."""
    store, settings = open_store(load_settings()), load_settings()
    built = good.rungs[3].products
    hbm, hbir = store.fetch(built["hbm"], tmp_path / "m.hbm"), store.fetch(built["hbir"], tmp_path / "m.hbir")
    untouched = store.fetch(built["int"], tmp_path / "int.onnx")
    assert Hmct(settings).compile_report(untouched, hbm, hbir, tmp_path / "untouched", print).contradiction == ""
    for convolution in range(7):
        tampered = tmp_path / f"{convolution}.onnx"
        shutil.copy(untouched, tampered)
        tamper(tampered, convolution)
        report = Hmct(settings).compile_report(tampered, hbm, hbir, tmp_path / str(convolution), print)
        assert "CRC-32" in report.contradiction, convolution


def test_one_byte_changed_in_a_dump_fails_the_runtime_check(home: Path, prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = hrt.read_dump
    touched: set[bytes] = set()

    def tampering(path: Path, tensor: hrt.TensorInfo) -> Any:
        """The first sample's dump, however often it is asked for: what happens once only is a board's fault, not a model's."""
        data = bytearray(path.read_bytes())
        if path.parent.name == "0" and bytes(data) not in touched:
            data[0] ^= 1
            path.write_bytes(data)
            touched.add(bytes(data))
        return read(path, tensor)

    monkeypatch.setattr(hrt, "read_dump", tampering)
    (ladder,) = plan(["digits_cnn"])
    result = run_rung(ladder, "board", prepared, print)
    check = result.check("board.runtime")
    assert touched
    assert check is not None
    assert check.status is Status.FAILED
    assert "1 of " in check.measured


def test_a_board_killed_in_the_middle_is_broken_and_the_next_run_recovers(home: Path, prepared: str) -> None:
    settings = load_settings()
    board = next(item for item in load_fleet(settings.fleet).boards if item.name == "virtual-x5")
    pid = control.running(board, settings)
    assert pid is not None
    frames: list[str] = []

    def kill_at_the_third_frame(line: str) -> None:
        if line.startswith("virtual-x5: frame "):
            frames.append(line)
            if len(frames) == 3:
                os.kill(pid, signal.SIGKILL)

    (ladder,) = plan(["digits_cnn"])
    result = run_rung(ladder, "board", prepared, kill_at_the_third_frame)
    by_id = {check.id: check.status for check in result.checks}
    assert len(frames) >= 3
    assert by_id["board.health"] is Status.PASSED
    assert by_id["board.runtime"] is Status.BROKEN
    assert by_id["board.accuracy"] is Status.SKIPPED
    ladder_result = finish_ladder(ladder, prepared)
    assert ladder_result.verdict is Verdict.UNDECIDED
    assert ladder_result.first_failed_check is None

    control.start_background(board, settings)
    run_rung(ladder, "board", prepared, print)
    assert finish_ladder(ladder, prepared).verdict is Verdict.SHIP


def test_a_board_that_is_off_is_broken_not_failed(home: Path, prepared: str) -> None:
    settings = load_settings()
    board = next(item for item in load_fleet(settings.fleet).boards if item.name == "virtual-x5")
    control.stop(board, settings)
    try:
        (ladder,) = plan(["digits_cnn"])
        result = run_rung(ladder, "board", prepared, print)
    finally:
        control.start_background(board, settings)
    health = result.check("board.health")
    assert health is not None
    assert health.status is Status.BROKEN
    assert [check.status for check in result.checks[1:5]] == [Status.SKIPPED] * 4
    assert finish_ladder(ladder, prepared).verdict is Verdict.UNDECIDED
