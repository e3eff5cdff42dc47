"""Regressions somebody answers for, until a date: `acknowledged.yaml` in the zoo folder, reviewed like the zoo.

    acknowledged:
      - model: digits_cnn
        target: bayes-e            # version and target may be left out: all of them
        check: int.accuracy        # or a list; `missing` for a ladder that does not run any more
        owner: perception
        reason: the new head is being retrained
        expires: 2026-12-24        # the last day it holds (UTC), at most 180 days away
        issue: https://example.com/issues/12

A mistake in it never silences an alert: an entry that cannot be read acknowledges nothing, and is told.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from qatladder.alerts.findings import MISSING, Finding, Ladder
from qatladder.errors import ConfigError
from qatladder.ladder.checks import check_ids
from qatladder.zoo.schema import Name, Strict

MAX_DAYS = 180
"""How far away an expiry may be: what nobody looks at for half a year is not acknowledged but forgotten."""

HEAD = "# Regressions somebody answers for, until a date; see docs/alerts.md. Reviewed like the zoo.\nacknowledged: []\n"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Acknowledgement(Strict):
    """One entry of the file."""

    model: Name
    version: str | None = Field(None, min_length=1)
    target: Name | None = None
    check: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    owner: str = Field(min_length=1)
    reason: str = Field(min_length=10, description="Why it may stay so, for whoever reads it in a month.")
    expires: date
    issue: str | None = Field(None, pattern=r"^https?://\S+$")

    @field_validator("check")
    @classmethod
    def _known(cls, checks: tuple[str, ...]) -> tuple[str, ...]:
        known = (*check_ids(), MISSING)
        if wrong := [check for check in checks if check not in known]:
            raise ValueError(f"there is no check {', '.join(wrong)}; expected {' | '.join(known)}")
        return checks

    def names(self, ladder: Ladder) -> bool:
        """Whether it is about this ladder."""
        return ladder.model == self.model and self.version in (None, ladder.version) and self.target in (None, ladder.target)

    def covers(self, finding: Finding) -> bool:
        return self.names(finding.ladder) and finding.check in self.check

    @property
    def where(self) -> str:
        """`digits_cnn @ bayes-e: int.accuracy`."""
        name = self.model + (f" {self.version}" if self.version else "") + (f" @ {self.target}" if self.target else "")
        return f"{name}: {', '.join(self.check)}"

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Acknowledged:
    """The file as it is today.

    Attributes:
        active: acknowledgements that hold.
        expired: those that held until a day before today.
        problems: what is wrong with the file; what it concerns acknowledges nothing.
    """

    active: tuple[Acknowledgement, ...] = ()
    expired: tuple[Acknowledgement, ...] = ()
    problems: tuple[ConfigError, ...] = ()

    def of(self, finding: Finding) -> Acknowledgement | None:
        """The acknowledgement that covers a finding."""
        return next((item for item in self.active if item.covers(finding)), None)

    def expired_of(self, finding: Finding) -> Acknowledgement | None:
        """The newest acknowledgement that covered a finding and does not any more."""
        return max((item for item in self.expired if item.covers(finding)), key=lambda item: item.expires, default=None)


def load_acknowledged(path: Path, today: date) -> Acknowledged:
    """Read the file; a missing one acknowledges nothing. Never raises for what is written in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Acknowledged()
    except (OSError, UnicodeDecodeError) as error:
        return Acknowledged(problems=(_problem(path, "the file cannot be read", str(error)),))
    try:
        data = _yaml().load(text)
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        line = f"line {mark.line + 1}" if mark else ""
        found = getattr(error, "problem", None) or str(error).splitlines()[0]
        return Acknowledged(problems=(_problem(path, "the file is not YAML", str(found), line=line),))
    if data is None:
        return Acknowledged()
    if (
        not isinstance(data, CommentedMap)
        or set(data) != {"acknowledged"}
        or not isinstance(data["acknowledged"] or [], (list, CommentedSeq))
    ):
        found = ", ".join(map(str, data)) if isinstance(data, CommentedMap) else type(data).__name__
        problem = _problem(
            path, "the file holds something else than acknowledgements", found, "one key `acknowledged` with a list of entries"
        )
        return Acknowledged(problems=(problem,))
    active: list[Acknowledgement] = []
    expired: list[Acknowledgement] = []
    problems: list[ConfigError] = []
    for index, raw in enumerate(data["acknowledged"] or []):
        line = f"entry {index + 1}, line {data['acknowledged'].lc.item(index)[0] + 1}"
        try:
            entry = Acknowledgement.model_validate(dict(raw) if isinstance(raw, CommentedMap) else raw)
        except ValidationError as error:
            for item in error.errors():
                field = ".".join(str(part) for part in item["loc"]) or "(entry)"
                shown = "nothing" if item["type"] == "missing" else repr(item["input"])
                problems.append(_problem(path, f"an acknowledgement is wrong: {field}", shown, item["msg"], line))
            continue
        if entry.expires > today + timedelta(days=MAX_DAYS):
            expected = f"a day until {today + timedelta(days=MAX_DAYS)}: at most {MAX_DAYS} days away"
            problems.append(_problem(path, "an acknowledgement is wrong: expires", str(entry.expires), expected, line))
        else:
            (active if entry.expires >= today else expired).append(entry)
    return Acknowledged(tuple(active), tuple(expired), tuple(problems))


