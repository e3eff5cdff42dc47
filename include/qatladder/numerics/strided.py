"""Padded tensors: from valid to aligned and back, by the strides a tool states, never by a guessed rule."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from qatladder.errors import ArtifactError


def _extent(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> int:
    """Bytes from the first to behind the last valid element."""
    return sum((size - 1) * step for size, step in zip(shape, stride)) + itemsize


def unpad(buffer: bytes, dtype: str, shape: Sequence[int], stride: Sequence[int], byte_size: int, what: str = "") -> np.ndarray:
    """The valid elements of a padded tensor.

    Args:
        buffer: the dump, padding included.
        dtype: numpy name of the little-endian elements.
        shape: valid shape.
        stride: bytes between neighbours along each axis, as the tool states it.
        byte_size: bytes the tool says the padded tensor occupies.
        what: named in errors.
    Returns:
        A contiguous array of the valid shape.
    Raises:
        ArtifactError: the buffer is not exactly as large as stated, or the strides reach beyond it.
    """
    item = np.dtype(dtype).newbyteorder("<")
    if len(buffer) != byte_size:
        raise ArtifactError(
            "the padded tensor has the wrong size",
            tensor=what,
            expected="{} bytes".format(byte_size),
            found="{} bytes".format(len(buffer)),
            next_step="the dump is truncated, or of another model; run it again",
        )
    if len(shape) != len(stride) or _extent(shape, stride, item.itemsize) > byte_size:
        raise ArtifactError(
            "the stated strides reach beyond the tensor", tensor=what, shape=list(shape), stride=list(stride), byte_size=byte_size
        )
    view = np.ndarray(tuple(shape), dtype=item, buffer=buffer, strides=tuple(stride))
    return np.ascontiguousarray(view.astype(np.dtype(dtype)))


def pad(array: np.ndarray, stride: Sequence[int], byte_size: int, what: str = "") -> bytes:
    """A valid tensor as padded bytes, zeros between; the inverse of `unpad`."""
    if array.ndim != len(stride) or _extent(array.shape, stride, array.itemsize) > byte_size:
        raise ArtifactError(
            "the tensor does not fit the stated strides", tensor=what, shape=list(array.shape), stride=list(stride), byte_size=byte_size
        )
    buffer = bytearray(byte_size)
    view = np.ndarray(array.shape, dtype=array.dtype.newbyteorder("<"), buffer=buffer, strides=tuple(stride))
    view[...] = array
    return bytes(buffer)
