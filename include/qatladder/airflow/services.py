"""Airflow for one person on one machine: started, watched and stopped as a whole.

    python -m qatladder.airflow.services sweep [--models a,b] [--rungs float,int]   run the nightly sweep once, now
    python -m qatladder.airflow.services ui [--nightly]                             look at the sweeps; Ctrl-C ends it
    python -m qatladder.airflow.services run SERVICE                                one service in the foreground (containers)

`sweep` and `ui` share one database in the data folder, so `ui` shows every sweep. They listen on 127.0.0.1 only and
ask for the generated password (user `admin`, file `<home>/airflow/passwords.json`); QATLADDER_UI_AUTH=none lets everybody
on this machine in, for a machine of one's own. The clock starts runs only under `ui --nightly`, a trained model's announcement under `ui`.

Exit code of `sweep`: 0 every ladder got its verdict (also a `no-ship`: that is a finding), 3 something of ours broke,
2 a wrong argument or setting, 130 interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import importlib.metadata
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import IO, Any

from qatladder.airflow.client import AirflowClient, ApiError
from qatladder.airflow.environment import (
    DEFAULT_PORT,
    LOOPBACK,
    SERVICES,
    UI_USER,
    airflow_home,
    container_environment,
    everybody_is_let_in,
    native_environment,
    password_file,
)
from qatladder.airflow.names import RUNGS, board_slots, run_key, zoo_names
from qatladder.airflow.processes import Processes
from qatladder.errors import BrokenError, ConfigError, QATLadderError
from qatladder.settings import Settings, load_settings

SWEEP = "nightly_sweep"
NATIVE = ("api-server", "dag-processor", "scheduler", "triggerer")

START_LIMIT = 180.0
"""Seconds until the services must answer; measured: 8 to 15 on two cores."""

BROKE = 3


def main(arguments: list[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="qatladder.airflow.services", description="Airflow for one person on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("sweep", help="run the nightly sweep once, now, and stop")
    one.add_argument("--models", type=_names, metavar="A,B", help="these models only")
    one.add_argument("--rungs", type=_names, metavar="A,B", help=f"these rungs only, of {','.join(RUNGS)}")
    show = commands.add_parser("ui", help="serve Airflow's UI until Ctrl-C")
    show.add_argument("--nightly", action="store_true", help="let the schedule start sweeps while it runs")
    run = commands.add_parser("run", help="run one service in the foreground, with the environment's own settings")
    run.add_argument("service", choices=sorted(SERVICES))
    run.add_argument("arguments", nargs="*", help="further arguments of the service, e.g. the name of a virtual board")
    options = parser.parse_args(arguments)
    if options.command == "run":
        command = SERVICES[options.service]
        os.execvpe(command[0], [*command, *options.arguments], container_environment())
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT is ignored in the background of a shell script otherwise
        signal.signal(number, _interrupt)
    try:
        settings = load_settings()
        if options.command == "ui":
            return ui(settings, nightly=options.nightly)
        return sweep(settings, models=options.models, rungs=options.rungs)
    except KeyboardInterrupt:
        print("\ninterrupted; everything is stopped", file=sys.stderr)
        return 130
    except QATLadderError as error:
        if isinstance(error, BrokenError) and error.console:
            print(error.console, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return BROKE if isinstance(error, BrokenError) else 2


def sweep(settings: Settings, models: list[str] | None = None, rungs: list[str] | None = None) -> int:
    """Start the services, run the sweep, show every rung as it ends, print the verdicts, stop everything.

    Returns:
        0 when every ladder got a verdict, 3 when the machinery broke.
    """
    _known("model", models, zoo_names(settings).models)
    _known("rung", rungs, RUNGS)
    with Processes(airflow_home(settings)) as processes:
        client = start(settings, processes, free_port(settings, fixed=False))
        run_id = f"sweep-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
        trigger(client, run_id, {"models": models, "rungs": rungs})
        print(f"{SWEEP} {run_id} at {client.url}/dags/{SWEEP}/runs/{run_id}", flush=True)
        state = follow(client, run_id, processes)
        broken = [f"{task['task_id']} {task['state']}" for task in _tasks(client, run_id) if _ours_broke(task)]
        processes.stop(clean=True)
    return conclude(settings, run_id, state, broken)


def ui(settings: Settings, nightly: bool = False) -> int:
    """Serve the UI in the foreground until Ctrl-C."""
    with Processes(airflow_home(settings)) as processes:
        client = start(settings, processes, free_port(settings, fixed=True), nightly=nightly, announcements=True)
        print(f"Airflow is at {client.url}   (Ctrl-C stops it)")
        print("announced models are validated; the nightly schedule is " + ("on" if nightly else "off (--nightly)"), flush=True)
        try:
            while True:
                time.sleep(1)
                processes.check()
        except KeyboardInterrupt:
            idle = all(run["state"] not in ("queued", "running") for run in client.pages("dags/~/dagRuns", "dag_runs"))
            processes.stop(clean=idle)
            print("\nstopped")
    return 0


def start(settings: Settings, processes: Processes, port: int, nightly: bool = False, announcements: bool = False) -> AirflowClient:
    """Bring the services up and return when they are healthy and have read today's DAG files.

    Raises:
        BrokenError: a service ended, or they are not healthy in time.
        ConfigError: a DAG file cannot be imported.
    """
    began = time.time()
    home = airflow_home(settings)
    environment = native_environment(settings, port, nightly=nightly, announcements=announcements)
    prepare(home, environment, abandon=processes.interrupted)
    for name in NATIVE:
        processes.start(name, SERVICES[name], environment)
    for board in idle_virtual_boards(settings):
        # Without its board a ladder is `broken` at that rung, which is an answer: the sweep goes on.
        processes.start(f"board-{board}", (*SERVICES["virtual-board"], board, "--port", "0"), environment, essential=False)
    client = AirflowClient(f"http://{LOOPBACK}:{port}", password_file(settings))
    while True:
        processes.check()
        if waiting_for(client, began) is None:
            break
        if time.time() - began > START_LIMIT:
            raise BrokenError(
                f"Airflow is not ready after {START_LIMIT:.0f} s",
                kind="airflow",
                found=f"still waiting for {waiting_for(client, began)}",
                next_step=f"read {home / 'logs' / 'services'}",
            )
        time.sleep(0.3)
    print(f"Airflow is up after {time.time() - began:.1f} s; its logs: {home / 'logs'}")
    print(login_hint(settings), flush=True)
    return client


def login_hint(settings: Settings) -> str:
    """Who may log in, and where the password is; never the password itself, screens are kept in logs."""
    if everybody_is_let_in():
        return "everybody on this machine is let in as administrator (QATLADDER_UI_AUTH=none)"
    return f"log in as {UI_USER}; the password is in {password_file(settings)}"


def idle_virtual_boards(settings: Settings) -> list[str]:
    """The fleet's virtual boards that nobody serves yet; none without the vendor's simulator, or without a readable fleet."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.boards.virtual import control

    if not settings.vendor or not settings.vendor_python.exists():
        return []
    try:
        boards = load_fleet(settings.fleet).boards
    except ConfigError:
        return []
    return [board.name for board in boards if board.virtual and control.running(board, settings) is None]


