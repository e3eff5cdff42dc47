"""The hmct toolchain (public wheels of Horizon Robotics / D-Robotics: hmct, hbdk, horizon_tc_ui) behind `base.Toolchain`.

This side runs in the product and imports nothing of the vendor's. Every method is one job in the vendor environment
(`qatladder.toolchains.hmct_vendor`), so a crash or a memory limit there is a `BrokenError` here.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

from qatladder.errors import QATLadderError
from qatladder.numerics.tensor import TensorContract
from qatladder.runner.client import Environment, run_job
from qatladder.settings import Settings
from qatladder.toolchains.base import CompileReport, Conversion, IntInput, IntModel, IntOutput, LayerDump, Log, SecondOpinion, versions_of
from qatladder.zoo.schema import Entry, Target

STANDIN = Path(__file__).resolve().parent / "torch_standin"
"""Goes on the vendor environment's path: hmct imports torch, and uses none of it for ONNX models."""

_OPTIONS = {"march", "optimize_level", "core_num", "compile_mode", "balance_factor", "max_time_per_fc", "ptq"}
"""What of a target the tools are told."""


class Hmct:
    """See `qatladder.toolchains.base.Toolchain`.

    Args:
        settings: says whether the vendor packages may be used and where their interpreter is.
        timeout: seconds one job may take.
    """

    name = "hmct"
    rounding = "half_even"

    def __init__(self, settings: Settings, environment: Environment | None = None, timeout: float = 1800.0) -> None:
        self._settings = settings
        self._given = environment
        self._timeout = timeout

    @property
    def environment(self) -> Environment:
        """The target's own, or the vendor environment of this installation."""
        return self._given or _environment(self._settings.vendor_python)

    def unavailable(self) -> str:
        """Why hmct cannot be used here; empty when it can. The first call per process imports the tools once (about 2 s)."""
        if self._given is None:
            if not self._settings.vendor:
                return "opted out of the proprietary vendor packages (QATLADDER_VENDOR=0)"
            if sys.platform != "linux" or platform.machine() != "x86_64":
                return f"the vendor tools exist for Linux x86_64 only, not for {sys.platform} {platform.machine()}"
            if not self._settings.vendor_python.exists():
                return f"the vendor environment is not installed ({self._settings.vendor_python} does not exist); run `make setup`"
        try:
            self.versions()
        except QATLadderError as error:
            if self._given is not None:
                return f"the environment {self._given.name} does not work ({error.message}); `qatladder env check {self._given.name}`"
            return f"the vendor environment does not work ({error.message}); run `make setup` again"
        return ""

    def versions(self) -> dict[str, str]:
        return versions_of(self.environment, "qatladder.toolchains.hmct_vendor:versions", self._settings.work, 120)

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
        arguments = {
            "model": entry.model,
            "onnx_file": str(model.resolve()),
            "folder": str(folder.resolve()),
            "inputs": [spec.model_dump(mode="json") for spec in entry.inputs],
            "target": target.model_dump(mode="json", include=_OPTIONS),
            "calibration": {name: str(path.resolve()) for name, path in calibration.items()} if calibration else None,
        }
        value = self._job("convert", arguments, folder, log, model=entry.model, target=target.id)
        products = {role: Path(file) for role, file in value["products"].items()}
        if target.ptq is None:
            log(
                f"{value['compared']} scales and weights of the int model equal the exported model's "
                f"({value['half_way']} single weights half way)"
            )
        versions = {**value["versions"], "environment": self.versions()["environment"]}
        return Conversion(products, value["identity"], versions, self.describe_int(products["int"], folder / "describe"))

    def describe_int(self, int_model: Path, folder: Path) -> IntModel:
        """Inputs, outputs, scales and raw tensors of an int ONNX."""
        value = self._job("describe_int", {"int_model": str(int_model.resolve())}, folder, None, rung="int")
        return IntModel(
            tuple(IntInput(**_tuples(item)) for item in value["inputs"]), tuple(IntOutput(**_tuples(item)) for item in value["outputs"])
        )

    def run_int(
        self, int_model: Path, tensors: dict[str, Path], folder: Path, raw: bool, log: Log, model: IntModel | None = None
    ) -> dict[str, Path]:
        files = {name: str(path.resolve()) for name, path in tensors.items()}
        arguments = {"int_model": str(int_model.resolve()), "tensors": files, "folder": str(folder.resolve()), "raw": raw}
        return {name: Path(file) for name, file in self._job("run_int", arguments, folder, log, rung="int").items()}

    def run_reference(self, reference: Path, tensors: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        arguments = {
            "reference": str(reference.resolve()),
            "tensors": {name: str(path.resolve()) for name, path in tensors.items()},
            "folder": str(folder.resolve()),
        }
        return {name: Path(file) for name, file in self._job("run_reference", arguments, folder, log, rung="int").items()}

    def finish(self, int_model: Path, raw: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        arguments = {
            "int_model": str(int_model.resolve()),
            "raw": {name: str(path.resolve()) for name, path in raw.items()},
            "folder": str(folder.resolve()),
        }
        return {name: Path(file) for name, file in self._job("finish", arguments, folder, log, rung="int").items()}

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
        arguments = {
            "int_model": str(int_model.resolve()),
            "hbm": str(hbm.resolve()),
            "hbir": str(hbir.resolve()) if hbir else None,
            "folder": str(folder.resolve()),
        }
        value = self._job("compile_report", arguments, folder, log, rung="hbm")
        value.update({side: [TensorContract(**_tuples(item)) for item in value[side]] for side in ("inputs", "outputs")})
        return CompileReport(**_tuples(value))

    def simulate(self, hbm: Path, inputs: dict[str, list[Path]], folder: Path, log: Log) -> dict[str, Path]:
        files = {name: [str(path.resolve()) for path in paths] for name, paths in inputs.items()}
        arguments = {"hbm": str(hbm.resolve()), "inputs": files, "folder": str(folder.resolve())}
        return {name: Path(file) for name, file in self._job("simulate", arguments, folder, log, module="hbdk", rung="hbm").items()}

    def layers(
        self, int_model: Path, hbm: Path, hbir: Path, inputs: dict[str, Path], tensors: dict[str, Path], folder: Path, log: Log
    ) -> list[LayerDump]:
        arguments = {
            "int_model": str(int_model.resolve()),
            "hbm": str(hbm.resolve()),
            "hbir": str(hbir.resolve()),
            "inputs": {name: str(path.resolve()) for name, path in inputs.items()},
            "tensors": {name: str(path.resolve()) for name, path in tensors.items()},
            "folder": str(folder.resolve()),
        }
        rows = self._job("layers", arguments, folder, log, module="hmct_layers", rung="hbm")
        return [LayerDump(row["name"], row["operator"], Path(row["expected"]), Path(row["found"])) for row in rows]

    def second_opinion(
        self, int_model: Path, hbm: Path, model: IntModel, tensors: dict[str, Path], frames: dict[str, Path], folder: Path, log: Log
    ) -> SecondOpinion | None:
        return None

    def _job(
        self, function: str, arguments: dict[str, Any], folder: Path, log: Log | None, module: str = "hmct_vendor", **where: Any
    ) -> Any:
        return run_job(
            self.environment,
            f"qatladder.toolchains.{module}:{function}",
            arguments,
            folder,
            timeout=self._timeout,
            log=log,
            if_slow="the vendor tools work slowly on a busy machine: run fewer models at once, or fewer `samples` of the entry",
            **where,
        ).value


def _environment(python: Path) -> Environment:
    """The vendor environment: its own tools first on PATH, the stand-in for torch on PYTHONPATH."""
    return Environment("vendor", python, {"VIRTUAL_ENV": str(python.parent.parent)}, paths=[STANDIN], path=[python.parent])


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists back to tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
