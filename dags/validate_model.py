"""One model, on demand: pick it in the form, read its verdict in the report tab."""

from __future__ import annotations

from airflow.sdk import Param, dag

from qatladder.airflow.flow import validation_flow
from qatladder.airflow.names import RUNGS, zoo_names

ZOO = zoo_names()


@dag(
    dag_id="validate_model",
    schedule=None,
    catchup=False,
    default_args={"owner": "qatladder"},
    tags=["qatladder", "on demand"],
    doc_md="""\
### Validate one model

The same ladder as the nightly sweep, for the model, version and target of the form. Leave version and target empty for
all of them. A single rung may be asked for while a model is being worked on; `ship` needs all six.
""",
    params={
        "model": Param(
            ZOO.models[0] if ZOO.models else None,
            type="string",
            **({"enum": list(ZOO.models)} if ZOO.models else {"minLength": 1}),
            title="Model",
            description_md="A model of the zoo.",
        ),
        "version": Param(
            None,
            type=["null", "string"],
            enum=[None, *ZOO.versions],
            title="Version",
            description_md="Empty for every version.",
        ),
        "target": Param(
            None,
            type=["null", "string"],
            enum=[None, *ZOO.targets],
            title="Target",
            description_md="Empty for every target of the model.",
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
def validate_model() -> None:
    validation_flow()


validate_model()
