"""What is made ready before the services start, on a real Airflow database."""

from __future__ import annotations

import json
import stat
import subprocess
import sys

import boto3
import pytest
from moto import mock_aws

from qatladder.airflow import prepare
from qatladder.settings import load_settings


@pytest.fixture(scope="module")
def database():
    """The schema, in the folder the conftest gave Airflow."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


def test_interrupted_runs_of_ours_are_failed_and_nobody_elses(database):
    import datetime

    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    states = {
        ("nightly_sweep", "r1"): "running",
        ("nightly_sweep", "r0"): "success",
        ("validate_model", "q1"): "queued",
        ("validate_model", "announced-m-1-0123"): "queued",
        ("others", "x1"): "running",
    }
    with create_session() as session:
        session.add(DagBundleModel(name="test"))
        session.flush()
        for dag_id in {dag_id for dag_id, _ in states}:
            session.add(DagModel(dag_id=dag_id, bundle_name="test"))
        session.flush()
        now = datetime.datetime.now(datetime.UTC)
        for (dag_id, run_id), state in states.items():
            run = DagRun(dag_id=dag_id, run_id=run_id, run_type=DagRunType.MANUAL, triggered_by=DagRunTriggeredByType.TEST, run_after=now)
            run.state = state
            session.add(run)
    assert sorted(prepare.abandon_runs()) == ["nightly_sweep r1", "validate_model q1"]
    with create_session() as session:
        found = {
            (run.dag_id, run.run_id): str(run.state.value if hasattr(run.state, "value") else run.state) for run in session.query(DagRun)
        }
    assert found == states | {("nightly_sweep", "r1"): "failed", ("validate_model", "q1"): "failed"}
    assert prepare.abandon_runs() == []


@pytest.fixture
def s3(monkeypatch):
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QATLADDER_STORE", "s3://evidence-bucket/prefix")
    monkeypatch.delenv("QATLADDER_S3_ENDPOINT", raising=False)
    with mock_aws():
        yield boto3.client("s3")


def test_the_bucket_is_made_once(s3):
    for _ in range(2):
        prepare.make_bucket(load_settings())
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["evidence-bucket"]


def test_a_folder_needs_no_bucket(home):
    prepare.make_bucket(load_settings())


def test_the_admins_password_is_set_where_one_is_given(tmp_path):
    path = tmp_path / "passwords.json"
    environment = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(path)}
    prepare.set_password(environment)
    assert not path.exists()
    for password in ("first", "second"):
        prepare.set_password({**environment, "QATLADDER_ADMIN_PASSWORD": password})
        assert json.loads(path.read_text()) == {"admin": password}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
