"""Starts a job in another environment and brings its answer back.

An environment is an interpreter of this machine, or one in a container, or one on a toolchain server over SSH
(`qatladder.runner.places`). The job runs under a supervisor (`qatladder.runner.supervise`), so a timeout, its memory limit, a
cancelled task, a killed worker or its own end takes its children along. What it prints goes line by line to `log`, while it runs.
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
from typing import Any, Callable, ContextManager, Deque, Dict, List, Optional, Sequence, Union

from qatladder import errors
from qatladder.runner import failures, places
from qatladder.runner.__main__ import PROTOCOL, write_json
from qatladder.runner.once import Once
from qatladder.runner.places import LIBRARY, Container, Server, Started
from qatladder.runner.seen import listing_of

__all__ = ["LIBRARY", "Environment", "JobAnswer", "ask_once", "run_job"]

_WITHHELD = re.compile(
    r"^(_?AIRFLOW|COVERAGE|AWS_)|PASSWORD|SECRET|TOKEN|FERNET|CREDENTIAL|^QATLADDER_ALERTS$",
    re.IGNORECASE,
)
"""Settings and secrets of the scheduler: no variable of such a name is inherited by a model's code."""

_POLL = 0.1
"""Seconds between two looks at a job that prints nothing."""

_BEAT = 10.0
"""Seconds between two signs of life to a job's supervisor."""

_GRACE = 15.0
"""Seconds the supervisor has to end a job at its deadline before it is ended itself."""


_START = 900.0
"""Seconds a container or a server may take to start a job, such as for pulling an image; the job's own time counts from its start."""


@dataclass(frozen=True)
class Environment:
    """Where jobs run.

    Attributes:
        name: as zoo entries name it.
        python: the interpreter, in the place where it is.
        variables: set in the job's process, on top of the inherited ones (a container and a server inherit none). Secrets of the
            scheduler are not inherited (AIRFLOW..., AWS_..., and whatever has PASSWORD, SECRET, TOKEN, FERNET or CREDENTIAL in its
            name), so an adapter that reads its data from S3 gets its AWS_... variables here.
        paths: further PYTHONPATH entries, in that place.
        path: folders in front of PATH, in that place.
        memory_mb: what a job and its children may hold together, in MB (10^6 bytes); None for no limit.
        place: None for this machine.
    """

    name: str
    python: Path
    variables: Dict[str, str] = field(default_factory=dict)
    paths: List[Path] = field(default_factory=list)
    path: List[Path] = field(default_factory=list)
    memory_mb: Optional[int] = None
    place: Optional[Union[Container, Server]] = None

    def describe(self) -> str:
        """Where it is, in a few words."""
        if isinstance(self.place, Container):
            return "{} in the image {} ({})".format(self.python, self.place.image, self.place.engine)
        if isinstance(self.place, Server):
            return "{} on {}".format(self.python, self.place.host)
        return str(self.python)


@dataclass(frozen=True)
class JobAnswer:
    """What a job returned.

    Attributes:
        value: plain JSON data.
        environment: interpreter, versions of the imported packages, and `sha256` of all that is installed.
        seconds: of the call.
        peak_memory_mb: of all its processes together; None where it cannot be read.
        seen: what it read besides what it was given, as `qatladder.runner.seen` reports it, in paths of this machine; None: not watched.
    """

    value: Any
    environment: Dict[str, str]
    seconds: float
    peak_memory_mb: Optional[float] = None
    seen: Optional[Dict[str, Any]] = None


