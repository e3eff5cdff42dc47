"""Starts service processes so that all of them can be found and stopped again, even after we were killed.

Every service gets a session of its own (`setsid`). Whatever it forks stays in that session, also when its parent dies, so
"every process of these sessions" is exactly what we started. The session ids are written down first, for the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil  # type: ignore[import-untyped]

from qatladder.errors import BrokenError, ConfigError

RESTARTS, WITHIN = 3, 3600.0
"""A service the others need, that ends by itself, is started again: so often within so many seconds. On SQLite a scheduler that finds the
database locked ends; what it had under way is found again by the next one."""


@dataclass(frozen=True)
class Service:
    """A running service: its name, its process (the leader of its session), its log, whether the others need it, and how it was started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    essential: bool
    command: Sequence[str]
    environment: dict[str, str]

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Processes:
    """The services of one data folder; a context manager that stops all of them.

    Attributes:
        interrupted: True when the services before these did not end by themselves.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: list[Service] = []
        self.interrupted = False
        self._sessions: list[tuple[int, float | None]] = []
        self._ends: dict[str, list[float]] = {}
        self._record = folder / "services.json"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Processes:
        """Take the folder for ourselves and end what a killed predecessor left running.

        Raises:
            ConfigError: other services use this data folder right now.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "services.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                "Airflow is already running on this data folder",
                folder=self.folder,
                next_step="stop the other `sweep` or `ui` first, or set QATLADDER_HOME to another folder",
            ) from None
        if self._record.exists():
            self.interrupted = True
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn file names nobody
                _end(_members(json.loads(self._record.read_text())))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._lock:
            self._lock.close()

    def start(self, name: str, command: Sequence[str], environment: dict[str, str], essential: bool = True) -> Service:
        """Start a service in a session of its own; its output goes to `<folder>/logs/services/<name>.log`."""
        self.services.append(self._start(name, command, environment, essential))
        return self.services[-1]

    def _start(self, name: str, command: Sequence[str], environment: dict[str, str], essential: bool) -> Service:
        log = self.folder / "logs" / "services" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab" if name in self._ends else "wb") as out:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sessions.append((process.pid, _born(process.pid)))
        # Only a clean stop removes this; whoever finds it knows that we were killed, and whom we left behind.
        temporary = self._record.with_suffix(".part")
        temporary.write_text(json.dumps(self._sessions))
        temporary.replace(self._record)
        return Service(name, process, log, essential, command, environment)

    def check(self) -> None:
        """Start an essential service that ended by itself again, and say so; the children it left behind end by themselves, or with us.

        Raises:
            BrokenError: it ends again and again (`RESTARTS`).
        """
        for place, service in enumerate(self.services):
            if not service.essential or (code := service.process.poll()) is None:
                continue
            now = time.monotonic()
            lately = [moment for moment in self._ends.get(service.name, ()) if now - moment < WITHIN]
            if len(lately) == RESTARTS:
                raise BrokenError(
                    f"the {service.name} ended by itself, and {RESTARTS} times before within {WITHIN / 60:.0f} minutes",
                    kind="airflow",
                    found=f"exit code {code}",
                    log=service.log,
                    console=service.tail(),
                    next_step="read the end of its log",
                )
            self._ends[service.name] = [*lately, now]
            print(
                f"the {service.name} ended by itself (exit code {code}) and is started again; its log: {service.log}",
                file=sys.stderr,
                flush=True,
            )
            self.services[place] = self._start(service.name, service.command, service.environment, essential=True)

    def stop(self, clean: bool = False) -> None:
        """End every process of every session: politely, and then for good.

        The first service is the one the others report to: it ends after them, and is not waited for long.
        """
        for services, patience in ((self.services[1:], 10.0), (self.services[:1], 1.0)):
            for service in services:
                service.process.terminate()
            deadline = time.monotonic() + patience
            for service in services:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(max(0.0, deadline - time.monotonic()))
        _end(_members(self._sessions), grace=1.0)
        for service in self.services:
            service.process.wait(5)
        self.services, self._sessions = [], []
        if clean:
            self._record.unlink(missing_ok=True)
            self.interrupted = False


def _born(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _members(sessions: Sequence[Sequence[float | None]]) -> list[psutil.Process]:
    """All processes of the sessions, given as (leader's pid, leader's time of birth).

    A leader of another age is a stranger that got the same pid after a reboot; so is a member older than the leader.
    """
    ours: dict[int, float | None] = {}
    for pid, born in sessions:
        if pid is None:
            continue
        alive = _born(int(pid))
        if born is None or alive is None or abs(alive - born) < 1:
            ours[int(pid)] = born
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            session = os.getsid(process.pid)
            if session in ours and process.create_time() >= (ours[session] or 0) - 1 and process.uids().real == os.getuid():
                members.append(process)
    return members


def _end(processes: list[psutil.Process], grace: float = 5.0) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    deadline = time.monotonic() + 1
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive) and time.monotonic() < deadline:
        time.sleep(0.05)
