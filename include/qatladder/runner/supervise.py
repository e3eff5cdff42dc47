"""`python -I supervise.py JOB.json`: runs one job under its limits, and outlives neither the job nor whoever asked for it.

A process of its own, the same for an interpreter of this machine, a container and a toolchain server. It starts
`python -m qatladder.runner JOB.json` in a session of its own and an empty folder, and ends it with all it started when the job

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
import shutil
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
    adopt()
    scratch = Path(job_file).with_name("scratch")  # `python -m` looks for modules in the working folder first
    shutil.rmtree(str(scratch), ignore_errors=True)
    scratch.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-m", "qatladder.runner", job_file],
        cwd=str(scratch),
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
        end(child.pid)
        child.wait()
        shutil.rmtree(str(scratch), ignore_errors=True)
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
    _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _variables(job: Dict[str, Any]) -> Dict[str, str]:
    """The job's environment variables: those of this process, those of the job file, and the folders in front of PATH and PYTHONPATH."""
    given = job.get("environment", {})
    variables = dict(os.environ)
    variables.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
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
                memory = memory_mb(descendants(os.getpid()))
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


def descendants(pid: int) -> List[int]:
    """The processes a process started, and those they started, from /proc; empty where there is none. Zombies are left out."""
    children: Dict[int, List[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            try:
                with open("/proc/{}/stat".format(name), "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(name))
    found: List[int] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def memory_mb(pids: List[int]) -> Optional[float]:
    """Resident memory of processes in MB (10^6 bytes), a page that k of them share counted 1/k in each; None off Linux."""
    total, seen = 0, False
    for pid in pids:
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


def end(child: int) -> None:
    """Kill a job and whatever it started, in whatever session: orphans come to this process (see `adopt`)."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass
    for _ in range(50):
        pids = descendants(os.getpid())
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        time.sleep(0.01)


def adopt() -> None:
    """Become the parent of every orphan below this process (Linux), so that none leaves by a session of its own."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _prctl(option: int, value: int) -> None:
    try:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (OSError, AttributeError):
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