def acknowledge(path: Path, entry: Acknowledgement, today: date) -> None:
    """Append an entry to the file; everything else in it, comments included, stays as it is. Whole or not at all.

    Raises:
        ConfigError: the file has mistakes (it is not touched), or the new entry is expired or expires too late.
    """
    found = load_acknowledged(path, today)
    if found.problems:
        raise found.problems[0]
    if not today <= entry.expires <= today + timedelta(days=MAX_DAYS):
        raise ConfigError(
            "an acknowledgement must expire soon",
            "choose a nearer day; it can be prolonged by a new entry",
            found=entry.expires,
            expected=f"{today} to {today + timedelta(days=MAX_DAYS)}",
        )
    yaml = _yaml()
    data = (yaml.load(path.read_text(encoding="utf-8")) if path.exists() else None) or yaml.load(HEAD)
    if not data["acknowledged"]:
        data["acknowledged"] = CommentedSeq()
    if isinstance(data["acknowledged"], CommentedSeq):
        data["acknowledged"].fa.set_block_style()
    fields = {key: value for key, value in entry.model_dump().items() if value is not None}
    fields["check"] = fields["check"][0] if len(fields["check"]) == 1 else list(fields["check"])
    data["acknowledged"].append(CommentedMap(fields))
    text = io.StringIO()
    yaml.dump(data, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".acknowledged-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def parse_expiry(text: str, today: date) -> date:
    """`2026-12-24`, or `30d` from today.

    Raises:
        ConfigError: neither.
    """
    if days := re.fullmatch(r"(\d{1,4})d", text):
        return today + timedelta(days=int(days[1]))
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError("not a day", expected="2026-12-24, or 30d for thirty days from now", found=text) from None


def build(**fields: Any) -> Acknowledgement:
    """An entry from the command line.

    Raises:
        ConfigError: a field is wrong.
    """
    try:
        return Acknowledgement.model_validate(fields)
    except ValidationError as error:
        wrong = {".".join(str(part) for part in item["loc"]): item["msg"] for item in error.errors()}
        raise ConfigError("the acknowledgement is wrong", "correct the option of that name", **wrong) from None


def stale(found: Acknowledged, ran: Sequence[Ladder], findings: Sequence[Finding], zoo: Sequence[str]) -> list[Acknowledgement]:
    """Acknowledgements, expired ones too, that match nothing any more.

    Args:
        ran: ladders of the run.
        findings: everything wrong in it.
        zoo: models of the zoo: a run of some models says nothing about the others.
    """
    return [
        item
        for item in (*found.active, *found.expired)
        if not any(item.covers(finding) for finding in findings) and (any(item.names(ladder) for ladder in ran) or item.model not in zoo)
    ]


def _yaml() -> YAML:
    yaml = YAML()  # round trip: comments and order stay
    yaml.width = 140
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _problem(path: Path, message: str, found: str, expected: str = "see docs/alerts.md", line: str = "") -> ConfigError:
    where = {"file": path, **({"at": line} if line else {}), "expected": expected, "found": found}
    return ConfigError(message, "correct it; until then it acknowledges nothing, and everything it would silence is told", **where)
