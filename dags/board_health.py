"""Every board, every quarter of an hour: is it fit, and does it still compute what it must?"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from qatladder.airflow import fleet
from qatladder.airflow.names import board_names, cron


@dag(
    dag_id="board_health",
    schedule=cron("*/15 * * * *"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "boards"],
    doc_md="""\
### Board health

Looks at every board of the fleet: SSH, disk, memory, temperature, load of the BPU, versions, clock; then runs the **golden
model**, whose integers are known, twice.

* **green**: fit, and every integer as expected.
* **skipped**: somebody works on the board, or a virtual board is not served. Nothing was learnt.
* **red**: not fit. After some failures in a row (`quarantine_after` of the fleet) a board is in quarantine: no ladder goes to it.
  A board that computes a wrong integer is in quarantine at once.

A board in quarantine is looked at like the others, and is back in service when its golden model passes, unless an operator
took it out (`qatladder fleet quarantine`). The page **Boards** shows them all.

The tasks do not wait in the boards' pools: a ladder may hold a pool for an hour, and that must not keep the other boards from
being looked at. The lock on the board keeps the two apart.
""",
)
def board_health() -> None:
    check.expand(board=list(board_names()))


@task(map_index_template="{{ task.op_kwargs['board'] }}", queue="board", retries=0, execution_timeout=timedelta(minutes=10))
def check(board: str) -> None:
    fleet.check(board, get_current_context())


board_health()
