"""What is known of a board between runs: a fold over what happened to it, so that workers that write at once lose nothing.

An event is a small JSON object; `qatladder.validation.fleet` stores each as a file of its own. Everything here is pure.

    failure      kind, message, run      infrastructure failed on the board
    ladder       run                     a board rung ended with an answer
    health       health, problems        somebody looked at it
    golden       seconds, samples, hbm, versions   the golden model passed
    power_cycle
    quarantine   reason                  an operator took it out of service; only an operator gives it back
    release      proven                  an operator gave it back: it returns with the next passed golden run, at once when none can be made
"""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from qatladder.boards.golden import GoldenResult
from qatladder.boards.taxonomy import kind_of
from qatladder.errors import BrokenError

KEPT_FAILURES = 10
AT_ONCE = ("golden_mismatch", "nondeterministic", "bad_board")
"""Proof that the board computes wrong: it is out of service at the first one."""

FORGOTTEN_S = 86400.0
"""A board that passes the golden model so long after its last failure starts anew."""

Event = dict[str, Any]


@dataclass(frozen=True)
class BoardState:
    """The state of one board. Times are ISO 8601, UTC.

    Attributes:
        reason, since: why it is in quarantine, or came back, and since when.
        by_hand: an operator put it into quarantine, so no golden run takes it out.
        failures: infrastructure failures the board is to blame for, less the ladders that were answered since.
        recent: the newest failures, oldest first: {when, kind, message, run}.
        health: {when, problems, ...fields of `Health`} of the last look.
        golden: {when, passed, message, seconds, hbm, versions} of the last golden run.
        ladder: {when, run, answered} of the last ladder on it.
        power_cycled: when the health run last cycled its power, since it last worked.
    """

    status: Literal["ready", "quarantined"] = "ready"
    reason: str = ""
    since: str = ""
    by_hand: bool = False
    failures: int = 0
    recent: tuple[dict[str, Any], ...] = ()
    health: dict[str, Any] | None = None
    golden: dict[str, Any] | None = None
    ladder: dict[str, Any] | None = None
    power_cycled: str = ""

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    def golden_age(self, now: datetime.datetime) -> float | None:
        """Seconds since the golden model passed; None when it did not, the last time."""
        if self.golden is None or not self.golden["passed"]:
            return None
        return (now - datetime.datetime.fromisoformat(self.golden["when"])).total_seconds()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> BoardState:
        return cls(**{**data, "recent": tuple(data["recent"])})


def failure(error: BrokenError, run: str, now: datetime.datetime) -> Event:
    where = ", ".join(f"{key} {value}" for key, value in error.where.items() if key in ("output", "expected", "found"))
    message = f"{error.message}; {where}" if where else error.message
    return {"event": "failure", "when": _text(now), "kind": error.kind, "message": " ".join(message.split())[:500], "run": run}


def golden_passed(result: GoldenResult, now: datetime.datetime) -> Event:
    return {
        "event": "golden",
        "when": _text(now),
        "samples": result.samples,
        "seconds": result.seconds,
        "hbm": result.sha256,
        "versions": result.versions,
    }


def event(what: str, now: datetime.datetime, **fields: Any) -> Event:
    return {"event": what, "when": _text(now), **fields}


def after(state: BoardState, event: Event, k: int) -> BoardState:
    """The state after one more event; `k` failures that blame the board mean quarantine. Unknown events change nothing."""
    what, when = event["event"], event["when"]
    if what == "failure":
        return _after_failure(state, event, k)
    if what == "ladder":
        # One answer does not make up for two failures, or a board that works every second time would never be found out.
        return replace(state, failures=max(0, state.failures - 1), ladder={"when": when, "run": event["run"], "answered": True})
    if what == "health":
        return replace(state, health={"when": when, "problems": event["problems"], **event["health"]})
    if what == "golden":
        run = {"when": when, "passed": True, "message": "", **{key: event[key] for key in ("seconds", "samples", "hbm", "versions")}}
        old = not state.recent or _age(state.recent[-1]["when"], when) > FORGOTTEN_S
        state = replace(state, golden=run, power_cycled="", failures=0 if old else state.failures)
        return state if state.ready or state.by_hand else _back(state, "the golden model passed", when)
    if what == "power_cycle":
        return replace(state, power_cycled=when)
    if what == "quarantine":
        return replace(state, status="quarantined", reason=event["reason"], since=when, by_hand=True)
    if what == "release" and not state.ready:
        state = replace(state, by_hand=False)
        return _back(state, "given back by an operator", when) if event["proven"] else state
    return state


def _after_failure(state: BoardState, event: Event, k: int) -> BoardState:
    kind, when = event["kind"], event["when"]
    entry = {key: event[key] for key in ("when", "kind", "message", "run")}
    state = replace(state, recent=(*state.recent, entry)[-KEPT_FAILURES:])
    if event["run"]:
        state = replace(state, ladder={"when": when, "run": event["run"], "answered": False})
    if kind in ("golden_mismatch", "nondeterministic"):
        state = replace(state, golden={"when": when, "passed": False, "message": f"{kind}: {event['message']}"})
    if not kind_of(BrokenError("", kind=kind)).blames_board:
        return state
    state = replace(state, failures=state.failures + 1)
    if not state.ready or (state.failures < k and kind not in AT_ONCE):
        return state
    count = "" if kind in AT_ONCE else f"{state.failures} failures, the last: "
    return replace(state, status="quarantined", reason=f"{count}{kind}: {event['message']}", since=when, by_hand=False)


def _back(state: BoardState, reason: str, when: str) -> BoardState:
    return replace(state, status="ready", reason=reason, since=when, by_hand=False, failures=0)


def _age(then: str, now: str) -> float:
    return (datetime.datetime.fromisoformat(now) - datetime.datetime.fromisoformat(then)).total_seconds()


def _text(now: datetime.datetime) -> str:
    return now.astimezone(datetime.UTC).isoformat(timespec="seconds")
