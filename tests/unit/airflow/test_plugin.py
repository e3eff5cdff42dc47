"""The report in Airflow's UI: for users who may read the run, harmless in the browser, absent without a word of trouble."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from qatladder.evidence import open_store
from qatladder.settings import load_settings


@pytest.fixture(scope="module")
def plugin():
    path = Path(__file__).resolve().parents[3] / "plugins" / "qatladder_plugin.py"
    spec = importlib.util.spec_from_file_location("qatladder_plugin", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def user(plugin, monkeypatch):
    """Somebody is logged in; the auth manager's answer is `user.may`."""
    from airflow.api_fastapi.core_api import security

    state = SimpleNamespace(may=True, asked=[])

    def is_authorized_dag(*, method, access_entity, details, user):
        state.asked.append((method, access_entity.value, details.id))
        return state.may

    monkeypatch.setattr(security, "get_auth_manager", lambda: SimpleNamespace(is_authorized_dag=is_authorized_dag))
    monkeypatch.setattr(security.DagModel, "get_team_name", lambda dag_id: None)
    plugin.app.dependency_overrides[security.get_user] = lambda: SimpleNamespace(get_name=lambda: "reader")
    yield state
    plugin.app.dependency_overrides.clear()


@pytest.fixture
def report(home):
    open_store(load_settings()).write_run_file("nightly_sweep@manual__2026-11-23T01:00:00+00:00", "report.html", b"<h1>verdicts</h1>")


URL = "/report/nightly_sweep/manual__2026-11-23T01%3A00%3A00%2B00%3A00"


def test_no_route_answers_a_stranger(plugin, report):
    client = TestClient(plugin.app)
    routes = [route for route in plugin.app.routes if hasattr(route, "path")]
    assert routes
    for route in routes:
        url = route.path.replace("{dag_id}", "nightly_sweep").replace("{run_id:path}", "manual__2026-11-23T01:00:00+00:00")
        url = url.replace("{folder}", "ab").replace("{name}", "ab" * 32)
        answer = client.get(url)
        assert answer.status_code == 401, route.path
        assert "verdicts" not in answer.text


def test_a_user_without_the_right_to_the_runs_is_refused(plugin, report, user):
    user.may = False
    assert TestClient(plugin.app).get(URL).status_code == 403
    assert user.asked == [("GET", "RUN", "nightly_sweep")]


def test_a_reader_gets_the_report_in_a_sandbox(plugin, report, user):
    answer = TestClient(plugin.app).get(URL)
    assert answer.status_code == 200
    assert answer.text == "<h1>verdicts</h1>"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy, "the report's scripts must not act as the reader"
    assert "default-src 'none'" in policy


def test_a_run_without_a_report_says_so(plugin, home, user):
    answer = TestClient(plugin.app).get("/report/nightly_sweep/running")
    assert answer.status_code == 404
    assert "no report" in answer.text


@pytest.mark.parametrize("run", ["..%2F..%2F..%2Fetc%2Fpasswd", "%2e%2e/%2e%2e/secrets.json", "a/../../x"])
def test_a_run_id_cannot_leave_the_store(plugin, home, user, run):
    (home / "report.html").parent.mkdir(parents=True, exist_ok=True)
    (home / "report.html").write_text("outside")
    (home / "evidence" / "report.html").parent.mkdir(parents=True, exist_ok=True)
    (home / "evidence" / "report.html").write_text("outside")
    answer = TestClient(plugin.app).get(f"/report/nightly_sweep/{run}")
    assert answer.status_code == 404
    assert "outside" not in answer.text


def test_tab_and_link_lead_to_the_route(plugin):
    view, nav = plugin.QATLadderPlugin.external_views
    assert (nav["destination"], nav["href"]) == ("nav", "/qatladder/boards")
    assert view["destination"] == "dag_run"
    assert view["href"] == "/qatladder/report/{DAG_ID}/{RUN_ID}"
    (link,) = plugin.QATLadderPlugin.global_operator_extra_links
    assert link.name == "Report"
    key = SimpleNamespace(dag_id="nightly_sweep", run_id="manual__2026-11-23T01:00:00+00:00")
    assert link.get_link(None, ti_key=key) == "/qatladder" + URL
    assert link.get_link(None, ti_key=SimpleNamespace(dag_id="somebody_elses", run_id="r")) == "", "no button on other people's DAGs"


def test_the_reports_relative_links_lead_to_evidence(plugin, home, user):
    item = open_store(load_settings()).put_bytes(b"layer conv1 ...", "hb_mapper.log")
    page = "/report/nightly_sweep/some_run"
    link = urljoin(page, "../../objects/" + item.uri.rpartition("/objects/")[2])
    answer = TestClient(plugin.app).get(link)
    assert answer.status_code == 200
    assert answer.text == "layer conv1 ..."
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    user.may = False
    assert TestClient(plugin.app).get(link).status_code == 403


@pytest.mark.parametrize("name", ["0" * 64, "passwd", "..%2f..%2fetc%2fpasswd", "0" * 64 + ".%2e%2e"])
def test_evidence_that_does_not_exist_is_404(plugin, home, user, name):
    assert TestClient(plugin.app).get(f"/objects/00/{name}").status_code == 404


@pytest.fixture
def fleet(two_boards, home):
    """Board `a` is in quarantine, for a reason that smells of script."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.validation.fleet import quarantine

    quarantine(open_store(load_settings()), load_fleet().board("a"), "<script>alert(1)</script>")


def test_the_boards_are_shown_to_who_may_read_the_health_runs(plugin, fleet, user):
    answer = TestClient(plugin.app).get("/boards")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    assert "in quarantine" in answer.text and "b.2" in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text and "<script" not in answer.text
    assert user.asked == [("GET", "RUN", "board_health")]
    rows = {row["name"]: row for row in TestClient(plugin.app).get("/fleet.json").json()}
    assert (rows["a"]["status"], rows["b.2"]["status"]) == ("quarantined", "ready")
    assert rows["a"]["by_hand"] is True
    user.may = False
    for url in ("/boards", "/fleet.json"):
        refused = TestClient(plugin.app).get(url)
        assert refused.status_code == 403
        assert "b.2" not in refused.text


def test_a_wrong_fleet_file_is_said_and_not_a_crash(plugin, home, user, monkeypatch, tmp_path):
    (tmp_path / "fleet.yaml").write_text("boards: [")
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "fleet.yaml"))
    answer = TestClient(plugin.app).get("/boards")
    assert answer.status_code == 503
    assert "the fleet file is not YAML" in answer.text
