"""What does a difference look like, and which mistake makes differences of that shape?

Each mistake teams make leaves its own pattern. A hypothesis predicts the found tensor from the expected one, and what counts is how much
of the disagreement the prediction explains: with u the share of elements that agree anyway and s the share the prediction gets right,
confidence = (s - u) / (1 - u). Hypotheses that only say *where* or *how far* (one channel, the last columns, one LSB) are weaker and asked
later. Two mistakes at once are found as a rearrangement (channels, axes, stride, shift, byte order, sample) followed by a change of values.

| cause | the found tensor is |
|---|---|
| `all_zero` | 0 |
| `byte_order` | read with the other byte order |
| `stale` | another sample's |
| `channel_swap` | the expected one with channels exchanged (RGB and BGR) |
| `transposed` | laid out in another order of axes |
| `row_stride` | read with another row length than it was written with, or wrong in every n-th row |
| `shifted` | moved by k elements, along an axis or as a whole |
| `offset` | a constant apart (128 between uint8 and int8) |
| `scale` | a factor apart, or one factor per channel |
| `clamped` | cut at a lower or upper limit |
| `single_channel` | wrong in one channel only |
| `padding` | wrong in the last indices of an axis only |
| `rounding` | at most one LSB (or the precision of a shorter float) apart |
| `none` | nothing of this |
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from qatladder.numerics.compare import first_difference, identical
from qatladder.numerics.tensor import MappedPages

CAUSES = (
    "all_zero", "byte_order", "stale", "channel_swap", "transposed", "row_stride", "shifted", "offset", "scale", "clamped",
    "single_channel", "padding", "rounding", "none",
)  # fmt: skip
"""In the order in which a tie is decided."""

LIMIT = 1 << 18
"""Elements looked at; whole samples, as far as they fit."""

ENOUGH = 0.9
"""Confidence from which an explanation is whole."""

PARTLY = 0.5
"""Confidence from which an exact hypothesis is named when no explanation is whole."""


@dataclass(frozen=True)
class Fingerprint:
    """What the shape of a difference suggests.

    Attributes:
        cause: one of `CAUSES`; `none` when nothing fits.
        confidence: share of the disagreement that is explained, 0 to 1; of two identical tensors, 1 for `none`.
        detail: the parameter in words (the offset, the factor, the channel ...).
        also: a second cause, where it takes two to explain the difference; empty otherwise.
        also_detail: its parameter.
    """

    cause: str
    confidence: float
    detail: str = ""
    also: str = ""
    also_detail: str = ""

    def __str__(self) -> str:
        first = "{} ({})".format(self.cause, self.detail) if self.detail else self.cause
        second = " ({})".format(self.also_detail) if self.also_detail else ""
        return first + (" and {}{}".format(self.also, second) if self.also else "")

    def to_json(self) -> Dict[str, Any]:
        return {
            "cause": self.cause,
            "confidence": self.confidence,
            "detail": self.detail,
            "also": self.also,
            "also_detail": self.also_detail,
        }


def fingerprint(expected: np.ndarray, found: np.ndarray, channel_axis: Optional[int] = None, step: float = 0.0) -> Fingerprint:
    """Name the likely cause of a difference.

    Args:
        expected, found: integers or finite floats, in the same axis order. Axis 0 counts samples where there are four axes or more;
            with fewer, both readings are tried. Shape and dtype may differ: then the cause of that is looked for.
        channel_axis: where the channels are; guessed from the shape when not given.
        step: one LSB of dequantised floats, if known.
    Returns:
        The hypothesis that explains most, with a confidence of at least 0.9; else `none`.
    """
    if expected.shape != found.shape:
        return _other_shape(expected, found, channel_axis, step)
    if expected.size < 2:  # one number has no pattern
        return Fingerprint("none", 1.0 if np.array_equal(expected, found) else 0.0)
    swapped = _byte_swapped(expected, found)
    if swapped >= ENOUGH:  # before values are looked at: those of swapped floats may not even be numbers
        return Fingerprint("byte_order", round(swapped, 4), "bytes of each element exchanged")
    best = Fingerprint("none", 0.0)
    with np.errstate(all="ignore"):  # a wrong hypothesis may divide by 0 or overflow: then it just explains nothing
        for left, right, axis in _readings(expected, found, channel_axis):
            case = _Case(left, right, axis, step)
            if not case.samples.size:
                return Fingerprint("none", 1.0)
            best = _better(best, case.explain())
    return best


def _byte_swapped(expected: np.ndarray, found: np.ndarray) -> float:
    """Share of the disagreement that reading with the other byte order explains."""
    if expected.dtype != found.dtype or expected.dtype.itemsize == 1:
        return 0.0
    bits = "u{}".format(expected.dtype.itemsize)
    left, right = (np.ascontiguousarray(array.reshape(-1)[:LIMIT]).view(bits) for array in (expected, found))
    untouched = float(np.mean(left == right))
    return (float(np.mean(left.byteswap() == right)) - untouched) / (1.0 - untouched) if untouched < 1.0 else 0.0


def _better(first: Fingerprint, second: Fingerprint) -> Fingerprint:
    """The one that needs fewer causes, then the more confident, then the earlier in `CAUSES`."""

    def rank(item: Fingerprint) -> Tuple[bool, bool, float, int, float]:
        return item.cause != "none", not item.also, round(item.confidence, 2), -CAUSES.index(item.cause), item.confidence

    return second if rank(second) > rank(first) else first


def _readings(expected: np.ndarray, found: np.ndarray, channel_axis: Optional[int]) -> Iterator[Tuple[np.ndarray, np.ndarray, int]]:
    """The tensors with a leading axis of samples, and their channel axis."""
    ndim = expected.ndim
    if channel_axis is not None and ndim > 1:
        axis = channel_axis % ndim
        if axis:
            yield expected, found, axis
            return
        yield expected[None], found[None], 1
        return
    if ndim >= 4:
        yield expected, found, guess_channel_axis(expected.shape)
        return
    if ndim >= 2 and not (ndim == 3 and expected.shape[0] in (1, 3, 4)):
        yield expected, found, guess_channel_axis(expected.shape)
    yield expected[None], found[None], guess_channel_axis((1, *expected.shape))


def guess_channel_axis(shape: Sequence[int]) -> int:
    """Where the channels of [samples, ...] probably are: beside two equal axes of a picture; else the shorter of the first and last axis."""
    if len(shape) <= 2:
        return len(shape) - 1
    if len(shape) >= 4 and shape[-1] == shape[-2] != shape[1]:
        return 1
    if len(shape) >= 4 and shape[1] == shape[2] != shape[-1]:
        return len(shape) - 1
    return 1 if shape[1] <= shape[-1] else len(shape) - 1


def _other_shape(expected: np.ndarray, found: np.ndarray, channel_axis: Optional[int], step: float) -> Fingerprint:
    """Tensors of two shapes: the same elements in another order of axes, or with padding left in."""
    squeezed = [tuple(size for size in array.shape if size != 1) for array in (expected, found)]
    if expected.size == found.size:
        best = Fingerprint("none", 0.0)
        if squeezed[0] == squeezed[1]:
            return fingerprint(expected, found.reshape(expected.shape), channel_axis, step)
        if expected.ndim == found.ndim <= 5:
            for order in itertools.permutations(range(expected.ndim)):
                moved = expected.transpose(order)
                if moved.shape == found.shape and order != tuple(range(expected.ndim)):
                    if identical(moved, found):
                        return Fingerprint("transposed", 1.0, "axes {} of what was expected".format(list(order)))
                    inner = fingerprint(moved, found, None, step)
                    if inner.cause != "none" and not inner.also:
                        best = _better(
                            best, Fingerprint("transposed", inner.confidence, "axes {}".format(list(order)), inner.cause, inner.detail)
                        )
        return best if best.cause != "none" else fingerprint(expected, found.reshape(expected.shape), channel_axis, step)
    if expected.ndim == found.ndim and all(theirs >= ours for ours, theirs in zip(expected.shape, found.shape)):
        inside = found[tuple(slice(size) for size in expected.shape)]
        grown = ", ".join(
            "axis {} {} -> {}".format(axis, ours, theirs)
            for axis, (ours, theirs) in enumerate(zip(expected.shape, found.shape))
            if ours != theirs
        )
        if identical(inside, expected):
            return Fingerprint("padding", 1.0, "left in: " + grown)
        inner = fingerprint(expected, inside, channel_axis, step)
        if inner.cause != "none" and not inner.also:
            return Fingerprint("padding", inner.confidence, "left in: " + grown, inner.cause, inner.detail)
    return Fingerprint("none", 0.0)


Candidate = Tuple[str, str, np.ndarray, np.ndarray, Optional[np.ndarray]]
"""(cause, detail, what is expected then, found, where that says something; None for everywhere)."""


class _Case:
    """One reading of two tensors: [samples, ...], only the samples that differ."""

    def __init__(self, expected: np.ndarray, found: np.ndarray, channel_axis: int, step: float) -> None:
        width = max(1, expected[0].size)
        wanted = max(1, LIMIT // width)
        self.whole = expected
        self.alike = 0  # samples that do not differ, of those looked at
        differing: List[int] = []
        for index in range(len(expected)):
            if identical(expected[index], found[index]):
                self.alike += 1
            else:
                differing.append(index)
                if len(differing) > wanted:
                    break
        self.samples = np.array(differing, dtype=np.int64)
        if not differing:
            return
        picked = self.samples[:wanted]
        left, right = _cropped(expected, found, picked, channel_axis)
        self.picked = picked
        self.raw_expected, self.raw_found = left, right
        self.axis = channel_axis
        self.dtype = found.dtype
        self.integer = found.dtype.kind in "iub" and expected.dtype.kind in "iub"
        self.limits = (
            (float(np.iinfo(found.dtype).min), float(np.iinfo(found.dtype).max)) if found.dtype.kind in "iu" else (-np.inf, np.inf)
        )
        self.expected, self.found = left.astype(np.float64), right.astype(np.float64)
        kinds = [array.dtype for array in (expected, found) if array.dtype.kind == "f"]
        self.eps = max((8.0 * float(np.finfo(kind).eps) for kind in kinds), default=0.0)
        self.step = step or (1.0 if self.integer else self._grid())
        self.untouched = float(np.mean(self._close(self.expected, self.found)))

    # --- measuring ---

    def _close(self, predicted: np.ndarray, found: np.ndarray) -> np.ndarray:
        if self.integer:
            equal: np.ndarray = predicted == found
            return equal
        size = np.abs(predicted) + np.abs(found)
        near: np.ndarray = np.abs(predicted - found) <= self.eps * (size + np.median(size))
        return near

    def _confidence(self, predicted: np.ndarray, found: np.ndarray, where: Optional[np.ndarray] = None, exact: bool = False) -> float:
        """Share of the disagreement a prediction explains."""
        right = self._close(predicted, found) if not exact else predicted == found
        if where is not None:
            right = right[where]
        return self._net(float(np.mean(right)) if right.size else 0.0)

    def _net(self, share: float) -> float:
        if self.untouched >= 1.0:
            return 0.0
        return max(0.0, (share - self.untouched) / (1.0 - self.untouched)) if share < 1.0 else 1.0

    def _grid(self) -> float:
        """The step of values that lie on a grid, as dequantised integers do; 0.0 for others."""
        for values in (self.expected, self.found):
            distinct = np.unique(values.reshape(-1)[: 1 << 18])
            if 2 < distinct.size <= 1 << 16 and distinct.size < values.size / 2:
                step = float(np.min(np.diff(distinct)))
                peak = float(np.abs(distinct).max())
                ratio = distinct / step
                if step > 1e-5 * peak and float(np.max(np.abs(ratio - np.rint(ratio)))) < 0.02:
                    return step
        return 0.0

    # --- the search ---

    def explain(self) -> Fingerprint:
        if not self.raw_found.any() and self.raw_expected.any():
            return Fingerprint("all_zero", 1.0, "every element is 0" + self._which())
        if self.untouched >= 1.0:
            return Fingerprint("rounding", 1.0, "within the precision of the dtype")
        moved = self._rearrangements(self.expected, self.found)
        changed = list(self._changed(self.expected, self.found, None))
        exact = [Fingerprint(cause, self._confidence(predicted, found, where), detail) for cause, detail, predicted, found, where in moved]
        exact += [Fingerprint(cause, share, detail) for cause, share, detail, _ in changed]
        best = _best(exact)
        first: List[Candidate] = [*moved, *((cause, detail, predicted, self.found, None) for cause, _, detail, predicted in changed)]
        if best.confidence >= ENOUGH:
            return self._rounded(self._rest(best, first[exact.index(best)]))
        weak = _best([Fingerprint(*item) for item in self._places(self.expected, self.found, None)])
        if weak.confidence >= ENOUGH:
            return self._rounded(weak)
        # Two at once: the first predicts, the second explains what is left.
        pair = _best(list(self._affine()))
        if pair.confidence >= ENOUGH:
            return self._rounded(pair)
        for explain in (self._then_values, self._then_places, self._then_moved):
            pair = _best([found for candidate in first for found in explain(candidate)])
            if pair.confidence >= ENOUGH:
                return self._rounded(pair)
        pair = _best(list(self._two_places()))
        if pair.confidence >= ENOUGH:
            return self._rounded(pair)
        partly = _best(exact[: len(moved)])
        return self._rounded(partly) if partly.confidence >= PARTLY else Fingerprint("none", 0.0)

    def _rest(self, best: Fingerprint, candidate: Candidate) -> Fingerprint:
        """An explanation that leaves little open, with a second cause where that explains most of the rest."""
        if best.confidence > 0.999:
            return best
        pair = _best([found for explain in (self._then_values, self._then_places) for found in explain(candidate)])
        whole = pair.confidence > 0.999 or 1.0 - pair.confidence < 0.25 * (1.0 - best.confidence)
        return pair if pair.cause == best.cause and whole else best

    def _affine(self) -> Iterator[Fingerprint]:
        """A factor and an offset together: a line through the elements that were not cut."""
        inside = (self.found > self.found.min()) & (self.found < self.found.max())
        x, y = self.expected[inside], self.found[inside]
        for _ in range(4):  # fit, drop what lies far off, fit again
            if x.size < 16 or np.ptp(x) == 0:
                return
            factor, offset = np.polyfit(x, y, 1)
            far = np.abs(y - (factor * x + offset))
            keep = far <= max(2.0 * self.step, 3.0 * float(np.median(far)))
            x, y = x[keep], y[keep]
        if abs(factor - 1.0) < 1e-3 or abs(factor) * np.abs(x).max() < 2.0 * self.step:
            return
        low, high = self.limits
        whole = [float(np.rint(offset)), float(np.rint(offset / factor))] if self.integer else [offset, offset / factor]
        for name, rounding in _roundings(self.integer):
            for predicted, order in (
                (rounding(self.expected * factor) + whole[0], "then offset {:.6g}".format(whole[0])),
                (rounding((self.expected + whole[1]) * factor), "after offset {:.6g}".format(whole[1])),
                (rounding(self.expected * factor + offset), "then offset {:.6g}".format(offset)),
            ):
                share = self._confidence(np.clip(predicted, low, high), self.found)
                if self.integer and share < ENOUGH:  # the fit is blurred by two roundings: one LSB is as near as it gets
                    near = np.abs(np.clip(predicted, low, high) - self.found) <= 1.0
                    share = 0.9 if near.all() and abs(factor) * np.ptp(x) > 20.0 else share
                yield Fingerprint("scale", share, "factor {:.6g}{}".format(factor, name), "offset", order)

    def _then_values(self, candidate: Candidate) -> Iterator[Fingerprint]:
        cause, detail, predicted, found, where = candidate
        for inner, share, inner_detail, _ in self._changed(predicted, found, where):
            if inner != cause:
                yield Fingerprint(cause, share, detail, inner, inner_detail)

    def _then_places(self, candidate: Candidate) -> Iterator[Fingerprint]:
        cause, detail, predicted, found, where = candidate
        for inner, share, inner_detail in self._places(predicted, found, where, guess=True):
            if inner != cause:
                yield Fingerprint(cause, share, detail, inner, inner_detail)

    def _then_moved(self, candidate: Candidate) -> Iterator[Fingerprint]:
        cause, detail, predicted, found, where = candidate
        if cause in ("offset", "scale", "clamped"):
            return
        for inner, inner_detail, again, last, there in self._rearrangements(predicted, found, after=cause):
            both = where if there is None else there if where is None else where & there
            yield Fingerprint(cause, self._confidence(again, last, both), detail, inner, inner_detail)

    def _two_places(self) -> Iterator[Fingerprint]:
        """One place that is wrong, and elsewhere another one or rounding."""
        coarse = np.abs(self.expected - self.found) > (self.step * 1.01 if self.step else 2.0**-8 * np.abs(self.expected))
        if coarse.any() and not coarse.all():
            for cause, share, detail in self._confined(coarse, self.expected, self.found):
                yield Fingerprint(cause, share, detail, "rounding", "elsewhere the difference is at most 1 LSB")
        wrong = ~self._close(self.expected, self.found)
        rates = np.moveaxis(wrong, self.axis, 0).reshape(wrong.shape[self.axis], -1).mean(axis=1)
        if rates.size > 2:
            channel = int(np.argmax(rates))
            rest = np.delete(wrong, channel, axis=self.axis)
            for cause, share, detail in self._confined(rest, None, None):
                if cause != "single_channel" and rates[channel] > 2 * np.median(rates):
                    yield Fingerprint("single_channel", share, "channel {}".format(channel), cause, "of the others, " + detail)

    def _rounded(self, found: Fingerprint) -> Fingerprint:
        return Fingerprint(found.cause, round(min(1.0, found.confidence), 4), found.detail, found.also, found.also_detail)

    def _which(self) -> str:
        return " in samples {}".format(_few(self.samples)) if self.alike else ""

    # --- rearrangements ---

    def _rearrangements(self, expected: np.ndarray, found: np.ndarray, after: str = "") -> List[Candidate]:
        """Where the found tensor is the expected one with its elements moved. Values may differ by an offset or a factor."""
        rules: List[Tuple[str, Callable[[np.ndarray, np.ndarray], Iterator[Candidate]]]] = [
            ("byte_order", self._byte_order),
            ("stale", self._stale),
            ("channel_swap", self._channel_swap),
            ("transposed", self._transposed),
            ("row_stride", self._row_stride),
            ("shifted", self._shifted),
        ]
        if after:
            rules = [
                (cause, rule)
                for cause, rule in rules
                if cause != after and (cause != "byte_order" and (cause != "stale" or after == "byte_order"))
            ]
        return [candidate for _, rule in rules for candidate in rule(expected, found)]

    def _byte_order(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        if self.dtype.itemsize > 1 and self.raw_expected.dtype == self.dtype:
            swapped = self.raw_found.byteswap().astype(np.float64)
            before = self.raw_expected.byteswap().astype(np.float64)
            if np.isfinite(swapped).all():
                yield "byte_order", "bytes of each element exchanged", expected, swapped, None
            if np.isfinite(before).all():
                yield "byte_order", "bytes of each element exchanged", before, found, None

    def _stale(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        others = self.whole[:4096]
        if len(others) < 2 or self.picked[-1] >= len(others):
            return
        if others.shape[1:] != self.raw_expected.shape[1:]:
            return
        flat = [array.reshape(len(array), -1)[:, : 1 << 14].astype(np.float64) for array in (others, found)]
        # Alike element by element; or, where the elements were moved as well, alike in the values that occur.
        for signatures in (flat, [np.quantile(array, np.linspace(0, 1, 129), axis=1).T for array in flat]):
            known, answers = (array - array.mean(axis=1, keepdims=True) for array in signatures)
            known, answers = (array / np.maximum(np.sqrt((array**2).sum(axis=1, keepdims=True)), 1e-300) for array in (known, answers))
            distance = np.maximum(0.0, 2.0 - 2.0 * answers @ known.T)
            own = distance[np.arange(len(found)), self.picked].copy()
            distance[np.arange(len(found)), self.picked] = np.inf
            nearest = distance.argmin(axis=1)
            if np.median(distance.min(axis=1)) < min(0.15, 0.25 * float(np.median(own))):
                detail = ", ".join("sample {} holds {}".format(i, j) for i, j in list(zip(self.picked, nearest))[:3])
                yield "stale", detail, others[nearest].astype(np.float64), found, None
                return

    def _channel_swap(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        axis, count = self.axis, expected.shape[self.axis]
        if not 2 <= count <= 512 or expected.size // count < 8:
            return
        left, right = (np.moveaxis(array, axis, 0).reshape(count, -1)[:, : 1 << 14] for array in (expected, found))
        likeness = _likeness(right, left)
        order = _assigned(likeness)
        if (order == np.arange(count)).all() or np.median(likeness[np.arange(count), order]) < 0.9:
            return
        if count == 3 and list(order) == [2, 1, 0]:
            detail = "channels 0 and 2 are exchanged (RGB and BGR)"
        else:
            moved = [index for index in range(count) if order[index] != index]
            detail = "channels {} hold {}".format(_few(moved), _few([int(order[index]) for index in moved]))
        yield "channel_swap", detail, expected.take(order, axis=axis), found, None

    def _transposed(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        shape = expected.shape
        axes = [axis for axis in range(1, expected.ndim) if shape[axis] > 1]
        if not 2 <= len(axes) <= 4:
            return
        seen = []
        for order in itertools.permutations(axes):
            if list(order) == axes:
                continue
            full = list(range(expected.ndim))
            for place, axis in zip(axes, order):
                full[place] = axis
            moved = expected.transpose(full).reshape(shape)
            share = _alike(moved, found)
            seen.append((share, list(full), moved))
        share, best, moved = max(seen, key=lambda item: item[0])
        if share > 0.5:
            yield "transposed", "axes in the order {}".format(best), moved, found, None

    def _shifted(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        lines = [(axis, expected.shape[axis]) for axis in range(1, expected.ndim) if expected.shape[axis] > 2]
        for axis, size in lines:
            left, right = (np.moveaxis(array, axis, -1).reshape(-1, size)[: max(64, (1 << 18) // size)] for array in (expected, found))
            shift = _displacement(left, right)
            if shift:
                where = np.zeros(size, dtype=bool)
                where[max(0, shift) : size + min(0, shift)] = True
                if 2 * where.sum() < size:
                    continue
                rolled = np.roll(expected, shift, axis=axis)
                mask = None if self._round_trip(rolled, found) else _spread(where, axis, expected.shape)
                yield "shifted", "by {} along axis {}".format(shift, axis), rolled, found, mask
        if len(lines) > 1:
            left, right = (array.reshape(len(array), -1)[:, : 1 << 18] for array in (expected, found))
            shift = _displacement(left, right)
            size = expected[0].size
            if shift and 2 * abs(shift) < size:
                where = np.zeros(size, dtype=bool)
                where[max(0, shift) : size + min(0, shift)] = True
                rolled = np.roll(expected.reshape(len(expected), -1), shift, axis=1).reshape(expected.shape)
                mask = np.broadcast_to(where.reshape(expected.shape[1:]), expected.shape)
                yield "shifted", "by {} elements".format(shift), rolled, found, mask

    def _round_trip(self, predicted: np.ndarray, found: np.ndarray) -> bool:
        """Whether what was moved out on one side came in on the other."""
        return float(np.mean(self._close(predicted, found))) > 0.999

    def _row_stride(self, expected: np.ndarray, found: np.ndarray) -> Iterator[Candidate]:
        flat = expected.reshape(len(expected), -1), found.reshape(len(found), -1)
        size = flat[0].shape[1]
        done = set()
        for axis in range(expected.ndim - 1, 1, -1):
            row = int(np.prod(expected.shape[axis:]))
            rows = size // row
            if row in done or row < 4 or rows < 3:
                continue
            done.add(row)
            # The found rows begin every `stride` elements (padding was left in), or were picked every `stride` from rows without any.
            for written, (source, target) in ((True, flat), (False, flat[::-1])):
                stride = _stride(source, target, row)
                if not stride:
                    continue
                place = np.arange(size)
                if written:
                    inside = (place % stride < row) & (place // stride < rows)
                    origin = np.where(inside, place // stride * row + place % stride, 0)
                else:
                    origin = place // row * stride + place % row
                    inside = origin < size
                    origin = np.where(inside, origin, 0)
                if inside.mean() < 0.25:
                    continue
                predicted = flat[0][:, origin].reshape(expected.shape)
                mask = np.broadcast_to(inside.reshape(expected.shape[1:]), expected.shape)
                how = "rows of {} were read from a tensor whose rows take {}" if written else "rows of {} were taken every {}"
                yield "row_stride", how.format(row, stride) + " elements", predicted, found, mask
            slant = _slant(flat[0], flat[1], row)
            if slant:
                place = np.arange(size)
                origin = place // row * row + (place % row - place // row * slant) % row
                detail = "each row of {} is {} further along than the one before".format(row, slant)
                yield "row_stride", detail, flat[0][:, origin].reshape(expected.shape), found, None

    # --- changes of values ---

    def _changed(
        self, expected: np.ndarray, found: np.ndarray, where: Optional[np.ndarray]
    ) -> Iterator[Tuple[str, float, str, np.ndarray]]:
        """(cause, confidence, detail, prediction) of offset, scale and clamp."""
        low, high = self.limits
        inside = (found > found.min()) & (found < found.max())  # what sits at the ends may have been cut
        if where is not None:
            inside = inside & where
        if np.count_nonzero(inside) < 8:
            inside = np.ones(found.shape, bool) if where is None else where
        difference = found[inside] - expected[inside]
        offsets = [_typical(difference, self.integer), float(np.median(difference))] if difference.size else []
        for offset in dict.fromkeys(offsets):
            if not offset or (self.integer and offset != int(offset)):
                continue
            moved = expected + offset
            saturated = np.clip(moved, low, high)
            detail = "constant offset {:.6g}{}".format(offset, ", saturated" if (saturated != moved).any() else "")
            yield self._judge("offset", detail, saturated, found, where)
        if self.integer and np.isfinite(low):
            span = high - low + 1
            turn = _typical((found - expected) % span, True)
            if turn and turn not in offsets:
                wrapped = (expected + turn - low) % span + low
                yield self._judge("offset", "constant offset {:.6g}, wrapped around".format(turn), wrapped, found, where)
        yield from self._scaled(expected, found, inside, where)
        yield from self._clamped(expected, found, where)

    def _judge(
        self, cause: str, detail: str, predicted: np.ndarray, found: np.ndarray, where: Optional[np.ndarray]
    ) -> Tuple[str, float, str, np.ndarray]:
        return cause, self._confidence(predicted, found, where), detail, predicted

    def _scaled(
        self, expected: np.ndarray, found: np.ndarray, inside: np.ndarray, where: Optional[np.ndarray]
    ) -> Iterator[Tuple[str, float, str, np.ndarray]]:
        low, high = self.limits
        for factor in _factors(expected[inside], found[inside], self.integer):
            for name, rounding in _roundings(self.integer):
                predicted = np.clip(rounding(expected * factor), low, high)
                judged = self._judge("scale", "factor {:.6g}{}".format(factor, name), predicted, found, where)
                if self.integer or abs(factor - 1.0) > 2.0**-8 or judged[1] > 0.999:  # else it is what a shorter float does to a few values
                    yield judged
        count = expected.shape[self.axis]
        if not 2 <= count <= 4096 or expected.size // count < 8 or where is not None:
            return
        left, right = (np.moveaxis(array, self.axis, 0).reshape(count, -1) for array in (expected, found))
        ratios = np.ones(count)
        for channel in range(count):
            options = list(_factors(left[channel], right[channel], self.integer))
            ratios[channel] = options[0] if options else 1.0
        if np.ptp(ratios) > 1e-4 * np.abs(ratios).max() and np.count_nonzero(ratios != 1.0) > 1:
            shape = [1] * expected.ndim
            shape[self.axis] = count
            for name, rounding in _roundings(self.integer):
                predicted = np.clip(rounding(expected * ratios.reshape(shape)), low, high)
                detail = "one factor per channel, {:.6g} to {:.6g}{}".format(ratios.min(), ratios.max(), name)
                yield self._judge("scale", detail, predicted, found, where)

    def _clamped(
        self, expected: np.ndarray, found: np.ndarray, where: Optional[np.ndarray]
    ) -> Iterator[Tuple[str, float, str, np.ndarray]]:
        values = found if where is None else found[where]
        if not values.size:
            return
        lowest, highest = float(values.min()), float(values.max())
        for margin in (0.0, self.step):  # what was cut may have been rounded afterwards
            low, high = lowest + margin, highest - margin
            if not low < high:
                return
            beyond = (expected < low) | (expected > high)
            if np.count_nonzero(beyond) < 3 or float(np.abs(expected - np.clip(expected, low, high)).max()) <= self.step:
                return
            ends = [value for value, used in ((low, expected.min() < low), (high, expected.max() > high)) if used]
            detail = "values are cut at {}".format(" and ".join("{:.6g}".format(value) for value in ends))
            yield self._judge("clamped", detail, np.clip(expected, low, high), found, where)
            if not self.step:
                return

    # --- where, and how far ---

    def _places(
        self, expected: np.ndarray, found: np.ndarray, where: Optional[np.ndarray], guess: bool = False
    ) -> Iterator[Tuple[str, float, str]]:
        """(cause, confidence, detail) of what only says where the difference is, or that it is small.

        Args:
            guess: the prediction is itself a hypothesis, so it must have explained much by itself.
        """
        wrong = ~self._close(expected, found)
        asked = wrong if where is None else wrong[where]
        if where is not None:
            wrong = wrong & where
        if not asked.any() or asked.size < 0.5 * wrong.size:
            return
        if not guess or (asked.size >= 0.75 * wrong.size and self._net(1.0 - float(asked.mean())) >= 0.15):
            yield from self._confined(wrong, expected, found)
        yield from self._rounding(expected, found, where, guess)

    def _confined(self, wrong: np.ndarray, expected: Optional[np.ndarray], found: Optional[np.ndarray]) -> Iterator[Tuple[str, float, str]]:
        """Places that hold every mismatch; a channel may leave one in twenty outside."""
        count = int(np.count_nonzero(wrong))
        for axis in range(1, wrong.ndim):
            size = wrong.shape[axis]
            counts = np.count_nonzero(wrong, axis=tuple(index for index in range(wrong.ndim) if index != axis))
            hit = np.flatnonzero(counts)
            if size < 2 or not hit.size:
                continue
            if axis == self.axis:
                top = int(np.argmax(counts))
                if counts[top] >= 0.95 * count and (hit.size == 1 or size > 2):
                    yield (
                        "single_channel",
                        _unlikely(1 / size, count) * float(counts[top] / count),
                        self._channel_detail(expected, found, top),
                    )
            elif hit[0] > 0 and size - hit[0] <= size / 2:
                share = (size - int(hit[0])) / size
                yield (
                    "padding",
                    _unlikely(share, count),
                    "only the last {} of {} along axis {} differ".format(size - int(hit[0]), size, axis),
                )
            elif hit.size >= 3 and np.unique(np.diff(hit)).size == 1 and hit[1] - hit[0] >= 2:
                period = int(hit[1] - hit[0])
                if hit[0] < period and hit[-1] + period >= size:
                    yield "row_stride", _unlikely(1 / period, count), "every {}. index along axis {} differs".format(period, axis)

    def _channel_detail(self, expected: Optional[np.ndarray], found: Optional[np.ndarray], channel: int) -> str:
        detail = "only channel {} differs".format(channel)
        left, right = (array.take([channel], axis=self.axis) for array in (self.raw_expected, self.raw_found))
        if expected is not self.expected or found is not self.found or left.size < 8:
            return detail
        if not right.any():
            return detail + ": it is all zero"
        inner = _Case(left, right, self.axis, self.step)
        best = max(inner._changed(inner.expected, inner.found, None), key=lambda item: item[1], default=("", 0.0, ""))
        return detail + (": " + best[2] if best[1] >= ENOUGH else "")

    def _rounding(
        self, expected: np.ndarray, found: np.ndarray, where: Optional[np.ndarray], guess: bool
    ) -> Iterator[Tuple[str, float, str]]:
        size = np.abs(expected - found)
        asked = size if where is None else size[where]
        if self.step:
            limit = self.step * (1.0 if self.integer else 1.01)
            before = float(np.mean(np.abs(self.expected - self.found) <= limit)) if guess else 0.0
            shuffled = np.abs(expected.reshape(-1) - np.random.default_rng(0).permutation(found.reshape(-1))) <= limit
            if (asked <= limit).all() and shuffled.mean() < 0.75 and before < 1.0:
                yield "rounding", 1.0, "no element differs by more than 1 LSB" + ("" if self.integer else " of {:.6g}".format(self.step))
                return
        if not self.integer:
            values = expected if where is None else expected[where]
            slack = 2.0**-8 * np.abs(values) + 1e-6 * float(np.median(np.abs(values)))
            share = float(np.mean(asked <= slack))
            before = float(np.mean(np.abs(self.expected - self.found) <= 2.0**-8 * np.abs(self.expected))) if guess else 0.0
            if share >= 0.999 and before < 0.999:
                most = float(np.max(np.where(values != 0, asked / np.maximum(np.abs(values), 1e-30), 0.0)))
                yield "rounding", share, "relative differences up to {:.2g}, as of a shorter float".format(most)


def _cropped(expected: np.ndarray, found: np.ndarray, picked: np.ndarray, channel_axis: int) -> Tuple[np.ndarray, np.ndarray]:
    """The picked samples; of one that is far too large a part around its first mismatch, all its channels as far as they fit."""
    if expected[0].size <= 4 * LIMIT:
        return expected[picked], found[picked]
    left, right = expected[picked[0]], found[picked[0]]
    parts: List[Any] = [slice(0, size) for size in left.shape]
    first = first_difference(left, right)
    while int(np.prod([part.stop - part.start for part in parts])) > 4 * LIMIT:
        sizes = [
            0 if axis + 1 == channel_axis and part.stop - part.start <= 4096 else part.stop - part.start for axis, part in enumerate(parts)
        ]
        axis = int(np.argmax(sizes))
        start, stop = parts[axis].start, parts[axis].stop
        middle = (start + stop) // 2
        parts[axis] = slice(middle, stop) if first is not None and first[axis] >= middle else slice(start, middle)
    copies = []
    for sample in (left, right):
        pages, part = MappedPages(sample), sample[tuple(parts)]
        copy = np.empty(part.shape, part.dtype)
        for index in range(len(part)):
            copy[index] = part[index]
            pages.read(1 << 25)  # rows far apart: many more pages are mapped than are read
        copies.append(copy[None])
    return copies[0], copies[1]


def _best(found: Sequence[Fingerprint]) -> Fingerprint:
    best = Fingerprint("none", 0.0)
    for item in found:
        best = _better(best, item)
    return best


def _few(items: Any) -> str:
    text = ", ".join(str(int(item)) for item in list(items)[:6])
    return text + (", ..." if len(items) > 6 else "")


def _unlikely(share: float, count: int) -> float:
    """One minus the probability that `count` mismatches fall by chance into one place, which takes up `share` of the tensor.

    The first decides which place it is; so a single mismatch says nothing.
    """
    return float(1.0 - share ** min(count - 1, 64))


def _alike(left: np.ndarray, right: np.ndarray) -> float:
    """Correlation of two tensors."""
    x, y = left - left.mean(), right - right.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm else 0.0


def _likeness(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of each row of left with each row of right; constant rows are alike when their values are."""
    x, y = (array - array.mean(axis=1, keepdims=True) for array in (left, right))
    norms = np.sqrt((x * x).sum(axis=1))[:, None] * np.sqrt((y * y).sum(axis=1))[None, :]
    table = (x @ y.T) / norms
    flat = norms == 0
    table[flat] = np.isclose(left.mean(axis=1)[:, None], right.mean(axis=1)[None, :])[flat]
    same = np.abs(left.mean(axis=1)[:, None] - right.mean(axis=1)[None, :])
    return np.asarray(table - 1e-6 * same / (1.0 + same))  # of equally shaped rows the one of the same mean


