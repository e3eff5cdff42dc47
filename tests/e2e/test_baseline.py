"""Promises: a person accepts a baseline in Airflow, and only then it is one; who and why are kept; a rejection changes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.history.test_history import night

from qatladder.airflow.client import AirflowClient
from qatladder.evidence import Store, open_store
from qatladder.history import facts_of, write_facts
from qatladder.history.baselines import advance, baseline_of
from qatladder.reports.report import report_json
from qatladder.settings import load_settings

PROJECT = Path(__file__).resolve().parents[2]
RUNS = "dags/accept_baseline/dagRuns"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def store_night(store: Store, number: int) -> str:
    """A whole run in which everything passed."""
    results, run = night(number)
    store.write_run_file(run["id"], "report.json", json.dumps(report_json(results, run)).encode())
    store.write_run_file(run["id"], "manifest.json", b"{}")
    write_facts(store, facts_of(results, run), run)
    return str(run["id"])


class Lab:
    """Airflow, and two nights in the store, the first of which is the baseline."""

    def __init__(self, home: Path, url: str) -> None:
        self.client = AirflowClient(url, home / "airflow" / "passwords.json")
        self.url, self.store = url, open_store(load_settings())
        self.first, self.second = store_night(self.store, 1), store_night(self.store, 2)
        advance(self.store, "model_0", "1", "bayes", self.first, "2026-10-01T01:00:00+00:00")

    def held_against(self) -> str:
        found = baseline_of(self.store, "model_0", "1", "bayes")
        assert found is not None
        return found.run_id

    def ask(self, **conf: Any) -> str:
        """Start the DAG; returns the run when it waits for a person."""
        run: str = self.client.post(RUNS, {"conf": {"model": "model_0", **conf}, "logical_date": None})["dag_run_id"]
        self.until(lambda: self.state(run, "approve") == "awaiting_input", run)
        return run

    def answer(self, run: str, option: str, why: str) -> None:
        """As a person does, seconds later: the scheduler takes a task that was answered before it had noticed the pause for a lost one."""
        time.sleep(3)
        path = f"{RUNS}/{run}/taskInstances/approve/-1/hitlDetails"
        self.client.patch(path, {"chosen_options": [option], "params_input": {"why": why}})

    def state(self, run: str, task: str) -> str | None:
        state: str | None = self.client.get(f"{RUNS}/{run}/taskInstances/{task}")["state"]
        return state

    def end(self, run: str) -> str:
        self.until(lambda: self.client.get(f"{RUNS}/{run}")["state"] in ("success", "failed"), run)
        return str(self.client.get(f"{RUNS}/{run}")["state"])

    def until(self, what: Callable[[], bool], run: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            states = {task: self.state(run, task) for task in ("propose", "approve", "accept")}
            assert time.monotonic() < deadline and states["propose"] != "failed", states
            time.sleep(0.5)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("home")
    (home / "zoo.d").mkdir()
    (home / "zoo.d" / "fleet.yaml").write_text("boards: []\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QATLADDER_", "AIRFLOW"))}
    environment = {
        **kept,
        "QATLADDER_HOME": str(home),
        "QATLADDER_ZOO": str(home / "zoo.d"),
        "QATLADDER_VENDOR": "0",
        "QATLADDER_UI_PORT": str(port),
        "PYTHONPATH": str(PROJECT / "include"),
    }
    log = home / "ui.txt"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "qatladder.airflow.services", "ui"]
        services = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=home)
    try:
        deadline = time.monotonic() + 300
        while "Ctrl-C" not in log.read_text():
            assert services.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QATLADDER_HOME", str(home))
            patch.delenv("QATLADDER_STORE", raising=False)
            lab = Lab(home, f"http://127.0.0.1:{port}")
            while not any(dag["dag_id"] == "accept_baseline" for dag in lab.client.pages("dags", "dags")):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield lab
    finally:
        services.send_signal(signal.SIGINT)
        try:
            services.wait(120)
        finally:
            if services.poll() is None:
                services.kill()


def test_a_rejection_changes_nothing(lab: Lab) -> None:
    run = lab.ask(run=lab.second)
    assert lab.held_against() == lab.first
    lab.answer(run, "Reject", "not yet")
    assert lab.end(run) == "success"
    assert lab.state(run, "accept") == "skipped"
    assert lab.held_against() == lab.first


def test_nobody_accepts_without_a_reason(lab: Lab) -> None:
    run = lab.ask(run=lab.second)
    lab.answer(run, "Approve", " ")
    assert lab.end(run) == "failed"
    assert lab.state(run, "accept") == "failed"
    assert lab.held_against() == lab.first


def test_an_approval_is_kept_with_who_and_why(lab: Lab) -> None:
    run = lab.ask()
    (question,) = lab.client.pages(f"{RUNS}/{run}/hitlDetails", "hitl_details")
    assert lab.second in question["subject"], "the newest run that ships"
    assert f"It replaces `{lab.first}`" in question["body"]
    lab.answer(run, "Approve", "stricter labels")
    assert lab.end(run) == "success"
    found = baseline_of(lab.store, "model_0", "1", "bayes")
    assert found is not None
    assert (found.run_id, found.by, found.why) == (lab.second, "admin", "stricter labels")
    assert found.before[0]["run_id"] == lab.first
