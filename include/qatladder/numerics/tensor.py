"""What are the bytes of one tensor: its elements, its padding, and what its integers mean?

A `TensorContract` holds what a tool states of a tensor (`hrt_model_exec model_info`, `hbdk-disas --json`, an ONNX file, a zoo entry).
What a tool does not state is None or empty, and never guessed. Contracts of two rungs are held against each other with `drift`.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, fields
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError

ROUNDINGS = ("half_up", "half_even", "half_away")


@dataclass(frozen=True)
class TensorContract:
    """One input or output of a compiled model; shapes and strides have one item per axis, outermost first.

    Attributes:
        name: tensor (feature) name.
        dtype: numpy name of one element; empty when not stated.
        valid_shape: logical shape.
        aligned_shape: shape with padding; empty when not stated.
        stride: bytes from one element to the next along each axis; empty when not stated.
        byte_size: bytes the padded tensor occupies; 0 when not stated.
        source: pyramid, resizer or ddr of an input; empty for an output, or when not stated.
        layout: NHWC or NCHW; empty when not stated.
        scale: one scale, or one per index of `axis`: value = integer * scale; empty when the tensor has none.
        shift: value = integer / 2**shift, one for all or one per channel; empty when the tensor has none.
        zero_point: subtracted from the integer before `scale`; empty for none.
        axis: axis of a per-channel scale or shift in `valid_shape`; None for per-tensor.
    """

    name: str
    dtype: str
    valid_shape: Tuple[int, ...]
    aligned_shape: Tuple[int, ...] = ()
    stride: Tuple[int, ...] = ()
    byte_size: int = 0
    source: str = ""
    layout: str = ""
    scale: Tuple[float, ...] = ()
    shift: Tuple[int, ...] = ()
    zero_point: Tuple[int, ...] = ()
    axis: Optional[int] = None

    @property
    def valid_count(self) -> int:
        """Elements without padding."""
        return int(np.prod(self.valid_shape, dtype=np.int64))

    @property
    def strides(self) -> Tuple[int, ...]:
        """Stated strides, else those of a dense tensor of the stated aligned shape, else of the valid shape (no padding is stated)."""
        if self.stride:
            return self.stride
        steps = [np.dtype(self.dtype).itemsize]
        for size in reversed((self.aligned_shape or self.valid_shape)[1:]):
            steps.append(steps[-1] * size)
        return tuple(reversed(steps))

    @property
    def padded_bytes(self) -> int:
        """Bytes of the padded tensor: as stated, else of the dense aligned shape."""
        if self.byte_size:
            return self.byte_size
        shape = self.aligned_shape or self.valid_shape
        if self.stride and not self.aligned_shape:
            return self.stride[0] * self.valid_shape[0] if self.stride else 0
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def unpad(self, buffer: bytes) -> np.ndarray:
        """The valid elements of padded bytes; see `unpad`."""
        return unpad(buffer, self.dtype, self.valid_shape, self.strides, self.padded_bytes, self.name)

    def pad(self, array: np.ndarray) -> bytes:
        """A valid array as padded bytes; see `pad`."""
        return pad(array, self.strides, self.padded_bytes, self.name)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """The float32 values the integers stand for, by the contract's scale or shift; float32 of the integers when it has neither."""
        values = integers
        if any(self.zero_point):
            values = integers.astype(np.int64) - _along(np.asarray(self.zero_point, np.int64), integers.ndim, self.axis)
        if self.scale:
            return dequantize(values, self.scale, -1 if self.axis is None else self.axis)
        if any(self.shift):
            shifted: np.ndarray = values.astype(np.float32) / np.exp2(_along(np.asarray(self.shift, np.float32), integers.ndim, self.axis))
            return shifted
        return values.astype(np.float32)


def _along(values: np.ndarray, ndim: int, axis: Optional[int]) -> np.ndarray:
    """One value, or one per index of `axis`, shaped to broadcast against an array of `ndim` axes."""
    flat = values.reshape(-1)
    if flat.size == 1:
        return flat.reshape(())
    shape = [1] * ndim
    shape[-1 if axis is None else axis] = flat.size
    return flat.reshape(shape)


def drift(expected: TensorContract, found: TensorContract, ignore: Sequence[str] = ()) -> Dict[str, Tuple[Any, Any]]:
    """Fields both contracts state and state differently.

    Shapes that differ only by axes of size 1 are equal; a scale is equal within the 6 digits a board prints.

    Args:
        ignore: fields not compared (`name` where the compiler renames).
    Returns:
        {field: (expected, found)}, empty when nothing contradicts.
    """
    differences: Dict[str, Tuple[Any, Any]] = {}
    for field in fields(expected):
        ours, theirs = getattr(expected, field.name), getattr(found, field.name)
        if field.name in ignore or ours in (None, "", (), 0) or theirs in (None, "", (), 0):
            continue
        if field.name.endswith("shape"):
            same = [size for size in ours if size != 1] == [size for size in theirs if size != 1]
        elif field.name == "scale":
            same = len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=1e-5, atol=0))
        else:
            same = ours == theirs
        if not same:
            differences[field.name] = (ours, theirs)
    return differences


