"""The command line around Airflow: ports, preparation, the REST client, and what the exit code says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qatladder.airflow import services
from qatladder.airflow.client import AirflowClient, ApiError
from qatladder.airflow.names import run_key
from qatladder.airflow.processes import Processes
from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence import open_store
from qatladder.ladder import LadderResult
from qatladder.settings import load_settings


@pytest.fixture
def busy_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_configured_port_in_use_is_a_clear_error(home, busy_port, monkeypatch, capsys):
    monkeypatch.setenv("QATLADDER_UI_PORT", str(busy_port))
    assert services.main(["ui"]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{busy_port}" in error
    assert "QATLADDER_UI_PORT" in error
    with pytest.raises(ConfigError):
        services.free_port(load_settings(), fixed=False)


def test_a_sweep_takes_another_port_when_the_default_is_busy_but_a_ui_does_not(home, busy_port, monkeypatch):
    monkeypatch.setattr(services, "DEFAULT_PORT", busy_port)
    port = services.free_port(load_settings(), fixed=False)
    assert port != busy_port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    with pytest.raises(ConfigError, match="in use"):
        services.free_port(load_settings(), fixed=True)


def test_two_that_start_in_the_same_moment_take_two_ports(home, monkeypatch):
    """Neither has bound it yet when the other looks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"""
from qatladder.airflow import services
from qatladder.settings import load_settings
services.DEFAULT_PORT = {port}
print(services.free_port(load_settings(), fixed=False), flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert int(other.stdout.readline()) == port
        monkeypatch.setattr(services, "DEFAULT_PORT", port)
        assert services.free_port(load_settings(), fixed=False) != port
        with pytest.raises(ConfigError, match="in use"):
            services.free_port(load_settings(), fixed=True)
        other.communicate("\n", timeout=20)
    assert services.free_port(load_settings(), fixed=True) == port, "its end frees it"


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_no_port_is_no_port(home, monkeypatch, port):
    monkeypatch.setenv("QATLADDER_UI_PORT", port)
    with pytest.raises(ConfigError, match="no port"):
        services.free_port(load_settings(), fixed=True)


def test_preparing_is_done_once_per_version_and_fleet(tmp_path, two_boards, monkeypatch):
    script = "import pathlib, sys; pathlib.Path('calls').open('a').write(' '.join(sys.argv[1:]) + '\\n')"
    monkeypatch.setitem(services.SERVICES, "init", (sys.executable, "-c", script))
    (tmp_path / "airflow.db").write_text("")

    def calls(abandon=False):
        services.prepare(tmp_path, {}, abandon)
        return len((tmp_path / "calls").read_text().splitlines())

    assert (calls(), calls()) == (1, 1)
    assert calls(abandon=True) == 2, "after a kill there may be runs to abandon"
    two_boards.write_text("boards: [{name: new, march: bayes}]")
    assert (calls(), calls()) == (3, 3)
    (tmp_path / "airflow.db").unlink()
    assert calls() == 4


def test_a_database_that_cannot_be_prepared_is_reported_with_the_console(tmp_path, monkeypatch):
    monkeypatch.setitem(services.SERVICES, "init", (sys.executable, "-c", "raise SystemExit('file is not a database')"))
    with pytest.raises(BrokenError, match="cannot be prepared") as caught:
        services.prepare(tmp_path, {}, abandon=False)
    assert "not a database" in caught.value.console
    assert not (tmp_path / "prepared.json").exists()


def write_report(*verdicts):
    settings = load_settings()
    ladders = [LadderResult("m", "1", verdict, ()).to_json() for verdict in verdicts]
    open_store(settings).write_run_file(run_key("nightly_sweep", "r"), "report.json", json.dumps({"ladders": ladders}).encode())
    return settings


def test_a_whole_sweep_exits_0_and_shows_verdicts_report_and_logs(home, capsys):
    assert services.conclude(write_report("bayes", "bayes-e"), "r", "success", []) == 0
    out = capsys.readouterr().out
    assert "2 ladders" in out
    assert "report.html" in out
    assert "run_id=r" in out


@pytest.mark.parametrize(("state", "broken"), [("failed", []), ("success", ["alert failed"])])
def test_a_sweep_that_broke_does_not_exit_0_even_with_a_report(home, state, broken):
    assert services.conclude(write_report("bayes"), "r", state, broken) == 3


def test_a_sweep_without_a_report_does_not_exit_0(home, capsys):
    assert services.conclude(load_settings(), "r", "success", []) == 3
    assert "no report was written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "broke"),
    [
        ({"map_index": 0, "state": "failed"}, False),
        ({"map_index": -1, "state": "failed"}, True),
        ({"map_index": -1, "state": "upstream_failed"}, True),
        ({"map_index": -1, "state": "skipped"}, False),
    ],
)
def test_a_red_rung_is_a_finding_and_a_red_plan_is_ours(task, broke):
    assert services._ours_broke(task) is broke


@pytest.mark.parametrize(("option", "value"), [("--models", "no_such_model"), ("--rungs", "float,floa")])
def test_a_misspelt_name_is_refused_before_anything_starts(home, monkeypatch, capsys, option, value):
    monkeypatch.setattr(services, "start", lambda *_: pytest.fail("Airflow was started"))
    assert services.main(["sweep", option, value]) == 2
    assert value.rpartition(",")[2] in capsys.readouterr().err


class Api(BaseHTTPRequestHandler):
    """As much of Airflow's API as the client uses; `all_admins` and `valid` token are class state."""

    all_admins = True
    valid = "token-1"
    log: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.log.append(f"GET {self.path}")
        if self.path == "/auth/token":
            return self.answer(200, {"access_token": self.valid}) if self.all_admins else self.answer(403, {"detail": "no"})
        if self.headers["Authorization"] != f"Bearer {self.valid}":
            return self.answer(401, {"detail": "who?"})
        if self.path.startswith("/api/v2/things"):
            offset = int(self.path.rpartition("offset=")[2])
            return self.answer(200, {"things": [{"n": n} for n in range(offset, min(offset + 100, 250))], "total_entries": 250})
        return self.answer(404, {"detail": "no such thing"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.log.append(f"POST {self.path}")
        if self.path == "/auth/token" and body == {"username": "admin", "password": "secret"}:
            return self.answer(201, {"access_token": self.valid})
        return self.answer(400, {"detail": "Invalid input for param models\n\nFailed validating"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be used
    (tmp_path / "passwords.json").write_text('{"admin": "secret"}')
    monkeypatch.setattr(Api, "log", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield AirflowClient(f"http://127.0.0.1:{server.server_port}", tmp_path / "passwords.json")
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("all_admins", [True, False])
def test_the_client_logs_in_either_way_and_reads_every_page(api, monkeypatch, all_admins):
    monkeypatch.setattr(Api, "all_admins", all_admins)
    assert [item["n"] for item in api.pages("things", "things")] == list(range(250))
    assert ("POST /auth/token" in Api.log) is not all_admins


def test_an_expired_token_is_renewed(api, monkeypatch):
    assert len(list(api.pages("things", "things"))) == 250
    monkeypatch.setattr(Api, "valid", "token-2")
    assert len(list(api.pages("things", "things"))) == 250


class Silent:
    """An API server that does not answer `failures` times, and then says that the run is over."""

    def __init__(self, error, failures):
        self.error, self.failures, self.asked = error, failures, 0

    def get(self, path, **_):
        self.asked += 1
        if self.asked <= self.failures:
            raise self.error
        return {"state": "success"}

    def pages(self, *_):
        return iter(())


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), IncompleteRead(b"")])
def test_a_busy_api_server_is_asked_again(tmp_path, monkeypatch, error):
    monkeypatch.setattr(services.time, "sleep", lambda _: None)
    client = Silent(error, 3)
    assert services.follow(client, "r", Processes(tmp_path)) == "success"
    assert client.asked == 4


def test_an_api_server_that_died_is_named_with_its_last_words(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("api-server", [sys.executable, "-c", "print('last words'); raise SystemExit(9)"], dict(os.environ))
        with pytest.raises(BrokenError, match="api-server ended by itself") as caught:
            services.follow(Silent(ConnectionRefusedError(), 1000), "r", processes)
    assert "last words" in caught.value.console


def test_an_api_server_that_never_answers_again_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(services, "START_LIMIT", 0.0)
    with pytest.raises(BrokenError, match="has not answered"):
        services.follow(Silent(TimeoutError(), 1000), "r", Processes(tmp_path))


def test_a_refused_param_is_the_users_error(api, monkeypatch):
    monkeypatch.setattr(api, "patch", lambda *_: {})
    with pytest.raises(ConfigError, match="refuses a parameter") as caught:
        services.trigger(api, "r", {"models": ["x"]})
    assert caught.value.where["found"] == "Invalid input for param models"
    with pytest.raises(ApiError) as missing:
        api.get("nothing")
    assert missing.value.status == 404


def test_the_screen_says_who_may_log_in_and_never_the_password(home, monkeypatch):
    settings = load_settings()
    services.native_environment(settings, 18080)
    path = home / "airflow" / "passwords.json"
    hint = services.login_hint(settings)
    assert "admin" in hint
    assert str(path) in hint
    assert json.loads(path.read_text())["admin"] not in hint
    monkeypatch.setenv("QATLADDER_UI_AUTH", "none")
    assert "everybody on this machine" in services.login_hint(settings)


def test_a_misspelt_mode_is_refused_before_anything_starts(home, monkeypatch, capsys):
    monkeypatch.setenv("QATLADDER_UI_AUTH", "off")
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("QATLADDER_UI_PORT", str(free.getsockname()[1]))
    monkeypatch.setattr(services, "prepare", lambda *_, **__: pytest.fail("Airflow was started"))
    assert services.main(["ui"]) == 2
    error = capsys.readouterr().err
    assert "QATLADDER_UI_AUTH" in error
    assert "password | none" in error
