"""Where messages go, and when: `alerts.yaml` in the zoo folder. Without it, QATLADDER_ALERTS; without that, a file in the data folder.

    default:
      addresses: [$LAB_CHAT]                # everything goes here; QATLADDER_ALERTS, when set, wins
    owners:
      perception:
        addresses: [$PERCEPTION_FEISHU, "airflow:perception_mail"]
        minimum: warning                    # info | warning | error
        zone: Asia/Shanghai
        quiet:
          - {days: [mon, tue, wed, thu, fri], from: "19:00", to: "08:00"}
          - {days: [sat, sun]}              # the whole day
        urgent: [no-ship]                   # passes in quiet hours
    suspicious: false                       # tell numbers that may have moved, too
    reminder_days: 7                        # an unchanged finding is told in full again
    still_open: true                        # a line a night about what is unchanged

An address is `$NAME` (apprise URLs in an environment variable, separated by commas), `airflow:ID` (an Airflow connection of type apprise), or
an apprise URL that holds no secret: `file://` or `mailto://` without a password. Nothing else may be written into the file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import qatladder.settings
from qatladder.alerts.findings import Kind, Level
from qatladder.alerts.send import default_file
from qatladder.errors import ConfigError
from qatladder.settings import Settings
from qatladder.zoo.schema import Strict

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ENVIRONMENT = "QATLADDER_ALERTS"
DEFAULT = "default"
"""Name of the recipient that gets everything."""

_SECRETS = {"pass", "password", "token", "secret", "key"}


def _safe(address: str) -> str:
    """An address that may stand in a committed file."""
    if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*|airflow:[\w.-]+", address):
        return address
    parts = urlsplit(address)
    if parts.scheme == "file" or (
        parts.scheme in ("mailto", "mailtos") and not parts.password and not _SECRETS & set(parse_qs(parts.query))
    ):
        return address
    scheme = parts.scheme if parts.scheme.isalnum() else "****"
    raise ValueError(
        f"an address of kind {scheme}:// may hold a secret and is not written here; expected $NAME of an environment variable, "
        "airflow:CONNECTION_ID, file:///path.jsonl or a mailto:// without password"
    )


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}; expected a name such as Asia/Shanghai or UTC") from None
    return name


Address = Annotated[str, AfterValidator(_safe)]
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class Quiet(Strict):
    """One stretch of quiet hours, in the recipient's time zone. `days` are those on which it begins."""

    days: tuple[Day, ...] = Field(DAYS, min_length=1)
    start: Clock | None = Field(None, alias="from")
    end: Clock | None = Field(None, alias="to", description="Not later than `from`: of the next day.")

    @model_validator(mode="after")
    def _both(self) -> Quiet:
        if (self.start is None) != (self.end is None):
            raise ValueError("from and to go together; leave both out for the whole day")
        return self

    def end_of(self, local: datetime) -> datetime | None:
        """The end of this stretch if `local` (wall clock, no zone) is in it."""
        for back in (0, 1):
            day = local.date() - timedelta(days=back)
            if DAYS[day.weekday()] not in self.days:
                continue
            start = datetime.combine(day, time.fromisoformat(self.start or "00:00"))
            end = datetime.combine(day, time.fromisoformat(self.end or "00:00"))
            if end <= start:
                end += timedelta(days=1)
            if start <= local < end:
                return end
        return None


class Recipient(Strict):
    """Who gets messages, where, and when not."""

    addresses: tuple[Address, ...] = ()
    minimum: Level = Level.INFO
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    quiet: tuple[Quiet, ...] = ()
    urgent: tuple[Kind, ...] = ()

    @model_validator(mode="after")
    def _awake(self) -> Recipient:
        monday = datetime(2026, 1, 5)
        if self._quiet_until(monday) - monday > timedelta(days=8):
            raise ValueError("the quiet hours leave no hour of the week in which a message may go out")
        return self

    def wants(self, kind: Kind) -> bool:
        levels = list(Level)
        return levels.index(kind.level) >= levels.index(self.minimum)

    def quiet_until(self, now: datetime, kind: str) -> datetime | None:
        """When a message of this kind may go out, if not now (UTC)."""
        if kind in self.urgent:
            return None
        zone = ZoneInfo(self.zone)
        local = now.astimezone(zone).replace(tzinfo=None)
        until = self._quiet_until(local)
        return None if until == local else until.replace(tzinfo=zone)

    def _quiet_until(self, local: datetime) -> datetime:
        """The next moment (wall clock) outside every stretch, which may follow each other; `local` itself when it is."""
        for _ in range(4 * len(DAYS)):
            ends = [end for stretch in self.quiet if (end := stretch.end_of(local)) is not None]
            if not ends:
                break
            local = max(ends)
        return local


