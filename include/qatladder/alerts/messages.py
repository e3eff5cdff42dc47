"""A cluster as a text for people: what failed, measured and expected, probable cause, next step, links. Plain text; apprise converts it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qatladder.alerts.findings import MISSING, Cluster, Finding, Kind, Level
from qatladder.alerts.send import Message

MAX_NAMED = 10
"""Ladders named in one message; the rest is counted, the report has them."""

MAX_LENGTH = 240
"""Characters of one fact; chats cut long messages in places nobody chose."""

MAX_TITLE = 120
"""Characters of a title: one line of an e-mail's subject."""


class Links(Protocol):
    """Where a reader goes on."""

    def report(self) -> Sequence[str]:
        """The run's report, the best address first."""

    def log(self, finding: Finding) -> str:
        """The log of the task that found it; empty without Airflow."""

    def evidence(self, uri: str) -> str:
        """A file of the object store as something a browser opens, if there is such."""


@dataclass(frozen=True)
class StoreLinks:
    """Links without Airflow: into the object store.

    Attributes:
        page: URI of report.html.
    """

    page: str

    def report(self) -> Sequence[str]:
        return (self.page,)

    def log(self, finding: Finding) -> str:
        return ""

    def evidence(self, uri: str) -> str:
        return uri


@dataclass(frozen=True)
class Count:
    """What is open and was told before."""

    clusters: int = 0
    ladders: int = 0
    since: str = ""
    acknowledged: int = 0

    def __bool__(self) -> bool:
        return bool(self.ladders)

    def line(self) -> str:
        """`still open: 3 clusters, 7 ladders, since 2026-11-20; acknowledged: 2 ladders`."""
        parts = []
        if self.ladders:
            parts.append(f"still open: {_plural(self.clusters, 'cluster')}, {_plural(self.ladders, 'ladder')}, since {self.since[:10]}")
        if self.acknowledged:
            parts.append(f"acknowledged: {_plural(self.acknowledged, 'ladder')}")
        return "; ".join(parts)


def cluster_message(cluster: Cluster, links: Links, owners: frozenset[str] = frozenset(), reminder: str = "") -> Message:
    """The message of one cluster.

    Args:
        owners: whose ladders are named first; empty for everybody.
        reminder: since when it has been open, when nothing of it is new.
    """
    findings = sorted(cluster.findings, key=lambda finding: finding.owner not in owners) if owners else list(cluster.findings)
    lead = cluster.lead
    new = sum(finding.new for finding in findings)
    many = len(findings) > 1
    grown = f"{new} more, {len(findings)} ladders" if new < len(findings) and not reminder else _plural(len(findings), "ladder")
    title = f"QATLadder {_state(cluster, reminder)}: " + ", ".join(
        part for part in (_checks(cluster), grown if many else str(lead.ladder), _changed(cluster)) if part
    )
    facts = _facts(lead, cluster, reminder)
    head = [f"worst of them: {_name(lead)}"] if many and facts else []
    named = [
        f"{'new' if finding.new and grown.startswith(f'{new} more') else '-'} {_one(finding, many)}" for finding in findings[:MAX_NAMED]
    ]
    if len(findings) > MAX_NAMED:
        named.append(f"... and {len(findings) - MAX_NAMED} more in the report")
    blocks = [head + facts, [f"{_plural(len(findings), 'ladder')}:", *named], _links(lead, links)]
    return Message(one_line(title, MAX_TITLE), "\n\n".join("\n".join(block) for block in blocks if block))


def digest_message(clusters: Sequence[Cluster], links: Links) -> Message:
    """What is beyond the messages of one night: a line per cluster."""
    lines = [
        f"- {cluster.kind}: {_checks(cluster)}, {_plural(len(cluster.findings), 'ladder')}: {cluster.lead.ladder}"
        for cluster in clusters[:50]
    ]
    if len(clusters) > len(lines):
        lines.append(f"... and {len(clusters) - len(lines)} more in the report")
    page = "\n".join(f"report: {address}" for address in links.report()[:1])
    return Message(f"QATLadder: {_plural(len(clusters), 'more cluster')} tonight", "\n".join([*map(_short, lines), "", page]))


