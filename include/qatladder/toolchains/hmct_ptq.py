"""Post-training quantisation with hmct: the float ONNX as hb_mapper takes it, and the samples it calibrates on.

Runs in the vendor environment (Python 3.10, onnx 1.15).
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qatladder.errors import ArtifactError, ToolchainError
from qatladder.toolchains.hmct_onnx import TARGET_OPSET
from qatladder.toolchains.hmct_rewrite import rewrite_float


def prepare(model: onnx.ModelProto, shapes: dict[str, list[int]], name: str) -> onnx.ModelProto:
    """A float ONNX (opset 10, 11 or 13) in an opset hb_mapper takes.

    Raises:
        ToolchainError: it is quantised already, takes other inputs, or uses what that opset cannot say.
    """
    quantised = sorted({node.op_type for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear", "HzQuantize")})
    if quantised:
        raise ToolchainError(
            "the exported model carries scales of its own, and the target asks the toolchain to choose them (ptq)",
            "export the float model for a ptq target, or take `ptq` out of the target",
            found=", ".join(quantised),
        )
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset not in (10, TARGET_OPSET):
        return rewrite_float(model, shapes, name)
    constants = {item.name for item in model.graph.initializer}
    inputs = {item.name: item.type.tensor_type for item in model.graph.input if item.name not in constants}
    found = {key: [axis.dim_value or axis.dim_param or "?" for axis in kind.shape.dim] for key, kind in inputs.items()}
    expected = {key: list(shape) for key, shape in shapes.items()}
    if found != expected:
        raise ToolchainError(
            "the exported model's inputs are not the zoo entry's",
            "export it with fixed axes, the entry's names and shapes, or correct `inputs` of the entry",
            expected=expected,
            found=found,
        )
    strange = sorted({f"{node.name} ({node.op_type})" for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if strange:
        raise ToolchainError(
            f"the exported model has operators that opset {opset} does not know",
            "write them with standard operators, or cut them off and compute them in the adapter's postprocess",
            found=", ".join(strange),
        )
    model.graph.name = name
    return model


def check_nodes(model: onnx.ModelProto, ptq: dict[str, Any]) -> None:
    """Raises ToolchainError when `run_on_cpu` or `run_on_bpu` of a `ptq` names a node the exported model does not have."""
    names = [node.name for node in model.graph.node]
    for option in ("run_on_cpu", "run_on_bpu"):
        if unknown := [name for name in ptq[option] if name not in names]:
            near = [f"closest to {name}: {', '.join(get_close_matches(name, names, 3)) or 'none'}" for name in unknown]
            raise ToolchainError(
                "the target's ptq names a node the exported model does not have",
                f"correct `{option}` of the target's ptq; names change with every export by another torch",
                expected=f"nodes of the exported model; {'; '.join(near)}",
                found=", ".join(unknown),
            )


def write_calibration(files: dict[str, str], inputs: list[dict[str, Any]], folder: Path) -> None:
    """[N, ...] float32 .npy per input as hb_mapper reads it: `<folder>/<index of the input>/<sample>.bin`.

    Raises:
        ArtifactError: an input has no samples, too few, or of another shape.
    """
    for index, item in enumerate(inputs):
        if item["name"] not in files:
            raise ArtifactError(
                "an input of a ptq target has no calibration samples",
                "let `samples` of the adapter yield the split `calibration`",
                input=item["name"],
                found=sorted(files),
            )
        samples = np.load(files[item["name"]], mmap_mode="r")
        if samples.shape[1:] != tuple(item["shape"][1:]) or not len(samples):
            raise ArtifactError(
                "the calibration samples have another shape than the entry states",
                "correct `shape`, or `preprocess` of the adapter",
                input=item["name"],
                expected=f"[N, {', '.join(map(str, item['shape'][1:]))}]",
                found=list(samples.shape),
            )
        place = folder / str(index)
        place.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples):
            np.ascontiguousarray(sample, np.float32).tofile(place / f"{number:05d}.bin")