def _assigned(likeness: np.ndarray) -> np.ndarray:
    """Each row's column, the likeliest pairs first; of what is unlike everything, a row keeps its own column."""
    count = len(likeness)
    order = np.full(count, -1)
    free = np.ones(count, dtype=bool)
    for place in np.argsort(-likeness, axis=None, kind="stable"):
        row, column = divmod(int(place), count)
        if likeness[row, column] < 0.5:
            break
        if order[row] < 0 and free[column]:
            order[row], free[column] = column, False
    for row in np.flatnonzero(order < 0).tolist():
        if free[row]:
            order[row], free[row] = row, False
    order[order < 0] = np.flatnonzero(free)
    return order


def _displacement(left: np.ndarray, right: np.ndarray) -> int:
    """By how many elements rows of right are those of left moved to the right; 0 when standing still fits best. By circular correlation."""
    size = left.shape[1]
    x, y = (np.fft.rfft(array - array.mean(axis=1, keepdims=True), axis=1) for array in (left, right))
    power = np.fft.irfft((np.conj(x) * y).sum(axis=0), size)
    shift = int(np.argmax(power))
    if power[shift] <= power[0] * (1 + 1e-9):
        return 0
    return shift - size if shift > size // 2 else shift


def _stride(source: np.ndarray, target: np.ndarray, row: int) -> int:
    """The distance, other than `row`, at which the rows of source follow each other in target; 0 for none. [samples, elements] each."""
    size = source.shape[1]
    rows = min(size // row, 9)
    reach = min(row + max(row, 64), (size - row) // 2)
    best, likeness = 0, 0.9
    lead = min(row, 256)
    wanted = source[0].reshape(-1, row)[1:rows, :lead]
    for stride in range(row + 1, reach + 1):
        use = min(rows - 1, (size - lead) // stride)
        if use < 2:
            break
        got = np.stack([target[0, index * stride : index * stride + lead] for index in range(1, use + 1)])
        share = _alike(wanted[:use], got)
        if share > likeness:
            best, likeness = stride, share
    return best


def _slant(source: np.ndarray, target: np.ndarray, row: int) -> int:
    """By how much more each row of target is turned than the one before; 0 for not at all."""
    left, right = source[0].reshape(-1, row)[:9], target[0].reshape(-1, row)[:9]
    turns = [_displacement(left[index : index + 1], right[index : index + 1]) for index in range(1, len(left))]
    slant = turns[0] if turns else 0
    return slant if slant and all((turn - (index + 1) * slant) % row == 0 for index, turn in enumerate(turns[:4])) else 0


def _spread(where: np.ndarray, axis: int, shape: Tuple[int, ...]) -> np.ndarray:
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return np.broadcast_to(where.reshape(view), shape)


def _typical(values: np.ndarray, integer: bool) -> float:
    """The value most differences have: the most frequent integer, or the median."""
    if integer:
        distinct, counts = np.unique(values, return_counts=True)
        return float(distinct[int(np.argmax(counts))])
    return float(np.median(values))


def _factors(expected: np.ndarray, found: np.ndarray, integer: bool) -> Iterator[float]:
    """Factors between two tensors, best guess first; none for a factor of 1."""
    strong = np.abs(expected) > 0.05 * (np.abs(expected).max() if expected.size else 0.0)
    x, y = expected[strong], found[strong]
    if not x.size:
        return
    guess = float(np.median(y / x))
    guesses = [guess]
    if integer:  # rounding blurs the ratios: fit, and let the largest elements, where it blurs least, decide
        near = np.abs(y - guess * x) <= 2.0
        if near.any():
            guesses = [float((x[near] * y[near]).sum() / (x[near] * x[near]).sum()), guess]
            largest = np.abs(x) >= 0.8 * np.abs(x).max()
            guesses.append(float(np.median(y[largest] / x[largest])))
        guesses += [round(value, digits) for value in guesses[:1] for digits in (3, 2, 1)]
        guesses += [float(np.median((y[near] + 0.5 * np.sign(x[near])) / x[near]))] if near.any() else []
    else:
        near = np.abs(y - guess * x) <= 1e-3 * np.abs(guess * x)
        if near.any():
            guesses = [guess, float((x[near] * y[near]).sum() / (x[near] * x[near]).sum())]
    for value in dict.fromkeys(guesses):
        if value and abs(value - 1.0) > 1e-6 and not (integer and abs(value) * np.abs(x).max() < 2.0):
            yield value


def _roundings(integer: bool) -> List[Tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    if not integer:
        return [("", lambda values: values)]
    return [
        (", rounded", np.rint),
        (", rounded down", np.floor),
        (", cut", np.trunc),
        (", rounded half up", lambda values: np.floor(values + 0.5)),
    ]
