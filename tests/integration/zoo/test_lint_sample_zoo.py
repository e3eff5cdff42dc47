"""Promises, on the trained sample zoo in its real environment: sound entries are ok, and real damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qatladder.settings import load_settings
from qatladder.zoo import Zoo, load_zoo
from qatladder.zoo.lint import lint_entry

pytestmark = pytest.mark.zoo


@pytest.fixture
def sample_zoo() -> Zoo:
    return load_zoo(load_settings())


def entry_of(zoo: Zoo, model: str) -> Any:
    return next(entry for entry in zoo.entries.values() if entry.model == model)


@pytest.mark.parametrize("model", ["digits_cnn", "digits_det", "wdbc_mlp"])
def test_the_good_entries_are_ok(sample_zoo: Zoo, model: str) -> None:
    assert lint_entry(sample_zoo, entry_of(sample_zoo, model)) == []


def test_the_bad_entrys_colour_order_is_named(sample_zoo: Zoo) -> None:
    (problem,) = lint_entry(sample_zoo, entry_of(sample_zoo, "digits_cnn_bad"))
    assert problem.startswith("inputs.image.type_train: ")
    assert problem.endswith("write type_train: rgb")


def test_a_truncated_checkpoint_and_a_truncated_onnx_are_named(sample_zoo: Zoo, tmp_path: Path) -> None:
    entry = entry_of(sample_zoo, "wdbc_mlp")
    changes = {}
    for which in ("qat", "onnx"):
        whole = sample_zoo.artifact(entry, which)
        assert whole is not None
        damaged = tmp_path / whole.name
        damaged.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
        changes[which] = str(damaged)
    entry = entry.model_copy(update={"artifacts": entry.artifacts.model_copy(update=changes)})
    onnx, qat = lint_entry(sample_zoo, entry)
    assert onnx.startswith("artifacts.onnx: ")
    assert qat.startswith("artifacts.qat: ")
