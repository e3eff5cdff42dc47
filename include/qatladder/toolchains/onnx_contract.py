"""What an ONNX file states of its inputs and outputs: the int model hmct wrote, or an exported model with QuantizeLinear nodes.

An input is read with the operator behind it: HzQuantize or QuantizeLinear hold a featuremap's scale, hmct's preprocess operator the
intermediate type and the swing of an image. What no operator tells is left empty. Needs the package onnx, imported when it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.numerics.contract import InputContract
from qatladder.numerics.tensor import TensorContract

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IMAGES = {
    "YUV_BT601_FULL_RANGE_128": ("yuv444_128", "full"),
    "YUV_BT601_VIDEO_RANGE_128": ("yuv444_128", "studio"),
    "RGB_128": ("rgb_128", ""),
    "BGR_128": ("bgr_128", ""),
    "GRAY_128": ("gray_128", ""),
}
"""`input_type` of hmct's preprocess operators: (intermediate type, swing)."""

QUANTISE = ("HzQuantize", "QuantizeLinear")


def input_contracts(model: Path | ModelProto) -> tuple[InputContract, ...]:
    """What a model states of each of its inputs, in order.

    An int image input has the intermediate type as its `type_rt`; that it was nv12 or yuv444 the model does not know. A quantised
    featuremap has its scale, zero point and axis in `tensor`, in the model's own layout.

    Raises:
        ArtifactError: the file is no ONNX.
    """
    graph = _Graph(_load(model))
    return tuple(graph.input(item) for item in graph.inputs)


def tensor_contracts(model: Path | ModelProto) -> dict[str, list[TensorContract]]:
    """The tensors themselves, {"input": [...], "output": [...]}: type, shape, and a quantised input's scale.

    Raises:
        ArtifactError: the file is no ONNX.
    """
    graph = _Graph(_load(model))
    inputs = [graph.input(item).tensor for item in graph.inputs]
    return {"input": [item for item in inputs if item is not None], "output": [graph.tensor(item) for item in graph.outputs]}


def _load(model: Path | ModelProto) -> ModelProto:
    if not isinstance(model, Path):
        return model
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(model), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ArtifactError("the file cannot be read as ONNX", file=model, found=error, next_step="was it copied whole?") from error


class _Graph:
    """The graph's inputs and outputs, and who reads a tensor."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.constants: dict[str, Any] = {item.name: item for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.inputs = [item for item in graph.input if item.name not in self.constants]
        self.outputs = list(graph.output)

    def tensor(self, item: Any) -> TensorContract:
        """Type and shape of a graph input or output; a dynamic shape is not stated."""
        from onnx import helper

        kind = item.type.tensor_type
        sizes = [size.dim_value for size in kind.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name if kind.elem_type else ""
        return TensorContract(item.name, dtype, tuple(sizes) if all(sizes) else ())

    def input(self, item: Any) -> InputContract:
        tensor = self.tensor(item)
        known: dict[str, Any] = {"shape": tensor.valid_shape, "bits": 0, "tensor": tensor}
        readers = self.readers.get(item.name, [])
        quantise = readers[0] if len(readers) == 1 and readers[0].op_type in QUANTISE else None
        if quantise is not None:
            known["type_rt"] = known["type_train"] = "featuremap"
            known["tensor"] = tensor = self._quantised(tensor, quantise)
            known["bits"] = 8 * np.dtype(tensor.dtype).itemsize if tensor.dtype else 0
            known["layout"] = tensor.layout
        elif tensor.dtype == "int8":
            image, swing, layout = self._image(item.name, tensor.valid_shape)
            known.update(type_rt=image, swing=swing, layout_rt=layout, tensor=TensorContract(**{**vars(tensor), "layout": layout}))
            # The training tensor has the same sizes, and another layout may be; the shape is stated in the layout of the intermediate type.
            known["shape"] = ()
        blank = {"type_rt": "", "type_train": "", "layout": "", "swing": "", "toolchain": "", "layout_rt": ""}
        return InputContract(item.name, **{**blank, **known})

    def _quantised(self, tensor: TensorContract, node: NodeProto) -> TensorContract:
        scale = self._numbers(node, 1)
        zero = self._constant(node, 2) if len(node.input) > 2 else None
        if node.op_type == "HzQuantize":
            dtype, default = f"int{_attribute(node, 'bits', 8)}", 1
        else:
            dtype, default = (zero.dtype.name if zero is not None else "uint8"), 1
        points = tuple(int(value) for value in zero.reshape(-1)) if zero is not None and zero.any() else ()
        axis = int(_attribute(node, "axis", default)) % max(len(tensor.valid_shape), 1) if len(scale) > 1 else None
        # The channel axis of four tells the layout.
        layout = {1: "NCHW", 3: "NHWC"}.get(axis, "") if axis is not None and len(tensor.valid_shape) == 4 else ""
        return TensorContract(tensor.name, dtype, tensor.valid_shape, layout=layout, scale=scale, zero_point=points, axis=axis)

    def _image(self, name: str, shape: tuple[int, ...]) -> tuple[str, str, str]:
        """(intermediate type, swing, layout) of an int8 image, from the preprocess operator behind it, past hmct's own transposition."""
        layout = ""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == "Transpose" and list(_attribute(readers[0], "perm", ())) == [0, 2, 3, 1]:
            layout, readers = "NCHW", self.readers.get(readers[0].output[0], [])
        kinds = {_attribute(node, "input_type", "") for node in readers if node.op_type.endswith("Preprocess")}
        image, swing = IMAGES.get(kinds.pop(), ("", "")) if len(kinds) == 1 else ("", "")
        if not layout and len(shape) == 4 and (shape[1] in (1, 3)) != (shape[3] in (1, 3)):
            layout = "NCHW" if shape[1] in (1, 3) else "NHWC"
        return image, swing, layout

    def _constant(self, node: NodeProto, index: int) -> Any:
        from onnx import numpy_helper

        constant = self.constants.get(node.input[index])
        return None if constant is None else numpy_helper.to_array(constant)

    def _numbers(self, node: NodeProto, index: int) -> tuple[float, ...]:
        array = self._constant(node, index)
        return () if array is None else tuple(float(value) for value in array.reshape(-1))


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default
