"""Makes ready what the services need: the database's schema, a pool for every board, the bucket, the admin's password.

    python -m qatladder.airflow.prepare [--abandon-runs]

The password is set only where QATLADDER_ADMIN_PASSWORD is (containers).
`--abandon-runs` is for a database nobody else works on: runs that were under way when their services were killed are
marked failed, so that they neither go on by themselves nor hold back the next one. Ladders of announced models are what nobody would ask for
again: they go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from qatladder.airflow.fleet import sync_pools
from qatladder.airflow.names import ANNOUNCED, board_slots
from qatladder.errors import BrokenError
from qatladder.evidence.store import s3_access
from qatladder.settings import Settings, load_settings

OUR_DAGS = ("nightly_sweep", "validate_model", "model_announced", "board_health", "housekeeping", "accept_baseline", "deliver_alerts")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qatladder.airflow.prepare", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--abandon-runs", action="store_true", help="mark unfinished runs failed")
    options = parser.parse_args(arguments)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True)
    for row in sync_pools(board_slots()):
        if row.status != "ok":
            print(f"{row.what}: {row.status}; {row.why}")
    make_bucket(load_settings())
    set_password(os.environ)
    if options.abandon_runs:
        for run in abandon_runs():
            print(f"{run}: was interrupted; marked failed")
    return 0


def make_bucket(settings: Settings) -> None:
    """Create the evidence bucket of an s3:// store, if it is missing and we may.

    Raises:
        BrokenError: the S3 server cannot be reached or refuses us.
    """
    if not settings.store.startswith("s3://") or settings.s3_connection:
        return  # with a connection of Airflow's, which may be in the database yet to be made, the bucket is there
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = settings.store.removeprefix("s3://").partition("/")[0]
    try:
        client = s3_access(settings).client()
        if bucket not in {item["Name"] for item in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("AccessDenied", "BucketAlreadyOwnedByYou"):
            return  # a key for one existing bucket; whether that bucket works shows when it is used
        raise _store_broken(settings, error) from error
    except BotoCoreError as error:
        raise _store_broken(settings, error) from error


def _store_broken(settings: Settings, error: Exception) -> BrokenError:
    return BrokenError(
        "the S3 object store cannot be prepared",
        kind="store",
        uri=settings.store,
        endpoint=settings.s3_endpoint or "AWS",
        found=error,
        next_step="check QATLADDER_STORE, QATLADDER_S3_ENDPOINT and AWS_*",
    )


def set_password(environment: Mapping[str, str]) -> None:
    """Write QATLADDER_ADMIN_PASSWORD as the password of `admin`, readable by the services' user only."""
    password = environment.get("QATLADDER_ADMIN_PASSWORD")
    if not password:
        return
    path = Path(environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"admin": password}, file)
    temporary.replace(path)


def abandon_runs() -> list[str]:
    """Mark every unfinished run of our DAGs failed, except ladders of announced models, and return their names."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, State, TaskInstanceState
    from sqlalchemy import select

    abandoned = []
    with create_session() as session:
        unfinished = select(DagRun).where(DagRun.dag_id.in_(OUR_DAGS), DagRun.state.in_([DagRunState.QUEUED, DagRunState.RUNNING]))
        for run in session.scalars(unfinished):
            if run.dag_id == "validate_model" and run.run_id.startswith(ANNOUNCED):
                continue
            tasks = select(TaskInstance).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
            for task in session.scalars(tasks):
                if task.state in State.unfinished:
                    started = task.state is not None and task.state != TaskInstanceState.SCHEDULED
                    task.set_state(TaskInstanceState.FAILED if started else TaskInstanceState.SKIPPED, session=session)
            run.set_state(DagRunState.FAILED)
            abandoned.append(f"{run.dag_id} {run.run_id}")
    return abandoned


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenError as broken:
        sys.exit(f"error: {broken}")
