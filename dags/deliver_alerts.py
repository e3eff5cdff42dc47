"""Alerts that wait: held over quiet hours, or refused by their service; every quarter of an hour."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from qatladder.airflow.names import cron
from qatladder.airflow.notifier import OutboxNotifier


@dag(
    dag_id="deliver_alerts",
    schedule=cron("*/15 * * * *"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "alerts"],
    doc_md="""\
### Deliver alerts

The task **alert** of a validation run tells what its ladders found. What it could not deliver, or had to hold because of the quiet hours of an
owner, waits in the object store; this DAG delivers it.

* **green**: delivered, or still waiting for the next try or the end of the quiet hours; the log has a line per address.
* **red**: a message is given up after a day of tries. The error names the address, without its secrets, and the reason;
  `qatladder alerts retry` puts it back.
""",
)
def deliver_alerts() -> None:
    deliver()


@task(retries=0, execution_timeout=timedelta(minutes=10))
def deliver() -> None:
    """Send what is due. Not tried again at once: a message that is given up must stay red, and the next run is near."""
    OutboxNotifier()(get_current_context())


deliver_alerts()
