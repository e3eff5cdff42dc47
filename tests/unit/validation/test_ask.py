"""Promises: infrastructure never fails a model, a model's fault is never called broken, a bug of ours is never a pass."""

from __future__ import annotations

from typing import Any

import pytest

from qatladder.errors import ArtifactError, BrokenError, ConfigError, InternalError, RunnerError, ToolchainError
from qatladder.ladder import Status
from qatladder.validation.ask import Answer, Skip, Unprovable, ask


class FakeContext:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)


def raising(error: BaseException) -> Any:
    def answer() -> Answer:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Skip("not asked"), Status.SKIPPED),
        (Unprovable("five digits"), Status.UNPROVABLE),
        (BrokenError("gone", kind="unreachable"), Status.BROKEN),
        (ArtifactError("truncated"), Status.FAILED),
        (ToolchainError("refused"), Status.FAILED),
        (RunnerError("KeyError"), Status.FAILED),
        (ConfigError("no gate"), Status.FAILED),
        (InternalError("bug"), Status.BROKEN),
        (ZeroDivisionError("bug"), Status.BROKEN),
        (FileNotFoundError("bug"), Status.BROKEN),
    ],
)
def test_what_happens_becomes_the_right_status(error: BaseException, status: Status) -> None:
    result = ask(FakeContext(), "board.runtime", raising(error))  # type: ignore[arg-type]
    assert result.status is status
    assert result.reason
    assert not result


def test_a_bug_leaves_its_traceback_in_the_log() -> None:
    context = FakeContext()
    result = ask(context, "int.input", raising(ZeroDivisionError("oops")))  # type: ignore[arg-type]
    assert "ZeroDivisionError" in context.lines[0]
    assert "internal error" in result.reason


def test_a_broken_board_is_explained_with_what_to_do() -> None:
    error = BrokenError("no route", "switch it on", kind="unreachable", console="ssh: no route", board="x5-1")
    context = FakeContext()
    result = ask(context, "board.runtime", raising(error))  # type: ignore[arg-type]
    assert result.next_steps[0] == "switch it on"
    assert "does not answer" in result.cause
    assert result.values["kind"] == "unreachable"
    assert "ssh: no route" in context.lines


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_an_answer(interrupt: type[BaseException]) -> None:
    with pytest.raises(interrupt):
        ask(FakeContext(), "int.input", raising(interrupt()))  # type: ignore[arg-type]


def test_a_passed_answer_has_no_cause_and_a_failed_one_does() -> None:
    passed = ask(FakeContext(), "int.accuracy", lambda: Answer(True, "m", "e"))  # type: ignore[arg-type]
    failed = ask(FakeContext(), "int.accuracy", lambda: Answer(False, "m", "e"))  # type: ignore[arg-type]
    assert passed
    assert passed.cause == ""
    assert failed.cause
    assert failed.next_steps
