"""QDQ to HzQuantize/HzDequantize: what is rewritten computes the same, what cannot be is refused by name."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qatladder.errors import ToolchainError
from qatladder.toolchains.hmct_onnx import attribute
from qatladder.toolchains.hmct_rewrite import Rewritten, rewrite


def along(scale: np.ndarray, rank: int, axis: int) -> np.ndarray:
    return scale.reshape([-1 if index == axis % rank else 1 for index in range(rank)]) if scale.size > 1 else scale.reshape(-1)[:1]


class QuantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x, scale, zero, axis=1, **_):
        return (np.clip(np.rint(x / along(scale, x.ndim, axis)), -128, 127).astype(np.int8),)


class DequantizeLinear(OpRun):
    op_domain = ""

    def _run(self, x, scale, zero=None, axis=1, **_):
        return ((x.astype(np.float32) * along(scale, x.ndim, axis)).astype(np.float32),)


class BatchNormalization(OpRun):
    """At inference; the reference implementation of opset 9 computes the statistics of the batch."""

    op_domain = ""

    def _run(self, x, gamma, beta, mean, variance, epsilon=None, **_):
        gamma, beta, mean, variance = (item.reshape(1, -1, 1, 1) for item in (gamma, beta, mean, variance))
        return (((x - mean) / np.sqrt(variance + epsilon) * gamma + beta).astype(np.float32),)


class HzQuantize(OpRun):
    op_domain = "horizon"

    def _run(self, x, scale, zero, bits=None, axis=None):
        assert bits == 8
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale.size > 1) == (axis is not None)
        return (np.clip(np.rint(x / along(scale, x.ndim, axis or 0)), -128, 127).astype(np.int8),)


class HzDequantize(OpRun):
    op_domain = "horizon"

    def _run(self, x, scale, zero, axis=None):
        assert (scale.size > 1) == (axis is not None)
        return ((x.astype(np.float32) * along(scale, x.ndim, axis or 0)).astype(np.float32),)


class Builder:
    """Writes a small QDQ model node by node, as an exporter does."""

    def __init__(self, shape=(1, 3, 8, 8), opset=13) -> None:
        self.nodes, self.constants, self.opset, self.shape = [], {}, opset, shape
        self.rng = np.random.default_rng(4)

    def constant(self, name: str, value) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def node(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes) -> str:
        name = name or f"n{len(self.nodes)}"
        names = [f"{name}_out{index or ''}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name, **attributes))
        return names[0]

    def fake(self, x: str, scale=0.05, zero=None, name: str = "", axis: int | None = None, duplicate: bool = False):
        scale = np.asarray(scale, np.float32)
        name = name or f"q{len(self.nodes)}"
        zero = np.zeros(scale.shape, np.int8) if zero is None else np.asarray(zero)
        inputs = [self.constant(f"{name}_scale", scale), self.constant(f"{name}_zero", zero)]
        attributes = {} if axis is None else {"axis": axis}
        integers = self.node("QuantizeLinear", x, *inputs, name=f"{name}_q", **attributes)
        first = self.node("DequantizeLinear", integers, *inputs, name=f"{name}_dq", **attributes)
        if duplicate:
            return first, self.node("DequantizeLinear", integers, *inputs, name=f"{name}_dq2", **attributes)
        return first

    def weight(self, name: str, *shape: int, axis: int = 0) -> str:
        values = self.rng.normal(0, 1, shape).astype(np.float32)
        scale = np.abs(values).max(tuple(item for item in range(len(shape)) if item != axis)) / 127
        return self.fake(self.constant(name, values), scale, name=name + "_fq", axis=axis)

    def conv(self, x: str, outputs: int = 4, inputs: int = 3, name: str = "conv") -> str:
        return self.node("Conv", x, self.weight(f"{name}_w", outputs, inputs, 1, 1), name=name, kernel_shape=[1, 1])

    def model(self, *outputs: str, shape=None) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "exported",
            [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape or self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def run(model: onnx.ModelProto) -> Rewritten:
    return rewrite(model, {"data": [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]}, "net")


def assert_equal(model: onnx.ModelProto, exact: bool = True) -> Rewritten:
    """The rewritten model computes what the exported one does, on data that hits both clamps."""
    rewritten = run(model)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"data": np.random.default_rng(5).normal(0, 4, shape).astype(np.float32)}
    expected = ReferenceEvaluator(model, new_ops=[QuantizeLinear, DequantizeLinear, BatchNormalization]).run(None, data)
    found = ReferenceEvaluator(rewritten.model, new_ops=[HzQuantize, HzDequantize]).run(None, data)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        (np.testing.assert_array_equal if exact else lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4))(a, b)
    return rewritten


def kinds(rewritten: Rewritten) -> list[str]:
    return [node.op_type for node in rewritten.model.graph.node]


def refused(model: onnx.ModelProto, match: str) -> ToolchainError:
    with pytest.raises(ToolchainError, match=match) as caught:
        run(model)
    assert caught.value.next_step
    return caught.value


class TestForm:
    def test_opsets_name_and_domain(self) -> None:
        b = Builder()
        rewritten = assert_equal(b.model(b.conv(b.fake("data"))))
        assert {item.domain: item.version for item in rewritten.model.opset_import} == {"": 11, "horizon": 1}
        assert rewritten.model.graph.name == "net"
        assert "QuantizeLinear" not in kinds(rewritten)

    def test_every_dequantize_is_directly_behind_its_quantize(self) -> None:
        b = Builder()
        scale, zero = b.constant("s", np.float32(0.05)), b.constant("z", np.int8(0))
        first = b.node("QuantizeLinear", "data", scale, zero)  # both Q, then both DQ
        second = b.node("QuantizeLinear", b.node("Relu", "data"), scale, zero)
        x, y = b.node("DequantizeLinear", first, scale, zero), b.node("DequantizeLinear", second, scale, zero)
        rewritten = assert_equal(b.model(b.conv(b.fake(b.node("Add", x, y)))))
        nodes = rewritten.model.graph.node
        for node, following in pairwise(nodes):
            if node.op_type == "HzQuantize":
                assert following.op_type == "HzDequantize"
                assert following.input[0] == node.output[0]

    def test_two_dequantize_of_one_quantize_become_one(self) -> None:
        b = Builder()
        x, y = b.fake("data", duplicate=True)
        rewritten = assert_equal(b.model(b.conv(x, name="a"), b.conv(y, name="b")))
        assert kinds(rewritten).count("HzDequantize") == 3  # the shared activation and two weights

    def test_pairs_tell_scale_axis_and_weight(self) -> None:
        b = Builder()
        pairs = {pair.source: pair for pair in run(b.model(b.conv(b.fake("data", 0.25)))).pairs}
        assert (pairs["data"].scale.tolist(), pairs["data"].axis, pairs["data"].weight) == ([0.25], -1, None)
        weight = pairs["conv_w"]
        assert (weight.axis, weight.scale.shape) == (0, (4,))
        np.testing.assert_array_equal(np.abs(np.rint(weight.quotient())).max((1, 2, 3)), 127)

    def test_it_is_deterministic(self) -> None:
        b = Builder()
        model = b.model(b.conv(b.fake("data")))
        assert run(model).model.SerializeToString() == run(model).model.SerializeToString()

    def test_the_exported_model_is_left_alone(self) -> None:
        b = Builder()
        model = b.model(b.conv(b.fake("data")))
        before = model.SerializeToString(deterministic=True)
        run(model)
        assert model.SerializeToString(deterministic=True) == before


class TestEqualForms:
    """Rewrites that must not change a single value (or only the order of float additions)."""

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm_to_conv(self, transposed: int) -> None:
        b = Builder()
        x = b.node("Flatten", b.node("ReduceMean", b.fake("data"), axes=[2, 3], keepdims=1), axis=1)
        weight = b.weight("w", *((5, 3) if transposed else (3, 5)), axis=0 if transposed else 1)
        y = b.node("Gemm", b.fake(x, 0.01), weight, b.constant("bias", np.arange(5, dtype=np.float32)), name="fc", transB=transposed)
        rewritten = assert_equal(b.model(y), exact=False)
        assert "Gemm" not in kinds(rewritten)
        conv = next(node for node in rewritten.model.graph.node if node.op_type == "Conv")
        assert conv.name == "fc"
        assert {pair.axis for pair in rewritten.pairs if pair.weight is not None} == {0}

    def test_global_average_pool(self) -> None:
        b = Builder()
        assert "ReduceMean" in kinds(assert_equal(b.model(b.conv(b.fake(b.node("GlobalAveragePool", b.fake("data")))))))

    def test_average_pool_over_the_whole_map(self) -> None:
        b = Builder()
        pooled = b.node("AveragePool", b.fake("data"), kernel_shape=[8, 8])
        assert "AveragePool" not in kinds(assert_equal(b.model(b.conv(b.fake(pooled)))))

    @pytest.mark.parametrize("with_add", [False, True])
    def test_conv_div_batch_norm(self, with_add: bool) -> None:
        b = Builder()
        gamma, beta, mean = (b.rng.normal(0, 1, 4).astype(np.float32) for _ in range(3))
        variance = b.rng.uniform(0.5, 2, 4).astype(np.float32)
        divisor = (gamma / np.sqrt(variance + 1e-5)).astype(np.float32).reshape(1, 4, 1, 1)
        x = b.node("Div", b.conv(b.fake("data")), b.constant("divisor", divisor))
        if with_add:
            x = b.node("Add", x, b.constant("bias", np.ones((1, 4, 1, 1), np.float32)))
        names = [b.constant(name, value) for name, value in (("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance))]
        rewritten = assert_equal(b.model(b.node("BatchNormalization", x, *names, epsilon=1e-5)), exact=False)
        assert not {"Div", "Add", "BatchNormalization"} & set(kinds(rewritten))

    @pytest.mark.parametrize("axis", [1, -1, 2])
    def test_softmax_over_any_axis(self, axis: int) -> None:
        b = Builder()
        rewritten = assert_equal(b.model(b.node("Softmax", b.conv(b.fake("data")), axis=axis)), exact=False)
        softmax = next(node for node in rewritten.model.graph.node if node.op_type == "Softmax")
        assert attribute(softmax, "axis") == 3

    def test_axes_as_attributes(self) -> None:
        b = Builder()
        x = b.node("ReduceSum", b.conv(b.fake("data")), b.constant("axes", np.array([2, 3])), keepdims=1)
        x = b.node("Squeeze", x, b.constant("two", np.array([2, 3])))
        x = b.node("Unsqueeze", x, b.constant("last", np.array([2])))
        assert_equal(b.model(x))

    def test_split_sizes_as_attribute(self) -> None:
        b = Builder()
        b.node("Split", b.conv(b.fake("data")), b.constant("sizes", np.array([1, 3])), name="split", outputs=2, axis=1)
        assert_equal(b.model("split_out", "split_out1"))

    def test_resize_gets_the_inputs_opset_11_requires(self) -> None:
        b = Builder()
        scales = b.constant("scales", np.array([1, 1, 2, 2], np.float32))
        x = b.node("Resize", b.fake("data"), "", scales, name="up", mode="nearest", coordinate_transformation_mode="asymmetric")
        rewritten = assert_equal(b.model(b.conv(b.fake(x))))
        resize = next(node for node in rewritten.model.graph.node if node.op_type == "Resize")
        assert all(resize.input)

    def test_weights_already_integers(self) -> None:
        b = Builder()
        integers = b.rng.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8)
        scale = b.rng.uniform(0.001, 0.1, 4).astype(np.float32)
        names = [b.constant("w", integers), b.constant("ws", scale), b.constant("wz", np.zeros(4, np.int8))]
        weight = b.node("DequantizeLinear", *names, axis=0)
        bias = b.node("DequantizeLinear", b.constant("bias", np.arange(4, dtype=np.int32)), b.constant("bs", scale), axis=0)
        rewritten = assert_equal(b.model(b.node("Conv", b.fake("data"), weight, bias, kernel_shape=[1, 1])))
        pair = next(pair for pair in rewritten.pairs if pair.weight is not None)
        np.testing.assert_array_equal(np.rint(pair.quotient()), integers)

    def test_constants_and_identities(self) -> None:
        b = Builder()
        weight = b.constant("w", b.rng.normal(0, 1, (4, 3, 1, 1)).astype(np.float32))
        scale = b.node("Constant", value=numpy_helper.from_array(np.full(4, 0.02, np.float32)))
        zero = b.node("Identity", b.constant("zero", np.zeros(4, np.int8)))
        integers = b.node("QuantizeLinear", weight, scale, zero, axis=0)
        weight = b.node("DequantizeLinear", integers, scale, zero, axis=0)
        assert_equal(b.model(b.node("Conv", b.fake("data"), weight, kernel_shape=[1, 1])))


class TestRefused:
    def test_another_opset(self) -> None:
        b = Builder(opset=17)
        assert refused(b.model(b.conv(b.fake("data"))), "opset").where["found"] == "opset 17"

    def test_no_fake_quantisation(self) -> None:
        b = Builder()
        weight = b.constant("w", np.ones((4, 3, 1, 1), np.float32))
        error = refused(b.model(b.node("Conv", "data", weight, kernel_shape=[1, 1])), r"every threshold at 1\.0")
        assert "observers off" in error.next_step

    def test_another_input_name(self) -> None:
        b = Builder()
        with pytest.raises(ToolchainError, match="other inputs") as caught:
            rewrite(b.model(b.conv(b.fake("data"))), {"image": (1, 3, 8, 8)}, "net")
        assert (caught.value.where["expected"], caught.value.where["found"]) == ("image", "data")

    def test_another_input_shape(self) -> None:
        b = Builder()
        with pytest.raises(ToolchainError, match="shape differs") as caught:
            rewrite(b.model(b.conv(b.fake("data"))), {"data": (1, 3, 8, 16)}, "net")
        assert (caught.value.where["expected"], caught.value.where["found"]) == ("[1, 3, 8, 16]", "[1, 3, 8, 8]")

    def test_a_dynamic_batch(self) -> None:
        b = Builder()
        with pytest.raises(ToolchainError, match="dynamic axis") as caught:
            rewrite(b.model(b.conv(b.fake("data")), shape=("batch", 3, 8, 8)), {"data": (1, 3, 8, 8)}, "net")
        assert caught.value.where["found"] == "['batch', 3, 8, 8]"

    def test_a_non_zero_zero_point(self) -> None:
        b = Builder()
        error = refused(b.model(b.conv(b.fake("data", zero=np.int8(3), name="act"))), "non-zero zero-point")
        assert error.where["node"] == "act_q (QuantizeLinear)"
        assert error.where["found"] == "3"

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
    def test_another_type(self, dtype: type) -> None:
        b = Builder(opset=13)
        error = refused(b.model(b.conv(b.fake("data", zero=dtype(0), name="act"))), "type other than int8")
        assert error.where["node"] == "act_q (QuantizeLinear)"
        assert error.where["found"] == np.dtype(dtype).name

    def test_no_zero_point_means_uint8(self) -> None:
        b = Builder()
        scale = b.constant("s", np.float32(0.1))
        x = b.node("DequantizeLinear", b.node("QuantizeLinear", "data", scale, name="act"), scale)
        assert refused(b.model(b.conv(x)), "without zero-point").where["node"].startswith("act")

    def test_an_activation_per_channel(self) -> None:
        b = Builder()
        error = refused(b.model(b.conv(b.fake("data", [0.1, 0.2, 0.3], axis=1, name="act"))), "activation is quantised per channel")
        assert error.where["found"] == "3 scales on axis 1"

    def test_a_weight_along_the_wrong_axis(self) -> None:
        b = Builder()
        weight = b.weight("w", 4, 3, 1, 1, axis=1)
        error = refused(b.model(b.node("Conv", b.fake("data"), weight, name="conv", kernel_shape=[1, 1])), "another axis")
        assert (error.where["node"], error.where["expected"], error.where["found"]) == ("conv (Conv)", "axis 0", "axis 1")

    def test_a_gemm_weight_along_its_inputs(self) -> None:
        b = Builder(shape=(1, 3))
        y = b.node("Gemm", b.fake("data"), b.weight("w", 5, 3, axis=1), name="fc", transB=1)
        assert refused(b.model(y), "along its input channels").where["node"] == "fc (Gemm)"

    def test_a_per_channel_matmul(self) -> None:
        b = Builder(shape=(1, 6, 3))
        error = refused(
            b.model(b.node("MatMul", b.fake("data"), b.weight("w", 3, 5, axis=1), name="mm")), "Conv, ConvTranspose and Gemm only"
        )
        assert error.where["node"] == "mm (MatMul)"

    @pytest.mark.parametrize("kind", ["Conv", "Gemm"])
    def test_a_float_weight(self, kind: str) -> None:
        b = Builder(shape=(1, 3, 8, 8) if kind == "Conv" else (1, 3))
        weight = b.constant("w", np.ones((4, 3, 1, 1) if kind == "Conv" else (3, 4), np.float32))
        error = refused(b.model(b.node(kind, b.fake("data"), weight, name="layer")), "weight")
        assert error.where["node"] == f"layer ({kind})"

    def test_a_float_input_of_a_convolution(self) -> None:
        b = Builder()
        x = b.node("Sigmoid", b.fake("data"), name="act")
        error = refused(b.model(b.conv(b.node("MaxPool", x, kernel_shape=[2, 2]))), "input of a convolution")
        assert (error.where["tensor"], error.where["produced_by"]) == ("act_out", "act (Sigmoid)")

    def test_an_average_pool(self) -> None:
        b = Builder()
        error = refused(
            b.model(b.conv(b.fake(b.node("AveragePool", b.fake("data"), name="pool", kernel_shape=[2, 2])))), "AveragePool twice"
        )
        assert error.where["node"] == "pool (AveragePool)"

    def test_a_padded_global_average_pool(self) -> None:
        b = Builder()
        pool = b.node("AveragePool", b.fake("data"), kernel_shape=[8, 8], pads=[1, 1, 1, 1])
        refused(b.model(b.conv(b.fake(pool))), "AveragePool twice")

    def test_a_batch_norm_behind_a_quantised_conv(self) -> None:
        b = Builder()
        ones = [b.constant(f"c{index}", np.ones(4, np.float32)) for index in range(4)]
        error = refused(b.model(b.node("BatchNormalization", b.conv(b.fake("data")), *ones, name="bn")), "fake-quantisation does not cover")
        assert error.where["node"] == "bn (BatchNormalization)"

    def test_batch_norm_statistics_that_moved_on(self) -> None:
        b = Builder()
        x = b.node("Div", b.conv(b.fake("data")), b.constant("d", np.full((1, 4, 1, 1), 0.9, np.float32)), name="div")
        ones = [b.constant(f"c{index}", np.ones(4, np.float32)) for index in range(4)]
        error = refused(b.model(b.node("BatchNormalization", x, *ones)), "divisor")
        assert "freeze" in error.next_step

    def test_a_scale_computed_at_run_time(self) -> None:
        b = Builder()
        scale = b.node("ReduceMax", "data", keepdims=0)
        zero = b.constant("z", np.int8(0))
        x = b.node("DequantizeLinear", b.node("QuantizeLinear", "data", scale, zero, name="act"), scale, zero)
        assert refused(b.model(b.conv(x)), "computed at run time").where["node"] == "act (QuantizeLinear)"

    @pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf])
    def test_a_scale_that_is_no_positive_number(self, scale: float) -> None:
        b = Builder()
        refused(b.model(b.conv(b.fake("data", scale))), "not a positive number")

    def test_a_dequantize_of_another_scale(self) -> None:
        b = Builder()
        zero = b.constant("z", np.int8(0))
        x = b.node("QuantizeLinear", "data", b.constant("a", np.float32(0.1)), zero)
        x = b.node("DequantizeLinear", x, b.constant("b", np.float32(0.2)), zero, name="dq")
        assert refused(b.model(b.conv(x)), "another scale than its QuantizeLinear").where["node"] == "dq (DequantizeLinear)"

    def test_integers_used_by_another_operator(self) -> None:
        b = Builder()
        scale, zero = b.constant("s", np.float32(0.1)), b.constant("z", np.int8(0))
        integers = b.node("QuantizeLinear", "data", scale, zero)
        x = b.node("DequantizeLinear", integers, scale, zero)
        cast = b.node("Cast", integers, name="cast", to=TensorProto.FLOAT)
        assert "cast (Cast)" in refused(b.model(b.conv(x), cast), "something else than a DequantizeLinear").where["found"]

    def test_a_foreign_domain(self) -> None:
        b = Builder()
        y = b.conv(b.fake("data"))
        b.nodes.append(helper.make_node("Fancy", [y], ["z"], "fancy", domain="acme"))
        assert refused(b.model("z"), "foreign domain").where["found"] == "acme"

    def test_an_operator_opset_11_does_not_have(self) -> None:
        b = Builder()
        y = b.node("Celu", b.conv(b.fake("data")), name="celu")
        assert refused(b.model(y), "opset 11 does not have").where["node"] == "celu (Celu)"

    def test_an_attribute_opset_11_does_not_have(self) -> None:
        b = Builder()
        y = b.node("ArgMax", b.conv(b.fake("data")), axis=1, select_last_index=1)
        refused(b.model(y), "select_last_index")
