"""Messages on their way, in the object store, so that none is lost when a process dies, and none waits for the process that made it.

    alerts/outbox/<id>.json       held, or tried again
    alerts/lost/<id>.json         given up after `BACKOFF` tries; `qatladder alerts retry` puts it back
    alerts/delivered/<id>.json    accepted by every address, kept for `KEEP_DAYS`

An item names addresses by reference (`$LAB_CHAT`, `airflow:mail`); the addresses themselves are secrets and are looked up when it is sent. Every
address that accepts is written down at once, before the next one is tried.

At least once: an address gets a message twice when the process dies between its yes and that write, when its yes is lost on the
way (a timeout), or when two senders take one item within the same fraction of a second, which the claim below all but excludes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel

from qatladder.alerts.memory import write_json
from qatladder.alerts.routing import Routes, fingerprint
from qatladder.alerts.send import Delivery, Message, deliver
from qatladder.errors import ConfigError
from qatladder.evidence import Store

BACKOFF = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 30, 60, 120, 240, 480, 480))
"""Pause after each failed try; after the last one the message is lost: a day."""

CLAIM = timedelta(minutes=10)
"""How long a sender has an item for itself: longer than apprise ever waits for one address."""

KEEP_DAYS = 60

WAITING, LOST, DELIVERED = "alerts/outbox/", "alerts/lost/", "alerts/delivered/"
State = Literal["delivered", "held", "waiting", "lost", "busy"]


class Item(BaseModel):
    """One message for one address reference.

    Attributes:
        id: orders items by time; the same for a message that is queued again.
        run: which run it is about.
        to: name of the recipient: `default` or an owner.
        address: reference of the address.
        kind: of the finding, for quiet hours.
        accepted: fingerprints of the addresses behind the reference that took it.
        tries, next, error: failed tries, when the next one is due (ISO 8601, UTC), and why the last one failed, without secrets.
        claim, claimed_until: who is sending it now.
    """

    id: str
    run: str
    to: str
    address: str
    kind: str
    title: str
    body: str
    created: str
    accepted: list[str] = []
    tries: int = 0
    next: str = ""
    error: str = ""
    claim: str = ""
    claimed_until: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    Attributes:
        address: without secrets.
        reason: why not delivered.
    """

    item: Item
    state: State
    address: str
    reason: str = ""

    def line(self) -> str:
        return f"{self.state} {self.address}: {self.item.title}" + (f" ({self.reason})" if self.reason else "")


def queue(store: Store, item: Item) -> None:
    """Put a message into the outbox, unless it is there or was there."""
    known = [folder for folder in (WAITING, LOST, DELIVERED) if next(store.items(f"{folder}{item.id}.json"), None) is not None]
    if not known:
        write_json(store, f"{WAITING}{item.id}.json", item.model_dump())


def items(store: Store, folder: str = WAITING) -> Iterator[Item]:
    """Items of a folder, oldest first. One that cannot be read is there, too, as `unreadable`: it must be seen, and hold nobody up."""
    for key in sorted(store.keys(folder)):
        if (item := _load(store, key)) is not None:
            yield item


def _load(store: Store, key: str) -> Item | None:
    try:
        return _read(store, key)
    except ValueError as error:
        text = f"a message in the outbox cannot be read: {store.uri(key)}"
        reason = f"{str(error).splitlines()[0]}; delete it from the store when nobody needs it"
        name = key.rpartition("/")[2].removesuffix(".json")
        return Item(id=name, run="", to="", address="", kind="unreadable", title=text, body="", created="", tries=1, error=reason)


def _read(store: Store, key: str) -> Item | None:
    """An item; None when it is gone, delivered while this looks.

    Raises:
        ValueError: it is no item.
    """
    try:
        return Item.model_validate_json(store.read_key(key))
    except FileNotFoundError:
        return None


def deliver_items(
    store: Store,
    routes: Routes,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    only: Sequence[str] | None = None,
    send: Callable[[Message, str], Delivery] = deliver,
) -> list[Outcome]:
    """Send what may be sent now.

    Args:
        only: ids; these are tried whether or not their next try is due. None: everything that is due.
        send: for tests.
    Returns:
        what became of every item looked at, oldest first; nothing is raised for a failed delivery.
    """
    outcomes = []
    chosen = items(store) if only is None else (_load(store, f"{WAITING}{name}.json") for name in only)
    for item in chosen:
        if item is None:
            continue
        if only is None and item.next and datetime.fromisoformat(item.next) > now():
            continue
        if item.kind == "unreadable":
            outcomes.append(Outcome(item, "lost", item.title, item.error))
            continue
        until = routes.routing.recipient(item.to).quiet_until(now(), item.kind)
        if until is not None:
            outcomes.append(Outcome(item, "held", item.address, f"quiet hours until {until.isoformat(timespec='minutes')}"))
            continue
        outcomes += _send(store, routes, item.id, now, send)
    return outcomes


