"""Promises: whatever of the machinery is killed in the middle of a sweep costs time; nothing is lost, nothing doubled, the verdicts are right.

Real: Airflow's services, two models of the sample zoo, compiler, simulator and boards behind SSH; the object store is nanio's S3 server
over HTTP, which checks signatures and keeps its data in a folder. Killed is always with SIGKILL, which nobody can prepare for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.stores import KEYS

from qatladder.airflow import services
from qatladder.airflow.client import AirflowClient, ApiError
from qatladder.airflow.environment import airflow_home
from qatladder.airflow.names import run_key
from qatladder.airflow.processes import Processes
from qatladder.evidence import Store, open_store
from qatladder.evidence.store import sha256_file
from qatladder.history import History
from qatladder.ladder import Evidence
from qatladder.ladder.checks import check_ids
from qatladder.settings import PROJECT, load_settings

SWEEP = services.SWEEP
EXPECTED = {"digits_cnn_bad": ("no-ship", "int.input"), "wdbc_mlp": ("ship", None)}
"""Verdict and first failed check of the models swept here."""
MODELS = ",".join(EXPECTED)
GROUPS = {"digits_cnn_bad": "on_virtual-x5", "wdbc_mlp": "on_virtual-j5"}
"""The group of each one's tasks: they are for different boards."""

