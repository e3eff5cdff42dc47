"""Starts a job in another environment and brings its answer back.

The environment is an interpreter; the job runs in a process group of its own, so a timeout, a cancelled task or its own end
takes its children along. What it prints goes line by line to `log`, while it runs.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Optional

from qatladder import errors
from qatladder.runner import failures
from qatladder.runner.__main__ import PROTOCOL, write_json

LIBRARY = Path(__file__).resolve().parents[2]
"""The folder that holds the `qatladder` package; goes first on the job's PYTHONPATH."""

_WITHHELD = re.compile(
    r"^(_?AIRFLOW|COVERAGE|AWS_)|PASSWORD|SECRET|TOKEN|FERNET|CREDENTIAL|^QATLADDER_ALERTS$",
    re.IGNORECASE,
)
"""Settings and secrets of the scheduler: no variable of such a name is inherited by a model's code."""

_POLL = 0.1
"""Seconds between two looks at a job that prints nothing."""


@dataclass(frozen=True)
class Environment:
    """Where jobs run.

    Attributes:
        name: as zoo entries name it.
        python: the interpreter.
        variables: set in the job's process, on top of the inherited ones. Secrets of the scheduler are not inherited (AIRFLOW..., AWS_...,
            and whatever has PASSWORD, SECRET, TOKEN, FERNET or CREDENTIAL in its name), so an adapter that reads its data from S3 gets
            its AWS_... variables here.
        paths: further PYTHONPATH entries.
    """

    name: str
    python: Path
    variables: Dict[str, str] = field(default_factory=dict)
    paths: List[Path] = field(default_factory=list)


@dataclass(frozen=True)
class JobAnswer:
    """What a job returned: its value, where it ran, and how long it took in seconds."""

    value: Any
    environment: Dict[str, str]
    seconds: float


def run_job(
    environment: Environment,
    call: str,
    args: Dict[str, Any],
    folder: Path,
    timeout: float = 1800.0,
    log: Optional[Callable[[str], None]] = None,
    if_slow: str = "raise `timeout_minutes` in the zoo entry if the model is just slow",
    **where: Any,
) -> JobAnswer:
    """Run `call(**args)` in an environment.

    Args:
        environment: where.
        call: `package.module:function` inside qatladder.
        args: JSON-able keyword arguments; tensors as paths of .npy files.
        folder: the job's own folder (job.json, result.json); created when missing, emptied of old results.
        timeout: seconds in total; then the process group is killed.
        log: receives each line the job prints, in the calling thread.
        if_slow: what to do about a job that only needs more time; part of the next step of a timeout.
        **where: the model, rung ... named in errors.
    Raises:
        RunnerError (or the product error the job raised): the model's own code failed; see `qatladder.runner.failures`.
        BrokenError: the environment is missing or incomplete, the job was killed, ran out of time, memory or disk, or met a bug of ours.
    """
    if not Path(environment.python).exists() and shutil.which(str(environment.python)) is None:
        raise errors.BrokenError(
            "the environment's interpreter does not exist",
            kind="environment_missing",
            environment=environment.name,
            file=environment.python,
            next_step="install the environment, or correct its `python` in the environments of the zoo",
            **where,
        )
    folder.mkdir(parents=True, exist_ok=True)
    result_file = folder / "result.json"
    if result_file.exists():
        result_file.unlink()
    write_json(folder / "job.json", {"protocol": PROTOCOL, "call": call, "args": args})
    variables = {name: value for name, value in os.environ.items() if not _WITHHELD.search(name)}
    variables.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    variables.update(environment.variables)
    variables["PYTHONPATH"] = os.pathsep.join([str(LIBRARY)] + [str(path) for path in environment.paths])
    tail: Deque[str] = deque(maxlen=40)

    def tell(line: str) -> None:
        tail.append(line)
        if log is not None:
            log(line)

    with tempfile.TemporaryDirectory(prefix="qatladder-job-") as scratch:
        process = subprocess.Popen(
            [str(environment.python), "-m", "qatladder.runner", str((folder / "job.json").resolve())],
            cwd=scratch,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
        code = _follow(process, timeout, tell)
    if code is None:
        raise errors.BrokenError(
            "the job did not finish in {:.0f} s and was ended".format(timeout),
            kind="timeout",
            console="\n".join(tail),
            call=call,
            next_step="look at the last lines of the log; " + if_slow,
            **where,
        )
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kind, next_step = failures.of_console("\n".join(tail))
        raise errors.BrokenError(
            "the job's process died (exit code {}) without a result".format(code),
            kind=kind,
            console="\n".join(tail),
            call=call,
            last_line=tail[-1] if tail else "",
            next_step=next_step,
            **where,
        ) from None
    if not result["ok"]:
        raise failures.raised(result["error"], call, environment.name, where)
    return JobAnswer(result["value"], result["environment"], result["seconds"])


def _follow(process: subprocess.Popen[bytes], timeout: float, tell: Callable[[str], None]) -> Optional[int]:
    """Pass on what a process prints until the process itself ends, then end what it left behind.

    A child it leaves behind may hold its stdout open for ever, so the end of the stream is not waited for.

    Returns:
        The exit code; None when the time ran out.
    """
    pipe = process.stdout
    assert pipe is not None
    os.set_blocking(pipe.fileno(), False)
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(errors="replace"), translate=True)
    pending = ""

    def read(final: bool = False) -> Optional[bytes]:
        """Pass on the whole lines of what can be read now; None when there is nothing now, b"" when there never will be."""
        nonlocal pending
        chunk: Optional[bytes] = pipe.read(65536)
        *lines, pending = (pending + decoder.decode(chunk or b"", final=final)).split("\n")
        if final and pending:
            lines.append(pending)
        for line in lines:
            tell(line)
        return chunk

    deadline = time.monotonic() + timeout
    with pipe:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                open_ended = True
                while process.poll() is None and time.monotonic() < deadline:
                    if not open_ended:
                        _wait(process, _POLL)
                    elif selector.select(_POLL):
                        open_ended = read() != b""
            code = process.poll()
        finally:
            _kill_group(process.pid)
            process.wait()
        for _ in range(64):  # what the pipe holds; bounded, because a child in a session of its own may still be printing
            if not read():
                break
        read(final=True)
    return code


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass
