"""Promises: lint names the field and what to write, for every mistake that can be seen without converting; a sound entry is ok."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.unit.toy import ADAPTER, ToyZoo

from qatladder.numerics.contract import InputContract
from qatladder.settings import load_settings
from qatladder.zoo import load_zoo
from qatladder.zoo.lint import _correction, _numbers, lint_entry

CAMERA = (
    ADAPTER
    + """

class Camera(Toy):
    \"\"\"Toy's labels from a picture: red when the label is 1, blue when it is 0, on noise.\"\"\"

    def __init__(self, primary="accuracy", score_fails=False):
        self.metric, self.score_fails = primary, score_fails

    def samples(self, split, limit=None):
        generator = np.random.default_rng(0)
        for index in range(10):
            picture = generator.integers(0, 256, (4, 6, 3), "uint8")
            picture[..., 0 if index % 2 else 2] = 255
            yield Sample({"x": picture}, index % 2)

    def preprocess(self, inputs):
        values = (inputs["x"].astype("float32") - np.array([10, 20, 30], "float32")) * np.array([0.01, 0.02, 0.04], "float32")
        return {"x": values.transpose(2, 0, 1)[None]}

    def load(self, rung, artifact):
        green = json.loads(artifact.read_text())["wrong"] / 10
        return lambda t: {"y": (t["x"][:, 0] + green * t["x"][:, 1] - t["x"][:, 2]).mean((1, 2))[:, None]}

    def score(self, predictions, targets):
        if self.score_fails:
            raise ValueError("only one class present")
        return {self.metric: 1.0}
