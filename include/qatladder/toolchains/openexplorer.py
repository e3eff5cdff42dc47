"""The openexplorer toolchain (J5 and X3 with horizon_plugin_pytorch and hbdk3) behind `base.Toolchain`.

Everything runs in the user's own environment; this side imports nothing of it. The int model is the traced TorchScript of the plugin's
converted model: its quantise and dequantise nodes state the scales, its outputs give the integers back exactly. That an hbm comes from
it is proven by compiling it once more: both then carry the CRC-32 of the same hbir.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, ConfigError, QATLadderError, ToolchainError
from qatladder.numerics.tensor import TensorContract
from qatladder.runner.client import Environment, run_job
from qatladder.settings import Settings
from qatladder.toolchains.base import CompileReport, Conversion, IntInput, IntModel, IntOutput, LayerDump, Log, SecondOpinion, versions_of
from qatladder.zoo.schema import Entry, Target

_USER = "qatladder.toolchains.openexplorer_user:"


class OpenExplorer:
    """See `qatladder.toolchains.base.Toolchain`.

    Args:
        environment: with torch, horizon_plugin_pytorch and hbdk's programs on its PATH.
        timeout: seconds one job may take.
    """

    name = "openexplorer"
    rounding = "half_up"

    def __init__(self, settings: Settings, environment: Environment | None = None, timeout: float = 3600.0) -> None:
        self._work = settings.work
        self._environment = environment
        self._timeout = timeout
        self._entry: Entry | None = None

    def unavailable(self) -> str:
        """Why it cannot be used here; empty when it can. The first call per process starts the environment once."""
        if self._environment is None:
            return "no environment is named for the toolchain openexplorer (`environment` of the entry or the target)"
        try:
            self.versions()
        except QATLadderError as error:
            return f"the environment {self._environment.name} does not work ({error.message})"
        return ""

    def versions(self) -> dict[str, str]:
        assert self._environment is not None
        return versions_of(self._environment, _USER + "versions", self._work, self._timeout)

    def convert(
        self,
        entry: Entry,
        target: Target,
        model: Path,
        folder: Path,
        log: Log,
        *,
        hbm: Path | None = None,
        calibration: dict[str, Path] | None = None,
    ) -> Conversion:
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {**self._arguments(entry, target, model), "folder": str(folder.resolve())}
        value = self._job(_USER + "convert", arguments, folder, log, model=entry.model, target=target.id)
        compiled = hbm or Path(value["hbm"])
        described = self._job(
            "qatladder.toolchains.hbdk:describe",
            {"hbm": str(compiled.resolve()), "folder": str(folder.resolve())},
            folder / "describe",
            log,
        )
        if described["march"] != target.march:
            raise ToolchainError(
                "the hbm is for another march than was asked", expected=target.march, found=described["march"], file=compiled
            )
        products = {"int": model, "hbm": compiled}
        products.update({role: Path(value[role]) for role in ("perf_html", "perf_json") if value[role]})
        return Conversion(
            products, hashlib.sha256(model.read_bytes()).hexdigest(), self.versions(), _int_model(entry, value, described, compiled)
        )

    def run_int(
        self, int_model: Path, tensors: dict[str, Path], folder: Path, raw: bool, log: Log, model: IntModel | None = None
    ) -> dict[str, Path]:
        assert model is not None, "a traced model alone does not say what its tensors are called"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "model": str(int_model.resolve()),
            "inputs": [{"name": item.name, "scale": list(item.scale or ()), "raw_name": item.raw_name} for item in model.inputs],
            "outputs": [
                {
                    "name": item.name,
                    "scale": list(item.scale),
                    "axis": item.axis,
                    "tail": list(item.tail),
                    "raw_name": item.raw_name,
                    "raw_dtype": item.raw_dtype,
                }
                for item in model.outputs
            ],
            "tensors": {name: str(path.resolve()) for name, path in tensors.items()},
            "raw": raw,
            "folder": str(folder.resolve()),
        }
        return {name: Path(file) for name, file in self._job(_USER + "run", arguments, folder, log, rung="int").items()}

    def run_reference(self, reference: Path, tensors: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        raise ToolchainError("openexplorer does not quantise: the model carries its own scales")

    def finish(self, int_model: Path, raw: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        raise ToolchainError("an int model of openexplorer ends with its DeQuantStub: nothing is behind it")

    def compile_report(
        self,
        int_model: Path,
        hbm: Path,
        hbir: Path | None,
        folder: Path,
        log: Log,
        *,
        entry: Entry | None = None,
        target: Target | None = None,
    ) -> CompileReport:
        assert entry is not None and target is not None, "compiling the model once more needs its inputs"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {**self._arguments(entry, target, int_model), "hbm": str(hbm.resolve()), "folder": str(folder.resolve())}
        value = self._job(_USER + "report", arguments, folder, log, rung="hbm")
        features = {side: tuple(_feature(item) for item in value[side]) for side in ("inputs", "outputs")}
        layers = tuple(value["layers"])
        return CompileReport(
            march=value["march"],
            **{key: value[key] for key in ("latency_ms", "fps", "ddr_mb", "size_mb")},
            operators={"bpu": len(layers), "cpu": 0, "rim": 0},
            cpu_operators=(),
            layers=layers,
            inputs=features["inputs"],
            outputs=features["outputs"],
            versions=value["versions"],
            contradiction=value["contradiction"],
            problems=tuple(value["problems"]),
        )

    def simulate(self, hbm: Path, inputs: dict[str, list[Path]], folder: Path, log: Log) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: [str(path.resolve()) for path in paths] for name, paths in inputs.items()}
        arguments = {"hbm": str(hbm.resolve()), "inputs": files, "folder": str(folder.resolve())}
        return {
            name: Path(file) for name, file in self._job("qatladder.toolchains.hbdk:simulate", arguments, folder, log, rung="hbm").items()
        }

    def layers(
        self, int_model: Path, hbm: Path, hbir: Path, inputs: dict[str, Path], tensors: dict[str, Path], folder: Path, log: Log
    ) -> list[LayerDump]:
        return []

    def second_opinion(
        self, int_model: Path, hbm: Path, model: IntModel, tensors: dict[str, Path], frames: dict[str, Path], folder: Path, log: Log
    ) -> SecondOpinion | None:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.load(path, mmap_mode="r") for name, path in {**tensors, **frames}.items()}
        samples, sizes = [], set()
        if any(arrays[name].ndim != 3 or arrays[name].shape[1] % 3 for name in frames):
            log("hbdk-model-verifier is asked with nv12 pictures only: its opinion is missing")
            return None
        for index in range(len(next(iter(arrays.values())))):
            files = []
            for number, item in enumerate(model.inputs):
                sample = np.asarray(arrays[item.name][index])
                path = folder / f"sample_{index}_input_{number}{'.yuv' if item.name in frames else '.bin'}"
                if item.name in frames:
                    sizes.add((sample.shape[-2] * 2 // 3, sample.shape[-1]))
                else:
                    sample = sample.transpose(1, 2, 0) if sample.ndim == 3 else sample  # the tool takes NHWC
                path.write_bytes(np.ascontiguousarray(sample).tobytes())
                files.append(str(path))
            samples.append(files)
        if len(sizes) > 1:
            log("hbdk-model-verifier takes one size of pictures only: its opinion is missing")
            return None
        outputs = [
            {"raw_name": item.raw_name, "raw_dtype": item.raw_dtype, "shape": item.shape, "scale": item.scale, "axis": item.axis}
            for item in model.outputs
        ]
        arguments = {
            "hbm": str(hbm.resolve()),
            "model_pt": str(int_model.resolve()),
            "samples": samples,
            "outputs": outputs,
            "options": {"skip_bpu": True, "yuv_shape": next(iter(sizes), None)},
            "folder": str(folder.resolve()),
        }
        value = self._job("qatladder.toolchains.model_verifier:verify", arguments, folder, log, rung="hbm")
        if value is None:
            log("this environment has no hbdk-model-verifier: its opinion is missing")
            return None
        built = self._job("qatladder.toolchains.hbdk:describe", {"hbm": str(hbm.resolve()), "folder": str(folder)}, folder, None)
        ours, theirs = value["version"], built["versions"].get("hbdk", "")
        skew = "" if not ours or ours == theirs else f"hbdk-model-verifier is {ours}, the hbm was built with hbdk {theirs}"
        dumps = {kind: {name: Path(file) for name, file in files.items()} for kind, files in value["dumps"].items()}
        return SecondOpinion(f"hbdk-model-verifier {ours}".strip(), dumps, tuple(value["said"]), skew, Path(value["log"]))

    @staticmethod
    def _arguments(entry: Entry, target: Target, model: Path) -> dict[str, Any]:
        return {
            "model": str(model.resolve()),
            "inputs": [spec.model_dump(mode="json", include={"name", "shape", "source"}) for spec in entry.inputs],
            "target": target.model_dump(mode="json", include={"march", "optimize_level", "core_num"}),
        }

    def _job(self, call: str, arguments: dict[str, Any], folder: Path, log: Log | None, **where: Any) -> Any:
        assert self._environment is not None
        return run_job(self._environment, call, arguments, folder, timeout=self._timeout, log=log, **where).value


def _int_model(entry: Entry, stated: dict[str, Any], described: dict[str, Any], hbm: Path) -> IntModel:
    """The traced model's tensors and the hbm's features, joined by their order."""
    for side, ours in (("inputs", stated["inputs"]), ("outputs", stated["outputs"])):
        if len(ours) != len(described[side]):
            raise ArtifactError(
                f"the hbm has another number of {side} than the int model",
                "was it compiled from this model?",
                file=hbm,
                expected=len(ours),
                found=", ".join(item["name"] for item in described[side]),
            )
    names = entry.outputs or tuple(f"output_{index}" for index in range(len(stated["outputs"])))
    if len(names) != len(stated["outputs"]):
        raise ConfigError(
            "the entry names another number of outputs than the int model has",
            model=entry.model,
            expected=len(stated["outputs"]),
            found=", ".join(names),
            next_step="correct `outputs` of the entry: the names the adapter uses, in the order of the traced model",
        )
    inputs = tuple(
        IntInput(
            name=spec.name,
            dtype="int8" if spec.is_image else "float32",
            shape=spec.shape,
            scale=tuple(item["scale"]),
            raw_name=feature["name"],
        )
        for spec, item, feature in zip(entry.inputs, stated["inputs"], described["inputs"], strict=True)
    )
    outputs = []
    for name, item, feature in zip(names, stated["outputs"], described["outputs"], strict=True):
        shape = tuple(item["shape"])
        outputs.append(
            IntOutput(
                name=name,
                shape=shape,
                raw_name=feature["name"],
                raw_dtype=feature["dtype"],
                raw_shape=shape,
                scale=tuple(item["scale"]),
                axis=item["axis"],
                tail=tuple(item["tail"]),
            )
        )
    return IntModel(inputs, tuple(outputs))


def _feature(item: dict[str, Any]) -> TensorContract:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return TensorContract(**values)
