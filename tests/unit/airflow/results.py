"""Rung results to put into tasks, and a stand-in for their task instance."""

from __future__ import annotations

from typing import Any

from qatladder.ladder import CheckResult, Rung, RungResult, Status


def rung_result(*checks: tuple[str, str], **fields: Any) -> RungResult:
    """A rung result from (check id, status) pairs."""
    results = tuple(CheckResult(id, Status(status), measured=f"measured {id}", reason=f"because {id}", **fields) for id, status in checks)
    return RungResult(Rung(checks[0][0].split(".")[0]), results)


class FakeTask:
    """The two things a task asks of its task instance."""

    def __init__(self, try_number: int = 1) -> None:
        self.try_number = try_number
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value
