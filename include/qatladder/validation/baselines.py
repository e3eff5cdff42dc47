"""The newest earlier answer of a check of this ladder that passed: what tonight's figures are held against."""

from __future__ import annotations

import re
from collections.abc import Callable

from qatladder.evidence.store import safe_name
from qatladder.ladder import CheckResult, Rung, Status
from qatladder.validation.context import Context, load_rung

LOOK_BACK = 100
"""Earlier runs that are looked through."""

_TIME = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)")


def newest_passed(context: Context, check_id: str, accept: Callable[[CheckResult], bool]) -> tuple[str, CheckResult] | None:
    """(run, check), newest run first; None when no run of the last 100 has one that passed and is accepted."""
    runs = [run for run in context.store.runs() if run != safe_name(context.run_id)]
    for run in sorted(runs, key=_when, reverse=True)[:LOOK_BACK]:
        rung = load_rung(context.store, run, context.ladder, Rung(check_id.split(".")[0]))
        check = rung.check(check_id) if rung else None
        if check is not None and check.status is Status.PASSED and accept(check):
            return run, check
    return None


def _when(run: str) -> tuple[str, str]:
    """A run's time as its id has it; runs of ids without one come first."""
    match = _TIME.search(run)
    return ("".join(match.groups()) if match else "", run)
