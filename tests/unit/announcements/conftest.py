"""Announcements as they arrive."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from qatladder.announcements import Letter, letter_of, parse
from qatladder.errors import ConfigError

NOON = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC)


def letter(model: str = "toy", at: int = 0, source: str = "test", **fields: Any) -> Letter:
    """An announcement of a training that ended `at` minutes after noon."""
    when = (NOON + datetime.timedelta(minutes=at)).isoformat()
    return letter_of(parse(json.dumps({"model": model, "when": when, **fields}).encode(), source, NOON), source)


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is evening."""
    import qatladder.announcements.inbox as inbox

    monkeypatch.setattr(inbox, "_now", lambda: (NOON + datetime.timedelta(hours=8)).isoformat())


__all__ = ["NOON", "ConfigError", "letter"]
