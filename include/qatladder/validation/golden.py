"""Makes the golden model of a march: a small network whose integers are known without any board.

The network is generated, not trained: convolutions, a residual add and a max pool over an nv12 picture, with seeded int8 weights and
scales that are powers of two. It takes the way of every other model, QDQ ONNX to int ONNX to hbm; the expected integers are those of
the int ONNX, and the folder is kept only when the simulator gives the same ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards import golden
from qatladder.boards.fleet import Fleet
from qatladder.errors import ArtifactError, ToolchainError
from qatladder.settings import Settings
from qatladder.toolchains.base import Toolchain
from qatladder.validation.features import restore
from qatladder.zoo.schema import MARCHES, Entry

RECIPE = 1
"""Rises with every change of the network or its pictures: a folder of an older recipe is built again."""

SAMPLES = 2
HEIGHT, WIDTH = 32, 64

Log = Callable[[str], None]


def golden_of(march: str, fleet: Fleet, settings: Settings, toolchain: Toolchain, log: Log, rebuild: bool = False) -> golden.Golden:
    """The golden model of a march: the fleet's own, else ours, which is built when it is first needed.

    Raises:
        ArtifactError: the fleet's own is not whole or of another march.
        ToolchainError: there is none: no toolchain on this machine, or it cannot compile for this march. Nothing is wrong with a board.
        BrokenError: the toolchain died.
    """
    own = next((folder for name, folder in fleet.golden.items() if name == march), None)
    if own is not None:
        found = golden.load(own)
        if found.march != march:
            raise ArtifactError(
                "the fleet's golden model is of another march",
                "correct `golden` in the fleet file",
                file=own,
                expected=march,
                found=found.march,
            )
        return found
    folder = settings.home / "golden" / march
    if _fresh(folder) and not rebuild:
        return golden.load(folder)
    with _alone(settings.home / "golden"):
        if _fresh(folder) and not rebuild:  # somebody else built it meanwhile
            return golden.load(folder)
        build(march, folder, toolchain, log)
    return golden.load(folder)


def build(march: str, folder: Path, toolchain: Toolchain, log: Log) -> None:
    """Build the golden model of a march into a folder, whole or not at all.

    Raises:
        ToolchainError: the toolchain is not there, cannot compile for this march, or int model and simulator disagree.
    """
    if march not in MARCHES[toolchain.name]:
        raise ToolchainError(f"there is no golden model of {march}: we can build none", "name one in the fleet file: `golden`", march=march)
    if reason := toolchain.unavailable():
        raise ToolchainError(f"the golden model of {march} cannot be built: {reason}", "name one in the fleet file: `golden`", march=march)
    log(f"building the golden model of {march}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{march}-", dir=folder.parent))
    try:
        whole = scratch / "whole"
        whole.mkdir()
        _build(march, scratch, whole, toolchain)
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(march: str, scratch: Path, whole: Path, toolchain: Toolchain) -> None:
    def log(_line: str) -> None:
        """The tools' consoles are long, and nobody's question; an error carries its own."""

    entry = _entry(march)
    onnx_file = scratch / "golden.onnx"
    onnx_file.write_bytes(network())
    converted = toolchain.convert(entry, entry.targets[0], onnx_file, scratch / "convert", log)
    model = converted.model
    frames = pictures()
    contract = entry.inputs[0].contract()
    feed = contract.intermediate(frames)
    if tuple(model.inputs[0].shape[1:]) != feed.shape[1:]:
        feed = np.ascontiguousarray(feed.transpose(0, 3, 1, 2))
    np.save(scratch / "fed.npy", feed)
    names = [f"input_{sample}_0.bin" for sample in range(len(frames))]
    simulated_files = []
    for name, frame in zip(names, frames, strict=True):
        frame.tofile(whole / name)
        simulated_files.append(scratch / name.replace(".bin", ".yuv"))
        frame.tofile(simulated_files[-1])
    (scratch / "int").mkdir()
    integers = toolchain.run_int(converted.products["int"], {model.inputs[0].name: scratch / "fed.npy"}, scratch / "int", True, log)
    (scratch / "simulate").mkdir()
    simulated = toolchain.simulate(converted.products["hbm"], {model.inputs[0].raw_name: simulated_files}, scratch / "simulate", log)
    outputs = []
    for index, item in enumerate(model.outputs):
        expected, found = np.load(integers[item.raw_name]), np.load(simulated[item.raw_name])
        if difference := golden.first_difference(expected, restore(found, expected.shape)):
            raise ToolchainError(
                "the golden model's int model and its hbm on the simulator disagree",
                "report it: the toolchain is broken, or this program is",
                march=march,
                output=item.raw_name,
                found=difference.format("int model", "simulator"),
            )
        if len(np.unique(expected)) < 10:
            raise ToolchainError("the golden model's output carries too little to prove anything", march=march, output=item.raw_name)
        np.save(whole / f"expected_{index}.npy", found)  # the int model's integers, proven just now, in the hbm's order of axes
        outputs.append({"name": item.raw_name, "file": f"expected_{index}.npy"})
    shutil.copyfile(converted.products["hbm"], whole / "model.hbm")
    data: dict[str, Any] = {
        "golden": RECIPE,
        "march": march,
        "model": "model.hbm",
        "inputs": [[name] for name in names],
        "outputs": outputs,
        "versions": {**toolchain.versions(), **converted.versions},
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(whole.iterdir())},
    }
    (whole / "golden.json").write_text(json.dumps(data, indent=1))


def pictures() -> np.ndarray:
    """[SAMPLES, H*3/2, W] uint8 nv12 pictures: every value is used, so that every input channel counts."""
    return np.random.default_rng(20261123).integers(0, 256, (SAMPLES, HEIGHT * 3 // 2, WIDTH), dtype=np.uint8)


def network() -> bytes:
    """The QDQ ONNX (opset 13): input [1, 3, H, W] float32, outputs `map` [1, 12, H/4, W/4] and `peaks` [1, 10, H/8, W/8]."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {"zero": np.zeros((), np.int8)}

    def fake_quant(source: str, scale: float) -> str:
        constants[f"{source}.scale"] = np.array(scale, np.float32)
        nodes.append(helper.make_node("QuantizeLinear", [source, f"{source}.scale", "zero"], [f"{source}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}.q", f"{source}.scale", "zero"], [f"{source}.dq"]))
        return f"{source}.dq"

    def conv(source: str, name: str, channels: tuple[int, int], size: int, stride: int = 1) -> str:
        into, out = channels
        scale = np.exp2(-rng.integers(8, 10, out)).astype(np.float32)
        weight = f"{name}.weight"
        constants[weight] = rng.integers(-127, 128, (out, into, size, size)).astype(np.float32) * scale.reshape(-1, 1, 1, 1)
        constants[f"{weight}.scale"], constants[f"{weight}.zero"] = scale, np.zeros(out, np.int8)
        constants[f"{name}.bias"] = (rng.integers(-64, 65, out) / 64).astype(np.float32)
        for kind, ends in (("QuantizeLinear", (weight, f"{weight}.q")), ("DequantizeLinear", (f"{weight}.q", f"{weight}.dq"))):
            nodes.append(helper.make_node(kind, [ends[0], f"{weight}.scale", f"{weight}.zero"], [ends[1]], axis=0))
        pads = [size // 2] * 4
        nodes.append(
            helper.make_node(
                "Conv", [source, f"{weight}.dq", f"{name}.bias"], [name], kernel_shape=[size, size], strides=[stride, stride], pads=pads
            )
        )
        return name

    def relu(source: str, scale: float) -> str:
        nodes.append(helper.make_node("Relu", [source], [f"{source}.relu"]))
        return fake_quant(f"{source}.relu", scale)

    stem = relu(conv(fake_quant("data", 2**-7), "stem", (3, 16), 3, 2), 2**-5)
    body = relu(conv(stem, "body", (16, 16), 3, 2), 2**-4)
    branch = conv(body, "branch", (16, 16), 3)
    nodes.append(helper.make_node("Add", [branch, body], ["sum"]))
    joined = relu("sum", 2**-3)
    conv(joined, "map", (16, 12), 1)
    nodes.append(helper.make_node("MaxPool", [joined], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]))
    conv("pooled", "peaks", (16, 10), 3)
    graph = helper.make_graph(
        nodes,
        "golden",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 12, HEIGHT // 4, WIDTH // 4]),
            helper.make_tensor_value_info("peaks", TensorProto.FLOAT, [1, 10, HEIGHT // 8, WIDTH // 8]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    data: bytes = model.SerializeToString()
    return data


def _entry(march: str) -> Entry:
    """The golden model as the toolchain knows models; what it never looks at is filled in for the form."""
    picture = {"name": "data", "shape": [1, 3, HEIGHT, WIDTH], "type_train": "yuv444", "type_rt": "nv12", "source": "pyramid"}
    return Entry.model_validate(
        {
            "model": "golden",
            "version": str(RECIPE),
            "adapter": "none.py:None_",
            "inputs": [{**picture, "mean": [128.0] * 3, "scale": [2**-7] * 3}],
            "artifacts": {"float": "none"},
            "metric": "none",
            "gates": {"float": {"min": 0.0}},
            "targets": [{"march": march}],
        }
    )


def _fresh(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "golden.json").read_text())["golden"] == RECIPE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One builder at a time on this machine: boards of one march are checked side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
