"""`python -I supervise.py JOB.json`: runs one job under its limits, and outlives neither the job nor whoever asked for it.

A process of its own, the same for an interpreter of this machine, a container and a toolchain server. It starts
`python -m qatladder.runner JOB.json` in a session of its own and ends that whole session when the job

* has returned (a child it leaves behind goes with it),
* takes longer than `limits.seconds`,
* holds more memory than `limits.memory_mb` (all its processes together, shared pages counted once; Linux), or than its container, or
* is no longer wanted: stdin, which whoever asked holds open, comes to its end, or is silent for `limits.heartbeat` seconds.

Then it writes `ended.json` beside the job file: {"reason": "exit" | "timeout" | "memory" | "cancelled", "code": int or null,
"seconds": float, "peak_memory_mb": float or null}.

Python 3.8, standard library only, imports nothing of qatladder: `-I` keeps the folder of this file off sys.path.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

POLL = 0.05
"""Seconds between two looks at the job and at stdin."""

MEMORY_POLL = 0.25
"""Seconds between two looks at its memory: reading it costs about a millisecond per process."""


def main(job_file: str) -> int:
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "qatladder.runner", job_file],
        env=_variables(job),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_me,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kills = oom_kills()
    watch = _Watch(child, job.get("limits", {}), started)
    reason = "cancelled"
    try:
        reason = watch.until_over()
        if child.returncode == -signal.SIGKILL and oom_kills() > kills:
            reason = "memory"
    finally:
        end_session(child.pid)
        child.wait()
        code = child.returncode if reason == "exit" else None
        if watch.peak_mb is not None:  # a short job ends between two looks; the kernel knows its largest process
            watch.peak_mb = max(watch.peak_mb, round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6, 1))
        ended = {"reason": reason, "code": code, "seconds": round(time.monotonic() - started, 3), "peak_memory_mb": watch.peak_mb}
        path = Path(job_file).with_name("ended.json")
        temporary = path.with_name("ended.json.part")
        temporary.write_text(json.dumps(ended), encoding="utf-8")
        os.replace(str(temporary), str(path))
    return 0 if reason == "exit" else 1


def _die_with_me() -> None:
    """Should the supervisor itself be killed, the kernel kills the job (Linux)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def _variables(job: Dict[str, Any]) -> Dict[str, str]:
    """The job's environment variables: those of this process, those of the job file, and the folders in front of PATH and PYTHONPATH."""
    given = job.get("environment", {})
    variables = dict(os.environ)
    variables.update(given.get("variables", {}))
    if given.get("path"):
        variables["PATH"] = os.pathsep.join([*given["path"], variables.get("PATH", os.defpath)])
    library = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join([library, *given.get("paths", [])])
    return variables


class _Watch:
    """Looks at a job and at stdin until one of them ends the other."""

    def __init__(self, child: subprocess.Popen[bytes], limits: Dict[str, Any], started: float) -> None:
        self.child = child
        self.limit_mb = limits.get("memory_mb")  # type: Optional[float]
        self.deadline = started + float(limits.get("seconds", 1e9))
        self.heartbeat = float(limits.get("heartbeat") or 1e9)
        self.heard = started
        self.peak_mb = None  # type: Optional[float]

    def until_over(self) -> str:
        """The reason: see the module."""
        look = 0.0
        while self.child.poll() is None:
            now = time.monotonic()
            if now > self.deadline:
                return "timeout"
            if now >= look:
                look = now + MEMORY_POLL
                memory = session_memory_mb(self.child.pid)
                if memory is not None:
                    self.peak_mb = max(memory, self.peak_mb or 0.0)
                    if self.limit_mb is not None and memory > self.limit_mb:
                        return "memory"
            if not self._wanted(now):
                return "cancelled"
        return "exit"

    def _wanted(self, now: float) -> bool:
        readable, _, _ = select.select([0], [], [], POLL)
        if readable:
            if not os.read(0, 4096):
                return False
            self.heard = now
        return now - self.heard <= self.heartbeat


def session_pids(session: int) -> List[int]:
    """The processes of a session, from /proc; empty where there is none."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            try:
                with open("/proc/{}/stat".format(name), "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != b"Z":
                found.append(int(name))
    return found


def session_memory_mb(session: int) -> Optional[float]:
    """Resident memory of all processes of a session in MB (10^6 bytes), a page that k of them share counted 1/k in each; None off Linux."""
    total, seen = 0, False
    for pid in session_pids(session):
        try:
            with open("/proc/{}/smaps_rollup".format(pid), "rb") as file:
                kilobytes = [int(line.split()[1]) for line in file if line.startswith(b"Pss:")]
            total += 1024 * kilobytes[0]
            seen = True
        except (OSError, IndexError):
            try:
                with open("/proc/{}/statm".format(pid), "rb") as file:
                    total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                seen = True
            except (OSError, IndexError):
                continue
    return round(total / 1e6, 1) if seen else None


def oom_kills() -> int:
    """How many processes the kernel killed so far for the memory limit of the container that this is in; 0 outside of one."""
    for file in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(file, "rb") as lines:
                return sum(int(line.split()[1]) for line in lines if line.startswith(b"oom_kill "))
        except (OSError, ValueError):
            continue
    return 0


def end_session(session: int) -> None:
    """Kill every process of a session; one that forks while it is killed is caught by the next look."""
    try:
        os.killpg(session, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass
    for _ in range(20):
        pids = session_pids(session)
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
