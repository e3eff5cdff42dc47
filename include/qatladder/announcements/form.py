"""The announcement of a trained model: a small JSON object.

    {"model": "lanes", "version": "2026.11", "target": "bayes-e",
     "artifacts": {"float": "<sha256>", "qat": "<sha256>", "onnx": "<sha256>"},
     "who": "ci@trainer", "when": "2026-11-27T08:30:00+00:00", "training": {"git": "1f3a9c0", "mlflow_run": "..."}}

`model` alone is needed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, ValidationError

from qatladder.errors import ConfigError
from qatladder.zoo.schema import Name, Strict

MAX_BYTES = 64 * 1024
"""Of an announcement; what is larger is something else."""

Role = Literal["float", "calib", "qat", "onnx", "int", "hbm"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Announcement(Strict):
    """A finished training. See docs/after-training.md."""

    announcement: Literal[1] = Field(1, description="Version of this form.")
    model: Name
    version: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$", description="Of the zoo entry.")
    target: Name | None = Field(None, description="Only this target; empty for all of the entry.")
    artifacts: dict[Role, Sha256] = Field(default_factory=dict, description="sha256 of the files, by role.")
    who: str = Field("", max_length=200)
    when: AwareDatetime | None = Field(None, description="End of the training; when it arrived where it is not stated.")
    training: dict[str, JsonValue] = Field(default_factory=dict, description="What the run is remembered with: git commit, MLflow run ...")

    @property
    def id(self) -> str:
        """20 hex digits that follow from the content; two announcements of the same content and time are one."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def label(self) -> str:
        """`lanes 2026.11 @ bayes-e`"""
        return " ".join(filter(None, (self.model, self.version))) + (f" @ {self.target}" if self.target else "")


def parse(data: bytes | Mapping[str, Any], source: str, arrived: datetime.datetime) -> Announcement:
    """Read an announcement.

    Args:
        data: JSON text, or JSON data already read.
        source: where it came from, for the message.
        arrived: time with zone; taken for `when` where that is not stated.
    Raises:
        ConfigError: no JSON, or not an announcement; names every wrong field, what was found there and what is expected.
            `where["unreadable"]` is set when it is no JSON at all: it may be half-written.
    """
    if isinstance(data, bytes):
        if len(data) > MAX_BYTES:
            raise ConfigError(
                "the announcement is too large", source=source, found=f"{len(data)} bytes", expected=f"at most {MAX_BYTES} bytes"
            )
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                "the announcement cannot be read as JSON",
                source=source,
                unreadable=error,
                next_step="write it under another name, then rename it; docs/after-training.md shows it",
            ) from error
    if not isinstance(data, Mapping):
        raise ConfigError("the announcement is no JSON object", source=source, found=_short(data), expected='{"model": ...}')
    try:
        found = Announcement.model_validate_json(json.dumps(dict(data), allow_nan=False))
    except ValidationError as error:
        wrong = {
            f"field {'.'.join(map(str, item['loc'])) or '(all)'}": f"{_expected(item)}; found {_short(item['input'])}"
            for item in error.errors()
        }
        raise ConfigError(
            f"{len(wrong)} field(s) of the announcement are wrong",
            next_step="correct them and announce again; docs/after-training.md describes the fields",
            source=source,
            **wrong,
        ) from error
    except ValueError as error:
        raise ConfigError("the announcement is no JSON data", source=source, found=error) from error
    return found if found.when is not None else found.model_copy(update={"when": arrived.astimezone(datetime.UTC)})


def _expected(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return f"there is no such field; there are {', '.join(Announcement.model_fields)}"
    if item["type"] == "missing":
        return "it is needed"
    if item["type"] == "timezone_aware":
        return "expected a time with its zone, such as 2026-11-27T08:30:00+00:00"
    return str(item["msg"])


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."
