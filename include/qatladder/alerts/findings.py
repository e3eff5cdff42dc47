"""What there is to tell of a run: findings, and clusters of findings that have one cause."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from qatladder.ladder.checks import check_ids
from qatladder.ladder.results import Rung, Status, Verdict

MISSING = "missing"
"""Stands for the check of a ladder that did not run."""


class Level(StrEnum):
    """How bad, for `minimum` of the routing file."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Kind(StrEnum):
    """What kind of finding, worst first."""

    RUN = "broken run"  # the machinery: nothing is known about the models
    NO_SHIP = "no-ship"
    REGRESSION = "regression"
    UNDECIDED = "undecided"
    MISSING = "missing"
    SUSPICIOUS = "suspicious"
    RECOVERY = "recovery"
    PROGRESSION = "progression"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Kind).index(self)

    @property
    def level(self) -> Level:
        if self in (Kind.RUN, Kind.NO_SHIP, Kind.REGRESSION):
            return Level.ERROR
        return Level.INFO if self in (Kind.RECOVERY, Kind.PROGRESSION) else Level.WARNING


class Ladder(NamedTuple):
    """Which ladder."""

    model: str
    version: str
    target: str

    def __str__(self) -> str:
        return f"{self.model} {self.version} @ {self.target}"


@dataclass(frozen=True)
class Finding:
    """One thing to tell about one ladder.

    Attributes:
        ladder, owner: whose.
        check: id of the check it rests on; `missing` for a ladder that did not run, empty where no check was named.
        cause_key: the same for findings of one cause: a fingerprint, an error kind, the cause without the names and numbers of this model.
        status: of the check.
        measured, expected, reason, cause, next_step: as the check has them.
        movements: lines about what moved since the baseline, the check's own first.
        suspects: what changed since then, most probable first (`what`, `was`, `now`, `why`).
        evidence: (name, uri).
        badness: largest relative movement of the check's numbers, 0 when unknown; orders findings of one cluster.
        since: run and time of the last night that was otherwise: good before a break, bad before a recovery.
        besides: other checks of the ladder that are open, told in the same line.
        note: what more the owner must know, such as an acknowledgement that expired.
        new: was not told before.
    """

    kind: Kind
    ladder: Ladder
    owner: str
    check: str
    cause_key: str = ""
    status: str = ""
    measured: str = ""
    expected: str = ""
    reason: str = ""
    cause: str = ""
    next_step: str = ""
    movements: tuple[str, ...] = ()
    suspects: tuple[Mapping[str, str], ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()
    badness: float = 0.0
    since: str = ""
    besides: tuple[str, ...] = ()
    note: str = ""
    new: bool = True


@dataclass(frozen=True)
class Cluster:
    """Findings of one cause, worst first.

    Attributes:
        key: the same every night while kind, check and cause are.
        suspect: the change all of them share, when that is the cause.
    """

    key: str
    findings: tuple[Finding, ...]
    suspect: Mapping[str, str] | None = None

    @property
    def kind(self) -> Kind:
        return min((finding.kind for finding in self.findings), key=lambda kind: kind.rank)

    @property
    def lead(self) -> Finding:
        """The worst one: what the message is about."""
        return self.findings[0]

    @property
    def checks(self) -> dict[str, int]:
        """How many ladders rest on each check, most first."""
        counts = Counter(finding.check for finding in self.findings if finding.check)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], _position(item[0]))))


def ladder_of(item: Mapping[str, Any]) -> Ladder:
    return Ladder(str(item["model"]), str(item["version"]), str(item["target"]))


def candidates(item: Mapping[str, Any], suspicious: bool = False) -> list[Finding]:
    """All that is wrong with a ladder, one finding per check, what to tell first first.

    Failed checks in ladder order, then checks whose numbers regressed, then the one that left an undecided ladder open, then
    suspicious numbers. A run that was not asked for a rung says nothing about it.

    Args:
        item: a ladder of the report.
        suspicious: numbers that may have moved count, too.
    """
    trend = item.get("trend") or {}
    checks = [check for check in item["checks"] if check["status"] == str(Status.FAILED)]
    found = [_of_check(Kind.NO_SHIP, item, check) for check in checks]
    found += _moved(item, trend, "regression", Kind.REGRESSION)
    if trend.get("verdict") == "regression" and not any(finding.kind in (Kind.NO_SHIP, Kind.REGRESSION) for finding in found):
        found.append(_plain(Kind.REGRESSION, item, "", "regression", reason="it is worse than at its baseline"))
    if not checks and item["verdict"] != str(Verdict.SHIP):
        open_check = next((check for check in item["checks"] if check["id"] == item.get("deciding_check")), None)
        if open_check is not None and not (_partial(item) and open_check["status"] == str(Status.SKIPPED)):
            found.append(_of_check(Kind.UNDECIDED, item, open_check))
        elif open_check is None and not _partial(item):
            found.append(_plain(Kind.UNDECIDED, item, "", "unanswered", reason=str(item.get("why", ""))))
    if suspicious:
        found += _moved(item, trend, "suspicious", Kind.SUSPICIOUS)
    once: dict[str, Finding] = {}
    for finding in found:
        once.setdefault(finding.check, finding)
    return list(once.values())


