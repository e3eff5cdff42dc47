"""Samples are cut into batches that fit on a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from qatladder.boards import device


def test_every_sample_is_in_exactly_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BATCH_BYTES", 250)
    (tmp_path / "x").write_bytes(bytes(40))
    samples = [[tmp_path / "x"]] * 7  # 40 in, 60 out: two fit into 250 bytes
    batches = device._batches(samples, 60)
    assert [first for first, _ in batches] == [0, 2, 4, 6]
    assert [sample for _, batch in batches for sample in batch] == samples


def test_a_sample_larger_than_a_batch_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "BATCH_BYTES", 10)
    (tmp_path / "x").write_bytes(bytes(40))
    assert [len(batch) for _, batch in device._batches([[tmp_path / "x"]] * 3, 60)] == [1, 1, 1]


def test_no_samples_no_batch() -> None:
    assert device._batches([], 60) == []
