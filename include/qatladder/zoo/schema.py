"""The schema of a zoo entry: one YAML file per model version.

`json_schema()` is written to `include/zoo/zoo.schema.json`, so that an editor completes and checks entries.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qatladder.numerics.contract import RUNTIME_TYPES, SOURCE_TYPES, InputContract

March = Literal["bernoulli2", "bayes", "bayes-e"]
ColourType = Literal["rgb", "bgr", "yuv444", "gray", "featuremap"]
RuntimeType = Literal["nv12", "yuv444", "rgb", "bgr", "gray", "featuremap"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Strict(BaseModel):
    """No unknown keys: a misspelt key is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(Strict):
    """One model input, from the training tensor to the bytes on the board."""

    name: str = Field(description="Input name in the exported ONNX.")
    shape: tuple[int, ...] = Field(description="Shape of the training tensor, batch first, in `layout`.", min_length=2)
    layout: Literal["NCHW", "NHWC", "none"] = Field(
        "NCHW", description="Layout of the training tensor; `none` for a featuremap without spatial axes."
    )
    type_train: ColourType = Field(description="What the float model was trained on.")
    type_rt: RuntimeType = Field(description="What the board feeds the compiled model.")
    source: Literal["pyramid", "resizer", "ddr"] = Field(description="Where the BPU reads the input from (input_source).")
    mean: tuple[float, ...] = Field((), description="Subtracted per channel before `scale`, in the order of `type_train`.")
    scale: tuple[float, ...] = Field((), description="Multiplied per channel after `mean`.")
    swing: Literal["full", "studio"] = Field(
        "full",
        description="Range of an nv12 input: full is the BPU's pyramid (0..255), studio is Y 16..235, U and V 16..240 (bt601_video).",
    )

    def contract(self, toolchain: str = "hmct") -> InputContract:
        """What the entry states of the input, for `numerics`. Layout and integers of the int model it does not: merge with their contract."""
        return InputContract(
            self.name,
            self.type_rt,
            self.type_train,
            self.layout,
            self.mean,
            self.scale,
            shape=self.shape,
            source=self.source,
            swing=self.swing,
            toolchain=toolchain,
            layout_rt="",
            bits=0,
        )

    @property
    def is_image(self) -> bool:
        return self.type_rt != "featuremap"

    @property
    def height_width(self) -> tuple[int, int]:
        """(H, W) of an image input."""
        return (self.shape[2], self.shape[3]) if self.layout == "NCHW" else (self.shape[1], self.shape[2])

    @property
    def channels(self) -> int:
        return self.shape[1] if self.layout == "NCHW" else self.shape[-1]

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)} has a size below 1; dynamic axes cannot be compiled")
        if self.shape[0] != 1:
            raise ValueError(f"batch {self.shape[0]}: only batch 1 is supported")
        if self.type_train not in RUNTIME_TYPES[self.type_rt]:
            raise ValueError(
                f"type_rt {self.type_rt} cannot be converted to type_train {self.type_train}; "
                f"it goes with {', '.join(RUNTIME_TYPES[self.type_rt])}"
            )
        if self.type_rt not in SOURCE_TYPES[self.source]:
            delivered = " or ".join(SOURCE_TYPES[self.source])
            raise ValueError(f"{self.type_rt} does not come through {self.source}, which delivers {delivered}")
        if self.swing != "full" and (self.type_rt != "nv12" or self.type_train == "yuv444"):
            raise ValueError(f"studio swing goes with nv12 of a model trained on rgb or bgr, not with {self.type_rt} and {self.type_train}")
        if not self.is_image:
            if self.mean or self.scale:
                raise ValueError("mean and scale belong to images; normalise a featuremap in the adapter's preprocess")
            return self
        if len(self.shape) != 4 or self.layout == "none":
            raise ValueError(f"an image input has four axes in NCHW or NHWC, not {list(self.shape)} in {self.layout}")
        expected = 1 if self.type_train == "gray" else 3
        if self.channels != expected:
            raise ValueError(
                f"type_train {self.type_train} has {expected} channel(s), shape {list(self.shape)} in {self.layout} has {self.channels}"
            )
        for key in ("mean", "scale"):
            if len(getattr(self, key)) not in (0, 1, self.channels):
                raise ValueError(f"{key} needs 1 or {self.channels} numbers, not {len(getattr(self, key))}")
        if self.type_rt == "nv12" and any(size % 2 for size in self.height_width):
            raise ValueError(f"nv12 needs even height and width, not {self.height_width[0]}x{self.height_width[1]}")
        return self


class Artifacts(Strict):
    """Files of the model, relative to the zoo's artifact root (or absolute)."""

    float: str = Field(description="Checkpoint of the float model.")
    calib: str | None = Field(None, description="Checkpoint after calibration.")
    qat: str | None = Field(None, description="Checkpoint after quantisation-aware training; may be absent when calib meets its gate.")
    onnx: str | None = Field(None, description="QDQ ONNX exported from the qat (or calib) model; what the toolchain converts.")


