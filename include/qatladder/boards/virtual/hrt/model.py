"""A model file as the board's runtime sees it: tensors with their layout, and `run` from input buffers to output buffers.

`.hbm`: the tensors are the hbm's features, raw. `.bin`: a small graph whose BPU nodes are hbms and whose other nodes run on the
CPU. hb_mapper stores it as protobuf; its classes are loaded from the installed horizon_tc_ui package by path, because importing
the package itself would import the whole toolchain (1.7 s).
"""

from __future__ import annotations

import importlib.util
import math
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards.virtual.hrt import hbm
from qatladder.boards.virtual.hrt.hbm import INVALID_ARGUMENT, INVALID_MODEL, Array, Feature, Hbm, ToolError

TYPES = {"int8": "S8", "uint8": "U8", "int16": "S16", "uint16": "U16", "int32": "S32", "uint32": "U32", "int64": "S64", "float32": "F32"}


@dataclass(frozen=True)
class Tensor:
    """One input or output as `model_info` prints it and as a dump holds it.

    Attributes:
        type: HB_DNN_ name: TENSOR_TYPE_S8, IMG_TYPE_NV12 ...
        dtype: of one element (uint8 for an image).
        size: bytes of the buffer.
        quanti: NONE, SHIFT or SCALE.
    """

    name: str
    source: str
    valid: tuple[int, ...]
    aligned: tuple[int, ...]
    stride: tuple[int, ...]
    size: int
    type: str
    dtype: np.dtype[Any]
    layout: str
    quanti: str = "NONE"
    shift: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    axis: int = -1

    def read(self, data: bytes) -> Array:
        """Buffer to valid array."""
        return np.ndarray(self.valid, self.dtype, data, 0, self.stride)

    def dequantized(self, data: bytes) -> Array:
        """Buffer to float32 as `hybrid_dequantize_process` makes them: int * scale, or int / 2**shift."""
        values = self.read(data)
        if self.quanti == "SCALE":
            scale = np.asarray(self.scale, np.float32)
            if scale.size > 1:
                scale = scale.reshape([-1 if axis == self.axis else 1 for axis in range(values.ndim)])
            return values.astype(np.float32) * scale
        if self.quanti == "SHIFT" and any(self.shift):
            return values.astype(np.float32) / np.float32(2.0) ** np.asarray(self.shift[: values.shape[-1]], np.float32)
        return values.astype(np.float32)


