"""Promises: a broken board costs an attempt and not a ladder, and a board that computes wrongly never fails a model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import yaml
from tests.unit.fakes import Lab
from tests.unit.validation.test_every_check_can_fail import check_of, climb, not_passed

from qatladder.boards.fleet import load_fleet
from qatladder.boards.state import BoardState
from qatladder.boards.taxonomy import TAXONOMY
from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.ladder import LadderResult, Verdict
from qatladder.settings import load_settings
from qatladder.validation import plan
from qatladder.validation.fleet import board_state, quarantine

FIRST, SECOND = "virtual-j5", "second"


@pytest.fixture
def two(lab: Lab) -> Lab:
    """Two boards that can run the model; the golden model was not asked for is not needed: the fakes have none."""
    path = load_settings().fleet
    fleet = yaml.safe_load(path.read_text())
    first = next(board for board in fleet["boards"] if board["name"] == FIRST)
    fleet["boards"] = [first, {**first, "name": SECOND, "port": 2299}]
    path.write_text(yaml.safe_dump(fleet))
    return lab


def wrong(step: int = 1) -> Any:
    def change(sample: int, array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed.reshape(-1)[3] += step
        return changed

    return change


def tried(result: LadderResult) -> list[tuple[str, str]]:
    return [(item["board"], item["kind"]) for item in result.rungs[5].facts["boards_tried"]]


def known(name: str) -> BoardState:
    return board_state(open_store(load_settings()), name, 3)


def test_a_board_that_computes_wrongly_is_found_out_by_another_and_fails_no_model(two: Lab) -> None:
    two.bench.dumps[FIRST] = wrong()
    result = climb()
    assert result.verdict is Verdict.SHIP
    assert tried(result) == [(FIRST, "bad_board")]
    assert result.rungs[5].facts["board"] == SECOND
    assert f"on {SECOND}" in check_of(result, "board.runtime").measured
    assert not known(FIRST).ready, "one proof is enough"
    assert known(SECOND).failures == 0


def test_a_model_that_is_wrong_on_two_boards_fails_and_says_who_confirmed_it(two: Lab) -> None:
    two.bench.dump = wrong()
    result = climb()
    assert not_passed(result) == {"board.runtime": "failed"}
    check = check_of(result, "board.runtime")
    assert f"confirmed by {SECOND}" in check.reason
    assert tried(result) == []
    assert known(FIRST).ready and known(SECOND).ready


def test_two_boards_that_are_wrong_in_two_ways_decide_nothing(two: Lab) -> None:
    two.bench.dumps = {FIRST: wrong(1), SECOND: wrong(2)}
    result = climb()
    assert result.verdict is Verdict.UNDECIDED
    assert check_of(result, "board.runtime").values["kind"] == "boards_disagree"


def test_without_a_second_board_the_same_one_is_asked_again(lab: Lab) -> None:
    lab.bench.dump = wrong()
    check = check_of(climb(), "board.runtime")
    assert check.status == "failed"
    assert "asked twice: no other board" in check.reason


def test_a_board_that_answers_differently_the_second_time_is_nondeterministic(lab: Lab) -> None:
    counter = itertools.count(1)
    lab.bench.dump = lambda sample, array: wrong(next(counter))(sample, array)
    result = climb()
    assert result.verdict is Verdict.UNDECIDED
    assert check_of(result, "board.runtime").values["kind"] == "nondeterministic"
    assert not known(FIRST).ready


def test_a_second_opinion_that_breaks_is_no_opinion(two: Lab) -> None:
    two.bench.dumps[FIRST] = wrong()
    two.bench.broken[SECOND] = BrokenError("nobody there", kind="timeout")
    result = climb()
    check = check_of(result, "board.runtime")
    assert check.status == "failed"
    assert "asked twice" in check.reason
    assert known(SECOND).failures == 1


@pytest.mark.parametrize("kind", sorted(kind for kind, what in TAXONOMY.items() if what.retry == "elsewhere"))
def test_a_broken_board_hands_the_ladder_to_the_next(two: Lab, kind: str) -> None:
    two.bench.broken[FIRST] = BrokenError("it broke", kind=kind)
    result = climb()
    assert result.verdict is Verdict.SHIP
    assert tried(result) == [(FIRST, kind)]
    virtual_and_off = kind == "unreachable"  # a virtual board nobody started is not noted
    assert known(FIRST).failures == (TAXONOMY[kind].blames_board and not virtual_and_off)


@pytest.mark.parametrize("kind", ["model_refused", "cancelled", "fleet"])
def test_what_no_board_can_help_with_is_not_tried_elsewhere(two: Lab, kind: str) -> None:
    two.bench.broken[FIRST] = BrokenError("it broke", kind=kind)
    result = climb()
    assert result.verdict is Verdict.UNDECIDED
    assert tried(result) == [(FIRST, kind)]
    assert known(FIRST).failures == 0


def test_a_board_in_quarantine_gets_no_ladder_and_without_any_the_rung_says_so(two: Lab) -> None:
    store, boards = open_store(load_settings()), load_fleet(load_settings().fleet).boards
    quarantine(store, boards[0], "its fan is loud")
    assert [ladder["board"] for ladder in plan()] == [SECOND]
    quarantine(store, boards[1], "so is this one's")
    assert [ladder["board"] for ladder in plan()] == [""]
    result = climb()
    check = check_of(result, "board.health")
    assert check.values["kind"] == "no_board"
    assert "its fan is loud" in check.reason
    assert result.verdict is Verdict.UNDECIDED
