"""Speed as ratios, both sides in one run: `make bench`. Prints; asserts nothing about time."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from qatladder.numerics import colour
from qatladder.numerics.compare import compare


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def multi_pass(a: np.ndarray, b: np.ndarray) -> tuple[float, ...]:
    """The same statistics the plain way: whole arrays, float64, one pass each."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    delta = np.abs(x - y)
    return float(delta.max()), float(delta.mean()), float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)), float((a != b).sum())


@pytest.mark.parametrize("megabytes", [4, 16, 64])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_compare_against_plain_numpy(megabytes: int, dtype: str) -> None:
    count = megabytes * 10**6 // np.dtype(dtype).itemsize
    a = np.random.default_rng(0).integers(-128, 128, count).astype(dtype)
    b = a.copy()
    b[:: count // 100] += 1
    ours, plain, read = best(lambda: compare(a, b), 3), best(lambda: multi_pass(a, b), 3), best(a.sum, 3)
    rate = 2 * megabytes / 1000 / ours
    print(
        f"\ncompare {dtype} {megabytes} MB: {ours * 1e3:.0f} ms, {rate:.2f} GB/s; plain numpy / ours = {plain / ours:.2f}; ours / one read = {ours / read:.1f}"
    )


def test_nv12_to_the_intermediate_type() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 1620, 1920)).astype(np.uint8)
    ours = best(lambda: (colour.nv12_to_yuv444(frame).astype(np.int16) - 128).astype(np.int8))
    copy = best(lambda: np.repeat(frame, 2))
    print(f"\nnv12 1920x1080 -> yuv444_128: {ours * 1e3:.1f} ms; ours / a copy of the same size = {ours / copy:.1f}")
