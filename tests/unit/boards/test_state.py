"""What is known of a board: out after exactly k failures that are its own, back only with a passed golden run."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.boards import state
from qatladder.boards.golden import GoldenResult
from qatladder.boards.state import BoardState, Event, after
from qatladder.boards.taxonomy import TAXONOMY
from qatladder.errors import BrokenError

NOW = datetime.datetime(2026, 11, 25, 3, 0, tzinfo=datetime.UTC)
PASSED = state.golden_passed(GoldenResult(2, 3.5, "ab" * 32, {"hbrt": "3.15.55"}), NOW)
LADDER = state.event("ladder", NOW, run="nightly m 1 @ bayes-e")
HELD = state.event("quarantine", NOW, reason="fan replaced tomorrow")


def failure(kind: str, run: str = "nightly m 1 @ bayes-e") -> Event:
    return state.failure(BrokenError("it did not work", kind=kind, found="nothing"), run, NOW)


def fold(*events: Event, k: int = 3) -> BoardState:
    found = BoardState()
    for event in events:
        found = after(found, event, k)
    return found


GRADUAL = sorted(kind for kind, item in TAXONOMY.items() if item.blames_board and kind not in state.AT_ONCE)
BLAMELESS = sorted(kind for kind, item in TAXONOMY.items() if not item.blames_board)


@pytest.mark.parametrize("kind", GRADUAL)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_exactly_k_failures_in_a_row_take_a_board_out(kind: str, k: int) -> None:
    assert fold(*[failure(kind)] * (k - 1), k=k).ready
    found = fold(*[failure(kind)] * k, k=k)
    assert not found.ready
    assert kind in found.reason and "it did not work" in found.reason
    assert found.since == "2026-11-25T03:00:00+00:00"
    assert fold(*[failure(kind)] * (k + 1), k=k).reason == found.reason, "the reason is what took it out, not what came after"


@pytest.mark.parametrize("kind", [*BLAMELESS, "never_heard_of"])
def test_what_is_no_fault_of_the_board_never_counts(kind: str) -> None:
    found = fold(*[failure(kind)] * 9)
    assert (found.ready, found.failures) == (True, 0)
    assert found.recent[-1]["kind"] == kind, "it is kept to be looked at all the same"


@pytest.mark.parametrize("kind", state.AT_ONCE)
def test_a_board_that_computes_wrong_is_out_at_once(kind: str) -> None:
    found = fold(failure(kind), k=5)
    assert not found.ready
    assert found.reason.startswith(kind)


def test_an_answered_ladder_makes_up_for_one_failure_and_ends_no_quarantine() -> None:
    assert fold(failure("timeout"), LADDER, LADDER, failure("timeout"), LADDER, failure("timeout"), failure("timeout")).ready
    assert not fold(*[failure("timeout"), failure("timeout"), LADDER] * 2).ready, "every third time is not enough"
    assert not fold(*[failure("timeout")] * 3, LADDER).ready


def test_a_golden_run_forgets_failures_of_yesterday_only() -> None:
    assert fold(failure("timeout"), failure("timeout"), PASSED).failures == 2, "it works on the golden model, and fails in ladders"
    late = {**PASSED, "when": (NOW + datetime.timedelta(hours=25)).isoformat(timespec="seconds")}
    assert fold(failure("timeout"), failure("timeout"), late).failures == 0


def test_only_a_passed_golden_run_brings_a_board_back() -> None:
    out = [failure("timeout")] * 3
    health = state.event("health", NOW, health={"disk_free_mb": 900.0}, problems=[])
    assert not fold(*out, LADDER, health, failure("board_busy")).ready
    found = fold(*out, PASSED)
    assert (found.ready, found.failures, found.reason) == (True, 0, "the golden model passed")
    assert fold(*out, PASSED, failure("timeout"), failure("timeout")).ready, "it starts again at zero"


def test_what_an_operator_took_out_only_an_operator_gives_back() -> None:
    assert not fold(HELD, PASSED).ready
    given_back = state.event("release", NOW, proven=False)
    assert not fold(HELD, given_back).ready, "without proof it waits for the golden model"
    assert fold(HELD, given_back, PASSED).ready
    assert fold(HELD, state.event("release", NOW, proven=True)).ready, "where no golden model can be made, the operator's word counts"
    assert fold(*[failure("timeout")] * 3, HELD).by_hand
    assert fold(state.event("release", NOW, proven=True)).ready


def test_the_last_golden_run_is_known_with_its_age() -> None:
    later = NOW + datetime.timedelta(minutes=14)
    assert fold().golden_age(later) is None
    assert fold(PASSED).golden_age(later) == 14 * 60
    assert fold(PASSED, failure("golden_mismatch")).golden_age(later) is None
    assert "nothing" in fold(failure("golden_mismatch")).golden["message"]  # type: ignore[index]
    assert fold(failure("nondeterministic"), PASSED).golden_age(later) == 14 * 60


def test_a_power_cycle_is_remembered_until_the_board_works() -> None:
    cycled = state.event("power_cycle", NOW)
    assert fold(cycled).power_cycled
    assert not fold(cycled, PASSED).power_cycled


def test_an_event_of_a_later_version_changes_nothing() -> None:
    assert fold(state.event("firmware", NOW, x=1)) == fold()


EVENTS = st.lists(
    st.sampled_from(
        [*map(failure, ["timeout", "board_busy", "golden_mismatch", "unreachable"]), failure("timeout", ""), PASSED, LADDER, HELD]
        + [state.event("release", NOW, proven=proven) for proven in (True, False)]
        + [state.event("power_cycle", NOW), state.event("health", NOW, health={}, problems=["hot"])]
    ),
    max_size=40,
)


@given(EVENTS, st.integers(1, 5))
def test_whatever_happens_the_state_is_sound(events: list[Event], k: int) -> None:
    found = BoardState()
    for item in events:
        before, found = found, after(found, item, k)
        if not before.ready and found.ready:
            assert item["event"] == "golden" or (item["event"] == "release" and item["proven"])
        if before.ready and not found.ready:
            assert item["event"] == "quarantine" or found.failures >= k or item["kind"] in state.AT_ONCE
    assert found.ready or (found.reason and found.since)
    assert not (found.ready and found.by_hand)
    assert not found.ready or found.failures < k
    assert len(found.recent) <= state.KEPT_FAILURES
    assert BoardState.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_message_is_one_short_line() -> None:
    long: Any = BrokenError("a\nb" * 400, kind="console", found="x" * 4000)
    text = state.failure(long, "", NOW)["message"]
    assert len(text) <= 500
    assert "\n" not in text
