"""Equal forms: what hmct refuses or builds wrongly, written so that it builds the same function.

Each function changes a `Graph` in place, or refuses an operator by name. Runs in the vendor environment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from qatladder.toolchains.hmct_onnx import DEQUANTIZE, QUANTIZE, TARGET_OPSET, Graph, attribute, refuse


def fold_constants(graph: Graph) -> None:
    """Constant nodes and renamed constants become initializers; Dropout and Identity, which do nothing at inference, go away."""
    for node in list(graph.nodes):
        if node.op_type == "Constant":
            values = [item for item in node.attribute if item.name == "value"]
            if not values:
                raise refuse("a Constant of a form opset 11 does not have", "export with torch.onnx.export (dynamo=False)", node)
            graph.constants[node.output[0]] = numpy_helper.to_array(values[0].t)
            graph.shapes[node.output[0]] = graph.constants[node.output[0]].shape
            graph.remove(node)
        elif node.op_type in ("Identity", "Dropout") and not graph.is_output(node.output[0]):
            graph.rename(node.output[0], node.input[0])
            graph.remove(node)


def lower_opset(graph: Graph) -> None:
    """Opset 13 forms to opset 11: only operators whose inputs, attributes or defaults changed in between need a hand."""
    for node in list(graph.nodes):
        kind = node.op_type
        if kind in ("Squeeze", "Unsqueeze", "ReduceSum"):
            if len(node.input) > 1 and node.input[1]:
                axes = graph.take_constant(node, 1, "the list of axes")
                node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.reshape(-1)]))
            _drop(node, "noop_with_empty_axes", 0)
        elif kind == "Split" and len(node.input) > 1:
            sizes = graph.take_constant(node, 1, "the list of split sizes")
            node.attribute.append(helper.make_attribute("split", [int(size) for size in sizes.reshape(-1)]))
        elif kind in ("Softmax", "LogSoftmax", "Hardmax"):
            _softmax_over_last_axis(graph, node)
        elif kind == "Resize" and (len(node.input) < 2 or not node.input[1]):
            while len(node.input) < 3:
                node.input.append("")
            for index, name in ((1, "roi"), (2, "scales")):
                if not node.input[index]:  # optional in 13, required (and may be empty) in 11
                    node.input[index] = f"{node.name}/{name}"
                    graph.constants[node.input[index]] = np.zeros(0, np.float32)
        elif kind in ("ArgMax", "ArgMin"):
            _drop(node, "select_last_index", 0)
        elif kind == "GatherND":
            _drop(node, "batch_dims", 0)
        elif kind not in ("QuantizeLinear", "DequantizeLinear"):
            try:
                onnx.defs.get_schema(kind, TARGET_OPSET, "")
            except onnx.defs.SchemaError:
                raise refuse("an operator that opset 11 does not have", "write it with operators of opset 11", node) from None


def _softmax_over_last_axis(graph: Graph, node: NodeProto) -> None:
    """Opset 11 computes a Softmax over all axes from `axis` on: equal on the last axis only, so other axes are moved there and back."""
    rank = len(graph.shapes.get(node.input[0], ()))
    if rank == 0:
        raise refuse("the rank of this operator's input is not known", "export with static shapes", node)
    axis = attribute(node, "axis", -1) % rank
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", rank - 1))
    if axis == rank - 1:
        return
    order = [item for item in range(rank) if item != axis] + [axis]
    before = helper.make_node("Transpose", [node.input[0]], [f"{node.name}/last"], f"{node.name}/Transpose_input", perm=order)
    back = [order.index(item) for item in range(rank)]
    after = helper.make_node("Transpose", [f"{node.name}/softmax"], [node.output[0]], f"{node.name}/Transpose_output", perm=back)
    node.input[0], node.output[0] = before.output[0], after.input[0]
    graph.replace(node, before, node, after)


def _drop(node: NodeProto, name: str, only: Any) -> None:
    for index, item in enumerate(node.attribute):
        if item.name == name:
            if helper.get_attribute_value(item) != only:
                raise refuse(
                    f"opset 11 does not have the attribute {name}", f"leave {name} at {only}", node, found=helper.get_attribute_value(item)
                )
            del node.attribute[index]
            return


def fold_conv_bn(graph: Graph) -> None:
    """torch.ao's ConvBn exports Conv(fq(w * s)) -> Div(s) -> BatchNormalization with s = gamma / sqrt(var + eps): Conv with a bias."""
    for norm in [node for node in graph.nodes if node.op_type == "BatchNormalization"]:
        producers, consumers = graph.producers(), graph.consumers()
        chain = [norm]
        while len(chain) < 4 and chain[0].op_type != "Conv" and chain[0].input[0] in producers and len(consumers[chain[0].input[0]]) == 1:
            chain.insert(0, producers[chain[0].input[0]])
        kinds = [node.op_type for node in chain]
        missing = [name for name in norm.input[1:5] if name not in graph.constants]
        if kinds not in (["Conv", "Div", "BatchNormalization"], ["Conv", "Div", "Add", "BatchNormalization"]) or missing:
            raise refuse(
                "a BatchNormalization the fake-quantisation does not cover; hmct would fold it after quantisation with scales of its own",
                "fold conv and batch norm before training with fake-quantisation (fuse_modules_qat), freeze its statistics",
                norm,
                found=" -> ".join(kinds),
            )
        conv, divide = chain[0], chain[1]
        gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.input[1:5])
        factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        divisor = graph.constants.get(divide.input[1])
        if divisor is None or not np.allclose(divisor.reshape(-1), factor, rtol=1e-5, atol=0):
            raise refuse(
                "the divisor between Conv and BatchNormalization is not gamma / sqrt(var + eps)",
                "freeze the batch-norm statistics before the export (freeze_bn_stats, model.eval())",
                divide,
            )
        bias = np.zeros(1) if len(conv.input) < 3 or not conv.input[2] else graph.constants[conv.input[2]].astype(np.float64)
        if len(chain) == 4:
            added = [name for name in chain[2].input if name in graph.constants]
            if not added:
                raise refuse("an Add of a computed tensor between Conv and BatchNormalization", "export a plain ConvBn", chain[2])
            bias = bias + graph.constants[added[0]].reshape(-1).astype(np.float64) * factor
        name = f"{conv.output[0]}/folded_bias"
        graph.constants[name] = (beta - mean * factor + bias).astype(np.float32)
        weight = conv.input[1]
        first = conv.input[0]
        del conv.input[:]
        conv.input.extend([first, weight, name])
        conv.output[0] = norm.output[0]
        for node in chain[1:]:
            graph.remove(node)


