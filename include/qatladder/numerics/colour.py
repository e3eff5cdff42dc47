"""Pictures and the colour types the BPU knows.

All arrays are batched: N pictures of one size. Full-swing BT.601, as the BPU's pyramid delivers it.
"""

from __future__ import annotations

import numpy as np

from qatladder.errors import ArtifactError

YUV_TO_RGB = np.array([[1.0, 0.0, 1.4017], [1.0, -0.3437, -0.7142], [1.0, 1.7722, 0.0]])
"""RGB = M @ (Y, U-128, V-128), full swing: the coefficients of hmct's HzPreprocess node, measured on hmct 1.1.0."""

_LUMA = np.array([0.299, 0.587, 0.114])


def rgb_to_yuv444(pictures: np.ndarray) -> np.ndarray:
    """Full-swing BT.601, not rounded.

    Args:
        pictures: uint8 or float RGB, [N, H, W, 3].
    Returns:
        float64 YUV, [N, H, W, 3], chroma centred on 128.
    """
    rgb = pictures.astype(np.float64)
    luma = rgb @ _LUMA
    blue = (rgb[..., 2] - luma) / 1.772 + 128.0
    red = (rgb[..., 0] - luma) / 1.402 + 128.0
    return np.stack([luma, blue, red], axis=-1)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(array + 0.5), 0, 255).astype(np.uint8)


def rgb_to_nv12(pictures: np.ndarray) -> np.ndarray:
    """RGB pictures as a camera's NV12 frames.

    Chroma is averaged over 2x2 pixels before it is rounded.

    Args:
        pictures: uint8 RGB, [N, H, W, 3], H and W even.
    Returns:
        uint8, [N, H * 3 / 2, W]: H rows of Y, then H / 2 rows of interleaved U and V.
    Raises:
        ArtifactError: odd height or width, or no RGB picture.
    """
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.shape[1] % 2 or pictures.shape[2] % 2:
        raise ArtifactError(
            "NV12 needs RGB pictures of even height and width",
            expected="[N, H, W, 3]",
            found=list(pictures.shape),
            next_step="resize or pad in the adapter's `samples`",
        )
    count, height, width, _ = pictures.shape
    yuv = rgb_to_yuv444(pictures)
    chroma = yuv[..., 1:].reshape(count, height // 2, 2, width // 2, 2, 2).mean(axis=(2, 4))
    return np.concatenate([_to_uint8(yuv[..., 0]), _to_uint8(chroma).reshape(count, height // 2, width)], axis=1)


def nv12_to_yuv444(frames: np.ndarray) -> np.ndarray:
    """NV12 frames to YUV444 by replicating each chroma pair over its 2x2 pixels, as the BPU does.

    Args:
        frames: uint8, [N, H * 3 / 2, W].
    Returns:
        uint8, [N, H, W, 3].
    """
    count, rows, width = frames.shape
    height = rows * 2 // 3
    if rows % 3 or height % 2 or width % 2:
        raise ArtifactError("not an NV12 frame", expected="[N, H * 3 / 2, W], H and W even", found=list(frames.shape))
    chroma = frames[:, height:].reshape(count, height // 2, width // 2, 2).repeat(2, axis=1).repeat(2, axis=2)
    return np.concatenate([frames[:, :height, :, None], chroma], axis=-1)


def centered_yuv_to_rgb(tensors: np.ndarray) -> np.ndarray:
    """The intermediate type yuv444_128 back to RGB, neither rounded nor clamped (centered_yuv2rgb, swing full).

    Args:
        tensors: int8 YUV444 - 128, [N, H, W, 3].
    Returns:
        float64 RGB in gray levels, [N, H, W, 3].
    """
    shifted = tensors.astype(np.float64)
    shifted[..., 0] += 128.0
    rgb: np.ndarray = shifted @ YUV_TO_RGB.T
    return rgb
