"""Promises: what decides an answer and is easily overlooked makes a rung climbed again."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
from tests.unit.fakes import Lab
from tests.unit.validation.test_carry import GATES, again, age, carried, climb, nights  # noqa: F401

from qatladder.settings import load_settings
from qatladder.validation import carry, carry_over, finish_ladder, plan


def test_a_target_that_is_no_longer_quantised_by_the_toolchain_needs_its_training(nights: Lab) -> None:  # noqa: F811
    files = {"float": "toy/float.json", "onnx": "toy/onnx.json"}
    gates = {**GATES, "int": {"min": 0.5}, "board": {"min": 0.1}}
    nights.entry(artifacts=files, gates=gates, targets=[{"march": "bayes", "ptq": {}}])
    age(nights)
    first = climb("first")
    assert "ptq" in first["qat"].checks[0].reason
    nights.entry(artifacts=files, gates=gates)
    second = climb("second")
    assert not second["qat"].carried, second["qat"].checks[0].reason
    assert second["qat"].checks[0].required


def test_an_artifact_that_is_declared_and_missing_is_no_undeclared_one(nights: Lab) -> None:  # noqa: F811
    files = {"float": "toy/float.json", "calib": "toy/calib.json", "onnx": "toy/onnx.json"}
    nights.entry(artifacts=files)
    age(nights)
    climb("first")
    nights.entry(artifacts={**files, "qat": "toy/mistyped.json"})
    second = climb("second")
    assert not second["qat"].carried, second["qat"].checks[0].reason
    assert second["qat"].checks[0].status == "failed"


def test_another_checkout_of_the_zoo_has_answers_of_its_own(nights: Lab, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    climb("first")
    other = nights.zoo.folder / "checkout"
    shutil.copytree(nights.zoo.folder / "zoo", other)
    adapter = other / "linear.py"
    adapter.write_text(adapter.read_text().replace("return int(outputs", "return 0 * int(outputs"))
    age(nights)
    monkeypatch.setenv("QATLADDER_ZOO", str(other))
    assert load_settings().zoo == other
    second = climb("second")
    assert not second["float"].carried
    assert second["float"].checks[0].status == "failed"


def test_one_wrong_entry_does_not_end_the_night(nights: Lab) -> None:  # noqa: F811
    climb("first")
    nights.entry(targets=[{"march": "bayes", "environment": "nope"}])
    assert carry_over(plan(), "second", lambda line: None) == []


def test_what_is_behind_a_link_in_the_declared_data_is_looked_at(nights: Lab) -> None:  # noqa: F811
    real = nights.zoo.folder / "disk" / "deep"
    real.mkdir(parents=True)
    (real / "1.jpg").write_bytes(b"1")
    root = load_settings().home / "zoo" / "pictures"
    root.mkdir(parents=True)
    (root / "train").symlink_to(real.parent)
    nights.entry(data=["pictures"])
    age(nights)
    climb("first")
    assert carried(climb("second"))
    (real / "1.jpg").write_bytes(b"other")
    assert not climb("third")["float"].carried


def test_an_adapter_that_is_edited_while_it_runs_is_no_proof_with_declared_data_either(nights: Lab) -> None:  # noqa: F811
    root = load_settings().home / "zoo" / "pictures"
    root.mkdir(parents=True)
    nights.entry(data=["pictures"])
    adapter = nights.zoo.folder / "zoo" / "linear.py"
    source = adapter.read_text()
    other = nights.zoo.folder / "other.txt"
    other.write_text(source.replace("return int(outputs", "return 0 * int(outputs"))
    edit = f"import os; os.system('cp {other} {adapter}'); "
    adapter.write_text(source.replace("rng = np", edit + "rng = np", 1))
    for path in nights.zoo.folder.rglob("*"):
        if path.is_file() and "evidence" not in path.parts:
            os.utime(path, (1e9, 1e9))
    (ladder,) = plan(rungs=["float"])
    from qatladder.validation import run_rung

    assert run_rung(ladder, "float", "first", print).checks[0].status == "passed"
    second = run_rung(ladder, "float", "second", print)
    assert not second.carried
    assert second.checks[0].status == "failed"


def test_two_jobs_that_read_other_states_of_a_file_are_no_proof() -> None:
    one = {"files": [["/a", [1, 1, "x"]]], "folders": [], "blind": []}
    two = {"files": [["/a", [1, 2, "y"]]], "folders": [], "blind": []}
    assert carry._together([one, two])["blind"]


def test_a_rung_keeps_its_answer_when_it_cannot_be_recorded(nights: Lab, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def denied(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/data/private")

    monkeypatch.setattr(carry, "_declared", denied)
    (ladder,) = plan(rungs=["float"])
    from qatladder.validation import run_rung

    assert run_rung(ladder, "float", "first", print).checks[0].status == "passed"
    assert finish_ladder(ladder, "first").rungs[0].checks[0].status == "passed"