def missing(report: Mapping[str, Any]) -> list[Finding]:
    """Ladders that ran on the last nights and not tonight."""
    return [
        Finding(
            Kind.MISSING,
            ladder_of(item),
            str(item.get("owner") or ""),
            MISSING,
            MISSING,
            reason=f"it did not run; it last did in {item.get('last_run') or 'an earlier run'}",
            next_step="if it left the zoo on purpose, acknowledge it; else the plan task's log says why",
            since=_moment(item.get("last_run"), item.get("last_time")),
        )
        for item in report.get("missing") or ()
    ]


def progression(item: Mapping[str, Any]) -> Finding | None:
    """The ladder ships and one of its numbers became better."""
    trend = item.get("trend") or {}
    better = [move for move in trend.get("movements") or () if move.get("verdict") == "progression"]
    if trend.get("verdict") != "progression" or item["verdict"] != str(Verdict.SHIP) or not better:
        return None
    check = str(better[0].get("check_id", ""))
    found = _plain(Kind.PROGRESSION, item, check, f"{check} better")
    return replace(found, movements=tuple(movement_line(move) for move in better), measured="")


def recovery(item: Mapping[str, Any], was: str, text: str, check: str, since: str) -> Finding:
    """A ladder that is well again.

    Args:
        was: what it was: `no-ship`, `regression` ...
        text: the same for people, with since when.
        check: on which check.
        since: the last night it was.
    """
    return replace(_plain(Kind.RECOVERY, item, check, f"was {was}", reason=f"was {text}"), since=since, suspects=())


def clusters(findings: Iterable[Finding]) -> list[Cluster]:
    """Findings by cause, the worst cluster first, always in the same order.

    A change that is the first suspect of several ladders is their cause, whatever check noticed it: one toolchain upgrade that breaks
    200 models is one cluster. Otherwise kind, check and cause decide; always for broken checks, whose cause is infrastructure.
    """
    findings = list(findings)
    shared = Counter(_suspect(finding) for finding in findings if _blames(finding))
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if _blames(finding) and shared[_suspect(finding)] > 1:
            key = "suspect: " + " | ".join(_suspect(finding))
        else:
            key = f"{finding.kind}: {finding.check} | {finding.cause_key}"
        groups.setdefault(key, []).append(finding)
    found = [
        Cluster(key, tuple(sorted(group, key=_order)), group[0].suspects[0] if key.startswith("suspect: ") else None)
        for key, group in groups.items()
    ]
    return sorted(found, key=lambda cluster: (cluster.kind.rank, -len(cluster.findings), _position(cluster.lead.check), cluster.key))


def movement_line(move: Mapping[str, Any]) -> str:
    """`top1 0.95 -> 0.91 (-0.04) since run n1; exact McNemar on 14 flipped samples, p = 0.0003: why`."""
    text = f"{move.get('metric') or move.get('check_id')}"
    if move.get("baseline") is not None and move.get("value") is not None:
        text += f" {_number(move['baseline'])} -> {_number(move['value'])}"
    if move.get("delta") is not None:
        text += f" ({_number(move['delta'], '+.4g')})"
    if move.get("baseline_run"):
        text += f" since {move['baseline_run']}"
    if move.get("method"):
        text += f"; {move['method']}"
    if move.get("p_value") is not None:
        text += f", p = {_number(move['p_value'], '.2g')}"
    return text + (f": {move['why']}" if move.get("why") else "")


