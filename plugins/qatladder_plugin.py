"""QATLadder in Airflow's UI: the report as a tab of a DAG run and as a link on every task of the ladder, and the page "Boards".

Routes of a plugin carry no authentication by themselves. Every route here asks for a user who may read the DAG's runs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from qatladder.errors import QATLadderError

OUR_DAGS = frozenset({"nightly_sweep", "validate_model"})

# The report is one self-contained page. In a sandbox it has no origin: even if a model's name smuggled in a script, that
# script could not act in Airflow as the reader.
HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; img-src data:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

SHOWN = {
    **dict.fromkeys(("log", "txt", "yaml", "toml", "csv"), "text/plain; charset=utf-8"),
    "json": "application/json",
    "html": "text/html; charset=utf-8",
}
"""Evidence a browser shows; the rest it saves."""

NO_REPORT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>No report yet</title>
<body style="font: 16px/1.5 system-ui, sans-serif; margin: 3rem; color: light-dark(#222, #ddd); color-scheme: light dark">
<h1 style="font-size: 1.2rem">This run has no report</h1>
<p>The report is written by the task <b>summary</b>, when the last ladder has its verdict. If that task is red, its log says why.</p>
</body></html>"""

app = FastAPI(title="QATLadder", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/report/{dag_id}/{run_id:path}",
    response_class=HTMLResponse,
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
)
def report(dag_id: str, run_id: str) -> HTMLResponse:
    """The run's report.html; 404 with a page for people while there is none."""
    from qatladder.airflow.names import run_key
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    try:
        page = open_store(load_settings()).read_run_file(run_key(dag_id, run_id), "report.html")
    except FileNotFoundError:
        return HTMLResponse(NO_REPORT, status_code=404, headers=HEADERS)
    return HTMLResponse(page, headers=HEADERS)


@app.get("/objects/{folder}/{name}", dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, "nightly_sweep"))])
def evidence(folder: str, name: str) -> Response:
    """A file behind a check, for who may read the sweeps; where the report's relative links lead."""
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    suffix = name.rpartition(".")[2]
    try:
        data = open_store(load_settings()).read_object(name)
    except FileNotFoundError:
        return Response("no such evidence in the object store", status_code=404, media_type="text/plain", headers=HEADERS)
    return Response(data, media_type=SHOWN.get(suffix, "application/octet-stream"), headers=HEADERS)


@app.exception_handler(QATLadderError)
def unavailable(_request: Request, error: Exception) -> Response:
    """The fleet file is wrong, or the object store is away: what our errors say is for people."""
    return Response(str(error), status_code=503, media_type="text/plain", headers=HEADERS)


_may_see_boards = Depends(requires_access_dag("GET", DagAccessEntity.RUN, "board_health"))


@app.get("/boards", response_class=HTMLResponse, dependencies=[_may_see_boards])
def boards() -> HTMLResponse:
    """The page "Boards": what is known of every board of the fleet."""
    from datetime import UTC, datetime

    from qatladder.reports.fleet import fleet_html

    return HTMLResponse(fleet_html(_fleet(), datetime.now(UTC)), headers=HEADERS)


@app.get("/fleet.json", dependencies=[_may_see_boards])
def fleet_data() -> JSONResponse:
    """The same as data."""
    return JSONResponse(_fleet(), headers=HEADERS)


def _fleet() -> list[dict[str, Any]]:
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import fleet_status

    settings = load_settings()
    return fleet_status(settings, open_store(settings))


class ReportLink(BaseOperatorLink):
    """The button "Report" on every task of our DAGs."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        if ti_key.dag_id not in OUR_DAGS:
            return ""
        return f"/qatladder/report/{quote(ti_key.dag_id, safe='')}/{quote(ti_key.run_id, safe='')}"


class QATLadderPlugin(AirflowPlugin):
    name = "qatladder"
    fastapi_apps = [{"app": app, "url_prefix": "/qatladder", "name": "QATLadder"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {"name": "Report", "href": "/qatladder/report/{DAG_ID}/{RUN_ID}", "destination": "dag_run", "url_route": "report"},
        {"name": "Boards", "href": "/qatladder/boards", "destination": "nav", "url_route": "boards"},
    ]
    global_operator_extra_links = [ReportLink()]  # noqa: RUF012
