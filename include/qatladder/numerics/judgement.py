"""Are two tensors the same, what can the evidence prove, and if they differ, what does the difference look like?

One verdict from `compare`, `fingerprint` and the digits of text dumps: bit-exactness has no tolerance, and a text whose digits do not
pin down each value can disprove it but never prove it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.numerics import text
from qatladder.numerics.compare import Comparison, compare
from qatladder.numerics.fingerprint import Fingerprint, fingerprint


@dataclass(frozen=True)
class Judgement:
    """Whether two tensors are identical. True when that is proven.

    Attributes:
        status: `passed`, `failed`, or `unprovable`: no difference is visible, but the digits cannot carry the claim.
        bit_exact: True or False; None when it cannot be known.
        reason: why not, in a sentence; empty when passed.
        comparison: the statistics; None when the tensors cannot be compared element by element (shape, dtype, NaN).
        fingerprint: what the difference looks like.
    """

    status: str
    bit_exact: Optional[bool]
    reason: str
    comparison: Optional[Comparison]
    fingerprint: Fingerprint

    def __bool__(self) -> bool:
        return self.status == "passed"

    @property
    def differing(self) -> str:
        """`3 of 4096 integers differ`, or elements where they are floats."""
        if self.comparison is None:
            return "the tensors cannot be compared: " + self.reason
        kind = "integers" if self.comparison.max_ulp is None else "elements"
        return "{} of {} {} differ".format(self.comparison.mismatches, self.comparison.count, kind)

    def to_json(self) -> Dict[str, Any]:
        """`{status, bit_exact, reason, stats, fingerprint: {cause, confidence, ...}}`."""
        return {
            "status": self.status,
            "bit_exact": self.bit_exact,
            "reason": self.reason,
            "stats": self.comparison.to_json() if self.comparison is not None else None,
            "fingerprint": self.fingerprint.to_json(),
        }


def judge(
    expected: np.ndarray,
    found: np.ndarray,
    what: str = "",
    channel_axis: Optional[int] = None,
    step: float = 0.0,
    limits: Optional[Tuple[float, float]] = None,
) -> Judgement:
    """Compare two tensors and say what a difference looks like.

    Args:
        expected, found: integers or floats, memory-mapped or strided ones too; shape and dtype may differ, which then is the answer.
        what: named in errors.
        channel_axis, step: see `fingerprint`.
        limits: see `compare`.
    """
    if expected.shape != found.shape or expected.dtype.newbyteorder("=") != found.dtype.newbyteorder("="):
        mark = fingerprint(expected, found, channel_axis, step)
        reason = "expected {} {}, found {} {}".format(expected.dtype, list(expected.shape), found.dtype, list(found.shape))
        return Judgement("failed", False, reason, None, mark)
    try:
        comparison = compare(expected, found, what, limits)
    except ArtifactError as error:
        if "side" not in error.where:
            raise
        # NaN or infinity: as numbers they cannot be compared, as bits they can.
        mark = fingerprint(np.nan_to_num(expected), np.nan_to_num(found), channel_axis, step)
        reason = "the {} tensor holds NaN or infinity: {}".format(error.where["side"], error.where.get("found", ""))
        return Judgement("failed", False, reason, None, mark)
    if comparison:
        return Judgement("passed", True, "", comparison, Fingerprint("none", 1.0))
    mark = fingerprint(expected, found, channel_axis, step)
    return Judgement("failed", False, describe(comparison), comparison, mark)


def judge_text(
    expected: np.ndarray,
    found: np.ndarray,
    numbers: np.ndarray,
    form: text.TextFormat,
    what: str = "",
    channel_axis: Optional[int] = None,
    step: float = 0.0,
) -> Judgement:
    """As `judge`, where `found` was read from a text of limited digits.

    Args:
        found: the numbers in the type and shape of `expected`.
        numbers: float64 or int64, same shape: the numbers as the text has them.
        form: how the text writes them.
        step: scale of dequantised integers, if known: then the digits need only tell one integer from the next.
    """
    if expected.shape != found.shape or form.integer:
        return judge(expected, found, what, channel_axis, step)
    proof = text.provable(numbers.reshape(-1), form, found.dtype.name, step or None)
    if step and proof:  # each number stands for one integer: what is compared is the float that integer dequantises to
        integers = np.rint(numbers.astype(np.float64) / step).astype(np.float32)
        found = (integers * np.float32(step)).astype(found.dtype)
    judged = judge(expected, found, what, channel_axis, step)
    if judged and not proof:
        return Judgement("unprovable", None, "no difference is visible, but " + proof.reason, judged.comparison, judged.fingerprint)
    if judged.comparison is not None and not judged:
        agrees = text.agrees(numbers.reshape(-1), form, np.ascontiguousarray(expected).reshape(-1))
        if agrees.all() and not proof:
            reason = "all differences are below the digits of the text: " + proof.reason
            return Judgement("unprovable", None, reason, judged.comparison, Fingerprint("none", 0.0))
    return judged


def describe(comparison: Comparison) -> str:
    """`3 of 4096 integers differ, first at [0, 2, 1]: expected 5, found 6; largest difference 1`."""
    expected, found = comparison.expected_first, comparison.found_first
    assert expected is not None and found is not None
    return "{} of {} {} differ, first at {}: expected {:.9g}, found {:.9g}; largest difference {:.6g}".format(
        comparison.mismatches,
        comparison.count,
        "integers" if comparison.max_ulp is None else "elements",
        list(comparison.first or ()),
        expected,
        found,
        comparison.max_abs,
    )