def pool_to_mean(graph: Graph) -> None:
    """Global average pools to ReduceMean: hmct quantises a pool's output with its input's scale first (measured: max error 0.34)."""
    for node in list(graph.nodes):
        if node.op_type == "AveragePool":
            shape = graph.shapes.get(node.input[0], ())
            if list(attribute(node, "kernel_shape", [])) != list(shape[2:]) or any(attribute(node, "pads", [0])):
                raise refuse(
                    "hmct quantises an AveragePool twice, first with the scale of its input",
                    "use a strided (depthwise) convolution or a max pool; only an average over the whole map is taken (as ReduceMean)",
                    node,
                    found=f"kernel {list(attribute(node, 'kernel_shape', []))} on {list(shape)}",
                )
        elif node.op_type != "GlobalAveragePool":
            continue
        mean = helper.make_node("ReduceMean", [node.input[0]], list(node.output), node.name, axes=[2, 3], keepdims=1)
        graph.replace(node, mean)


def gemm_to_conv(graph: Graph) -> None:
    """Gemm with a fake-quantised weight to a 1x1 Conv between two Reshapes: hmct dies with SIGFPE on a per-channel Gemm."""
    for node in [item for item in graph.nodes if item.op_type == "Gemm"]:
        pair = next((item for item in graph.pairs() if item.tensor == node.input[1] and item.weight is not None), None)
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
        if pair is None or not plain:
            raise refuse(
                "a Gemm whose weight is not a fake-quantised constant, or with alpha, beta or transA",
                "write it as torch.nn.Linear with a fake-quantised weight",
                node,
            )
        assert pair.weight is not None
        output_axis = 0 if attribute(node, "transB", 0) else 1
        if pair.axis not in (-1, output_axis):
            raise refuse(
                "a weight is quantised along its input channels", "quantise weights per output channel", node, found=f"axis {pair.axis}"
            )
        weight = pair.weight if output_axis == 0 else pair.weight.T
        outputs, inputs = weight.shape
        name = f"{node.name}/weight"
        graph.constants[name] = np.ascontiguousarray(weight.reshape(outputs, inputs, 1, 1))
        graph.constants[f"{name}/scale"], graph.constants[f"{name}/zero_point"] = pair.scale, np.zeros(pair.scale.size, np.int8)
        axis: dict[str, Any] = {} if pair.axis < 0 else {"axis": 0}
        parameters = [f"{name}/scale", f"{name}/zero_point"]
        quantize = helper.make_node(
            QUANTIZE, [name, *parameters], [f"{name}/quantized"], f"{name}/Quantize", domain="horizon", bits=8, **axis
        )
        dequantize = helper.make_node(
            DEQUANTIZE, [f"{name}/quantized", *parameters], [f"{name}/dequantized"], f"{name}/Dequantize", domain="horizon", **axis
        )
        bias = []
        if len(node.input) > 2 and node.input[2]:
            if graph.constants.get(node.input[2], np.zeros(0)).size != outputs:
                raise refuse("a Gemm whose bias is no constant of one value per output", "write it as torch.nn.Linear", node)
            graph.constants[f"{node.name}/bias"] = graph.constants[node.input[2]].reshape(-1)
            bias = [f"{node.name}/bias"]
        graph.constants[f"{node.name}/to_map"] = np.array([-1, inputs, 1, 1], np.int64)
        graph.constants[f"{node.name}/to_vector"] = np.array([-1, outputs], np.int64)
        ahead, data = _reshape_ahead(graph, node)
        graph.replace(
            node,
            *ahead,
            quantize,
            dequantize,
            helper.make_node(
                "Conv",
                [data, f"{name}/dequantized", *bias],
                [f"{node.output[0]}/map"],
                node.name,
                kernel_shape=[1, 1],
                strides=[1, 1],
                pads=[0, 0, 0, 0],
                dilations=[1, 1],
                group=1,
            ),
            helper.make_node(
                "Reshape", [f"{node.output[0]}/map", f"{node.name}/to_vector"], list(node.output), f"{node.name}/Reshape_output"
            ),
        )


def _reshape_ahead(graph: Graph, node: NodeProto) -> tuple[list[NodeProto], str]:
    """The Reshape of a Gemm's input to [1, K, 1, 1], and the tensor the Conv reads."""
    reshape = helper.make_node("Reshape", [node.input[0], f"{node.name}/to_map"], [f"{node.name}/map"], f"{node.name}/Reshape_input")
    return [reshape], reshape.output[0]
