"""Promises of qatladder.numerics.statistics: the numbers are numpy's, whatever the layout, dtype and chunk size, and parts merge."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics.statistics import BINS, DTYPES, Histogram, describe, representable_limits


def reference(sample: np.ndarray, low: float, high: float) -> dict:
    """The same numbers by plain numpy, over one whole sample."""
    wide = sample.astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    some = finite.size > 0
    return {
        "count": wide.size,
        "finite_count": finite.size,
        "nan_count": int(np.isnan(wide).sum()),
        "min": finite.min() if some else None,
        "max": finite.max() if some else None,
        "mean": finite.mean() if some else None,
        "std": finite.std() if some else None,
        "entropy": entropy(finite) if some else None,
        "zero_share": np.mean(wide == 0),
        "saturation_share": np.mean((wide <= low) | (wide >= high)),
        "distinct": (len(set(finite)) > 1) if wide.size > 1 else None,
    }


def truncated(values: np.ndarray) -> np.ndarray:
    """float32 with 8 significant bits, towards zero, the way Python's own floats do it."""
    mantissa, exponent = np.frexp(values.astype(np.float32).astype(np.float64))
    return np.ldexp(np.trunc(mantissa * 256), exponent - 8) + 0.0


def entropy(finite: np.ndarray) -> float:
    """Shannon's formula over the distinct truncated values."""
    shares = np.unique(truncated(finite), return_counts=True)[1] / finite.size
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    floats = (random.normal(size=(4, 3, 5, 7)) * 1e3).astype(np.float32)
    floats[1, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    floats[2] = np.nan
    floats[3] = 2.5
    return {
        "int8": random.integers(-128, 128, (5, 6, 7, 2), dtype=np.int8),
        "int8 in tables": random.integers(-128, 128, (3, 700), dtype=np.int8),
        "uint8 in tables": random.integers(0, 256, (2, 300), dtype=np.uint8),
        "uint8": random.integers(0, 256, (3, 11), dtype=np.uint8),
        "int16": random.integers(-32768, 32768, (2, 9, 4), dtype=np.int16),
        "uint16": random.integers(0, 65536, (2, 9, 4), dtype=np.uint16),
        "int32": np.array([[-(2**31), 2**31 - 1, 0, 0], [7, 7, 7, 7]], dtype=np.int32),
        "uint32": np.array([[2**32 - 1, 1, 0, 0]], dtype=np.uint32),
        "int64": np.array([[-(2**40), 2**40, 5, 0]], dtype=np.int64),
        "uint64": np.array([[2**40, 0, 5, 0]], dtype=np.uint64),
        "bool": random.integers(0, 2, (3, 20)).astype(bool),
        "many bools": random.integers(0, 2, (2, 500)).astype(bool),
        "large offset": (np.arange(2 * 1000, dtype=np.int32).reshape(2, 1000) + 2_000_000_000),
        "counted one by one": random.normal(size=(2, 20_000)).astype(np.float32),
        "float32": floats,
        "float16": random.normal(size=(3, 50)).astype(np.float16),
        "float64": random.normal(size=(3, 50)),
        "minus zero": np.array([[0.0, -0.0, -0.0, 1.0]], dtype=np.float32),
        "one element per sample": np.array([[1.0], [2.0]], dtype=np.float32),
        "no inner axis": np.arange(6, dtype=np.int16),
        "fortran order": np.asfortranarray(random.integers(-5, 6, (3, 8, 4), dtype=np.int8)),
        "strided view": random.integers(-5, 6, (3, 16, 8), dtype=np.int8)[:, ::2, 1::3],
        "big endian": random.integers(-900, 900, (3, 40)).astype(">i4"),
    }


@pytest.mark.parametrize("chunk", [1, 7, 50, 1 << 20])
@pytest.mark.parametrize("name", arrays())
def test_every_number_is_numpys(name: str, chunk: int) -> None:
    array = arrays()[name]
    low, high = representable_limits(str(array.dtype.newbyteorder("=")))
    found = describe(array if array.size < 10_000 or chunk >= 50 else array[:, :500], chunk_elements=chunk)
    assert [row["sample"] for row in found.samples] == list(range(len(array)))
    for row, sample in zip(found.samples, array if array.size < 10_000 or chunk >= 50 else array[:, :500]):
        assert (row["dtype"], row["range_low"], row["range_high"]) == (found.dtype, low, high)
        for key, expected in reference(np.asarray(sample), low, high).items():
            if isinstance(expected, float):
                assert row[key] == pytest.approx(expected, rel=1e-12, abs=1e-9), key
            else:
                assert row[key] == expected, key
    json.dumps(found.samples, allow_nan=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_a_tool_dumps_has_limits_that_hold_its_values(dtype: str) -> None:
    low, high = representable_limits(dtype)
    ends = np.array([[0, 1]]).astype(dtype)
    (row,) = describe(ends).samples
    assert low <= row["min"] <= row["max"] <= high
    if dtype == "bool":
        assert row["saturation_share"] == 0, "one of two values is no saturation"


def test_mean_and_std_survive_a_large_offset() -> None:
    """Summing squares in one pass would lose the std of values 2e9 +- 300 in float64 to about 1e-2; merged moments do not."""
    values = (np.random.default_rng(0).normal(size=(1, 100_000)) * 300 + 2e9).astype(np.int32)
    (row,) = describe(values, chunk_elements=1000).samples
    assert row["std"] == pytest.approx(values.astype(np.longdouble).std(), rel=1e-11)


def test_given_limits_replace_the_dtypes() -> None:
    array = np.array([[-128, 127, 200, 0]], dtype=np.int32)
    (row,) = describe(array, (-128, 127)).samples
    assert row["saturation_share"] == 0.75
    assert describe(array).samples[0]["saturation_share"] == 0
    with pytest.raises(ConfigError, match="empty"):
        describe(array, (1, 1))


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3), dtype=np.complex64), np.zeros((2, 0), dtype=np.int8), np.array(["a"]), np.array(1.0)],
    ids=["complex", "no elements", "text", "no axis"],
)
def test_what_is_no_raw_output_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="not a raw output"):
        describe(array)


