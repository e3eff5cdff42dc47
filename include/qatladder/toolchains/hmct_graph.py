"""Reads the graphs hmct wrote: what goes in and out of the int model, what runs on the CPU, and whether the scales are the model's own.

Runs in the vendor environment (Python 3.10, onnx 1.15); needs numpy and onnx alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from qatladder.errors import ToolchainError
from qatladder.toolchains.hmct_onnx import Pair, attribute

RIM = {"HzQuantize", "HzDequantize", "HzDequantizeFilter", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
"""Operators that move or convert data at the rim of the BPU part and compute nothing."""

_NUMPY: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}
_KEEPS_VALUES = {
    "DepthToSpace",
    "Flatten",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "Relu",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators whose every output value is one of its input values (or 0, which every symmetric scale holds)."""


class IntGraph:
    """A quantized ONNX with its tensors looked up by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {item.name: item for item in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.inputs = [item for item in model.graph.input if item.name not in self.constants]
        self.types = {item.name: item.type.tensor_type for item in (*self.inputs, *model.graph.value_info, *model.graph.output)}

    def shape(self, name: str) -> list[int]:
        if name not in self.types:
            raise ToolchainError("the int model does not state the shape of a tensor", "convert again", tensor=name)
        return [size.dim_value for size in self.types[name].shape.dim]

    def dtype(self, name: str) -> str:
        kind = self.types[name].elem_type if name in self.types else 0
        if kind not in _NUMPY:
            raise ToolchainError(
                "a tensor of the int model has a type this library does not know", "only int8 models are supported", tensor=name, found=kind
            )
        return _NUMPY[kind]

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.constants[name])


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Inputs and outputs of a quantized ONNX; fields as `qatladder.toolchains.base.IntInput` and `IntOutput` have them.

    Raises:
        ToolchainError: an input or output whose integers cannot be told (it is made of several BPU tensors on the CPU).
    """
    graph = IntGraph(model)
    return {
        "inputs": [_input(graph, item.name) for item in graph.inputs],
        "outputs": [_output(graph, item.name) for item in model.graph.output],
    }


def _input(graph: IntGraph, name: str) -> dict[str, Any]:
    dtype = graph.dtype(name)
    result: dict[str, Any] = {"name": name, "dtype": dtype, "shape": graph.shape(name), "scale": None, "raw_name": name}
    if dtype == "int8":
        return result
    users = graph.consumers.get(name, [])
    if len(users) != 1 or users[0].op_type != "HzQuantize" or attribute(users[0], "bits", 8) != 8:
        raise ToolchainError(
            "a featuremap input does not go straight into one int8 quantisation, so the integers the hbm is fed cannot be told",
            "put one fake-quant on the input, and let every layer read its output",
            input=name,
            found=", ".join(f"{user.name} ({user.op_type})" for user in users) or "no operator",
        )
    result["scale"] = [float(value) for value in graph.array(users[0].input[1]).reshape(-1)]
    result["raw_name"] = users[0].output[0]
    return result


