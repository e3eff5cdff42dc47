"""Promises of qatladder.quality.statistics: the numbers are numpy's, whatever the layout, dtype and chunk size."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qatladder.errors import ArtifactError, ConfigError
from qatladder.quality.statistics import array_statistics, file_statistics, read_table, representable_limits, write_table


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
        "zero_share": np.mean(wide == 0),
        "saturation_share": np.mean((wide <= low) | (wide >= high)),
        "distinct": (len(set(finite)) > 1) if wide.size > 1 else None,
    }


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    floats = (random.normal(size=(4, 3, 5, 7)) * 1e3).astype(np.float32)
    floats[1, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    floats[2] = np.nan
    floats[3] = 2.5
    return {
        "int8": random.integers(-128, 128, (5, 6, 7, 2), dtype=np.int8),
        "uint8": random.integers(0, 256, (3, 11), dtype=np.uint8),
        "int16": random.integers(-32768, 32768, (2, 9, 4), dtype=np.int16),
        "int32": np.array([[-(2**31), 2**31 - 1, 0, 0], [7, 7, 7, 7]], dtype=np.int32),
        "large offset": (np.arange(2 * 1000, dtype=np.int32).reshape(2, 1000) + 2_000_000_000),
        "float32": floats,
        "one element per sample": np.array([[1.0], [2.0]], dtype=np.float32),
        "no inner axis": np.arange(6, dtype=np.int16),
        "fortran order": np.asfortranarray(random.integers(-5, 6, (3, 8, 4), dtype=np.int8)),
        "strided view": random.integers(-5, 6, (3, 16, 8), dtype=np.int8)[:, ::2, 1::3],
    }


@pytest.mark.parametrize("chunk", [1, 7, 50, 1 << 20])
@pytest.mark.parametrize("name", arrays())
def test_every_number_is_numpys(name: str, chunk: int) -> None:
    array = arrays()[name]
    low, high = representable_limits(str(array.dtype))
    rows = array_statistics(array, "out", chunk_elements=chunk)
    assert [row["sample"] for row in rows] == list(range(len(array)))
    for row, sample in zip(rows, array, strict=True):
        assert (row["output"], row["dtype"], row["range_low"], row["range_high"]) == ("out", str(array.dtype), low, high)
        for key, expected in reference(np.asarray(sample), low, high).items():
            if isinstance(expected, float):
                assert row[key] == pytest.approx(expected, rel=1e-12, abs=1e-9), key
            else:
                assert row[key] == expected, key


def test_mean_and_std_survive_a_large_offset() -> None:
    """Summing squares in one pass would lose the std of values 2e9 +- 300 in float64 to about 1e-2; merged moments do not."""
    values = (np.random.default_rng(0).normal(size=(1, 100_000)) * 300 + 2e9).astype(np.int32)
    (row,) = array_statistics(values, "out", chunk_elements=1000)
    assert row["std"] == pytest.approx(values.astype(np.longdouble).std(), rel=1e-11)


def test_given_limits_replace_the_dtypes() -> None:
    array = np.array([[-128, 127, 200, 0]], dtype=np.int32)
    (row,) = array_statistics(array, "out", limits=(-128, 127))
    assert row["saturation_share"] == 0.75
    assert array_statistics(array, "out")[0]["saturation_share"] == 0
    with pytest.raises(ConfigError, match="empty"):
        array_statistics(array, "out", limits=(1, 1))


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 3)), np.zeros((2, 3), dtype=np.complex64), np.zeros((2, 0), dtype=np.int8), np.array(["a"])],
    ids=["float64", "complex", "no elements", "text"],
)
def test_what_is_no_raw_output_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="not a raw output"):
        array_statistics(array, "out")


def test_no_sample_gives_no_row() -> None:
    assert array_statistics(np.zeros((0, 4), dtype=np.int8), "out") == []


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path, order: str) -> None:
    path = tmp_path / "large.npy"
    shape = (2, 64, 512, 512)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=shape, fortran_order=order == "F")
    array[0, :, :100] = 3
    del array
    tracemalloc.start()
    rows = file_statistics(path, "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[0]["zero_share"] == 1 - 100 / 512
    assert rows[1]["distinct"] is False
    assert peak < 48e6  # of 34 MB on disk, 268 MB as float64


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_a_dump_that_cannot_be_read_is_an_artifact_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "dump.npy"
    if damage == "truncated":
        np.save(path, np.zeros((4, 100), dtype=np.int8))
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "text":
        path.write_text("1 2 3")
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        file_statistics(path, "logits")
    assert caught.value.where["output"] == "logits"


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    files = {}
    for name, array in (("a", arrays()["float32"]), ("b", arrays()["int8"])):
        files[name] = tmp_path / f"{name}.npy"
        np.save(files[name], array)
    table = tmp_path / "deep" / "statistics.json"
    assert write_table(files, table, {"b": (-100, 100)}) == 9
    expected = array_statistics(arrays()["float32"], "a") + array_statistics(arrays()["int8"], "b", (-100, 100))
    assert read_table([table]) == expected
    assert not list(table.parent.glob("*.part"))


@pytest.mark.parametrize("content", [None, "{", "{}", json.dumps([{"output": "a"}])])
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | None) -> None:
    table = tmp_path / "table.json"
    if content is not None:
        table.write_text(content)
    with pytest.raises(ArtifactError):
        read_table([table])