def run_job(
    environment: Environment,
    call: str,
    args: Dict[str, Any],
    folder: Path,
    timeout: float = 1800.0,
    log: Optional[Callable[[str], None]] = None,
    if_slow: str = "raise `timeout_minutes` in the zoo entry if the model is just slow",
    reads: Sequence[Path] = (),
    watch: Optional[Sequence[Path]] = None,
    **where: Any,
) -> JobAnswer:
    """Run `call(**args)` in an environment.

    Args:
        environment: where.
        call: `package.module:function` inside qatladder.
        args: JSON-able keyword arguments; tensors as paths of .npy files. The folders named `out`, `out_dir` or `folder` are written.
        folder: the job's own folder (job.json, result.json, ended.json); created when missing, emptied of old results.
        timeout: seconds in total; then the job and all it started is killed.
        log: receives each line the job prints, in the calling thread.
        if_slow: what to do about a job that only needs more time; part of the next step of a timeout.
        reads: folders the job reads beside what its arguments name, such as the zoo with the adapter's neighbours.
        watch: note what it reads, but for what is in these folders; None: do not.
        **where: the model, rung ... named in errors.
    Raises:
        RunnerError (or the product error the job raised): the model's own code failed; see `qatladder.runner.failures`.
        BrokenError: the environment is missing or incomplete, the job was killed, ran out of time, memory or disk, its server cannot
            be reached, or it met a bug of ours.
    """
    folder = folder.resolve()
    args = places.plain(args)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "ended.json"):
        if (folder / name).exists():
            (folder / name).unlink()
    write_json(
        folder / "job.json",
        {
            "protocol": PROTOCOL,
            "call": call,
            "args": args,
            "limits": {"seconds": timeout, "memory_mb": environment.memory_mb},
            "environment": {
                "variables": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **environment.variables},
                "path": [str(path) for path in environment.path],
                "paths": [str(path) for path in environment.paths],
            },
            **({} if watch is None else {"watch": [str(path) for path in watch]}),
        },
    )
    tail: Deque[str] = deque(maxlen=40)
    home: Callable[[str], str] = lambda text: text  # noqa: E731

    def tell(line: str) -> None:
        line = home(line)
        tail.append(line)
        if log is not None:
            log(line)

    given = {**args, "reads": [str(path) for path in reads]}
    known = set().union(*places.read_and_written(given, folder))
    with _started(environment, folder / "job.json", given, tell, where) as started:
        home = started.home
        try:
            process = subprocess.Popen(
                started.command,
                cwd=str(folder),
                env=_inherited() if environment.place is None else None,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise errors.BrokenError(
                "the environment cannot be started: {}".format(error),
                "correct its `python` in the environments of the zoo",
                kind="environment_missing",
                environment=environment.name,
                **where,
            ) from None
        code = _follow(process, timeout + (_GRACE if environment.place is None else _START), tell)
        started.collect()
    ended = _read(folder / "ended.json") or {"reason": "timeout" if code is None else "exit", "code": code}
    if code is None and ended["reason"] == "cancelled":  # by this process, at its own deadline
        ended["reason"] = "timeout"
    console = "\n".join(tail)
    if ended["reason"] == "timeout":
        raise errors.BrokenError(
            "the job did not finish in {:.0f} s and was ended".format(timeout),
            kind="timeout",
            console=console,
            call=call,
            next_step="look at the last lines of the log; " + if_slow,
            **where,
        )
    if ended["reason"] == "memory":
        raise errors.BrokenError(
            "the job needs more memory than {}, all its environment {} allows, and was ended at {:.0f} MB".format(
                "{} MB".format(environment.memory_mb) if environment.memory_mb else "its container may have",
                environment.name,
                ended["peak_memory_mb"] or 0,
            ),
            kind="memory",
            console=console,
            call=call,
            next_step="a smaller `batch` of the adapter needs less; or raise `memory_gb` of the environment in zoo.yaml",
            **where,
        )
    result = _read(folder / "result.json")
    if result is None:
        kind, next_step = failures.of_console(console)
        died = "the job's process died (exit code {}) without a result".format(ended.get("code", code))
        if ended["reason"] == "cancelled":
            kind, died, next_step = "connection", "the job was ended because the connection to it was lost", "run this rung again"
        elif isinstance(environment.place, Server) and code == 255:
            kind, died, next_step = "unreachable", "the connection to the toolchain server was lost", "run this rung again"
        elif isinstance(environment.place, Container) and code in (125, 126, 127):
            kind, died = "environment_missing", "the container could not be started (exit code {})".format(code)
            next_step = "check `image`, `engine`, `options` and `python` of the environment: qatladder env check " + environment.name
        raise errors.BrokenError(
            died, kind=kind, console=console, call=call, last_line=tail[-1] if tail else "", next_step=next_step, **where
        )
    told = result.get("seen") or {}
    result = _moved(result, home)
    if not result["ok"]:
        raise failures.raised(result["error"], call, environment.name, where)
    seen = result.get("seen")
    if seen is not None and environment.place is not None:
        seen = _seen_from_here(seen, told, [*known, *places.shared_of(environment.place)])
    return JobAnswer(result["value"], result["environment"], result["seconds"], ended.get("peak_memory_mb"), seen)


_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc")
"""Folders of an image or a server that hold programs, not data."""


def _seen_from_here(seen: Dict[str, Any], told: Dict[str, Any], known: Sequence[Path]) -> Dict[str, Any]:
    """What a job read in another place, by paths of this machine. What is only there cannot be looked at again from here: it is `blind`.

    Args:
        told: the report in the place's own paths.
        known: folders and files that are the same here and there.
    """
    files, folders, blind = [], [], set(seen["blind"])
    for (path, state), (there, _) in zip(seen["files"] + seen["folders"], told["files"] + told["folders"]):
        if path != there or places.within(Path(path), known):
            if isinstance(state, str):
                folders.append([path, listing_of(path)])
            else:
                files.append([path, state])
        elif state is not None and not places.within(Path(path), _SYSTEM):
            blind.add("it reads {}, which is not of this machine".format(path))
    return {"files": files, "folders": folders, "blind": sorted(blind)}


def ask_once(environment: Environment, call: str, work: Path, timeout: float = 600.0) -> JobAnswer:
    """The answer of a job without arguments about an environment itself: what is installed there, say. Asked once per process.

    Args:
        work: where the job's folder is made; it goes again.
    Raises:
        As `run_job`.
    """

    def ask() -> JobAnswer:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="asked-", dir=str(work)) as folder:
            return run_job(environment, call, {}, Path(folder), timeout=timeout)

    return _ASKED((repr(environment), call), ask)


