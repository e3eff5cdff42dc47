"""Two tensors that should be equal: are they, how far apart are they, and what does the difference look like?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from qatladder.errors import ArtifactError

CHUNK = 1 << 20
"""Elements compared at once: bounds memory, not results."""


@dataclass(frozen=True)
class Comparison:
    """How two arrays of one shape differ. True when they are identical, bit for bit.

    Attributes:
        count: elements compared.
        mismatches: elements whose bits differ.
        max_abs, mean_abs: of the absolute difference, float64.
        cosine: cosine similarity, float64; 1.0 when both are all zero.
        peak: largest absolute value of the expected array.
        first: index of the first differing element.
        expected_first, found_first: its two values.
    """

    count: int
    mismatches: int
    max_abs: float
    mean_abs: float
    cosine: float
    peak: float
    first: Optional[Tuple[int, ...]] = None
    expected_first: Optional[float] = None
    found_first: Optional[float] = None

    def __bool__(self) -> bool:
        return self.mismatches == 0

    @property
    def mean_lsb(self) -> float:
        """Mean difference in steps of an int8 tensor with the expected array's range (peak / 127)."""
        return self.mean_abs / (self.peak / 127.0) if self.peak else float(self.mean_abs > 0)

    def to_json(self) -> Dict[str, Any]:
        data = asdict(self)
        data["mean_lsb"] = self.mean_lsb
        return data


def compare(expected: np.ndarray, found: np.ndarray, what: str = "") -> Comparison:
    """Compare element by element, in chunks of bounded memory.

    Args:
        expected, found: arrays of equal shape and dtype; floats must be finite.
        what: named in errors.
    Raises:
        ArtifactError: shapes or dtypes differ, nothing to compare, or a float is NaN or infinite.
    """
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise ArtifactError(
            "the tensors cannot be compared: shape or dtype differs",
            tensor=what,
            expected="{} {}".format(expected.dtype, list(expected.shape)),
            found="{} {}".format(found.dtype, list(found.shape)),
        )
    if expected.size == 0:
        raise ArtifactError("there is nothing to compare: the tensors are empty", tensor=what, shape=list(expected.shape))
    left, right = expected.reshape(-1), found.reshape(-1)
    mismatches, largest, total, peak = 0, 0.0, 0.0, 0.0
    dot = left_square = right_square = 0.0
    first = None
    for start in range(0, left.size, CHUNK):
        a, b = left[start : start + CHUNK], right[start : start + CHUNK]
        if a.dtype.kind == "f" and not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ArtifactError("the tensor holds NaN or infinity", tensor=what, next_step="look at the operator that produced it")
        different = _bits(a) != _bits(b)
        count = int(np.count_nonzero(different))
        if count and first is None:
            first = start + int(np.argmax(different))
        mismatches += count
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        delta = np.abs(a64 - b64)
        largest, total = max(largest, float(delta.max())), total + float(delta.sum())
        peak = max(peak, float(np.abs(a64).max()))
        dot += float(a64 @ b64)
        left_square += float(a64 @ a64)
        right_square += float(b64 @ b64)
    norm = float(np.sqrt(left_square) * np.sqrt(right_square))
    cosine = dot / norm if norm else float(left_square == right_square)
    result = {
        "count": int(left.size),
        "mismatches": mismatches,
        "max_abs": largest,
        "mean_abs": total / left.size,
        "cosine": cosine,
        "peak": peak,
    }
    if first is None:
        return Comparison(**result)  # type: ignore[arg-type]
    index = tuple(int(value) for value in np.unravel_index(first, expected.shape))
    return Comparison(first=index, expected_first=float(left[first]), found_first=float(right[first]), **result)  # type: ignore[arg-type]


def _bits(array: np.ndarray) -> np.ndarray:
    """The array's bits as integers, so that -0.0 differs from 0.0."""
    if array.dtype.kind != "f":
        return array
    return np.ascontiguousarray(array).view("u{}".format(array.itemsize))


@dataclass(frozen=True)
class Fingerprint:
    """What the shape of a difference suggests.

    Attributes:
        cause: channel_swap, offset, scale, single_channel, transposed, shifted, rounding, clamped, all_zero or none.
        confidence: share of the elements the cause explains, 0 to 1.
        detail: the parameter in words (the offset, the factor, the channel ...).
    """

    cause: str
    confidence: float
    detail: str = ""


def fingerprint(expected: np.ndarray, found: np.ndarray, channel_axis: int = -1) -> Fingerprint:
    """Name the likely cause of a difference: the hypothesis that explains most elements of `found`.

    Args:
        expected, found: arrays of equal shape; axis 0 counts samples.
        channel_axis: where the channels are.
    Returns:
        The best hypothesis that explains at least 90 % of the elements, else `none`.
    """
    a, b = np.moveaxis(expected, channel_axis, -1).astype(np.float64), np.moveaxis(found, channel_axis, -1).astype(np.float64)
    span = float(np.ptp(a)) or 1.0
    whole = expected.dtype.kind in "iu"
    tolerance = 0.0 if whole else 1e-4 * span
    step = 1.0 if whole else 0.0
    untouched = float(np.mean(np.abs(a - b) <= tolerance))
    ranked: List[Fingerprint] = []

    def propose(cause: str, explained: np.ndarray, detail: str = "") -> None:
        share = float(np.mean(np.abs(explained - b) <= tolerance))
        if share >= 0.9 and share > untouched:  # a hypothesis must explain more than "nothing happened" does
            ranked.append(Fingerprint(cause, round(share, 4), detail))

    if not b.any() and a.any():
        return Fingerprint("all_zero", 1.0, "every element is 0")
    channels = a.shape[-1]
    if channels == 3:
        propose("channel_swap", a[..., ::-1], "channels 0 and 2 are exchanged (RGB/BGR)")
    offset = float(np.median(b - a))
    if abs(offset) > tolerance:
        propose("offset", a + offset, "constant offset {:.6g}".format(offset))
    strong = np.abs(a) > 0.05 * span
    if strong.any():
        factor = float(np.median(b[strong] / a[strong]))
        if abs(factor - 1.0) > 1e-4:
            propose("scale", a * factor, "factor {:.6g}".format(factor))
    if a.ndim == 4 and a.shape[1] == a.shape[2]:
        propose("transposed", a.swapaxes(1, 2), "height and width are exchanged")
    if a.ndim >= 3:
        for axis in range(1, a.ndim - 1):
            for shift in (shift for shift in (-2, -1, 1, 2) if shift % a.shape[axis]):
                propose("shifted", np.roll(a, shift, axis=axis), "shifted by {} along axis {}".format(shift, axis))
    if not ranked:
        wrong = np.abs(a - b) > tolerance
        per_channel = wrong.reshape(-1, channels).mean(axis=0)
        if channels > 1 and np.count_nonzero(per_channel) == 1:
            ranked.append(Fingerprint("single_channel", 1.0, "only channel {} differs".format(int(np.argmax(per_channel)))))
        elif step and float(np.abs(a - b).max()) <= step:
            ranked.append(Fingerprint("rounding", 1.0, "no element differs by more than 1 LSB"))
        else:
            low, high = float(b.min()), float(b.max())
            if wrong.any() and np.isin(b[wrong], (low, high)).all() and float(np.abs(a[wrong]).min()) >= min(abs(low), abs(high)):
                ranked.append(Fingerprint("clamped", 1.0, "values are cut at {:.6g} and {:.6g}".format(low, high)))
    return max(ranked, key=lambda item: item.confidence) if ranked else Fingerprint("none", 0.0)
