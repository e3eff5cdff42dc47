"""Promises of qatladder.quality.statistics: a table survives its file, equal dumps give equal bytes, and what is no table is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qatladder.errors import ArtifactError
from qatladder.numerics.statistics import describe
from qatladder.quality.statistics import FORMAT, file_statistics, read_table, write_table


def dumps(folder: Path, seed: int = 0) -> dict[str, Path]:
    random = np.random.default_rng(seed)
    files = {"a": folder / "a.npy", "b": folder / "b.npy"}
    np.save(files["a"], random.normal(size=(4, 3, 5)).astype(np.float32))
    np.save(files["b"], random.integers(-128, 128, (5, 6, 7), dtype=np.int8))
    return files


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


def test_a_table_survives_its_file_and_equal_dumps_give_equal_bytes(tmp_path: Path) -> None:
    files, table = dumps(tmp_path), tmp_path / "deep" / "statistics.json"
    assert write_table(files, table, {"b": (-100, 100)}) == 9
    found = read_table([table])
    described = {"a": describe(np.load(files["a"])), "b": describe(np.load(files["b"]), (-100, 100))}
    assert found.rows == [{"output": output, **row} for output in files for row in described[output].samples]
    assert all(np.array_equal(found.histograms[output].counts, described[output].histogram.counts) for output in files)
    assert not list(table.parent.glob("*.part"))
    write_table(files, tmp_path / "again.json", {"b": (-100, 100)})
    assert (tmp_path / "again.json").read_bytes() == table.read_bytes()


def test_two_tables_are_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    tables = []
    for index, files in enumerate((dumps(tmp_path), dumps(tmp_path / "x", 1))):
        tables.append(tmp_path / f"{index}.json")
        write_table(files, tables[-1])
    both, one, other = read_table(tables), read_table(tables[:1]), read_table(tables[1:])
    assert both.rows == one.rows + other.rows
    assert np.array_equal(both.histograms["a"].counts, one.histograms["a"].counts + other.histograms["a"].counts)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "{}",
        json.dumps([{"output": "a", "sample": 0}]),
        json.dumps({"statistics": FORMAT, "rows": [{"output": "a"}], "histograms": {}}),
        json.dumps({"statistics": FORMAT, "rows": []}),
        json.dumps({"statistics": FORMAT, "rows": [], "histograms": {"a": {"bins": [1]}}}),
        json.dumps({"statistics": FORMAT - 1, "rows": [], "histograms": {}}),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str | None) -> None:
    table = tmp_path / "table.json"
    if content is not None:
        table.write_text(content)
    with pytest.raises(ArtifactError):
        read_table([table])