_ASKED: Once[JobAnswer] = Once()


def _started(
    environment: Environment, job_file: Path, args: Dict[str, Any], log: Callable[[str], None], where: Dict[str, Any]
) -> ContextManager[Started]:
    if isinstance(environment.place, Container):
        return places.container(environment.place, str(environment.python), job_file, args, environment.memory_mb, where)
    if isinstance(environment.place, Server):
        return places.server(environment.place, str(environment.python), job_file, args, log, where)
    if shutil.which(str(environment.python)) is None:
        raise errors.BrokenError(
            "the environment's interpreter does not exist, or cannot be run",
            kind="environment_missing",
            environment=environment.name,
            file=environment.python,
            next_step="install the environment, or correct its `python` in the environments of the zoo",
            **where,
        )
    return places.local(environment.python, job_file)


def _inherited() -> Dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not _WITHHELD.search(name)}
    variables.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
    return variables


def _read(path: Path) -> Optional[Dict[str, Any]]:
    try:
        value: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value


def _moved(value: Any, home: Callable[[str], str]) -> Any:
    """The paths of the job's place in a result, as paths of this machine."""
    if isinstance(value, dict):
        return {key: _moved(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, home) for item in value]
    return home(value) if isinstance(value, str) else value


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
    beat = 0.0
    with pipe:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                open_ended = True
                while process.poll() is None and time.monotonic() < deadline:
                    if time.monotonic() >= beat:
                        beat = time.monotonic() + _BEAT
                        _say(process, b"\n")
                    if not open_ended:
                        _wait(process, _POLL)
                    elif selector.select(_POLL):
                        open_ended = read() != b""
            code = process.poll()
        finally:
            _end(process)
        for _ in range(64):  # what the pipe holds; bounded, because a child in a session of its own may still be printing
            if not read():
                break
        read(final=True)
    return code


_LAST_WORD = 5.0
"""Seconds a supervisor has to end its job after its stdin was closed."""


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass


def _say(process: subprocess.Popen[bytes], sign: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(sign)
    except (BrokenPipeError, ValueError):
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the supervisor's stdin, so that it ends the job wherever that runs; then end it too."""
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    _wait(process, _LAST_WORD)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass
    process.wait()
