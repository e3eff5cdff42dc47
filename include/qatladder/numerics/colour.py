"""Pictures and the colour types the BPU knows.

Arrays are batched, N pictures of one size, NHWC where nothing else is said. Colour is ITU-R BT.601 in one of two swings:

| swing | Y | U, V | minus 128 | who delivers it |
|---|---|---|---|---|
| `full` | 0..255 | 0..255 | Y, U, V -128..127 | the BPU's pyramid; hb_mapper's `regular` |
| `studio` | 16..235 | 16..240 | Y -112..107, U, V -112..112 | hb_mapper's `bt601_video`; default of the plugin's functions |

The standard is one, its rounded coefficients are many. Each set here says whose it is: a model must be fed through the set of the
toolchain that converts it (`DECODERS`).
"""

from __future__ import annotations

import sys
from typing import Dict, Optional, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import accelerated
from qatladder.numerics.tensor import quantize, round_to

SWINGS = ("full", "studio")

CHROMA = ("average", "top_left")
"""How 2x2 pixels share one chroma pair: their mean (a camera's way), or that of the top left pixel (hb_mapper's own transformers)."""

YUV_TO_RGB = np.array([[1.0, 0.0, 1.4017], [1.0, -0.3437, -0.7142], [1.0, 1.7722, 0.0]])
"""RGB = M @ (Y, U-128, V-128), full swing: the coefficients of hmct's HzPreprocess node, measured on hmct 1.1.0."""

DECODERS: Dict[str, Dict[str, Tuple[np.ndarray, float]]] = {
    "hmct": {
        "full": (YUV_TO_RGB, 128.0),
        "studio": (np.array([[1.164, 0.0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0.0]]), 112.0),
    },
    "openexplorer": {
        "full": (np.array([[1.0, 0.0, 1.402], [1.0, -0.3441, -0.7141], [1.0, 1.772, 0.0]]), 128.0),
        "studio": (np.array([[1.164, 0.0, 1.596], [1.164, -0.392, -0.812], [1.164, 2.016, 0.0]]), 112.0),
    },
}
"""By toolchain and swing: (M, b) of RGB = M @ (Y - 128 + b, U - 128, V - 128).

hmct: measured on the HzPreprocess node hmct 1.1.0 inserts (input_type YUV_BT601_FULL_RANGE_128 and YUV_BT601_VIDEO_RANGE_128).
openexplorer: the coefficients of horizon_plugin_pytorch's centered_yuv2rgb. Both are BT.601 rounded to 3 or 4 digits.
"""

PLUGIN_ENCODERS: Dict[str, Tuple[Tuple[Tuple[int, int, int], ...], Tuple[int, int, int]]] = {
    "full": (((77, 150, 29), (-43, -84, 127), (127, -106, -21)), (0, 128, 128)),
    "studio": (((66, 129, 25), (-38, -74, 112), (112, -94, -18)), (16, 128, 128)),
}
"""By swing: (M, offset) of YUV = floor((M @ RGB + 128) / 256) + offset: the usual 8-bit form of BT.601, as horizon_plugin_pytorch uses it."""

_LUMA = np.array([0.299, 0.587, 0.114])
_SPAN = {"full": (0.0, 255.0, 255.0), "studio": (16.0, 219.0, 224.0)}
"""By swing: Y of black, span of Y, span of U and V."""

Region = Tuple[int, int, int, int]


def check_swing(swing: str) -> str:
    if swing not in SWINGS:
        raise ConfigError("no such swing", expected=" | ".join(SWINGS), found=swing)
    return swing


def rgb_to_yuv444(pictures: np.ndarray, swing: str = "full") -> np.ndarray:
    """BT.601 as the standard has it, not rounded.

    Args:
        pictures: uint8 or float RGB, 0..255, [..., 3].
        swing: full or studio.
    Returns:
        float64 YUV, same shape, chroma centred on 128.
    """
    black, luma_span, chroma_span = _SPAN[check_swing(swing)]
    rgb = pictures.astype(np.float64)
    luma = rgb @ _LUMA
    blue = (rgb[..., 2] - luma) / 1.772 * (chroma_span / 255.0) + 128.0
    red = (rgb[..., 0] - luma) / 1.402 * (chroma_span / 255.0) + 128.0
    return np.stack([luma * (luma_span / 255.0) + black, blue, red], axis=-1)