class Gate(Strict):
    """What a rung's primary metric is held against; both bounds must hold when both are given."""

    min: float | None = Field(None, description="Lowest acceptable value of the metric.")
    max_drop: float | None = Field(None, ge=0, description="Largest acceptable drop from the reference rung, in the metric's own unit.")

    @model_validator(mode="after")
    def _any(self) -> Gate:
        if self.min is None and self.max_drop is None:
            raise ValueError("a gate needs min, max_drop or both")
        return self


class Gates(Strict):
    """Accuracy gates per rung. Reference of a drop: float for calib and qat; the converted model for int; int for board."""

    float: Gate
    calib: Gate = Gate(max_drop=0.01)
    qat: Gate = Gate(max_drop=0.01)
    int: Gate = Gate(max_drop=0.01)
    board: Gate = Gate(max_drop=0.0)


class Fidelity(Strict):
    """How closely an int output must follow the fake-quant output (check int.fidelity)."""

    min_cosine: float = Field(0.999, le=1, description="Lowest cosine similarity of any output over the probe set.")
    max_mean_lsb: float = Field(
        1.0, gt=0, description="Largest mean absolute difference, in steps of an int8 tensor with the output's range."
    )


class Samples(Strict):
    """How many samples each kind of check looks at."""

    probe: int = Field(4, ge=1, le=64, description="Samples whose every tensor is kept and compared element by element.")
    evaluation: int | None = Field(None, ge=1, description="Samples the metric is computed on; empty for all.")
    board: int = Field(24, ge=1, description="Samples evaluated on the board.")


class PerfGate(Strict):
    """Limits on the compiler's estimate (hbm.compile) and on the board's measurement (board.perf)."""

    max_latency_ms: float | None = Field(None, gt=0, description="Latency of one frame, one thread, milliseconds.")
    min_fps: float | None = Field(None, gt=0, description="Frames per second.")
    max_ddr_mb: float | None = Field(None, gt=0, description="DDR traffic of one frame, MB.")
    max_size_mb: float | None = Field(None, gt=0, description="Size of the hbm, MB.")
    max_cpu_ops: int = Field(0, ge=0, description="Operators that may fall back to the CPU, input quantise and output dequantise aside.")


class Target(Strict):
    """One chip the model must run on."""

    march: March
    name: Name | None = Field(None, description="Name of the target; the march when empty.")
    toolchain: Literal["hmct"] = Field("hmct", description="What turns the exported model into int and hbm.")
    boards: tuple[Name, ...] = Field((), description="Boards of the fleet to use; empty for any board of this march.")
    optimize_level: Literal["O0", "O1", "O2", "O3"] = "O2"
    core_num: Literal[1, 2] = 1
    perf: PerfGate = PerfGate()

    @property
    def id(self) -> str:
        return self.name or self.march


class Entry(Strict):
    """One model version: what it is, where its artifacts are, what it is held against."""

    model: Name
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$", description="Version of the model, as a string.")
    description: str = ""
    owner: str = Field("", description="Who is told when the ladder breaks.")
    adapter: str = Field(description="file.py:ClassName, relative to the zoo folder.")
    adapter_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the adapter class.")
    environment: Name = Field("product", description="Where the model's own code runs (see environments in zoo.yaml).")
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    artifacts: Artifacts
    metric: str = Field(description="Primary metric the adapter's score() returns; higher is better.")
    gates: Gates
    fidelity: Fidelity = Fidelity()
    samples: Samples = Samples()
    timeout_minutes: float = Field(60, gt=0, description="Longest time one job of the model's own code may take.")
    targets: tuple[Target, ...] = Field(min_length=1)

    @field_validator("adapter")
    @classmethod
    def _adapter(cls, value: str) -> str:
        if not re.fullmatch(r"[^:]+\.py:[A-Za-z_]\w*", value):
            raise ValueError("write it file.py:ClassName")
        return value

    @model_validator(mode="after")
    def _unique(self) -> Entry:
        for what, names in (("inputs", [item.name for item in self.inputs]), ("targets", [item.id for item in self.targets])):
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} share a name: {names}")
        return self


class EnvironmentSpec(Strict):
    """An interpreter that runs models' own code."""

    python: str = Field(description="Path of the interpreter; relative to the zoo folder, ~ and $VARIABLES allowed.")


class ZooFile(Strict):
    """`zoo.yaml` in the zoo folder: what all entries share."""

    artifacts: str = Field("$QATLADDER_HOME/zoo", description="Root of the artifact paths; $QATLADDER_HOME is the data folder.")
    environments: dict[Name, EnvironmentSpec] = Field(default_factory=dict, description="Further environments; `product` always exists.")


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an entry, for editors."""
    schema = Entry.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "QATLadder zoo entry"
    return schema
