"""The input contract against the vendor's own tools: colour operator, int model, compiled model and simulator see one picture."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.integration.toolchains import nets

from qatladder.numerics.contract import INTERMEDIATE_TYPES, RUNTIME_TYPES, SOURCE_TYPES, InputContract, diff, from_features, merge
from qatladder.numerics.forms import derive, prove
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import STANDIN
from qatladder.toolchains.onnx_contract import input_contracts

pytestmark = pytest.mark.vendor

# Runs in the vendor environment: a network that copies its input, behind the colour operator hmct puts in front of it for each pair.
SCRIPT = """
import json, logging, sys
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
from hmct.api import ORTExecutor, build_onnx
logging.disable(logging.CRITICAL)
for job in json.load(open("jobs.json")):
    channels = job["channels"]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 8, 8])
    weight = numpy_helper.from_array(np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], "copy")], "g", [value("x")], [value("y")], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 7
    onnx.save(model, "copy.onnx")
    declared = {
        "original_input_type": job["train"], "expected_input_type": job["expected"], "original_input_layout": "NCHW",
        "means": np.array(job["mean"], np.float32), "scales": np.array(job["scale"], np.float32),
    }
    build_onnx(
        "copy.onnx", "bayes-e", job["name"], input_dict={"x": declared}, cali_dict={"calibration_type": "load"},
        hbdk_dict={"hbdk_pass_through_params": "--O0", "input-source": {"x": "ddr"}},
    )
    session = ORTExecutor(onnx.load(job["name"] + "_optimized_float_model.onnx")).to("cpu").create_session()
    fed = np.load(job["name"] + ".npy").astype(np.float32)
    np.save(job["name"] + "_out.npy", np.concatenate([session.forward({"x": item[None]}, ["y"])["y"] for item in fed]))
"""

PAIRS = [(rt, train, "full") for rt, trained in RUNTIME_TYPES.items() if rt not in ("featuremap", "nv12") for train in trained]
PAIRS += [("nv12", "rgb", "studio"), ("nv12", "bgr", "studio")]


def run_vendor(script: str, folder: Path) -> str:
    python = load_settings().vendor_python
    variables = {**os.environ, "PYTHONPATH": str(STANDIN), "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    done = subprocess.run([str(python), "-c", script], cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_tables_of_types_are_hb_mappers(hmct, tmp_path: Path) -> None:
    names = (
        "input_type_rt_open_list",
        "input_type_train_open_list",
        "legal_trans_dict",
        "input_source_support_dict",
        "input_type_rt_parse_dict",
    )
    script = f"import json; from horizon_tc_ui.config import mapper_consts as m; print(json.dumps([getattr(m, n) for n in {names}]))"
    types, trains, legal, sources, intermediate = json.loads(run_vendor(script, tmp_path).splitlines()[-1])
    assert set(RUNTIME_TYPES) == set(types)
    for type_rt, trained in RUNTIME_TYPES.items():
        assert set(trained) == {train for train in trains if train == type_rt or type_rt in legal.get(train, ())}, type_rt
        assert INTERMEDIATE_TYPES[type_rt].upper() == intermediate.get(type_rt, "FEATUREMAP")
    for source, delivered in SOURCE_TYPES.items():
        assert set(delivered) == set(sources[source]) & set(types), source
    studio = {train for train in trains if "yuv420sp_bt601_video" in legal.get(train, ())}
    assert studio == {"rgb", "bgr"}


def test_the_vendors_colour_operator_makes_the_training_tensor_of_every_pair(hmct, tmp_path: Path) -> None:
    """All values a camera delivers, through the operator hmct 1.1.0 puts in front of the network."""
    rng, jobs, expected = np.random.default_rng(3), [], {}
    for type_rt, type_train, swing in PAIRS:
        channels = 1 if type_train == "gray" else 3
        mean, scale = (123.675, 116.28, 103.53)[:channels], (0.017, 0.0175, 0.0174)[:channels]
        contract = InputContract("x", type_rt, type_train, "NCHW", mean, scale, swing=swing, layout_rt="NCHW").check()
        fed = rng.integers(-128, 128, (4, channels, 8, 8)).astype(np.int8)
        name = f"{type_rt}_{type_train}_{swing}"
        np.save(tmp_path / f"{name}.npy", fed)
        expected[name] = contract, contract.training_tensor(fed)
        kind = "YUV_BT601_VIDEO_RANGE" if swing == "studio" else contract.intermediate_type.upper()
        jobs.append({"name": name, "train": type_train.upper(), "expected": kind, "channels": channels, "mean": mean, "scale": scale})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_vendor(SCRIPT, tmp_path)
    for name, (contract, tensor) in expected.items():
        found = np.load(tmp_path / f"{name}_out.npy")
        assert np.abs(found - tensor).max() < contract.tolerance / 10, name  # float32 arithmetic; the tolerance is a hundredth of a level
        (stated,) = input_contracts(tmp_path / f"{name}_quantized_model.onnx")
        assert diff(contract, stated) == {}, name
        assert stated.intermediate_type == contract.intermediate_type
        assert stated.layout_rt == "NCHW"


def joined(converted) -> InputContract:
    """What entry, int model and hbm of a conversion state of its input, which must not contradict each other."""
    (spec,) = converted.entry.inputs
    (integer,) = input_contracts(converted.conversion.products["int"])
    (compiled,) = from_features(converted.report().inputs)
    for stated in (integer, compiled):
        assert diff(spec.contract(), stated, ignore=["name"]) == {}
    assert diff(integer, compiled, ignore=["name"]) == {}
    return merge(spec.contract(), compiled, integer)


def test_an_image_is_one_picture_on_every_rung(image) -> None:
    contract = joined(image)
    pictures = np.random.default_rng(9).integers(0, 256, (3, 32, 64, 3)).astype(np.uint8)
    forms = derive(contract, pictures)
    assert prove(contract, pictures, forms.runtime, forms.intermediate, forms.training)
    integers = image.run_int({"data": forms.intermediate})
    simulated = image.simulate({"data": forms.runtime})
    assert simulated
    for name, array in simulated.items():
        np.testing.assert_array_equal(array, integers[name])
    wrong = replace(contract, swing="studio")
    assert not prove(wrong, pictures, forms.runtime)


def test_a_featuremap_is_one_tensor_on_every_rung(featuremap, features) -> None:
    contract = joined(featuremap)
    forms = derive(contract, features)
    described = featuremap.described().inputs[0]
    integers = featuremap.run_int({"data": features})
    proof = prove(contract, features, forms.runtime, integers[described.raw_name], features)
    assert proof, str(proof)
    assert contract.tensor is not None
    assert forms.runtime.shape == (len(features), contract.tensor.byte_size)
    assert not prove(
        replace(contract, rounding="half_up"), _ties(contract, features), intermediate=contract.quantise(_ties(contract, features))
    )


def _ties(contract: InputContract, values: np.ndarray) -> np.ndarray:
    """Values half way between two integers."""
    scale, _ = contract.quantisation
    return ((np.arange(values.size).reshape(values.shape) % 40 + 0.5) * np.float32(scale[0])).astype(np.float32)


def test_studio_swing_reaches_the_int_model_and_the_hbm(convert, pictures) -> None:
    spec = {**nets.nv12_input(32, 64), "swing": "studio"}
    tensors = nets.training_tensor(pictures)
    converted = convert(nets.Head(3), nets.entry("studio", [spec], "bayes-e"), [(tensor[None],) for tensor in tensors])
    (stated,) = input_contracts(converted.conversion.products["int"])
    assert stated.swing == "studio"
    contract = joined(converted)
    samples = np.random.default_rng(9).integers(0, 256, (2, 32, 64, 3)).astype(np.uint8)
    forms = derive(contract, samples)
    integers, simulated = converted.run_int({"data": forms.intermediate}), converted.simulate({"data": forms.runtime})
    for name, array in simulated.items():
        np.testing.assert_array_equal(array, integers[name])
