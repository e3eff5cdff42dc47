"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.stores import servers, store
from tests.unit.toy import ToyZoo

__all__ = ["servers", "store", "toy_zoo"]


@pytest.fixture
def toy_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyZoo:
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("QATLADDER_VENDOR", "0")
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    zoo = ToyZoo(tmp_path)
    zoo.entry()
    for which in ("float", "calib", "qat"):
        zoo.artifact(which, 0)
    return zoo
