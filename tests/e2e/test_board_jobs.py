"""A long board job in real Airflow: it is put aside, its output reaches the task's log, it is done once, and no log holds the password."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.virtual import control
from qatladder.settings import load_settings

PROJECT = Path(__file__).resolve().parents[2]
PASSWORD = f"pw-{secrets.token_hex(12)}"
BOARD = {"name": "slow", "march": "bayes", "dialect": "j5", "host": "127.0.0.1", "port": 0, "virtual": True, "tool": "/userdata/slow_tool"}
# Inference takes its time, and is counted.
TOOL = """#!/bin/sh
case "$1" in infer) date +%s.%N >> {folder}/inferences; sleep 6 ;; esac
exec hrt_model_exec "$@"
"""

pytestmark = [pytest.mark.e2e, pytest.mark.zoo, pytest.mark.vendor, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with one board that takes a password, reached by an Airflow connection."""
    real = load_settings()
    if not (real.home / "zoo" / "wdbc_mlp" / "manifest.json").exists() or not real.vendor_python.exists():
        pytest.skip("the sample zoo is not trained (make zoo), or the vendor environment is missing (make setup)")
    home = tmp_path_factory.mktemp("home")
    (home / "zoo").symlink_to(real.home / "zoo")
    spec = BoardSpec(**BOARD)
    folder = home / "boards" / "slow" / "root" / "userdata"
    folder.mkdir(parents=True)
    (folder / "slow_tool").write_text(TOOL.format(folder=folder))
    (folder / "slow_tool").chmod(0o755)
    (home / "fleet.yaml").write_text(yaml.safe_dump({"boards": [{**BOARD, "conn_id": "the_board"}]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_HOME", str(home))
        patch.setenv(control.PASSWORD, PASSWORD)
        settings = replace(load_settings(), home=home)
        control.start_background(spec, settings, password=True, fleet=home / "fleet.yaml")
        yield home
        control.stop(spec, settings)


@pytest.fixture(scope="module")
def sweep(home: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QATLADDER_", "AIRFLOW"))}
    board = home / "boards" / "slow"
    connection = {
        "conn_type": "ssh",
        "host": "127.0.0.1",
        "port": int((board / "port").read_text()),
        "login": "root",
        "password": PASSWORD,
        "extra": {"host_key": " ".join((board / "host_key.pub").read_text().split()[:2]), "look_for_keys": False, "allow_agent": False},
    }
    environment = {
        **kept,
        "QATLADDER_HOME": str(home),
        "QATLADDER_FLEET": str(home / "fleet.yaml"),
        "QATLADDER_BOARD_PATIENCE": "1.5",
        "AIRFLOW_CONN_THE_BOARD": json.dumps(connection),
        "PYTHONPATH": str(PROJECT / "include"),
    }
    command = [sys.executable, "-m", "qatladder.airflow.services", "sweep", "--models", "wdbc_mlp"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def log(sweep: subprocess.CompletedProcess[str], home: Path) -> str:
    """Everything Airflow logged about the board task, the trigger's part too."""
    found = re.search(r"nightly_sweep (sweep-\S+)", sweep.stdout)
    assert found, sweep.stdout + sweep.stderr
    folder = home / "airflow" / "logs" / "dag_id=nightly_sweep" / f"run_id={found[1]}"
    return "".join(path.read_text() for path in sorted(folder.glob("task_id=*.board/**/*.log*")))


def test_the_ladder_ships_over_a_connection_with_a_password(sweep: subprocess.CompletedProcess[str], home: Path) -> None:
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert re.search(r"^wdbc_mlp +\S+ +\S+ +ship", sweep.stdout, re.MULTILINE), sweep.stdout


def test_the_job_was_put_aside_and_its_output_is_in_the_tasks_log(sweep: subprocess.CompletedProcess[str], log: str) -> None:
    assert "it holds no worker meanwhile" in log, log[-3000:]
    assert re.search(r"slow: job \S+ is over: ended", log), log[-3000:]


def test_the_inference_was_done_once(sweep: subprocess.CompletedProcess[str], home: Path) -> None:
    # One start for each of the golden model's two runs, and one for the ladder: the other samples go through the bindings.
    starts = (home / "boards" / "slow" / "root" / "userdata" / "inferences").read_text().split()
    assert len(starts) == 3, starts


def test_the_board_is_clean_afterwards(sweep: subprocess.CompletedProcess[str], home: Path) -> None:
    assert list((home / "boards" / "slow" / "root" / "userdata" / "qatladder" / "jobs").iterdir()) == []


def test_no_log_no_report_and_no_evidence_holds_the_password(sweep: subprocess.CompletedProcess[str], log: str, home: Path) -> None:
    assert PASSWORD not in sweep.stdout + sweep.stderr
    secret = PASSWORD.encode()
    searched = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink() and "zoo" not in path.parts]
    assert len(searched) > 50
    assert [path for path in searched if secret in path.read_bytes()] == []
