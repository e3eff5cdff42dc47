"""One picture in all its forms: are they the same picture, and if not, which transform parted them?

    picture ──> runtime (bytes, padded) ──> intermediate (int8, value - 128) ──> training (float32)
    featuremap (float32) ──> intermediate (quantised) ──> runtime (bytes, padded) ──> back

`derive` makes the forms an `InputContract` describes. `prove` holds real ones against them, link by link: each given form is compared with
the one derived from the form before it, the given one where there is one, so that a mistake is found once, at the transform that made it.

Integers have no tolerance. The training tensor has the contract's (a hundredth of a gray level). What the runtime type itself loses
(chroma subsampling, rounding to 8 bits, quantisation) is a number of its own, `Loss`, and never part of a tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour
from qatladder.numerics.compare import Comparison, compare
from qatladder.numerics.contract import InputContract, mistakes
from qatladder.numerics.fingerprint import Fingerprint, fingerprint
from qatladder.numerics.tensor import ROUNDINGS, quantize

CLOSE = 2
"""Gray levels within which two ways of making YUV differ by coefficients and roundings alone."""

CHANNELS = {"nv12": "YUV", "yuv444": "YUV", "rgb": "RGB", "bgr": "BGR", "gray": "Y"}

Buffers = Union[np.ndarray, Sequence[bytes]]
Candidate = Tuple[str, str, np.ndarray]


@dataclass(frozen=True)
class Forms:
    """The three forms of N samples.

    Attributes:
        contract: what they were derived by.
        runtime: uint8 [inferences, bytes]: what the compiled model is fed, padding included.
        intermediate: int8 (int16): an image as the int model is fed it, in `layout_rt`; a featuremap quantised, in the training layout.
        training: float32, in the training layout: an image as it is left after the runtime type's losses; a featuremap as it is.
    """

    contract: InputContract
    runtime: np.ndarray
    intermediate: np.ndarray
    training: np.ndarray


@dataclass(frozen=True)
class Loss:
    """What the runtime type loses of the picture, whoever converts it: in gray levels, of a featuremap in its own unit.

    Attributes:
        conversion_max, conversion_mean: colour conversion and rounding to 8 bits; of a featuremap: quantisation.
        chroma_max, chroma_mean: chroma subsampling of NV12, on top of that.
        clamped: share of a featuremap's values beyond the range of its integers.
    """

    conversion_max: float = 0.0
    conversion_mean: float = 0.0
    chroma_max: float = 0.0
    chroma_mean: float = 0.0
    clamped: float = 0.0

    def to_json(self) -> Dict[str, float]:
        return dict(vars(self))


@dataclass(frozen=True)
class Place:
    """One element where two forms differ.

    Attributes:
        sample: which sample.
        channel: Y, U, V, R, G, B, or `channel 7` of a featuremap; empty without channels.
        pixel: (y, x) in the picture, of a chroma pair its top left pixel; None without spatial axes.
        index: in the compared array.
        expected, found: its values.
    """

    sample: int
    channel: str
    pixel: Optional[Tuple[int, int]]
    index: Tuple[int, ...]
    expected: float
    found: float

    def __str__(self) -> str:
        where = "sample {}".format(self.sample)
        if self.channel:
            where += ", {}".format(self.channel)
        where += ", pixel ({}, {})".format(*self.pixel) if self.pixel else ", index {}".format(list(self.index))
        return "{}: expected {:g}, found {:g}".format(where, self.expected, self.found)


@dataclass(frozen=True)
class Step:
    """One given form held against the one before it. True when they agree.

    Attributes:
        form: runtime, intermediate or training: the form that was given.
        transform: what should have made it.
        tolerance: largest absolute difference that counts as equal; 0 for integers.
        comparison: of all elements; None when the two cannot be compared.
        place: the first element beyond the tolerance.
        channels: those with an element beyond the tolerance.
        cause: what the difference looks like. Beside the causes of `fingerprint`: `swing` and `chroma` (how 2x2 pixels share a pair).
        problem: why they cannot be compared; empty when they can.
    """

    form: str
    transform: str
    tolerance: float = 0.0
    comparison: Optional[Comparison] = None
    place: Optional[Place] = None
    channels: Tuple[str, ...] = ()
    cause: Optional[Fingerprint] = None
    problem: str = ""

    def __bool__(self) -> bool:
        return not self.problem and self.place is None

    def __str__(self) -> str:
        cause = " ({})".format(self.cause) if self.cause is not None and self.cause.cause != "none" else ""
        if self.problem:
            return "{}: {}{}".format(self.transform, self.problem, cause)
        if self.place is not None:
            return "{}: differs in {}, first at {}{}".format(self.transform, "".join(self.channels) or "value", self.place, cause)
        worst = self.comparison.max_abs if self.comparison is not None else 0.0
        return "{}: {}".format(
            self.transform, "max {:.3g} apart (tolerance {:.3g})".format(worst, self.tolerance) if self.tolerance else "identical"
        )

    def to_json(self) -> Dict[str, Any]:
        data = {**vars(self), "passed": bool(self), "channels": list(self.channels)}
        data["comparison"] = self.comparison.to_json() if self.comparison is not None else None
        data["place"] = vars(self.place) if self.place is not None else None
        data["cause"] = self.cause.to_json() if self.cause is not None else None
        return data


@dataclass(frozen=True)
class Proof:
    """The links of one input. True when every given form agrees with the one before it.

    Attributes:
        name: of the input.
        steps: one per given form, in the order of the chain.
        loss: what the runtime type loses; not part of any step's tolerance.
    """

    name: str
    steps: Tuple[Step, ...]
    loss: Loss

    def __bool__(self) -> bool:
        return all(self.steps)

    @property
    def parted(self) -> Optional[Step]:
        """The first step that does not agree."""
        return next((step for step in self.steps if not step), None)

    def __str__(self) -> str:
        return "\n".join("{}: {}".format(self.name, step) for step in self.steps)

    def to_json(self) -> Dict[str, Any]:
        return {"name": self.name, "passed": bool(self), "steps": [step.to_json() for step in self.steps], "loss": self.loss.to_json()}


def derive(contract: InputContract, picture: np.ndarray) -> Forms:
    """All forms of the samples, as the contract makes them.

    Args:
        contract: checked; of a featuremap with the quantisation scale (`InputContract.quantisation`).
        picture: uint8 RGB [N, H, W, 3], of the source resizer the whole frames; of a featuremap the float training tensor [N, ...].
    Raises:
        ConfigError: the contract states something no tool supports, or too little.
        ArtifactError: no pictures.
    """
    contract.check()
    if contract.is_image:
        values = contract.runtime(picture)
        fed = contract.intermediate(values)
        return Forms(contract, contract.pack(values), fed, contract.training_tensor(fed))
    training = _floats(contract, picture)
    integers = contract.quantise(training)
    return Forms(contract, contract.pack(integers), integers, training)


def prove(
    contract: InputContract,
    picture: np.ndarray,
    runtime: Optional[Buffers] = None,
    intermediate: Optional[np.ndarray] = None,
    training: Optional[np.ndarray] = None,
) -> Proof:
    """Hold the forms that programs really used against the picture they were made from.

    Args:
        contract, picture: see `derive`.
        runtime: the board's bytes: uint8 [inferences, bytes] or one buffer per inference, padded; or the array without padding.
        intermediate: what the int model was fed.
        training: what the float model was fed. Of an image it may be made straight from the picture or from the intermediate tensor.
    Raises:
        ConfigError, ArtifactError: see `derive`; nothing was given to prove.
    """
    if runtime is None and intermediate is None and training is None:
        raise ConfigError(
            "no form is given, so there is nothing to prove", input=contract.name, expected="runtime, intermediate or training"
        )
    contract.check()
    if contract.is_image:
        return _prove_image(contract, picture, runtime, intermediate, training)
    return _prove_featuremap(contract, picture, runtime, intermediate, training)


def _prove_image(
    contract: InputContract,
    pictures: np.ndarray,
    runtime: Optional[Buffers],
    intermediate: Optional[np.ndarray],
    training: Optional[np.ndarray],
) -> Proof:
    steps: List[Step] = []
    frames = contract.runtime(pictures)
    colours = CHANNELS[contract.type_rt]
    layout = "NV12" if contract.type_rt == "nv12" else contract.layout_rt or "NHWC"
    if runtime is not None:
        name = "picture -> {}".format(contract.type_rt)
        step, frames = _bytes_step(contract, name, frames, runtime, layout, colours, lambda n: _other_frames(contract, pictures[n : n + 1]))
        steps.append(step)
    fed = contract.intermediate(frames)
    if intermediate is not None:
        name = "{} -> {}".format(contract.type_rt, contract.intermediate_type)
        layout = contract.layout_rt or "NHWC"
        step = _step("intermediate", name, fed, intermediate, layout, colours, 0.0, lambda n: _other_fed(contract, fed[n : n + 1], layout))
        steps.append(step)
        fed = intermediate if step.comparison is not None else fed
    if training is not None:
        steps.append(_training_step(contract, pictures, fed, training))
    return Proof(contract.name, tuple(steps), _image_loss(contract, pictures))


def _prove_featuremap(
    contract: InputContract,
    values: np.ndarray,
    runtime: Optional[Buffers],
    intermediate: Optional[np.ndarray],
    training: Optional[np.ndarray],
) -> Proof:
    steps: List[Step] = []
    values = _floats(contract, values)
    if training is not None:
        step = _step("training", "featuremap -> training tensor", values, training, contract.layout, "", 0.0, lambda n: iter(()))
        steps.append(step)
        values = training if step.comparison is not None else values
    integers = contract.quantise(values)
    if intermediate is not None:
        name = "float32 -> int{} ({})".format(contract.bits, contract.quantise_rounding)
        fed = integers
        step = _step(
            "intermediate", name, fed, intermediate, contract.layout, "", 0.0, lambda n: _other_integers(contract, values[n : n + 1])
        )
        steps.append(step)
        integers = intermediate if step.comparison is not None else integers
    if runtime is not None:
        name = "int{} -> padded bytes".format(contract.bits)
        dense = integers
        step, _ = _bytes_step(contract, name, dense, runtime, contract.layout, "", lambda n: _other_bytes(contract, dense[n : n + 1]))
        steps.append(step)
    return Proof(contract.name, tuple(steps), _featuremap_loss(contract, values))


def _floats(contract: InputContract, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ArtifactError(
            "a featuremap sample is a finite float tensor",
            input=contract.name,
            found="NaN or infinity" if values.dtype.kind == "f" else str(values.dtype),
            next_step="fix `preprocess` of the adapter",
        )
    return np.ascontiguousarray(values, np.float32)


# --- steps -------------------------------------------------------------------------------------------------------------------


def _bytes_step(
    contract: InputContract, transform: str, expected: np.ndarray, given: Buffers, layout: str, colours: str, others: Any
) -> Tuple[Step, np.ndarray]:
    """The step of the runtime bytes, and the values that were in them (the expected ones when they cannot be read)."""
    same = isinstance(given, np.ndarray) and given.ndim == expected.ndim and given.shape[1:] == expected.shape[1:]
    if isinstance(given, np.ndarray) and same and (given.ndim > 2 or given.dtype == expected.dtype):
        found = given
    else:
        wanted = contract.pack(expected)
        sizes = [item.nbytes if isinstance(item, np.ndarray) else len(item) for item in given]
        if len(sizes) != len(wanted) or set(sizes) != {wanted.shape[1]}:
            dense = expected[0].nbytes * len(expected) // len(wanted)
            cause = Fingerprint("padding", 1.0, "they hold no padding") if set(sizes) == {dense} and dense < wanted.shape[1] else None
            problem = "expected {} buffer(s) of {} bytes, found {} of {} bytes".format(
                len(wanted), wanted.shape[1], len(sizes), " or ".join(str(size) for size in sorted(set(sizes))) or "no"
            )
            return Step("runtime", transform, problem=problem, cause=cause), expected
        found = contract.unpack(given, expected)
    step = _step("runtime", transform, expected, found, layout, colours, 0.0, others)
    return step, found if step.comparison is not None else expected


def _step(
    form: str, transform: str, expected: np.ndarray, found: np.ndarray, layout: str, colours: str, tolerance: float, others: Any
) -> Step:
    """Compare, find the first element beyond the tolerance, and name its cause.

    Args:
        layout: NV12, NHWC, NCHW, or something else for no spatial axes.
        colours: channel names; empty for numbered channels.
        others: sample number -> candidates: (cause, detail, array of one sample), what a known mistake would have made.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return Step(form, transform, tolerance, problem=_unlike(expected, found), cause=_unlike_cause(expected, found))
    try:
        comparison = compare(expected, found, transform)
    except ArtifactError as error:
        return Step(form, transform, tolerance, problem=error.message)
    if comparison.max_abs <= tolerance:
        return Step(form, transform, tolerance, comparison)
    wrong = np.abs(found.astype(np.float64) - expected.astype(np.float64)) > tolerance
    index = tuple(int(value) for value in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    channel, pixel = _where(index, expected.shape, layout, colours)
    place = Place(index[0], channel, pixel, index, float(expected[index]), float(found[index]))
    one = slice(index[0], index[0] + 1)
    cause = _cause(expected[one], found[one], tolerance, others(index[0]), _channel_axis(layout))
    return Step(form, transform, tolerance, comparison, place, _channels(wrong, layout, colours), cause)


def _training_step(contract: InputContract, pictures: np.ndarray, fed: np.ndarray, training: np.ndarray) -> Step:
    """The training tensor against the picture's own and against what the intermediate tensor holds; it may be made from either."""
    straight, through = contract.training_tensor_of_pictures(pictures), contract.training_tensor(fed)
    name = "picture -> training tensor" if _apart(straight, training) <= _apart(through, training) else "{} -> training tensor"
    expected = straight if name.startswith("picture") else through
    colours = CHANNELS[contract.type_train]

    def others(sample: int) -> Iterator[Candidate]:
        for cause, detail, variant in _variants(contract):
            yield cause, detail, variant.training_tensor_of_pictures(pictures[sample : sample + 1])
            yield cause, detail, variant.training_tensor(fed[sample : sample + 1])

    transform = name.format(contract.intermediate_type)
    return _step("training", transform, expected, training, contract.layout, colours, contract.tolerance, others)


def _variants(contract: InputContract) -> Iterator[Tuple[str, str, InputContract]]:
    """The mistakes in a contract, and those in what decodes its YUV."""
    yield from mistakes(contract)
    if contract.intermediate_type == "yuv444_128":
        swing = {"full": "studio", "studio": "full"}[contract.swing]
        yield "swing", "YUV is read as {} swing, declared is {}".format(swing, contract.swing), replace(contract, swing=swing)


def _apart(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max())


def _unlike(expected: np.ndarray, found: np.ndarray) -> str:
    return "expected {} {}, found {} {}".format(expected.dtype, list(expected.shape), found.dtype, list(found.shape))


def _unlike_cause(expected: np.ndarray, found: np.ndarray) -> Optional[Fingerprint]:
    """Why two forms that cannot be compared have other shapes or types."""
    if expected.shape == found.shape:
        if expected.dtype == np.int8 and found.dtype == np.uint8:
            return Fingerprint("offset", 1.0, "uint8: 128 is not subtracted")
        return None
    if expected.ndim == found.ndim == 4:
        for order, words in (((0, 3, 1, 2), "is NCHW, declared is NHWC"), ((0, 2, 3, 1), "is NHWC, declared is NCHW")):
            if tuple(expected.shape[axis] for axis in order) == found.shape:
                return Fingerprint("transposed", 1.0, words)
    return None


def _cause(expected: np.ndarray, found: np.ndarray, tolerance: float, others: Iterator[Candidate], axis: Optional[int]) -> Fingerprint:
    """The one known mistake that makes the found tensor, else what the difference looks like."""
    images = expected.dtype == np.uint8
    near: Optional[Fingerprint] = None
    if images and _apart(expected, found) <= CLOSE:
        near = Fingerprint("rounding", 0.5, "at most {} levels apart: other coefficients, or another rounding".format(CLOSE))
    for cause, detail, guess in others:
        if guess.shape != found.shape:
            continue
        apart = _apart(guess, found)
        if apart <= tolerance:
            return Fingerprint(cause, 1.0, detail)
        if images and near is None and apart <= CLOSE:
            near = Fingerprint(cause, 0.9, "{} (within {} levels)".format(detail, CLOSE))
    return near or fingerprint(expected, found, axis)


# --- what known mistakes would have made ---------------------------------------------------------------------------------------


def _other_frames(contract: InputContract, picture: np.ndarray) -> Iterator[Candidate]:
    """The runtime type of one picture, made wrong: in its order of channels, its swing, its chroma; then in several at once."""
    kind = contract.type_rt
    straight = contract.runtime(picture)
    yield "offset", "128 is subtracted, or is not", straight ^ np.uint8(128)
    if kind in ("rgb", "bgr"):
        yield "channel_swap", "is {}, declared is {}".format(kind[::-1], kind), contract.runtime(picture[..., ::-1])
        return
    declared = contract.swing or "full"
    swings = (declared, "studio" if declared == "full" else "full")
    combinations = []
    for swing in swings:
        for chroma in colour.CHROMA if kind == "nv12" else ("average",):
            for swapped in (False, True):
                for crossed in (False, True) if kind != "gray" else (False,):
                    words = []
                    words += [("swing", "{} swing, declared is {}".format(swing, declared))] if swing != declared else []
                    words += [("channel_swap", "the picture is taken for BGR")] if swapped else []
                    words += [("channel_swap", "U and V are exchanged" + (" (NV21)" if kind == "nv12" else ""))] if crossed else []
                    words += [("chroma", "chroma of the top left pixel, not the mean of four")] if chroma != "average" else []
                    if words:
                        combinations.append((words, swing, chroma, swapped, crossed))
    for words, swing, chroma, swapped, crossed in sorted(combinations, key=lambda item: len(item[0])):
        pixels = picture[..., ::-1] if swapped else picture
        if kind == "nv12":
            made = colour.rgb_to_nv12(pixels, swing, chroma)
            rows = made.shape[1] // 3 * 2
            if crossed:
                made[:, rows:] = made[:, rows:].reshape(1, -1, made.shape[2] // 2, 2)[..., ::-1].reshape(made[:, rows:].shape)
        else:
            yuv = colour.to_uint8(colour.rgb_to_yuv444(pixels, swing))
            yuv = yuv[..., [0, 2, 1]] if crossed else yuv
            yuv = yuv[..., :1] if kind == "gray" else yuv
            made = np.ascontiguousarray(yuv.transpose(0, 3, 1, 2) if contract.layout_rt == "NCHW" else yuv)
        yield words[0][0], ", and ".join(detail for _, detail in words), made


def _other_fed(contract: InputContract, fed: np.ndarray, layout: str) -> Iterator[Candidate]:
    """The intermediate tensor of one sample, made wrong."""
    yield "offset", "128 is not subtracted: the bytes of the runtime type are taken as they are", fed ^ np.int8(-128)
    axis = 1 if layout == "NCHW" else 3
    if fed.shape[axis] == 3:
        order, words = (
            ([0, 2, 1], "U and V are exchanged") if contract.type_rt in ("nv12", "yuv444") else ([2, 1, 0], "R and B are exchanged")
        )
        yield "channel_swap", words, np.take(fed, order, axis)


def _other_integers(contract: InputContract, values: np.ndarray) -> Iterator[Candidate]:
    """The integers of one featuremap, quantised wrong."""
    (scale, axis), declared, bits = contract.quantisation, contract.quantise_rounding, contract.bits
    for rounding in ROUNDINGS:
        if rounding != declared:
            yield "rounding", "{}, declared is {}".format(rounding, declared), quantize(values, scale, rounding, bits, axis)
    yield "scale", "multiplied by the scale, which divides", quantize(values, [1 / item for item in scale], declared, bits, axis)
    yield "scale", "not divided by any scale", quantize(values, [1.0], declared, bits)
    if len(scale) > 1:
        yield "scale", "the first channel's scale is used for all", quantize(values, scale[:1], declared, bits)
        for other in range(1, values.ndim):
            if other != axis % values.ndim and values.shape[other] == len(scale):
                yield (
                    "scale",
                    "the scales lie along axis {}, declared is {}".format(other, axis),
                    quantize(values, scale, declared, bits, other),
                )
    steps = quantize(values, scale, declared, bits, axis)
    wide = np.floor(values.astype(np.float64) / _broadcast(scale, values.ndim, axis) + 0.5)
    yield (
        "clamped",
        "values beyond the range wrap around",
        np.where(np.abs(wide) < 2 ** (bits - 1), steps, wide.astype(np.int64).astype(steps.dtype)),
    )


def _other_bytes(contract: InputContract, integers: np.ndarray) -> Iterator[Candidate]:
    """The values one reads from the bytes of one sample that were laid out wrong."""
    tensor = contract.tensor
    if tensor is None or tensor.valid_shape[0] != 1:
        return
    size = contract.pack(integers).shape[1]
    written = [(integers, "the bytes are written without padding", "padding")]
    if tensor.layout and tensor.layout != contract.layout and integers.ndim == len(tensor.valid_shape) == 4:
        there, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if tensor.layout == "NHWC" else ((0, 3, 1, 2), (0, 2, 3, 1))
        words = "written in {}, the BPU reads {}".format(contract.layout, tensor.layout)
        yield "transposed", words, integers.reshape(tensor.valid_shape).transpose(back)
        written = [(integers.transpose(there), written[0][1], "padding"), (integers, words + ", and without padding", "transposed")]
    for values, words, cause in written:
        if values.nbytes < size:
            yield cause, words, contract.unpack([values.tobytes() + bytes(size - values.nbytes)], integers)


# --- places and losses ---------------------------------------------------------------------------------------------------------


def _channel_axis(layout: str) -> Optional[int]:
    return {"NHWC": 3, "NCHW": 1}.get(layout)


def _where(index: Tuple[int, ...], shape: Sequence[int], layout: str, colours: str) -> Tuple[str, Optional[Tuple[int, int]]]:
    """(channel, (y, x)) of an element."""
    if layout == "NV12":
        _, row, column = index
        height = shape[1] // 3 * 2
        if row < height:
            return "Y", (row, column)
        return "UV"[column % 2], (2 * (row - height), column // 2 * 2)
    axis = _channel_axis(layout)
    if axis is None or len(index) != 4:
        return "", None
    pixel = (index[2], index[3]) if axis == 1 else (index[1], index[2])
    return colours[index[axis]] if colours else "channel {}".format(index[axis]), pixel


def _channels(wrong: np.ndarray, layout: str, colours: str) -> Tuple[str, ...]:
    """Channels with a wrong element."""
    if layout == "NV12":
        height = wrong.shape[1] // 3 * 2
        parts = (wrong[:, :height], wrong[:, height:, ::2], wrong[:, height:, 1::2])
        return tuple(name for name, part in zip("YUV", parts) if part.any())
    axis = _channel_axis(layout)
    if axis is None or wrong.ndim != 4:
        return ()
    found = np.flatnonzero(wrong.any(axis=tuple(other for other in range(4) if other != axis)))
    return tuple(colours[number] if colours else "channel {}".format(number) for number in found)


def _broadcast(scale: Sequence[float], ndim: int, axis: int) -> np.ndarray:
    shape = [1] * ndim
    shape[axis] = len(scale)
    return np.asarray(scale, np.float64).reshape(shape)


def _image_loss(contract: InputContract, pictures: np.ndarray) -> Loss:
    picture = contract.training_values(pictures).astype(np.float64)
    whole = replace(contract, type_rt="yuv444", source="", tensor=None) if contract.type_rt == "nv12" else contract
    converted = whole.picture(whole.intermediate(whole.runtime(pictures)))
    conversion = np.abs(converted - picture)
    if whole is contract:
        return Loss(float(conversion.max()), float(conversion.mean()))
    chroma = np.abs(contract.picture(contract.intermediate(contract.runtime(pictures))) - converted)
    return Loss(float(conversion.max()), float(conversion.mean()), float(chroma.max()), float(chroma.mean()))


def _featuremap_loss(contract: InputContract, values: np.ndarray) -> Loss:
    error = np.abs(contract.dequantise(contract.quantise(values)).astype(np.float64) - values)
    scale, axis = contract.quantisation
    steps = values / _broadcast(scale, values.ndim, axis)
    high = 2 ** (contract.bits - 1) - 1
    clamped = np.mean((steps > high + 0.5) | (steps < -high - 1.5))
    return Loss(float(error.max()), float(error.mean()), clamped=float(clamped))