def prepare(home: Path, environment: dict[str, str], abandon: bool) -> None:
    """Run `qatladder.airflow.prepare` unless the database is already as this version and this fleet need it."""
    stamp = home / "prepared.json"
    wanted = json.dumps({"airflow": importlib.metadata.version("apache-airflow-core"), "boards": board_slots()})
    ready = stamp.exists() and stamp.read_text() == wanted and (home / "airflow.db").exists()
    if ready and not abandon:
        return
    command = [*SERVICES["init"], *(["--abandon-runs"] if abandon else [])]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BrokenError(
            "Airflow's database cannot be prepared",
            kind="airflow",
            file=home / "airflow.db",
            console="\n".join((done.stdout + done.stderr).splitlines()[-15:]),
            next_step=f"if no run in it matters, delete {home / 'airflow.db'} and start again",
        )
    print("".join(f"{line}\n" for line in done.stdout.splitlines() if line.endswith("; marked failed")), end="")
    stamp.write_text(wanted)


def waiting_for(client: AirflowClient, began: float) -> str | None:
    """What is not ready yet, None when everything is. Heartbeats and parses from before `began` do not count."""
    try:
        health = client.health()
    except (OSError, ApiError):
        return "the API server"
    for name in ("scheduler", "dag_processor"):
        if not _after(health[name][f"latest_{name}_heartbeat"], began):
            return f"the {name.replace('_', ' ')}'s first heartbeat"
    try:
        if _after(client.get(f"dags/{SWEEP}")["last_parsed_time"], began):
            return None
    except ApiError as error:
        if error.status != 404:
            raise
    for problem in client.pages("importErrors", "import_errors"):
        if problem["filename"].endswith(f"{SWEEP}.py") and _after(problem["timestamp"], began):
            raise ConfigError(
                "a DAG file cannot be imported", file=problem["filename"], found=problem["stack_trace"], next_step="correct it"
            )
    return f"the DAG {SWEEP}"


