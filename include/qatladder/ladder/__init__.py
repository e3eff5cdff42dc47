"""The words of the product as types: rungs, checks, statuses, the verdict."""

from qatladder.ladder.checks import CHECKS, Check, check_ids, checks_of
from qatladder.ladder.results import (
    CheckResult,
    Evidence,
    LadderResult,
    Rung,
    RungResult,
    Status,
    Verdict,
    decide,
)

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "Evidence",
    "LadderResult",
    "Rung",
    "RungResult",
    "Status",
    "Verdict",
    "check_ids",
    "checks_of",
    "decide",
]