def _output(graph: IntGraph, name: str) -> dict[str, Any]:
    tail: list[str] = []
    tensor, scale, axis = name, [], -1
    while graph.dtype(tensor) not in ("int8", "uint8", "int16", "int32"):  # the BPU holds nothing else
        node = graph.producers.get(tensor)
        sources = [item for item in node.input if item and item not in graph.constants] if node is not None else []
        if node is None or len(sources) != 1:
            raise ToolchainError(
                "an output is made of several BPU tensors on the CPU, so its integers cannot be told",
                "make those tensors outputs, and join them in the adapter's postprocess",
                output=name,
                found=f"{node.name} ({node.op_type}) of {', '.join(sources)}" if node is not None else "no operator",
            )
        tensor = sources[0]
        if node.op_type == "HzDequantize":
            scale = [float(value) for value in graph.array(node.input[1]).reshape(-1)]
            axis = int(attribute(node, "axis", 1)) % len(graph.shape(tensor)) if len(scale) > 1 else -1
            break
        tail.insert(0, node.op_type)
    return {
        "name": name,
        "shape": graph.shape(name),
        "raw_name": tensor,
        "raw_dtype": graph.dtype(tensor),
        "raw_shape": graph.shape(tensor),
        "scale": scale,
        "axis": axis,
        "tail": tail,
    }


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy whose outputs also hold these tensors."""
    graph = IntGraph(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    present = {item.name for item in result.graph.output}
    for name in names:
        if name not in present:
            present.add(name)
            result.graph.output.append(helper.make_tensor_value_info(name, graph.types[name].elem_type, graph.shape(name)))
    return result


def end_of(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of a model between these tensors and its outputs, as a model that takes them.

    Raises:
        ToolchainError: an output needs more than these.
    """
    graph = IntGraph(model)
    kept: set[str] = set()
    waiting = [item.name for item in model.graph.output]
    while waiting:
        name = waiting.pop()
        if not name or name in tensors or name in graph.constants:
            continue
        node = graph.producers.get(name)
        if node is None:
            raise ToolchainError("an output of the int model depends on more than the BPU's outputs", "convert again", tensor=name)
        if node.output[0] not in kept:
            kept.add(node.output[0])
            waiting.extend(node.input)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = [node for node in model.graph.node if node.output[0] in kept]
    used = {name for node in nodes for name in node.input}
    constants = [item for item in model.graph.initializer if item.name in used]
    for field in ("node", "initializer", "input"):
        del getattr(result.graph, field)[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(constants)
    result.graph.input.extend(helper.make_tensor_value_info(name, graph.types[name].elem_type, graph.shape(name)) for name in tensors)
    return result


def canonical(model: onnx.ModelProto) -> bytes:
    """The bytes of a model whose constants and shapes are in the order of their names: hmct writes equal models in varying order."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for items in (result.graph.initializer, result.graph.value_info):
        ordered = sorted(items, key=lambda item: item.name)
        del items[:]
        items.extend(ordered)
    return bytes(result.SerializeToString(deterministic=True))


def operators(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    """Where each operator of the int model runs: the hbm holds what lies between its input and its output features.

    Returns:
        {"bpu": n, "cpu": n, "rim": n, "cpu_operators": ["name (type)"]}; `rim` counts the quantise, dequantise and layout operators outside
        the hbm, `bpu` leaves out layout operators inside it.
    Raises:
        ToolchainError: a feature of the hbm is no tensor of the int model: they are not of one conversion.
    """
    graph = IntGraph(model)
    known = set(graph.producers) | {item.name for item in graph.inputs}
    strangers = [name for name in (*inputs, *outputs) if name not in known]
    if strangers:
        raise ToolchainError(
            "the hbm has a feature the int model does not have", "use the int model and the hbm of one conversion", feature=strangers[0]
        )
    inside: set[str] = set()
    waiting = [name for name in outputs if name not in inputs]
    while waiting:
        node = graph.producers.get(waiting.pop())
        if node is not None and node.output[0] not in inside:
            inside.add(node.output[0])
            waiting.extend(name for name in node.input if name not in inputs)
    count: dict[str, Any] = {"bpu": 0, "cpu": 0, "rim": 0, "cpu_operators": []}
    for node in model.graph.node:
        if node.output[0] in inside:
            count["bpu"] += node.op_type not in RIM
        elif node.op_type in RIM:
            count["rim"] += 1
        else:
            count["cpu"] += 1
            count["cpu_operators"].append(f"{node.name} ({node.op_type})")
    return count


def splitting_operators(hybrid: onnx.ModelProto) -> list[str]:
    """CPU operators between two BPU parts of a hybrid model, as "name (type)"; empty when there is one BPU part."""
    parts = [node for node in hybrid.graph.node if node.op_type == "HzBpuHBM"]
    if len(parts) < 2:
        return []
    downstream, upstream = {name for node in parts for name in node.output}, {name for node in parts for name in node.input}
    middle: list[str] = []
    for node in hybrid.graph.node:
        if node.op_type != "HzBpuHBM" and any(name in downstream for name in node.input):
            downstream.update(node.output)
    for node in reversed(hybrid.graph.node):
        if node.op_type != "HzBpuHBM" and any(name in upstream for name in node.output):
            upstream.update(node.input)
            if any(name in downstream for name in node.input) and node.op_type not in RIM:
                middle.insert(0, f"{node.name} ({node.op_type})")
    return middle


def verify_scales(pairs: Sequence[Pair], calibrated: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[int, int]:
    """Prove that the int model was built with the exported model's scales, and none of hmct's own.

    Every calibration node of the calibrated model must carry the scale of one fake-quantisation of the model, bit for bit (or repeat it
    behind an operator that keeps values); every weight of the int model must be its float weight over its scale, rounded to nearest.

    Returns:
        (how many scales and weight tensors were compared, how many single weights lie half way between two integers within float32
        accuracy). A weight half way is rounded to even by PyTorch and up by hmct: one step that no scale can prevent.
    Raises:
        ToolchainError: names the tensor and both scales.
    """
    compared, half_way = verify_calibration(pairs, calibrated), 0
    graph, weights = IntGraph(quantized), {pair.tensor: pair for pair in pairs if pair.weight is not None}
    integer_nodes = {node.name: node for node in quantized.graph.node}
    for node in calibrated.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in weights:
            half_way += _verify_weight(weights[node.input[1]], node, integer_nodes.get(node.name), graph)
            compared += 1
    return compared, half_way


def verify_calibration(pairs: Sequence[Pair], calibrated: onnx.ModelProto) -> int:
    """The first half of `verify_scales`: the calibrated model's scales against the exported model's."""
    expected = {pair.tensor: pair for pair in pairs}
    producers = {name: node for node in calibrated.graph.node for name in node.output}
    scales: dict[str, Any] = {}
    found: set[str] = set()
    for node in calibrated.graph.node:
        if node.op_type != "HzCalibration":
            continue
        tensor, scale = node.output[0], np.array(attribute(node, "scales", []), np.float32)
        scales[tensor] = scale
        pair = expected.get(tensor)
        if pair is not None:
            found.add(tensor)
            if attribute(node, "qtype", "int8") != "int8" or not np.array_equal(scale, pair.scale):
                raise _other_scale(tensor, pair.scale, scale, attribute(node, "qtype", "int8"))
        elif not (
            _belongs_to_preprocess(node, calibrated)
            or np.array_equal(scale, _scale_behind(node.input[0], producers, scales))
            or np.array_equal(scale, _scale_ahead(tensor, calibrated))
        ):
            source = producers.get(node.input[0])
            raise ToolchainError(
                "hmct quantised a tensor the exported model leaves in float, with a scale of its own",
                "put a fake-quant on this tensor and train again"
                if source is not None
                else "hmct computes an operator of this model with a weight of its own on this march: use another operator",
                tensor=node.input[0],
                operator=f"{source.name} ({source.op_type})" if source is not None else "a constant",
                found=f"scale {scale[0]!s}" if scale.size else "no scale",
            )
    lost = [tensor for tensor in expected if tensor not in found]
    if lost:
        raise ToolchainError(
            "hmct dropped a fake-quantisation of the exported model",
            "look for this tensor in the calibrated model; leave the fake-quant out if it is between operators that hmct fuses",
            tensor=lost[0],
            found=f"{len(found)} of {len(pairs)} kept",
        )
    return len(found)


def _other_scale(tensor: str, expected: Any, found: Any, kind: str) -> ToolchainError:
    return ToolchainError(
        "hmct changed the scale of a fake-quantisation",
        "report this with the exported model: the int model would not be the trained one",
        tensor=tensor,
        expected=f"int8, scale {np.array2string(expected[:4])}",
        found=f"{kind}, scale {np.array2string(found[:4])}",
    )


def _belongs_to_preprocess(node: NodeProto, model: onnx.ModelProto) -> bool:
    """The input (scale 1: the integers themselves) and the colour-matrix weight of the preprocess operator hmct adds for images."""
    users = [item for item in model.graph.node if node.output[0] in item.input]
    return bool(users) and all(item.op_type == "HzPreprocess" for item in users)


def _scale_behind(tensor: str, producers: dict[str, NodeProto], scales: dict[str, Any]) -> Any:
    """The scale of the values in `tensor` when only operators that keep them lie in between; else an empty array."""
    while tensor not in scales:
        node = producers.get(tensor)
        if node is None or not _keeps_values(node):
            return np.zeros(0, np.float32)
        tensor = node.input[0]
    return scales[tensor]


def _scale_ahead(tensor: str, model: onnx.ModelProto) -> Any:
    """The scale the values in `tensor` are quantised with next, when only operators that keep them lie in between; else an empty array.

    hmct quantises in front of such an operator what the exported model quantises behind it; the integers are the same.
    """
    while True:
        users = [node for node in model.graph.node if tensor in node.input]
        if len(users) == 1 and users[0].op_type == "HzCalibration":
            return np.array(attribute(users[0], "scales", []), np.float32)
        if len(users) != 1 or not _keeps_values(users[0]):
            return np.zeros(0, np.float32)
        tensor = users[0].output[0]


def _keeps_values(node: NodeProto) -> bool:
    nearest = node.op_type == "Resize" and attribute(node, "mode", "nearest") == "nearest"
    return node.op_type in _KEEPS_VALUES or nearest


def _verify_weight(pair: Pair, source: NodeProto, node: NodeProto | None, graph: IntGraph) -> int:
    if node is None or len(node.input) < 2 or node.input[1] not in graph.constants:
        raise ToolchainError(
            "a convolution of the exported model is not in the int model",
            "report this with the exported model",
            node=f"{source.name} ({source.op_type})",
        )
    exact, found = pair.quotient(), graph.array(node.input[1])
    # NHWC in the int model: [O, I, H, W] -> [O, H, W, I]; a transposed convolution keeps its input channels first: [I, H, W, O].
    order = (0, 2, 3, 1)
    if exact.ndim == 4 and exact.transpose(order).shape == found.shape:
        exact = exact.transpose(order)
        slack = np.abs(exact) * 4 * 2.0**-24  # float32: the scale, the weight and their quotient are each rounded
        wrong = np.abs(found - exact) > 0.5 + slack
        if not wrong.any():
            return int((np.abs(np.abs(exact - np.floor(exact)) - 0.5) <= slack).sum())
        differing = f"{int(wrong.sum())} of {wrong.size} weights"
    else:
        differing = f"shape {list(found.shape)}"
    raise ToolchainError(
        "hmct built a convolution with other weights than the fake-quantised ones",
        "report this with the exported model: the int model would not be the trained one",
        node=f"{source.name} ({source.op_type})",
        expected=f"weight / scale rounded to nearest, from {list(pair.weight.shape) if pair.weight is not None else []}",
        found=differing,
    )
