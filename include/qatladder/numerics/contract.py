"""One model input from the picture to every rung: what the float, int and hbm rungs must be fed so that all see the same.

    picture (uint8 RGB) ──> runtime bytes (nv12, ...) ──> intermediate type (yuv444_128, ...) ──> training tensor (float32)

The runtime bytes are what the board gets, and everything above is derived from them: what chroma subsampling loses is
lost for every rung alike. A featuremap starts from the training tensor and is quantised and padded instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterator, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour
from qatladder.numerics.compare import Fingerprint, fingerprint

INTERMEDIATE_TYPES = {
    "nv12": "yuv444_128",
    "yuv444": "yuv444_128",
    "rgb": "rgb_128",
    "bgr": "bgr_128",
    "gray": "gray_128",
    "featuremap": "featuremap",
}
"""type_rt to the intermediate type the int model takes (note 1 of the vendor's consistency process)."""


GRAY_LEVEL_SHARE = 0.01
"""How far a declared and a real preprocessing may be apart, in gray levels of the picture."""


@dataclass(frozen=True)
class InputContract:
    """How one image input is made, as the zoo entry declares it.

    Attributes:
        name: input name.
        type_rt: nv12, yuv444, rgb, bgr or gray: the runtime type.
        type_train: rgb, bgr, yuv444 or gray: what the float model was trained on.
        layout: NCHW or NHWC of the training tensor.
        mean, scale: per channel of `type_train`: tensor = (value - mean) * scale; empty for none.
    """

    name: str
    type_rt: str
    type_train: str
    layout: str
    mean: Tuple[float, ...] = ()
    scale: Tuple[float, ...] = ()

    @property
    def tolerance(self) -> float:
        """How far two training tensors of the same picture may be apart: a hundredth of a gray level.

        Pictures have 256 levels; what is below is the number of digits somebody wrote a mean or scale with.
        """
        return GRAY_LEVEL_SHARE * max((abs(value) for value in self.scale), default=1.0)

    @property
    def intermediate_type(self) -> str:
        return INTERMEDIATE_TYPES[self.type_rt]

    def runtime(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures as the board's input bytes.

        Args:
            pictures: uint8 RGB, [N, H, W, 3].
        Returns:
            uint8: nv12 [N, H * 3 / 2, W]; gray [N, H, W, 1]; otherwise [N, H, W, 3].
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ArtifactError(
                "an image sample is uint8 RGB, [H, W, 3]",
                input=self.name,
                found="{} {}".format(pictures.dtype, list(pictures.shape[1:])),
                next_step="fix `samples` of the adapter",
            )
        if self.type_rt == "nv12":
            return colour.rgb_to_nv12(pictures)
        if self.type_rt == "rgb":
            return pictures
        if self.type_rt == "bgr":
            return np.ascontiguousarray(pictures[..., ::-1])
        yuv = np.clip(np.floor(colour.rgb_to_yuv444(pictures) + 0.5), 0, 255).astype(np.uint8)
        if self.type_rt == "yuv444":
            return yuv
        if self.type_rt == "gray":
            return yuv[..., :1]
        raise ConfigError("no runtime bytes are known for this type", type_rt=self.type_rt, input=self.name)

    def intermediate(self, runtime: np.ndarray) -> np.ndarray:
        """Runtime bytes to the int model's input: value - 128 as int8, NHWC."""
        values = colour.nv12_to_yuv444(runtime) if self.type_rt == "nv12" else runtime
        return (values.astype(np.int16) - 128).astype(np.int8)

    def picture(self, intermediate: np.ndarray) -> np.ndarray:
        """The intermediate tensor in the colours of training, gray levels: float64, NHWC, neither rounded nor clamped."""
        if self.intermediate_type == "yuv444_128" and self.type_train != "yuv444":
            rgb = colour.centered_yuv_to_rgb(intermediate)
        else:
            rgb = intermediate.astype(np.float64) + 128.0
            if self.type_rt == "bgr":
                rgb = rgb[..., ::-1]
        return rgb[..., ::-1] if self.type_train == "bgr" else rgb

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Gray levels in the colours of training to the training tensor.

        Args:
            values: NHWC, any real dtype, channels in the order of `type_train`.
        Returns:
            float32 in `layout`: (values - mean) * scale.
        """
        tensor = values.astype(np.float64)
        if self.mean:
            tensor = tensor - np.asarray(self.mean)
        if self.scale:
            tensor = tensor * np.asarray(self.scale)
        if self.layout == "NCHW":
            tensor = tensor.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(tensor, dtype=np.float32)

    def training_tensor(self, intermediate: np.ndarray) -> np.ndarray:
        """The tensor the float model sees when fed what the int model is fed: float32 in `layout`."""
        return self.normalise(self.picture(intermediate))

    def training_tensor_of_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """The training tensor straight from uint8 RGB pictures, as this contract declares it (no chroma loss)."""
        if self.type_train == "rgb":
            values = pictures
        elif self.type_train == "bgr":
            values = pictures[..., ::-1]
        else:
            values = colour.rgb_to_yuv444(pictures)
            values = values[..., :1] if self.type_train == "gray" else values
        return self.normalise(values)


def explain_difference(contract: InputContract, pictures: np.ndarray, trained: np.ndarray, tolerance: float) -> Fingerprint:
    """Which one mistake in the contract explains what the training code really does?

    Each mistake teams make is undone in a copy of the contract; the first copy that reproduces the training tensor names
    it. When none does, the shape of the difference is asked (`compare.fingerprint`).

    Args:
        contract: as declared.
        pictures: uint8 RGB, [N, H, W, 3].
        trained: what the training code makes of them, float32 in the contract's layout.
        tolerance: largest absolute difference that still counts as equal.
    """
    for cause, detail, variant in _mistakes(contract):
        guess = variant.training_tensor_of_pictures(pictures)
        if guess.shape == trained.shape and float(np.abs(guess - trained).max()) <= tolerance:
            return Fingerprint(cause, 1.0, detail)
    return fingerprint(trained, contract.training_tensor_of_pictures(pictures), 1 if contract.layout == "NCHW" else -1)


def _mistakes(contract: InputContract) -> Iterator[Tuple[str, str, InputContract]]:
    """(cause, what is wrong in words, the contract without it), most frequent first."""
    mean, scale = contract.mean, contract.scale
    other = {"rgb": "bgr", "bgr": "rgb"}.get(contract.type_train)
    inverse = tuple(1.0 / value for value in scale) if all(scale) else scale
    if other:
        detail = "type_train is declared {}, the training code feeds {}".format(contract.type_train, other)
        yield "channel_swap", detail, replace(contract, type_train=other)
        yield (
            "channel_swap",
            detail + ", with mean and scale in that order",
            replace(contract, type_train=other, mean=mean[::-1], scale=scale[::-1]),
        )
        yield "channel_swap", "mean and scale are listed in {} order".format(other), replace(contract, mean=mean[::-1], scale=scale[::-1])
    yield "offset", "a mean is declared, the training code subtracts none", replace(contract, mean=())
    yield (
        "offset",
        "mean is declared for values 0 to 1, the pictures have 0 to 255",
        replace(contract, mean=tuple(255 * value for value in mean)),
    )
    yield "offset", "the training code subtracts 128, no mean is declared", replace(contract, mean=(128.0,))
    yield "scale", "a scale is declared, the training code uses none", replace(contract, scale=())
    yield (
        "scale",
        "scale is declared for values 0 to 1, the pictures have 0 to 255",
        replace(contract, scale=tuple(value / 255 for value in scale)),
    )
    yield (
        "scale",
        "scale holds the standard deviation; the toolchain multiplies by it, so it must hold 1 / std",
        replace(contract, scale=inverse),
    )
    yield (
        "scale",
        "mean and scale hold mean and std for values 0 to 1; the toolchain wants 255 * mean and 1 / (255 * std)",
        replace(contract, mean=tuple(255 * value for value in mean), scale=tuple(value / 255 for value in inverse)),
    )
    yield "scale", "the training code divides by 255, no scale is declared", replace(contract, scale=(1 / 255,))


ROUNDINGS = ("half_up", "half_even", "half_away")


def quantize(values: np.ndarray, scale: Sequence[float], rounding: str, bits: int = 8, axis: int = -1) -> np.ndarray:
    """Quantise symmetrically: clamp(round(values / scale), -2^(bits-1), 2^(bits-1) - 1).

    Args:
        values: float array.
        scale: one number, or one per index of `axis`.
        rounding: `half_up` is floor(x + 0.5), the QAT documents' rule; `half_even` is hmct's HzQuantize and the board's
            nearbyint; `half_away` is C's round. They differ on ties only.
        bits: 8 or 16.
        axis: axis of a per-channel scale.
    Returns:
        int8 or int16, same shape.
    """
    divisor = np.asarray(scale, dtype=np.float32).reshape(-1)
    if divisor.size > 1:
        shape = [1] * values.ndim
        shape[axis] = divisor.size
        divisor = divisor.reshape(shape)
    quotient = values.astype(np.float32) / divisor
    if rounding == "half_even":
        rounded = np.rint(quotient)
    elif rounding == "half_up":
        rounded = np.floor(quotient + np.float32(0.5))
    elif rounding == "half_away":
        rounded = np.copysign(np.floor(np.abs(quotient) + np.float32(0.5)), quotient)
    else:
        raise ConfigError("no such rounding", expected=" | ".join(ROUNDINGS), found=rounding)
    high = 2 ** (bits - 1) - 1
    integers: np.ndarray = np.clip(rounded, -high - 1, high).astype({8: np.int8, 16: np.int16}[bits])
    return integers


def dequantize(integers: np.ndarray, scale: Sequence[float], axis: int = -1) -> np.ndarray:
    """float32(integers) * scale, the scale along `axis` when there is one per channel."""
    factor = np.asarray(scale, dtype=np.float32).reshape(-1)
    if factor.size == 0:
        return integers.astype(np.float32)
    if factor.size > 1:
        shape = [1] * integers.ndim
        shape[axis] = factor.size
        factor = factor.reshape(shape)
    values: np.ndarray = integers.astype(np.float32) * factor
    return values
