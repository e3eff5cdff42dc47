"""Promises: what a toolchain will refuse is told before the night, in the words it will refuse it with, for every target; a sound entry is ok."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.unit.toolchains.test_hmct_rewrite import Builder

from qatladder.errors import ToolchainError
from qatladder.toolchains import hmct_vendor
from qatladder.toolchains.foresight import refusals
from qatladder.toolchains.hmct_ptq import check_nodes
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Entry, Target

IMAGE = {"name": "data", "shape": [1, 3, 8, 8], "type_train": "rgb", "type_rt": "nv12", "source": "pyramid"}


def whole(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shape of its output, as an exporter writes it."""
    for size in (1, 4, 8, 8):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = size
    onnx.checker.check_model(model)
    return model


def quantised(zero: int = 0) -> onnx.ModelProto:
    b = Builder()
    return whole(b.model(b.fake(b.conv(b.fake("data", zero=np.int8(zero), name="input")), zero=np.int8(0), name="result")))


def plain(opset: int = 11) -> onnx.ModelProto:
    b = Builder(opset=opset)
    weight = b.constant("weight", b.rng.normal(0, 1, (4, 3, 1, 1)).astype("float32"))
    return whole(b.model(b.node("Conv", "data", weight, name="/head/Conv", kernel_shape=[1, 1])))


def refused(folder: Path, model: onnx.ModelProto | bytes, targets: list[dict[str, Any]], hbm: str | None = None, **image: Any) -> list[str]:
    (folder / "model.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    entry = Entry.model_validate(
        {
            "model": "net",
            "version": "1",
            "adapter": "net.py:Net",
            "inputs": [{**IMAGE, **image}],
            "artifacts": {"float": "float.pt", "onnx": "model.onnx", "hbm": hbm},
            "metric": "top1",
            "gates": {"float": {"min": 0.9}},
            "targets": targets,
        }
    )
    return refusals(Zoo(folder, {}, folder, {}), entry)


def test_a_sound_model_is_refused_by_no_toolchain(tmp_path: Path) -> None:
    assert refused(tmp_path, quantised(), [{"march": "bayes-e"}, {"march": "nash-e", "toolchain": "nash"}]) == []
    assert refused(tmp_path, plain(), [{"march": "bayes-e", "ptq": {"run_on_cpu": ["/head/Conv"]}}]) == []


def test_a_zero_point_is_refused_for_each_target_with_the_node(tmp_path: Path) -> None:
    first, second = refused(tmp_path, quantised(zero=3), [{"march": "bayes-e"}, {"march": "bayes"}])
    assert first.startswith("targets.bayes-e: ")
    assert second.startswith("targets.bayes: ")
    assert "zero" in first and "input_q" in first
    assert "\n" not in first


def test_an_opset_the_tools_cannot_take_is_refused_for_ptq(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, plain(opset=17), [{"march": "bayes", "ptq": {}}])
    assert "17" in problem and "opset" in problem


def test_a_node_that_is_not_in_the_model_is_named_with_what_is_like_it(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, plain(), [{"march": "bayes", "ptq": {"run_on_bpu": ["/head/conv"]}}])
    assert "closest to /head/conv: /head/Conv" in problem
    assert "run_on_bpu" in problem
    check_nodes(plain(), {"run_on_cpu": (), "run_on_bpu": ("/head/Conv",)})


def test_the_conversion_refuses_it_before_any_tool_is_started(tmp_path: Path) -> None:
    (tmp_path / "float.onnx").write_bytes(plain().SerializeToString())
    target = Target(march="bayes", ptq={"run_on_cpu": ["/head/conv"]}).model_dump(mode="json")
    with pytest.raises(ToolchainError, match="names a node the exported model does not have"):
        hmct_vendor.convert("net", str(tmp_path / "float.onnx"), str(tmp_path), [IMAGE], target, {})


def test_nash_takes_no_other_inputs_and_no_given_hbm(tmp_path: Path) -> None:
    nash = {"march": "nash-m", "toolchain": "nash"}
    kind, given = refused(tmp_path, quantised(), [nash], hbm="model.hbm", type_rt="rgb", source="ddr")
    assert "rgb through ddr" in kind and "feed the model nv12" in kind
    assert "leave `artifacts.hbm` out" in given


@pytest.mark.parametrize("model", [b"cut", plain()])
def test_what_lint_says_of_the_exported_model_is_not_said_twice(tmp_path: Path, model: onnx.ModelProto | bytes) -> None:
    assert refused(tmp_path, model, [{"march": "bayes"}]) == []
    assert refused(tmp_path, quantised(zero=3), [{"march": "bayes"}], shape=[1, 3, 8, 16]) == []
