"""A person accepts a result as what the next nights are held against."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag, get_current_context, task

from qatladder.airflow import tasks
from qatladder.airflow.names import zoo_names

ZOO = zoo_names()


@dag(
    dag_id="accept_baseline",
    schedule=None,
    catchup=False,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "on demand"],
    doc_md="""\
### Accept a baseline

Every night is held against the last accepted result of each ladder. Without anybody's doing that is the newest night on which it
shipped and nothing had become worse. When something did become worse and it is meant to (stricter labels, a smaller network), accept
it here: **propose** shows the result beside what it replaces, **approve** waits for a person (tab *Required Actions*), **accept** keeps
who, when and why. From then on this result stays the baseline until the next one is accepted.
""",
    params={
        "model": Param(
            ZOO.models[0] if ZOO.models else None,
            type="string",
            **({"enum": list(ZOO.models)} if ZOO.models else {"minLength": 1}),
            title="Model",
        ),
        "version": Param(None, type=["null", "string"], title="Version", description_md="Empty for every version in the run."),
        "target": Param(None, type=["null", "string"], enum=[None, *ZOO.targets], title="Target", description_md="Empty for every target."),
        "run": Param(None, type=["null", "string"], title="Run", description_md="Run with the result; empty for the newest that ships."),
    },
)
def accept_baseline() -> None:
    approve = ApprovalOperator(
        task_id="approve",
        subject="{{ ti.xcom_pull(task_ids='propose')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='propose')['body'] }}",
        params={
            "why": Param("", type="string", title="Why", description="The reason; kept with the baseline. Without one nothing is accepted.")
        },
        response_timeout=timedelta(days=7),
    )
    propose() >> approve >> accept()


@task
def propose() -> dict[str, str]:
    """The result beside what it replaces."""
    return tasks.propose_baseline(get_current_context()["params"])


@task(retries=2, retry_delay=timedelta(seconds=10))
def accept() -> list[str]:
    """Keep the result as the baseline, with who, when and why."""
    return tasks.accept_baseline(get_current_context())


accept_baseline()
