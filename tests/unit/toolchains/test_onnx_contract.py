"""Promises: what an ONNX file states of its inputs is read from the operator behind each, and what it does not state stays empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qatladder.errors import ArtifactError
from qatladder.numerics.contract import InputContract, diff, from_features, merge
from qatladder.numerics.tensor import TensorContract
from qatladder.toolchains.onnx_contract import input_contracts, tensor_contracts


def model(dtype: int, shape: list[int | str], nodes: list[Any], **constants: np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph)


def hz(kind: str, inputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, ["q"], domain="horizon", **attributes)


def only(found: ModelProto | Path) -> InputContract:
    (contract,) = input_contracts(found)
    return contract


@pytest.mark.parametrize(
    ("input_type", "image", "swing"),
    [
        ("YUV_BT601_FULL_RANGE_128", "yuv444_128", "full"),
        ("YUV_BT601_VIDEO_RANGE_128", "yuv444_128", "studio"),
        ("RGB_128", "rgb_128", ""),
        ("BGR_128", "bgr_128", ""),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_an_image_of_hmct_states_its_intermediate_type_and_layout(input_type: str, image: str, swing: str, transposed: bool) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1])] if transposed else []
    nodes.append(hz("HzSQuantizedPreprocess", ["t" if transposed else "x"], input_type=input_type))
    found = only(model(TensorProto.INT8, [1, 3, 4, 6] if transposed else [1, 4, 6, 3], nodes))
    assert (found.type_rt, found.swing, found.layout_rt) == (image, swing, "NCHW" if transposed else "NHWC")
    assert (found.type_train, found.mean, found.source, found.bits) == ("", (), "", 0)
    declared = InputContract("x", "nv12", "rgb", "NCHW", shape=(1, 3, 4, 6), swing="full", layout_rt="")
    expected = {} if image == "yuv444_128" else {"intermediate_type": ("yuv444_128", image)}
    if swing == "studio":
        expected["swing"] = ("full", "studio")
    assert diff(declared, found) == expected
    assert merge(declared, found).layout_rt == found.layout_rt


def test_an_image_without_an_operator_that_names_it_has_no_type() -> None:
    found = only(model(TensorProto.INT8, [1, 4, 6, 3], [helper.make_node("Identity", ["x"], ["y"])]))
    assert (found.type_rt, found.swing, found.layout_rt) == ("", "", "NHWC")
    ambiguous = only(model(TensorProto.INT8, [1, 3, 4, 3], [helper.make_node("Identity", ["x"], ["y"])]))
    assert ambiguous.layout_rt == ""


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("axis", "layout"), [(1, "NCHW"), (3, "NHWC")])
def test_a_quantised_featuremap_states_its_scales(bits: int, axis: int, layout: str) -> None:
    scales = np.array([0.5, 0.25, 2.0], np.float32)
    shape: list[int | str] = [1, 3, 5, 4] if axis == 1 else [1, 5, 4, 3]
    found = only(model(TensorProto.FLOAT, shape, [hz("HzQuantize", ["x", "s"], bits=bits, axis=axis)], s=scales))
    assert found.type_rt == "featuremap"
    assert found.bits == bits
    assert found.tensor == TensorContract("x", f"int{bits}", tuple(map(int, shape)), layout=layout, scale=(0.5, 0.25, 2.0), axis=axis)
    (compiled,) = from_features([TensorContract("x", f"int{bits}", (1, 5, 4, 3), (1, 5, 4, 16), (1, 1, 1, 1), 0, "ddr")])
    declared = InputContract("x", "featuremap", "featuremap", layout, shape=tuple(map(int, shape)), source="ddr", bits=0)
    assert merge(declared, compiled, found).quantisation == ((0.5, 0.25, 2.0), axis)


def test_a_scale_of_the_whole_tensor_has_no_axis() -> None:
    found = only(model(TensorProto.FLOAT, [1, 3, 5, 4], [hz("HzQuantize", ["x", "s"])], s=np.array([0.5], np.float32)))
    assert found.tensor is not None
    assert (found.tensor.dtype, found.tensor.scale, found.tensor.axis, found.tensor.layout) == ("int8", (0.5,), None, "")


@pytest.mark.parametrize("zero", [0, 3])
def test_plain_qdq_states_scale_and_zero_point(zero: int) -> None:
    nodes = [
        helper.make_node("Constant", [], ["z"], value=numpy_helper.from_array(np.array(zero, np.int8))),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    ]
    found = only(model(TensorProto.FLOAT, [1, 30], nodes, s=np.array(0.125, np.float32)))
    assert found.tensor is not None
    assert (found.tensor.dtype, found.tensor.scale, found.tensor.zero_point) == ("int8", (0.125,), (3,) if zero else ())


@pytest.mark.parametrize("shape", [["N", 3, 4, 4], [1, 3, 4, 4]])
def test_a_float_input_states_its_shape_when_it_is_fixed(shape: list[int | str]) -> None:
    found = only(model(TensorProto.FLOAT, shape, [helper.make_node("Relu", ["x"], ["y"])]))
    assert (found.shape, found.type_rt, found.bits) == (tuple(shape) if shape[0] == 1 else (), "", 0)


def test_tensors_are_listed_by_side(tmp_path: Path) -> None:
    scale = np.array([0.5], np.float32)
    proto = model(TensorProto.FLOAT, [1, 30], [hz("HzQuantize", ["x", "s"])], s=scale)
    file = tmp_path / "m.onnx"
    file.write_bytes(proto.SerializeToString())
    assert tensor_contracts(file) == {
        "input": [TensorContract("x", "int8", (1, 30), scale=(0.5,))],
        "output": [TensorContract("y", "float32", (1, 10))],
    }
    assert only(file) == only(proto)


@pytest.mark.parametrize("content", [b"not onnx at all", None])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "m.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read as ONNX"):
        input_contracts(file)
