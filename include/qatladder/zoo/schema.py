"""The schema of a zoo entry: one YAML file per model version.

`json_schema()` is written to `include/zoo/zoo.schema.json`, so that an editor completes and checks entries.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from qatladder.numerics.contract import RUNTIME_TYPES, SOURCE_TYPES, InputContract

March = Literal["bernoulli2", "bayes", "bayes-e", "nash-e", "nash-m", "nash-p"]
ColourType = Literal["rgb", "bgr", "yuv444", "gray", "featuremap"]
RuntimeType = Literal["nv12", "yuv444", "rgb", "bgr", "gray", "featuremap"]
MARCHES: dict[str, tuple[str, ...]] = {
    "hmct": ("bernoulli2", "bayes", "bayes-e"),
    "openexplorer": ("bernoulli2", "bayes"),
    "nash": ("nash-e", "nash-m", "nash-p"),
}
"""What each toolchain compiles for."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Strict(BaseModel):
    """No unknown keys: a misspelt key is an error, not a silent default. Finite numbers: a gate of -.inf or .nan asks nothing, or the impossible."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    onnx: str | None = Field(
        None,
        description="What hmct and nash convert: QDQ ONNX exported from the qat (or calib) model, or the float ONNX of a `ptq` target.",
    )
    int: str | None = Field(None, description="What openexplorer compiles: the int model as TorchScript (`convert_fx`, traced).")
    hbm: str | None = Field(
        None, description="A compiled model that exists already; it is proven to come from the int model, never trusted."
    )


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
    max_vs_estimate: float | None = Field(
        None, gt=0, description="Largest measured latency as a multiple of the compiler's estimate; a virtual board cannot judge it."
    )
    max_vs_baseline: float | None = Field(
        None,
        gt=0,
        description="Largest measured latency as a multiple of the baseline: `baseline_ms`, else this ladder's newest measured latency that "
        "passed; a virtual board cannot judge it.",
    )
    max_growth: float | None = Field(
        None,
        gt=0,
        description="Largest estimated latency, DDR traffic and hbm size as multiples of this ladder's newest hbm.compile that passed; its FPS may "
        "fall by the same factor.",
    )
    baseline_ms: float | None = Field(None, gt=0, description="Latency `max_vs_baseline` is relative to, milliseconds.")
    repeats: int = Field(5, ge=1, le=100, description="Measurements after a warm-up run; their medians are held against the limits.")
    max_spread: float = Field(
        0.1,
        gt=0,
        description="Largest (max - min) / median of the repeats at which a limit that lies between them is still judged by the median.",
    )

    @model_validator(mode="after")
    def _baseline(self) -> PerfGate:
        if self.baseline_ms is not None and self.max_vs_baseline is None:
            raise ValueError("baseline_ms says what max_vs_baseline is relative to; give that too")
        return self


PLACEHOLDER = re.compile(r"\{(\w*)\}")
Pattern = Annotated[
    str,
    Field(
        description="File name below the dump folder: {sample} stands for the number of the frame, * for anything but a slash. "
        ".npy and .txt say what they hold, anything else is raw little-endian bytes."
    ),
]


def _check_pattern(pattern: str) -> str:
    if PLACEHOLDER.findall(pattern) != ["sample"]:
        raise ValueError(f"{pattern!r}: write {{sample}} once, where the number of the frame is, and no other placeholder")
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ValueError(f"{pattern!r} is relative to the dump folder and stays below it")
    return pattern


class AppInput(Strict):
    """What the user's on-board program dumps of a model input: the very memory it gave to the BPU."""

    name: str = Field(description="The input of the entry.")
    pattern: Annotated[Pattern, AfterValidator(_check_pattern)]
    stride: int | None = Field(
        None, gt=0, description="Bytes from row to row in the dump of an NV12 frame; empty for rows without padding."
    )


class Tolerance(Strict):
    """|found - expected| <= atol + rtol * |expected|."""

    atol: float = Field(0.0, ge=0, description="Absolute difference allowed.")
    rtol: float = Field(0.0, ge=0, description="Difference allowed relative to the expected value.")