def _extent(shape: Sequence[int], stride: Sequence[int], itemsize: int) -> int:
    """Bytes from the first to behind the last valid element."""
    return sum((size - 1) * step for size, step in zip(shape, stride)) + itemsize


def valid_view(buffer: Any, dtype: str, shape: Sequence[int], stride: Sequence[int], byte_size: int, what: str = "") -> np.ndarray:
    """The valid elements of a padded tensor as a view of its bytes: nothing is copied.

    Args:
        buffer: bytes, mmap or uint8 array: the dump, padding included.
        dtype: numpy name of the little-endian elements.
        shape: valid shape.
        stride: bytes between neighbours along each axis, as the tool states it.
        byte_size: bytes the tool says the padded tensor occupies.
        what: named in errors.
    Raises:
        ArtifactError: the buffer is not exactly as large as stated, or the strides reach beyond it.
    """
    item = np.dtype(dtype).newbyteorder("<")
    size = len(memoryview(buffer).cast("B")) if not isinstance(buffer, np.ndarray) else buffer.nbytes
    if size != byte_size:
        raise ArtifactError(
            "the padded tensor has the wrong size",
            tensor=what,
            expected="{} bytes".format(byte_size),
            found="{} bytes".format(size),
            next_step="the dump is truncated, or of another model; run it again",
        )
    if len(shape) != len(stride) or min(stride, default=0) < 0 or _extent(shape, stride, item.itemsize) > byte_size:
        raise ArtifactError(
            "the stated strides reach beyond the tensor", tensor=what, shape=list(shape), stride=list(stride), byte_size=byte_size
        )
    return np.ndarray(tuple(shape), dtype=item, buffer=buffer, strides=tuple(stride))


def unpad(buffer: bytes, dtype: str, shape: Sequence[int], stride: Sequence[int], byte_size: int, what: str = "") -> np.ndarray:
    """The valid elements of a padded tensor as a contiguous array of native byte order; arguments and errors as `valid_view`."""
    return np.ascontiguousarray(valid_view(buffer, dtype, shape, stride, byte_size, what).astype(np.dtype(dtype)))


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


def round_to(values: np.ndarray, rounding: str) -> np.ndarray:
    """Floats to whole numbers of the same dtype by a named rule; see `quantize`.

    Raises:
        ConfigError: no such rule.
    """
    half = values.dtype.type(0.5)
    if rounding == "half_even":
        rounded = np.rint(values)
    elif rounding == "half_up":
        rounded = np.floor(values + half)
    elif rounding == "half_away":
        rounded = np.copysign(np.floor(np.abs(values) + half), values)
    else:
        raise ConfigError("no such rounding", expected=" | ".join(ROUNDINGS), found=rounding)
    whole: np.ndarray = rounded
    return whole


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
    rounded = round_to(values.astype(np.float32) / _along(np.asarray(scale, np.float32), values.ndim, axis), rounding)
    high = 2 ** (bits - 1) - 1
    integers: np.ndarray = np.clip(rounded, -high - 1, high).astype({8: np.int8, 16: np.int16}[bits])
    return integers


def dequantize(integers: np.ndarray, scale: Sequence[float], axis: int = -1) -> np.ndarray:
    """float32(integers) * scale, the scale along `axis` when there is one per channel."""
    if not len(scale):
        return integers.astype(np.float32)
    values: np.ndarray = integers.astype(np.float32) * _along(np.asarray(scale, np.float32), integers.ndim, axis)
    return values


class MappedPages:
    """Gives the pages of a memory-mapped file back once they were read, so that a 10 GB file needs no 10 GB of memory.

    Does nothing for an array that is not a read-only view of a mapped file.
    """

    def __init__(self, array: np.ndarray) -> None:
        base: Any = array
        private = False
        while isinstance(base, np.ndarray):
            private = private or getattr(base, "mode", "r") != "r"  # a numpy.memmap that may hold changes
            base = base.base
        if isinstance(base, memoryview):
            base = base.obj
        usable = isinstance(base, mmap.mmap) and not array.flags.writeable and not private and hasattr(base, "madvise")
        self._map = base if usable else None
        self._read = 0

    def read(self, size: int) -> None:
        """Some bytes were read and are not needed again soon; every 32 MB all pages are given back."""
        self._read += size
        if self._map is not None and self._read >= 1 << 25:
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)
