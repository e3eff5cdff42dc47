"""What a check answered, what a rung answered, and the one verdict of a ladder.

Everything here is plain data that survives a round trip through JSON: results cross process and
machine boundaries as files (see `to_json` / `from_json`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Rung(StrEnum):
    """One form of the model on its way to the board, in order."""

    FLOAT = "float"
    CALIB = "calib"
    QAT = "qat"
    INT = "int"
    HBM = "hbm"
    BOARD = "board"


class Status(StrEnum):
    """The answer of one check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # not asked, with the reason
    UNPROVABLE = "unprovable"  # the evidence cannot carry the claim
    BROKEN = "broken"  # infrastructure, not the model


class Verdict(StrEnum):
    """The answer of a whole ladder."""

    SHIP = "ship"
    NO_SHIP = "no-ship"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        """0 ship, 1 no-ship, 2 undecided."""
        return {"ship": 0, "no-ship": 1, "undecided": 2}[self.value]


@dataclass(frozen=True)
class Evidence:
    """A file behind a check, addressed by its content.

    Attributes:
        name: what the file is, e.g. `probe_int_outputs.npz`.
        sha256: hex digest of its bytes.
        size: bytes.
        uri: where the object store keeps it.
    """

    name: str
    sha256: str
    size: int
    uri: str


@dataclass(frozen=True)
class CheckResult:
    """One question at one rung, answered. True in a boolean context only when it passed.

    Attributes:
        id: `<rung>.<question>`, one of `qatladder.ladder.CHECKS`.
        status: see `Status`.
        question: the question in words, as the log prints it.
        measured: what was found: one line, with units.
        expected: the expectation or gate it was held against, tolerance included.
        reason: why it was skipped, unprovable or broken; for a failure, what differs.
        cause: the probable cause of a failure, from `qatladder.diagnosis`.
        next_steps: what to look at next, most promising first.
        values: the numbers behind `measured`, by name, for history and reports.
        evidence: the files behind the answer.
        required: False when the entry does not ask for this check, so that skipping it is no gap.
        seconds: wall time the check took.
    """

    id: str
    status: Status
    question: str = ""
    measured: str = ""
    expected: str = ""
    reason: str = ""
    cause: str = ""
    next_steps: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    required: bool = True
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.status is Status.PASSED

    @property
    def rung(self) -> Rung:
        return Rung(self.id.split(".", 1)[0])

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["rung"] = str(self.rung)
        data["status"] = str(self.status)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CheckResult:
        data = {key: value for key, value in data.items() if key != "rung"}
        data["status"] = Status(data["status"])
        data["next_steps"] = tuple(data.get("next_steps", ()))
        data["evidence"] = tuple(Evidence(**item) for item in data.get("evidence", ()))
        return cls(**data)