def trigger(client: AirflowClient, run_id: str, params: dict[str, Any]) -> None:
    """Start the sweep.

    Raises:
        ConfigError: the DAG's schema refuses a param.
    """
    client.patch(f"dags/{SWEEP}", {"is_paused": False})
    conf = {name: value for name, value in params.items() if value}
    try:
        client.post(f"dags/{SWEEP}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": conf})
    except ApiError as error:
        if error.status != 400:
            raise
        raise ConfigError("the sweep refuses a parameter", found=error.where["found"], next_step="correct --models or --rungs") from error


def follow(client: AirflowClient, run_id: str, processes: Processes) -> str:
    """Print one line per rung and verdict as they end; return the run's final state."""
    shown: set[tuple[str, int, int]] = set()
    heard = time.monotonic()
    while True:
        try:
            state = _show(client, run_id, shown)
            heard = time.monotonic()
        except (OSError, HTTPException) as error:  # busy, or gone
            state = ""
            if time.monotonic() - heard > START_LIMIT:
                raise BrokenError(
                    f"Airflow's API has not answered for {START_LIMIT:.0f} s", kind="airflow", found=error, next_step="read its log"
                ) from error
        if state in ("success", "failed"):
            return state
        processes.check()
        time.sleep(1)


def _show(client: AirflowClient, run_id: str, shown: set[tuple[str, int, int]]) -> str:
    """Print what has ended since and is not `shown`; return the run's state."""
    state = str(client.get(f"dags/{SWEEP}/dagRuns/{run_id}")["state"])
    for task in sorted(_tasks(client, run_id), key=lambda task: task["end_date"] or ""):
        key = (task["task_id"], task["map_index"], task["try_number"])
        if key in shown or task["state"] not in ("success", "failed", "skipped", "up_for_retry"):
            continue
        if task["map_index"] >= 0:
            print(_line(client, run_id, task), flush=True)
        shown.add(key)
    return state


