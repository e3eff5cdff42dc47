"""The results `model_info`, `infer` and `perf` print, as types. What a console does not state is None or empty, never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qatladder.boards.hrt.console import check, incomplete, plain, skew, unknown, versions
from qatladder.errors import BrokenError
from qatladder.numerics.tensor import TensorContract

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


# --- model_info --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as the board states it.

    Attributes:
        index: position; dumps carry it in their name.
        name: empty on old builds, which do not print it.
        source: `pyramid`, `resizer`, `ddr`; empty when not printed (outputs, old builds, J6 and S100).
        valid_shape: logical shape, in `layout`; -1 on an axis whose size the caller chooses (resizer inputs of J6 and S100).
        aligned_shape: with padding; empty when the build states strides only.
        byte_size: bytes of the padded tensor; None on old builds and where the caller chooses the strides.
        tensor_type: `S8`, `F32`, `NV12` ...: HB_DNN_TENSOR_TYPE_ / HB_DNN_IMG_TYPE_ taken off.
        layout: `NHWC`, `NCHW` or empty.
        quanti_type: `NONE`, `SCALE` or `SHIFT`.
        stride: bytes between neighbours along each axis; empty when not printed or all zero (images); -1 on an axis whose stride the caller
            chooses (Y and UV inputs of J6 and S100).
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
    def is_dynamic(self) -> bool:
        """The caller chooses sizes or strides; see `commands.infer_argv`."""
        return -1 in self.stride or -1 in self.valid_shape

    @property
    def dtype(self) -> np.dtype[np.generic] | None:
        """numpy type of one element; None for an image and for 4-bit types."""
        name = DTYPES.get(self.tensor_type)
        return np.dtype(name) if name else None

    def contract(self) -> TensorContract:
        """The same, in the form all rungs share; an image and a 4-bit type have no dtype, strides the caller chooses are not stated.

        Raises:
            BrokenError: kind `input_refused`: the caller chooses the shape too.
        """
        if -1 in self.valid_shape:
            raise BrokenError(
                "the model leaves the shape of a tensor to its caller",
                kind="input_refused",
                tensor=self.name or self.index,
                found=self.valid_shape,
                next_step="compile the model for a fixed shape",
            )
        return TensorContract(
            name=self.name or str(self.index),
            dtype=self.dtype.name if self.dtype is not None else "",
            valid_shape=self.valid_shape,
            aligned_shape=self.aligned_shape,
            stride=() if self.is_dynamic else self.stride,
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

    @property
    def gaps(self) -> tuple[str, ...]:
        """Tensors that must be there, by the index of a later one, but were not printed: `input[1]` ..."""
        return tuple(
            f"{side}[{index}]"
            for side, tensors in (("input", self.inputs), ("output", self.outputs))
            for index in sorted(set(range(max(tensor.index for tensor in tensors))) - {tensor.index for tensor in tensors})
        )


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
_END = re.compile(r"(?m)^-{5,}[ \t]*$")


def parse_model_info(console: str) -> tuple[ModelInfo, ...]:
    """The models of a model file, in the order of the console.

    Raises:
        BrokenError: kind `console`; names the field that is missing, no number, or in contradiction to another one.
    """
    text = plain(console)
    models: list[ModelInfo] = []
    sections = re.split(r"(?m)^\[model name\]:[ \t]*(.*)$", text)
    # [before, name, body, name, body ...]; builds that print no model name give one nameless body.
    bodies = [("", sections[0])] if len(sections) == 1 else list(zip(sections[1::2], sections[2::2], strict=True))
    before = sections[0].splitlines() if len(sections) > 1 else []
    for name, body in bodies:
        tensors: dict[str, list[TensorInfo]] = {"input": [], "output": []}
        parts = re.split(r"(?m)^(input|output)\[(\d+)\]:[ \t]*$", body)
        left = before + parts[0].splitlines()
        end: re.Match[str] | None = None
        for side, index, block in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            end = _END.search(block)
            tensors[side].append(_tensor(side, int(index), block[: end.start() if end else None].splitlines(), console))
            left += block[end.end() :].splitlines() if end else []
        if any(line.startswith("valid shape:") for line in left):
            raise incomplete("model_info", "which tensor a `valid shape` is of", console)
        for side, found in tensors.items():
            if not found:
                raise incomplete("model_info", f"{side}[0]", console)
            if len({tensor.index for tensor in found}) < len(found):
                raise incomplete("model_info", f"each {side} once", console)
        if end is None:
            raise incomplete("model_info", "the end of the table, a line of dashes", console)
        models.append(ModelInfo(name.strip(), tuple(tensors["input"]), tuple(tensors["output"]), versions(text), skew(text), unknown(left)))
        before = []
    stated = re.search(r"(?m)^This model file has (\d+) model", text)
    if stated and len(models) < int(stated.group(1)):
        raise incomplete("model_info", f"model {len(models) + 1} of {stated.group(1)}", console)
    return tuple(models)


def _tensor(side: str, index: int, lines: Sequence[str], console: str) -> TensorInfo:
    where = f"{side}[{index}]"
    values: dict[str, str] = {}
    others = []
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and key.strip() in _KEYS:
            if key.strip() in values:
                raise incomplete("model_info", f"`{key.strip()}` of {where} once", console)
            values[key.strip()] = value.strip()
        elif line.strip():
            others.append(line.strip())
    quanti = values.get("quanti type", "")
    needed = {"SCALE": ("scale data",), "SHIFT": ("shift data",)}.get(quanti, ())
    for key in ("valid shape", "tensor type", "quanti type", *needed):
        if not values.get(key):
            raise incomplete("model_info", f"`{key}` of {where}", console)
    try:
        stride = _shape(values.get("stride", "()"))
        size = int(values.get("aligned byte size", "-1"))
        tensor = TensorInfo(
            index=index,
            name=values.get("name", ""),
            source=values.get("input source", "").removeprefix("HB_DNN_INPUT_FROM_").lower(),
            valid_shape=_shape(values["valid shape"]),
            aligned_shape=_shape(values.get("aligned shape", "()")),
            byte_size=size if size >= 0 else None,
            tensor_type=re.sub(r"^HB_DNN_(?:TENSOR|IMG)_TYPE_", "", values["tensor type"]),
            layout=values.get("tensor layout", "").removeprefix("HB_DNN_LAYOUT_"),
            quanti_type=quanti,
            stride=stride if any(stride) else (),
            scale=tuple(map(float, _list(values.get("scale data", "")))),
            zero_point=tuple(map(int, _list(values.get("zero_point data", "")))),
            shift=tuple(map(int, _list(values.get("shift data", "")))),
            quantize_axis=int(values["quantizeAxis"]) if "quantizeAxis" in values else None,
            unknown=tuple(others),
        )
    except ValueError as error:
        raise incomplete("model_info", f"{where} in numbers ({error})", console) from error
    if not tensor.is_image and not tensor.stride and not tensor.aligned_shape:
        raise incomplete("model_info", f"`stride` or `aligned shape` of {where}", console)
    for key, items in (("aligned shape", tensor.aligned_shape), ("stride", tensor.stride)):
        if items and len(items) != len(tensor.valid_shape):
            raise incomplete("model_info", f"`{key}` of {where} with one item per axis of the valid shape", console)
    if len(tensor.scale) > 1:
        _check_axis(tensor, where, console)
    return tensor


def _check_axis(tensor: TensorInfo, where: str, console: str) -> None:
    axis = tensor.quantize_axis
    if axis is None or not -len(tensor.valid_shape) <= axis < len(tensor.valid_shape):
        raise incomplete("model_info", f"`quantizeAxis` of {where}", console)
    sizes = {shape[axis] for shape in (tensor.valid_shape, tensor.aligned_shape) if shape}
    if len(tensor.scale) not in sizes:
        raise incomplete("model_info", f"`scale data` of {where} with one item per index of axis {axis}", console)


def _shape(text: str) -> tuple[int, ...]:
    """`(1,3,64,64,)` or `(1,3,64,64)`, whole: half a shape is no shape."""
    if not re.fullmatch(r"\((?:-?\d+, ?)*(?:-?\d+)?\)", text):
        raise ValueError(f"{text!r} is no shape")
    return tuple(int(item) for item in _list(text))


def _list(text: str) -> list[str]:
    return [item.strip() for item in text.strip("()").split(",") if item.strip()]


# --- perf --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Perf:
    """What `perf` printed.

    Attributes:
        average_ms, max_ms, min_ms: latency of one frame in a thread.
        fps: frames per second over all threads.
        frames, threads: what was run.
        estimated: True when a virtual board printed the compiler's estimate: no measurement.
        unknown: lines that were not understood, kept.
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
    unknown: tuple[str, ...] = ()


