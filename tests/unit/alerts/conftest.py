"""Fixtures of the alerts' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.alerts.nights import Lab
from tests.unit.alerts.receivers import Mailbox, Receiver


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder and a zoo of the test, and no addresses from outside."""
    for name in ("QATLADDER_STORE", "QATLADDER_ALERTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("qatladder.settings.alert_connections", None)  # another test may have imported Airflow
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose default address is one chat."""
    monkeypatch.setenv("QATLADDER_ALERTS", "json://chat")
    return Lab(tmp_path)


@pytest.fixture
def accepting() -> Iterator[Receiver]:
    receiver = Receiver(200)
    yield receiver
    receiver.close()


@pytest.fixture
def refusing() -> Iterator[Receiver]:
    receiver = Receiver(500)
    yield receiver
    receiver.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.close()
