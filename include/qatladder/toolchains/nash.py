"""The nash toolchain (J6 and S100: hb_compile and hbdk4) behind `base.Toolchain`.

Everything runs in the user's own environment (`nash_user`); this side imports nothing of it. The int model is hb_compile's
`_quantized_model.bc`. Quantise and dequantise nodes are part of it and of the hbm, so their outputs are compared as they are, floats bit
for bit: by the vendor's documents a quantized .bc and its hbm give the same bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import QATLadderError, ToolchainError
from qatladder.numerics.tensor import TensorContract
from qatladder.runner.client import Environment, run_job
from qatladder.settings import Settings
from qatladder.toolchains.base import CompileReport, Conversion, IntInput, IntModel, IntOutput, LayerDump, Log, SecondOpinion, versions_of
from qatladder.zoo.schema import Entry, Target

_OPTIONS = {"march", "optimize_level", "core_num", "compile_mode", "balance_factor", "max_time_per_fc", "ptq"}
"""What of a target the tools are told."""


class Nash:
    """See `qatladder.toolchains.base.Toolchain`.

    Args:
        environment: with hbdk4, hmct and horizon_tc_ui, and their programs on its PATH.
        timeout: seconds one job may take.
    """

    name = "nash"
    rounding = "half_even"

    def __init__(self, settings: Settings, environment: Environment | None = None, timeout: float = 3600.0) -> None:
        self._work = settings.work
        self._environment = environment
        self._timeout = timeout

    def unavailable(self) -> str:
        """Why it cannot be used here; empty when it can. The first call per process starts the environment once."""
        if self._environment is None:
            return "no environment is named for the toolchain nash (`environment` of the entry or the target)"
        try:
            self.versions()
        except QATLadderError as error:
            return f"the environment {self._environment.name} does not work ({error.message})"
        return ""

    def versions(self) -> dict[str, str]:
        assert self._environment is not None
        return versions_of(self._environment, "qatladder.toolchains.nash_user:versions", self._work, self._timeout)

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
        if hbm is not None:
            raise unproven(entry, hbm)
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "model": entry.model,
            "onnx_file": str(model.resolve()),
            "folder": str(folder.resolve()),
            "inputs": [spec.model_dump(mode="json") for spec in entry.inputs],
            "target": target.model_dump(mode="json", include=_OPTIONS),
            "calibration": {name: str(path.resolve()) for name, path in calibration.items()} if calibration else None,
        }
        value = self._job("convert", arguments, folder, log, model=entry.model, target=target.id)
        inputs = tuple(IntInput(item["name"], item["dtype"], tuple(item["shape"]), None, item["name"]) for item in value["inputs"])
        outputs = tuple(
            IntOutput(item["name"], tuple(item["shape"]), item["name"], item["dtype"], tuple(item["shape"]), (), -1)
            for item in value["outputs"]
        )
        products = {role: Path(file) for role, file in value["products"].items()}
        return Conversion(products, value["identity"], self.versions(), IntModel(inputs, outputs))

    def run_int(
        self, int_model: Path, tensors: dict[str, Path], folder: Path, raw: bool, log: Log, model: IntModel | None = None
    ) -> dict[str, Path]:
        assert model is not None, "a .bc alone does not say which of its inputs are the planes of a picture"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "bc": str(int_model.resolve()),
            "inputs": [{"name": item.name, "type_rt": _type_of(item)} for item in model.inputs],
            "tensors": {name: str(path.resolve()) for name, path in tensors.items()},
            "folder": str(folder.resolve()),
        }
        found = {name: Path(file) for name, file in self._job("run", arguments, folder, log, rung="int").items()}
        return {**found, **tensors} if raw else found

    def run_reference(self, reference: Path, tensors: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "reference": str(reference.resolve()),
            "tensors": {name: str(path.resolve()) for name, path in tensors.items()},
            "folder": str(folder.resolve()),
        }
        return {name: Path(file) for name, file in self._job("run_reference", arguments, folder, log, rung="int").items()}

    def finish(self, int_model: Path, raw: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        return raw

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
        assert entry is not None, "a .bc alone does not say which of its inputs are the planes of a picture"
        folder.mkdir(parents=True, exist_ok=True)
        specs = [spec.model_dump(mode="json") for spec in entry.inputs]
        arguments = {"bc": str(int_model.resolve()), "hbm": str(hbm.resolve()), "inputs": specs, "folder": str(folder.resolve())}
        value = self._job("report", arguments, folder, log, rung="hbm")
        sources = [spec.source for spec in entry.inputs]
        layers = tuple(value["layers"])
        return CompileReport(
            march=value["march"],
            **{key: value[key] for key in ("latency_ms", "fps", "ddr_mb", "size_mb")},
            operators={},  # its tools do not say where an operator runs
            cpu_operators=(),
            layers=layers,
            inputs=tuple(_feature(item, source) for item, source in zip(value["inputs"], sources, strict=True)),
            outputs=tuple(_feature(item, "") for item in value["outputs"]),
            versions={"hbdk4 of the hbm": value["toolkit"]},
            contradiction="",  # no hbm is given, see `unproven`: it was compiled together with its .bc, from the same model
        )

    def simulate(self, hbm: Path, inputs: dict[str, list[Path]], folder: Path, log: Log) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {name for name, paths in inputs.items() if paths[0].suffix == ".yuv"}
        arguments = {
            "hbm": str(hbm.resolve()),
            "inputs": [{"name": name, "type_rt": "nv12" if name in pictures else "featuremap"} for name in inputs],
            "files": {name: [str(path.resolve()) for path in paths] for name, paths in inputs.items()},
            "folder": str(folder.resolve()),
        }
        return {name: Path(file) for name, file in self._job("simulate", arguments, folder, log, rung="hbm").items()}

    def layers(
        self, int_model: Path, hbm: Path, hbir: Path, inputs: dict[str, Path], tensors: dict[str, Path], folder: Path, log: Log
    ) -> list[LayerDump]:
        return []

    def second_opinion(
        self, int_model: Path, hbm: Path, model: IntModel, tensors: dict[str, Path], frames: dict[str, Path], folder: Path, log: Log
    ) -> SecondOpinion | None:
        folder.mkdir(parents=True, exist_ok=True)
        arguments = {
            "bc": str(int_model.resolve()),
            "hbm": str(hbm.resolve()),
            "inputs": [{"name": item.name, "type_rt": _type_of(item)} for item in model.inputs],
            "files": {name: str(path.resolve()) for name, path in {**tensors, **frames}.items()},
            "folder": str(folder.resolve()),
        }
        value = self._job("verify", arguments, folder, log, rung="hbm")
        if value is None:
            log("this environment has no hb_verifier: its opinion is missing")
            return None
        rows = tuple((str(output), str(difference)) for output, difference in value["rows"])
        return SecondOpinion(value["tool"], {}, (), "", Path(value["log"]), rows)

    def _job(self, function: str, arguments: dict[str, Any], folder: Path, log: Log | None, **where: Any) -> Any:
        assert self._environment is not None
        call = f"qatladder.toolchains.nash_user:{function}"
        return run_job(self._environment, call, arguments, folder, timeout=self._timeout, log=log, **where).value


def unproven(entry: Entry, hbm: Path) -> ToolchainError:
    """The answer to `artifacts.hbm` of a nash target."""
    return ToolchainError(
        "that a given hbm comes from this model cannot be proven on nash: no published format says what it was compiled from",
        "leave `artifacts.hbm` out; it is compiled from the exported model",
        model=entry.model,
        file=hbm,
    )


def _type_of(item: IntInput) -> str:
    """A picture's intermediate type is int8 NHWC of three channels; a featuremap is fed as float32."""
    return "nv12" if item.dtype == "int8" else "featuremap"


def _feature(item: dict[str, Any], source: str) -> TensorContract:
    """As the .bc states it: without padding, which hbdk4 neither states nor wants."""
    shape = tuple(item["shape"])
    strides = [np.dtype(item["dtype"]).itemsize]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * size)
    return TensorContract(item["name"], item["dtype"], shape, shape, tuple(reversed(strides)), int(np.prod(shape)) * strides[0], source)