def test_no_sample_gives_no_row() -> None:
    found = describe(np.zeros((0, 4), dtype=np.int8))
    assert found.samples == () and found.histogram.total == 0 and found.histogram.entropy() is None


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_is_read_in_bounded_memory(tmp_path, order: str) -> None:
    path = tmp_path / "large.npy"
    shape = (2, 64, 512, 512)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=shape, fortran_order=order == "F")
    array[0, :, :100] = 3
    del array
    tracemalloc.start()
    rows = describe(np.load(path, mmap_mode="r")).samples
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[0]["zero_share"] == 1 - 100 / 512
    assert rows[1]["distinct"] is False
    assert peak < 16e6  # of 34 MB on disk, 268 MB as float64


# --- merging -----------------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    nps.arrays(st.sampled_from([np.int8, np.uint8, np.int16, np.int32]), nps.array_shapes(min_dims=2, max_dims=3, max_side=9)),
    nps.arrays(np.float32, nps.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(width=32)),
)


@settings(max_examples=80, deadline=None)
@given(numbers, st.integers(1, 900))
def test_in_chunks_or_at_once_and_in_halves_or_whole(array: np.ndarray, chunk: int) -> None:
    """Counts, extremes, shares, entropy and histogram are exactly the same; mean and std up to rounding."""
    whole, chunked = describe(array), describe(array, chunk_elements=chunk)
    assert np.array_equal(whole.histogram.counts, chunked.histogram.counts)
    halves = [describe(half).histogram for half in (array[: len(array) // 2], array[len(array) // 2 :])]
    assert np.array_equal(halves[1].merge(halves[0]).counts, whole.histogram.counts)
    assert whole.histogram.total == int(np.isfinite(array.astype(np.float64)).sum())
    for one, other in zip(whole.samples, chunked.samples):
        for key in one:
            if key in ("mean", "std", "entropy") and one[key] is not None:
                size = max(abs(one["min"]), abs(one["max"]), 1.0)
                assert other[key] == pytest.approx(one[key], rel=1e-9, abs=1e-9 * size), key
            else:
                assert other[key] == one[key], key


@settings(max_examples=100, deadline=None)
@given(nps.arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_histogram_survives_json_and_holds_truncated_values(values: np.ndarray) -> None:
    histogram = describe(values[None]).histogram
    again = Histogram.from_json(json.loads(json.dumps(histogram.to_json())))
    assert np.array_equal(again.counts, histogram.counts)
    held, counts = histogram.values()
    normal = np.abs(values) >= np.finfo(np.float32).tiny  # below, bins have fewer bits
    if normal.all():
        expected = np.unique(truncated(values), return_counts=True)
        assert np.array_equal(held, expected[0]) and np.array_equal(counts, expected[1])


@pytest.mark.parametrize(
    "data", [{}, {"bins": [1]}, {"bins": [1], "counts": [1, 2]}, {"bins": [BINS], "counts": [1]}, {"bins": [-1], "counts": [1]}, {"bins": "x", "counts": 3}]
)  # fmt: skip
def test_what_is_no_histogram_is_refused(data: dict) -> None:
    with pytest.raises(ArtifactError, match="not a histogram"):
        Histogram.from_json(data)


def test_integers_up_to_256_have_a_bin_each() -> None:
    values = np.arange(-256, 257, dtype=np.int16)
    held, counts = describe(values[None]).histogram.values()
    assert np.array_equal(held, values) and set(counts.tolist()) == {1}
    assert describe(values[None]).samples[0]["entropy"] == pytest.approx(np.log2(513))


# --- distance ----------------------------------------------------------------------------------------------------------------


def histogram(*values: float) -> Histogram:
    return describe(np.array([values], dtype=np.float32)).histogram


def test_the_distance_is_the_share_of_values_that_moved() -> None:
    ours = histogram(*range(10, 20))
    assert ours.distance(ours, 1) == 0
    assert ours.distance(histogram(*range(11, 21)), 1) == 0, "one integer step is no move"
    assert ours.distance(histogram(*range(12, 22)), 1) == pytest.approx(0.1)
    assert ours.distance(histogram(*range(30, 40)), 1) == 1
    three = histogram(*[100] * 3, *range(13, 20))
    assert ours.distance(three, 1) == pytest.approx(0.3) == three.distance(ours, 1)


def test_without_a_step_only_a_neighbouring_bin_is_forgiven() -> None:
    assert histogram(1.0).distance(histogram(1.0 + 1 / 128)) == 0
    assert histogram(1.0).distance(histogram(1.0 + 2 / 128)) == 1
    assert histogram(-1.0).distance(histogram(-1.0 - 1 / 128)) == 0
    assert histogram(0.0).distance(histogram(1e-3)) == 1


@settings(max_examples=100, deadline=None)
@given(*[nps.arrays(np.int16, st.integers(1, 60), elements=st.integers(-200, 200))] * 2)
def test_the_distance_is_kolmogorovs_with_a_step_forgiven(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Held against the definition: the largest surplus of values at or below a point over those at or below a point beside it."""

    def below(values: np.ndarray, point: float) -> float:
        return float(np.mean(values <= point))

    expected = max(
        0.0,
        *(below(a, point) - below(b, point + max(1, abs(point) / 128)) for a, b in ((ours, theirs), (theirs, ours)) for point in a),
    )
    assert describe(ours[None]).histogram.distance(describe(theirs[None]).histogram, 1) == pytest.approx(expected, abs=1e-12)


def test_an_empty_histogram_has_no_distance() -> None:
    with pytest.raises(ArtifactError, match="empty"):
        Histogram().distance(histogram(1.0))


@pytest.mark.parametrize("width", [100, 700, 20_000])
@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_chunks_of_a_wide_sample_join_exactly(dtype: str, width: int) -> None:
    """Tables of bytes, sorted bins and counted bins are three ways to the same numbers."""
    array = (np.random.default_rng(2).normal(size=(3, 2, width)) * 40).astype(dtype)
    whole = describe(array)
    for chunk in (width // 3, width, 3 * width, 6 * width):
        found = describe(array, chunk_elements=chunk)
        assert np.array_equal(found.histogram.counts, whole.histogram.counts)
        for one, other in zip(whole.samples, found.samples):
            for key in one:
                close = isinstance(one[key], float)
                assert other[key] == (pytest.approx(one[key], rel=1e-12, abs=1e-12) if close else one[key]), key
