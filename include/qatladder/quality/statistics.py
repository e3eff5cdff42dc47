"""The statistics of a night's raw outputs as a file: a table with a row per output and sample, and a histogram per output.

The numbers come from `qatladder.numerics.statistics`, in one pass; the table is plain JSON, judged by `qatladder.quality.expectations`
in another process, and what later nights are held against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.numerics.statistics import Description, Histogram, Limits, describe

FORMAT = 2
"""Version of the file; 1 had no entropy and no histograms."""

Row = dict[str, Any]
"""A row of `numerics.statistics.describe` with its `output`."""


@dataclass
class Table:
    """Rows of outputs and samples, and each output's histogram over all samples."""

    rows: list[Row] = field(default_factory=list)
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def add(self, output: str, found: Description) -> None:
        self.rows += [{"output": output, **row} for row in found.samples]
        self.histograms[output] = found.histogram


def file_statistics(path: Path, output: str, limits: Limits | None = None) -> Description:
    """`describe` of a .npy file, memory-mapped.

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
    return describe(array, limits, output)


def write_table(files: Mapping[str, Path], table: Path, limits: Mapping[str, Limits] | None = None) -> int:
    """Write the statistics of several outputs as one file, complete or absent. Equal dumps give equal bytes.

    Args:
        files: [N, ...] .npy by output name.
        table: the file to write.
        limits: representable range by output name, where narrower than the dtype.
    Returns:
        The number of rows.
    """
    found = Table()
    for output, path in files.items():
        found.add(output, file_statistics(path, output, (limits or {}).get(output)))
    data = {
        "statistics": FORMAT,
        "rows": found.rows,
        "histograms": {output: histogram.to_json() for output, histogram in found.histograms.items()},
    }
    table.parent.mkdir(parents=True, exist_ok=True)
    temporary = table.with_name(table.name + ".part")
    temporary.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
    temporary.replace(table)
    return len(found.rows)


def read_table(tables: Sequence[str | Path]) -> Table:
    """What `write_table` wrote, of several files together: rows one after the other, histograms merged.

    Raises:
        ArtifactError: a file is missing, is no such table, or one of an older version.
    """
    whole = Table()
    for table in tables:
        try:
            data = json.loads(Path(table).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError("the statistics table cannot be read", file=table, found=error) from error
        version = data.get("statistics") if isinstance(data, dict) else "none"
        rows, histograms = (data.get("rows"), data.get("histograms")) if version == FORMAT else (None, None)
        if (
            not isinstance(rows, list)
            or not isinstance(histograms, dict)
            or not all(isinstance(row, dict) and {"output", "sample"} <= row.keys() for row in rows)
        ):
            raise ArtifactError(
                "not a statistics table", file=table, expected=f"version {FORMAT}: rows with output and sample, histograms", found=version
            )
        whole.rows += rows
        for output, item in histograms.items():
            whole.histograms[output] = Histogram.from_json(item).merge(whole.histograms.get(output, Histogram()))
    return whole
