"""What do the raw values of one output look like, sample by sample?

One pass over a memory-mapped [N, ...] array, in chunks, with float64 accumulators: an array of any size is described in
a few chunks' memory. Numpy only; the rows are plain JSON, judged by `qatladder.quality.expectations` in another process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatladder.errors import ArtifactError, ConfigError

DTYPES = ("int8", "uint8", "int16", "int32", "float32")
"""What a BPU or the int model emits; anything else is no raw output."""

CHUNK_ELEMENTS = 1 << 20
"""Elements held at once; about 25 bytes of scratch each (float64 copy, masks)."""

Row = dict[str, Any]
Limits = tuple[float, float]


def representable_limits(dtype: str) -> Limits:
    """Lowest and highest finite value of a dtype (numpy name)."""
    if dtype not in DTYPES:
        raise ConfigError("not the dtype of a raw output", expected=", ".join(DTYPES), found=dtype)
    if dtype == "float32":
        info = np.finfo(np.float32)
        return float(info.min), float(info.max)
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def array_statistics(array: NDArray[Any], output: str, limits: Limits | None = None, chunk_elements: int = CHUNK_ELEMENTS) -> list[Row]:
    """Describe every sample of one output.

    Args:
        array: [N, ...], any layout, one of `DTYPES`; may be memory-mapped.
        output: the output's name, copied into the rows.
        limits: the lowest and highest value the output can represent, when narrower than its dtype (an int8 output dumped as
            int32); default: the dtype's own.
        chunk_elements: elements processed at once.
    Returns:
        N rows in order, each JSON-able:
        `output`, `sample` (index), `dtype`, `count` (elements), `finite_count`, `nan_count`,
        `min`, `max`, `mean`, `std` (population, all four over the finite values in the output's own unit; None when there are none),
        `zero_share`, `saturation_share` (share of all elements at or beyond a limit; an infinity is beyond),
        `distinct` (False: all finite values are equal; None: the sample has a single element, so the question means nothing),
        `range_low`, `range_high` (the limits used).
    Raises:
        ArtifactError: not [N, ...] of one of the dtypes, or samples without elements.
        ConfigError: the limits are not low < high.
    """
    dtype = str(array.dtype)
    if dtype not in DTYPES or array.ndim < 1 or 0 in array.shape[1:]:
        raise ArtifactError(
            "not a raw output array",
            output=output,
            expected=f"[N, ...] of {', '.join(DTYPES)}, at least one element per sample",
            found=f"{list(array.shape)} {dtype}",
            next_step="look at what dumped this output",
        )
    low, high = limits if limits is not None else representable_limits(dtype)
    if not low < high:
        raise ConfigError("the representable range is empty", output=output, found=f"{low} .. {high}", expected="low < high")
    rows = []
    for first, parts in _blocks(array, max(1, chunk_elements)):
        moments = None
        for part in parts:
            moments = _merge(moments, _moments(part, low, high))
        assert moments is not None
        rows += [_row(moments, index, output, first + index, dtype, low, high) for index in range(len(moments["count"]))]
    return rows


def file_statistics(path: Path, output: str, limits: Limits | None = None) -> list[Row]:
    """`array_statistics` of a .npy file, memory-mapped.

    Raises:
        ArtifactError: the file is missing, truncated or no .npy.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            "the dump cannot be read as .npy",
            output=output,
            file=path,
            found=error,
            next_step="look at the rung that wrote it: a missing or truncated dump is no statement about the model",
        ) from error
    return array_statistics(array, output, limits)


def write_table(files: Mapping[str, Path], table: Path, limits: Mapping[str, Limits] | None = None) -> int:
    """Write the statistics of several outputs as one table: a JSON list of rows, complete or absent.

    Args:
        files: [N, ...] .npy by output name.
        table: the file to write.
        limits: representable range by output name, where narrower than the dtype.
    Returns:
        The number of rows.
    """
    rows = [row for output, path in files.items() for row in file_statistics(path, output, (limits or {}).get(output))]
    table.parent.mkdir(parents=True, exist_ok=True)
    temporary = table.with_name(table.name + ".part")
    temporary.write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")
    temporary.replace(table)
    return len(rows)


