"""Rewrites an exported QDQ ONNX so that hmct builds exactly the quantised model it was given, or says which node it would not.

hmct takes opset 11 only, where no per-channel QuantizeLinear exists; its own form is `horizon::HzQuantize{bits, axis}` followed
directly by `horizon::HzDequantize{axis}`. Around that form it has traps that do not show as errors but as another model:
a zero-point is ignored, a float weight gets the threshold 1.0, an average pool gets a second quantisation with the scale of its input,
a per-channel Gemm ends the process. Each is refused here, or rewritten to an equal form, before the vendor's code sees the model.

Runs in the vendor environment (Python 3.10, onnx 1.15); needs numpy and onnx alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from qatladder.toolchains.hmct_forms import fold_constants, fold_conv_bn, gemm_to_conv, lower_opset, pool_to_mean
from qatladder.toolchains.hmct_onnx import DEQUANTIZE, QUANTIZE, Array, Graph, Pair, attribute, refuse

WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1}
_KEEPS_QUANTISED = {
    "Concat",
    "DepthToSpace",
    "Flatten",
    "GlobalMaxPool",
    "MaxPool",
    "Pad",
    "Relu",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


@dataclass(frozen=True)
class Rewritten:
    """The model hmct is given, and the quantisation it must keep."""

    model: onnx.ModelProto
    pairs: tuple[Pair, ...]


def rewrite(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]], name: str) -> Rewritten:
    """Rewrite a QDQ model.

    Args:
        model: opset 13, static shapes, symmetric int8 QuantizeLinear/DequantizeLinear (what torch.onnx.export writes).
        inputs: name and shape of every input, as the zoo entry declares them.
        name: becomes the graph's name, and thereby the model's name inside the hbm.
    Raises:
        ToolchainError: hmct would refuse the model or build another one; names the node and what to do.
    """
    graph = Graph(model)
    _check_inputs(graph, inputs)
    for step in (
        fold_constants,
        lower_opset,
        _quantise,
        fold_conv_bn,
        pool_to_mean,
        gemm_to_conv,
        _prune,
        _check_weights,
        _check_activations,
        _order,
    ):
        step(graph)
    return Rewritten(graph.assemble(model, name), tuple(graph.pairs()))


def rewrite_float(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int]], name: str) -> onnx.ModelProto:
    """A float model of opset 13 in the opset hmct takes; arguments and errors as `rewrite` has them."""
    graph = Graph(model)
    _check_inputs(graph, inputs)
    for step in (fold_constants, lower_opset, _prune, _order):
        step(graph)
    return graph.assemble(model, name)


def _check_inputs(graph: Graph, inputs: Mapping[str, Sequence[int]]) -> None:
    found = {item.name: item for item in graph.inputs}
    if set(found) != set(inputs):
        raise refuse(
            "the exported model has other inputs than the zoo entry",
            "give torch.onnx.export the entry's names in input_names, or correct `inputs` in the entry",
            expected=", ".join(sorted(inputs)),
            found=", ".join(sorted(found)),
        )
    for name, expected in inputs.items():
        tensor = found[name].type.tensor_type
        sizes = [size.dim_value if size.HasField("dim_value") else (size.dim_param or "?") for size in tensor.shape.dim]
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise refuse(
                "an input has a dynamic axis; a BPU model is compiled for one shape",
                "export without dynamic_axes",
                input=name,
                expected=list(expected),
                found=sizes,
            )
        if sizes != list(expected):
            raise refuse(
                "an input's shape differs from the zoo entry",
                "export at the entry's shape, or correct `shape` in the entry",
                input=name,
                expected=list(expected),
                found=sizes,
            )
        if tensor.elem_type != TensorProto.FLOAT:
            raise refuse(
                "an input is not float32",
                "export the model with the float tensor it was trained on",
                input=name,
                found=TensorProto.DataType.Name(tensor.elem_type),
            )


def _quantise(graph: Graph) -> None:
    """Every QuantizeLinear/DequantizeLinear pair to HzQuantize/HzDequantize; integer constants to fake-quantised float ones."""
    _integer_constants(graph)
    producers, consumers = graph.producers(), graph.consumers()
    if not any(node.op_type == "QuantizeLinear" for node in graph.nodes):
        raise refuse(
            "the exported model holds no QuantizeLinear: hmct would convert it with every threshold at 1.0 and report success",
            "export the qat (or calib) model with its fake-quantisation switched on, observers off",
            found=f"{len(graph.nodes)} nodes, none of them QuantizeLinear",
        )
    for node in graph.nodes:
        if node.op_type == "DequantizeLinear" and getattr(producers.get(node.input[0]), "op_type", "") != "QuantizeLinear":
            raise refuse("a DequantizeLinear does not follow a QuantizeLinear", "export a plain fake-quantised model", node)
    for node in [item for item in graph.nodes if item.op_type == "QuantizeLinear"]:
        _quantise_one(graph, node, consumers.get(node.output[0], []))


def _quantise_one(graph: Graph, node: NodeProto, users: list[NodeProto]) -> None:
    strangers = [user for user in users if user.op_type != "DequantizeLinear"]
    if strangers or not users or graph.is_output(node.output[0]):
        raise refuse(
            "the integers of a QuantizeLinear are used by something else than a DequantizeLinear",
            "export fake-quantisation (quantise, then dequantise), not integer operators",
            node,
            found=", ".join(f"{user.name} ({user.op_type})" for user in strangers) or "no DequantizeLinear",
        )
    scale, axis = _parameters(graph, node)
    constant = node.input[0] in graph.constants
    if axis >= 0 and not constant:
        raise refuse(
            "an activation is quantised per channel; the BPU has one scale per activation",
            "use a per-tensor fake-quant for activations",
            node,
            found=f"{scale.size} scales on axis {axis}",
        )
    for user in users:
        other, other_axis = _parameters(graph, user)
        if other_axis != axis or not np.array_equal(other, scale):
            raise refuse(
                "a DequantizeLinear has another scale than its QuantizeLinear",
                "export a plain fake-quantised model",
                user,
                quantize=node.name,
            )
    first = users[0]
    for user in users[1:]:  # equal by the check above; hmct wants exactly one directly behind each HzQuantize
        if graph.is_output(user.output[0]):
            first, user = user, first
        graph.rename(user.output[0], first.output[0])
        graph.remove(user)
    scale_name, zero_name = f"{node.output[0]}/scale", f"{node.output[0]}/zero_point"
    graph.constants[scale_name], graph.constants[zero_name] = scale, np.zeros(scale.size, np.int8)
    for item, kind in ((node, QUANTIZE), (first, DEQUANTIZE)):
        data = item.input[0]
        del item.input[:]
        del item.attribute[:]
        item.op_type, item.domain = kind, "horizon"
        item.input.extend([data, scale_name, zero_name])
        if kind == QUANTIZE:
            item.attribute.append(helper.make_attribute("bits", 8))
        if axis >= 0:
            item.attribute.append(helper.make_attribute("axis", axis))


def _parameters(graph: Graph, node: NodeProto) -> tuple[Array, int]:
    """(scale as rank-1 float32, channel axis or -1) of a symmetric int8 Q or DQ."""
    if len(node.input) < 3 or not node.input[2]:
        raise refuse("a fake-quantisation without zero-point means uint8; hmct knows int8", "export with a zero-point of int8 0", node)
    missing = [name for name in node.input[1:3] if name not in graph.constants]
    if missing:
        raise refuse(
            "a scale or zero-point is computed at run time",
            "switch the observers off before the export and keep scales as buffers",
            node,
            found=missing[0],
        )
    scale, zero = (graph.constants[name] for name in node.input[1:3])
    if zero.dtype != np.int8:
        raise refuse(
            "a fake-quantisation of a type other than int8",
            "quantise to int8 (quant_min=-128, quant_max=127, dtype=torch.qint8)",
            node,
            expected="int8",
            found=zero.dtype.name,
        )
    if zero.any():
        raise refuse(
            "a non-zero zero-point; hmct ignores it silently",
            "train with symmetric fake-quantisation (qscheme=torch.per_tensor_symmetric / per_channel_symmetric)",
            node,
            expected="zero-point 0",
            found=int(zero.reshape(-1)[np.flatnonzero(zero)[0]]),
        )
    scale = scale.reshape(-1).astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise refuse(
            "a scale that is not a positive number",
            "the observer saw no data, or a channel is all zero: calibrate, and clamp scales from below",
            node,
            found=scale[~(np.isfinite(scale) & (scale > 0))][0],
        )
    if scale.size == 1:
        return scale, -1
    rank = len(graph.shapes.get(node.input[0], ())) or 1
    return scale, int(attribute(node, "axis", 1)) % rank


def _integer_constants(graph: Graph) -> None:
    """A DequantizeLinear of an integer constant: int8 weights get their QuantizeLinear back, an int32 bias becomes float."""
    for node in list(graph.nodes):
        if node.op_type != "DequantizeLinear" or node.input[0] not in graph.constants:
            continue
        integers = graph.constants[node.input[0]]
        scale, axis = graph.constants[node.input[1]].astype(np.float32), attribute(node, "axis", 1)
        shape = [-1 if index == axis % integers.ndim else 1 for index in range(integers.ndim)] if scale.size > 1 else [1] * integers.ndim
        floats = (integers.astype(np.float32) * scale.reshape(shape)).astype(np.float32)
        if integers.dtype == np.int32:
            graph.constants[node.output[0]] = floats
            graph.remove(node)
            continue
        name = f"{node.input[0]}/float"
        graph.constants[name], graph.shapes[name] = floats, floats.shape
        quantize = helper.make_node("QuantizeLinear", [name, *node.input[1:]], [f"{node.input[0]}/quantized"], f"{node.name}/Quantize")
        quantize.attribute.extend(node.attribute)
        graph.shapes[quantize.output[0]] = floats.shape
        node.input[0] = quantize.output[0]
        graph.replace(node, quantize, node)


def _prune(graph: Graph) -> None:
    """Nodes nothing reads go away; what the steps before left behind would count as quantisation hmct dropped."""
    needed = {item.name for item in graph.outputs}
    kept: list[NodeProto] = []
    for node in reversed(graph.nodes):  # still in topological order, as it was exported
        if any(name in needed for name in node.output):
            needed.update(node.input)
            kept.insert(0, node)
    graph.nodes = kept


def _check_weights(graph: Graph) -> None:
    """Every weight is fake-quantised along its output channels, and nothing else holds a per-channel scale."""
    pairs = {pair.tensor: pair for pair in graph.pairs()}
    allowed: dict[str, int] = {}
    for node in graph.nodes:
        if node.op_type in WEIGHT_AXIS:
            pair = pairs.get(node.input[1])
            if pair is None or pair.weight is None:
                raise refuse(
                    "the weight has no fake-quantisation; hmct would choose a threshold of its own",
                    "attach a weight fake-quant to the layer and export again",
                    node,
                    weight=node.input[1],
                )
            expected = WEIGHT_AXIS[node.op_type]
            if pair.axis not in (-1, expected):
                raise refuse(
                    "the weight is quantised along another axis than its output channels",
                    "use a per-channel fake-quant with ch_axis on the output channels",
                    node,
                    expected=f"axis {expected}",
                    found=f"axis {pair.axis}",
                )
            allowed[pair.tensor] = expected
    for node in graph.nodes:
        for name in node.input:
            pair = pairs.get(name)
            if pair is not None and pair.axis >= 0 and name not in allowed:
                raise refuse(
                    "hmct takes per-channel weights on Conv, ConvTranspose and Gemm only",
                    "use a per-tensor fake-quant for this weight, or write the operator as a 1x1 convolution",
                    node,
                    found=f"{pair.scale.size} scales on axis {pair.axis} of {pair.source}",
                )


def _check_activations(graph: Graph) -> None:
    """Every convolution reads a fake-quantised activation; else hmct leaves it to the CPU, which has no operator for it."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op_type in WEIGHT_AXIS:
            waiting = [node.input[0]]
            while waiting:
                name = waiting.pop()
                source = producers.get(name)
                if source is not None and source.op_type in _KEEPS_QUANTISED:
                    waiting.extend(item for item in source.input[: len(source.input) if source.op_type == "Concat" else 1])
                elif name not in graph.constants and (source is None or source.op_type != DEQUANTIZE):
                    raise refuse(
                        "the input of a convolution has no fake-quantisation",
                        "put a fake-quant on this tensor and train again",
                        node,
                        tensor=name,
                        produced_by=f"{source.name} ({source.op_type})" if source is not None else "the model's input",
                    )


def _order(graph: Graph) -> None:
    """Topological order with every HzDequantize directly behind its HzQuantize (hmct asserts it)."""
    consumers = graph.consumers()
    ready = set(graph.constants) | {item.name for item in graph.inputs} | {""}
    waiting, ordered = list(graph.nodes), []
    while waiting:
        rest = []
        for node in waiting:
            if node.op_type == DEQUANTIZE or not all(name in ready for name in node.input):
                if node.op_type != DEQUANTIZE:
                    rest.append(node)
                continue
            group = [node, *consumers[node.output[0]]] if node.op_type == QUANTIZE else [node]
            ordered.extend(group)
            ready.update(output for item in group for output in item.output)
        if len(rest) == len(waiting):
            raise refuse("the graph is not a directed acyclic graph", "export the model again", rest[0])
        waiting = rest
    graph.nodes = ordered
