"""Airflow's settings, and the one command line of every service: the same natively and in containers.

Natively every setting is ours: an `AIRFLOW__...` variable of another Airflow on this machine is dropped, so that it can
never point the services at its database. Connections (`AIRFLOW_CONN_...`) are kept. In a container the container's own
variables win.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from qatladder.errors import ConfigError
from qatladder.settings import PROJECT, Settings

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8080
UI_USER = "admin"
PARALLELISM = 4
"""Tasks at once on SQLite. With Airflow's default of 32 SQLite answers "database is locked" and the scheduler dies."""

AIRFLOW = (sys.executable, "-m", "airflow")

SERVICES: dict[str, tuple[str, ...]] = {
    "init": (sys.executable, "-m", "qatladder.airflow.prepare"),
    "api-server": (*AIRFLOW, "api-server"),
    "dag-processor": (*AIRFLOW, "dag-processor"),
    # The log servers would bind every interface; the API server reads the logs from the shared folder instead.
    "scheduler": (*AIRFLOW, "scheduler", "--skip-serve-logs"),
    "triggerer": (*AIRFLOW, "triggerer", "--skip-serve-logs"),
    "virtual-board": (sys.executable, "-m", "qatladder.boards.virtual", "serve"),
}


def airflow_home(settings: Settings) -> Path:
    """Airflow's folder in the data folder: database, task logs, service logs, secrets."""
    return settings.home / "airflow"


def password_file(settings: Settings) -> Path:
    """`{user: password}` of the UI and the REST API, readable by the owner only."""
    return airflow_home(settings) / "passwords.json"


def everybody_is_let_in(base: Mapping[str, str] | None = None) -> bool:
    """QATLADDER_UI_AUTH: `password` (default) asks for the generated password; `none` is for a machine of one's own.

    Raises:
        ConfigError: another value; a misspelt `password` must not open the door, nor a misspelt `none` shut it in silence.
    """
    asked = (os.environ if base is None else base).get("QATLADDER_UI_AUTH") or "password"
    if asked not in ("password", "none"):
        raise ConfigError("QATLADDER_UI_AUTH has no such mode", found=asked, expected="password | none", next_step="correct it")
    return asked == "none"


def native_environment(
    settings: Settings, port: int, *, nightly: bool = False, announcements: bool = False, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of services started on this machine, for this user, reachable from this machine only.

    Args:
        port: of the API server and UI, on 127.0.0.1.
        nightly: let the clock start runs, and announcements of trained models; without it only a person or the API does.
        announcements: let announcements of trained models start runs, though the clock does not.
        base: the variables to start from; default: this process's.
    Raises:
        ConfigError: QATLADDER_UI_AUTH is neither `password` nor `none`.
    """
    open_to_all = everybody_is_let_in(base)
    _make_password(password_file(settings))
    kept = {key: value for key, value in (os.environ if base is None else base).items() if not key.startswith("AIRFLOW__")}
    url = f"http://{LOOPBACK}:{port}"
    parallelism = kept.get("QATLADDER_PARALLELISM") or str(PARALLELISM)
    return {
        **kept,
        **_common(airflow_home(settings)),
        **_secrets(airflow_home(settings)),
        "QATLADDER_HOME": str(settings.home),
        "NO_PROXY": ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), LOOPBACK, "localhost"])),
        "no_proxy": ",".join(filter(None, [kept.get("no_proxy") or kept.get("NO_PROXY"), LOOPBACK, "localhost"])),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home(settings) / 'airflow.db'}",
        "AIRFLOW__CORE__PARALLELISM": parallelism,
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": parallelism,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(open_to_all),
        # Without it Airflow starts no run for an asset's event either; the clock is held back in the DAG files.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(nightly or announcements),
        "QATLADDER_SCHEDULE": "1" if nightly else "0",
        # A failed or skipped task is reported only at the supervisor's next wake-up: 5 s by default, for every one of them.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    }


def container_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a service in a container: what the container sets, and the common settings beside it."""
    given = dict(os.environ if base is None else base)
    return {**_common(Path(given.get("AIRFLOW_HOME") or "/opt/airflow")), **given}


def _common(home: Path) -> dict[str, str]:
    """What holds wherever Airflow runs."""
    return {
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(
            dict.fromkeys([str(PROJECT / "include"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
        ),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{UI_USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        # What a killed worker or scheduler had under way is noticed and tried again after a minute; Airflow's own default is five.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "GX_ANALYTICS_ENABLED": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _secrets(home: Path) -> dict[str, str]:
    """The keys that sign tokens and sessions and encrypt connections; made once, readable by the owner only."""
    path = home / "secrets.json"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        keys = {
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(48),
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        _write_private(path, keys)
    keys = json.loads(path.read_text())
    return {str(key): str(value) for key, value in keys.items()}


def _make_password(path: Path) -> None:
    """A password for the UI's user, made once. Airflow would make it readable by everybody, and print it to a log."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        passwords = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # missing, or torn
        passwords = {}
    if isinstance(passwords, dict) and passwords.get(UI_USER):
        path.chmod(0o600)
    else:
        _write_private(path, {UI_USER: secrets.token_urlsafe(16)})


def _write_private(path: Path, data: dict[str, str]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(data, file)
    temporary.replace(path)