class Routing(Strict):
    """The file; see the module."""

    default: Recipient = Recipient()
    owners: dict[str, Recipient] = Field(default_factory=dict)
    suspicious: bool = False
    reminder_days: int = Field(7, ge=1, le=90)
    still_open: bool = True

    @model_validator(mode="after")
    def _names(self) -> Routing:
        if DEFAULT in self.owners:
            raise ValueError(f"no owner can be named {DEFAULT}: that is who gets everything")
        return self

    def recipient(self, name: str) -> Recipient:
        return self.owners.get(name, self.default) if name != DEFAULT else self.default


@dataclass(frozen=True)
class Routes:
    """The routing in force.

    Attributes:
        routing: the file, or its defaults where it cannot be read.
        problem: why it cannot be.
        given: addresses somebody named for this call only, which win.
    """

    routing: Routing
    settings: Settings
    problem: ConfigError | None = None
    given: tuple[str, ...] = ()

    def recipients(self) -> list[tuple[str, tuple[str, ...]]]:
        """(name, address references) of everybody, the default first. References hold no secret."""
        if self.given:
            return [(DEFAULT, tuple(reference_of(url) for url in self.given))]
        default = self.routing.default.addresses
        if self.settings.alerts:
            default = (f"${ENVIRONMENT}",)
        default = default or (default_file(self.settings.home).resolve().as_uri(),)
        return [(DEFAULT, default), *((name, owner.addresses) for name, owner in self.routing.owners.items() if owner.addresses)]

    def urls(self, reference: str) -> list[str]:
        """The apprise URLs behind a reference, in order: secrets, never to be stored or shown.

        Raises:
            ConfigError: the variable is not set, the connection is not there, or this process does not know the address.
        """
        if reference.startswith("given:"):
            found = [url for url in self.given if reference_of(url) == reference]
            if not found:
                raise ConfigError(
                    "only the notifier that was given this address knows it", "it tries again at its next run", found=reference
                )
            return found
        if reference.startswith("$"):
            found = [url.strip() for url in os.environ.get(reference[1:], "").split(",") if url.strip()]
            if not found:
                raise ConfigError("the variable with the address is not set", "set it where Airflow's tasks run", found=reference)
            return found
        if reference.startswith("airflow:"):
            look_up = qatladder.settings.alert_connections
            if look_up is None:
                raise ConfigError(
                    "the address is in an Airflow connection, which only Airflow can read",
                    "the DAG deliver_alerts sends it",
                    found=reference,
                )
            return look_up(reference.removeprefix("airflow:"))
        return [reference]


def reference_of(url: str) -> str:
    """A name of an address that may be stored: the address itself where it holds no secret."""
    try:
        return _safe(url)
    except ValueError:
        return f"given:{fingerprint(url)}"


def fingerprint(url: str) -> str:
    """Tells addresses apart without giving one away."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def load_routes(settings: Settings, given: Sequence[str] | None = None) -> Routes:
    """Read the routing file. One that cannot be read is no reason to tell nobody: the default addresses get everything."""
    path = settings.alert_routing
    try:
        return Routes(_load(path), settings, given=tuple(given or ()))
    except ConfigError as error:
        return Routes(Routing(), settings, error, tuple(given or ()))


def _load(path: Path) -> Routing:
    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Routing()
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError("the routing of alerts cannot be read", _NEXT, file=path, found=" ".join(str(error).split())) from error
    try:
        return Routing.model_validate(data or {})
    except ValidationError as error:
        wrong = [f"{'.'.join(str(part) for part in item['loc']) or '(file)'}: {item['msg']}" for item in error.errors()]
        fields: Mapping[str, Any] = {f"field {index}": text for index, text in enumerate(wrong, 1)}
        raise ConfigError("the routing of alerts is wrong", _NEXT, file=path, **fields) from None


_NEXT = "correct it; until then the default addresses get everything (docs/alerts.md)"
