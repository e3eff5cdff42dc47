"""Every model of the zoo, every target, every rung, every night."""

from __future__ import annotations

from airflow.sdk import Param, dag

from qatladder.airflow.flow import validation_flow
from qatladder.airflow.names import RUNGS, cron, zoo_names

MODELS = list(zoo_names().models)


@dag(
    dag_id="nightly_sweep",
    schedule=cron("0 1 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "nightly"],
    doc_md="""\
### Nightly sweep

Climbs the ladder `float → calib → qat → int → hbm → board` of every model and target in the zoo, and gives each one
verdict: `ship`, `no-ship` with the first failed check, or `undecided`.

* **A red rung is a finding about a model.** Its log holds every check: question, measured, expected, evidence, answer.
* **A red run is a fault of ours**: planning, reporting or alerting did not work. A run that found a `no-ship` is green.
* A rung that met broken infrastructure is tried again; a failed one never is.
* The tab **Report** of a run shows the verdicts; **alert** tells the owners what is new, one message per cause.
* Setting a board's pool to 0 slots takes that board out of service.
""",
    params={
        "models": Param(
            None,
            type=["null", "array"],
            items={"type": "string", **({"enum": MODELS} if MODELS else {})},
            examples=MODELS,
            title="Models",
            description_md="Models of the zoo; empty for **all**.",
        ),
        "rungs": Param(
            list(RUNGS),
            type="array",
            items={"type": "string", "enum": list(RUNGS)},
            examples=list(RUNGS),
            minItems=1,
            uniqueItems=True,
            title="Rungs",
            description_md="With fewer than six rungs no ladder can get `ship`.",
        ),
        "force": Param(
            False, type="boolean", title="Force", description_md="Answer again what is unchanged: evaluate, convert, compile and run anew."
        ),
    },
)
def nightly_sweep() -> None:
    validation_flow()


nightly_sweep()
