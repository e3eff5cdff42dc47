"""The integer operators of a quantized ONNX of the vendor's toolchain, as the stand-in plugin makes an int model of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

CONVOLUTIONS = {"HzSQuantizedConv", "HzSQuantizedPreprocess"}


def write_plan(int_model: Path, hbir: Path, march: str, sources: list[str], folder: Path) -> None:
    """Write plan.json, plan.npz and model.hbir.

    Args:
        int_model: a chain of convolutions behind an image (with its colour operator) or one quantised featuremap.
    """
    model = onnx.load(str(int_model))
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    steps: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    scales = [1 / 128]  # the documents' QuantStub of an image
    image = any(node.op_type == "HzSQuantizedPreprocess" for node in model.graph.node)
    for node in model.graph.node:
        values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type in CONVOLUTIONS:
            assert not constants[node.input[3]].any(), "bias shifts are not needed by these networks"
            step = {
                "pads": list(values.get("pads", [0, 0, 0, 0])),
                "strides": list(values.get("strides", [1, 1])),
                "dilations": list(values.get("dilations", [1, 1])),
                "group": values.get("group", 1),
                "activation": values.get("activation", b"").decode(),
                "output_bit": values["output_bit"],
            }
            if values["output_bit"] == 8:
                step.update({name: list(values[name]) for name in ("right_shift", "scale", "out_shift")})
            arrays[f"weight_{len(steps)}"], arrays[f"bias_{len(steps)}"] = constants[node.input[1]], constants[node.input[2]]
            steps.append(step)
        elif node.op_type == "HzDequantize":
            arrays["output_scale"] = constants[node.input[1]].reshape(-1)
        elif node.op_type == "HzQuantize":
            scales = [float(constants[node.input[1]].reshape(-1)[0])]
        else:
            assert node.op_type in ("Transpose", "Reshape"), node.op_type
    dims = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    shape = [dims[0], dims[3], dims[1], dims[2]] if image else dims
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"march": march, "sources": sources, "input_scales": scales, "input_shape": shape, "steps": steps}
    (folder / "plan.json").write_text(json.dumps(plan, indent=1))
    np.savez(folder / "plan.npz", **arrays)
    shutil.copyfile(hbir, folder / "model.hbir")