def generic(text: str, names: Sequence[str] = ()) -> str:
    """A text without what is of one model only: names, numbers, digests, paths, quoted words."""
    text = re.sub(r"[\w-]+(?:\.[\w-]+)*", lambda word: "*" if word[0] in names else word[0], text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|<[^<>]*>|(?<![\w.])(?:\w+:/)?/[\w./@%:+-]+", "*", text)
    text = re.sub(r"\b[0-9a-f]{8,}\b|[-+]?\d[\d.,]*(?:e[-+]?\d+)?", "#", text)
    return " ".join(text.split())[:200]


def _partial(item: Mapping[str, Any]) -> bool:
    return set(item.get("rungs_asked") or map(str, Rung)) != set(map(str, Rung))


def _plain(kind: Kind, item: Mapping[str, Any], check: str, cause_key: str, **fields: Any) -> Finding:
    trend = item.get("trend") or {}
    return Finding(
        kind,
        ladder_of(item),
        str(item.get("owner") or ""),
        check,
        cause_key,
        suspects=tuple(trend.get("suspects") or ()),
        since=_moment(*((trend.get("broke") or {}).get(key) for key in ("since", "time"))),
        **fields,
    )


def _of_check(kind: Kind, item: Mapping[str, Any], check: Mapping[str, Any]) -> Finding:
    moves = [move for move in (item.get("trend") or {}).get("movements") or () if move.get("verdict") in ("regression", "suspicious")]
    own = [move for move in moves if move.get("check_id") == check["id"]]
    return _plain(
        kind,
        item,
        str(check["id"]),
        _cause_key(item, check),
        status=str(check["status"]),
        measured=check.get("measured") or "",
        expected=check.get("expected") or "",
        reason=check.get("reason") or "",
        cause=check.get("cause") or "",
        next_step=next(iter(check.get("next_steps") or ()), ""),
        movements=tuple(movement_line(move) for move in own),
        evidence=tuple((item["name"], item["uri"]) for item in check.get("evidence") or ()),
        badness=max(map(_badness, own), default=0.0),
    )


def _moved(item: Mapping[str, Any], trend: Mapping[str, Any], verdict: str, kind: Kind) -> list[Finding]:
    """A finding per check with a movement of that verdict, in ladder order."""
    by_check: dict[str, list[Mapping[str, Any]]] = {}
    for move in trend.get("movements") or ():
        if move.get("verdict") == verdict:
            by_check.setdefault(str(move["check_id"]), []).append(move)
    found = []
    for check_id in sorted(by_check, key=_position):
        moves = sorted(by_check[check_id], key=_badness, reverse=True)
        check = next((check for check in item["checks"] if check["id"] == check_id), {"id": check_id, "status": ""})
        names = ", ".join(dict.fromkeys(str(move.get("metric")) for move in moves))
        found.append(
            replace(
                _of_check(kind, item, check),
                cause_key=f"{verdict} of {names}",
                movements=tuple(movement_line(move) for move in moves),
                badness=_badness(moves[0]),
            )
        )
    return found


def _cause_key(item: Mapping[str, Any], check: Mapping[str, Any]) -> str:
    """What makes two failures of one check the same: fingerprint or error kind where there is one, else the text without its names."""
    values = check.get("values") or {}
    key = next((f"{name} {values[name]}" for name in ("precision", "fingerprint", "kind") if isinstance(values.get(name), str)), "")
    board = next((str((rung.get("facts") or {}).get("board") or "") for rung in item.get("rungs") or () if rung["rung"] == "board"), "")
    if not key:
        names = [str(item.get(name) or "") for name in ("model", "version", "target", "owner")]
        key = generic(str(check.get("cause") or check.get("reason") or ""), [*names, board])
    on_board = check["status"] == str(Status.BROKEN) and str(check["id"]).startswith("board.") and board
    return f"{key} on {board}" if on_board else key


def _blames(finding: Finding) -> bool:
    return bool(finding.suspects) and finding.kind.level is not Level.INFO and finding.status != str(Status.BROKEN)


def _suspect(finding: Finding) -> tuple[str, str, str]:
    first = finding.suspects[0]
    return str(first.get("what", "")), str(first.get("was", "")), str(first.get("now", ""))


def _order(finding: Finding) -> tuple[Any, ...]:
    return (not finding.new, finding.kind.rank, -finding.badness, _position(finding.check), finding.ladder)


def _position(check_id: str) -> int:
    order = check_ids()
    return order.index(check_id) if check_id in order else len(order)


def _badness(move: Mapping[str, Any]) -> float:
    delta, baseline = move.get("delta"), move.get("baseline")
    if not isinstance(delta, (int, float)):
        return 0.0
    return abs(delta) / abs(baseline) if isinstance(baseline, (int, float)) and baseline else abs(delta)


def _number(value: Any, form: str = ".4g") -> str:
    """A number of a report; one that is not finite is a word there."""
    return format(value, form) if isinstance(value, float) else str(value)


def _moment(run: Any, time: Any) -> str:
    return " ".join(part for part in (str(run or ""), f"({time})" if run and time else "") if part)
