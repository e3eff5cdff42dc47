"""A rung's answer decides its task's state; only broken infrastructure is tried again."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from tests.unit.airflow.results import rung_result

from qatladder.airflow.states import deciding, raise_for_ladder, raise_for_rung
from qatladder.ladder import CHECKS, CheckResult, LadderResult, Rung, RungResult, Status, checks_of


@pytest.mark.parametrize(
    ("statuses", "error"),
    [
        (["passed", "passed"], None),
        (["passed", "skipped"], None),
        (["skipped", "skipped"], AirflowSkipException),
        (["passed", "failed"], AirflowFailException),
        (["passed", "unprovable"], AirflowFailException),
        (["passed", "broken"], AirflowException),
        (["broken", "failed"], AirflowFailException),
        (["unprovable", "broken"], AirflowException),
        (["skipped", "broken"], AirflowException),
    ],
)
def test_the_worst_check_decides_the_state(statuses, error):
    result = rung_result(("int.input", statuses[0]), ("int.accuracy", statuses[1]))
    if error is None:
        raise_for_rung(result)
        return
    with pytest.raises(AirflowException) as caught:
        raise_for_rung(result)
    assert type(caught.value) is error  # AirflowFailException is an AirflowException: the exact type decides about retries


def test_the_message_names_the_check_what_was_measured_and_the_cause():
    check = CheckResult("int.fidelity", Status.FAILED, measured="cosine 0.98", expected=">= 0.999", cause="a wrong scale")
    with pytest.raises(
        AirflowFailException, match=r"int\.fidelity failed: cosine 0\.98 \(expected >= 0\.999\); probable cause: a wrong scale"
    ):
        raise_for_rung(RungResult(Rung.INT, (check,)))


def test_a_skipped_rung_gives_its_reason():
    with pytest.raises(AirflowSkipException, match=r"because qat\.accuracy"):
        raise_for_rung(rung_result(("qat.accuracy", "skipped")))


def test_a_rung_without_any_check_is_no_pass():
    assert deciding(RungResult(Rung.QAT, ()))[0] is Status.SKIPPED


def ladder_result(status: str, rungs: tuple[Rung, ...] = tuple(Rung)) -> LadderResult:
    """Every check passed, but the last one asked, which has the given status."""
    results = []
    for rung in rungs:
        checks = [CheckResult(check.id, Status.PASSED) for check in checks_of(rung)]
        if rung is rungs[-1]:
            checks[-1] = CheckResult(checks[-1].id, Status(status))
        results.append(RungResult(rung, tuple(checks)))
    return LadderResult("m", "1", "t", tuple(results), rungs_asked=rungs)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (ladder_result("passed"), None),
        (ladder_result("failed"), AirflowFailException),
        (ladder_result("broken"), AirflowFailException),
        (ladder_result("unprovable"), AirflowFailException),
        (ladder_result("passed", (Rung.FLOAT, Rung.CALIB)), AirflowSkipException),
        (ladder_result("failed", (Rung.FLOAT, Rung.CALIB)), AirflowFailException),
        (LadderResult("m", "1", "t", ()), AirflowFailException),
    ],
    ids=["ship", "no-ship", "broken", "unprovable", "two rungs asked", "two rungs asked, one failed", "no answer at all"],
)
def test_only_ship_is_green_and_only_a_partial_run_is_pink(result, error):
    if error is None:
        raise_for_ladder(result)
        return
    with pytest.raises(AirflowException) as caught:
        raise_for_ladder(result)
    assert type(caught.value) is error


def test_every_check_of_the_ladder_belongs_to_a_rung_with_a_task():
    from qatladder.airflow.names import RUNGS

    assert {str(check.rung) for check in CHECKS} == set(RUNGS)
