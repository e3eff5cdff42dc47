"""Starts a job in another environment and brings its answer back.

The environment is an interpreter; the job runs in a process group of its own, so a timeout or a cancelled task takes
its children along. What it prints goes line by line to `log`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Optional

from qatladder import errors
from qatladder.runner.__main__ import PROTOCOL, write_json

LIBRARY = Path(__file__).resolve().parents[2]
"""The folder that holds the `qatladder` package; goes first on the job's PYTHONPATH."""


@dataclass(frozen=True)
class Environment:
    """Where jobs run.

    Attributes:
        name: as zoo entries name it.
        python: the interpreter.
        variables: set in the job's process, on top of the inherited ones.
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
    **where: Any,
) -> JobAnswer:
    """Run `call(**args)` in an environment.

    Args:
        environment: where.
        call: `package.module:function` inside qatladder.
        args: JSON-able keyword arguments; tensors as paths of .npy files.
        folder: the job's own folder (job.json, result.json); created when missing, emptied of old results.
        timeout: seconds in total; then the process group is killed.
        log: receives each line the job prints.
        **where: the model, rung ... named in errors.
    Raises:
        RunnerError (or the product error the job raised): the job's code failed.
        BrokenError: the environment is missing, the job was killed, or it ran out of time.
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
    variables = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    for name in [key for key in variables if key.startswith(("AIRFLOW", "_AIRFLOW", "COVERAGE"))]:
        del variables[name]  # no secret and no setting of the scheduler reaches a model's code
    variables.update(environment.variables)
    variables["PYTHONPATH"] = os.pathsep.join([str(LIBRARY)] + [str(path) for path in environment.paths])
    tail: Deque[str] = deque(maxlen=40)
    with tempfile.TemporaryDirectory(prefix="qatladder-job-") as scratch:
        process = subprocess.Popen(
            [str(environment.python), "-m", "qatladder.runner", str((folder / "job.json").resolve())],
            cwd=scratch,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            universal_newlines=True,
            errors="replace",
        )
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            _kill_group(process.pid)

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                if log is not None:
                    log(line.rstrip("\n"))
            code = process.wait()
        except BaseException:
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            timer.cancel()
    if timed_out.is_set():
        raise errors.BrokenError(
            "the job did not finish in {:.0f} s and was ended".format(timeout),
            kind="timeout",
            console="\n".join(tail),
            call=call,
            next_step="look at the last lines of the log; raise the timeout if the model is just slow",
            **where,
        )
    try:
        result = json.loads(result_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise errors.BrokenError(
            "the job's process died (exit code {}) without a result".format(code),
            kind="killed",
            console="\n".join(tail),
            call=call,
            last_line=tail[-1] if tail else "",
            next_step="exit code -9 is usually the memory limit; look at the last lines of the log",
            **where,
        ) from None
    if not result["ok"]:
        raise _error_of(result["error"], call, where)
    return JobAnswer(result["value"], result["environment"], result["seconds"])


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _error_of(error: Dict[str, Any], call: str, where: Dict[str, Any]) -> errors.QATLadderError:
    """The exception of the job, as the same product type when it was one of ours."""
    merged = dict(where)
    merged.update(error.get("where") or {})
    kind = getattr(errors, error["type"], None)
    if isinstance(kind, type) and issubclass(kind, errors.BrokenError):
        return kind(error["message"], error["next_step"], kind=error.get("kind") or "infrastructure", **merged)
    if isinstance(kind, type) and issubclass(kind, errors.QATLadderError):
        return kind(error["message"], error["next_step"], **merged)
    last_frame = [line.strip() for line in error["traceback"].splitlines() if line.strip().startswith("File ")]
    return errors.RunnerError(
        "{}: {}".format(error["type"], error["message"]),
        error["next_step"] or "the full traceback is in the task log",
        call=call,
        at=last_frame[-1] if last_frame else "",
        **merged,
    )