class AppOutput(Strict):
    """What the user's on-board program dumps of a result, at one stage of its post-processing."""

    stage: Literal["raw", "dequantised", "postprocessed"] = Field(
        description="raw: the output's integers, held against hrt_model_exec's. dequantised: float32, against those integers times the int "
        "model's scale. postprocessed: the result, against the adapter's `postprocess` of these."
    )
    name: str = Field(description="The model's output; of a result that is postprocessed, any name.")
    pattern: Annotated[Pattern, AfterValidator(_check_pattern)]
    dtype: Literal["", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64"] = Field(
        "", description="Elements of the dump; empty for the output's own, float32 when dequantised."
    )
    shape: tuple[int, ...] = Field(
        (), description="Shape of the dump when it is not the output's own (as model_info states it), for example NHWC of an NCHW output."
    )
    fields: tuple[str, ...] = Field(
        (), description="Keys of the adapter's prediction that make one row of the dump each detection, in this order."
    )
    ordered: bool = Field(True, description="False: the rows of a result may come in any order.")
    tolerance: Tolerance = Field(Tolerance(), description="Zero, the default, is equality of every bit.")

    @model_validator(mode="after")
    def _consistent(self) -> AppOutput:
        if self.stage == "raw" and self.tolerance != Tolerance():
            raise ValueError("raw integers are equal or they are not; leave the tolerance out")
        if self.stage != "postprocessed" and (self.fields or not self.ordered):
            raise ValueError(f"fields and ordered belong to stage postprocessed, not to {self.stage}")
        if self.stage == "postprocessed":
            if self.shape:
                raise ValueError("a result has the shape of the adapter's prediction; leave the shape out")
            if not self.dtype and not self.pattern.endswith((".txt", ".npy")):
                raise ValueError("raw bytes of a result need a dtype")
            if not self.ordered and not self.fields:
                raise ValueError("only rows made of `fields` can come in any order")
        return self


