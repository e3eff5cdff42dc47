"""What do the values of one output look like, sample by sample and as a whole? In one pass over arrays of any size.

`describe` reads a memory-mapped [N, ...] array once, in chunks, and gives two things: a row of numbers per sample, and the
histogram of all samples together. Counts, extremes and histograms of parts merge exactly; mean and standard deviation do up to
rounding in float64 (Chan, Golub, LeVeque 1979). What two nights' histograms have in common, `Histogram.distance` says.

The bins are those of bfloat16, towards zero: an integer up to 256 has a bin of its own, anything larger, and every float, shares one
of 1/128 of its size with its neighbours. So one fixed set of 65280 bins serves every output, and no range must be known beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics.tensor import MappedPages

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64", "bool")
"""What a board's tool or an int model emits. Above 2**53 an integer is described by the nearest float64."""

CHUNK_ELEMENTS = 1 << 18
"""Elements held at once; about 30 bytes of scratch each, so that they stay near the cache."""

BINS = 1 << 16
"""Counters of a histogram, indexed by the upper half of a float32; 256 of them belong to NaN and the infinities and stay 0."""

DENSE = 1 << 14
"""Samples with at least as many elements are counted into `BINS` counters each; sorting is faster below."""

Limits = Tuple[float, float]
Sample = Dict[str, Any]


def representable_limits(dtype: str) -> Limits:
    """Lowest and highest finite value of a dtype (numpy name)."""
    if dtype not in DTYPES:
        raise ConfigError("not the dtype of a raw output", expected=", ".join(DTYPES), found=dtype)
    if dtype == "bool":
        return -1.0, 2.0  # each of its two values is an end of its range, and neither is saturated
    limits: Any = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    return float(limits.min), float(limits.max)


