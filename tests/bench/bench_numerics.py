"""Speed of comparison as ratios, all sides in one run: `make bench`. Prints; asserts nothing about time."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tests.bench.timing import best

from qatladder.numerics.compare import BOUNDS, compare, identical

SIZES = (16, 64, 256)
"""MB per tensor."""

POOL = ThreadPoolExecutor(2)


def read(array: np.ndarray) -> int:
    """Read every byte once, on two threads: the machine's read bandwidth."""
    words = array.reshape(-1).view(np.uint64)
    half = words.size // 2
    return max(int(value) for value in POOL.map(np.max, (words[:half], words[half:])))


def tensors(dtype: str, megabytes: int) -> tuple[np.ndarray, np.ndarray]:
    """[N, 64, 56, 56] with small differences in two thirds of the elements."""
    rng = np.random.default_rng(0)
    count = max(1, megabytes * 10**6 // np.dtype(dtype).itemsize // (64 * 56 * 56))
    shape = (count, 64, 56, 56)
    if dtype == "float32":
        a = rng.standard_normal(shape, dtype=np.float32)
        return a, a + (rng.standard_normal(shape, dtype=np.float32) * np.float32(1e-3)) * rng.integers(0, 3, shape, dtype=np.int8)
    a = rng.integers(-100, 100, shape, dtype=np.int8).astype(dtype)
    return a, a + rng.integers(-1, 2, shape, dtype=np.int8).astype(dtype)


def multi_pass(a: np.ndarray, b: np.ndarray) -> tuple[Any, ...]:
    """The same statistics the plain way: whole arrays, float64, one pass each."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = y - x
    size = np.abs(error)
    wrong = a != b
    left = np.abs(x)
    values: list[Any] = [size.max(), size.mean(), error.mean(), np.square(error).mean()]
    values += [(x * y).sum() / np.sqrt(np.square(x).sum() * np.square(y).sum()), np.max(size[x != 0] / left[x != 0])]
    values += [left.max(), np.abs(y).max(), (x == 0).mean(), (y == 0).mean(), wrong.sum()]
    if a.dtype.kind == "i":
        low, high = np.iinfo(a.dtype).min, np.iinfo(a.dtype).max
        values += [((side <= low) | (side >= high)).mean() for side in (a, b)] + [(size >= bound).sum() for bound in BOUNDS]
    for axis in range(a.ndim):
        others = tuple(index for index in range(a.ndim) if index != axis)
        values += [wrong.sum(axis=others), size.max(axis=others)]
    return tuple(values)


@pytest.mark.parametrize("megabytes", SIZES)
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_bit_exact(dtype: str, megabytes: int) -> None:
    a, _ = tensors(dtype, megabytes)
    b = a.copy()
    ours, once = best(lambda: identical(a, b)), best(lambda: read(a))
    rate, bandwidth = 2 * a.nbytes / ours, a.nbytes / once
    print(
        f"\nidentical {dtype} {megabytes} MB: {rate / 1e9:.1f} GB/s; read bandwidth {bandwidth / 1e9:.1f} GB/s; ratio {rate / bandwidth:.2f}"
    )


@pytest.mark.parametrize("megabytes", SIZES)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_full_statistics(dtype: str, megabytes: int) -> None:
    a, b = tensors(dtype, megabytes)
    ours = best(lambda: compare(a, b), 3)
    once = best(lambda: read(a))
    plain = best(lambda: multi_pass(a, b), 1) if megabytes <= 64 else float("nan")
    print(
        f"\ncompare {dtype} {megabytes} MB: {2 * a.nbytes / ours / 1e9:.2f} GB/s, {ours * 1e9 / a.size:.2f} ns an element; "
        f"of read bandwidth {2 * a.nbytes / ours * once / a.nbytes:.2f}; plain numpy / ours = {plain / ours:.1f}"
    )


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_against_polygraphy(dtype: str) -> None:
    comparator = pytest.importorskip("polygraphy.comparator")
    logger = importlib.import_module("polygraphy.logger").G_LOGGER
    logger.severity = logger.CRITICAL
    a, b = tensors(dtype, 64)
    results = [comparator.IterationResult(outputs={"y": array}) for array in (a, b)]
    theirs = best(lambda: comparator.CompareFunc.simple(check_error_stat="max")(*results), 2)
    ours = best(lambda: compare(a, b), 3)
    print(f"\ncompare {dtype} 64 MB: Polygraphy / ours = {theirs / ours:.1f} ({theirs:.2f} s, {ours:.3f} s)")
