"""Promises: the verdict never calls a gap a pass, the first failed check is named, results survive JSON."""

import itertools
import json

import pytest

from qatladder.ladder import CHECKS, CheckResult, Evidence, LadderResult, Rung, RungResult, Status, Verdict, check_ids, decide


def check(check_id: str, status: Status, required: bool = True) -> CheckResult:
    return CheckResult(id=check_id, status=status, required=required, reason="because")


def ladder(*checks: CheckResult, asked: tuple[Rung, ...] = tuple(Rung)) -> LadderResult:
    rungs = tuple(RungResult(rung, tuple(item for item in checks if item.rung is rung)) for rung in Rung)
    return LadderResult("m", "1", "bayes-e", rungs, asked)


ALL_PASSED = [check(check_id, Status.PASSED) for check_id in check_ids()]


def test_a_ladder_ships_only_when_everything_required_passed() -> None:
    assert ladder(*ALL_PASSED).verdict is Verdict.SHIP


@pytest.mark.parametrize("index", range(len(CHECKS)))
@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (Status.FAILED, Verdict.NO_SHIP),
        (Status.BROKEN, Verdict.UNDECIDED),
        (Status.UNPROVABLE, Verdict.UNDECIDED),
        (Status.SKIPPED, Verdict.UNDECIDED),
    ],
)
def test_one_check_that_did_not_pass_decides(index: int, status: Status, verdict: Verdict) -> None:
    checks = list(ALL_PASSED)
    checks[index] = check(CHECKS[index].id, status)
    result = ladder(*checks)
    assert result.verdict is verdict
    assert result.deciding_check == checks[index]
    assert result.first_failed_check == (CHECKS[index].id if status is Status.FAILED else None)
    assert CHECKS[index].id in result.why


def test_a_check_skipped_by_design_does_not_hold_the_model_back() -> None:
    checks = [check(item.id, Status.SKIPPED, required=False) if "app" in item.id else item for item in ALL_PASSED]
    assert ladder(*checks).verdict is Verdict.SHIP


def test_failed_outranks_broken_and_the_first_failure_is_named() -> None:
    checks = [check("float.accuracy", Status.BROKEN), check("int.accuracy", Status.FAILED), check("hbm.bit_exact", Status.FAILED)]
    result = ladder(*checks)
    assert result.verdict is Verdict.NO_SHIP
    assert result.first_failed_check == "int.accuracy"


@pytest.mark.parametrize("missing", list(Rung))
def test_a_rung_nobody_asked_for_keeps_the_verdict_open(missing: Rung) -> None:
    asked = tuple(rung for rung in Rung if rung is not missing)
    result = ladder(*(item for item in ALL_PASSED if item.rung is not missing), asked=asked)
    assert result.verdict is Verdict.UNDECIDED
    assert str(missing) in result.why


def test_no_answer_is_no_verdict() -> None:
    assert decide([]) is Verdict.UNDECIDED


def test_only_a_passed_check_is_true() -> None:
    assert [bool(check("float.accuracy", status)) for status in Status] == [status is Status.PASSED for status in Status]


def test_exit_codes() -> None:
    assert [verdict.exit_code for verdict in (Verdict.SHIP, Verdict.NO_SHIP, Verdict.UNDECIDED)] == [0, 1, 2]


def test_results_survive_json() -> None:
    evidence = Evidence("a.npy", "0" * 64, 3, "file:///a")
    original = LadderResult(
        "m",
        "1",
        "bayes-e",
        (
            RungResult(
                Rung.INT,
                (CheckResult("int.input", Status.FAILED, "q", "m", "e", "r", "c", ("a", "b"), {"x": 1.5}, (evidence,), True, 2.0),),
                {"int": evidence},
                {"versions": {"hbdk": "3"}},
                "2026-01-01T00:00:00+00:00",
                3.0,
            ),
        ),
        (Rung.INT,),
        "run",
        "bayes-e",
        "hmct",
        "me",
    )
    assert LadderResult.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_checks_are_in_ladder_order_and_unique() -> None:
    assert len(set(check_ids())) == len(CHECKS)
    order = [list(Rung).index(item.rung) for item in CHECKS]
    assert order == sorted(order)
    assert all(item.question.endswith("?") for item in CHECKS)
    assert list(itertools.chain.from_iterable([item.id] for item in CHECKS)) == list(check_ids())


@pytest.mark.parametrize("index", range(len(CHECKS)))
def test_a_check_that_was_never_answered_keeps_the_verdict_open(index: int) -> None:
    assert ladder(*ALL_PASSED[:index], *ALL_PASSED[index + 1 :]).verdict is Verdict.UNDECIDED


def test_a_broken_checks_reason_is_told_before_its_cause() -> None:
    broken = CheckResult("board.health", Status.BROKEN, reason="no route to host", cause="the board is off")
    assert "no route to host" in ladder(broken).why