_NUMBER = r"([0-9.eE+-]+)"
_PERF = {
    "Average latency": rf"Average\s+latency\s+is:\s*{_NUMBER} ms",
    "thread max latency": rf"thread max latency:\s*{_NUMBER} ms",
    "thread min latency": rf"thread min latency:\s*{_NUMBER} ms",
    "Frame rate": rf"Frame\s+rate\s+is:\s*{_NUMBER} FPS",
    "Frame count": r"Frame count\s+is:\s*(\d+)",
    "Thread number": r"Thread number is:\s*(\d+)",
}
_ESTIMATE = "compiler's estimate"
_PERF_LINE = re.compile(
    r"^(?:Running condition|Perf result):$|^Frame count: \d|^(?:Thread|core) number\s+is:|^Frame count\s+is:|^Program run time:|^Frame totally latency is:"
    r"|^(?:Average\s+latency|Frame\s+rate)\s+is:|virtual board: |^\[W\]\[HRT_MODEL_EXEC\] one frame at a time",
    re.IGNORECASE,
)


def parse_perf(console: str) -> Perf:
    """The figures of `perf`.

    Raises:
        BrokenError: of the failure's kind when the text says something failed; kind `console`: names the figure that is missing.
    """
    text = plain(console)
    check("perf", text)

    def number(pattern: str) -> float:
        match = re.search(pattern, text, re.IGNORECASE)
        try:
            return float(match.group(1)) if match else math.nan
        except ValueError:
            return math.nan

    figures = {name: number(pattern) for name, pattern in _PERF.items()}
    for name, value in figures.items():
        if not math.isfinite(value):
            raise incomplete("perf", f"`{name}`", console)
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
        unknown=unknown(text.splitlines(), _PERF_LINE),
    )


