"""Two tensors that should be equal: are they, and how far apart are they?

The bits decide first: a block whose bits are equal is done. Of the others, one pass over cache-sized blocks collects sufficient
statistics in a `Differences` state. States of chunks, workers and nights merge exactly:

* sums are integers. 8-bit tensors are counted in a table of value pairs; all others are summed block by block in float64, and the
  block sums are added without rounding. So the order of chunks does not matter, and neither does where they were cut, as long as
  cuts fall on multiples of `BLOCK` (for integers up to 16 bits: anywhere).
* counts and maxima have no rounding at all.

numpy does the work; where numba is installed and the tensors are large, its kernels do, with the same results to the last bit.
"""

from __future__ import annotations

import ctypes
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, InternalError
from qatladder.numerics import accelerated
from qatladder.numerics.tensor import MappedPages

BLOCK = 1 << 16
"""Elements of a block: its float64 copies fit the second-level cache."""

SPAN = 32 * BLOCK
"""Elements one thread takes at a time."""

LANES = 64
BOUNDS = (1, 2, 3, 4, 8, 16, 32, 64, 128)
"""Lower bounds of the histogram's bins, in LSB."""

EXACT_BELOW_BITS = int(np.array([2.0**22]).view(np.int64)[0])
"""Integers of a block below 2**22 are summed in integers: the squared differences of 65536 of them fit 64 bits."""

_BOUNDS = np.array(BOUNDS, np.float64)

PROFILE_LIMIT = 1 << 16
"""Axes longer than this have no profile."""

_SCALE = 1074
"""2**-1074 is the smallest float64: an integer number of it holds every float64 exactly."""

_SUMS = ("error", "absolute", "square", "dot", "expected", "found")
"""Sums of: found - expected, its size, its square, expected * found, expected squared, found squared."""

_LIBC = ctypes.CDLL(None)
_LIBC.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


@dataclass(frozen=True)
class AxisProfile:
    """Where along one axis a difference lies: one item per index.

    Attributes:
        mismatches: elements whose bits differ.
        max_abs: largest absolute difference.
    """

    mismatches: Tuple[int, ...]
    max_abs: Tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """How two tensors of one shape differ. True when they are identical, bit for bit.

    Differences are found - expected, in the tensors' own unit, float64.

    Attributes:
        count: elements compared.
        mismatches: elements whose bits differ.
        max_abs, mean_abs: of the absolute difference.
        max_rel: largest absolute difference in units of the expected element, where that is not 0.
        bias: mean of the signed difference.
        mse: mean squared difference.
        cosine: cosine similarity; 1.0 when both are all zero.
        snr_db: 10 log10(sum expected^2 / sum difference^2); None without a difference or without a signal.
        peak, peak_found: largest absolute value of the expected and of the found tensor.
        zero_share, zero_share_found: share of elements that are 0.
        saturation_share, saturation_share_found: share of elements at the limits of an integer type; None for floats.
        max_ulp: largest difference in representable numbers between the two floats; None for integers.
        histogram: of integers: (lower bound in LSB, elements) per bin, the identical ones first; empty for floats.
        first: index of the first differing element, in C order.
        expected_first, found_first: its two values.
        profile: by axis, of axes up to 65536 long; empty when the tensors are identical.
    """

    count: int
    mismatches: int
    max_abs: float
    mean_abs: float
    max_rel: float
    bias: float
    mse: float
    cosine: float
    snr_db: Optional[float]
    peak: float
    peak_found: float
    zero_share: float
    zero_share_found: float
    saturation_share: Optional[float]
    saturation_share_found: Optional[float]
    max_ulp: Optional[int]
    histogram: Tuple[Tuple[int, int], ...]
    first: Optional[Tuple[int, ...]] = None
    expected_first: Optional[float] = None
    found_first: Optional[float] = None
    profile: Dict[int, AxisProfile] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.mismatches == 0

    @property
    def mismatch_rate(self) -> float:
        return self.mismatches / self.count

    @property
    def mean_lsb(self) -> float:
        """Mean difference in steps of an int8 tensor with the expected tensor's range (peak / 127)."""
        return self.mean_abs / (self.peak / 127.0) if self.peak else float(self.mean_abs > 0)

    def to_json(self, profile: bool = False) -> Dict[str, Any]:
        """Everything that JSON can hold; the profile only when asked for, as it has one item per index of every axis."""
        data = asdict(self)
        data.update(mismatch_rate=self.mismatch_rate, mean_lsb=self.mean_lsb)
        if not profile:
            del data["profile"]
        return data


