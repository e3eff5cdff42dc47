"""The exported graph under work, and the words of its quantisation: what `hmct_rewrite` and `hmct_forms` share.

Runs in the vendor environment (Python 3.10, onnx 1.15); needs numpy and onnx alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from qatladder.errors import ToolchainError

Array = Any  # np.ndarray; numpy 1.23 and 2 disagree on its type parameters

SOURCE_OPSET = 13
TARGET_OPSET = 11
QUANTIZE, DEQUANTIZE = "HzQuantize", "HzDequantize"


@dataclass(frozen=True)
class Pair:
    """One fake-quantisation of the exported model.

    Attributes:
        tensor: its output (the dequantised tensor).
        source: its input.
        scale: float32, one value per tensor or per channel.
        axis: channel axis of a per-channel scale; -1 per tensor.
        weight: the float32 constant it quantises; None for an activation.
    """

    tensor: str
    source: str
    scale: Array
    axis: int
    weight: Array | None

    def quotient(self) -> Array:
        """weight / scale in float64, clamped to [-128, 127]: the int8 weight before rounding."""
        assert self.weight is not None
        shape = [1] * self.weight.ndim
        if self.axis >= 0:
            shape[self.axis] = -1
        return np.clip(self.weight.astype(np.float64) / self.scale.astype(np.float64).reshape(shape), -128, 127)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; strings as str."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def refuse(message: str, next_step: str, node: NodeProto | None = None, **where: object) -> ToolchainError:
    if node is not None:
        where = {"node": f"{node.name or node.output[0]} ({node.op_type})", **where}
    return ToolchainError(message, next_step, **where)


class Graph:
    """The graph under work: nodes in order, constants as arrays."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._check_header(model)
        try:
            inferred = onnx.shape_inference.infer_shapes(model)
        except onnx.shape_inference.InferenceError as error:
            raise refuse("the exported model's shapes contradict each other", "export the model again", found=str(error).strip()) from None
        self.constants: dict[str, Array] = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        for node in model.graph.node:
            self.nodes.append(NodeProto())
            self.nodes[-1].CopyFrom(node)
            self.nodes[-1].name = node.name or node.output[0]
        self.inputs = [item for item in model.graph.input if item.name not in self.constants]
        self.outputs = list(inferred.graph.output)
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self.constants.items()}
        for item in [*self.inputs, *inferred.graph.value_info, *inferred.graph.output]:
            sizes = item.type.tensor_type.shape.dim
            if item.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
                self.shapes[item.name] = tuple(size.dim_value for size in sizes)

    @staticmethod
    def _check_header(model: onnx.ModelProto) -> None:
        opsets = {item.domain: item.version for item in model.opset_import}
        if opsets.get("") != SOURCE_OPSET:
            raise refuse(
                "the exported model has an opset hmct cannot be given",
                "export with torch.onnx.export(..., opset_version=13, dynamo=False): "
                "per-channel QDQ exists from 13 on, and the operators of later opsets have no form in opset 11",
                expected=f"opset {SOURCE_OPSET}",
                found=f"opset {opsets.get('')}",
            )
        for node in model.graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise refuse("an operator of a foreign domain", "export plain ONNX operators only", node, found=node.domain)
        if model.functions:
            raise refuse(
                "the exported model keeps modules as ONNX functions",
                "export without export_modules_as_functions",
                found=model.functions[0].name,
            )

    def producers(self) -> dict[str, NodeProto]:
        return {output: node for node in self.nodes for output in node.output}

    def consumers(self) -> dict[str, list[NodeProto]]:
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def remove(self, node: NodeProto) -> None:
        self.nodes = [item for item in self.nodes if item is not node]

    def replace(self, node: NodeProto, *new: NodeProto) -> None:
        at = next(index for index, item in enumerate(self.nodes) if item is node)
        self.nodes[at : at + 1] = new

    def rename(self, old: str, new: str) -> None:
        """Feed every consumer of `old` from `new`."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def is_output(self, name: str) -> bool:
        return any(item.name == name for item in self.outputs)

    def take_constant(self, node: NodeProto, index: int, what: str) -> Array:
        """The constant an operator's input must be; the input is cut off."""
        name = node.input[index]
        if name not in self.constants:
            raise refuse(f"{what} is computed at run time", "export with constant shapes and axes", node, found=name)
        del node.input[index:]
        return self.constants[name]

    def pairs(self) -> Iterator[Pair]:
        producers = self.producers()
        for node in self.nodes:
            if node.op_type == DEQUANTIZE:
                quantize = producers[node.input[0]]
                scale = self.constants[node.input[1]]
                source = quantize.input[0]
                yield Pair(node.output[0], source, scale, attribute(node, "axis", -1), self.constants.get(source))

    def assemble(self, model: onnx.ModelProto, name: str) -> onnx.ModelProto:
        used = {item for node in self.nodes for item in node.input}
        graph = helper.make_graph(
            self.nodes,
            name,
            self.inputs,
            self.outputs,
            [numpy_helper.from_array(array, key) for key, array in self.constants.items() if key in used],
        )
        opsets = [helper.make_opsetid("", TARGET_OPSET), helper.make_opsetid("horizon", 1)]
        result = helper.make_model(graph, opset_imports=opsets, producer_name=model.producer_name, producer_version=model.producer_version)
        result.ir_version = 7
        try:
            onnx.checker.check_model(result)
        except onnx.checker.ValidationError as error:
            raise refuse(
                "an operator has no form in opset 11", "replace it in the network", found=str(error).strip().splitlines()[0]
            ) from None
        return result
