"""The `hrt_model_exec` dialect: what is asked on the command line, what its consoles say, what is in its dumps?

Sources of the rules: the public hrt_model_exec documentation of X3, J5 and X5 and published consoles. Three laws:
the exit code alone proves nothing (the text is scanned), alignment is read and never derived where the tool states it,
and a field that is needed but missing is an error that names the field, never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qatladder.errors import ArtifactError, BrokenError
from qatladder.numerics import dumps
from qatladder.numerics.tensor import TensorContract


@dataclass(frozen=True)
class Dialect:
    """What differs between builds of the tool.

    Attributes:
        dump_path: it takes `--dump_path`; older builds always dump into the working directory.
    """

    dump_path: bool


DIALECTS = {"x5": Dialect(dump_path=True), "j5": Dialect(dump_path=False)}

DTYPES = {
    "S8": "int8",
    "U8": "uint8",
    "S16": "int16",
    "U16": "uint16",
    "S32": "int32",
    "U32": "uint32",
    "S64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BOOL8": "bool",
}
"""numpy names of HB_DNN_TENSOR_TYPE_*. The 4-bit types have none."""

IMAGES = ("Y", "NV12", "NV12_SEPARATE", "YUV444", "RGB", "BGR")
"""HB_DNN_IMG_TYPE_*: raw image bytes."""


# --- command lines -----------------------------------------------------------------------------------------------------------


def version_argv(tool: str) -> list[str]:
    return [tool, "--version"]


def model_info_argv(tool: str, model: str) -> list[str]:
    return [tool, "model_info", f"--model_file={model}"]


def infer_argv(tool: str, model: str, inputs: str | None, dialect: str = "x5") -> list[str]:
    """One inference with raw binary dumps into the working directory.

    Args:
        inputs: comma-separated input files; None leaves the flag to the caller.
    """
    argv = [tool, "infer", f"--model_file={model}", "--enable_dump=true", "--dump_format=bin", "--dump_precision=9"]
    if DIALECTS[dialect].dump_path:
        argv.append("--dump_path=.")
    return argv if inputs is None else [*argv, f"--input_file={inputs}"]


def perf_argv(tool: str, model: str, frame_count: int, thread_num: int, core_id: int) -> list[str]:
    return [tool, "perf", f"--model_file={model}", f"--frame_count={frame_count}", f"--thread_num={thread_num}", f"--core_id={core_id}"]


# --- consoles ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as the board states it.

    Attributes:
        index: position; dumps carry it in their name.
        name: empty on old builds, which do not print it.
        source: `pyramid`, `resizer`, `ddr`; empty when not printed (outputs, old builds).
        valid_shape: logical shape, in `layout`.
        aligned_shape: with padding; empty when the build states strides only.
        byte_size: bytes of the padded tensor; None on old builds.
        tensor_type: `S8`, `F32`, `NV12` ...: HB_DNN_TENSOR_TYPE_ / HB_DNN_IMG_TYPE_ taken off.
        layout: `NHWC`, `NCHW` or empty.
        quanti_type: `NONE`, `SCALE` or `SHIFT`.
        stride: bytes between neighbours along each axis; empty when not printed or all zero (images).
        scale, zero_point, shift: quantisation data; empty when not printed. Boards print 6 digits of a scale: enough to recognise it,
            not to dequantise exactly; the exact scale is in the int model.
        quantize_axis: axis of `scale` in `valid_shape`; None for a per-tensor scale.
        unknown: lines that were not understood, kept.
    """

    index: int
    name: str
    source: str
    valid_shape: tuple[int, ...]
    aligned_shape: tuple[int, ...]
    byte_size: int | None
    tensor_type: str
    layout: str
    quanti_type: str
    stride: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()
    quantize_axis: int | None = None
    unknown: tuple[str, ...] = ()

    @property
    def is_image(self) -> bool:
        return self.tensor_type in IMAGES

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """numpy type of one element; None for an image and for 4-bit types."""
        name = DTYPES.get(self.tensor_type)
        return np.dtype(name) if name else None

    def contract(self) -> TensorContract:
        """The same, in the form all rungs share; an image and a 4-bit type have no dtype."""
        return TensorContract(
            name=self.name or str(self.index),
            dtype=self.dtype.name if self.dtype is not None else "",
            valid_shape=self.valid_shape,
            aligned_shape=self.aligned_shape,
            stride=self.stride,
            byte_size=self.byte_size or 0,
            source=self.source,
            layout=self.layout,
            scale=self.scale if self.quanti_type == "SCALE" else (),
            shift=self.shift if self.quanti_type == "SHIFT" else (),
            zero_point=self.zero_point if self.quanti_type == "SCALE" else (),
            axis=self.quantize_axis,
        )


