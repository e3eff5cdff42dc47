"""How a rung's answer becomes the state of its Airflow task.

failed      red, never retried: asking again cannot repair a model
unprovable  red, never retried: the same evidence will not prove more the second time
broken      retried, then red: infrastructure, nothing was learnt about the model
skipped     pink, when no check of the rung was asked
passed      green
"""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from qatladder.ladder import CheckResult, LadderResult, RungResult, Status, Verdict


def headline(check: CheckResult) -> str:
    """One line: which check, what it answered, and what that rests on."""
    if check.status is Status.FAILED:
        found = " ".join(part for part in (check.measured, f"(expected {check.expected})" if check.expected else "") if part)
        text = f"{check.id} failed: {found or check.reason}"
        return f"{text}; probable cause: {check.cause}" if check.cause else text
    return f"{check.id} {check.status}: {check.reason or check.measured or check.question}"


def deciding(result: RungResult) -> tuple[Status, str]:
    """The status of a whole rung and the line that explains it; the worst check decides."""
    for status in (Status.FAILED, Status.BROKEN, Status.UNPROVABLE):
        checks = [check for check in result.checks if check.status is status]
        if checks:
            return status, "; ".join(headline(check) for check in checks)
    passed = [check for check in result.checks if check.status is Status.PASSED]
    if passed:
        return Status.PASSED, "; ".join(f"{check.id} {check.measured}".strip() for check in passed)
    return Status.SKIPPED, "; ".join(dict.fromkeys(headline(check) for check in result.checks)) or "no check of this rung was asked"


def raise_for_rung(result: RungResult) -> None:
    """Return when the rung passed; raise what gives its task the state above otherwise.

    Raises:
        AirflowFailException: a check failed or is unprovable.
        AirflowException: a check is broken; Airflow tries again.
        AirflowSkipException: every check was skipped.
    """
    status, line = deciding(result)
    if status in (Status.FAILED, Status.UNPROVABLE):
        raise AirflowFailException(line)
    if status is Status.BROKEN:
        raise AirflowException(line)
    if status is Status.SKIPPED:
        raise AirflowSkipException(line)


def raise_for_ladder(result: LadderResult) -> None:
    """Green for `ship`; red for `no-ship` and for `undecided`, unless only rungs nobody asked for are missing.

    Raises:
        AirflowFailException: the model must not ship, or a question stayed open.
        AirflowSkipException: everything asked was answered well, but fewer than six rungs were asked.
    """
    if result.verdict is Verdict.SHIP:
        return
    if result.verdict is Verdict.UNDECIDED and result.checks and result.deciding_check is None:
        raise AirflowSkipException(f"undecided: {result.why}")
    raise AirflowFailException(f"{result.verdict}: {result.why}")
