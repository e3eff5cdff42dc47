"""Asks one check its question and turns whatever happens into a status.

| what happens                                   | status       |
|------------------------------------------------|--------------|
| `Answer(passed=True/False)`                    | passed/failed|
| `Skip`                                         | skipped      |
| `Unprovable`                                   | unprovable   |
| `BrokenError`: infrastructure                  | broken       |
| another `QATLadderError`: the model's own fault| failed       |
| anything else: our bug, traceback in the log   | broken       |
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qatladder.boards.jobs import StillRunning
from qatladder.diagnosis import explain
from qatladder.errors import BrokenError, QATLadderError
from qatladder.ladder import CheckResult, Evidence, Status
from qatladder.ladder.checks import question
from qatladder.validation.context import Context


@dataclass(frozen=True)
class Answer:
    """What a check found; see `CheckResult` for the fields."""

    passed: bool
    measured: str
    expected: str
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()


class Skip(Exception):
    """The question is not asked. `required`: the ladder needs the answer all the same."""

    def __init__(self, reason: str, required: bool = True) -> None:
        super().__init__(reason)
        self.required = required


class Unprovable(Exception):
    """The evidence cannot carry the claim."""


def ask(context: Context, check_id: str, answer: Callable[[], Answer]) -> CheckResult:
    """Run one check; raises nothing but `StillRunning`, which is no answer."""
    started = time.monotonic()

    def result(status: Status, **fields: Any) -> CheckResult:
        return CheckResult(id=check_id, status=status, question=question(check_id), seconds=round(time.monotonic() - started, 2), **fields)

    try:
        found = answer()
    except StillRunning:
        raise
    except Skip as skip:
        return result(Status.SKIPPED, reason=str(skip), required=skip.required)
    except Unprovable as error:
        cause, steps = _steps(check_id, {"status": "unprovable"})
        return result(Status.UNPROVABLE, reason=str(error), cause=cause, next_steps=steps)
    except BrokenError as error:
        context.log(str(error))
        if error.console:
            context.log(error.console)
        cause, steps = _steps(check_id, {"status": "broken", "kind": error.kind})
        return result(
            Status.BROKEN,
            reason=_one_line(error),
            cause=cause,
            next_steps=tuple(step for step in (error.next_step, *steps) if step),
            values={"kind": error.kind},
        )
    except QATLadderError as error:
        context.log(str(error))
        values = {"error": type(error).__name__}
        cause, steps = _steps(check_id, values)
        return result(
            Status.FAILED,
            measured=error.where.get("found", ""),
            expected=error.where.get("expected", ""),
            reason=_one_line(error),
            cause=cause,
            next_steps=tuple(step for step in (error.next_step, *steps) if step),
            values=values,
        )
    except Exception as error:
        context.log(traceback.format_exc())
        return result(
            Status.BROKEN,
            reason=f"internal error: {type(error).__name__}: {error}",
            cause=_steps(check_id, {"status": "broken", "kind": "internal"})[0],
            next_steps=_steps(check_id, {"status": "broken", "kind": "internal"})[1],
            values={"kind": "internal"},
        )
    cause, steps = ("", ()) if found.passed else _steps(check_id, found.values)
    return result(
        Status.PASSED if found.passed else Status.FAILED,
        measured=found.measured,
        expected=found.expected,
        reason=found.reason,
        values=found.values,
        evidence=tuple(found.evidence),
        cause=cause,
        next_steps=steps,
    )


def skip_all(context: Context, check_ids: Sequence[str], reason: str, required: bool = True) -> list[CheckResult]:
    """Skip several checks for one reason."""

    def skip() -> Answer:
        raise Skip(reason, required)

    return [ask(context, check_id, skip) for check_id in check_ids]


def _steps(check_id: str, values: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    diagnosis = explain(check_id, values)
    return diagnosis.cause, diagnosis.next_steps


def _one_line(error: QATLadderError) -> str:
    where = ", ".join(f"{key} {value}" for key, value in error.where.items() if key not in ("expected", "found"))
    return error.message + (f" ({where})" if where else "")