def identical(expected: np.ndarray, found: np.ndarray) -> bool:
    """Whether two tensors are equal bit for bit (so -0.0 differs from 0.0), at the speed of memory.

    Padding is masked by giving views of the valid elements (`tensor.valid_view`).
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not _plain(expected, found):
        return first_difference(expected, found) is None
    size, step = expected.nbytes, 1 << 22
    left, right = expected.ctypes.data, found.ctypes.data
    pages = (MappedPages(expected), MappedPages(found))

    starts = range(0, size, step)

    def same(first: int, stride: int) -> bool:
        for start in starts[first::stride]:
            if _LIBC.memcmp(left + start, right + start, min(step, size - start)):
                return False
            for page in pages:
                page.read(step)
        return True

    return all(_in_threads(same, len(starts)))


def first_difference(expected: np.ndarray, found: np.ndarray) -> Optional[Tuple[int, ...]]:
    """Index of the first element, in C order, whose bits differ; None when the tensors are identical. Equal shape and dtype."""
    pages = (MappedPages(expected), MappedPages(found))
    for start, a, b in _blocks(expected, found):
        wrong = _bits(a) != _bits(b)
        for page in pages:
            page.read(a.nbytes)
        if wrong.any():
            place = np.unravel_index(start + int(np.argmax(wrong)), expected.shape)
            return tuple(int(index) for index in place)
    return None


def compare(
    expected: np.ndarray, found: np.ndarray, what: str = "", limits: Optional[Tuple[float, float]] = None, profile: bool = True
) -> Comparison:
    """Compare element by element, in one pass and bounded memory.

    Args:
        expected, found: integers, bools or floats of equal shape and dtype, memory-mapped or strided ones too; floats must be finite.
        what: named in errors.
        limits: lowest and highest value an integer tensor can hold; default: its dtype's.
        profile: also tell where along each axis the differences lie.
    Raises:
        ArtifactError: shapes or dtypes differ, nothing to compare, or a float is NaN or infinite.
    """
    if expected.shape != found.shape or expected.dtype.newbyteorder("=") != found.dtype.newbyteorder("="):
        raise ArtifactError(
            "the tensors cannot be compared: shape or dtype differs",
            tensor=what,
            expected="{} {}".format(expected.dtype, list(expected.shape)),
            found="{} {}".format(found.dtype, list(found.shape)),
        )
    if expected.size == 0:
        raise ArtifactError("there is nothing to compare: the tensors are empty", tensor=what, shape=list(expected.shape))
    shape = expected.shape if profile else ()
    if not _plain(expected, found):
        state = Differences(expected.dtype, shape, limits, what, expected.nbytes)
        pages = (MappedPages(expected), MappedPages(found))
        for start, a, b in _blocks(expected, found):
            state.update(a, b, start)
            for page in pages:
                page.read(a.nbytes)
        return state.result(expected.shape)
    a, b = expected.reshape(-1), found.reshape(-1)
    pages = (MappedPages(a), MappedPages(b))
    starts = range(0, a.size, SPAN)

    def work(first: int, step: int) -> Differences:
        state = Differences(expected.dtype, shape, limits, what, expected.nbytes)
        for start in starts[first::step]:
            state.update(a[start : start + SPAN], b[start : start + SPAN], start)
            for page in pages:
                page.read(SPAN * a.itemsize)
        return state

    states: List[Differences] = _in_threads(work, len(starts))
    whole = states[0]
    for other in states[1:]:
        whole.merge(other)
    return whole.result(expected.shape)


class Differences:
    """The sufficient statistics of a comparison: update with chunks, merge with others, then ask for the result.

    Args:
        dtype: of both tensors.
        shape: of the whole tensor, for the profile; empty for none.
        limits: see `compare`.
        what: named in errors.
        nbytes: size of the whole tensor: decides whether the kernels are worth loading.
    """

    def __init__(
        self,
        dtype: Any,
        shape: Sequence[int] = (),
        limits: Optional[Tuple[float, float]] = None,
        what: str = "",
        nbytes: int = 0,
    ) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("=")
        if self.dtype.kind not in "biuf" or self.dtype.itemsize > 8:
            raise ArtifactError(
                "tensors of this dtype cannot be compared", tensor=what, expected="bool, integer or float", found=self.dtype
            )
        self.what = what
        if limits is None and self.dtype.kind in "iu":
            limits = (float(np.iinfo(self.dtype).min), float(np.iinfo(self.dtype).max))
        self.limits = limits
        self.count = self.mismatches = 0
        self.first: Optional[Tuple[int, float, float]] = None
        self.places = _Places(tuple(shape), self.dtype.itemsize > 1) if len(shape) else None
        self._kernels: Any = accelerated.load("compare", nbytes) or _Numpy
        self._scratch: Dict[str, np.ndarray] = {}
        self.pairs: Any = np.zeros((4, 256, 256), np.int64) if self.dtype.itemsize == 1 else None  # four tables, to be added
        self.sums = [0] * len(_SUMS)
        self.tops = np.zeros(4, np.int64)  # bits of: largest difference, expected, found, relative difference
        self.max_ulp = 0
        self.reached = np.zeros(len(BOUNDS), np.int64)
        self.shares = np.zeros(4, np.int64)  # zeros of expected and found, then elements at the limits

    def update(self, expected: np.ndarray, found: np.ndarray, start: int = 0) -> None:
        """Add a chunk.

        Args:
            expected, found: 1-D, contiguous, of the state's dtype; any length.
            start: index of their first element in the flattened tensor; for exact float sums a multiple of `BLOCK`.
        Raises:
            ArtifactError: a float is NaN or infinite.
        """
        expected, found = np.ascontiguousarray(expected, self.dtype), np.ascontiguousarray(found, self.dtype)
        if expected.shape != found.shape or expected.ndim != 1:
            raise InternalError("a chunk has two lengths: {} and {}".format(expected.shape, found.shape))
        for offset in range(0, expected.size, SPAN):
            self._span(expected[offset : offset + SPAN], found[offset : offset + SPAN], start + offset)

    def merge(self, other: "Differences") -> "Differences":
        """This state with another one's chunks added; exact."""
        if (self.dtype, self.limits) != (other.dtype, other.limits):
            raise InternalError("states of {} and {} do not merge".format(self.dtype, other.dtype))
        self.count += other.count
        self.mismatches += other.mismatches
        self.first = min((item for item in (self.first, other.first) if item is not None), key=lambda item: item[0], default=None)
        if self.places is not None and other.places is not None and self.places.shape == other.places.shape:
            self.places.merge(other.places)
        else:
            self.places = None
        if self.pairs is not None:
            self.pairs += other.pairs
        self.sums = [ours + theirs for ours, theirs in zip(self.sums, other.sums)]
        self.tops = np.maximum(self.tops, other.tops)
        self.max_ulp = max(self.max_ulp, other.max_ulp)
        self.reached += other.reached
        self.shares += other.shares
        return self

    def result(self, shape: Sequence[int] = ()) -> Comparison:
        """The comparison of everything added so far.

        Args:
            shape: of the whole tensor, to name the first mismatch by its index.
        """
        if not self.count:
            raise ArtifactError("there is nothing to compare: no chunk was added", tensor=self.what)
        if self.pairs is not None:
            self._from_pairs(self.pairs.sum(axis=0))
        total = {name: _exact(value) for name, value in zip(_SUMS, self.sums)}
        norm = math.sqrt(total["expected"]) * math.sqrt(total["found"])
        if norm:
            cosine = 1.0 if self.sums[3] == self.sums[4] == self.sums[5] else max(-1.0, min(1.0, total["dot"] / norm))
        else:
            cosine = float(self.sums[4] == self.sums[5])
        signal = total["square"] > 0 and total["expected"] > 0
        bins: Tuple[Tuple[int, int], ...] = ()
        if self.dtype.kind != "f":
            reached = [self.count, *(int(value) for value in self.reached), 0]
            bins = tuple((low, above - beyond) for low, above, beyond in zip((0, *BOUNDS), reached, reached[1:]))
        peaks = self.tops.view(np.float64).tolist()
        zero, zero_found, full, full_found = (int(value) / self.count for value in self.shares)
        first: Dict[str, Any] = {}
        if self.first is not None:
            place = np.unravel_index(self.first[0], tuple(shape)) if len(shape) else (self.first[0],)
            first = {"first": tuple(int(index) for index in place), "expected_first": self.first[1], "found_first": self.first[2]}
        return Comparison(
            count=self.count,
            mismatches=self.mismatches,
            max_abs=peaks[0],
            mean_abs=total["absolute"] / self.count,
            max_rel=peaks[3],
            bias=total["error"] / self.count,
            mse=total["square"] / self.count,
            cosine=cosine,
            snr_db=10 * math.log10(total["expected"] / total["square"]) if signal else None,
            peak=peaks[1],
            peak_found=peaks[2],
            zero_share=zero,
            zero_share_found=zero_found,
            saturation_share=full if self.limits else None,
            saturation_share_found=full_found if self.limits else None,
            max_ulp=self.max_ulp if self.dtype.kind == "f" else None,
            histogram=bins,
            profile=self.places.profile() if self.places is not None and self.mismatches else {},
            **first,
        )

    def to_json(self) -> Dict[str, Any]:
        """The state as JSON, to merge in another process or another night."""
        data: Dict[str, Any] = {
            "dtype": self.dtype.name,
            "limits": self.limits,
            "count": self.count,
            "mismatches": self.mismatches,
            "first": self.first,
            "places": self.places.to_json() if self.places is not None else None,
            "sums": [hex(value) for value in self.sums],
            "tops": self.tops.tolist(),
            "max_ulp": self.max_ulp,
            "reached": self.reached.tolist(),
            "shares": self.shares.tolist(),
        }
        if self.pairs is not None:
            table = self.pairs.sum(axis=0).reshape(-1)
            where = np.flatnonzero(table)
            data["pairs"] = [where.tolist(), table[where].tolist()]
        return data

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "Differences":
        state = cls(data["dtype"], limits=tuple(data["limits"]) if data["limits"] else None)
        state.count, state.mismatches, state.max_ulp = data["count"], data["mismatches"], data["max_ulp"]
        state.first = tuple(data["first"]) if data["first"] else None
        state.places = _Places.from_json(data["places"]) if data["places"] else None
        state.sums = [int(value, 16) for value in data["sums"]]
        state.tops, state.reached, state.shares = (np.array(data[key], np.int64) for key in ("tops", "reached", "shares"))
        if state.pairs is not None:
            where, counts = data["pairs"]
            state.pairs[0].reshape(-1)[where] = counts
        return state

    # --- inside ---

    def _span(self, a: np.ndarray, b: np.ndarray, start: int) -> None:
        """Add up to SPAN elements from flat index `start` on."""
        counts = np.zeros(7, np.int64)  # mismatches, index of the first, zeros of both, elements at the limits of both, ULP
        width = self.places.width if self.places is not None else 0
        columns, rows = np.zeros(width, np.int32), np.zeros((start % width + a.size - 1) // width + 1 if width else 0, np.int64)
        wrong = self._buffer("wrong", np.uint8)
        if self.pairs is not None:
            key = self._buffer("key", np.int16)
            peaks = np.zeros(columns.size, key.dtype), np.zeros(rows.size, np.int64)
            left, right = a.view(np.uint8), b.view(np.uint8)
            signed = self.dtype.kind == "i"
            self._kernels.span_pairs(left, right, signed, self.pairs, wrong, key, counts, BLOCK, start, columns, peaks[0], rows, peaks[1])
        else:
            peaks = np.zeros(columns.size, np.int64), np.zeros(rows.size, np.int64)
            floats = self.dtype.kind == "f"
            bits = np.dtype("i{}".format(self.dtype.itemsize)) if floats else self.dtype
            lowest = int(np.iinfo(bits).min) if floats else 0
            whole = 0 if floats or self.dtype.itemsize > 4 else EXACT_BELOW_BITS
            low, high = self.limits or (0.0, 0.0)
            lanes, sums = np.zeros((-(-a.size // BLOCK), len(_SUMS) * LANES)), np.zeros(len(_SUMS), np.int64)
            x, y, size = (self._buffer(name, np.float64) for name in ("expected", "found", "size"))
            p, q = (a.astype(np.float32), b.astype(np.float32)) if floats and self.dtype.itemsize == 2 else (a, b)
            with np.errstate(all="ignore"):
                self._kernels.span(
                    p, q, a.view(bits), b.view(bits), lowest, whole, low, high, _BOUNDS, x, y, size, wrong, lanes, sums, self.tops, counts,
                    self.reached, start, columns, peaks[0], rows, peaks[1],
                )  # fmt: skip
            self._add(lanes, sums, a, b, start)
            self.shares += counts[2:6]
            self.max_ulp = max(self.max_ulp, int(counts[6]))
        self.count += a.size
        if counts[0]:
            self.mismatches += int(counts[0])
            index = int(counts[1])
            if self.first is None or start + index < self.first[0]:
                self.first = (start + index, float(a[index]), float(b[index]))
            if self.places is not None:
                self.places.add(columns, peaks[0], rows, peaks[1], start)

    def _buffer(self, name: str, dtype: Any) -> np.ndarray:
        """Scratch memory for a block, kept from span to span."""
        if name not in self._scratch:
            self._scratch[name] = np.empty(BLOCK, dtype)
        return self._scratch[name]

    def _add(self, lanes: np.ndarray, sums: np.ndarray, a: np.ndarray, b: np.ndarray, start: int) -> None:
        """Fold the lanes of each block in halves, then add the blocks without rounding. lanes: [blocks, 6 * LANES] float64."""
        lanes = lanes.reshape(len(lanes), len(_SUMS), LANES)
        if not np.isfinite(lanes[:, 4:]).all():
            self._refuse(a, b, start)
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
        for index in range(len(_SUMS)):
            self.sums[index] += (int(sums[index]) << _SCALE) + sum(_integer(value) for value in lanes[:, index, 0].tolist())

    def _refuse(self, a: np.ndarray, b: np.ndarray, start: int) -> None:
        for side, values in (("expected", a), ("found", b)):
            wrong = ~np.isfinite(values)
            if wrong.any():
                raise ArtifactError(
                    "the tensor holds NaN or infinity",
                    tensor=self.what,
                    side=side,
                    found="{} of the {} elements from flat index {} on, the first at {}".format(
                        int(wrong.sum()), wrong.size, start, start + int(np.argmax(wrong))
                    ),
                    next_step="look at the operator that produced it",
                )
        raise ArtifactError("the tensor's values are too large to be squared", tensor=self.what, expected="below 1e154")

    def _from_pairs(self, pairs: np.ndarray) -> None:
        """Every statistic of an 8-bit tensor follows from how often each pair of values occurs."""
        left, right = np.nonzero(pairs)
        counts = pairs[left, right]
        kind = np.int8 if self.dtype.kind == "i" else np.uint8
        x, y = (side.astype(np.uint8).view(kind).astype(np.int64) for side in (left, right))
        error = y - x
        size = np.abs(error)
        self.sums = [int((values * counts).sum()) << _SCALE for values in (error, size, error * error, x * y, x * x, y * y)]
        quotients = size / np.where(x != 0, np.abs(x), np.inf)
        tops = [float(values.max()) for values in (size, np.abs(x), np.abs(y), quotients)]
        self.tops = np.array(tops, np.float64).view(np.int64)
        self.reached = np.array([counts[size >= bound].sum() for bound in BOUNDS], np.int64)
        low, high = self.limits or (-math.inf, math.inf)
        zeros = [counts[side == 0].sum() for side in (x, y)]
        full = [counts[(side <= low) | (side >= high)].sum() for side in (x, y)]
        self.shares = np.array(zeros + full, np.int64)


class _Places:
    """Mismatches and largest differences along each axis of a tensor.

    The innermost axes are joined until they hold at least `LANES` elements: those are counted per column, the axes outside per row.
    Differences are kept as integers: those of 8-bit tensors as they are, others as the bits of their float64, which order
    as the numbers do (`floats`).
    """

    def __init__(self, shape: Tuple[int, ...], floats: bool) -> None:
        self.shape = shape
        self.floats = floats
        inner = len(shape)
        self.width = 1
        while inner > 0 and self.width < LANES and self.width * shape[inner - 1] <= PROFILE_LIMIT:
            inner -= 1
            self.width *= shape[inner]
        self.inner = inner
        self.columns = np.zeros((2, self.width), np.int64)
        self.outer = [np.zeros((2, size), np.int64) if size <= PROFILE_LIMIT else None for size in shape[:inner]]

    def add(self, columns: np.ndarray, column_peaks: np.ndarray, rows: np.ndarray, row_peaks: np.ndarray, start: int) -> None:
        """Add the counts and peaks of a span from flat index `start` on: per column, and per row it touches."""
        self.columns[0] += columns
        np.maximum(self.columns[1], column_peaks, out=self.columns[1])
        row = start // self.width
        indices = np.arange(row, row + rows.size)
        for axis in range(self.inner - 1, -1, -1):
            place = self.outer[axis]
            indices, within = np.divmod(indices, self.shape[axis])
            if place is not None:
                np.add.at(place[0], within, rows)
                np.maximum.at(place[1], within, row_peaks)

    def merge(self, other: "_Places") -> None:
        for ours, theirs in zip([self.columns, *self.outer], [other.columns, *other.outer]):
            if ours is not None and theirs is not None:
                ours[0] += theirs[0]
                np.maximum(ours[1], theirs[1], out=ours[1])

    def profile(self) -> Dict[int, AxisProfile]:
        found = {axis: place for axis, place in enumerate(self.outer) if place is not None}
        columns = self.columns.reshape(2, *self.shape[self.inner :])
        for axis in range(self.inner, len(self.shape)):
            others = tuple(index for index in range(columns.ndim - 1) if index != axis - self.inner)
            found[axis] = np.stack([columns[0].sum(axis=others), columns[1].max(axis=others)])
        return {
            axis: AxisProfile(tuple(place[0].tolist()), tuple(self._values(place[1]).tolist())) for axis, place in sorted(found.items())
        }

    def _values(self, keys: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(keys).view(np.float64) if self.floats else keys.astype(np.float64)

    def to_json(self) -> Dict[str, Any]:
        return {
            "floats": self.floats,
            "shape": list(self.shape),
            "columns": self.columns.tolist(),
            "outer": [None if item is None else item.tolist() for item in self.outer],
        }

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "_Places":
        places = cls(tuple(data["shape"]), data["floats"])
        places.columns = np.array(data["columns"], np.int64)
        places.outer = [None if item is None else np.array(item, np.int64) for item in data["outer"]]
        return places


class _Numpy:
    """The kernels in numpy; `accelerated.compare` holds them compiled."""

    @staticmethod
    def span(
        a: np.ndarray, b: np.ndarray, bits_a: np.ndarray, bits_b: np.ndarray, lowest: int, whole: int, low: float, high: float,
        bounds: np.ndarray, x: np.ndarray, y: np.ndarray, size: np.ndarray, wrong: np.ndarray, lanes: np.ndarray, sums: np.ndarray,
        tops: np.ndarray, counts: np.ndarray, reached: np.ndarray, start: int, columns: np.ndarray, column_peaks: np.ndarray,
        rows: np.ndarray, row_peaks: np.ndarray,
    ) -> None:  # fmt: skip
        """The statistics of a span, block by block.

        Args:
            a, b: one real dtype [n]; bits_a, bits_b: the same as integers to be compared.
            lowest: lowest integer of the bits of a float; 0 for integers.
            whole: bits of the float64 below which a block's integers are summed in integers; 0 for never.
            low, high: limits of the type; equal for none.
            x, y, size, wrong: scratch, one block long.
            lanes: float64 [blocks, 6 * LANES], zeros; sums: int64 [6]; tops, counts, reached: see `Differences`; all added to.
            start: flat index of a[0]; columns, rows: per column and row of the profile, [0] without one; peaks: bits of float64.
        """
        block = x.size
        for index in range(len(lanes)):
            first = index * block
            p, q, left, right = (array[first : first + block] for array in (a, b, bits_a, bits_b))
            u, v, s = x[: p.size], y[: p.size], size[: p.size]
            np.copyto(u, p, casting="unsafe")
            np.copyto(v, q, casting="unsafe")
            error = v - u
            np.abs(error, out=s)
            top = [int((values.view(np.int64) & np.int64(2**63 - 1)).max()) for values in (s, u, v)]
            tops[:3] = np.maximum(tops[:3], top)
            if whole and max(top[1:]) < whole:
                i, j = p.astype(np.int64), q.astype(np.int64)
                d = j - i
                sums += [int(values.sum()) for values in (d, np.abs(d), d * d, i * j, i * i, j * j)]
            else:
                rest = p.size % LANES
                for lane, values in zip(lanes[index].reshape(-1, LANES), (error, s, error * error, u * v, u * u, v * v)):
                    if p.size > rest:
                        np.add.reduce(values[: p.size - rest].reshape(-1, LANES), axis=0, out=lane)
                    lane[:rest] += values[p.size - rest :]
            for side, values in enumerate((u, v)):
                counts[2 + side] += int(np.count_nonzero(values == 0))
                if low < high:
                    counts[4 + side] += int(np.count_nonzero((values <= low) | (values >= high)))
            w = left != right
            if not w.any():
                continue
            if not counts[0]:
                counts[1] = first + int(np.argmax(w))
            counts[0] += int(np.count_nonzero(w))
            if lowest:
                counts[6] = max(int(counts[6]), _ulps(left, right, lowest))
            else:
                reached += [int(np.count_nonzero(s >= bound)) for bound in bounds]
            if columns.size:
                _profile(w, s.view(np.int64), start + first, start, columns, column_peaks, rows, row_peaks)
            tops[3] = max(int(tops[3]), int((s / np.where(u != 0, np.abs(u), np.inf)).view(np.int64).max()))

    @staticmethod
    def span_pairs(
        a: np.ndarray, b: np.ndarray, signed: bool, table: np.ndarray, wrong: np.ndarray, key: np.ndarray, counts: np.ndarray, block: int,
        start: int, columns: np.ndarray, column_peaks: np.ndarray, rows: np.ndarray, row_peaks: np.ndarray,
    ) -> None:  # fmt: skip
        """As `span` for bytes (uint8 views; signed: they are int8): table int64 [4, 256, 256] counts pairs; peaks are integers."""
        for first in range(0, a.size, block):
            p, q = a[first : first + block], b[first : first + block]
            table[0] += np.bincount(p.astype(np.uint16) << 8 | q, minlength=65536).reshape(256, 256)
            w = p != q
            if not w.any():
                continue
            if not counts[0]:
                counts[1] = first + int(np.argmax(w))
            counts[0] += int(np.count_nonzero(w))
            if columns.size:
                i, j = (side.view(np.int8 if signed else np.uint8).astype(np.int16) for side in (p, q))
                _profile(w, np.abs(j - i), start + first, start, columns, column_peaks, rows, row_peaks)


def _ulps(a: np.ndarray, b: np.ndarray, lowest: int) -> int:
    """The most representable numbers between two floats; a, b: their bits."""
    x, y = a.astype(np.int64), b.astype(np.int64)
    x, y = np.where(x < 0, lowest - x, x), np.where(y < 0, lowest - y, y)
    apart = y - x
    overflow = ((x < 0) != (y < 0)) & ((apart < 0) != (y < 0))
    return int(np.where(overflow, np.iinfo(np.int64).max, np.abs(apart)).max())


def _profile(
    wrong: np.ndarray, key: np.ndarray, at: int, start: int, columns: np.ndarray, column_peaks: np.ndarray, rows: np.ndarray, row_peaks: np.ndarray
) -> None:  # fmt: skip
    """Count a block's mismatches per column and row; at: its flat index, start: that of the span."""
    width = columns.size
    column, row = at % width, at // width - start // width
    touched = (column + wrong.size + width - 1) // width
    tables = []
    for values in (wrong, key):
        padded = np.zeros(touched * width, values.dtype)
        padded[column : column + values.size] = values
        tables.append(padded.reshape(touched, width))
    columns += tables[0].sum(axis=0, dtype=columns.dtype)
    np.maximum(column_peaks, tables[1].max(axis=0), out=column_peaks)
    rows[row : row + touched] += tables[0].sum(axis=1, dtype=rows.dtype)
    np.maximum(row_peaks[row : row + touched], tables[1].max(axis=1), out=row_peaks[row : row + touched])


def _integer(value: float) -> int:
    """A float64 as a whole number of 2**-1074."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_SCALE + 1 - denominator.bit_length())


def _exact(total: int) -> float:
    """A whole number of 2**-1074 as float64, rounded once."""
    return total / (1 << _SCALE)


def _bits(array: np.ndarray) -> np.ndarray:
    """The elements' bits as integers, so that -0.0 differs from 0.0."""
    if array.dtype.kind != "f":
        return array
    return np.ascontiguousarray(array).view("u{}".format(array.itemsize))


def _plain(expected: np.ndarray, found: np.ndarray) -> bool:
    """Both contiguous and of native byte order: memory can be read as it is."""
    return all(array.flags.c_contiguous and array.dtype.isnative for array in (expected, found))


def _blocks(expected: np.ndarray, found: np.ndarray) -> Iterator[Tuple[int, np.ndarray, np.ndarray]]:
    """(flat index, expected, found) of strided tensors in C order, one block at a time, contiguous and of native byte order."""
    if _plain(expected, found):
        flat, other = expected.reshape(-1), found.reshape(-1)
        for first in range(0, flat.size, BLOCK):
            yield first, flat[first : first + BLOCK], other[first : first + BLOCK]
        return
    native = expected.dtype.newbyteorder("=")
    # `nditer` would follow the memory order of its operands; C order is what indices mean.
    iterator: Any = np.nditer(
        [expected, found],
        ["external_loop", "buffered"],
        [["readonly"], ["readonly"]],
        [native, native],
        order="C",
        casting="equiv",
        buffersize=BLOCK,
    )
    start = 0
    for left, right in iterator:
        for first in range(0, left.size, BLOCK):  # what needs no buffer comes in one piece, of any size
            yield start + first, left[first : first + BLOCK], right[first : first + BLOCK]
        start += left.size


def _in_threads(work: Any, parts: int) -> List[Any]:
    """`work(i, n)` for each of n workers: as many as there are cores, and parts to share among them."""
    workers = max(1, min(len(os.sched_getaffinity(0)), parts))
    if workers == 1:
        return [work(0, 1)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda index: work(index, workers), range(workers)))