class OnBoard(Strict):
    """The user's own program on the board (checks board.app_input and board.app_output): run by us, or the dumps of its own run."""

    command: tuple[str, ...] = Field(
        (),
        description="Program and arguments, run in a fresh folder of the board that holds `files`. {model} is the compiled model (the int model's "
        "shapes and scales are in the .json beside it), {inputs} the folder of the samples (<input>_<sample>.ppm or .bin), {out} the folder "
        "to dump to; with {sample} it is run once per sample.",
    )
    files: tuple[str, ...] = Field((), description="Files sent along, relative to the zoo folder; they keep their names without folders.")
    dump_dir: str | None = Field(
        None, pattern=r"^/[\w./-]+$", description="Instead of a command: folder on the board the program has dumped to by itself."
    )
    max_age_hours: float = Field(24, gt=0, description="Dumps in `dump_dir` that are older prove nothing.")
    timeout_minutes: float = Field(10, gt=0, description="Longest time the command may take for all samples.")
    inputs: tuple[AppInput, ...] = Field(min_length=1, description="A dump of every model input.")
    outputs: tuple[AppOutput, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> OnBoard:
        if bool(self.command) == (self.dump_dir is not None):
            raise ValueError("give either a command to run or the dump_dir of a program that has run")
        if self.files and not self.command:
            raise ValueError("files are sent along with a command; a dump_dir needs none")
        for word in self.command:
            for name in PLACEHOLDER.findall(word):
                if name not in ("model", "inputs", "out", "sample"):
                    raise ValueError(f"{{{name}}} of {word!r} is none of {{model}}, {{inputs}}, {{out}}, {{sample}}")
        if any(file.startswith("/") or ".." in file.split("/") for file in self.files):
            raise ValueError("files are relative to the zoo folder and stay below it")
        names = [file.rpartition("/")[2] for file in self.files]
        taken = set(names) & {"out", "inputs", "model.hbm", "model.json", "program.sh", ""}
        if len(set(names)) != len(names) or taken:
            raise ValueError(f"files share one folder on the board: {', '.join(sorted(taken)) or 'two of them'} cannot have that name")
        patterns = [item.pattern for item in self.inputs] + [item.pattern for item in self.outputs]
        for what, items in (
            ("inputs", [item.name for item in self.inputs]),
            ("outputs of one stage", [f"{item.stage} {item.name}" for item in self.outputs]),
            ("dumps", patterns),
        ):
            if len(set(items)) != len(items):
                raise ValueError(f"two {what} are the same: {items}")
        return self


class PTQ(Strict):
    """Post-training quantisation: the toolchain calibrates the float ONNX on the adapter's `calibration` split."""

    method: Literal["default", "max", "kl", "mix"] = Field(
        "default", description="How a range is chosen: default tries max and kl and keeps the better, mix chooses per layer."
    )
    samples: int = Field(32, ge=1, description="Samples of the adapter's `calibration` split.")
    per_channel: bool = Field(False, description="A scale per channel of the activations, too.")
    max_percentile: float | None = Field(None, gt=0, le=1, description="Share of the values within the range; goes with method max.")
    run_on_cpu: tuple[str, ...] = Field((), description="Nodes of the exported model that shall run on the CPU.")
    run_on_bpu: tuple[str, ...] = Field((), description="Nodes of the exported model that shall run on the BPU.")

    @model_validator(mode="after")
    def _consistent(self) -> PTQ:
        if self.max_percentile is not None and self.method != "max":
            raise ValueError(f"max_percentile goes with method max, not with {self.method}")
        if both := set(self.run_on_cpu) & set(self.run_on_bpu):
            raise ValueError(f"{', '.join(sorted(both))} cannot run on the CPU and on the BPU")
        return self


class Target(Strict):
    """One chip the model must run on."""

    march: March
    name: Name | None = Field(None, description="Name of the target; the march when empty.")
    toolchain: Literal["hmct", "openexplorer", "nash"] = Field("hmct", description="What turns the exported model into int and hbm.")
    environment: Name | None = Field(
        None,
        description="Environment that holds the toolchain's tools; empty for the vendor environment (hmct) or the entry's own (others).",
    )
    ptq: PTQ | None = Field(None, description="Post-training quantisation by the toolchain; empty for a model that carries its own scales.")
    boards: tuple[Name, ...] = Field((), description="Boards of the fleet to use; empty for any board of this march.")
    optimize_level: Literal["O0", "O1", "O2", "O3"] = "O2"
    core_num: Literal[1, 2] = 1
    compile_mode: Literal["latency", "bandwidth", "balance"] = Field("latency", description="What the compiler optimises for.")
    balance_factor: int | None = Field(None, ge=0, le=100, description="Of mode balance: 0 least DDR traffic, 100 least latency.")
    max_time_per_fc: int = Field(
        0, ge=0, description="Longest function call in microseconds, so that others can be served in between; 0 for no limit, else >= 1000."
    )
    perf: PerfGate = PerfGate()
    onboard: OnBoard | None = Field(None, description="The user's own program on this target's boards; see docs/on-board-program.md.")

    @property
    def id(self) -> str:
        return self.name or self.march

    @property
    def source(self) -> Literal["onnx", "int"]:
        """The artifact its toolchain converts."""
        return "int" if self.toolchain == "openexplorer" else "onnx"

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        marches = MARCHES[self.toolchain]
        if self.march not in marches:
            raise ValueError(f"{self.toolchain} does not compile for {self.march}; it knows {', '.join(marches)}")
        if self.ptq and self.toolchain == "openexplorer":
            raise ValueError("openexplorer compiles a model that carries its own scales; ptq goes with hmct and nash")
        if self.ptq and self.toolchain == "nash" and (self.ptq.run_on_cpu or self.ptq.run_on_bpu):
            raise ValueError("run_on_cpu and run_on_bpu are options of hmct's ptq")
        if (self.compile_mode == "balance") != (self.balance_factor is not None):
            raise ValueError("balance_factor goes with compile_mode balance, and with nothing else")
        if 0 < self.max_time_per_fc < 1000:
            raise ValueError(f"max_time_per_fc is 0 or at least 1000 microseconds, not {self.max_time_per_fc}")
        return self


class Expectation(Strict):
    """What one statistic of one output's raw values must be on the board, in every sample (check board.quality); see docs/expectations.md.

    It is asked beside what holds for every model, and in place of what the nights before taught about the same statistic.
    """

    output: str = Field(min_length=1, description="Name of the output.")
    statistic: Literal["min", "max", "mean", "std", "zero_share", "saturation_share", "entropy", "drift"] = Field(
        description="min, max, mean, std: of a sample's raw integers, before dequantisation. zero_share, saturation_share: part of its values that "
        "are zero, or at the limits of the type, 0 to 1. entropy: bits. drift: part of the night's values that lie elsewhere than on the nights before."
    )
    min: float | None = Field(None, description="Lowest value the statistic may have.")
    max: float | None = Field(None, description="Highest value the statistic may have.")
    mostly: float = Field(1.0, gt=0, le=1, description="Part of the samples that must be within the bounds.")
    target: Name | None = Field(None, description="Only on this target, as raw integers differ from target to target; empty for all.")

    @model_validator(mode="after")
    def _consistent(self) -> Expectation:
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        if not bounds:
            raise ValueError("an expectation needs min, max or both")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise ValueError(f"min {bounds[0]:g} is above max {bounds[1]:g}: nothing could meet that")
        if self.statistic in ("zero_share", "saturation_share", "drift") and not all(0 <= bound <= 1 for bound in bounds):
            raise ValueError(f"{self.statistic} is a part of the values, 0 to 1, not {bounds}")
        if self.statistic in ("std", "entropy") and self.max is not None and self.max < 0:
            raise ValueError(f"{self.statistic} is never below 0: nothing could meet max {self.max:g}")
        if self.statistic == "drift" and (self.min is not None or self.mostly != 1):
            raise ValueError("drift is one number of the whole output: it has a max, no min and no mostly")
        return self


class Entry(Strict):
    """One model version: what it is, where its artifacts are, what it is held against."""

    model: Name
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$", description="Version of the model, as a string.")
    description: str = ""
    owner: str = Field("", description="Who is told when the ladder breaks.")
    adapter: str = Field(description="file.py:ClassName, relative to the zoo folder.")
    adapter_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the adapter class.")
    environment: Name = Field("product", description="Where the model's own code runs (see environments in zoo.yaml).")
    data: tuple[str, ...] = Field(
        (),
        description="Files and folders the adapter reads where that cannot be seen (with OpenCV or HDF5, say); relative to the artifacts' root.",
    )
    data_version: str | None = Field(
        None,
        min_length=1,
        description="Name of the state of what the adapter reads where it cannot be looked at (a server, a container's own files): change it with the data.",
    )
    inputs: tuple[InputSpec, ...] = Field(min_length=1)
    outputs: tuple[Name, ...] = Field(
        (),
        description="Names of the model's outputs as the adapter uses them, in order, where the int model does not name them (openexplorer).",
    )
    artifacts: Artifacts
    metric: str = Field(description="Primary metric the adapter's score() returns; higher is better.")
    gates: Gates
    fidelity: Fidelity = Fidelity()
    samples: Samples = Samples()
    timeout_minutes: float = Field(60, gt=0, description="Longest time one job of the model's own code may take.")
    expectations: tuple[Expectation, ...] = Field(
        (), description="What the raw outputs on the board must look like, beyond what is learnt."
    )
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

    @model_validator(mode="after")
    def _expectations(self) -> Entry:
        asked = [
            (item.output, item.statistic, target.id)
            for item in self.expectations
            for target in self.targets
            if item.target in (None, target.id)
        ]
        if twice := {item for item in asked if asked.count(item) > 1}:
            raise ValueError(f"expectations ask twice for {', '.join(f'{what} of {output} on {on}' for output, what, on in sorted(twice))}")
        for item in self.expectations:
            if item.target is not None and item.target not in [target.id for target in self.targets]:
                raise ValueError(
                    f"expectations of {item.output} name target {item.target}; the entry's are {', '.join(target.id for target in self.targets)}"
                )
            if self.outputs and item.output not in self.outputs:
                raise ValueError(f"expectations name the output {item.output}; the entry's are {', '.join(self.outputs)}")
        return self

    @model_validator(mode="after")
    def _programs(self) -> Entry:
        kinds = {item.name: item.type_rt for item in self.inputs}
        for program in filter(None, (target.onboard for target in self.targets)):
            if {item.name for item in program.inputs} != set(kinds):
                raise ValueError(
                    f"onboard dumps the inputs {', '.join(item.name for item in program.inputs)}; the entry's are {', '.join(kinds)}"
                )
            for item in program.inputs:
                if item.stride and kinds[item.name] != "nv12":
                    raise ValueError(f"stride of {item.name}: only a frame of NV12 has one; the padding of other inputs the tools state")
        return self


class ContainerSpec(Strict):
    """A container of an image that this machine's engine has or can pull."""

    image: str = Field(min_length=1, description="As the engine knows it, best with a digest: name@sha256:...")
    engine: str = Field("docker", description="`docker`, or a program with its command line: `podman`, `nerdctl`.")
    options: tuple[str, ...] = Field((), description="Further options of `run`, such as --gpus=all or --volume=/data:/data:ro.")


class ServerSpec(Strict):
    """A toolchain server over SSH."""

    host: str = Field(min_length=1, pattern=r"^[^-]", description="As `ssh` takes it: a name of ~/.ssh/config, or user@host.")
    options: tuple[str, ...] = Field((), description="Further options of `ssh`, such as -p, 2222.")
    folder: str = Field(".qatladder", description="Where jobs and files are kept there; relative to the home folder.")
    shared: tuple[str, ...] = Field((), description="Folders both machines have under the same name: never copied.")


class EnvironmentSpec(Strict):
    """An interpreter that runs models' own code or a toolchain: on this machine, in a container, or on a server."""

    python: str = Field(
        description="Path of the interpreter; relative to the zoo folder, ~ and $VARIABLES allowed. In a container or on a server: a path there."
    )
    path: tuple[str, ...] = Field((), description="Folders in front of PATH: where the environment's programs are. Written like `python`.")
    paths: tuple[str, ...] = Field((), description="Folders of further Python packages (PYTHONPATH). Written like `python`.")
    variables: dict[str, str] = Field(
        default_factory=dict, description="Environment variables; no secrets, this file is in version control."
    )
    memory_gb: float | None = Field(None, gt=0, description="What a job and its children may hold together, in GB (10^9 bytes).")
    container: ContainerSpec | None = Field(None, description="Run jobs in a container.")
    server: ServerSpec | None = Field(None, description="Run jobs on a server.")

    @model_validator(mode="after")
    def _one_place(self) -> EnvironmentSpec:
        if self.container and self.server:
            raise ValueError("an environment is in a container or on a server, not both")
        return self


class TrendPolicy(Strict):
    """What counts as a regression or a progression; see docs/regressions.md."""

    alpha: float = Field(0.001, gt=0, lt=0.5, description="Chance of any false alarm in a night.")
    suspicious: float = Field(0.01, gt=0, lt=0.5, description="Probability below which a single test is worth a look.")
    min_change: float = Field(0.0, ge=0, description="Smallest change of an accuracy that matters, in the metric's own unit.")
    min_growth: float = Field(0.02, ge=0, description="Smallest relative change of a latency, of DDR traffic or of the size that matters.")


class ZooFile(Strict):
    """`zoo.yaml` in the zoo folder: what all entries share."""

    artifacts: str = Field("$QATLADDER_HOME/zoo", description="Root of the artifact paths; $QATLADDER_HOME is the data folder.")
    environments: dict[Name, EnvironmentSpec] = Field(default_factory=dict, description="Further environments; `product` always exists.")
    trend: TrendPolicy = TrendPolicy()


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an entry, for editors."""
    schema = Entry.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "QATLadder zoo entry"
    return schema