@dataclass(frozen=True)
class ModelInfo:
    """One model of a model file, as `model_info` prints it."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    versions: dict[str, str]
    skew: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Perf:
    """What `perf` printed.

    Attributes:
        average_ms, max_ms, min_ms: latency of one frame in a thread.
        fps: frames per second over all threads.
        frames, threads: what was run.
        estimated: True when a virtual board printed the compiler's estimate: no measurement.
    """

    average_ms: float
    max_ms: float
    min_ms: float
    fps: float
    frames: int
    threads: int
    versions: dict[str, str] = field(default_factory=dict)
    skew: str = ""
    estimated: bool = False


@dataclass(frozen=True)
class Infer:
    """What `infer` printed: milliseconds per frame, and the dump files it says it wrote."""

    times_ms: tuple[float, ...]
    dumps: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)
    skew: str = ""


_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NUMBER = r"([0-9.eE+-]+)"
_VERSIONS = {
    "platform": r"BPU Platform Version\(([^)]*)\)",
    "hbrt": r"\[HBRT\][^\n]*version = (\S+)",
    "runtime": r"\[DNN\][^\n]*?(?:Runtime version = |: )(\d[^\s_]*)_\(",
    "builder": r"model builder version = (\S+)",
    "march": r"set bpu march to ([A-Z0-9]+)",
    "hrt_model_exec": r"(?m)^hrt_model_exec (?:version )?(\d\S*)",
}
_SKEW = re.compile(r"Inconsistency between the hbrt library version (\S+) and the model build version (\S+) detected")
_TROUBLE = re.compile(r"\b(?:failed|failure|fail|errors?|aborted|core dumped|segmentation fault)\b", re.IGNORECASE)
_HARMLESS = re.compile(r"\S*/\S*|\S+\.(?:bin|hbm|txt|jpe?g)\b|^\s*name:.*|^\[model name\]:.*|^\[[^\]\s]+\]\s*$|\berror code:? 0\b")
_ESTIMATE = "compiler's estimate"


def plain(console: str) -> str:
    """The console without colours and carriage returns."""
    return _ANSI.sub("", console).replace("\r", "")


def trouble(console: str) -> list[str]:
    """The lines that say something failed, whatever the exit code was.

    Paths, file names and model names are taken out first: a model called `error_net` is no error.
    """
    return [line.strip() for line in plain(console).splitlines() if _TROUBLE.search(_HARMLESS.sub(" ", line))]


def versions(console: str) -> dict[str, str]:
    """Version strings a console gives away: platform, hbrt, runtime (libdnn), builder, march, hrt_model_exec."""
    text = plain(console)
    found = {key: re.search(pattern, text) for key, pattern in _VERSIONS.items()}
    return {key: match.group(1) for key, match in found.items() if match}


def skew(console: str) -> str:
    """`hbrt A, model built with B` when the runtime warns that versions differ; empty otherwise."""
    match = _SKEW.search(plain(console))
    return f"hbrt {match.group(1)}, model built with {match.group(2)}" if match else ""


def tail(console: str, lines: int = 15) -> str:
    """The end of a console, for an error message."""
    return "\n".join(plain(console).strip().splitlines()[-lines:])


def _broken(what: str, missing: str, console: str) -> BrokenError:
    return BrokenError(
        f"the console of hrt_model_exec {what} does not state {missing}",
        kind="console",
        console=console,
        field=missing,
        found=tail(console, 5) or "nothing",
        next_step="look at the console: the tool failed, or its build prints another format",
    )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.strip().strip("()").split(",") if item.strip())


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(item) for item in text.strip().strip("()").split(",") if item.strip())


_KEYS = {
    "name",
    "input source",
    "valid shape",
    "aligned shape",
    "aligned byte size",
    "tensor type",
    "tensor layout",
    "quanti type",
    "stride",
    "scale data",
    "zero_point data",
    "shift data",
    "quantizeAxis",
}


def _tensor(side: str, index: int, lines: Sequence[str], console: str) -> TensorInfo:
    values: dict[str, str] = {}
    unknown = []
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and key.strip() in _KEYS:
            values[key.strip()] = value.strip()
        elif line.strip():
            unknown.append(line.strip())
    for key in ("valid shape", "tensor type"):
        if not values.get(key):
            raise _broken("model_info", f"`{key}` of {side}[{index}]", console)
    try:
        stride = _integers(values.get("stride", ""))
        tensor = TensorInfo(
            index=index,
            name=values.get("name", ""),
            source=values.get("input source", "").removeprefix("HB_DNN_INPUT_FROM_").lower(),
            valid_shape=_integers(values["valid shape"]),
            aligned_shape=_integers(values.get("aligned shape", "")),
            byte_size=int(values["aligned byte size"]) if "aligned byte size" in values else None,
            tensor_type=re.sub(r"^HB_DNN_(?:TENSOR|IMG)_TYPE_", "", values["tensor type"]),
            layout=values.get("tensor layout", "").removeprefix("HB_DNN_LAYOUT_"),
            quanti_type=values.get("quanti type", "NONE"),
            stride=stride if any(stride) else (),
            scale=_floats(values.get("scale data", "")),
            zero_point=_integers(values.get("zero_point data", "")),
            shift=_integers(values.get("shift data", "")),
            quantize_axis=int(values["quantizeAxis"]) if "quantizeAxis" in values else None,
            unknown=tuple(unknown),
        )
    except ValueError as error:
        raise _broken("model_info", f"{side}[{index}] in numbers ({error})", console) from error
    if not tensor.is_image and not tensor.stride and not tensor.aligned_shape:
        raise _broken("model_info", f"`stride` or `aligned shape` of {side}[{index}]", console)
    return tensor


def parse_model_info(console: str) -> tuple[ModelInfo, ...]:
    """The models of a model file, in the order of the console.

    Raises:
        BrokenError: kind `console`; names the field that is missing or no number.
    """
    text = plain(console)
    models: list[ModelInfo] = []
    sections = re.split(r"(?m)^\[model name\]:[ \t]*(.*)$", text)
    # [before, name, body, name, body ...]; builds that print no model name give one nameless body.
    bodies = [("", sections[0])] if len(sections) == 1 else list(zip(sections[1::2], sections[2::2], strict=True))
    for name, body in bodies:
        tensors: dict[str, list[TensorInfo]] = {"input": [], "output": []}
        parts = re.split(r"(?m)^(input|output)\[(\d+)\]:[ \t]*$", body)
        unknown = [line.strip() for line in parts[0].splitlines() if line.strip() and len(sections) > 1]
        for side, index, block in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            lines, _, rest = block.partition("\n-----")
            tensors[side].append(_tensor(side, int(index), lines.splitlines(), console))
            unknown += [line.strip() for line in rest.splitlines() if line.strip().strip("-")]
        for side, found in tensors.items():
            if not found:
                raise _broken("model_info", f"{side}[0]", console)
        models.append(
            ModelInfo(name.strip(), tuple(tensors["input"]), tuple(tensors["output"]), versions(text), skew(text), tuple(unknown))
        )
    return tuple(models)


_PERF = {
    "Average latency": rf"Average\s+latency\s+is:\s*{_NUMBER} ms",
    "thread max latency": rf"thread max latency:\s*{_NUMBER} ms",
    "thread min latency": rf"thread min latency:\s*{_NUMBER} ms",
    "Frame rate": rf"Frame\s+rate\s+is:\s*{_NUMBER} FPS",
    "Frame count": r"Frame count\s+is:\s*(\d+)",
    "Thread number": r"Thread number is:\s*(\d+)",
}


def parse_perf(console: str) -> Perf:
    """The figures of `perf`.

    Raises:
        BrokenError: kind `console`; names the figure that is missing.
    """
    text = plain(console)

    def number(name: str, pattern: str) -> float:
        match = re.search(pattern, text, re.IGNORECASE)
        try:
            return float(match.group(1)) if match else math.nan
        except ValueError:
            return math.nan

    figures = {name: number(name, pattern) for name, pattern in _PERF.items()}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise _broken("perf", f"`{name}`", console)
    return Perf(
        average_ms=figures["Average latency"],
        max_ms=figures["thread max latency"],
        min_ms=figures["thread min latency"],
        fps=figures["Frame rate"],
        frames=int(figures["Frame count"]),
        threads=int(figures["Thread number"]),
        versions=versions(text),
        skew=skew(text),
        estimated=_ESTIMATE in text,
    )


def parse_infer(console: str) -> Infer:
    """Times and dump files of `infer`.

    Raises:
        BrokenError: kind `tool_failed` when the text says something failed; kind `console` without an `Infer time`.
    """
    text = plain(console)
    bad = trouble(text)
    if bad:
        raise BrokenError(
            f"hrt_model_exec infer failed: {bad[0]}",
            kind="tool_failed",
            console=console,
            next_step="look at the console; try the same command on the board by hand",
        )
    times = tuple(float(item) for item in re.findall(rf"(?m)^\s*Infer time:\s*{_NUMBER} ms", text))
    if not times:
        raise _broken("infer", "`Infer time`", console)
    return Infer(times, tuple(re.findall(r"(?m)Dump path: (.+?)\s*$", text)), versions(text), skew(text))


# --- dumps -------------------------------------------------------------------------------------------------------------------


def find_dumps(folder: Path, side: str = "output") -> dict[int, Path]:
    """Binary dump files of a folder by tensor index, whether or not the build put the tensor's name into the file name.

    Raises:
        BrokenError: kind `dump_ambiguous`: two files of one index, as when two builds dumped into one folder.
    """
    try:
        return dumps.find_dumps(folder, side, ("bin",))
    except ArtifactError as error:
        raise BrokenError(error.message, error.next_step, kind="dump_ambiguous", **error.where) from error


def check_dump(path: Path, tensor: TensorInfo) -> None:
    """Hold a binary dump's size against the bytes the board states for the tensor.

    Raises:
        BrokenError: kind `dump_missing`, `dump_truncated` (too short) or `dump_size` (too long).
    """
    expected = _byte_size(tensor)
    if not path.is_file():
        raise BrokenError("a dump is missing", kind="dump_missing", file=path, tensor=tensor.name or tensor.index)
    found = path.stat().st_size
    if found != expected:
        raise BrokenError(
            "a dump is truncated" if found < expected else "a dump holds more bytes than its tensor",
            kind="dump_truncated" if found < expected else "dump_size",
            file=path,
            tensor=tensor.name or tensor.index,
            expected=f"{expected} bytes",
            found=f"{found} bytes",
            next_step="check the disk space of the board and that the dump and model_info belong to the same model",
        )


def read_dump(path: Path, tensor: TensorInfo) -> npt.NDArray[np.generic]:
    """Read a raw binary dump and take the padding off.

    Args:
        path: `model_infer_output_<i>[_<name>].bin`, aligned, little endian.
        tensor: what `model_info` says of it: dtype, valid shape, and stride (or the aligned shape on builds without strides).
    Returns:
        A contiguous array of `tensor.valid_shape`, raw elements (integers are not dequantised, floats may be NaN).
    Raises:
        BrokenError: see `check_dump`; kind `console` when stride and size contradict each other.
    """
    check_dump(path, tensor)
    if tensor.dtype is None:
        raise BrokenError(f"a dump of type {tensor.tensor_type} has no elements to read", kind="dump_type", file=path)
    try:
        # A copy: the caller may read the board's next dump into the same file.
        return np.array(dumps.read_tensor(path, tensor.contract(), finite=False, padded=True).array, order="C")
    except ArtifactError as error:
        raise BrokenError("the board contradicts itself: " + error.message, kind="console", file=path, **error.where) from error


def _byte_size(tensor: TensorInfo) -> int:
    if tensor.byte_size is None and (tensor.dtype is None or not tensor.aligned_shape):
        raise BrokenError("the board does not state how many bytes a tensor has", kind="console", tensor=tensor.name or tensor.index)
    return tensor.contract().padded_bytes
