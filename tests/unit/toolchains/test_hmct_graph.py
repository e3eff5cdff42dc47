"""Reading the graphs hmct writes: rim, partition, and the proof that scales were kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qatladder.errors import ToolchainError
from qatladder.toolchains import hmct_graph
from qatladder.toolchains.hmct_onnx import Pair

TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


def info(name: str, dtype: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[dtype], shape)


def hz(kind: str, inputs: list[str], output: str, name: str = "", **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name or output, domain="horizon", **attributes)


def quantized(*tail: onnx.NodeProto, outputs: list[onnx.ValueInfoProto], infos: list[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    """featuremap -> HzQuantize -> Transpose -> conv -> Transpose -> tail."""
    nodes = [
        hz("HzQuantize", ["data", "input_scale"], "data_q", bits=8),
        helper.make_node("Transpose", ["data_q"], ["data_nhwc"], "to_nhwc", perm=[0, 2, 3, 1]),
        hz("HzSQuantizedConv", ["data_nhwc", "weight"], "conv_q", "conv"),
        helper.make_node("Transpose", ["conv_q"], ["conv_nchw"], "to_nchw", perm=[0, 3, 1, 2]),
        *tail,
    ]
    constants = {"input_scale": np.float32([0.5]), "out_scale": np.float32([0.1, 0.2]), "weight": np.ones((2, 1, 1, 3), np.int8)}
    inner = [
        info("data_q", "int8", 1, 3, 4, 4),
        info("data_nhwc", "int8", 1, 4, 4, 3),
        info("conv_q", "int32", 1, 4, 4, 2),
        info("conv_nchw", "int32", 1, 2, 4, 4),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [info("data", "float32", 1, 3, 4, 4)], outputs, initializers, value_info=[*inner, *infos])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11), helper.make_opsetid("horizon", 1)])


DEQUANTISE = hz("HzDequantize", ["conv_nchw", "out_scale"], "out")


def plain() -> onnx.ModelProto:
    return quantized(DEQUANTISE, outputs=[info("out", "float32", 1, 2, 4, 4)])


class TestDescribe:
    def test_featuremap_in_dequantised_out(self) -> None:
        found = hmct_graph.describe(plain())
        assert found["inputs"] == [{"name": "data", "dtype": "float32", "shape": [1, 3, 4, 4], "scale": [0.5], "raw_name": "data_q"}]
        (output,) = found["outputs"]
        assert (output["raw_name"], output["raw_dtype"], output["raw_shape"]) == ("conv_nchw", "int32", [1, 2, 4, 4])
        assert (np.float32(output["scale"]).tolist(), output["axis"], output["tail"]) == (np.float32([0.1, 0.2]).tolist(), 1, [])

    def test_an_image_is_its_own_integers(self) -> None:
        model = plain()
        del model.graph.node[0]
        del model.graph.input[:]
        model.graph.input.append(info("data_q", "int8", 1, 3, 4, 4))
        (found,) = hmct_graph.describe(model)["inputs"]
        assert (found["raw_name"], found["scale"], found["dtype"]) == ("data_q", None, "int8")

    def test_the_stated_axis_of_the_scale(self) -> None:
        tail = [
            hz("HzDequantize", ["conv_q", "out_scale"], "float_nhwc", axis=3),
            helper.make_node("ArgMax", ["float_nhwc"], ["out"], "argmax"),
        ]
        model = quantized(*tail, outputs=[info("out", "int64", 1, 1, 4, 4)], infos=[info("float_nhwc", "float32", 1, 4, 4, 2)])
        (found,) = hmct_graph.describe(model)["outputs"]
        assert (found["raw_name"], found["axis"], found["tail"]) == ("conv_q", 3, ["ArgMax"])

    def test_an_output_of_several_bpu_tensors(self) -> None:
        tail = [
            hz("HzDequantize", ["conv_nchw", "out_scale"], "a"),
            hz("HzDequantize", ["conv_nchw", "out_scale"], "b"),
            helper.make_node("Concat", ["a", "b"], ["out"], "join", axis=1),
        ]
        model = quantized(*tail, outputs=[info("out", "float32", 1, 4, 4, 4)], infos=[info(name, "float32", 1, 2, 4, 4) for name in "ab"])
        with pytest.raises(ToolchainError, match="several BPU tensors") as caught:
            hmct_graph.describe(model)
        assert "join (Concat)" in caught.value.where["found"]

    def test_a_featuremap_read_twice(self) -> None:
        model = plain()
        model.graph.node.append(hz("HzQuantize", ["data", "input_scale"], "again", bits=8))
        with pytest.raises(ToolchainError, match="integers the hbm is fed cannot be told"):
            hmct_graph.describe(model)


class TestOperators:
    def test_partition_by_the_features_of_the_hbm(self) -> None:
        found = hmct_graph.operators(plain(), ["data_q"], ["conv_nchw"])
        assert found == {"bpu": 1, "cpu": 0, "rim": 2, "cpu_operators": []}

    def test_a_tail_on_the_cpu(self) -> None:
        tail = [hz("HzDequantize", ["conv_nchw", "out_scale"], "a"), helper.make_node("Softmax", ["a"], ["out"], "soft", axis=3)]
        model = quantized(*tail, outputs=[info("out", "float32", 1, 2, 4, 4)], infos=[info("a", "float32", 1, 2, 4, 4)])
        assert hmct_graph.operators(model, ["data_q"], ["conv_nchw"])["cpu_operators"] == ["soft (Softmax)"]

    def test_a_hbm_of_another_model(self) -> None:
        with pytest.raises(ToolchainError, match="the int model does not have") as caught:
            hmct_graph.operators(plain(), ["data_q"], ["elsewhere"])
        assert caught.value.where["feature"] == "elsewhere"

    def test_splitting_operators(self) -> None:
        nodes = [
            hz("HzBpuHBM", ["x", "hbm"], "a", "part_0"),
            hz("HzDequantize", ["a"], "b"),
            helper.make_node("Round", ["b"], ["c"], "round"),
            hz("HzQuantize", ["c"], "d"),
            hz("HzBpuHBM", ["d", "hbm"], "e", "part_1"),
            helper.make_node("Softmax", ["e"], ["out"], "tail"),
        ]
        graph = helper.make_graph(nodes, "g", [info("x", "int8", 1)], [info("out", "float32", 1)])
        assert hmct_graph.splitting_operators(helper.make_model(graph)) == ["round (Round)"]
        del graph.node[4]
        assert hmct_graph.splitting_operators(helper.make_model(graph)) == []


def test_with_outputs_adds_tensors_once() -> None:
    found = hmct_graph.with_outputs(plain(), ["conv_nchw", "data_q", "conv_nchw", "out"])
    assert [item.name for item in found.graph.output] == ["out", "conv_nchw", "data_q"]
    assert [item.name for item in plain().graph.output] == ["out"]


def test_canonical_bytes_do_not_depend_on_order() -> None:
    model, shuffled = plain(), plain()
    for items in (shuffled.graph.initializer, shuffled.graph.value_info):
        backwards = list(items)[::-1]
        del items[:]
        items.extend(backwards)
    assert model.SerializeToString() != shuffled.SerializeToString()
    assert hmct_graph.canonical(model) == hmct_graph.canonical(shuffled)
    shuffled.graph.initializer[0].raw_data = bytes(len(shuffled.graph.initializer[0].raw_data))
    assert hmct_graph.canonical(model) != hmct_graph.canonical(shuffled)


class TestVerifyScales:
    """The proof must fail for every way in which hmct could have built another model."""

    WEIGHT = np.float32([[[[0.1]], [[-0.25]]], [[[0.5]], [[0.06]]]])  # [2, 2, 1, 1]
    SCALE = np.float32([0.002, 0.004])

    def pairs(self) -> list[Pair]:
        return [Pair("x_dq", "x", np.float32([0.05]), -1, None), Pair("w_dq", "w", self.SCALE, 0, self.WEIGHT)]

    def calibration(self, source: str, output: str, scale, kind: str = "int8") -> onnx.NodeProto:
        return hz("HzCalibration", [source], output, scales=[float(value) for value in np.atleast_1d(scale)], qtype=kind)

    def calibrated(self, *extra: onnx.NodeProto, x_scale=0.05, w_scale=None, kind: str = "int8") -> onnx.ModelProto:
        nodes = [
            self.calibration("x", "x_dq", np.float32(x_scale), kind),
            self.calibration("w", "w_dq", self.SCALE if w_scale is None else w_scale),
            helper.make_node("Conv", ["x_dq", "w_dq"], ["y"], "conv"),
            *extra,
        ]
        graph = helper.make_graph(nodes, "g", [info("x", "float32", 1, 2, 4, 4)], [info("y", "float32", 1, 2, 4, 4)])
        return helper.make_model(graph)

    def quantized(self, integers: np.ndarray | None = None, name: str = "conv") -> onnx.ModelProto:
        integers = np.rint(self.pairs()[1].quotient()).astype(np.int8) if integers is None else integers
        weight = numpy_helper.from_array(np.ascontiguousarray(integers.transpose(0, 2, 3, 1)), "wq")
        graph = helper.make_graph([hz("HzSQuantizedConv", ["x", "wq"], "y", name)], "g", [], [], [weight])
        return helper.make_model(graph)

    def test_equal(self) -> None:
        assert hmct_graph.verify_scales(self.pairs(), self.calibrated(), self.quantized()) == (3, 0)

    def test_another_scale_by_one_bit(self) -> None:
        wrong = np.nextafter(np.float32(0.05), np.float32(1))
        with pytest.raises(ToolchainError, match="changed the scale") as caught:
            hmct_graph.verify_scales(self.pairs(), self.calibrated(x_scale=wrong), self.quantized())
        assert caught.value.where["tensor"] == "x_dq"

    def test_one_channel_of_another_scale(self) -> None:
        with pytest.raises(ToolchainError, match="changed the scale"):
            hmct_graph.verify_scales(self.pairs(), self.calibrated(w_scale=np.float32([0.002, 0.005])), self.quantized())

    def test_another_type(self) -> None:
        with pytest.raises(ToolchainError, match="changed the scale") as caught:
            hmct_graph.verify_scales(self.pairs(), self.calibrated(kind="int16"), self.quantized())
        assert caught.value.where["found"].startswith("int16")

    def test_a_lost_fake_quantisation(self) -> None:
        pairs = [*self.pairs(), Pair("z_dq", "z", np.float32([1]), -1, None)]
        with pytest.raises(ToolchainError, match="dropped") as caught:
            hmct_graph.verify_scales(pairs, self.calibrated(), self.quantized())
        assert caught.value.where["tensor"] == "z_dq"

    def test_a_scale_of_its_own(self) -> None:
        pool = helper.make_node("AveragePool", ["x_dq"], ["p"], "pool")
        with pytest.raises(ToolchainError, match="with a scale of its own") as caught:
            hmct_graph.verify_scales(self.pairs(), self.calibrated(pool, self.calibration("p", "p_dq", np.float32(0.05))), self.quantized())
        assert caught.value.where["operator"] == "pool (AveragePool)"

    def test_a_scale_repeated_behind_an_operator_that_keeps_values(self) -> None:
        pool = helper.make_node("MaxPool", ["x_dq"], ["p"], "pool")
        repeated = self.calibrated(pool, self.calibration("p", "p_dq", np.float32(0.05)))
        hmct_graph.verify_scales(self.pairs(), repeated, self.quantized())
        other = self.calibrated(pool, self.calibration("p", "p_dq", np.float32(0.06)))
        with pytest.raises(ToolchainError, match="with a scale of its own"):
            hmct_graph.verify_scales(self.pairs(), other, self.quantized())

    def test_a_scale_taken_from_behind_a_reshape(self) -> None:
        reshape = helper.make_node("Reshape", ["y_dq", "shape"], ["r"], "reshape")
        own = self.calibration("y", "y_dq", np.float32(0.5))
        for scale, good in ((0.5, True), (0.25, False)):
            pairs = [*self.pairs(), Pair("r_dq", "r", np.float32([scale]), -1, None)]
            model = self.calibrated(own, reshape, self.calibration("r", "r_dq", np.float32(scale)))
            if good:
                hmct_graph.verify_scales(pairs, model, self.quantized())
            else:
                with pytest.raises(ToolchainError, match="with a scale of its own"):
                    hmct_graph.verify_scales(pairs, model, self.quantized())

    def test_one_weight_off_by_one(self) -> None:
        integers = np.rint(self.pairs()[1].quotient()).astype(np.int8)
        integers[1, 0, 0, 0] -= 1
        with pytest.raises(ToolchainError, match="other weights") as caught:
            hmct_graph.verify_scales(self.pairs(), self.calibrated(), self.quantized(integers))
        assert (caught.value.where["node"], caught.value.where["found"]) == ("conv (Conv)", "1 of 4 weights")

    @pytest.mark.parametrize("rounded", [124, 125])
    def test_a_weight_half_way_may_go_either_way_and_is_counted(self, rounded: int) -> None:
        """Seen: PyTorch rounds 124.5 to even, hmct up."""
        weight = self.WEIGHT.copy()
        weight[0, 0] = np.float32(124.5) * self.SCALE[0]
        pairs = [self.pairs()[0], Pair("w_dq", "w", self.SCALE, 0, weight)]
        integers = np.rint(pairs[1].quotient()).astype(np.int8)
        integers[0, 0] = rounded
        assert hmct_graph.verify_scales(pairs, self.calibrated(), self.quantized(integers)) == (3, 1)

    def test_a_convolution_that_is_gone(self) -> None:
        with pytest.raises(ToolchainError, match="is not in the int model"):
            hmct_graph.verify_scales(self.pairs(), self.calibrated(), self.quantized(name="other"))
