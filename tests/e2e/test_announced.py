"""A model is announced to real Airflow, by REST, by a file and by a registry: the ladder of exactly that model runs, once, and nothing gets lost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from qatladder import announce
from qatladder.airflow.client import AirflowClient
from qatladder.announcements import inbox
from qatladder.evidence import Store, open_store
from qatladder.settings import load_settings

PROJECT = Path(__file__).resolve().parents[2]
LADDERS, ANNOUNCED = "dags/validate_model/dagRuns", "dags/model_announced/dagRuns"
TEMPLATE = "{{ 7 * 191 }}"
"""What a training says must never be taken for a template of Airflow's."""
COPIES = ("wdbc_file", "wdbc_registry", "wdbc_other")

pytestmark = [pytest.mark.e2e, pytest.mark.zoo, pytest.mark.timeout(1800)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(url: str, data: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


class Lab:
    """Airflow with a zoo of a few copies of the smallest sample model, and a registry; without the vendor's packages, for speed."""

    def __init__(self, home: Path) -> None:
        self.home, self.zoo, self.url = home, home / "entries", f"http://127.0.0.1:{free_port()}"
        self.registry = f"http://127.0.0.1:{free_port()}"
        self.client = AirflowClient(self.url, home / "airflow" / "passwords.json")
        for name in ("adapters", "training", "zoo.yaml", "fleet.yaml", "wdbc_mlp.yaml"):
            source = PROJECT / "include" / "zoo" / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.zoo / name)
        for name in COPIES:
            self.copy(name)

    services: psutil.Process

    def copy(self, name: str) -> None:
        text = (self.zoo / "wdbc_mlp.yaml").read_text()
        (self.zoo / f"{name}.yaml").write_text(text.replace("model: wdbc_mlp", f"model: {name}"))

    @property
    def store(self) -> Store:
        return open_store(load_settings())

    def runs(self, path: str = LADDERS) -> dict[str, str]:
        return {run["dag_run_id"]: run["state"] for run in self.client.pages(path, "dag_runs")}

    def outcomes(self) -> dict[str, list[str]]:
        """Of what was settled: outcomes by model, in order."""
        found: dict[str, list[str]] = {}
        for record in inbox.settled(self.store):
            found.setdefault(record.get("announcement", {}).get("model", "?"), []).append(record["outcome"])
        return found

    def wait(self, what: Callable[[], Any], seconds: float = 300) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < deadline, (self.runs(ANNOUNCED), self.runs(), self.outcomes())
            time.sleep(0.5)
        return found

    def started(self, model: str) -> dict[str, Any]:
        """The one run that was started for a model; waits for it."""
        found = self.wait(lambda: [run for run in self.runs() if f"-{model}-" in run])
        assert len(found) == 1, "exactly one run"
        return self.client.get(f"{LADDERS}/{found[0]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    trained = load_settings().home / "zoo"
    if not (trained / "wdbc_mlp" / "manifest.json").exists():
        pytest.skip("the sample zoo is not trained (make zoo)")
    home = tmp_path_factory.mktemp("home")
    (home / "entries").mkdir()
    shutil.copytree(trained / "wdbc_mlp", home / "zoo" / "wdbc_mlp")
    lab = Lab(home)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QATLADDER_", "AIRFLOW"))}
    environment = {
        **kept,
        "QATLADDER_HOME": str(home),
        "QATLADDER_ZOO": str(lab.zoo),
        "QATLADDER_VENDOR": "0",
        "QATLADDER_MLFLOW": lab.registry,
        "QATLADDER_ANNOUNCEMENTS_EVERY": "1",
        "QATLADDER_UI_PORT": lab.url.rpartition(":")[2],
        "PYTHONPATH": str(PROJECT / "include"),
    }
    stand_in = [sys.executable, str(PROJECT / "tests" / "standins" / "mlflow_registry.py"), lab.registry.rpartition(":")[2]]
    registry = subprocess.Popen(stand_in, cwd=home)
    log = home / "ui.txt"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "qatladder.airflow.services", "ui"]
        services = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=home)
    lab.services = psutil.Process(services.pid)
    try:
        deadline = time.monotonic() + 400
        while "Ctrl-C" not in log.read_text():
            assert services.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("QATLADDER_HOME", str(home))
            patch.delenv("QATLADDER_STORE", raising=False)
            patch.setenv("QATLADDER_AIRFLOW_USER", "admin")
            patch.setenv("QATLADDER_AIRFLOW_PASSWORD", json.loads((home / "airflow" / "passwords.json").read_text())["admin"])
            lab.wait(lambda: any(asset["name"] == announce.ASSET for asset in lab.client.pages("assets", "assets")))
            lab.wait(lambda: inbox.note(lab.store, "mlflow"))  # the bell has looked at the registry
            yield lab
    finally:
        services.send_signal(signal.SIGINT)
        try:
            services.wait(180)
        finally:
            services.kill()
            registry.kill()
            registry.wait(10)


@pytest.fixture(scope="module")
def announced(lab: Lab) -> dict[str, Any]:
    """The announcement by REST that everything else follows. Its ladder has run; those of the others are started and wait, for speed."""
    artifacts = {"float": lab.home / "zoo" / "wdbc_mlp" / "float.pt", "qat": lab.home / "zoo" / "wdbc_mlp" / "qat.pt"}
    data = announce.content("wdbc_mlp", "1.0.0", artifacts, training={"git": "1f3a9c0", "note": TEMPLATE}, who="ci@trainer")
    assert " event " in announce.send(data, lab.url)
    run_id = lab.started("wdbc_mlp")["dag_run_id"]
    lab.wait(lambda: lab.runs()[run_id] == "success", 600)
    lab.client.patch("dags/validate_model", {"is_paused": True})
    return data


