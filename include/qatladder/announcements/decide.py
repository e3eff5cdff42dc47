"""Whether an announcement starts a ladder.

    run         the zoo holds what was announced, and it was not validated yet
    duplicate   the same content was started before
    superseded  a newer announcement was started, and the zoo does not hold what this one announced, or it states no artifacts
    waiting     the zoo holds other bytes than were announced, and nobody announced those: the files may still be copied (`GRACE`)
    missing     they did not come
    unknown     the zoo holds no such model, version or target, or several that may be meant
    rejected    it is no announcement

The artifacts' hashes decide where they are stated: what the zoo holds now is what a ladder would validate, whatever the clocks of the
training machines say. Times decide only between announcements that state none.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qatladder.announcements.form import Announcement
from qatladder.announcements.inbox import Latest, Letter, ladder_key, latest_of, pending
from qatladder.evidence.store import Store, sha256_file
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Artifacts, Entry

ROLES = tuple(Artifacts.model_fields)
Outcome = Literal["run", "duplicate", "superseded", "waiting", "missing", "unknown", "rejected"]
GRACE = datetime.timedelta(hours=1)
"""How long announced files may take to arrive in the zoo."""


@dataclass(frozen=True)
class Decision:
    """What is to be done with a letter, and why.

    Attributes:
        letter: the announcement.
        outcome: see the module.
        why: one line.
        version: of the entry that is meant; empty where that is not known.
        key: name of model, version and target in the inbox.
        content: hash of the entry and its artifacts as the zoo holds them.
    """

    letter: Letter
    outcome: Outcome
    why: str
    version: str = ""
    key: str = ""
    content: str = ""

    @property
    def label(self) -> str:
        return f"{self.letter.label}: {self.outcome}"

    @property
    def run_id(self) -> str:
        """The DAG run's id: the same whoever decides, and however often, so that it is created once."""
        found = self.letter.announcement
        return f"announced-{found.model if found else 'nothing'}-{self.version}-{self.letter.id}"

    @property
    def params(self) -> dict[str, str]:
        """Of the DAG `validate_model`."""
        found = self.letter.announcement
        if found is None:
            return {}
        return {"model": found.model, "version": self.version, **({"target": found.target} if found.target else {})}

    def to_json(self) -> dict[str, Any]:
        return {"letter": self.letter.to_json(), **{name: getattr(self, name) for name in ("outcome", "why", "version", "key", "content")}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Decision:
        return cls(**{**data, "letter": Letter.from_json(data["letter"])})


@dataclass
class _Zoo:
    """The zoo, each file hashed once."""

    zoo: Zoo
    hashes: dict[Path, str] = field(default_factory=dict)

    def artifacts(self, entry: Entry) -> dict[str, str]:
        """sha256 by role of the files that are there."""
        found = {}
        for role in ROLES:
            path = self.zoo.artifact(entry, role)
            if path is None:
                continue
            if path not in self.hashes:
                try:
                    self.hashes[path] = sha256_file(path)[0]
                except OSError:  # missing, or being replaced
                    self.hashes[path] = ""
            if self.hashes[path]:
                found[role] = self.hashes[path]
        return found


def decide(store: Store, zoo: Zoo) -> list[Decision]:
    """Decide on everything that waits, the newest first, and change nothing: `settle` does, once the run exists."""
    seen, started = _Zoo(zoo), dict[str, Latest]()
    decisions = []
    for letter in pending(store):
        decision = _decide(letter, store, seen, started)
        if decision.outcome == "run":
            started[decision.key] = Latest(letter.id, letter.when, decision.content, decision.run_id)
        decisions.append(decision)
    return decisions


def _decide(letter: Letter, store: Store, zoo: _Zoo, started: dict[str, Latest]) -> Decision:
    found = letter.announcement
    if found is None:
        return Decision(letter, "rejected", " ".join(letter.problem.split()))
    entries = [entry for entry in zoo.zoo.entries.values() if entry.model == found.model]
    if why := _unknown(found, entries, zoo.zoo):
        return Decision(letter, "unknown", why)
    meant = [entry for entry in entries if _is_meant(found, entry)]
    matching = [entry for entry in meant if not _differing(found, zoo.artifacts(entry))]
    if not matching:
        return _other_bytes(letter, found, meant, store, zoo, started)
    if len(matching) > 1:
        versions = ", ".join(entry.version for entry in matching)
        return Decision(
            letter, "unknown", f"the zoo holds {found.model} in several versions, {versions}, and the announcement does not say which"
        )
    (entry,) = matching
    key, content = ladder_key(found.model, entry.version, found.target), _content(entry, zoo.artifacts(entry))
    # A run for all targets speaks for each of them.
    keys = dict.fromkeys((key, ladder_key(found.model, entry.version, None)))
    before = [latest for name in keys if (latest := started.get(name) or latest_of(store, name)) and latest.id != letter.id]
    for latest in before:
        if latest.content == content:
            return Decision(letter, "duplicate", f"the same entry and artifacts were started as {latest.run}", entry.version, key, content)
    for latest in before:
        if not found.artifacts and letter.when < latest.when:
            why = f"a newer announcement, of {_time(latest.when)}, was started as {latest.run}, and this one of {_time(letter.when)} states no artifacts"
            return Decision(letter, "superseded", why, entry.version, key, content)
    return Decision(letter, "run", "the zoo holds what was announced, not validated yet", entry.version, key, content)


def _other_bytes(letter: Letter, found: Announcement, meant: list[Entry], store: Store, zoo: _Zoo, started: dict[str, Latest]) -> Decision:
    """The zoo holds other bytes than were announced: newer ones, or those announced are still on their way."""
    version = meant[0].version if len(meant) == 1 else ""
    keys = [ladder_key(found.model, entry.version, target) for entry in meant for target in (found.target, None)]
    newer = [latest for key in keys if (latest := started.get(key) or latest_of(store, key)) and latest.when > letter.when]
    why = f"the zoo holds other bytes than were announced: {'; '.join(_differing(found, zoo.artifacts(meant[0])))}"
    if newer:
        return Decision(
            letter, "superseded", f"{why}; a newer announcement, of {_time(newer[0].when)}, was started as {newer[0].run}", version
        )
    arrived = datetime.datetime.fromisoformat(letter.received)
    if datetime.datetime.now(datetime.UTC) - arrived < GRACE:
        return Decision(letter, "waiting", f"{why}; they are waited for until {_time(arrived + GRACE)}", version)
    return Decision(
        letter, "missing", f"{why}; they did not come: write the artifacts where the zoo entry looks for them, then announce", version
    )


def _unknown(found: Announcement, entries: list[Entry], zoo: Zoo) -> str:
    """Why nothing of the zoo can be meant; empty when something can."""
    if not entries:
        for problem in zoo.problems:
            if Path(problem.where.get("file", "")).stem == found.model:
                return "the zoo entry cannot be read: " + " ".join(str(problem).split())
        return f"the zoo has no model {found.model}; it has {', '.join(sorted({entry.model for entry in zoo.entries.values()})) or 'none'}"
    versions = [entry for entry in entries if found.version in (None, entry.version)]
    if not versions:
        return f"the zoo has no version {found.version} of {found.model}; it has {', '.join(entry.version for entry in entries)}"
    if not any(_is_meant(found, entry) for entry in versions):
        targets = sorted({target.id for entry in versions for target in entry.targets})
        return f"{found.model} has no target {found.target}; it has {', '.join(targets)}"
    return ""


def _is_meant(found: Announcement, entry: Entry) -> bool:
    return found.version in (None, entry.version) and (found.target is None or found.target in [target.id for target in entry.targets])


def _differing(found: Announcement, there: dict[str, str]) -> list[str]:
    return [
        f"{role} {there[role][:12] if role in there else 'missing'}, announced {digest[:12]}"
        for role, digest in found.artifacts.items()
        if there.get(role) != digest
    ]


def _content(entry: Entry, artifacts: dict[str, str]) -> str:
    data = {"entry": entry.model_dump(mode="json"), "artifacts": artifacts}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _time(when: datetime.datetime) -> str:
    return f"{when.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
