"""The whole machine, as `make sweep` runs it: real services, real zoo, real toolchain, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from qatladder.evidence import open_store
from qatladder.settings import load_settings

PROJECT = Path(__file__).resolve().parents[2]
SERVICES = [sys.executable, "-m", "qatladder.airflow.services"]
EXPECTED = {
    "digits_cnn": ("ship", None),
    "digits_cnn_bad": ("no-ship", "int.input"),
    "digits_det": ("ship", None),
    "wdbc_mlp": ("ship", None),
}
"""Verdict and first failed check of every sample model; the bad one's colour order is declared wrong."""

pytestmark = [pytest.mark.e2e, pytest.mark.zoo, pytest.mark.vendor, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of its own with the trained zoo of the real one; skips when that is not trained."""
    trained = load_settings().home / "zoo"
    if not (trained / "digits_cnn" / "manifest.json").exists():
        pytest.skip("the sample zoo is not trained (make zoo)")
    if not load_settings().vendor_python.exists():
        pytest.skip("the vendor environment is missing (make setup)")
    folder = tmp_path_factory.mktemp("home")
    (folder / "zoo").symlink_to(trained)
    return folder


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QATLADDER_", "AIRFLOW"))}
    return {**kept, "QATLADDER_HOME": str(home), "PYTHONPATH": str(PROJECT / "include")}


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


@pytest.fixture(scope="module")
def sweep(home: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVICES, "sweep"], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def run_id(sweep: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"nightly_sweep (sweep-\S+)", sweep.stdout)
    assert found, sweep.stdout + sweep.stderr
    return found[1]


def test_a_sweep_with_a_no_ship_in_it_is_a_good_sweep(sweep):
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr


def test_every_model_gets_its_verdict(sweep, run_id, home, monkeypatch):
    monkeypatch.setenv("QATLADDER_HOME", str(home))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    report = json.loads(open_store(load_settings()).read_run_file(f"nightly_sweep@{run_id}", "report.json"))
    verdicts = {ladder["model"]: (ladder["verdict"], ladder["first_failed_check"]) for ladder in report["ladders"]}
    assert verdicts == EXPECTED, sweep.stdout


def test_the_screen_shows_every_rung_and_the_table(sweep):
    for model, (verdict, check) in EXPECTED.items():
        for rung in ("float", "calib", "qat", "int", "hbm", "board", "verdict"):
            assert re.search(rf"^{model} \S+ @ \S+ +{rung} ", sweep.stdout, re.MULTILINE), f"{model} {rung}"
        assert re.search(rf"^{model} +\S+ +\S+ +{verdict} +{re.escape(check or '-')}", sweep.stdout, re.MULTILINE)


def test_task_logs_are_on_disk_with_each_check_in_a_group(sweep, run_id, home):
    logs = home / "airflow" / "logs" / "dag_id=nightly_sweep" / f"run_id={run_id}"
    text = "".join(path.read_text() for path in logs.glob("task_id=*.int/**/attempt=*.log"))
    assert "::group::int.fidelity" in text
    assert "::group::int.input failed" in text


def test_somebody_was_told_about_the_bad_one(sweep, home):
    told = "".join(path.read_text() for path in home.rglob("alerts*.jsonl"))
    assert "digits_cnn_bad" in told


def test_nothing_is_left_running(sweep, home):
    assert running(home) == []


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.3)


def get(url: str, token: str = "") -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def listening(pid: int) -> set[str]:
    """Addresses the process and its descendants listen on."""
    parent = psutil.Process(pid)
    sockets = [socket for process in [parent, *parent.children(recursive=True)] for socket in process.net_connections("inet")]
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_the_ui_shows_past_sweeps_behind_a_password_on_loopback_and_stops_on_ctrl_c(sweep, run_id, home, environment, tmp_path):
    log = tmp_path / "ui.txt"
    with log.open("wb") as out:
        ui = subprocess.Popen(
            [*SERVICES, "ui"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**environment, "QATLADDER_UI_AUTH": "password", "QATLADDER_UI_PORT": "18099"},
        )
    try:
        wait_for("Ctrl-C", log, ui)
        url = "http://127.0.0.1:18099"
        assert get(f"{url}/qatladder/report/nightly_sweep/{run_id}")[0] == 401
        assert get(f"{url}/api/v2/dags")[0] == 401
        assert listening(ui.pid) == {"127.0.0.1"}
        from qatladder.airflow.client import AirflowClient

        client = AirflowClient(url, home / "airflow" / "passwords.json")
        assert [run["dag_run_id"] for run in client.pages("dags/nightly_sweep/dagRuns", "dag_runs")] == [run_id]
        tasks = f"dags/nightly_sweep/dagRuns/{run_id}/taskInstances"
        boards = [item for item in client.pages(tasks, "task_instances") if item["task_id"].endswith(".board")]
        links = [client.get(f"{tasks}/{item['task_id']}/links", map_index=item["map_index"])["extra_links"]["Data Docs"] for item in boards]
        assert len([link for link in links if link]) == len(EXPECTED), links
        assert get(url + next(filter(None, links)))[0] == 401
        status, page = get(url + next(filter(None, links)), client._log_in())
        assert status == 200 and "Expectation Validation Result" in page
        ui.send_signal(signal.SIGINT)
        assert ui.wait(60) == 0
    finally:
        if ui.poll() is None:
            ui.terminate()
            ui.wait(60)
    assert running(home) == []


def test_a_second_sweep_over_an_unchanged_zoo_climbs_nothing(sweep, run_id, home, environment, monkeypatch):
    again = subprocess.run([*SERVICES, "sweep"], capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0, again.stdout + again.stderr
    second = re.search(r"nightly_sweep (sweep-\S+)", again.stdout)[1]
    assert second != run_id
    assert not (home / "airflow/logs/dag_id=nightly_sweep" / f"run_id={second}" / "task_id=on_virtual-x5.float").exists()
    monkeypatch.setenv("QATLADDER_HOME", str(home))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    store = open_store(load_settings())
    report = json.loads(store.read_run_file(f"nightly_sweep@{second}", "report.json"))
    assert {ladder["model"]: (ladder["verdict"], ladder["first_failed_check"]) for ladder in report["ladders"]} == EXPECTED
    for ladder in report["ladders"]:
        assert {rung["carried"].get("run_id") for rung in ladder["rungs"]} == {f"nightly_sweep@{run_id}"}, ladder["model"]
        assert re.search(rf"^{ladder['model']} .*unchanged", again.stdout, re.MULTILINE)


def test_a_sweep_survives_the_death_of_the_one_before(sweep, home, environment, tmp_path):
    log = tmp_path / "killed.txt"
    anew = {**environment, "QATLADDER_CARRY_DAYS": "0"}
    with log.open("wb") as out:
        killed = subprocess.Popen([*SERVICES, "sweep", "--models", "digits_cnn"], stdout=out, stderr=subprocess.STDOUT, env=anew)
    wait_for("sweep-", log, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    again = subprocess.run(
        [*SERVICES, "sweep", "--models", "wdbc_mlp", "--rungs", "float"], capture_output=True, text=True, check=False, env=anew
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "was interrupted; marked failed" in again.stdout
    assert re.search(r"^wdbc_mlp +\S+ +\S+ +undecided", again.stdout, re.MULTILINE), "one rung of six proves nothing"
    assert running(home) == []


def test_an_unknown_model_is_the_users_error(sweep, home, environment):
    done = subprocess.run([*SERVICES, "sweep", "--models", "no_such_model"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no_such_model" in done.stderr
    assert running(home) == []
