"""Reading numbers from text against numpy.loadtxt, both in one run: `make bench`. Prints; asserts nothing about time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from tests.bench.timing import best

from qatladder.numerics.text import parse_numbers


def text(form: str, count: int) -> bytes:
    rng = np.random.default_rng(0)
    if form == "one integer per line":
        return "\n".join(map(str, rng.integers(-128, 128, count).tolist())).encode() + b"\n"
    if form == "64 integers per line":
        rows = rng.integers(-30000, 30000, (count // 64, 64)).tolist()
        return "\n".join(" ".join(map(str, row)) for row in rows).encode() + b"\n"
    values = rng.standard_normal(count).astype(np.float32).tolist()
    if form == "%.6f per line":
        return "\n".join(f"{value:.6f}" for value in values).encode() + b"\n"
    lines = (values[at : at + 64] for at in range(0, count, 64))
    return "\n".join(",".join(f"{value:.9g}" for value in line) for line in lines).encode() + b"\n"


@pytest.mark.parametrize("count", [64 * 10**3, 64 * 10**4, 64 * 5 * 10**4])
@pytest.mark.parametrize("form", ["one integer per line", "64 integers per line", "%.6f per line", "64 x %.9g, comma"])
def test_parse_numbers_against_loadtxt(form: str, count: int) -> None:
    data = text(form, count)
    dtype = np.int64 if "integer" in form else np.float64
    delimiter = "," if "comma" in form else None
    expected = np.loadtxt(io.BytesIO(data), dtype, delimiter=delimiter).ravel()
    np.testing.assert_array_equal(parse_numbers(data).values, expected)
    ours = best(lambda: parse_numbers(data), 5)
    theirs = best(lambda: np.loadtxt(io.BytesIO(data), dtype, delimiter=delimiter), 2)
    print(
        f"\n{form}, {len(data) / 1e6:.1f} MB: {ours * 1e3:.1f} ms, {ours / count * 1e9:.1f} ns per number; loadtxt / ours = {theirs / ours:.1f}"
    )
