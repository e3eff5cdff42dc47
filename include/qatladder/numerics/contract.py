"""One model input from the picture to every rung: what the float, int and hbm rungs must be fed so that all see the same.

    picture (uint8 RGB) ──> runtime bytes (nv12, ...) ──> intermediate type (yuv444_128, ...) ──> training tensor (float32)

The runtime bytes are what the board gets, and everything above is derived from them: what chroma subsampling loses is
lost for every rung alike. A featuremap starts from the training tensor and is quantised and padded instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour

INTERMEDIATE_TYPES = {
    "nv12": "yuv444_128",
    "yuv444": "yuv444_128",
    "rgb": "rgb_128",
    "bgr": "bgr_128",
    "gray": "gray_128",
    "featuremap": "featuremap",
}
"""type_rt to the intermediate type the int model takes (note 1 of the vendor's consistency process)."""


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
