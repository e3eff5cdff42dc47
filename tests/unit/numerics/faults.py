"""Mistakes to be injected into tensors: what each does to [N, ...] with channels along `axis`. None: it does nothing to such a tensor."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

import numpy as np

Fault = Callable[[np.ndarray, int, np.random.Generator], Optional[np.ndarray]]


def stored(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Values in a tensor of this dtype: rounded and saturated where it holds integers."""
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


def line(a: np.ndarray, axis: int) -> Optional[int]:
    """The innermost axis that is not the channels'."""
    axes = [index for index in range(1, a.ndim) if index != axis and a.shape[index] >= 6]
    return axes[-1] if axes else None


def offset(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    return stored(a.astype(np.float64) + (7 if a.dtype.kind in "iu" else 0.37), a.dtype)


def scale(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    return stored(a.astype(np.float64) * 1.31, a.dtype)


def shift_right(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """SHIFT quantisation taken for none: value / 2, rounded down."""
    return a >> 1 if a.dtype.kind in "iu" else a * a.dtype.type(0.5)


def single_channel(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    if a.shape[axis] < 3:
        return None
    b = np.moveaxis(a.copy(), axis, 0)
    spread = max(float(a.std()), 3.0 if a.dtype.kind in "iu" else 0.0)
    b[1] = stored(b[1] + rng.normal(size=b[1].shape) * spread, a.dtype)
    return np.ascontiguousarray(np.moveaxis(b, 0, axis))


def channel_swap(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    count = a.shape[axis]
    if count < 3 or a.size // count < 8:
        return None
    return np.ascontiguousarray(a.take([2, 1, 0, *range(3, count)], axis=axis))


def transposed(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """NCHW bytes taken for NHWC ones, or the reverse."""
    if a.ndim != 4 or min(a.shape[1:]) < 2:
        return None
    return np.ascontiguousarray(a.transpose((0, 2, 3, 1) if axis == 1 else (0, 3, 1, 2))).reshape(a.shape)


def row_stride(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """A dump whose rows are aligned, read as if they were not."""
    if line(a, axis) is None:
        return None
    row = a.shape[-1] if axis != a.ndim - 1 else a.shape[-1] * a.shape[-2]
    aligned = (row + 16) // 16 * 16
    rows = [np.pad(sample.reshape(-1, row), ((0, 0), (0, aligned - row))).reshape(-1)[: sample.size] for sample in a]
    return np.stack(rows).reshape(a.shape)


def padding(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """The last two columns hold what lay in the padding."""
    where = line(a, axis)
    if where is None:
        return None
    b = np.moveaxis(a.copy(), where, -1)
    b[..., -2:] = 0
    return np.ascontiguousarray(np.moveaxis(b, -1, where))


def shifted(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    where = line(a, axis)
    return None if where is None else np.roll(a, 2, axis=where)


def header(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """A header of five elements read as data."""
    if a[0].size < 100:
        return None
    return np.stack([np.concatenate([np.zeros(5, a.dtype), sample.reshape(-1)[:-5]]) for sample in a]).reshape(a.shape)


def rounding(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    if a.dtype.kind in "iu":
        return stored(a.astype(np.float64) + rng.integers(-1, 2, a.shape), a.dtype)
    return a.astype(np.float16).astype(a.dtype)


def clamped(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    low, high = (stored(np.quantile(a, share), a.dtype) for share in (0.05, 0.92))
    return np.clip(a, low, high)


def all_zero(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    return np.zeros_like(a)


def stale(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    """Each sample holds the answer of the one before."""
    return np.roll(a, 1, axis=0) if len(a) > 1 else None


def byte_order(a: np.ndarray, axis: int, rng: np.random.Generator) -> Optional[np.ndarray]:
    return a.byteswap() if a.dtype.itemsize > 1 else None


FAULTS: Dict[str, Fault] = {
    "offset": offset,
    "scale": scale,
    "single_channel": single_channel,
    "channel_swap": channel_swap,
    "transposed": transposed,
    "row_stride": row_stride,
    "padding": padding,
    "shifted": shifted,
    "rounding": rounding,
    "clamped": clamped,
    "all_zero": all_zero,
    "stale": stale,
    "byte_order": byte_order,
}

PAIRS = [
    *(
        (first, second)
        for first in ("channel_swap", "shifted", "stale", "transposed")
        for second in ("offset", "scale", "clamped", "rounding")
    ),
    ("offset", "byte_order"),
    *((first, "single_channel") for first in ("offset", "scale", "shifted", "channel_swap")),
    *((first, "padding") for first in ("offset", "scale", "channel_swap", "single_channel")),
    ("row_stride", "offset"),
    ("row_stride", "scale"),
    ("offset", "clamped"),
    ("scale", "clamped"),
    ("scale", "offset"),
    ("shifted", "channel_swap"),
    ("padding", "rounding"),
]
"""Two mistakes at once that are told apart, in the order in which they happen."""
