"""A training job announced a finished model: the ladder of exactly that model runs."""

from __future__ import annotations

from airflow.sdk import dag

from qatladder.airflow.announced import MODELS, announced_flow


@dag(
    dag_id="model_announced",
    schedule=[MODELS],
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "after training"],
    doc_md="""\
### A model was announced

Runs when a training job announces a finished model: by an event of the asset `qatladder_models`, by a file in a watched folder or S3 prefix, or by
a version in an MLflow registry. Starts the ladder of exactly that model: a run of `validate_model`, whose note says who announced it.

* **start** is green when the ladder was started, pink when there is nothing to do (a duplicate, or a newer one came first) or not
  yet (the announced files are still on their way to the zoo), and red when somebody announced what cannot be validated: an unknown model, files that
  did not come, or something unreadable. Its log says why.
* **collect** is red when a watched place or the registry cannot be read. What was there stays there.
* `qatladder announcements` lists what became of each.
""",
)
def model_announced() -> None:
    announced_flow()


model_announced()
