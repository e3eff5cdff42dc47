"""What a run has to tell, to whom, and that it is told.

A run's messages are planned once and written down whole (`alerts/<channel>/told/<run>.json`) before anything else happens; memory and outbox follow
from that plan. So a process may die anywhere and the next try goes on where it was: no message is made twice, none is forgotten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from qatladder.alerts import memory
from qatladder.alerts.acknowledged import Acknowledged, Acknowledgement, load_acknowledged, stale
from qatladder.alerts.findings import (
    Cluster,
    Finding,
    Kind,
    Ladder,
    candidates,
    clusters,
    ladder_of,
    missing,
    progression,
    recovery,
)
from qatladder.alerts.memory import Open, Record
from qatladder.alerts.messages import Count, Links, cluster_message, digest_message, footer
from qatladder.alerts.outbox import Item, Outcome, deliver_items, queue, undelivered
from qatladder.alerts.routing import DEFAULT, Routes, Routing, load_routes
from qatladder.alerts.send import Delivery, Message, deliver
from qatladder.errors import ConfigError
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name
from qatladder.ladder import Verdict
from qatladder.settings import Settings
from qatladder.zoo.load import NOT_ENTRIES

MAX_MESSAGES = 10
"""Messages of one run to one address; clusters beyond are listed in one more."""

FORGET = timedelta(days=60)
"""A ladder that no run has seen for as long is forgotten."""


@dataclass(frozen=True)
class Night:
    """What a run means beside what was told before.

    Attributes:
        told: clusters to tell in full tonight; the second is since when they are open, for a reminder, else empty.
        quiet: open and told before, by ladder.
        acknowledged: findings somebody answers for, with who.
        changed: records to write.
    """

    told: tuple[tuple[Cluster, str], ...] = ()
    quiet: tuple[tuple[Record, Open], ...] = ()
    acknowledged: tuple[tuple[Finding, Acknowledgement], ...] = ()
    changed: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Telling:
    """What became of the messages of a run.

    Attributes:
        outcomes: per address.
        problems: what is wrong with routing or acknowledgements; told as well.
    """

    outcomes: tuple[Outcome, ...] = ()
    problems: tuple[ConfigError, ...] = field(default=())


def consider(
    report: Mapping[str, Any], known: Mapping[Ladder, Record], acknowledged: Acknowledged, routing: Routing, now: datetime, run: str
) -> Night:
    """Hold a run against what was told before. Pure: reads and writes nothing but its arguments' copies.

    Args:
        known: records by ladder.
        now: aware; what the records are stamped with.
        run: name of the run for people.
    """
    stamp = now.astimezone(UTC).isoformat(timespec="seconds")
    records = {ladder: record.model_copy(deep=True) for ladder, record in known.items()}
    primaries: list[Finding] = []
    good: list[Finding] = []
    under: list[tuple[Finding, Acknowledgement]] = []
    shown: dict[Ladder, tuple[str, ...]] = {}
    tonight = [(item, candidates(item, routing.suspicious)) for item in report["ladders"]]
    tonight += [({"model": found.ladder.model}, [found]) for found in missing(report)]
    for item, found in tonight:
        ladder = found[0].ladder if "checks" not in item else ladder_of(item)
        record = records.setdefault(ladder, Record(model=ladder.model, version=ladder.version, target=ladder.target))
        record.owner = found[0].owner if found else str(item.get("owner") or record.owner)
        covered = [(finding, acknowledged.of(finding)) for finding in found]
        under += [(finding, by) for finding, by in covered if by is not None]
        over = memory.merge(record, [(finding, by is not None) for finding, by in covered], item, run, stamp)
        live = [finding for finding, by in covered if by is None]
        if live:
            news = [finding for finding in live if record.open[finding.check].told is None]
            first = news[0] if news else live[0]
            shown[ladder] = tuple(finding.check for finding in live)
            others = tuple(finding.check for finding in found if finding.check not in ("", first.check))
            primaries.append(replace(first, new=bool(news), besides=others, note=_note(first, acknowledged, under)))
        good += _good_news(item, record, over, bool(found))
    told: list[tuple[Cluster, str]] = []
    for cluster in clusters(primaries):
        entries = [records[finding.ladder].open[check] for finding in cluster.findings for check in shown[finding.ladder]]
        reminder = ""
        if not any(finding.new for finding in cluster.findings):
            oldest = min(entry.told or stamp for entry in entries)
            if now - datetime.fromisoformat(oldest) < timedelta(days=routing.reminder_days):
                continue
            reminder = min(entry.since for entry in entries)
        told.append((cluster, reminder))
        for entry in entries:
            entry.told, entry.cluster = stamp, cluster.key
    told += [(cluster, "") for cluster in clusters(good)]
    ran = {ladder_of(item) for item in report["ladders"]} | {finding.ladder for finding in missing(report)}
    quiet = [
        (records[ladder], entry) for ladder in sorted(ran) for entry in records[ladder].open.values() if entry.told not in (None, stamp)
    ]
    for ladder, record in records.items():
        if ladder not in ran and record.seen and now - datetime.fromisoformat(record.seen) > FORGET:
            record.open, record.better = {}, {}
    changed = [record for ladder, record in records.items() if _changed(record, known.get(ladder), now)]
    return Night(tuple(told), tuple(quiet), tuple(under), tuple(changed))


def _changed(record: Record, known: Record | None, now: datetime) -> bool:
    """Whether a record must be written. That the ladder was seen again is written once a week: 1,000 open ladders cost nothing a night."""
    if known is None:
        return not record.idle
    if record.model_copy(update={"seen": known.seen}) != known:
        return True
    return bool(record.seen) and now - datetime.fromisoformat(known.seen or record.seen) > timedelta(days=7)


def _good_news(item: Mapping[str, Any], record: Record, over: Mapping[str, Open], bad: bool) -> list[Finding]:
    """A ladder that recovered or became better, told once; notes in the record that it was."""
    if "checks" not in item:
        return []
    found = []
    ships = item["verdict"] == str(Verdict.SHIP)
    trend = item.get("trend")
    # What nobody was told of and nobody answers for is no news when it is over: a run that was not asked for every rung, say.
    known = {check: entry for check, entry in over.items() if entry.told is not None or entry.acknowledged}
    broke = {check: entry for check, entry in known.items() if entry.kind in (Kind.NO_SHIP, Kind.UNDECIDED, Kind.MISSING)}
    if ships and broke:
        since = (trend or {}).get("recovered") or {}
        last = f"{since['since']} ({since.get('time') or '?'})" if since.get("since") else ""
        check, entry = min(broke.items(), key=lambda pair: pair[1].kind.rank)
        found.append(recovery(item, str(entry.kind), f"{entry.kind} since {entry.since[:10]}", check, last))
    elif ships and known and not bad:
        check, entry = next(iter(known.items()))
        found.append(recovery(item, f"{entry.kind}, no longer found", f"{entry.kind} since {entry.since[:10]}, no longer found", check, ""))
    if trend is None:  # nobody compared it with other nights
        return found
    better = progression(item)
    moves = trend.get("movements") or () if better else ()
    told = {str(move["check_id"]): str(move.get("baseline_run") or "") for move in moves if move.get("verdict") == "progression"}
    if better and not found and told != record.better:
        found.append(better)
    record.better = told
    return found


def _note(finding: Finding, acknowledged: Acknowledged, under: Sequence[tuple[Finding, Acknowledgement]]) -> str:
    if (by := acknowledged.expired_of(finding)) is not None:
        return f"the acknowledgement by {by.owner} expired on {by.expires}: {by.reason}"
    others = [f"{other.check} is acknowledged by {by.owner} until {by.expires}" for other, by in under if other.ladder == finding.ladder]
    return "; ".join(others[:2])


def messages(
    night: Night, routes: Routes, links: Links, problems: Sequence[ConfigError] = (), hints: Sequence[str] = ()
) -> list[dict[str, str]]:
    """The messages of a night, per address reference: `to`, `address`, `kind`, `title`, `body`. An address gets a cluster once.

    Args:
        problems: what is wrong with our own files; the default addresses are told.
        hints: further lines for the default addresses.
    """
    found: list[dict[str, str]] = []
    seen: set[tuple[str, str]] = set()
    for name, addresses in routes.recipients():
        recipient = routes.routing.recipient(name)
        everything = name == DEFAULT
        mine = frozenset() if everything else frozenset({name})
        for address in addresses:
            chosen = [
                (cluster, reminder)
                for cluster, reminder in night.told
                if recipient.wants(cluster.kind)
                and (everything or any(finding.owner in mine and (finding.new or reminder) for finding in cluster.findings))
                and (address, cluster.key) not in seen
            ]
            seen |= {(address, cluster.key) for cluster, _ in chosen}
            texts = [(str(cluster.kind), cluster_message(cluster, links, mine, reminder)) for cluster, reminder in chosen[:MAX_MESSAGES]]
            if rest := [cluster for cluster, _ in chosen[MAX_MESSAGES:]]:
                texts.append((str(rest[0].kind), digest_message(rest, links)))
            count = _count(night, routes, mine) if (address, "open") not in seen else Count()
            seen.add((address, "open"))
            lines = [line for line in (count.line(), *(hints if everything else ())) if line] if texts or count else []
            lines += [f"PROBLEM: {' '.join(str(problem).split())}" for problem in problems] if everything else []
            if texts:
                kind, first = texts[0]
                texts[0] = (kind, footer(first, lines))
            elif lines and ((problems and everything) or (count and routes.routing.still_open)):
                page = "\n".join(f"report: {place}" for place in links.report())
                title = "QATLadder: its own settings are wrong" if problems and everything else f"QATLadder: {count.line()}"
                kind = str(Kind.RUN) if problems and everything else "still open"  # which is never urgent
                texts.append((kind, footer(Message(title, f"nothing new tonight\n\n{page}"), lines)))
            found += [{"to": name, "address": address, "kind": kind, "title": text.title, "body": text.body} for kind, text in texts]
    return found


def _count(night: Night, routes: Routes, owners: frozenset[str]) -> Count:
    recipient = routes.routing.recipient(next(iter(owners), DEFAULT))
    mine = [(record, entry) for record, entry in night.quiet if (not owners or record.owner in owners) and recipient.wants(entry.kind)]
    return Count(
        len({entry.cluster for _, entry in mine}),
        len({record.ladder for record, _ in mine}),
        min((entry.since for _, entry in mine), default=""),
        len({finding.ladder for finding, _ in night.acknowledged if not owners or finding.owner in owners}),
    )


def tell(
    report: Mapping[str, Any],
    store: Store,
    settings: Settings,
    links: Links,
    key: str,
    given: Sequence[str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    send: Callable[[Message, str], Delivery] = deliver,
) -> Telling:
    """Tell a run: plan its messages once, queue them, and deliver what may go now. Again for the same report, it goes on where it was.

    Args:
        key: the run's name in the object store.
        given: addresses that get everything in place of the configured ones.
        now, send: for tests.
    Raises:
        BrokenError: the object store is away. A failed delivery is an `Outcome`.
    """
    routes = load_routes(settings, given)
    acknowledged = load_acknowledged(settings.acknowledged, now().date())
    digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()[:12]

    def plan() -> tuple[list[dict[str, str]], list[Record]]:
        return _plan(report, store, routes, acknowledged, links, key, now())

    return Telling(_once(store, routes, f"{key}-{digest}", key, plan, now, send), _problems(routes, acknowledged))


def preview(report: Mapping[str, Any], store: Store, settings: Settings, links: Links, key: str) -> list[dict[str, str]]:
    """The messages `tell` would make of a run now; see `messages`."""
    now = datetime.now(UTC)
    return _plan(report, store, load_routes(settings), load_acknowledged(settings.acknowledged, now.date()), links, key, now)[0]


def _plan(
    report: Mapping[str, Any], store: Store, routes: Routes, acknowledged: Acknowledged, links: Links, key: str, now: datetime
) -> tuple[list[dict[str, str]], list[Record]]:
    known = memory.load(store, channel_of(routes))
    night = consider(report, known, acknowledged, routes.routing, now, str(report["run"].get("id") or key))
    old = stale_of(report, acknowledged, routes.settings)
    hints = [f"acknowledgements that match nothing any more: {len(old)}; qatladder alerts list"] if old else []
    return messages(night, routes, links, _problems(routes, acknowledged), hints), list(night.changed)


def _problems(routes: Routes, acknowledged: Acknowledged) -> tuple[ConfigError, ...]:
    return (*([routes.problem] if routes.problem else []), *acknowledged.problems)


def tell_broken(message: Message, store: Store, settings: Settings, key: str, given: Sequence[str] | None = None) -> Telling:
    """Tell the default addresses that a run ended without a report."""
    routes = load_routes(settings, given)

    def plan() -> tuple[list[dict[str, str]], list[Record]]:
        name, addresses = routes.recipients()[0]
        return [
            {"to": name, "address": address, "kind": str(Kind.RUN), "title": message.title, "body": message.body} for address in addresses
        ], []

    digest = hashlib.sha256(message.body.encode()).hexdigest()[:12]
    return Telling(_once(store, routes, f"{key}-{digest}", key, plan, lambda: datetime.now(UTC), deliver))


def _once(
    store: Store,
    routes: Routes,
    name: str,
    run: str,
    plan: Callable[[], tuple[list[dict[str, str]], list[Record]]],
    now: Callable[[], datetime],
    send: Callable[[Message, str], Delivery],
) -> tuple[Outcome, ...]:
    """Write the plan down, carry it out, deliver."""
    channel = channel_of(routes)
    place = f"alerts/{channel}/told/{safe_name(name)}.json"
    try:
        planned = json.loads(store.read_key(place))
    except FileNotFoundError:
        texts, records = plan()
        planned = {
            "created": now().astimezone(UTC).isoformat(timespec="seconds"),
            "messages": texts,
            "records": [record.model_dump(mode="json") for record in records],
            "done": False,
        }
        memory.write_json(store, place, planned)
    tag = hashlib.sha256(f"{channel} {name}".encode()).hexdigest()[:8]
    when = f"{datetime.fromisoformat(planned['created']):%Y%m%dT%H%M%SZ}"
    items = [
        Item(id=f"{when}-{tag}-{index:03d}", run=run, created=planned["created"], **text) for index, text in enumerate(planned["messages"])
    ]
    if not planned["done"]:
        memory.save(store, channel, [Record.model_validate(record) for record in planned["records"]])
        for item in items:
            queue(store, item)
        memory.write_json(store, place, {**planned, "done": True})
    return tuple(deliver_items(store, routes, now, only=[item.id for item in items], send=send))


def channel_of(routes: Routes) -> str:
    """Whoever names addresses of their own has a memory of their own."""
    return "main" if not routes.given else "given-" + hashlib.sha256("\n".join(sorted(routes.given)).encode()).hexdigest()[:12]


def stale_of(report: Mapping[str, Any], acknowledged: Acknowledged, settings: Settings) -> list[Acknowledgement]:
    """Acknowledgements that match nothing any more."""
    if not (acknowledged.active or acknowledged.expired):
        return []
    absent = missing(report)
    findings = [finding for item in report["ladders"] for finding in candidates(item, suspicious=True)] + absent
    ran = [ladder_of(item) for item in report["ladders"]] + [finding.ladder for finding in absent]
    return stale(acknowledged, ran, findings, _models(settings.zoo))


def _models(zoo: Path) -> list[str]:
    """Models of the zoo, as far as its files can be read."""
    found = []
    for path in sorted(zoo.glob("*.y*ml")):
        if path.name in NOT_ENTRIES:
            continue
        try:
            data = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, yaml.YAMLError):
            continue
        found += [str(data["model"])] if isinstance(data, dict) and "model" in data else []
    return found


def in_report(report: Mapping[str, Any], settings: Settings, store: Store) -> dict[str, Any]:
    """What the report says about alerts: who answers for what until when, what expired or is stale, what is wrong, what was not delivered.

    Returns:
        `acknowledged` and `expired` (`ladder`, `check`, `owner`, `reason`, `expires`, `issue`), `stale` (entries of the file),
        `problems` (texts), `undelivered`; JSON data.
    """
    found = load_acknowledged(settings.acknowledged, datetime.now(UTC).date())
    routes = load_routes(settings)
    findings = [finding for item in report["ladders"] for finding in candidates(item, suspicious=True)] + missing(report)

    def row(finding: Finding, by: Acknowledgement) -> dict[str, Any]:
        return {**by.to_json(), "ladder": str(finding.ladder), "check": finding.check}

    problems = [str(problem) for problem in (routes.problem, *found.problems) if problem is not None]
    return {
        "acknowledged": [row(finding, by) for finding in findings if (by := found.of(finding)) is not None],
        "expired": [
            row(finding, by) for finding in findings if found.of(finding) is None and (by := found.expired_of(finding)) is not None
        ],
        "stale": [item.to_json() for item in stale_of(report, found, settings)],
        "problems": problems,
        "undelivered": undelivered(store),
    }
