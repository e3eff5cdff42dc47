"""Speed of the one-pass statistics of dumps as ratios, both sides in one run: `make bench`. Prints; asserts nothing about time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bench.timing import best

from qatladder.numerics.statistics import describe, representable_limits


def dumps(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape, dtype=np.float32) * 30).astype(dtype)


def multi_pass(array: np.ndarray) -> list[tuple[Any, ...]]:
    """The same numbers the plain way: each sample as float64, a pass for each number."""
    low, high = representable_limits(str(array.dtype))
    rows = []
    for sample in array:
        wide = np.asarray(sample, np.float64).ravel()
        shares = np.unique(sample, return_counts=True)[1] / wide.size
        finite = np.isfinite(wide).sum(), np.isnan(wide).sum(), (wide == 0).mean(), ((wide <= low) | (wide >= high)).mean()
        rows.append((*finite, wide.min(), wide.max(), wide.mean(), wide.std(), -(shares * np.log2(shares)).sum()))
    return rows


@pytest.mark.parametrize("shape", [(16, 64, 128, 128), (800, 20, 1000)], ids=["large samples", "small samples"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_statistics(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "dump.npy", dumps(dtype, shape))
    array = np.load(tmp_path / "dump.npy", mmap_mode="r")
    ours, once = best(lambda: describe(array), 3), best(lambda: int(array.view(np.uint8).max()))
    plain = best(lambda: multi_pass(array), 1)
    print(
        f"\nstatistics {dtype} {list(shape)}: {array.nbytes / ours / 1e9:.2f} GB/s, {ours * 1e9 / array.size:.2f} ns an element; "
        f"of reading once {once / ours:.2f}; plain numpy / ours = {plain / ours:.1f}"
    )