"""
)
IMAGE = {
    "name": "x",
    "shape": [1, 3, 4, 6],
    "type_train": "rgb",
    "type_rt": "nv12",
    "source": "pyramid",
    "mean": [10, 20, 30],
    "scale": [0.01, 0.02, 0.04],
}


def export(
    path: Path,
    shape: tuple[Any, ...] = (1, 3, 4, 6),
    name: str = "x",
    kind: int = TensorProto.FLOAT,
    quantised: bool = True,
    colours: tuple[float, ...] = (1, 0, -1),
) -> bytes:
    """An ONNX of what Camera computes, red less blue, and a quantised constant."""
    value, result = helper.make_tensor_value_info(name, kind, shape), helper.make_tensor_value_info("y", kind, (1, 1))
    nodes = [
        helper.make_node("Conv", [name, "colours"], ["difference"]),
        helper.make_node("ReduceMean", ["difference"], ["y"], axes=[2, 3], keepdims=0),
    ]
    constants = [helper.make_tensor("colours", TensorProto.FLOAT, [1, 3, 1, 1], colours)]
    if quantised:
        nodes.insert(0, helper.make_node("QuantizeLinear", ["weight", "scale"], ["integers"]))
        constants += [
            helper.make_tensor("weight", TensorProto.FLOAT, [2], [0.5, 1.0]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.01]),
        ]
    graph = helper.make_graph(nodes, "toy", [value], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path.read_bytes()


@pytest.fixture
def camera(toy_zoo: ToyZoo) -> Callable[..., list[str]]:
    """Lints the camera entry with some fields changed; image fields are given as `image`."""
    (toy_zoo.folder / "zoo" / "toy.py").write_text(CAMERA)
    export(toy_zoo.artifacts / "toy.onnx")

    def lint(image: dict[str, Any] | None = None, **changes: Any) -> list[str]:
        artifacts = {which: f"toy/{which}.json" for which in ("float", "calib", "qat")} | {"onnx": "toy/toy.onnx"}
        fields = {"adapter": "toy.py:Camera", "inputs": [{**IMAGE, **(image or {})}], "artifacts": artifacts}
        toy_zoo.entry(**{**fields, **changes})
        zoo = load_zoo(load_settings())
        assert not zoo.problems
        (entry,) = zoo.entries.values()
        return lint_entry(zoo, entry)

    return lint


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0]


def test_a_sound_entry_has_no_problem(camera: Any) -> None:
    assert camera() == []


@pytest.mark.parametrize(
    ("image", "field", "write"),
    [
        ({"type_train": "bgr"}, "inputs.x.type_train: ", "write type_train: rgb"),
        (
            {"type_train": "bgr", "mean": [30, 20, 10], "scale": [0.04, 0.02, 0.01]},
            "inputs.x.type_train, mean, scale: ",
            "write type_train: rgb, mean: [",
        ),
        ({"mean": [10, 20, 33]}, "inputs.x.mean: ", "write mean: [10, 20, 30]"),
        ({"mean": []}, "inputs.x.mean: ", "write mean: [10, 20, 30]"),
        ({"scale": [100, 50, 25]}, "inputs.x.scale: ", "write scale: [0.01, 0.02, 0.04]"),
        ({"mean": [1, 2, 3], "scale": [1]}, "inputs.x.mean, scale: ", "write mean: [10, 20, 30], scale: [0.01, 0.02, 0.04]"),
    ],
)
def test_the_declared_preprocessing_is_held_against_the_training_code(camera: Any, image: dict[str, Any], field: str, write: str) -> None:
    problem = only(camera(image))
    assert problem.startswith(field)
    assert write in problem


def test_a_mean_rounded_to_a_thousandth_is_no_problem(camera: Any) -> None:
    assert camera({"mean": [10.001, 20, 29.999]}) == []


def test_no_number_is_suggested_for_preprocessing_that_no_mean_and_scale_can_express(rng: np.random.Generator) -> None:
    contract = InputContract("x", "nv12", "rgb", "NHWC")
    pictures = rng.integers(0, 256, (2, 4, 4, 3), "uint8")
    squared = (pictures.astype(np.float32) / 255) ** 2
    assert _correction(contract, pictures, squared) == {}
    assert _correction(contract, pictures, pictures.astype(np.float32) / 4) == {"scale": "[0.25, 0.25, 0.25]"}
    assert _correction(contract, np.zeros_like(pictures), np.ones_like(squared)) == {}
    assert _numbers(np.array([1e-9, 123.675])) == "[0, 123.675]"


def test_the_entrys_metric_is_the_adapters(camera: Any) -> None:
    problem = only(camera(metric="recall"))
    assert problem.startswith("metric: ")
    assert problem.endswith("write metric: accuracy")
    assert camera(metric="recall", adapter_options={"primary": "recall"}) == []


def test_a_score_that_fails_is_named(camera: Any) -> None:
    problem = only(camera(adapter_options={"score_fails": True}))
    assert problem.startswith("adapter.score: ")
    assert "only one class present" in problem


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-4], lambda data: b"\xff" * 99]
)
def test_an_onnx_that_is_not_whole_is_named(toy_zoo: ToyZoo, camera: Any, damage: Any) -> None:
    path = toy_zoo.artifacts / "toy.onnx"
    path.write_bytes(damage(path.read_bytes()))
    assert only(camera()).startswith("artifacts.onnx: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (1, 3, 6, 4)}, ["inputs.x.shape: is [1, 3, 4, 6], the exported model takes [1, 3, 6, 4]"]),
        ({"shape": ("N", 3, 4, 6)}, ["inputs.x.shape: is [1, 3, 4, 6], the exported model takes [N, 3, 4, 6]"]),
        ({"kind": TensorProto.UINT8}, ["inputs.x: the exported model takes uint8"]),
        (
            {"name": "z"},
            ["inputs: the exported model's input z is not declared", "inputs.x: the exported model has no such input; it has z"],
        ),
    ],
)
def test_the_onnx_takes_the_entrys_inputs(toy_zoo: ToyZoo, camera: Any, changes: dict[str, Any], said: list[str]) -> None:
    export(toy_zoo.artifacts / "toy.onnx", **changes)
    problems = camera()
    assert len(problems) == len(said), problems
    for problem, start in zip(problems, said, strict=True):
        assert problem.startswith(start)


def test_the_onnx_and_the_adapter_call_the_outputs_the_same(toy_zoo: ToyZoo, camera: Any) -> None:
    model = onnx.load(str(toy_zoo.artifacts / "toy.onnx"))
    model.graph.node[-1].output[0] = model.graph.output[0].name = "output.1"
    onnx.save(model, str(toy_zoo.artifacts / "toy.onnx"))
    problem = only(camera())
    assert problem.startswith("artifacts.onnx: the adapter's model has no output output.1, as the exported one has; it has y; ")
    assert "output_names" in problem


def test_the_onnx_is_exported_from_the_entrys_checkpoint(toy_zoo: ToyZoo, camera: Any) -> None:
    path = toy_zoo.artifacts / "toy.onnx"
    export(path, colours=(1, 0.5, -1))
    problem = only(camera())
    assert problem.startswith("artifacts.onnx: was not exported from artifacts.qat: y cosine ")
    assert "it follows no checkpoint of the entry; export it from qat again" in problem
    toy_zoo.artifact("calib", 5)
    assert "; it follows artifacts.calib; " in only(camera())
    toy_zoo.artifact("qat", 5)
    assert camera() == []


def test_a_float_onnx_is_exported_from_the_float_checkpoint(toy_zoo: ToyZoo, camera: Any) -> None:
    export(toy_zoo.artifacts / "toy.onnx", quantised=False)
    toy_zoo.artifact("float", 5)
    problem = only(camera(targets=[PTQ]))
    assert problem.startswith("artifacts.onnx: was not exported from artifacts.float: y ")
    assert "it follows artifacts.qat" in problem


def test_an_output_of_another_size_is_of_another_model(toy_zoo: ToyZoo, camera: Any) -> None:
    model = onnx.load(str(toy_zoo.artifacts / "toy.onnx"))
    del model.graph.node[-1].attribute[:]
    model.graph.node[-1].attribute.append(helper.make_attribute("axes", [3]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for size in (1, 1, 4, 1):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = size
    onnx.save(model, str(toy_zoo.artifacts / "toy.onnx"))
    assert "was not exported from artifacts.qat: y is [4, 1, 4, 1] for [4, 1]" in only(camera())


def test_expectations_are_of_outputs_the_model_has(camera: Any) -> None:
    unknown = {"output": "logit", "statistic": "entropy", "min": 2.5}
    assert only(camera(expectations=[unknown, {**unknown, "statistic": "max"}])) == "expectations: the model has no output logit; it has y"
    assert camera(expectations=[{**unknown, "output": "y"}]) == []


def changed(toy_zoo: ToyZoo, old: str, new: str) -> None:
    assert old in CAMERA
    (toy_zoo.folder / "zoo" / "toy.py").write_text(CAMERA.replace(old, new))


def test_samples_are_the_same_every_time(toy_zoo: ToyZoo, camera: Any) -> None:
    changed(toy_zoo, "default_rng(0)", "default_rng()")
    assert only(camera()).startswith("adapter.samples: yields other samples when it is asked again")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('{"x": picture}, index', '{"x": picture / 255}, index', "inputs.x: samples are float64 [4, 6, 3], an image is uint8"),
        ("transpose(2, 0, 1)[None]", "transpose(2, 0, 1)", "inputs.x: preprocess gives [12, 4, 6] for 4 samples"),
        ("transpose(2, 0, 1)[None]", "transpose(2, 0, 1)[None, :2]", "inputs.x: preprocess gives float32 [1, 2, 4, 6]"),
    ],
)
def test_a_wrong_input_is_not_called_a_wrong_checkpoint_or_onnx(toy_zoo: ToyZoo, camera: Any, old: str, new: str, said: str) -> None:
    changed(toy_zoo, old, new)
    assert only(camera()).startswith(said)


def test_a_load_that_fails_is_the_adapters_and_no_reason_to_make_the_checkpoint_anew(toy_zoo: ToyZoo, camera: Any) -> None:
    changed(toy_zoo, 'lambda t: {"y": ', 'lambda t: {"y": t["z"] + ')
    problems = camera()
    assert [problem.split(":")[0] for problem in problems] == ["artifacts.float", "artifacts.calib", "artifacts.qat"]
    assert all("the adapter cannot load and run" in problem and "KeyError" in problem and "anew" not in problem for problem in problems)


def test_the_samples_are_enough_to_prove_anything(toy_zoo: ToyZoo, camera: Any) -> None:
    problem = only(camera(samples={"evaluation": 3, "probe": 4}))
    assert problem.startswith("samples.evaluation: 3 is less than samples.probe 4")
    adapter = toy_zoo.folder / "zoo" / "toy.py"
    adapter.write_text(CAMERA.replace("for index in range(10):\n            picture", "for index in range(2):\n            picture"))
    assert only(camera()).startswith("adapter.samples: yields 2 of the split `evaluation`, int.fidelity and hbm.bit_exact compare 4")
    assert camera(samples={"probe": 2}) == []


def test_the_data_the_adapter_reads_is_there(toy_zoo: ToyZoo, camera: Any) -> None:
    problem = only(camera(data=["toy", "pictures/val"]))
    assert problem.startswith(f"data: {toy_zoo.artifacts.parent / 'pictures/val'} does not exist")


@pytest.mark.parametrize("rung", ["float", "calib", "qat"])
def test_a_checkpoint_that_cannot_be_loaded_is_named(toy_zoo: ToyZoo, camera: Any, rung: str) -> None:
    (toy_zoo.artifacts / f"{rung}.json").write_text('{"wro')
    problem = only(camera())
    assert problem.startswith(f"artifacts.{rung}: ")
    assert "JSONDecodeError" in problem


def test_a_broken_environment_is_called_that_and_nothing_else(toy_zoo: ToyZoo, camera: Any) -> None:
    (toy_zoo.folder / "zoo" / "zoo.yaml").write_text("environments: {training: {python: /nowhere/python}}")
    problem = only(camera(environment="training"))
    assert problem.startswith("environment: ")
    assert "/nowhere/python" in problem
    assert only(camera(environment="undefined")).startswith("environment: ")


def test_a_checkpoint_that_kills_its_process_is_not_called_damaged(toy_zoo: ToyZoo, camera: Any) -> None:
    text = (toy_zoo.folder / "zoo" / "toy.py").read_text()
    dying = text.replace("green = json", "import os; rung == 'qat' and os._exit(9)\n        green = json")
    assert dying != text
    (toy_zoo.folder / "zoo" / "toy.py").write_text(dying)
    problem = only(camera())
    assert problem.startswith("artifacts.qat: its job broke")


def test_preprocess_must_fit_the_entry(camera: Any) -> None:
    (problem,) = (text for text in camera({"shape": [1, 4, 6, 3], "layout": "NHWC"}) if "preprocess" in text)
    assert problem.startswith("inputs.x: preprocess gives float32 [1, 3, 4, 6], the entry declares float32 [1, 4, 6, 3]")


def test_a_float_gate_needs_a_minimum(toy_zoo: ToyZoo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from qatladder import cli

    toy_zoo.entry(gates={"float": {"max_drop": 0.1}})
    monkeypatch.setattr("sys.argv", ["qatladder", "zoo", "lint"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "gates.float" in text
    assert "min" in text


PTQ = {"march": "bayes", "ptq": {"method": "max"}}


def test_scales_are_the_models_or_the_toolchains(toy_zoo: ToyZoo, camera: Any) -> None:
    assert only(camera(targets=[PTQ])).startswith("targets.bayes.ptq: the exported model carries scales of its own")
    export(toy_zoo.artifacts / "toy.onnx", quantised=False)
    assert only(camera()).startswith("artifacts.onnx: ")
    assert "holds no QuantizeLinear" in only(camera())
    assert camera(targets=[PTQ]) == []
    assert camera(targets=[PTQ], artifacts={"float": "toy/float.json", "onnx": "toy/toy.onnx"}) == [], "nothing trained is missing"


def test_a_ptq_target_needs_calibration_samples(toy_zoo: ToyZoo, camera: Any) -> None:
    export(toy_zoo.artifacts / "toy.onnx", quantised=False)
    adapter = toy_zoo.folder / "zoo" / "toy.py"
    adapter.write_text(CAMERA.replace("        generator =", "        assert split != 'calibration', 'no such split'\n        generator ="))
    problem = only(camera(targets=[PTQ]))
    assert problem.startswith("adapter.samples: a ptq target needs the split `calibration`: ")
    assert "no such split" in problem


def test_openexplorer_compiles_the_traced_model(toy_zoo: ToyZoo, camera: Any) -> None:
    target = {"march": "bayes", "toolchain": "openexplorer"}
    artifacts = {which: f"toy/{which}.json" for which in ("float", "calib", "qat")}
    assert only(camera(targets=[target], artifacts=artifacts)).startswith(
        "artifacts.int: is empty, so the target bayes has nothing to compile"
    )
    problem = only(camera(targets=[target], artifacts={**artifacts, "int": "toy/int.pt"}))
    assert problem.startswith("artifacts.int: ") and problem.endswith("does not exist; make it, or correct the path")
    (toy_zoo.artifacts / "int.pt").write_bytes(b"traced")
    assert camera(targets=[target], artifacts={**artifacts, "int": "toy/int.pt"}) == []
    problem = only(camera(targets=[target], artifacts={**artifacts, "int": "toy/int.pt", "hbm": "toy/model.hbm"}))
    assert problem.startswith("artifacts.hbm: ")


def test_the_targets_environment_is_defined(camera: Any) -> None:
    problem = only(camera(targets=[{"march": "bayes", "environment": "j5"}]))
    assert problem == "targets.bayes.environment: zoo.yaml defines no j5; it defines product"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"march": "bayes-e", "toolchain": "openexplorer"}, "openexplorer does not compile for bayes-e; it knows bernoulli2, bayes"),
        ({"march": "nash-e"}, "hmct does not compile for nash-e"),
        ({"march": "bayes", "toolchain": "openexplorer", "ptq": {}}, "carries its own scales"),
        ({"march": "nash-e", "toolchain": "nash", "ptq": {"run_on_cpu": ["a"]}}, "options of hmct's ptq"),
        ({"march": "bayes", "compile_mode": "balance"}, "balance_factor goes with compile_mode balance"),
        ({"march": "bayes", "balance_factor": 2}, "balance_factor goes with compile_mode balance"),
        ({"march": "bayes", "max_time_per_fc": 10}, "at least 1000 microseconds"),
        ({"march": "bayes", "ptq": {"method": "kl", "max_percentile": 0.9}}, "max_percentile goes with method max"),
        ({"march": "bayes", "ptq": {"run_on_cpu": ["a"], "run_on_bpu": ["a"]}}, "a cannot run on the CPU and on the BPU"),
    ],
)
def test_what_no_toolchain_can_do_is_refused_when_the_entry_is_read(toy_zoo: ToyZoo, target: dict[str, Any], said: str) -> None:
    toy_zoo.entry(targets=[target])
    (problem,) = load_zoo(load_settings()).problems
    assert said in str(problem)
