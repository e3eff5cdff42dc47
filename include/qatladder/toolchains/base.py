"""The interface every toolchain offers to the ladder, and the plain data it speaks.

Paths are local files; the ladder moves them through the object store between rungs. Everything here survives JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from qatladder.numerics.tensor import TensorContract
from qatladder.runner.client import Environment, ask_once
from qatladder.zoo.schema import Entry, Target

Log = Callable[[str], None]


@dataclass(frozen=True)
class IntInput:
    """One input of the int model: the ONNX input, and how its integers are made.

    Attributes:
        name: ONNX input name.
        dtype: int8 for an image (intermediate type, value - 128), float32 for a featuremap.
        shape: as the ONNX declares it.
        scale: scale of the quantise node behind a featuremap input (None for an image).
        raw_name: tensor that holds the integers the hbm is fed (the input itself for an image).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: tuple[float, ...] | None
    raw_name: str


@dataclass(frozen=True)
class IntOutput:
    """One output of the int model and the integers behind it.

    Attributes:
        name: ONNX output name, as the adapter knows it.
        shape: as the ONNX declares it.
        raw_name: the integer tensor that leaves the BPU; equals the hbm's output feature name.
        raw_dtype: numpy name of its integers.
        raw_shape: its shape.
        scale: dequantisation scale(s); empty when the output is not dequantised.
        axis: axis of `scale` in `raw_shape`; -1 for a per-tensor scale.
        tail: types of the CPU operators between the dequantised tensor and the output, in order (`Reshape`, `Softmax`, ...).
    """

    name: str
    shape: tuple[int, ...]
    raw_name: str
    raw_dtype: str
    raw_shape: tuple[int, ...]
    scale: tuple[float, ...]
    axis: int
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class IntModel:
    """What the int model itself states of its inputs and outputs."""

    inputs: tuple[IntInput, ...]
    outputs: tuple[IntOutput, ...]


@dataclass(frozen=True)
class Conversion:
    """What `convert` built.

    Attributes:
        products: files by role: `int` (quantized ONNX, `.bc`, TorchScript), `hbm`, `bin`, `hbir` (when kept), `config`, `log`, `perf_json`,
            `perf_html`; of a `ptq` target also `reference`, the toolchain's own fake-quant model.
        identity: sha256 that repeats for equal input (of the int ONNX in canonical order: hbm and bin embed paths and never repeat).
        versions: tool name to version.
        model: inputs, outputs, scales and raw tensors of the int model.
    """

    products: dict[str, Path]
    identity: str
    versions: dict[str, str]
    model: IntModel


@dataclass(frozen=True)
class CompileReport:
    """What the compiler says of the hbm. Estimates of the compiler, not measurements.

    Attributes:
        march: as the hbm states it, in the words of the zoo schema.
        latency_ms, fps, ddr_mb: per frame; MB = 10**6 bytes.
        size_mb: size of the hbm file.
        operators: operators of the int model by where they run: {"bpu": n, "cpu": n, "rim": n}; `rim` are the quantise, dequantise and
            layout operators outside the hbm, which compute nothing. Empty where the tools do not say.
        cpu_operators: names and types of those that fell back to the CPU (input quantise / output dequantise aside).
        layers: the compiler's per-layer table: [{"layer", "ops", "output_shape", "aligned_shape", "compute_us", "load_store_us", "active"}];
            a time is 0.0 where the compiler says "<1 us".
        inputs, outputs: the hbm's features.
        versions: compiler and runtime version the hbm was built with.
        contradiction: why the hbm cannot have been compiled from this int model; empty when it provably was.
        problems: what the op-support checker refused, one line each; empty when it takes everything.
    """

    march: str
    latency_ms: float
    fps: float
    ddr_mb: float
    size_mb: float
    operators: dict[str, int]
    cpu_operators: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]
    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]
    versions: dict[str, str]
    contradiction: str
    problems: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class LayerDump:
    """One layer's integers in the int model and on the simulator, for one sample.

    Attributes:
        name: of the tensor.
        operator: type of the operator that makes it.
        expected, found: [1, ...] .npy of the int model's and of the simulator's integers, each in its own order of axes.
    """

    name: str
    operator: str
    expected: Path
    found: Path