@dataclass(frozen=True)
class Model:
    """One model of a file. `run` takes one buffer of `Tensor.size` bytes per input and gives one per output."""

    name: str
    march: str
    builder: str
    hbms: tuple[Hbm, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    run: Callable[[Sequence[bytes]], list[bytes]]
    cpu_operators: tuple[str, ...] = ()


def load(path: Path) -> list[Model]:
    """The models of a `.hbm` or `.bin` file.

    Raises:
        ToolError: missing, or neither.
    """
    return _load_bin(path) if path.suffix == ".bin" and path.is_file() else [_from_hbm(model) for model in hbm.load(path)]


# --- hbm ---------------------------------------------------------------------------------------------------------------------


def _picture(name: str, source: str, height: int, width: int, kind: str) -> Tensor:
    """A picture as raw bytes; model_info states it NCHW with strides 0, as real consoles do."""
    channels, size = (1, height * width) if kind == "Y" else (3, height * width * 3 // 2 if kind == "NV12" else height * width * 3)
    shape = (1, channels, height, width)
    return Tensor(name, source, shape, shape, (0, 0, 0, 0), size, f"IMG_TYPE_{kind}", np.dtype("u1"), "NCHW")


def _tensor(feature: Feature, name: str = "") -> Tensor:
    if feature.is_image:
        height, width, channels = feature.valid[1:4]
        return _picture(name or feature.name, feature.source, height, width, "Y" if channels == 1 else "NV12")
    if feature.dtype.name not in TYPES:
        raise ToolError(f"load model failed, element type {feature.dtype.name} of {feature.name} is not supported", INVALID_MODEL)
    return Tensor(
        name or feature.name,
        feature.source,
        feature.valid,
        feature.aligned,
        feature.stride,
        feature.size,
        f"TENSOR_TYPE_{TYPES[feature.dtype.name]}",
        feature.dtype,
        feature.layout,
        "SCALE" if feature.scale else "SHIFT" if feature.shift else "NONE",
        feature.shift,
        feature.scale,
    )


def _from_hbm(model: Hbm) -> Model:
    def run(buffers: Sequence[bytes]) -> list[bytes]:
        feeds = [data if feature.is_image else feature.unpack(data) for feature, data in zip(model.inputs, buffers, strict=True)]
        return [feature.pack(array) for feature, array in zip(model.outputs, model.simulate(feeds), strict=True)]

    inputs, outputs = tuple(map(_tensor, model.inputs)), tuple(map(_tensor, model.outputs))
    return Model(model.name, model.march, "", (model,), inputs, outputs, run)


# --- bin ---------------------------------------------------------------------------------------------------------------------

_IMAGES = {6: "Y", 7: "NV12", 8: "YUV444", 9: "BGR", 10: "RGB"}
_ELEMENTS = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}


def _load_bin(path: Path) -> list[Model]:
    proto = _protobuf().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:
        raise ToolError(f"load model failed, {path} is not a model: {error}", INVALID_MODEL) from error
    if len(proto.graphs):
        pairs = [(graph, dict(info.model_info)) for graph, info in zip(proto.graphs, proto.metadata_props_info, strict=True)]
    else:
        pairs = [(proto.graph, dict(proto.metadata_props))]
    if not any(len(graph.node) for graph, _ in pairs):
        raise ToolError(f"load model failed, {path} holds no model", INVALID_MODEL)
    return [_Graph(graph, properties).model() for graph, properties in pairs]


class _Graph:
    """One graph of a `.bin`: its nodes are in execution order."""

    def __init__(self, graph: Any, properties: dict[str, str]) -> None:
        self.graph, self.properties = graph, properties
        self.constants = {item.name: _constant(item) for item in graph.initializer if item.name != "PACKED_HBM_MODEL"}
        packed = [item for item in graph.initializer if item.name == "PACKED_HBM_MODEL"]
        self.scratch = tempfile.TemporaryDirectory(prefix="hrt-")
        self.bpu: dict[str, Hbm] = {}
        for index, item in enumerate(packed):
            path = Path(self.scratch.name) / f"{index}.hbm"
            path.write_bytes(item.string_data[0])
            self.bpu.update({model.name: model for model in hbm.load(path)})
        self.fed_by = {node.input[0]: node for node in graph.node}
        self.made_by = {name: (node, position) for node in graph.node for position, name in enumerate(node.output)}
        self.input_tensors = tuple(self._input(index) for index in range(len(graph.input)))
        self.output_tensors = tuple(self._output(item) for item in graph.output)

    def model(self) -> Model:
        models = tuple(self.bpu.values())
        march = self.properties.get("MARCH") or (models[0].march if models else "")
        operators = tuple(node.op_type for node in self.graph.node if node.op_type != "BPU")
        name = self.graph.name
        return Model(
            name, march, self.properties.get("BUILDER_VERSION", ""), models, self.input_tensors, self.output_tensors, self.run, operators
        )

    def _hbm(self, node: Any) -> Hbm:
        if node.name not in self.bpu:
            raise ToolError(f"load model failed, the file holds no hbm for BPU node {node.name}", INVALID_MODEL)
        return self.bpu[node.name]

    def _input(self, index: int) -> Tensor:
        item, kind = self.graph.input[index], self.graph.input_type[index]
        shape, reader = tuple(item.type.dim), self.fed_by.get(item.name)
        feature = self._hbm(reader).inputs[list(reader.input).index(item.name)] if reader is not None and reader.op_type == "BPU" else None
        if kind in _IMAGES:
            # The layout of the bytes in the file; the graph's own shape is the one of training.
            layout = "NHWC" if self.graph.input_layout[index] == 1 else "NCHW"
            height, width = _height_width(shape, kind)
            if feature is not None and feature.is_image:
                return _picture(item.name, feature.source, height, width, _IMAGES[kind])
            channels = 1 if _IMAGES[kind] == "Y" else 3
            valid = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
            return _dense(item.name, "ddr", valid, f"IMG_TYPE_{_IMAGES[kind]}", "uint8", layout)
        if feature is not None:
            return _tensor(feature, item.name)
        return _dense(
            item.name, "ddr", shape, f"TENSOR_TYPE_{TYPES[_ELEMENTS[item.type.elem_type]]}", _ELEMENTS[item.type.elem_type], "NCHW"
        )

    def _output(self, item: Any) -> Tensor:
        node, position = self.made_by[item.name]
        if node.op_type != "BPU":
            dtype = _ELEMENTS[item.type.elem_type]
            layout = "NHWC" if any(a.name == "output_data_format" and a.s in (b"NHWC", "NHWC") for a in node.attribute) else "NCHW"
            return _dense(item.name, "", tuple(item.type.dim), f"TENSOR_TYPE_{TYPES[dtype]}", dtype, layout)
        tensor = _tensor(self._hbm(node).outputs[position], item.name)
        # hb_model_modifier keeps the scale of a removed Dequantize node in the properties.
        removed = self.properties.get(f"DN_M_{item.name}", item.name)
        scale = self.constants.get(self.properties.get(f"DN_D_{removed}_scale", ""))
        if scale is None:
            return tensor
        axis = int(self.properties.get(f"DN_D_{removed}_axis") or 1)
        return Tensor(**{**tensor.__dict__, "quanti": "SCALE", "shift": (), "scale": tuple(scale.ravel().tolist()), "axis": axis})

    def run(self, buffers: Sequence[bytes]) -> list[bytes]:
        """Buffers of the inputs to buffers of the outputs, node by node."""
        values: dict[str, Any] = dict(self.constants)
        for tensor, data in zip(self.input_tensors, buffers, strict=True):
            values[tensor.name] = data if tensor.stride == (0, 0, 0, 0) else tensor.read(data)
        for node in self.graph.node:
            if node.op_type == "BPU":
                model = self._hbm(node)
                feeds = [_feed(feature, values[name], name) for feature, name in zip(model.inputs, node.input, strict=True)]
                values.update(zip(node.output, model.simulate(feeds), strict=True))
            elif node.op_type in CPU:
                values[node.output[0]] = CPU[node.op_type](_attributes(node), *(values[name] for name in node.input))
            else:
                raise ToolError(f"infer failed, CPU operator {node.op_type} is not supported by the virtual board", INVALID_MODEL)
        answers = []
        for tensor in self.output_tensors:
            node, position = self.made_by[tensor.name]
            if node.op_type == "BPU":
                answers.append(self._hbm(node).outputs[position].pack(values[tensor.name]))
            else:
                answers.append(np.ascontiguousarray(values[tensor.name], dtype=tensor.dtype).tobytes())
        return answers


def _protobuf() -> Any:
    path = Path(sysconfig.get_paths()["purelib"]) / "horizon_tc_ui" / "hbdtort" / "runtime_pb2.py"
    spec = importlib.util.spec_from_file_location("runtime_pb2", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ToolError("load model failed, horizon_tc_ui is not installed in the vendor environment", INVALID_MODEL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _constant(item: Any) -> Array:
    for values, dtype in (
        (item.float_data, np.float32),
        (item.int32_data, np.int32),
        (item.int64_data, np.int64),
        (item.double_data, np.float64),
    ):
        if len(values):
            array = np.array(values, dtype)
            dims = tuple(item.shape_type.dim)
            return array.reshape(dims) if math.prod(dims) == array.size else array
    return np.zeros(0, np.float32)


def _dense(name: str, source: str, shape: tuple[int, ...], kind: str, dtype: str, layout: str) -> Tensor:
    element = np.dtype(dtype).newbyteorder("<")
    stride = tuple(element.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Tensor(name, source, shape, shape, stride, element.itemsize * math.prod(shape), kind, element, layout)


def _height_width(shape: tuple[int, ...], kind: int) -> tuple[int, int]:
    channels = 1 if _IMAGES[kind] == "Y" else 3
    return (shape[1], shape[2]) if shape[3] == channels and shape[1] != channels else (shape[2], shape[3])


def _feed(feature: Feature, value: Any, name: str) -> Array | bytes:
    """What the simulator is given: picture bytes as they are, other pictures as int8 value - 128, integers as they are."""
    if isinstance(value, bytes):
        return value
    array: Array = value
    if array.dtype == np.uint8:
        array = (array.astype(np.int16) - 128).astype(np.int8)
        if array.shape != feature.valid:
            array = array.transpose(0, 3, 1, 2) if feature.valid[1] == array.shape[3] else array.transpose(0, 2, 3, 1)
    if array.shape != feature.valid or array.dtype != feature.dtype:
        raise ToolError(
            f"infer failed, {name} is {array.dtype}{array.shape}, the BPU takes {feature.dtype}{feature.valid}", INVALID_ARGUMENT
        )
    return array


def _attributes(node: Any) -> dict[str, Any]:
    values = {}
    for item in node.attribute:
        values[item.name] = {1: item.f, 2: item.i, 3: item.s, 6: list(item.floats), 7: list(item.ints)}.get(item.type)
    return values


def _per_axis(values: Array, scale: Array, axis: int) -> Array:
    return scale.reshape([-1 if index == axis else 1 for index in range(values.ndim)]) if scale.size > 1 else scale.reshape(())


def _quantize(attributes: dict[str, Any], values: Array, scale: Array, *_: Array) -> Array:
    bits = int(attributes.get("bits", 8))
    rounded = np.rint(values.astype(np.float32) / _per_axis(values, scale, int(attributes.get("axis", 1))))
    clipped: Array = np.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return clipped.astype(np.int8 if bits <= 8 else np.int16)


def _dequantize(attributes: dict[str, Any], values: Array, scale: Array, *_: Array) -> Array:
    product: Array = values.astype(np.float32) * _per_axis(values, scale, int(attributes.get("axis", 1)))
    return product


def _transpose(attributes: dict[str, Any], values: Array) -> Array:
    return values.transpose(attributes["perm"])


def _reshape(attributes: dict[str, Any], values: Array, shape: Array) -> Array:
    return values.reshape([values.shape[index] if size == 0 else int(size) for index, size in enumerate(shape)])


CPU: dict[str, Callable[..., Array]] = {"Quantize": _quantize, "Dequantize": _dequantize, "Transpose": _transpose, "Reshape": _reshape}
"""The CPU operators hb_mapper puts around the BPU. hmct's quantise rounds half to even."""