pytestmark = [pytest.mark.e2e, pytest.mark.zoo, pytest.mark.vendor, pytest.mark.timeout(1500)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(what: Callable[[], Any], seconds: float, say: Callable[[], Any] = lambda: "") -> Any:
    """What a condition returns once it is true; fails with what `say` returns when it does not become true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, say()
        time.sleep(0.1)
    return found


class S3Server:
    """A real S3 server whose data outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.folder.mkdir()

    def start(self) -> None:
        program = str(Path(sys.executable).with_name("nanio"))
        command = [program, "serve", "--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder / "data")]
        environment = {**os.environ, "NANIO_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "NANIO_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait(self._listens, 60, (self.folder / "log").read_text)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def parts(self) -> list[Path]:
        """Parts of uploads that are under way, as the server has them on its disk."""
        return list((self.folder / "data" / ".nanio" / "multipart").glob("*/parts/*.bin"))

    def unread(self, client: int) -> bool:
        """Whether a process has sent something that the server has not read yet."""
        theirs = {link.laddr.port for link in psutil.Process(client).net_connections("tcp") if link.raddr and link.raddr.port == self.port}
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        waiting = {int(line[2][-4:], 16) for line in lines if int(line[1][-4:], 16) == self.port and int(line[4][-8:], 16)}
        return bool(theirs & waiting)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return False
        return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def home(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the trained zoo of the real one, whose evidence goes to the S3 server; the environment points there."""
    real = load_settings()
    if not all((real.home / "zoo" / name / "manifest.json").exists() for name in ("digits_cnn", "wdbc_mlp")):
        pytest.skip("the sample zoo is not trained (make zoo)")
    if not real.vendor_python.exists():
        pytest.skip("the vendor environment is missing (make setup)")
    home = tmp_path / "home"
    home.mkdir()
    (home / "zoo").symlink_to(real.home / "zoo")
    for name in [name for name in os.environ if name.startswith(("QATLADDER_", "AIRFLOW"))]:
        monkeypatch.delenv(name)
    settings = {
        "QATLADDER_HOME": str(home),
        "QATLADDER_STORE": "s3://evidence/lab",
        "QATLADDER_S3_ENDPOINT": f"http://127.0.0.1:{server.port}",
        "PYTHONPATH": str(PROJECT / "include"),
        **KEYS,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return home


def has_a_job(task: dict[str, Any]) -> bool:
    """Whether a job of the model's own code or of the toolchain runs under a task."""
    return any("supervise.py" in " ".join(child.cmdline()) for child in psutil.Process(task["pid"]).children(recursive=True))


def jobs_on_boards(home: Path) -> list[Path]:
    return list(home.glob("boards/*/root/userdata/qatladder/jobs/*"))


def attempt_log(home: Path, task: dict[str, Any], attempt: int) -> str:
    folder = home / "airflow" / "logs" / f"dag_id={SWEEP}" / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    log = folder / f"map_index={task['map_index']}" / f"attempt={attempt}.log"
    return log.read_text() if log.exists() else ""


class Sweep:
    """A sweep that is under way, and the processes that do it."""

    def __init__(self, client: AirflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def task(self, model: str, rung: str) -> dict[str, Any] | None:
        """The task of a model's rung; None before it was planned."""
        place = f"dags/{SWEEP}/dagRuns/{self.run_id}/taskInstances/{GROUPS[model]}.{rung}/0"
        try:
            return self.client.get(place)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def state(self) -> str:
        return str(self.client.get(f"dags/{SWEEP}/dagRuns/{self.run_id}")["state"])

    def states(self) -> str:
        tasks = self.client.pages(f"dags/{SWEEP}/dagRuns/{self.run_id}/taskInstances", "task_instances")
        return "\n".join(f"{task['task_id']} {task['map_index']} {task['state']} {task['try_number']}" for task in tasks)

    def wait(self, what: Callable[[], Any], seconds: float = 300) -> Any:
        return wait(what, seconds, self.states)

    def middle_of(self, model: str, rung: str, at_work: Callable[[dict[str, Any]], Any] = has_a_job) -> psutil.Process:
        """The process of a rung's task, as soon as it is at work."""

        def found() -> psutil.Process | None:
            task = self.task(model, rung)
            assert task is None or task["state"] not in ("success", "failed", "skipped"), "it was over before it could be killed"
            if task is None or task["state"] != "running" or not task["pid"]:
                return None
            try:
                return psutil.Process(task["pid"]) if at_work(task) else None
            except psutil.NoSuchProcess:
                return None

        return self.wait(found)

    def ended(self) -> str:
        return self.wait(lambda: (state := self.state()) in ("success", "failed") and state, 900)


class Lab:
    """Airflow's services as `make sweep` starts them, each of which may be killed."""

    def __init__(self, processes: Processes) -> None:
        self.settings, self.processes, self.port = load_settings(), processes, free_port()
        self.client = services.start(self.settings, processes, self.port)

    def sweep(self) -> Sweep:
        services.trigger(self.client, "sweep-killed", {"models": list(EXPECTED)})
        return Sweep(self.client, "sweep-killed")

    def kill(self, name: str) -> None:
        """Kill a service, that process alone, and let it be noticed as `make sweep` notices it: once a second."""
        service = next(service for service in self.processes.services if service.name == name)
        service.process.kill()
        service.process.wait(10)
        self.processes.check()


@pytest.fixture
def lab(home: Path) -> Iterator[Lab]:
    with Processes(airflow_home(load_settings())) as processes:
        yield Lab(processes)


def kill_worker(process: psutil.Process) -> list[psutil.Process]:
    """Kill a task and the worker around it; returns what ran under the task."""
    worker = process.parent()
    assert worker is not None and "LocalExecutor" in " ".join(worker.cmdline()), worker
    under = process.children(recursive=True)
    worker.kill()
    process.kill()
    return under


def running(home: Path) -> list[str]:
    """Command lines of processes that work on this data folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(home) in " ".join([*process.cmdline(), process.cwd()]):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def check_all(home: Path, run_id: str) -> dict[str, Any]:
    """Nothing lost, nothing doubled, verdicts right; returns the report."""
    store, key = open_store(load_settings()), run_key(SWEEP, run_id)
    report: dict[str, Any] = json.loads(store.read_run_file(key, "report.json"))
    check_report(report)
    check_facts(store, home, key, report)
    check_manifest(store, key, report)
    for name in store.keys("objects/"):  # nothing half-written is taken for whole, whoever left it
        store.read_object(name.rpartition("/")[2])
    told = [json.loads(line) for line in (home / "alerts" / "alerts.jsonl").read_text().splitlines()]
    assert len(told) == 1, [message["title"] for message in told]
    assert "digits_cnn_bad" in told[0]["title"] + told[0]["body"] and "int.input" in told[0]["title"] + told[0]["body"]
    assert jobs_on_boards(home) == []
    return report


def check_report(report: dict[str, Any]) -> None:
    ladders = report["ladders"]
    assert sorted(ladder["model"] for ladder in ladders) == sorted(EXPECTED), "each ladder once"
    assert {ladder["model"]: (ladder["verdict"], ladder["first_failed_check"]) for ladder in ladders} == EXPECTED
    for ladder in ladders:
        assert [check["id"] for check in ladder["checks"]] == list(check_ids()), ladder["model"]
        assert [check["id"] for check in ladder["checks"] if check["status"] == "broken"] == [], ladder["model"]


def check_facts(store: Store, home: Path, key: str, report: dict[str, Any]) -> None:
    """The history holds every check of the run once, and no other run that is not whole."""
    history = History(store, home / "mirror").refresh()
    rows = history.ask("SELECT model, check_id, status FROM facts WHERE run_id = ?", [key])
    answers = [(ladder["model"], check["id"], check["status"]) for ladder in report["ladders"] for check in ladder["checks"]]
    assert Counter((row["model"], row["check_id"], row["status"]) for row in rows) == Counter(answers)
    assert {row["run_id"] for row in history.ask("SELECT DISTINCT run_id FROM facts")} == {key} == set(store.runs())


def check_manifest(store: Store, key: str, report: dict[str, Any]) -> None:
    """The manifest names every file and object of the run, and each can be had, with the bytes it says."""
    manifest = json.loads(store.read_run_file(key, "manifest.json"))
    there = {name.split("/", 2)[2] for name in store.keys(f"runs/{key}/")}
    assert set(manifest["files"]) == there - {"manifest.json"}
    rungs = {f"{rung}.json" for rung in ("float", "calib", "qat", "int", "hbm", "board")}
    assert Counter(name.rpartition("/")[2] for name in there if "/" in name) == Counter({name: len(EXPECTED) for name in rungs})
    for name in manifest["files"]:
        assert store.read_run_file(key, name), name
    evidence = {item["sha256"] for ladder in report["ladders"] for check in ladder["checks"] for item in check["evidence"]}
    assert evidence and evidence <= set(manifest["objects"])
    for digest, item in manifest["objects"].items():
        held = store.read_object(item["uri"].rpartition("/")[2])
        assert item["uri"].rpartition("/")[2].startswith(digest) and len(held) == item["size"], item


def test_workers_killed_in_the_middle_of_their_rungs(lab: Lab, home: Path) -> None:
    """The rungs are climbed again, the others never notice, and no job outlives its worker."""

    def its_job_on_the_board_lives(task: dict[str, Any]) -> bool:
        of_its_own = "golden model: " in attempt_log(home, task, 1)  # the jobs before that are nobody's
        return of_its_own and any((job / "begun").exists() for job in jobs_on_boards(home) if "virtual-x5" in job.parts)

    sweep = lab.sweep()
    under = kill_worker(sweep.middle_of("wdbc_mlp", "int"))
    under += kill_worker(sweep.middle_of("digits_cnn_bad", "board", its_job_on_the_board_lives))
    assert psutil.wait_procs(under, timeout=20)[1] == [], "jobs that nobody waits for"
    assert sweep.ended() == "success"
    check_all(home, sweep.run_id)
    tries = {(model, rung): sweep.task(model, rung)["try_number"] for model in EXPECTED for rung in ("float", "int", "hbm", "board")}
    killed = {("wdbc_mlp", "int"), ("digits_cnn_bad", "board")}
    assert tries == {which: 2 if which in killed else 1 for which in tries}


def test_a_scheduler_that_dies_is_started_again(lab: Lab, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run goes on where it was: rungs that were under way end, or are climbed again."""
    sweep = lab.sweep()
    sweep.middle_of("wdbc_mlp", "int")
    lab.kill("scheduler")
    assert "the scheduler ended by itself (exit code -9) and is started again" in capfd.readouterr().err
    assert sweep.ended() == "success"
    check_all(home, sweep.run_id)
    lab.processes.stop()
    assert running(home) == [], "workers of the dead scheduler"


def test_an_s3_server_killed_with_uploads_under_way(lab: Lab, home: Path, server: S3Server, tmp_path: Path) -> None:
    """What met it is broken and tried again; what it had of a file when it died is no file."""
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(16 << 20) * 12)
    upload = "import sys, pathlib, qatladder.evidence as e, qatladder.settings as s; e.open_store(s.load_settings()).put(pathlib.Path(sys.argv[1]))"
    sweep = lab.sweep()
    task = sweep.middle_of("wdbc_mlp", "int")
    uploading = subprocess.Popen([sys.executable, "-c", upload, str(large)])
    wait(lambda: server.parts() or uploading.poll() is not None, 60)
    server.process.send_signal(signal.SIGSTOP)
    assert uploading.poll() is None, "it was over before it could be killed"
    uploading.kill()
    uploading.wait(10)
    sweep.wait(lambda: server.unread(task.pid))
    server.kill()
    met = sweep.wait(lambda: (task := sweep.task("wdbc_mlp", "int")) and task["state"] == "up_for_retry" and task)
    assert server.parts(), "half a file is on the server's disk"
    server.start()
    store = open_store(load_settings())
    assert not store.has(Evidence("large.bin", *sha256_file(large), ""))
    assert sweep.ended() == "success"
    assert "broken (store)" in attempt_log(home, met, 1)
    assert sweep.task("wdbc_mlp", "int")["try_number"] > 1
    check_all(home, sweep.run_id)
    assert store.fetch(store.put(large), tmp_path / "back").stat().st_size == large.stat().st_size


@pytest.mark.skipif(
    os.environ.get("QATLADDER_LONG_TESTS") != "1", reason="takes minutes and repeats what the others show; QATLADDER_LONG_TESTS=1"
)
def test_a_sweep_that_was_killed_is_made_again_by_the_next(home: Path) -> None:
    """The command and every service's process are killed, their children left to themselves; the next one repeats nothing that was answered."""
    command = [sys.executable, "-m", "qatladder.airflow.services", "sweep", "--models", MODELS]
    log = home / "first.txt"
    with log.open("w") as out:
        sweeping = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        first = wait(lambda: re.search(rf"{SWEEP} (sweep-\S+) at (http://[^/]+)", log.read_text()), 240, log.read_text)
        sweep = Sweep(AirflowClient(first[2], home / "airflow" / "passwords.json"), first[1])
        sweep.middle_of("wdbc_mlp", "int")
        sweeping.kill()
        for pid, _ in json.loads((home / "airflow" / "services.json").read_text()):
            psutil.Process(pid).kill()
        assert sweeping.wait(60) == -signal.SIGKILL, log.read_text()
    finally:
        sweeping.kill()
        sweeping.wait(10)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "was interrupted; marked failed" in again.stdout
    second = re.search(rf"{SWEEP} (sweep-\S+) at ", again.stdout)
    assert second
    report = check_all(home, second[1])
    rungs = next(ladder["rungs"] for ladder in report["ladders"] if ladder["model"] == "wdbc_mlp")
    carried = [rung["rung"] for rung in rungs if rung["carried"].get("run_id") == run_key(SWEEP, first[1])]
    assert carried == ["float", "calib", "qat"], "those had been answered"
    assert running(home) == []