def yuv444_to_rgb(tensors: np.ndarray, swing: str = "full") -> np.ndarray:
    """The inverse of `rgb_to_yuv444`: the standard's own, of no toolchain.

    Args:
        tensors: YUV, any real dtype, chroma centred on 128, [..., 3].
    Returns:
        float64 RGB, same shape, neither rounded nor clamped.
    """
    black, luma_span, chroma_span = _SPAN[check_swing(swing)]
    yuv = tensors.astype(np.float64)
    luma = (yuv[..., 0] - black) * (255.0 / luma_span)
    blue = luma + (yuv[..., 1] - 128.0) * (255.0 / chroma_span) * 1.772
    red = luma + (yuv[..., 2] - 128.0) * (255.0 / chroma_span) * 1.402
    green = (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    return np.stack([red, green, blue], axis=-1)


def to_uint8(values: np.ndarray, rounding: str = "half_up") -> np.ndarray:
    """Gray levels rounded by a named rule and clamped to 0..255."""
    levels: np.ndarray = np.clip(round_to(values, rounding), 0, 255).astype(np.uint8)
    return levels


# --- NV12 --------------------------------------------------------------------------------------------------------------------


def rgb_to_nv12(pictures: np.ndarray, swing: str = "full", chroma: str = "average", rounding: str = "half_up") -> np.ndarray:
    """RGB pictures as a camera's NV12 frames.

    Chroma is averaged over 2x2 pixels before it is rounded, so it is rounded once.

    Args:
        pictures: uint8 RGB, [N, H, W, 3], H and W even.
        swing: full or studio.
        chroma: average or top_left, see `CHROMA`.
        rounding: see `tensor.quantize`.
    Returns:
        uint8, [N, H * 3 / 2, W]: H rows of Y, then H / 2 rows of interleaved U and V.
    Raises:
        ArtifactError: odd height or width, or no RGB picture.
    """
    _check_even(pictures, "RGB pictures")
    return _subsample(rgb_to_yuv444(pictures, swing), chroma, rounding)


def yuv444_to_nv12(tensors: np.ndarray, chroma: str = "average", rounding: str = "half_up") -> np.ndarray:
    """YUV444 to NV12; arguments, result and errors as `rgb_to_nv12`, of a uint8 YUV tensor [N, H, W, 3]."""
    _check_even(tensors, "YUV444 tensors")
    return _subsample(tensors.astype(np.float64), chroma, rounding)


def _check_even(pictures: np.ndarray, what: str) -> None:
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.shape[1] % 2 or pictures.shape[2] % 2:
        raise ArtifactError(
            "NV12 needs {} of even height and width".format(what),
            expected="[N, H, W, 3]",
            found=list(pictures.shape),
            next_step="resize or pad in the adapter's `samples`",
        )


def _subsample(yuv: np.ndarray, chroma: str, rounding: str) -> np.ndarray:
    count, height, width, _ = yuv.shape
    if chroma == "average":
        pairs = yuv[..., 1:].reshape(count, height // 2, 2, width // 2, 2, 2).mean(axis=(2, 4))
    elif chroma == "top_left":
        pairs = yuv[:, ::2, ::2, 1:]
    else:
        raise ConfigError("no such chroma rule", expected=" | ".join(CHROMA), found=chroma)
    luma, pairs = to_uint8(yuv[..., 0], rounding), to_uint8(pairs, rounding)
    return np.concatenate([luma, pairs.reshape(count, height // 2, width)], axis=1)


def nv12_size(frames: np.ndarray) -> Tuple[int, int]:
    """(H, W) of NV12 frames [N, H * 3 / 2, W].

    Raises:
        ArtifactError: not uint8, or no such shape.
    """
    if frames.ndim != 3 or frames.dtype != np.uint8 or frames.shape[1] % 3 or frames.shape[2] % 2:
        raise ArtifactError(
            "not an NV12 frame",
            expected="uint8 [N, H * 3 / 2, W], H and W even",
            found="{} {}".format(frames.dtype, list(frames.shape)),
        )
    return frames.shape[1] // 3 * 2, frames.shape[2]


def nv12_to_yuv444(frames: np.ndarray) -> np.ndarray:
    """NV12 frames to YUV444 by replicating each chroma pair over its 2x2 pixels, as the BPU does.

    Args:
        frames: uint8, [N, H * 3 / 2, W].
    Returns:
        uint8, [N, H, W, 3].
    """
    height, width = nv12_size(frames)
    chroma = frames[:, height:].reshape(len(frames), height // 2, width // 2, 2).repeat(2, axis=1).repeat(2, axis=2)
    return np.concatenate([frames[:, :height, :, None], chroma], axis=-1)


def crop_nv12(frames: np.ndarray, roi: Region, size: Optional[Tuple[int, int]] = None) -> np.ndarray:
    """The region of interest of NV12 frames, as the source `resizer` reads it.

    Args:
        frames: uint8, [N, H * 3 / 2, W].
        roi: (left, top, right, bottom) in pixels, right and bottom inside the region, as hbDNNRoi and hrt_model_exec's `--roi`
            have them; left and top even, right and bottom odd, so that no chroma pair is cut.
        size: (H, W) of the model's input.
    Returns:
        A copy, uint8, [N, h * 3 / 2, w].
    Raises:
        ConfigError: the region is outside the frame or cuts a chroma pair, or the BPU would have to scale it.
    """
    height, width = nv12_size(frames)
    left, top, right, bottom = check_roi(roi, size)
    if right >= width or bottom >= height:
        raise ConfigError(
            "the region of interest is not inside the frame",
            expected="right < {}, bottom < {}".format(width, height),
            found="roi {},{},{},{}".format(*roi),
            next_step="correct the roi; right and bottom are its last column and row",
        )
    luma = frames[:, top : bottom + 1, left : right + 1]
    chroma = frames[:, height + top // 2 : height + (bottom + 1) // 2, left : right + 1]
    return np.concatenate([luma, chroma], axis=1)


def check_roi(roi: Region, size: Optional[Tuple[int, int]] = None) -> Region:
    """A region of interest no chroma pair is cut by, and no larger or smaller than the model's input; see `crop_nv12`."""
    left, top, right, bottom = roi
    found = "roi {},{},{},{}".format(*roi)
    if min(roi) < 0 or right < left or bottom < top or left % 2 or top % 2 or not right % 2 or not bottom % 2:
        raise ConfigError(
            "the region of interest cuts chroma pairs, or is empty",
            expected="left,top,right,bottom with even left and top, odd right and bottom (the last column and row of the region)",
            found=found,
        )
    if size is not None and (bottom - top + 1, right - left + 1) != tuple(size):
        raise ConfigError(
            "the region of interest has to be scaled to the model's input; how the resizer interpolates is not documented",
            expected="{}x{} pixels".format(*size),
            found="{}, {}x{} pixels".format(found, bottom - top + 1, right - left + 1),
            next_step="take a region of the model's size, or use the simulator (hbdk-sim --yuv-roi-coord, --yuv-roi-size)",
        )
    return roi


def nv12_to_intermediate(frames: np.ndarray, out: Optional[np.ndarray] = None, layout: str = "NHWC") -> np.ndarray:
    """NV12 frames to the int model's input yuv444_128: chroma replicated over 2x2 pixels, minus 128.

    Give many frames at once: kernels are loaded for 4 MB of result (`accelerated`), and numpy takes 30 times as long.

    Args:
        frames: uint8, [N, H * 3 / 2, W]; rows may be padded (a view of wider rows).
        out: C-contiguous int8 array of the result's shape to write into; a new one when not given.
        layout: NHWC or NCHW of the result.
    Returns:
        int8, [N, H, W, 3] or [N, 3, H, W].
    """
    height, width = nv12_size(frames)
    count = len(frames)
    if layout not in ("NHWC", "NCHW"):
        raise ConfigError("no such layout", expected="NHWC | NCHW", found=layout)
    shape = (count, height, width, 3) if layout == "NHWC" else (count, 3, height, width)
    if out is None:
        out = np.empty(shape, np.int8)
    elif out.shape != shape or out.dtype != np.int8 or not out.flags.c_contiguous:
        raise ArtifactError(
            "the tensor to write into does not fit the frames",
            expected="C-contiguous int8 {}".format(list(shape)),
            found="{} {}".format(out.dtype, list(out.shape)),
        )
    whole = np.ascontiguousarray(frames)
    words = sys.byteorder == "little" and not width % 4 and not (whole.ctypes.data | out.ctypes.data) % 4
    kernels = accelerated.load("colour", out.nbytes) if words and out.size else None
    if kernels is not None:
        if layout == "NHWC":
            kernels.nhwc(whole.view(np.uint32), out.reshape(count, height, 3 * width).view(np.uint32))
        else:
            kernels.nchw(whole.view(np.uint32), out.view(np.uint32))
        return out
    centred = out.view(np.uint8)
    pairs = frames[:, height:].reshape(count, height // 2, 1, width // 2, 1, 2) ^ np.uint8(128)
    if layout == "NHWC":
        np.bitwise_xor(frames[:, :height], np.uint8(128), out=centred[..., 0])
        centred.reshape(count, height // 2, 2, width // 2, 2, 3)[..., 1:] = pairs
    else:
        np.bitwise_xor(frames[:, :height], np.uint8(128), out=centred[:, 0])
        for channel in (1, 2):
            centred.reshape(count, 3, height // 2, 2, width // 2, 2)[:, channel] = pairs[..., channel - 1]
    return out


# --- the int model's colours ---------------------------------------------------------------------------------------------------


def centered_yuv_to_rgb(tensors: np.ndarray, swing: str = "full", toolchain: str = "hmct") -> np.ndarray:
    """The intermediate type yuv444_128 back to RGB, neither rounded nor clamped.

    Args:
        tensors: int8 YUV444 - 128, [..., 3].
        swing: full or studio.
        toolchain: whose coefficients, see `DECODERS`.
    Returns:
        float64 RGB in gray levels, same shape.
    """
    if toolchain not in DECODERS:
        raise ConfigError("no colour coefficients are known of this toolchain", expected=" | ".join(DECODERS), found=toolchain)
    matrix, black = DECODERS[toolchain][check_swing(swing)]
    shifted = tensors.astype(np.float64)
    shifted[..., 0] += black
    rgb: np.ndarray = shifted @ matrix.T
    return rgb


def rgb2centered_yuv(input: np.ndarray, swing: str = "studio", axis: int = 1) -> np.ndarray:
    """`horizon_plugin_pytorch.functional.rgb2centered_yuv`: what a model trained on YUV is fed.

    Args:
        input: RGB, 0..255 (fractions are allowed), NCHW unless `axis` says otherwise.
        swing: "studio" (the documented default: Y -112..107, U and V -112..112) or "full" (-128..127, what the BPU's pyramid delivers).
        axis: of the three channels.
    Returns:
        int32 centred YUV444, same shape; by `PLUGIN_ENCODERS`.
    """
    weights, offset = PLUGIN_ENCODERS[check_swing(swing)]
    rgb = _channels_last(input, axis).astype(np.float64)
    yuv = np.floor((rgb @ np.array(weights, np.float64).T + 128.0) / 256.0) + np.array(offset, np.float64) - 128.0
    return np.moveaxis(yuv.astype(np.int32), -1, axis)


def bgr2centered_yuv(input: np.ndarray, swing: str = "studio", axis: int = 1) -> np.ndarray:
    """`rgb2centered_yuv` of a BGR picture."""
    return rgb2centered_yuv(np.flip(input, axis), swing, axis)


def centered_yuv2rgb(
    input: np.ndarray,
    swing: str = "studio",
    mean: Sequence[float] = (128.0,),
    std: Sequence[float] = (128.0,),
    q_scale: float = 1.0 / 128.0,
    axis: int = 1,
) -> np.ndarray:
    """`horizon_plugin_pytorch.functional.centered_yuv2rgb`: put behind the QuantStub of a quantised model that was trained on RGB.

    The documented steps: 1. RGB by the formula of the swing; 2. (RGB - mean) / std; 3. floor(x / q_scale + 0.5), clamped to int8.
    On the BPU the operator runs in fixed point with int8 weights, which the documents call a loss: hold it to LSBs, not to equality.

    Args:
        input: int8 YUV444 - 128 as the pyramid delivers it, NCHW unless `axis` says otherwise.
        swing: "studio" (the documented default) or "full": what the BPU's pyramid delivers is **full**.
        mean, std: of training, in the channel order of the result, one or three numbers.
        q_scale: scale of the QuantStub, whose own scale is then set to 1.
        axis: of the three channels.
    Returns:
        int8, same shape.
    Raises:
        ConfigError: neither one nor three means or deviations.
    """
    return _centered_yuv2(input, swing, mean, std, q_scale, axis, slice(None))


def centered_yuv2bgr(
    input: np.ndarray,
    swing: str = "studio",
    mean: Sequence[float] = (128.0,),
    std: Sequence[float] = (128.0,),
    q_scale: float = 1.0 / 128.0,
    axis: int = 1,
) -> np.ndarray:
    """`centered_yuv2rgb` for a model trained on BGR: mean, std and result in the order B, G, R."""
    return _centered_yuv2(input, swing, mean, std, q_scale, axis, slice(None, None, -1))


def _centered_yuv2(
    tensors: np.ndarray, swing: str, mean: Sequence[float], std: Sequence[float], q_scale: float, axis: int, order: slice
) -> np.ndarray:
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, 3):
            raise ConfigError("{} is neither one number nor one per channel".format(name), expected="1 or 3 numbers", found=len(numbers))
    colours = centered_yuv_to_rgb(_channels_last(tensors, axis), swing, "openexplorer")[..., order]
    normalised = (colours - np.asarray(mean, np.float64)) / np.asarray(std, np.float64)
    return np.moveaxis(quantize(normalised, [q_scale], "half_up"), -1, axis)


def _channels_last(tensors: np.ndarray, axis: int) -> np.ndarray:
    if tensors.ndim <= axis or tensors.ndim < -axis or tensors.shape[axis] != 3:
        raise ArtifactError(
            "the tensor has not three channels along this axis", expected="3 channels, axis {}".format(axis), found=list(tensors.shape)
        )
    return np.moveaxis(tensors, axis, -1)