@dataclass(frozen=True)
class SecondOpinion:
    """What the vendor's own comparison of int model and hbm computed, to be judged by our numerics.

    Attributes:
        tool: its name and version.
        dumps: by where it ran the hbm (`simulator_output`, `bpu_output`): [N, ...] .npy of integers per `raw_name` of the int model's outputs.
        said: lines of its console that speak of a failure; its exit code is not believed either way.
        skew: why its version cannot speak for this hbm; empty when it can.
        log: its console.
        rows: of a tool that dumps nothing and prints a table: per output of the int model what it says differs, "" where nothing does.
    """

    tool: str
    dumps: dict[str, dict[str, Path]]
    said: tuple[str, ...]
    skew: str
    log: Path
    rows: tuple[tuple[str, str], ...] = ()


def versions_of(environment: Environment, call: str, work: Path, timeout: float) -> dict[str, str]:
    """What `call` says of the tools in an environment, and the environment's own hash; asked once per process.

    Raises:
        BrokenError: the environment does not work.
    """
    answer = ask_once(environment, call, work, timeout)
    return {**answer.value, "environment": answer.environment["sha256"]}


class Toolchain(Protocol):
    """One vendor toolchain. Every method runs its tools in their own environment, never in this process."""

    name: str
    rounding: str
    """How its quantise nodes round featuremaps: see `numerics.tensor.quantize`."""

    def unavailable(self) -> str:
        """Why the toolchain cannot be used on this machine; empty when it can."""

    def versions(self) -> dict[str, str]:
        """Versions of the installed tools."""

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
        """The source model to int model and hbm, in `folder`.

        Args:
            model: the artifact `target.source` names.
            hbm: a compiled model that exists already and is to be proven instead of a new one.
            calibration: [N, ...] float32 .npy per input of a `ptq` target, in the layout of training: of an image the values 0..255 of
                `type_train` as the board's picture gives them, of a featuremap the training tensor.
        Raises:
            ToolchainError: the toolchain refuses the model, or would build something else than was asked.
            BrokenError: the tool died or is not there.
        """

    def run_int(
        self, int_model: Path, tensors: dict[str, Path], folder: Path, raw: bool, log: Log, model: IntModel | None = None
    ) -> dict[str, Path]:
        """Run the int model on [N, ...] .npy inputs (by input name; each sample without the batch axis of 1).

        Args:
            model: what `convert` said of it; a toolchain whose int model states its own scales needs none.
        Returns:
            [N, ...] .npy per output name (float32, dequantised); with `raw` also per `raw_name` of inputs and outputs (integers).
        """

    def run_reference(self, reference: Path, tensors: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        """Run the toolchain's own fake-quant model (`reference` of a `ptq` conversion) on what the int model is fed.

        Returns:
            [N, ...] float32 .npy per output name.
        """

    def finish(self, int_model: Path, raw: dict[str, Path], folder: Path, log: Log) -> dict[str, Path]:
        """What the CPU makes of the BPU's integers: dequantisation and whatever operators the int model has behind it.

        Args:
            raw: [N, ...] .npy per `raw_name` of the int model's outputs.
        Returns:
            [N, ...] float32 .npy per output name.
        """

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
        """Check and describe a compiled model. `entry` and `target` are for a toolchain that has to compile once more to prove its origin."""

    def simulate(self, hbm: Path, inputs: dict[str, list[Path]], folder: Path, log: Log) -> dict[str, Path]:
        """Run the hbm on the vendor's simulator, sample by sample.

        Args:
            inputs: per hbm input feature one raw file per sample: nv12/gray bytes for pyramid; valid (unpadded) integers for ddr.
        Returns:
            [N, ...] .npy of raw integers (valid shape without its batch axis of 1) per hbm output feature.
        """

    def layers(
        self, int_model: Path, hbm: Path, hbir: Path, inputs: dict[str, Path], tensors: dict[str, Path], folder: Path, log: Log
    ) -> list[LayerDump]:
        """One sample through every layer of the int model and of the compiled model, in the order of computation.

        Args:
            inputs: the sample's raw file per input feature of the hbm.
            tensors: the same sample as the int model takes it, [1, ...] .npy per input.
        """

    def second_opinion(
        self, int_model: Path, hbm: Path, model: IntModel, tensors: dict[str, Path], frames: dict[str, Path], folder: Path, log: Log
    ) -> SecondOpinion | None:
        """The vendor's own comparison of int model and hbm on a few samples; None where there is no such tool.

        Args:
            tensors: [N, ...] .npy of integers per input that is no picture, as the int model takes them.
            frames: [N, ...] .npy of the runtime bytes per input that is a picture.
        """