def test_an_event_makes_the_ladder_of_exactly_that_model_run(lab, announced):
    (run_id,) = lab.runs()
    assert lab.outcomes() == {"wdbc_mlp": ["run"]}
    run = lab.client.get(f"{LADDERS}/{run_id}")
    assert run["conf"] == {"model": "wdbc_mlp", "version": "1.0.0"}
    assert "ci@trainer" in run["note"] and "1f3a9c0" in run["note"] and TEMPLATE in run["note"]
    kept = json.loads(lab.store.read_run_file(f"validate_model@{run_id}", "announcement.json"))
    assert kept["announcement"]["training"] == announced["training"]
    report = json.loads(lab.store.read_run_file(f"validate_model@{run_id}", "report.json"))
    assert [(ladder["model"], ladder["target"]) for ladder in report["ladders"]] == [("wdbc_mlp", "bayes")]
    manifest = json.loads(lab.store.read_run_file(f"validate_model@{run_id}", "manifest.json"))
    assert "announcement.json" in manifest["files"]


def test_duplicates_by_every_way_start_nothing(lab, announced):
    announce.send(announced, lab.url)  # the very same
    announce.announce("wdbc_mlp", to=lab.url)  # the same bytes, told otherwise
    announce.announce("wdbc_mlp", who="file", to=str(lab.home / "announcements"))
    lab.wait(lambda: lab.outcomes() == {"wdbc_mlp": ["run", "duplicate", "duplicate"]})
    lab.wait(lambda: set(lab.runs(ANNOUNCED).values()) == {"success"})
    assert len(lab.runs()) == 1


def test_a_dropped_file_that_was_half_written_first(lab, announced):
    path = lab.home / "announcements" / "wdbc_file.json"
    path.write_text('{"model": "wdbc')
    time.sleep(5)
    assert path.exists(), "half a file is left alone"
    path.write_text('{"model": "wdbc_file", "target": "bayes"}')
    assert lab.started("wdbc_file")["conf"] == {"model": "wdbc_file", "version": "1.0.0", "target": "bayes"}
    assert not path.exists()


def test_a_version_in_the_registry(lab, announced):
    post(f"{lab.registry}/api/2.0/mlflow/registered-models/create", {"name": "theirs"})
    tags = [{"key": "qatladder.model", "value": "wdbc_registry"}]
    post(f"{lab.registry}/api/2.0/mlflow/model-versions/create", {"name": "theirs", "source": "s3://b/m", "tags": tags})
    assert lab.started("wdbc_registry")["conf"] == {"model": "wdbc_registry", "version": "1.0.0"}


def test_of_many_events_at_once_none_is_left_out(lab, announced):
    mark = secrets.token_hex(4)
    names = [*(f"ghost_{mark}_{index}" for index in range(7)), "two words"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: announce.announce(name, to=lab.url), names))
    lab.wait(lambda: {*names[:-1], "?"} <= set(lab.outcomes()))
    outcomes = lab.outcomes()
    assert [outcomes[name] for name in names[:-1]] == [["unknown"]] * 7
    assert outcomes["?"] == ["rejected"]
    lab.wait(lambda: not {"queued", "running"} & set(lab.runs(ANNOUNCED).values()))
    shown = [
        task["rendered_map_index"]
        for run in lab.runs(ANNOUNCED)
        for task in lab.client.pages(f"{ANNOUNCED}/{run}/taskInstances", "task_instances")
        if task["task_id"] == "announcement.start" and task["state"] == "failed"
    ]
    assert sorted(label for label in shown if mark in (label or "")) == [f"{name}: unknown" for name in names[:-1]], "each is red by itself"
    told = "".join(path.read_text() for path in lab.home.rglob("alerts*.jsonl"))
    assert f"the zoo has no model {names[0]}" in told


def test_a_model_airflow_does_not_know_yet_is_not_called_handled_before_its_run_is_there(lab, announced):
    """Its form of `validate_model` refuses the model until the DAG file was parsed again."""

    def refused() -> bool:
        tasks = lab.client.pages("dags/model_announced/dagRuns/~/taskInstances", "task_instances")
        return any((task["task_id"], task["state"]) == ("announcement.start", "up_for_retry") for task in tasks)

    processors = [
        item for item in lab.services.children(recursive=True) if "dag-processor" in item.cmdline() or "dag_processor" in item.cmdline()
    ]
    assert processors
    for process in processors:
        process.suspend()
    try:
        lab.copy("wdbc_new")
        announce.announce("wdbc_new", to=lab.url)
        lab.wait(refused)
        assert "wdbc_new" not in lab.outcomes() and "wdbc_new" in {letter.label for letter in inbox.pending(lab.store)}
    finally:
        for process in processors:
            process.resume()
    assert lab.started("wdbc_new")["conf"]["model"] == "wdbc_new"
    lab.wait(lambda: lab.outcomes().get("wdbc_new") == ["run"])


def test_a_new_training_is_a_new_ladder(lab, announced):
    announce.announce("wdbc_other", to=lab.url)
    lab.wait(lambda: lab.outcomes().get("wdbc_other") == ["run"])
    calib = lab.home / "zoo" / "wdbc_mlp" / "calib.pt"
    shutil.copy(calib.with_name("qat.pt"), calib)
    announce.announce("wdbc_other", artifacts={"calib": calib}, to=lab.url)
    lab.wait(lambda: lab.outcomes()["wdbc_other"] == ["run", "run"])
    assert sum("-wdbc_other-" in run for run in lab.runs()) == 2
