"""A whole ladder without a vendor: a small integer model, a toolchain and a board that compute it in numpy.

The model is honest: two int8 featuremap inputs, one matrix product to int32, one dequantisation scale per output column. Every file
that a rung hands on is written and read for real: the int model and the hbm hold the weights, the board reads padded inputs and
writes padded dumps that `hrt.read_dump` opens. A test changes one thing through the attributes of `Lab`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tests.unit.toy import ToyZoo

from qatladder.boards.device import Board, Health
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.hrt import ModelInfo, Perf, TensorInfo
from qatladder.errors import ArtifactError, BrokenError
from qatladder.numerics.tensor import TensorContract, pad, unpad
from qatladder.runner.client import Environment
from qatladder.settings import Settings
from qatladder.toolchains.base import CompileReport, Conversion, IntInput, IntModel, IntOutput, LayerDump, Log, SecondOpinion
from qatladder.zoo.schema import Entry, Target

ADAPTER = '''
import json
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Linear(Adapter):
    """Eight classes by two inputs of [2, 3] and one matrix each; one of the twelve samples carries a wrong label."""
    metric = "accuracy"

    def __init__(self, blank=-1):
        self.blank = blank

    def samples(self, split, limit=None):
        rng = np.random.default_rng(7)
        patterns = rng.choice([-1.0, 1.0], (8, 12))
        for index in range(12 if limit is None else limit):
            both = patterns[index % 8] + rng.uniform(-0.2, 0.2, 12)
            both[0] = 0.3125  # 2.5 steps of 1/8: where roundings differ; its weights are zero
            both = (both * (index != self.blank)).astype("float32").reshape(2, 2, 3)
            yield Sample({"a": both[0], "b": both[1]}, 7 if index == 5 else index % 8)

    def preprocess(self, inputs):
        return {name: array[None] for name, array in inputs.items()}

    def load(self, rung, artifact):
        model = json.loads(artifact.read_text())
        weights = {name: np.array(values, "float32") for name, values in model["weights"].items()}
        step, scale = model["input_scale"], np.array(model["weight_scale"], "float32")

        def run(tensors):
            total = 0
            for name, tensor in tensors.items():
                if rung != "float":
                    tensor = np.clip(np.rint(tensor / np.float32(step)), -128, 127) * np.float32(step)
                total = total + (tensor.reshape(len(tensor), 6) @ weights[name]).reshape(-1, 2, 4)
            return {"y": total * scale}

        return run

    def postprocess(self, outputs):
        return int(outputs["y"].reshape(-1).argmax())

    def score(self, predictions, targets):
        return {"accuracy": sum(p == t for p, t in zip(predictions, targets)) / len(targets)}
'''

INPUT_SCALE = 0.125
WEIGHT_SCALE = [0.01, 0.04, 0.02, 0.008]
Arrays = dict[str, np.ndarray]


def model_data() -> dict[str, Any]:
    """The model as its artifacts hold it: integer weights that match the samples' patterns, the dead first element apart."""
    patterns = np.random.default_rng(7).choice([-1.0, 1.0], (8, 12))
    weights = np.rint(patterns.T / np.tile(WEIGHT_SCALE, 2)).astype(int)
    weights[0] = 0
    weights[weights > 127], weights[weights < -127] = 127, -127
    return {"weights": {"a": weights[:6].tolist(), "b": weights[6:].tolist()}, "input_scale": INPUT_SCALE, "weight_scale": WEIGHT_SCALE}


def product(model: dict[str, Any], integers: Arrays) -> np.ndarray:
    """int8 [N, ..., 2, 3] by input name to int32 [N, 2, 4]."""
    parts = [values.reshape(len(values), 6).astype(np.int32) @ np.array(model["weights"][name]) for name, values in integers.items()]
    total: np.ndarray = np.sum(parts, axis=0).astype(np.int32).reshape(-1, 2, 4)
    return total


