"""The DAG files: cheap to parse, and the graph and forms they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowException

from qatladder.airflow.names import RUNGS, zoo_names
from qatladder.airflow.prepare import OUR_DAGS

PROJECT = Path(__file__).resolve().parents[3]
DAGS = sorted(path.name for path in (PROJECT / "dags").glob("*.py"))

PROBE = """
import importlib.abc, json, sys, time
BLOCKED = {"torch", "great_expectations", "sklearn", "onnx", "onnxruntime", "scipy", "pandas", "matplotlib"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} must not be imported while a DAG file is parsed")
sys.meta_path.insert(0, Block())
import airflow.sdk
from airflow.sdk import DAG, dag, task, task_group
import runpy
before, started = set(sys.modules), time.perf_counter()
names = runpy.run_path(sys.argv[1])
seconds = time.perf_counter() - started
new = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"seconds": seconds, "new": new, "qatladder": sorted(n for n in sys.modules if n.startswith("qatladder"))}))
"""


def probe(path: Path) -> subprocess.CompletedProcess[str]:
    """Parse a DAG file as the dag-processor does: in a fresh process, with Airflow loaded."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "include")}
    return subprocess.run([sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=False, cwd="/", env=environment)


@pytest.mark.parametrize("name", DAGS)
def test_parsing_is_cheap_and_imports_nothing_heavy(name):
    done = probe(PROJECT / "dags" / name)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] < 1.0
    assert not {"paramiko", "numpy", "boto3", "pydantic_settings"} & set(found["new"])
    assert not {"qatladder.validation", "qatladder.evidence", "qatladder.boards", "qatladder.runner"} & set(found["qatladder"])


def test_the_probe_notices_a_heavy_import(tmp_path):
    (tmp_path / "heavy.py").write_text("import torch")
    done = probe(tmp_path / "heavy.py")
    assert done.returncode != 0
    assert "torch must not be imported" in done.stderr


def load(name: str):
    """The DAG of a DAG file, parsed now."""
    import runpy

    from airflow.sdk import DAG

    found = {}
    original = DAG.__exit__

    def collect(self, *error):
        found[self.dag_id] = self
        return original(self, *error)

    DAG.__exit__ = collect
    try:
        runpy.run_path(str(PROJECT / "dags" / f"{name}.py"))
    finally:
        DAG.__exit__ = original
    return found[name]


@pytest.fixture
def sweep(two_boards):
    return load("nightly_sweep")


@pytest.mark.parametrize(("group", "pool"), [("on_a", "board_a"), ("on_b_2", "board_b.2"), ("no_board", "default_pool")])
def test_one_mapped_ladder_per_board_with_the_boards_own_pool(sweep, group, pool):
    for below, rung in zip((None, *RUNGS), (*RUNGS, "verdict"), strict=True):
        task = sweep.task_dict[f"{group}.{rung}"]
        assert task.get_closest_mapped_task_group().group_id == group
        assert below is None or f"{group}.{below}" in task.upstream_task_ids
        assert task.trigger_rule == ("all_success" if rung == "float" else "all_done"), "a rung runs whatever the one below it found"
        assert task.partial_kwargs.get("map_index_template") if task.is_mapped else task.map_index_template
        assert task.pool == (pool if rung == "board" else "default_pool")
        assert task.retries == 2, "broken infrastructure is tried again"


def test_rungs_have_their_queues(sweep):
    queues = {rung: sweep.task_dict[f"on_a.{rung}"].queue for rung in RUNGS}
    assert queues == {"float": "pc", "calib": "pc", "qat": "pc", "int": "toolchain", "hbm": "toolchain", "board": "board"}


def test_summary_runs_after_every_verdict_whatever_it_was_and_the_run_rests_on_the_alert(sweep):
    summary, alert = sweep.task_dict["summary"], sweep.task_dict["alert"]
    assert summary.trigger_rule == "all_done"
    assert {f"{group}.verdict" for group in ("on_a", "on_b_2", "no_board")} <= summary.upstream_task_ids
    assert alert.upstream_task_ids == {"summary"}
    assert alert.trigger_rule == "all_success"
    assert [task.task_id for task in sweep.leaves] == ["alert"], "a red rung must not turn the run red"
    assert summary.on_failure_callback, "a sweep that breaks must not break silently"


def test_without_a_fleet_there_is_one_group(monkeypatch, tmp_path):
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "none.yaml"))
    assert "no_board.float" in load("nightly_sweep").task_dict


def test_the_sweep_is_nightly_and_alone(sweep):
    assert sweep.schedule == "0 1 * * *"
    assert sweep.catchup is False
    assert sweep.max_active_runs == 1
    assert load("validate_model").schedule is None


@pytest.mark.parametrize("name", OUR_DAGS)
def test_dags_are_documented_tagged_and_owned(name):
    dag = load(name)
    assert "ladder" in dag.doc_md
    assert "qatladder" in dag.tags
    assert {task.owner for task in dag.tasks} == {"qatladder"}


def test_board_health_looks_at_every_board_each_quarter_of_an_hour(two_boards):
    dag = load("board_health")
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("*/15 * * * *", False, 1)
    (task,) = dag.tasks
    assert task.is_mapped
    assert task.op_kwargs_expand_input.value["board"] == ["a", "b.2"]
    assert task.partial_kwargs["map_index_template"] == "{{ task.op_kwargs['board'] }}"
    assert task.partial_kwargs["queue"] == "board"
    assert task.retries == 0, "the next look is in a quarter of an hour"
    assert task.execution_timeout.total_seconds() < 15 * 60
    assert task.pool == "default_pool", "a ladder that holds one board's pool must not keep the others from being looked at"


def test_alerts_that_wait_are_delivered_each_quarter_of_an_hour_by_one_run_at_a_time():
    dag = load("deliver_alerts")
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("*/15 * * * *", False, 1)
    (task,) = dag.tasks
    assert task.retries == 0, "a message that is given up must stay red"
    assert "deliver_alerts" in OUR_DAGS


def test_an_announcement_runs_its_dag_and_each_is_served_and_seen_by_itself():
    dag = load("model_announced")
    assert (
        dag.schedule.name == "qatladder_models"
        if hasattr(dag.schedule, "name")
        else [item.name for item in dag.schedule] == ["qatladder_models"]
    )
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    collect, decide = dag.task_dict["collect"], dag.task_dict["decide"]
    start, settle, all_well = dag.task_dict["announcement.start"], dag.task_dict["announcement.settle"], dag.task_dict["all_well"]
    assert decide.upstream_task_ids == {"collect"} and decide.trigger_rule == "all_done", "one closed way must not stop the others"
    assert start.get_closest_mapped_task_group().group_id == "announcement"
    assert settle.upstream_task_ids >= {"announcement.start"} and settle.trigger_rule == "none_failed"
    assert all_well.upstream_task_ids == {"collect", "decide", "announcement.settle"} and all_well.trigger_rule == "none_failed"
    for task in (collect, decide, start, settle):
        assert task.retries >= 2 and task.on_failure_callback, task.task_id
    assert [item.name for item in collect.inlets] == ["qatladder_models"], "it reads the events itself"


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("nightly_sweep", "0 1 * * *"), ("housekeeping", "0 6 * * *"), ("board_health", "*/15 * * * *"), ("deliver_alerts", "*/15 * * * *")],
)
def test_the_clock_can_be_held_back(name, schedule, monkeypatch):
    monkeypatch.delenv("QATLADDER_SCHEDULE", raising=False)
    assert load(name).schedule == schedule
    monkeypatch.setenv("QATLADDER_SCHEDULE", "0")
    assert load(name).schedule is None
    assert load("model_announced").schedule is not None


MODEL = zoo_names().models[0]


@pytest.mark.parametrize(
    ("dag", "param", "good", "bad"),
    [
        ("nightly_sweep", "models", [None, [], [MODEL]], ["x", ["no_such_model"], [1], 3]),
        ("nightly_sweep", "rungs", [["float"], list(RUNGS)], [[], ["floa"], ["int", "int"], None, "int"]),
        ("validate_model", "model", [MODEL], [None, "", "no_such_model", [MODEL]]),
        ("validate_model", "version", [None, zoo_names().versions[0]], ["", "99.9.9", 1]),
        ("validate_model", "target", [None, "bayes-e"], ["", "bayes-x"]),
        ("validate_model", "rungs", [["board"]], [[], ["verdict"]]),
    ],
)
def test_params_take_what_the_zoo_has_and_nothing_else(dag, param, good, bad):
    spec = load(dag).params.get_param(param)
    for value in good:
        spec.resolve(value)
    for value in bad:
        with pytest.raises((AirflowException, ValueError)):
            spec.resolve(value)


def test_defaults_are_valid_so_a_schedule_can_run():
    for name in ("nightly_sweep", "validate_model"):
        load(name).params.validate()


def test_names_of_a_zoo_with_a_broken_file_are_those_that_can_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("model: a\nversion: '1'\ntargets: [{march: bayes}, {march: bayes, name: fast}]\n")
    (tmp_path / "b.yaml").write_text("model: [unclosed")
    (tmp_path / "zoo.yaml").write_text("model: not an entry\n")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    names = zoo_names()
    assert (names.models, names.versions, names.targets) == (("a",), ("1",), ("bayes", "fast"))
    assert load("validate_model").params.get_param("model").schema["enum"] == ["a"]


def test_an_empty_zoo_still_parses(tmp_path, monkeypatch):
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    assert load("nightly_sweep")
    assert load("validate_model")