def conclude(settings: Settings, run_id: str, state: str, broken: list[str]) -> int:
    """Print the verdicts, where the report and the logs are, and what of ours broke."""
    from qatladder.evidence import open_store
    from qatladder.ladder import LadderResult
    from qatladder.reports.text import trend_text, verdict_table

    store, key = open_store(settings), run_key(SWEEP, run_id)
    logs = airflow_home(settings) / "logs" / f"dag_id={SWEEP}" / f"run_id={run_id}"
    print()
    try:
        report = json.loads(store.read_run_file(key, "report.json"))
        print(verdict_table([LadderResult.from_json(ladder) for ladder in report["ladders"]]))
        if moved := trend_text(report):
            print(f"\n{moved}")
        print(f"\nreport: {store.run_uri(key, 'report.html')}")
    except FileNotFoundError:
        broken = broken or ["no report was written"]
    print(f"logs:   {logs}")
    if state != "success" or broken:
        print(f"error: the sweep itself broke: {'; '.join(broken) or state}", file=sys.stderr)
        return BROKE
    return 0


_HELD: dict[int, IO[str]] = {}


def _hold(port: int) -> None:
    """Keep a port of this user's until this process ends: it is bound seconds later, and another may start in the same moment.

    Raises:
        BlockingIOError: another process holds it.
    """
    if port in _HELD:
        return
    lock = (Path(tempfile.gettempdir()) / f"qatladder-{os.getuid()}-port-{port}.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    _HELD[port] = lock


def free_port(settings: Settings, fixed: bool) -> int:
    """The API server's port: QATLADDER_UI_PORT, else 8080, else (unless `fixed`) any free one.

    Raises:
        ConfigError: the port is in use or is no port.
    """
    asked = os.environ.get("QATLADDER_UI_PORT")
    if asked and not (asked.isdecimal() and 0 < int(asked) < 65536):
        raise ConfigError("QATLADDER_UI_PORT is no port", found=asked, expected="1 to 65535", next_step="correct it")
    port = int(asked) if asked else DEFAULT_PORT
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            _hold(port)
        except OSError as error:
            if asked or fixed:
                raise ConfigError(
                    "the port is in use", found=f"{LOOPBACK}:{port}", next_step="set QATLADDER_UI_PORT to a free one"
                ) from error
            port = 0
    if port:
        return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _tasks(client: AirflowClient, run_id: str) -> Iterator[dict[str, Any]]:
    return client.pages(f"dags/{SWEEP}/dagRuns/{run_id}/taskInstances", "task_instances")


def _ours_broke(task: dict[str, Any]) -> bool:
    """A red task outside the ladders: planning, reporting or alerting. A red rung is a finding."""
    return task["map_index"] < 0 and task["state"] in ("failed", "upstream_failed")


def _line(client: AirflowClient, run_id: str, task: dict[str, Any]) -> str:
    """`digits_cnn 1 @ bayes-e   int     failed   3.2 s   int.fidelity failed: ...`"""
    path = f"dags/{SWEEP}/dagRuns/{run_id}/taskInstances/{task['task_id']}/xcomEntries/answer"
    try:
        answer = client.get(path, map_index=task["map_index"], stringify="false")["value"]
    except ApiError as error:
        if error.status != 404:
            raise
        label = task["rendered_map_index"] or f"{task['task_id']}[{task['map_index']}]"
        answer = {"label": label, "status": task["state"], "why": "no answer; the task's log says why" if task["state"] == "failed" else ""}
    rung = task["task_id"].rpartition(".")[2]
    state = "retrying" if task["state"] == "up_for_retry" else answer["status"]
    line = f"{answer['label']:<32}  {rung:<7}  {state:<10} {task['duration'] or 0:6.1f} s  {answer['why']}"
    return line[: shutil.get_terminal_size((160, 24)).columns].rstrip()


def _known(what: str, asked: list[str] | None, known: tuple[str, ...]) -> None:
    """Refuse a misspelt name before anything is started; the DAG's schema would refuse it half a minute later."""
    if wrong := [name for name in asked or () if name not in known]:
        raise ConfigError(f"no such {what}", found=", ".join(wrong), expected=" | ".join(known), next_step=f"correct --{what}s")


def _after(when: str | None, began: float) -> bool:
    return when is not None and datetime.datetime.fromisoformat(when).timestamp() >= began


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