def read_table(tables: Sequence[str | Path]) -> list[Row]:
    """The rows of tables written by `write_table`.

    Raises:
        ArtifactError: a table is missing or is not such a list.
    """
    rows: list[Row] = []
    for table in tables:
        try:
            found = json.loads(Path(table).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError("the statistics table cannot be read", file=table, found=error) from error
        if not isinstance(found, list) or not all(isinstance(row, dict) and {"output", "sample"} <= row.keys() for row in found):
            raise ArtifactError("not a statistics table", file=table, expected="a JSON list of rows with output and sample")
        rows += found
    return rows


def _blocks(array: NDArray[Any], limit: int) -> Iterator[tuple[int, Iterator[NDArray[Any]]]]:
    """(first sample, its [samples, elements] parts): many small samples at once, or one large sample in slices."""
    width = math.prod(array.shape[1:])
    per_block = max(1, limit // width)
    for first in range(0, array.shape[0], per_block):
        yield first, _parts(array[first : first + per_block], limit)


def _parts(block: NDArray[Any], limit: int) -> Iterator[NDArray[Any]]:
    """Slice the samples along their leading axes until a slice fits; never copies more than one slice."""
    width = math.prod(block.shape[1:])
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


def _moments(values: NDArray[Any], low: float, high: float) -> dict[str, NDArray[Any]]:
    """Sufficient statistics of [samples, elements], one entry per sample; `m2` is the sum of squared deviations from the mean."""
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    count = np.full(len(wide), wide.shape[1], dtype=np.int64)
    finite_count = finite.sum(axis=1)
    saturated = ((wide <= low) | (wide >= high)).sum(axis=1)
    nan = np.isnan(wide).sum(axis=1)
    zero = (wide == 0).sum(axis=1)
    minimum = np.min(wide, axis=1, where=finite, initial=np.inf)
    maximum = np.max(wide, axis=1, where=finite, initial=-np.inf)
    divisor = np.maximum(finite_count, 1)
    mean = np.sum(wide, axis=1, where=finite) / divisor
    np.subtract(wide, mean[:, None], out=wide, where=finite)
    np.square(wide, out=wide, where=finite)
    m2 = np.sum(wide, axis=1, where=finite)
    return {
        "count": count,
        "finite": finite_count,
        "nan": nan,
        "zero": zero,
        "saturated": saturated,
        "min": minimum,
        "max": maximum,
        "mean": mean,
        "m2": m2,
    }


def _merge(left: dict[str, NDArray[Any]] | None, right: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Join the statistics of two parts of the same samples (Chan, Golub, LeVeque 1979: exact up to rounding)."""
    if left is None:
        return right
    total = left["finite"] + right["finite"]
    share = right["finite"] / np.maximum(total, 1)
    delta = right["mean"] - left["mean"]
    merged = {key: left[key] + right[key] for key in ("count", "finite", "nan", "zero", "saturated")}
    merged["min"] = np.minimum(left["min"], right["min"])
    merged["max"] = np.maximum(left["max"], right["max"])
    merged["mean"] = left["mean"] + delta * share
    merged["m2"] = left["m2"] + right["m2"] + delta * delta * left["finite"] * share
    return merged


def _row(moments: Mapping[str, NDArray[Any]], index: int, output: str, sample: int, dtype: str, low: float, high: float) -> Row:
    count, finite = int(moments["count"][index]), int(moments["finite"][index])
    minimum, maximum = float(moments["min"][index]), float(moments["max"][index])
    return {
        "output": output,
        "sample": sample,
        "dtype": dtype,
        "count": count,
        "finite_count": finite,
        "nan_count": int(moments["nan"][index]),
        "min": minimum if finite else None,
        "max": maximum if finite else None,
        "mean": float(moments["mean"][index]) if finite else None,
        "std": math.sqrt(float(moments["m2"][index]) / finite) if finite else None,
        "zero_share": int(moments["zero"][index]) / count,
        "saturation_share": int(moments["saturated"][index]) / count,
        "distinct": (finite > 1 and minimum < maximum) if count > 1 else None,
        "range_low": low,
        "range_high": high,
    }