def _send(store: Store, routes: Routes, name: str, now: Callable[[], datetime], send: Callable[[Message, str], Delivery]) -> list[Outcome]:
    key = f"{WAITING}{name}.json"
    item = _claim(store, key, now())
    if item is None:
        return []
    if isinstance(item, str):
        return [Outcome(found, "busy", found.address, item) for found in [_read(store, key)] if found is not None]
    outcomes: list[Outcome] = []
    try:
        urls = routes.urls(item.address)
    except ConfigError as error:
        return [_failed(store, key, item, item.address, " ".join(str(error).split()), now())]
    except Exception as error:  # Airflow's look-up of a connection, whose words may hold the connection
        return [_failed(store, key, item, item.address, f"the address cannot be looked up: {type(error).__name__}", now())]
    for url in urls:
        if fingerprint(url) in item.accepted:
            continue
        done = send(Message(item.title, item.body), url)
        if done.ok:
            item.accepted.append(fingerprint(url))
            write_json(store, key, item.model_dump())
            outcomes.append(Outcome(item, "delivered", done.url))
        else:
            outcomes.append(Outcome(item, "waiting", done.url, done.reason))
    failed = [outcome for outcome in outcomes if outcome.state == "waiting"]
    if failed:
        reason = "; ".join(f"{outcome.address}: {outcome.reason}" for outcome in failed)
        last = _failed(store, key, item, failed[0].address, reason, now())
        return [outcome for outcome in outcomes if outcome.state == "delivered"] + [
            Outcome(last.item, last.state, outcome.address, outcome.reason) for outcome in failed
        ]
    item.claim = item.claimed_until = item.error = ""
    _move(store, item, DELIVERED)
    return outcomes


def _claim(store: Store, key: str, now: datetime) -> Item | str | None:
    """Take an item for oneself; a text says who has it. Written and read back: the later of two writers wins, and only it goes on."""
    item = _read(store, key)
    if item is None:
        return None
    if item.claim and datetime.fromisoformat(item.claimed_until) > now:
        return f"another sender has it until {item.claimed_until}"
    item.claim, item.claimed_until = secrets.token_hex(8), (now + CLAIM).isoformat(timespec="seconds")
    write_json(store, key, item.model_dump())
    again = _read(store, key)
    if again is None or again.claim != item.claim:
        return "another sender took it"
    return item


def _failed(store: Store, key: str, item: Item, address: str, reason: str, now: datetime) -> Outcome:
    item.tries += 1
    item.error, item.claim, item.claimed_until = reason, "", ""
    if item.tries > len(BACKOFF):
        _move(store, item, LOST)
        return Outcome(item, "lost", address, f"{reason}; given up after {item.tries} tries")
    item.next = (now + BACKOFF[item.tries - 1]).isoformat(timespec="seconds")
    write_json(store, key, item.model_dump())
    return Outcome(item, "waiting", address, reason)


def _move(store: Store, item: Item, folder: str) -> None:
    """There before it goes here: an interruption leaves it twice, and it is accepted everywhere by then."""
    write_json(store, f"{folder}{item.id}.json", item.model_dump())
    store.delete_key(f"{WAITING}{item.id}.json")


def put_back(store: Store, names: Sequence[str] = ()) -> list[Item]:
    """Lost messages (all, or these) into the outbox, due now."""
    found = [item for item in items(store, LOST) if item.kind != "unreadable" and (not names or item.id in names)]
    for item in found:
        item.tries, item.next = 0, ""
        write_json(store, f"{WAITING}{item.id}.json", item.model_dump())
        store.delete_key(f"{LOST}{item.id}.json")
    return found


def prune(store: Store, now: datetime) -> None:
    """Let go of what was delivered, and of the plans of runs, after `KEEP_DAYS`. Nothing that waits and nothing lost goes."""
    oldest = (now - timedelta(days=KEEP_DAYS)).timestamp()
    channels = {"/".join(key.split("/")[:2]) for key in store.keys("alerts/") if key.count("/") == 3 and key.split("/")[2] == "told"}
    for folder in (DELIVERED, *(f"{channel}/told/" for channel in sorted(channels))):
        for entry in list(store.items(folder)):
            if entry.modified < oldest:
                store.delete_key(entry.key)


def undelivered(store: Store) -> list[dict[str, str]]:
    """Messages that failed at least once or are lost, for the report: no body, no secret."""
    return [
        {
            "id": item.id,
            "title": item.title,
            "to": item.to,
            "address": item.address,
            "since": item.created,
            "state": state,
            "reason": item.error,
        }
        for folder, state in ((LOST, "lost"), (WAITING, "waiting"))
        for item in items(store, folder)
        if item.tries
    ]