# --- infer -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Padding:
    """An input file of the valid size that the tool itself padded (J6 and S100)."""

    file: str
    valid_shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Infer:
    """What `infer` printed.

    Attributes:
        times_ms: milliseconds per frame.
        dumps: the dump files it says it wrote.
        paddings: inputs the tool padded.
        resized: pictures the tool decoded and resized to the model's input: such an inference proves no consistency.
        unknown: lines that were not understood, kept.
    """

    times_ms: tuple[float, ...]
    dumps: tuple[str, ...]
    versions: dict[str, str] = field(default_factory=dict)
    skew: str = ""
    paddings: tuple[Padding, ...] = ()
    resized: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


_DUMPED = re.compile(r"Dump path: (.+?)\s*$", re.MULTILINE)
_PADDED = re.compile(r"Input \[(.+)\] will padding, validShape: (\S+), stride: (\S+)\s*$", re.MULTILINE)
_RESIZED = re.compile(r"the image \[(.+)\] will be scaled")
_INFER_LINE = re.compile(f"^Infer time: |{_DUMPED.pattern}|{_PADDED.pattern}|{_RESIZED.pattern}")


def parse_infer(console: str) -> Infer:
    """Times, dump files and what happened to the inputs.

    Raises:
        BrokenError: of the failure's kind when the text says something failed; kind `console` without an `Infer time`, or with a padding
            that is not understood.
    """
    text = plain(console)
    check("infer", text)
    times = tuple(float(item) for item in re.findall(r"(?m)^\s*Infer time:\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?) ms", text))
    if not times:
        raise incomplete("infer", "`Infer time`", console)
    try:
        paddings = tuple(Padding(file, _shape(valid), _shape(stride)) for file, valid, stride in _PADDED.findall(text))
    except ValueError as error:
        raise incomplete("infer", f"how it pads an input ({error})", console) from error
    return Infer(
        times,
        tuple(_DUMPED.findall(text)),
        versions(text),
        skew(text),
        paddings,
        tuple(_RESIZED.findall(text)),
        unknown(text.splitlines(), _INFER_LINE),
    )
