"""Services get our settings, nobody else's; secrets stay with their owner; nothing listens beyond this machine."""

from __future__ import annotations

import json
import stat

import pytest

from qatladder.airflow.environment import LOOPBACK, SERVICES, airflow_home, container_environment, native_environment, password_file
from qatladder.errors import ConfigError
from qatladder.settings import load_settings


def native(base=None, **options):
    return native_environment(load_settings(), 18080, base=base or {}, **options)


def test_another_airflows_settings_never_leak_in(home):
    base = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://prod",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW_HOME": "/prod",
    }
    environment = native({**base, "AIRFLOW__WEBSERVER__X": "1", "AIRFLOW_CONN_BOARD_X": "ssh://board", "PATH": "/bin"})
    assert "prod" not in str(environment)
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW__WEBSERVER__X" not in environment
    assert environment["AIRFLOW_CONN_BOARD_X"] == "ssh://board", "connections are the user's way to reach boards"
    assert environment["PATH"] == "/bin"


def test_everything_listens_on_loopback_only(home):
    environment = native()
    assert environment["AIRFLOW__API__HOST"] == LOOPBACK == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].startswith("http://127.0.0.1:18080/")
    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in SERVICES[name], "the log servers bind every interface"
    assert environment["AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"] == "False"


def test_a_proxy_is_never_asked_for_loopback(home):
    environment = native({"HTTP_PROXY": "http://proxy", "no_proxy": "corp.example"})
    for name in ("NO_PROXY", "no_proxy"):
        assert environment[name].split(",") == ["corp.example", "127.0.0.1", "localhost"]


def test_secrets_are_made_once_and_are_the_owners_only(home):
    first = native()
    path = airflow_home(load_settings()) / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    names = ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY")
    assert len({first[name] for name in names}) == 3
    assert {name: native()[name] for name in names} == {name: first[name] for name in names}
    path.unlink()
    assert native()[names[0]] != first[names[0]]


def test_neither_the_clock_nor_an_announcement_starts_anything_unless_asked_for(home):
    def starts(**options):
        environment = native({"QATLADDER_SCHEDULE": "1"}, **options)
        return environment["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"], environment["QATLADDER_SCHEDULE"]

    assert starts() == ("False", "0")
    assert starts(announcements=True) == ("True", "0"), "Airflow takes both for schedules; the clock is held back in the DAG files"
    assert starts(nightly=True) == starts(nightly=True, announcements=True) == ("True", "1")


def test_sqlite_gets_few_tasks_at_once(home):
    assert native()["AIRFLOW__CORE__PARALLELISM"] == "4"
    assert native({"QATLADDER_PARALLELISM": "8"})["AIRFLOW__CORE__PARALLELISM"] == "8"


def test_what_was_killed_is_noticed_after_a_minute_not_after_airflows_five(home):
    for environment in (native(), container_environment({})):
        assert int(environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"]) == 60
        assert float(environment["AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL"]) == 30
    assert (
        container_environment({"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300"})[
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"
        ]
        == "300"
    ), "what the container sets wins"


def test_the_password_is_asked_for_unless_the_door_was_opened(home):
    assert native()["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert native({"QATLADDER_UI_AUTH": "password"})["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert native({"QATLADDER_UI_AUTH": "none"})["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "True"
    with pytest.raises(ConfigError, match="QATLADDER_UI_AUTH"):
        native({"QATLADDER_UI_AUTH": "passwrd"})


def test_the_password_is_made_once_and_is_the_owners_only(home):
    environment = native()
    path = password_file(load_settings())
    assert environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"] == str(path)
    first = json.loads(path.read_text())
    assert len(first["admin"]) >= 20
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as Airflow itself would have made it
    native()
    assert json.loads(path.read_text()) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")
    native()
    assert json.loads(path.read_text())["admin"] != first["admin"]


def test_a_containers_own_settings_win():
    environment = container_environment({"AIRFLOW_HOME": "/opt/a", "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"})
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert environment["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] == "/opt/a/logs"
    assert "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS" not in environment, "in a container a password is asked for"