def feature(name: str) -> TensorContract:
    """How the hbm holds a tensor: innermost axis padded, rows padded, and room behind the last row."""
    if name == "y_int":
        return TensorContract(name, "int32", (1, 1, 2, 4), (1, 1, 2, 8), (64, 64, 32, 4), 128)
    return TensorContract(name, "int8", (1, 1, 2, 3), (1, 1, 2, 16), (32, 32, 16, 1), 32, "ddr")


def same(array: np.ndarray) -> np.ndarray:
    return array


@dataclass
class FakeToolchain:
    """`qatladder.toolchains.base.Toolchain` in numpy.

    Attributes:
        report: fields of the compile report that answer otherwise.
        features: fields of the hbm's features that answer otherwise, by feature name.
        int_inputs: fields of the int model's inputs that answer otherwise, for all of them.
        integers: what becomes of the int model's output integers.
        quantised: the rounding of the int model's quantise nodes.
        simulated: what becomes of the simulator's integers; None leaves the output out.
        stale: the hbm holds these weights instead of the int model's.
        opinion: what the vendor's verifier has to say.
    """

    name: str = "hmct"
    rounding: str = "half_even"
    report: dict[str, Any] = field(default_factory=dict)
    features: dict[str, dict[str, Any]] = field(default_factory=dict)
    int_inputs: dict[str, Any] = field(default_factory=dict)
    integers: Callable[[np.ndarray], np.ndarray] = same
    quantised: Callable[[np.ndarray], np.ndarray] = np.rint
    simulated: Callable[[np.ndarray], np.ndarray | None] = same
    stale: dict[str, Any] | None = None
    opinion: SecondOpinion | None = None

    def unavailable(self) -> str:
        return ""

    def versions(self) -> dict[str, str]:
        return {"fake": "1.0"}

    def convert(self, entry: Entry, target: Target, onnx: Path, folder: Path, log: Log, **_: object) -> Conversion:
        folder.mkdir(parents=True)
        model = json.loads(onnx.read_text())
        compiled = self.stale or model
        texts = {
            "int": json.dumps(model),
            "hbm": json.dumps({**compiled, "march": target.march, "built_from": _sha(json.dumps(compiled))}),
            "hbir": "hbir",
            "config": f"march: {target.march}\n",
            "log": "converted\n",
        }
        products = {}
        for role, text in texts.items():
            products[role] = folder / f"model.{role}"
            products[role].write_text(text)
        return Conversion(products, _sha(texts["int"]), self.versions(), self.describe_int(products["int"]))

    def describe_int(self, int_model: Path) -> IntModel:
        model = json.loads(int_model.read_text())
        inputs = [IntInput(name, "float32", (1, 2, 3), (model["input_scale"],), f"{name}_int") for name in ("a", "b")]
        scale = tuple(model["input_scale"] * value for value in model["weight_scale"])
        output = IntOutput("y", (1, 2, 4), "y_int", "int32", (1, 2, 4), scale, 2)
        return IntModel(tuple(dataclasses.replace(item, **self.int_inputs) for item in inputs), (output,))

    def run_int(
        self, int_model: Path, tensors: dict[str, Path], folder: Path, raw: bool, log: Log, model: IntModel | None = None
    ) -> dict[str, Path]:
        held = json.loads(int_model.read_text())
        fed = {name: np.load(path) / np.float32(held["input_scale"]) for name, path in tensors.items()}
        quantised = {name: np.clip(self.quantised(values), -128, 127).astype(np.int8) for name, values in fed.items()}
        integers = self.integers(product(held, quantised))
        scale = (np.float32(held["input_scale"]) * np.array(held["weight_scale"])).astype(np.float32)
        answer = {"y": integers.astype(np.float32) * scale}
        if raw:
            answer.update({f"{name}_int": values for name, values in quantised.items()}, y_int=integers)
        return _save(answer, folder)

    def run_reference(self, reference: Path, tensors: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        raise NotImplementedError

    def finish(self, int_model: Path, raw: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        raise NotImplementedError

    def compile_report(self, int_model: Path, hbm: Path, hbir: Path | None, folder: Path, log: Log, **_: object) -> CompileReport:
        compiled = json.loads(hbm.read_text())
        report = CompileReport(
            march=compiled["march"],
            latency_ms=1.25,
            fps=800.0,
            ddr_mb=0.5,
            size_mb=hbm.stat().st_size / 1e6,
            operators={"bpu": 1, "cpu": 0, "rim": 3},
            cpu_operators=(),
            layers=(),
            inputs=tuple(self._feature(name) for name in ("a_int", "b_int")),
            outputs=(self._feature("y_int"),),
            versions=self.versions(),
            contradiction="" if compiled["built_from"] == _sha(int_model.read_text()) else "other weights",
        )
        return dataclasses.replace(report, **self.report)

    def layers(self, *_: Any) -> list[LayerDump]:
        return []

    def second_opinion(self, *_: Any) -> SecondOpinion | None:
        return self.opinion

    def _feature(self, name: str) -> TensorContract:
        return dataclasses.replace(feature(name), **self.features.get(name, {}))

    def simulate(self, hbm: Path, inputs: dict[str, list[Path]], folder: Path, log: Log) -> dict[str, Path]:
        if set(inputs) != {"a_int", "b_int"}:
            raise ArtifactError("the hbm has other inputs", expected=["a_int", "b_int"], found=sorted(inputs))
        read = {name.removesuffix("_int"): np.stack([np.fromfile(path, np.int8) for path in paths]) for name, paths in inputs.items()}
        integers = self.simulated(product(json.loads(hbm.read_text()), read).reshape(-1, 1, 2, 4))
        return {} if integers is None else _save({"y_int": integers}, folder)


@dataclass
class Bench:
    """The board on the bench; `board` is what the product opens.

    Attributes:
        health, perf: fields of the answers that are otherwise.
        input, output: fields of the second input and of the output of `model_info` that are otherwise.
        inputs: the model's inputs in the order the board reads them.
        named: `model_info` names the tensors; old builds do not.
        dump: what becomes of a sample's int32 [1, 2, 4] output before it is dumped.
        dumps: the same by board, where boards differ.
        broken: by board, what its health says instead of an answer.
        file: what becomes of a sample's dump; None: no file.
        asked: the commands the board was sent.
    """

    health: dict[str, Any] = field(default_factory=dict)
    perf: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, str] = ("a", "b")
    named: bool = True
    dump: Callable[[int, np.ndarray], np.ndarray] = lambda sample, array: array
    dumps: dict[str, Callable[[int, np.ndarray], np.ndarray]] = field(default_factory=dict)
    broken: dict[str, BrokenError] = field(default_factory=dict)
    file: Callable[[int, bytes], bytes | None] = lambda sample, data: data
    asked: list[str] = field(default_factory=list)

    def board(self, spec: BoardSpec, session: object, **options: Any) -> FakeBoard:
        return FakeBoard(spec, self)


class FakeBoard(Board):
    """`Board` whose answers come from a `Bench`; `infer` and its checks of the dumps are the product's own."""

    def __init__(self, spec: BoardSpec, bench: Bench) -> None:
        self.spec = spec
        self.bench = bench
        self.log = print
        self._answered = []
        self.run = ""

    def close(self) -> None:
        self.bench.asked.append("close")

    def at_work(self) -> bool:
        return False

    def health(self) -> Health:
        self.bench.asked.append("health")
        if self.spec.name in self.bench.broken:
            raise self.bench.broken[self.spec.name]
        found = Health("/bin/hrt_model_exec", {"tool": "1.0"}, self.spec.march, 4000.0, 800.0, 3600.0, 0.5, (0, 0), ())
        return dataclasses.replace(found, **self.bench.health)

    def model_info(self, model: Path, name: str = "") -> ModelInfo:
        self.bench.asked.append("model_info")
        assert "weights" in json.loads(model.read_text())
        inputs = [self._tensor(index, feature(f"{item}_int"), "S8") for index, item in enumerate(self.bench.inputs)]
        output = self._tensor(0, feature("y_int"), "S32")
        inputs[1] = dataclasses.replace(inputs[1], **self.bench.input)
        return ModelInfo("toy", tuple(inputs), (dataclasses.replace(output, **self.bench.output),), {})

    def _tensor(self, index: int, of: TensorContract, kind: str) -> TensorInfo:
        name = of.name if self.bench.named else ""
        return TensorInfo(index, name, of.source, of.valid_shape, of.aligned_shape, of.byte_size, kind, "NHWC", "NONE", of.stride)

    def _infer_batch(self, asked: Any, first: int, batch: Sequence[Sequence[Path]], stream: bool) -> list[list[Path]]:
        model, info, out_dir = asked.model, asked.info, asked.out_dir
        self.bench.asked.append("infer")
        compiled = json.loads(model.read_text())
        for sample, files in enumerate(batch, first):
            read = {}
            for name, path in zip(self.bench.inputs, files, strict=True):
                of = feature(f"{name}_int")
                read[name] = unpad(path.read_bytes(), of.dtype, of.valid_shape, of.stride, of.byte_size)
            (out_dir / str(sample)).mkdir()
            (out_dir / str(sample) / "console.txt").write_text("Infer time: 1.3 ms\n")
            of = feature("y_int")
            array = self.bench.dumps.get(self.spec.name, self.bench.dump)(sample, product(compiled, read)).reshape(of.valid_shape)
            data = self.bench.file(sample, pad(array, of.stride, of.byte_size))
            if data is not None:
                (out_dir / str(sample) / "model_infer_output_0.bin").write_bytes(data)
        return [self._dumps(out_dir / str(sample), info) for sample in range(first, first + len(batch))]

    def perf(self, model: Path, frame_count: int = 200, thread_num: int = 1, core_id: int = 0, timeout: float = 600.0) -> Perf:
        self.bench.asked.append("perf")
        return dataclasses.replace(Perf(1.3, 1.5, 1.2, 769.0, frame_count, thread_num), **self.bench.perf)


@dataclass
class Lab:
    """Zoo, toolchain and board of a ladder that ships; a test changes one thing and climbs."""

    zoo: ToyZoo
    toolchain: FakeToolchain = field(default_factory=FakeToolchain)
    bench: Bench = field(default_factory=Bench)

    def __post_init__(self) -> None:
        (self.zoo.folder / "zoo" / "linear.py").write_text(ADAPTER)
        for which in ("float", "calib", "qat", "onnx"):
            self.artifact(which, model_data())
        self.entry()

    def artifact(self, which: str, data: dict[str, Any]) -> None:
        (self.zoo.artifacts / f"{which}.json").write_text(json.dumps(data))

    def entry(self, **changes: Any) -> None:
        plain = {"shape": [1, 2, 3], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}
        data: dict[str, Any] = {
            "adapter": "linear.py:Linear",
            "inputs": [{"name": name, **plain} for name in ("a", "b")],
            "artifacts": {which: f"toy/{which}.json" for which in ("float", "calib", "qat", "onnx")},
            "gates": {"float": {"min": 0.9}, "calib": {"max_drop": 0.0}, "qat": {"max_drop": 0.0}, "int": {"max_drop": 0.0}},
            "samples": {"probe": 4, "board": 8},
        }
        data["targets"] = [{"march": "bayes", "perf": {"max_latency_ms": 2, "min_fps": 500, "max_ddr_mb": 1, "max_size_mb": 5}}]
        self.zoo.entry(**{**data, **changes})

    def make_toolchain(self, settings: Settings, environment: Environment | None = None) -> FakeToolchain:
        return self.toolchain


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _save(arrays: Arrays, folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, array in arrays.items():
        files[name] = folder / f"{name}.npy"
        np.save(files[name], array)
    return files
