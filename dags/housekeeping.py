"""Once a day: old nights go, and the history's closed months become one file each."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag, get_current_context, task

from qatladder.airflow import tasks
from qatladder.airflow.names import cron


@dag(
    dag_id="housekeeping",
    schedule=cron("0 6 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "qatladder"},
    tags=["qatladder"],
    doc_md="""\
### Housekeeping

* **retention** lets old nights go. A run stays whole when it is of the newest nights, when a ladder in it did not ship, or when it is the last
  in which a ladder shipped; nothing that such a run refers to is removed, and nothing that was stored in the last three days.
  `dry_run` only says what would go.
* **compact_history** puts every closed month of facts into one file. Facts are never removed.
""",
    params={
        "keep_nights": Param(30, type="integer", minimum=1, title="Nights", description_md="Newest days with runs that stay whole."),
        "dry_run": Param(False, type="boolean", title="Dry run", description_md="Remove nothing; say what would go."),
    },
)
def housekeeping() -> None:
    retention()
    compact_history()


@task(retries=1, execution_timeout=timedelta(hours=4))
def retention() -> dict[str, int]:
    """Remove what no run that stays refers to."""
    return tasks.retention(get_current_context()["params"])


@task(retries=1, execution_timeout=timedelta(hours=1))
def compact_history() -> list[str]:
    """Closed months of facts, one file each."""
    return tasks.compact_history()


housekeeping()
