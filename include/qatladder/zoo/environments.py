"""Looks at the environments of a zoo: does a job run there, and what does it find?"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qatladder.errors import QATLadderError
from qatladder.runner.client import Environment, run_job
from qatladder.zoo.load import Zoo

TIMEOUT = 120.0
"""Seconds an environment has to answer; a cold container image or network share takes its time."""


@dataclass(frozen=True)
class Checked:
    """What a job found in an environment.

    Attributes:
        environment: the one asked.
        users: labels of the entries that use it, for the model or for a target.
        seconds: for a job there and back.
        found: as `qatladder.runner.probe` returns it, and `sha256` of all that is installed; empty when nothing answered.
        problem: why jobs cannot run there; empty when they can.
    """

    environment: Environment
    users: tuple[str, ...]
    seconds: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def check_environment(zoo: Zoo, environment: Environment) -> Checked:
    """Run a small job in an environment."""
    users = users_of(zoo, environment.name)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qatladder-env-") as folder:
        try:
            answer = run_job(environment, "qatladder.runner.probe:probe", {}, Path(folder) / "probe", timeout=TIMEOUT)
        except QATLadderError as error:
            return Checked(environment, users, problem=str(error))
    found = {**answer.value, "sha256": answer.environment["sha256"]}
    problem = "" if found["numpy"] else "numpy is not installed there, and every job needs it"
    return Checked(environment, users, round(time.monotonic() - started, 2), found, problem)


def users_of(zoo: Zoo, name: str) -> tuple[str, ...]:
    """`model version` of the entries whose model, or a target of which, is in an environment."""
    return tuple(
        f"{entry.model} {entry.version}"
        for entry in zoo.entries.values()
        if entry.environment == name or any(target.environment == name for target in entry.targets)
    )