def footer(message: Message, lines: Sequence[str]) -> Message:
    """The message with further lines before its links."""
    if not lines:
        return message
    body, _, links = message.body.rpartition("\n\n")
    return Message(message.title, "\n\n".join(part for part in (body, "\n".join(map(_short, lines)), links) if part))


def one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _state(cluster: Cluster, reminder: str) -> str:
    if cluster.kind is Kind.RECOVERY:
        return "recovered"
    return f"{cluster.kind}, open since {reminder[:10]}" if reminder else str(cluster.kind)


def _checks(cluster: Cluster) -> str:
    names = list(cluster.checks)
    return " ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "") if names != [MISSING] else ""


def _changed(cluster: Cluster) -> str:
    return _suspect(cluster.suspect, why=False) if cluster.suspect else ""


def _suspect(suspect: Any, why: bool = True) -> str:
    was, now = (re.sub(r"\b([0-9a-f]{12})[0-9a-f]{4,}\b", r"\1", str(suspect.get(key) or "nothing")) for key in ("was", "now"))
    text = f"{suspect.get('what', '')} {was} -> {now}"
    return text + (f" ({suspect['why']})" if why and suspect.get("why") else "")


def _facts(lead: Finding, cluster: Cluster, reminder: str) -> list[str]:
    """What the owner must know, a line per fact."""
    if lead.kind.level is Level.INFO:
        return []
    said = {Kind.NO_SHIP: "first failing check", Kind.UNDECIDED: "left open by"}.get(lead.kind, "moved")
    facts = [
        (
            said,
            f"{lead.check} {lead.status if lead.kind in (Kind.NO_SHIP, Kind.UNDECIDED) else ''}" if lead.check not in ("", MISSING) else "",
        ),
        ("measured", lead.measured),
        ("expected", lead.expected),
        *(("moved", line) for line in lead.movements[:3]),
        ("reason", lead.reason),
        ("probable cause", lead.cause),
        *(("suspect", _suspect(suspect)) for suspect in lead.suspects[:3]),
        ("next step", lead.next_step),
        ("last ran" if lead.kind is Kind.MISSING else "last good night", lead.since),
        ("checks", ", ".join(f"{check} {count}" for check, count in cluster.checks.items()) if len(cluster.checks) > 1 else ""),
        ("reminder", f"nothing new; open since {reminder}" if reminder else ""),
    ]
    return [_short(f"{label}: {text}") for label, text in facts if text.strip()]


def _name(finding: Finding) -> str:
    return f"{finding.ladder}{f' (owner {finding.owner})' if finding.owner else ''}"


def _one(finding: Finding, many: bool) -> str:
    text = _name(finding)
    if finding.kind is Kind.RECOVERY:
        text += f": {finding.reason}" + (f" at {finding.check}" if finding.check not in ("", MISSING) else "")
        text += f", last in {finding.since}" if finding.since else ""
    elif finding.kind is Kind.PROGRESSION:
        text += ": " + "; ".join(finding.movements[:2])
    elif many:
        detail = finding.movements[0] if finding.movements else finding.measured or finding.reason
        text += f": {one_line(detail, 100)}" if detail and finding.kind is not Kind.MISSING else ""
    if finding.besides:
        text += f"; also {', '.join(finding.besides[:4])}"
    return _short(text + (f"; {finding.note}" if finding.note else ""))


def _links(lead: Finding, links: Links) -> list[str]:
    log = links.log(lead)
    lines = [f"log: {log}"] if log else []
    lines += _pages(links)
    return lines + [f"evidence: {name} {links.evidence(uri)}" for name, uri in lead.evidence[:3]]


def _pages(links: Links) -> list[str]:
    return [f"{'stored' if index else 'report'}: {address}" for index, address in enumerate(links.report())]


def _short(text: str) -> str:
    return one_line(text, MAX_LENGTH)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
