"""Airflow in a folder of its own, results to put into tasks, and a context like a task's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Before anything imports Airflow: it fixes its folder and database at import.
_folder = tempfile.TemporaryDirectory(prefix="qatladder-airflow-")
os.environ["AIRFLOW_HOME"] = _folder.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import pytest  # noqa: E402
from tests.unit.airflow.results import FakeTask  # noqa: E402


@pytest.fixture
def ladder() -> dict[str, Any]:
    return {
        "label": "m 1 @ bayes-e",
        "model": "m",
        "version": "1",
        "target": "bayes-e",
        "march": "bayes-e",
        "boards": [],
        "board": "a",
        "rungs": ["float", "calib", "qat", "int", "hbm", "board"],
    }


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": FakeTask(), "dag_run": SimpleNamespace(dag_id="nightly_sweep", run_id="sweep-1")}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    for name in ("QATLADDER_STORE", "QATLADDER_ALERTS", "QATLADDER_UI_PORT", "QATLADDER_UI_AUTH", "QATLADDER_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


TWO_BOARDS = """
boards:
  - {name: a, march: bayes-e, host: 192.0.2.1, conn_id: board_a}
  - {name: b.2, march: bayes-e, host: 192.0.2.2, conn_id: board_b}
"""


@pytest.fixture
def two_boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet of two boards of one march."""
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(TWO_BOARDS)
    monkeypatch.setenv("QATLADDER_FLEET", str(fleet))
    return fleet


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the tasks logged so far, line by line."""
    caplog.set_level("INFO", logger="qatladder")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("qatladder")]