@dataclass(frozen=True)
class RungResult:
    """What one rung of one ladder answered, and what it hands to the rungs above it.

    Attributes:
        rung: which rung.
        checks: its checks in order.
        products: artifacts for later rungs (int ONNX, hbm, probe tensors ...), by name, in the object store.
        facts: what later rungs and reports need to know (metrics, tool versions, tensor descriptions).
        started: ISO 8601 UTC.
        seconds: wall time.
        carried: where the answers come from when nothing that determines them has changed since: `run_id` and `time` (ISO 8601 UTC); empty
            when this run found them.
    """

    rung: Rung
    checks: tuple[CheckResult, ...]
    products: dict[str, Evidence] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0
    carried: dict[str, str] = field(default_factory=dict)

    def check(self, check_id: str) -> CheckResult | None:
        return next((check for check in self.checks if check.id == check_id), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "rung": str(self.rung),
            "checks": [check.to_json() for check in self.checks],
            "products": {name: asdict(item) for name, item in self.products.items()},
            "facts": self.facts,
            "started": self.started,
            "seconds": self.seconds,
            "carried": self.carried,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RungResult:
        return cls(
            rung=Rung(data["rung"]),
            checks=tuple(CheckResult.from_json(item) for item in data["checks"]),
            products={name: Evidence(**item) for name, item in data.get("products", {}).items()},
            facts=data.get("facts", {}),
            started=data.get("started", ""),
            seconds=data.get("seconds", 0.0),
            carried=data.get("carried") or {},
        )


@dataclass(frozen=True)
class LadderResult:
    """One model version on one target: every rung's answer and the verdict.

    Attributes:
        model, version, target, march, toolchain: which ladder.
        rungs: results in ladder order.
        rungs_asked: the rungs this run was asked for; fewer than six can never give `ship`.
        run_id: the run it belongs to.
        owner: who is told.
    """

    model: str
    version: str
    target: str
    rungs: tuple[RungResult, ...]
    rungs_asked: tuple[Rung, ...] = tuple(Rung)
    run_id: str = ""
    march: str = ""
    toolchain: str = ""
    owner: str = ""
    started: str = ""
    seconds: float = 0.0

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        return tuple(check for rung in self.rungs for check in rung.checks)

    @property
    def carried(self) -> list[tuple[str, str, list[Rung]]]:
        """(run, when it first answered, rungs) of the answers that were carried over."""
        found: dict[str, tuple[str, str, list[Rung]]] = {}
        for rung in self.rungs:
            if rung.carried:
                found.setdefault(rung.carried["run_id"], (rung.carried["run_id"], rung.carried["time"], []))[2].append(rung.rung)
        return list(found.values())

    @property
    def verdict(self) -> Verdict:
        return decide(self.checks, self.rungs_asked)

    @property
    def first_failed_check(self) -> str | None:
        """The first check that failed; for an undecided ladder None."""
        return next((check.id for check in self.checks if check.status is Status.FAILED), None)

    @property
    def deciding_check(self) -> CheckResult | None:
        """The check the verdict rests on: the first failed one, else the first open one."""
        failed = [check for check in self.checks if check.status is Status.FAILED]
        return next(iter(failed or [check for check in self.checks if _open(check)]), None)

    @property
    def why(self) -> str:
        """One line: why the verdict is what it is."""
        verdict, check = self.verdict, self.deciding_check
        if verdict is Verdict.SHIP:
            return "every required check passed"
        if check is not None and check.status is Status.FAILED:
            return f"{check.id} failed: {check.cause or check.reason or check.measured}"
        if check is not None:
            return f"{check.id} {check.status}: {check.reason or check.cause}"
        missing = [str(rung) for rung in Rung if rung not in self.rungs_asked]
        if missing:
            return f"not validated in this run: {', '.join(missing)}"
        return "some checks were not answered"

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "target": self.target,
            "march": self.march,
            "toolchain": self.toolchain,
            "owner": self.owner,
            "run_id": self.run_id,
            "verdict": str(self.verdict),
            "why": self.why,
            "first_failed_check": self.first_failed_check,
            "rungs_asked": [str(rung) for rung in self.rungs_asked],
            "started": self.started,
            "seconds": self.seconds,
            "checks": [check.to_json() for check in self.checks],
            "rungs": [{key: value for key, value in rung.to_json().items() if key != "checks"} for rung in self.rungs],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LadderResult:
        by_rung: dict[str, list[dict[str, Any]]] = {}
        for check in data["checks"]:
            by_rung.setdefault(check["id"].split(".", 1)[0], []).append(check)
        return cls(
            model=data["model"],
            version=data["version"],
            target=data["target"],
            march=data.get("march", ""),
            toolchain=data.get("toolchain", ""),
            owner=data.get("owner", ""),
            run_id=data.get("run_id", ""),
            rungs=tuple(RungResult.from_json({**rung, "checks": by_rung.get(rung["rung"], [])}) for rung in data["rungs"]),
            rungs_asked=tuple(Rung(name) for name in data["rungs_asked"]),
            started=data.get("started", ""),
            seconds=data.get("seconds", 0.0),
        )


def _open(check: CheckResult) -> bool:
    """True when the check leaves its question open although the ladder needs an answer."""
    if check.status in (Status.BROKEN, Status.UNPROVABLE):
        return True
    return check.status is Status.SKIPPED and check.required


def decide(checks: Sequence[CheckResult], rungs_asked: Sequence[Rung] = tuple(Rung)) -> Verdict:
    """The verdict of a ladder.

    `no-ship` when any check failed; else `undecided` when any required question stayed open
    (broken, unprovable, skipped though required, not answered at all, or of a rung nobody asked for); else `ship`.
    """
    from qatladder.ladder.checks import check_ids  # checks.py needs Rung from here

    if any(check.status is Status.FAILED for check in checks):
        return Verdict.NO_SHIP
    unanswered = set(check_ids()) - {check.id for check in checks}
    if unanswered or any(_open(check) for check in checks) or set(rungs_asked) != set(Rung):
        return Verdict.UNDECIDED
    return Verdict.SHIP
