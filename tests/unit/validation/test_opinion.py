"""Promises: integers the vendor's verifier computed are held against the int model's; what it says of them is not read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.fakes import Lab, product

from qatladder.errors import BrokenError
from qatladder.ladder import CheckResult, Status
from qatladder.toolchains.base import SecondOpinion
from qatladder.validation import plan, run_rung

RUNGS = ["float", "calib", "qat", "int", "hbm"]


@pytest.fixture
def ask(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """hbm.bit_exact with a verifier that answers the int model's integers after `change`."""

    def run(change: Any = None, **fields: Any) -> CheckResult:
        log = tmp_path / "console.log"
        log.write_text("verification passed")

        def second_opinion(int_model: Path, hbm: Path, model: Any, tensors: Any, frames: Any, folder: Path, log_line: Any) -> Any:
            if isinstance(change, Exception):
                raise change
            assert sorted(tensors) == ["a", "b"] and not frames
            (item,) = model.outputs
            integers = product(json.loads(int_model.read_text()), {name: np.load(path) for name, path in tensors.items()})
            np.save(folder / "opinion.npy", integers if change is None else change(integers))
            opinion = SecondOpinion("verifier 1.0", {"simulator_output": {item.raw_name: folder / "opinion.npy"}}, (), "", log)
            return replace(opinion, **fields)

        monkeypatch.setattr(lab.toolchain, "second_opinion", second_opinion)
        (ladder,) = plan(["toy"], rungs=RUNGS)
        for rung in RUNGS:
            answer = run_rung(ladder, rung, "run", print)
        check = answer.check("hbm.bit_exact")
        assert check is not None
        return check

    return run


def test_an_opinion_that_agrees_is_measured(ask: Any) -> None:
    check = ask()
    assert check.status is Status.PASSED, check.reason
    assert "verifier 1.0: y: 0 of 16 integers differ" in check.measured
    assert any(item.name == "verifier.npy" for item in check.evidence)


def test_one_other_integer_fails_whatever_it_says(ask: Any) -> None:
    def bump(integers: np.ndarray) -> np.ndarray:
        integers.reshape(-1)[3] += 1
        return integers

    check = ask(bump)
    assert check.status is Status.FAILED
    assert "verifier 1.0 (simulator_output) computes another y: 1 of 16 integers differ" in check.reason
    assert "the vendor's verifier computes other integers" in check.cause


def test_a_tool_that_prints_a_table_is_believed_row_by_row(ask: Any) -> None:
    check = ask(dumps={}, rows=(("y", ""), ("z", "")))
    assert check.status is Status.PASSED, check.reason
    assert "verifier 1.0: y: consistent, z: consistent" in check.measured

    check = ask(dumps={}, rows=(("y", "3 elements, largest difference 0.25"), ("z", "")))
    assert check.status is Status.FAILED
    assert check.reason == "verifier 1.0 computes another y: 3 elements, largest difference 0.25"
    assert "the vendor's verifier computes other" in check.cause, "not a stale hbm"


def test_words_of_failure_over_equal_integers_are_kept_and_not_believed(ask: Any) -> None:
    check = ask(said=("verification failed",))
    assert check.status is Status.PASSED
    assert check.values["verifier"]["said"] == ["verification failed"]


def test_a_verifier_of_another_version_fails(ask: Any) -> None:
    check = ask(skew="verifier is 3, the hbm 4")
    assert check.status is Status.FAILED
    assert "version skew: verifier is 3, the hbm 4" in check.reason


def test_a_verifier_that_breaks_costs_nothing_but_its_opinion(ask: Any) -> None:
    check = ask(BrokenError("it left no result", "read its console", kind="dump_missing"))
    assert check.status is Status.PASSED
    assert check.measured.endswith("no second opinion: it left no result")