class Histogram:
    """How often each value occurs, in the module's bins. Exact to merge, in any order.

    Attributes:
        counts: int64 [BINS] by bfloat16 bits.
    """

    def __init__(self, counts: Optional[np.ndarray] = None) -> None:
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts

    def merge(self, other: "Histogram") -> "Histogram":
        """This histogram with another one's values added."""
        self.counts = self.counts + other.counts
        return self

    @property
    def total(self) -> int:
        """How many values were counted: the finite ones."""
        return int(self.counts.sum())

    def entropy(self) -> Optional[float]:
        """Shannon entropy of the bins in bits: 0 for a constant, at most log2 of the number of values. None without a value."""
        return _entropy(self.counts[self.counts > 0]) if self.counts.any() else None

    def values(self) -> Tuple[np.ndarray, np.ndarray]:
        """(value nearest to zero of each bin that is not empty, in rising order, float64; its count, int64)."""
        where = np.flatnonzero(self.counts)
        values = _values_of(where)
        order = np.argsort(values, kind="stable")
        return values[order], self.counts[where][order]

    def distance(self, other: "Histogram", step: float = 0.0) -> float:
        """The least share of values that must have moved, 0 to 1, to make one histogram of the other.

        The Kolmogorov-Smirnov distance that forgives small moves: a value may lie up to max(step, |value| / 128) beside where it
        was, so 1 LSB of rounding is no difference. 0 for equal histograms; symmetric.

        Args:
            step: what counts as the same place: 1 for integers, 0 for floats.
        Raises:
            ArtifactError: a histogram is empty.
        """
        sides = [histogram.values() for histogram in (self, other)]
        if not all(len(values) for values, _ in sides):
            raise ArtifactError("there is nothing to compare: a histogram is empty")
        shares = [np.concatenate([[0.0], np.cumsum(counts) / counts.sum()]) for _, counts in sides]
        worst = 0.0
        for ours, theirs in ((0, 1), (1, 0)):
            values = sides[ours][0]
            reach = values + np.maximum(step, np.abs(values) / 128)
            beside = shares[theirs][np.searchsorted(sides[theirs][0], reach, side="right")]
            worst = max(worst, float((shares[ours][1:] - beside).max()))
        return worst

    def to_json(self) -> Dict[str, List[int]]:
        where = np.flatnonzero(self.counts)
        return {"bins": where.tolist(), "counts": self.counts[where].tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Histogram":
        """Raises ArtifactError for what `to_json` never wrote."""
        found = cls()
        try:
            bins, counts = np.asarray(data["bins"], np.int64), np.asarray(data["counts"], np.int64)
            if bins.shape != counts.shape or bins.ndim != 1 or (counts < 0).any() or (bins < 0).any():
                raise ValueError("bins and counts do not belong together")
            found.counts[bins] = counts
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise ArtifactError("not a histogram", found=error, expected="bins and counts") from error
        return found


@dataclass(frozen=True)
class Description:
    """What `describe` found.

    Attributes:
        dtype: of the array.
        limits: the lowest and highest value it can represent.
        samples: a row per sample, in order, each JSON-able; see `describe`.
        histogram: of the finite values of all samples.
    """

    dtype: str
    limits: Limits
    samples: Tuple[Sample, ...]
    histogram: Histogram


def describe(array: np.ndarray, limits: Optional[Limits] = None, what: str = "", chunk_elements: int = CHUNK_ELEMENTS) -> Description:
    """Describe every sample of one output, and all of them together.

    Args:
        array: [N, ...], any layout, one of `DTYPES`; may be memory-mapped.
        limits: the lowest and highest value the output can represent, when narrower than its dtype (an int8 output dumped as
            int32); default: the dtype's own.
        what: named in errors.
        chunk_elements: elements processed at once.
    Returns:
        Each sample's row: `sample` (index), `dtype`, `count` (elements), `finite_count`, `nan_count`,
        `min`, `max`, `mean`, `std` (population, all four over the finite values in the output's own unit; None when there are none),
        `entropy` (bits, of the module's bins over the finite values; None when there are none),
        `zero_share`, `saturation_share` (share of all elements at or beyond a limit; an infinity is beyond),
        `distinct` (False: all finite values are equal; None: the sample has a single element, so the question means nothing),
        `range_low`, `range_high` (the limits used).
    Raises:
        ArtifactError: not [N, ...] of one of the dtypes, or samples without elements.
        ConfigError: the limits are not low < high.
    """
    dtype = str(array.dtype.newbyteorder("="))
    if dtype not in DTYPES or array.ndim < 1 or 0 in array.shape[1:]:
        raise ArtifactError(
            "not a raw output array",
            output=what,
            expected="[N, ...] of {}, at least one element per sample".format(", ".join(DTYPES)),
            found="{} {}".format(list(array.shape), dtype),
            next_step="look at what dumped this output",
        )
    low, high = limits if limits is not None else representable_limits(dtype)
    if not low < high:
        raise ConfigError("the representable range is empty", output=what, found="{} .. {}".format(low, high), expected="low < high")
    whole = Histogram()
    samples: List[Sample] = []
    pages = MappedPages(array)
    for first, parts in _blocks(array, max(1, chunk_elements)):
        found: Optional[_Part] = None
        for values in parts:
            native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
            part = _Part.of(native.view(np.uint8) if dtype == "bool" else native, low, high)
            pages.read(values.nbytes)
            found = part if found is None else found.merge(part)
        assert found is not None
        whole.counts += found.counts
        samples += [found.row(index, first + index, dtype, low, high) for index in range(len(found.count))]
    return Description(dtype, (low, high), tuple(samples), whole)


@dataclass
class _Part:
    """Sufficient statistics of the same part of S samples: arrays [S], and the counts of all values.

    Attributes:
        m2: sum of squared deviations from the mean.
        counts: int64 [BINS] over all S samples.
        entropy: per sample, bits; None for merged parts, which are of one large sample: it follows from `counts`.
    """

    count: np.ndarray
    finite: np.ndarray
    nan: np.ndarray
    zero: np.ndarray
    saturated: np.ndarray
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    counts: np.ndarray
    entropy: Optional[np.ndarray] = None

    @classmethod
    def of(cls, values: np.ndarray, low: float, high: float) -> "_Part":
        """[S, E], contiguous, of native byte order."""
        if values.itemsize == 1 and values.shape[1] >= 256:
            return cls._of_bytes(values, low, high)
        size, width = values.shape
        count = np.full(size, width, np.int64)
        finite, nan, mask = count, np.zeros(size, np.int64), None
        if values.dtype.kind == "f":
            mask = np.isfinite(values)
            if mask.all():
                mask = None
            else:
                finite, nan = mask.sum(axis=1), np.isnan(values).sum(axis=1)
        if mask is None:
            minimum, maximum = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
        else:
            minimum = np.min(values, axis=1, where=mask, initial=np.inf).astype(np.float64)
            maximum = np.max(values, axis=1, where=mask, initial=-np.inf).astype(np.float64)
        wide = values.astype(np.float64)
        saturated = np.zeros(size, np.int64)
        if mask is not None or (minimum <= low).any() or (maximum >= high).any():
            saturated = np.count_nonzero((wide <= low) | (wide >= high), axis=1)
        if mask is not None:
            wide[~mask] = 0
        mean = wide.sum(axis=1) / np.maximum(finite, 1)
        wide -= mean[:, None]
        if mask is not None:
            wide[~mask] = 0
        m2 = np.einsum("ij,ij->i", wide, wide)
        entropy, counts = _binned(values)
        zero = width - np.count_nonzero(values, axis=1)
        return cls(count, finite, nan, zero, saturated, minimum, maximum, mean, m2, counts, entropy)

    @classmethod
    def _of_bytes(cls, values: np.ndarray, low: float, high: float) -> "_Part":
        """Everything about 8-bit values follows from how often each of them occurs: exact integers."""
        size, width = values.shape
        table = np.stack([np.bincount(row, minlength=256) for row in values.view(np.uint8)])
        of = np.arange(256, dtype=np.uint8).view(values.dtype).astype(np.int64)
        there = table > 0
        total, square = table @ of, table @ (of * of)
        counts = np.zeros(BINS, np.int64)
        counts[_bins_of(of)] = table.sum(axis=0)
        return cls(
            count=np.full(size, width, np.int64),
            finite=np.full(size, width, np.int64),
            nan=np.zeros(size, np.int64),
            zero=table[:, 0],
            saturated=table @ ((of <= low) | (of >= high)).astype(np.int64),
            min=np.where(there, of, 255).min(axis=1).astype(np.float64),
            max=np.where(there, of, -255).max(axis=1).astype(np.float64),
            mean=total / width,
            m2=(square * width - total * total) / width,
            counts=counts,
            entropy=np.array([_entropy(row[row > 0]) for row in table]),
        )

    def merge(self, other: "_Part") -> "_Part":
        """Two parts of one sample."""
        total = self.finite + other.finite
        share = other.finite / np.maximum(total, 1)
        delta = other.mean - self.mean
        return _Part(
            count=self.count + other.count,
            finite=total,
            nan=self.nan + other.nan,
            zero=self.zero + other.zero,
            saturated=self.saturated + other.saturated,
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
            mean=self.mean + delta * share,
            m2=self.m2 + other.m2 + delta * delta * self.finite * share,
            counts=self.counts + other.counts,
        )

    def row(self, index: int, sample: int, dtype: str, low: float, high: float) -> Sample:
        count, finite = int(self.count[index]), int(self.finite[index])
        minimum, maximum = float(self.min[index]), float(self.max[index])
        entropy = float(self.entropy[index]) if self.entropy is not None else _entropy(self.counts[self.counts > 0])
        return {
            "sample": sample,
            "dtype": dtype,
            "count": count,
            "finite_count": finite,
            "nan_count": int(self.nan[index]),
            "min": minimum if finite else None,
            "max": maximum if finite else None,
            "mean": float(self.mean[index]) if finite else None,
            "std": math.sqrt(float(self.m2[index]) / finite) if finite else None,
            "entropy": entropy if finite else None,
            "zero_share": int(self.zero[index]) / count,
            "saturation_share": int(self.saturated[index]) / count,
            "distinct": (finite > 1 and minimum < maximum) if count > 1 else None,
            "range_low": low,
            "range_high": high,
        }


def _bins_of(values: np.ndarray) -> np.ndarray:
    """The bin of every value as uint16: the upper half of its float32, which truncates towards zero; -0.0 goes with 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.ascontiguousarray(values.astype(np.float32, copy=False))
    if values.dtype == np.float64:
        beyond = np.isinf(narrow) & np.isfinite(values)
        narrow[beyond] = np.copysign(np.finfo(np.float32).max, values[beyond])
    bins = (narrow.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if values.dtype.kind == "f":
        bins[bins == 0x8000] = 0
    return bins


def _values_of(bins: np.ndarray) -> np.ndarray:
    values: np.ndarray = (bins.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return values


def _not_finite(bins: np.ndarray) -> np.ndarray:
    found: np.ndarray = (bins & 0x7F80) == 0x7F80
    return found


_NOT_FINITE = np.flatnonzero(_not_finite(np.arange(BINS)))


def _binned(values: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """[S, E] to the entropy of each row in bits, float64 [S], and the counts of all, int64 [BINS]. What is not finite is left out."""
    bins = _bins_of(values)
    size, width = bins.shape
    total = np.zeros(BINS, np.int64)
    if width >= DENSE:
        entropies = np.zeros(size)
        for index, row in enumerate(bins):
            counts = np.bincount(row, minlength=BINS)
            counts[_NOT_FINITE] = 0
            entropies[index] = _entropy(counts[counts > 0])
            total += counts
        return entropies, total
    bins.sort(axis=1, kind="stable")  # a radix sort, for 16 bits
    starts = np.ones((size, width), np.bool_)
    np.not_equal(bins[:, 1:], bins[:, :-1], out=starts[:, 1:])
    where = np.flatnonzero(starts)
    lengths = np.diff(where, append=bins.size)
    found = bins.reshape(-1)[where]
    rows = where // width
    lengths[_not_finite(found)] = 0
    np.add.at(total, found, lengths)
    sizes = np.bincount(rows, weights=lengths, minlength=size)
    surprise = np.bincount(rows, weights=lengths * np.log2(np.maximum(lengths, 1)), minlength=size)
    some = np.maximum(sizes, 1)
    return np.maximum(np.log2(some) - surprise / some, 0.0), total


def _entropy(counts: np.ndarray) -> float:
    """Bits, of counts above 0; 0 of none."""
    total = int(counts.sum())
    if not total:
        return 0.0
    return max(0.0, math.log2(total) - float((counts * np.log2(counts)).sum()) / total)


def _blocks(array: np.ndarray, limit: int) -> Iterator[Tuple[int, Iterator[np.ndarray]]]:
    """(first sample, its [samples, elements] parts): many small samples at once, or one large sample in slices."""
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    per_block = max(1, limit // width)
    for first in range(0, array.shape[0], per_block):
        yield first, _parts(array[first : first + per_block], limit)


def _parts(block: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Slice the samples along their leading axes until a slice fits; never copies more than one slice."""
    width = int(np.prod(block.shape[1:], dtype=np.int64))
    if block.ndim <= 1 or len(block) * width <= limit:
        yield block.reshape(len(block), -1)
        return
    inner = width // block.shape[1]
    step = max(1, limit // (len(block) * inner))
    for start in range(0, block.shape[1], step):
        piece = block[:, start : start + step]
        if piece.shape[1] == 1 and piece.ndim > 2:
            yield from _parts(piece[:, 0], limit)
        else:
            yield piece.reshape(len(piece), -1)
