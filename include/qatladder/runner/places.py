"""Where a job runs: an interpreter of this machine, a container, or a toolchain server over SSH.

A place makes what the job reads visible there, says which command starts `supervise.py`, and brings back what the job wrote.
The job itself sees no difference. Which paths are which follows from the arguments alone: the job writes into the folders
called `out`, `out_dir` or `folder` and into its own; every other absolute path that exists is read. An adapter is read with
its whole folder, and with the zoo's, because it imports its neighbours.

Python 3.8, standard library only; containers need `docker` or a program with its command line, servers need `ssh`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple, Union

from qatladder import errors

LIBRARY = Path(__file__).resolve().parents[2]
"""The folder that holds the `qatladder` package; goes first on the job's PYTHONPATH."""

_WRITTEN = frozenset({"out", "out_dir", "folder"})
"""The arguments that name folders a job writes into."""

_SUPERVISE = "qatladder/runner/supervise.py"


@dataclass(frozen=True)
class Container:
    """A container of an image the user has; the job's folders are mounted under their own names, inputs read-only.

    Attributes:
        image: as the engine knows it.
        engine: `docker`, or a program with the same command line (`podman`, `nerdctl`).
        options: further options of `run`, such as `--gpus=all` or `--volume=/data:/data:ro`.
    """

    image: str
    engine: str = "docker"
    options: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """A machine with the toolchain, reached by OpenSSH's client with keys or an agent (never a password).

    Attributes:
        host: destination as `ssh` takes it: a name of ~/.ssh/config, or user@host.
        options: further options of `ssh`, such as `-p` `2222`.
        folder: where jobs and a store of files by content are kept there; relative to the home folder.
        shared: folders both machines have under the same name (a network share): never copied.
    """

    host: str
    options: Tuple[str, ...] = ()
    folder: str = ".qatladder"
    shared: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """How a job is started, and what to do when it is over.

    Attributes:
        command: starts the supervisor; ends when the job does.
        home: text of this machine for text of the job's place, applied to what it prints and returns.
        collect: brings back what the job wrote; called when `command` has ended in any way.
    """

    command: List[str]
    home: Callable[[str], str] = lambda text: text
    collect: Callable[[], None] = lambda: None


def read_and_written(args: Dict[str, Any], folder: Path) -> Tuple[Set[Path], Set[Path]]:
    """The absolute paths a job reads, and the folders it writes into; see the module."""
    reads: Set[Path] = set()
    writes: Set[Path] = {folder}

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif _is_path(value) and Path(value).exists():
            reads.add(Path(value))

    for name, value in args.items():  # what these names mean further down, in an adapter's options, is the adapter's business
        if name in _WRITTEN and _is_path(value):
            writes.add(Path(value))
        elif name == "adapter" and _is_path(value):
            reads.add(Path(value.rpartition(":")[0]).parent)
        else:
            visit(value)
    return reads, writes


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and value != "/" and "\n" not in value and len(value) < 4096


def plain(value: Any) -> Any:
    """The same arguments without `..` in their absolute paths, past links as the system goes: a place lays files out by their names."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return os.path.realpath(value) if _is_path(value) and ".." in Path(value).parts else value


def shared_of(place: Union[Container, Server]) -> List[Path]:
    """Folders that have the same name here and there without anybody's doing."""
    return [Path(folder) for folder in place.shared] if isinstance(place, Server) else []


def within(path: Path, folders: Any) -> bool:
    """Whether a path is one of these, or below one."""
    return any(folder == path or folder in path.parents for folder in map(Path, folders))


@contextmanager
def local(python: Path, job_file: Path) -> Iterator[Started]:
    """An interpreter of this machine."""
    yield Started([str(python), "-I", str(LIBRARY / _SUPERVISE), str(job_file)])


# ------------------------------------------------------------------ containers


@contextmanager
def container(
    place: Container, python: str, job_file: Path, args: Dict[str, Any], memory_mb: Optional[int], where: Dict[str, Any]
) -> Iterator[Started]:
    """A container that goes when the job does, whichever way this process ends."""
    if shutil.which(place.engine) is None:
        raise errors.BrokenError(
            "the container engine's program is not on PATH",
            "install it on this machine, or correct `engine` of the environment",
            kind="environment_missing",
            found=place.engine,
            **where,
        )
    reads, writes = read_and_written(args, job_file.parent)
    library = "/opt/qatladder-library"
    mounts = ["--mount", _bind(LIBRARY / "qatladder", library + "/qatladder", readonly=True)]
    for folder in sorted(writes):
        folder.mkdir(parents=True, exist_ok=True)
        if not within(folder.parent, writes):
            mounts += ["--mount", _bind(folder, str(folder), readonly=False)]
    for path in sorted(reads):
        if not within(path, writes) and not within(path.parent, reads):
            mounts += ["--mount", _bind(path.resolve(), str(path), readonly=True)]
        elif not within(path.resolve(), [item.resolve() for item in [*reads.difference([path]), *writes]]):
            mounts += ["--mount", _bind(path.resolve(), str(path.resolve()), readonly=True)]  # a link out of a folder that is mounted
    name = "qatladder-" + uuid.uuid4().hex[:16]
    memory = ["--memory", "{}m".format(memory_mb * 1000 // 1024 + 64), "--memory-swap", "-1"] if memory_mb else []
    user = ["--user", "{}:{}".format(os.getuid(), os.getgid()), "--env", "HOME=/tmp"]
    run = [place.engine, "run", "--rm", "--interactive", "--init", "--name", name, "--workdir", "/tmp", *user, *memory, *mounts]
    single_thread = ["--env", "PYTHONUNBUFFERED=1", "--env", "PYTHONDONTWRITEBYTECODE=1"]
    inside = [python, "-I", library + "/" + _SUPERVISE, str(job_file)]
    try:
        yield Started([*run, *single_thread, *place.options, place.image, *inside])
    finally:
        subprocess.run([place.engine, "rm", "--force", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _bind(source: Path, target: str, readonly: bool) -> str:
    for text in (str(source), target):
        if "," in text or '"' in text:
            raise errors.ConfigError("a path with a comma or a quote cannot be mounted into a container", file=text, next_step="rename it")
    return "type=bind,source={},target={}{}".format(source, target, ",readonly" if readonly else "")


# ------------------------------------------------------------------ servers

MAX_CARGO = 20_000_000_000
"""Bytes of one job's inputs: models and tensors are far below, a data set that somebody named by its path is beyond."""

STAGE_SECONDS = 3600.0
"""How long files may travel at most, one way."""

_WHOLE = "qatladder-whole"
"""Last member of what comes back; see `stage.py`."""

_STAGE = Path(__file__).with_name("stage.py")
_ENTER = "import sys; exec(sys.stdin.buffer.read(int(sys.argv[1])))"


class _Link:
    """Runs programs on a server; one authentication per job, the connection is shared by OpenSSH's multiplexing."""

    def __init__(self, place: Server, python: str, sockets: str, where: Dict[str, Any]) -> None:
        self.place, self.python, self.where = place, python, where
        self.ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        self.ssh += ["-o", "ControlMaster=auto", "-o", "ControlPath={}/c".format(sockets), "-o", "ControlPersist=20"]
        self.ssh += [*place.options]

    def command(self, *argv: str) -> List[str]:
        return [*self.ssh, self.place.host, " ".join(shlex.quote(item) for item in argv)]

    def stage(self, verb: str, request: Dict[str, Any]) -> subprocess.Popen[bytes]:
        """Start `stage.py` there and hand it its request; stdin and stdout stay open."""
        script = _STAGE.read_bytes() + b"\n"
        process = subprocess.Popen(
            self.command(self.python, "-I", "-c", _ENTER, str(len(script)), verb),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        threading.Thread(target=_end_late, args=(process,), daemon=True).start()
        assert process.stdin is not None
        try:
            process.stdin.write(script + json.dumps({"root": self.place.folder, **request}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` says why
        return process

    def answer(self, process: subprocess.Popen[bytes]) -> Dict[str, Any]:
        """One line of JSON from `stage.py`.

        Raises:
            BrokenError: the server cannot be reached, has no such interpreter, or its disk is full.
        """
        assert process.stdout is not None
        said: List[bytes] = []
        while True:
            line = process.stdout.readline()
            if not line:
                raise self.failure(process, b"".join(said)) from None
            said.append(line)  # a login shell may greet first
            try:
                value: Dict[str, Any] = json.loads(line)
                break
            except ValueError:
                continue
        if "error" in value:
            process.kill()
            full, changed = "No space" in value["error"], "changed while" in value["error"] or "middle of a file" in value["error"]
            raise errors.BrokenError(
                "the toolchain server could not take the job: " + value["error"],
                "run this rung again" if changed else "see to the server's disk and the folder of the environment there",
                kind="artifact_changed" if changed else "disk_full" if full else "disk",
                **self.where,
            )
        return value

    def failure(self, process: subprocess.Popen[bytes], line: bytes = b"") -> errors.BrokenError:
        """What to raise for an `ssh` that ended without an answer."""
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
        noise = process.stderr.read() if process.stderr is not None else b""
        code = process.wait()
        said = [text for text in (line + noise).decode("utf-8", "replace").splitlines() if text.strip()]
        last = said[-1].strip() if said else ""
        kind, step = "unreachable", "check with: ssh {} true".format(" ".join([*self.place.options, self.place.host]))
        if code not in (255, -9):  # what ssh itself has to say it says with 255
            kind, step = "environment_missing", "correct `python` of the environment: it is a path on the server, of Python 3.8 or later"
        elif "Permission denied" in last:
            kind = "auth"
        elif any("Host key verification failed" in text or "REMOTE HOST IDENTIFICATION" in text for text in said):
            kind = "host_key"
        return errors.BrokenError(
            "the toolchain server gave no answer",
            step,
            kind=kind,
            console="\n".join(said[-20:]),
            host=self.place.host,
            found=last or "nothing",
            **self.where,
        )


def _end_late(process: subprocess.Popen[bytes]) -> None:
    """Kill a transfer that takes longer than any should."""
    try:
        process.wait(STAGE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


@dataclass
class _Cargo:
    """What travels to a server: files by content, under the paths they shall have there."""

    files: List[Tuple[str, Path, str, int, int]] = field(default_factory=list)
    folders: List[str] = field(default_factory=list)
    size: int = 0

    def add(self, target: str, source: Path, above: Tuple[Path, ...] = ()) -> None:
        """A file, or a folder with all that is in it except caches, hidden files, and links back to a folder it is in."""
        if source.is_dir():
            real = source.resolve()
            if real in above:
                return
            self.folders.append(target)
            for path in sorted(source.iterdir()):
                if path.name != "__pycache__" and not path.name.startswith("."):
                    self.add(target + "/" + path.name, path, (*above, real))
        elif source.is_file():
            self.size += source.stat().st_size
            if self.size > MAX_CARGO:
                raise errors.ConfigError(
                    "a job reads too much to be copied to a toolchain server",
                    "name the data set's folder, the same on both machines, under `shared` of the environment's server",
                    file=source,
                    expected="at most {:.0f} GB".format(MAX_CARGO / 1e9),
                )
            digest = hashlib.sha256()
            with open(str(source), "rb") as file:
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
            found = source.stat()
            self.files.append((target, source, digest.hexdigest(), found.st_size, 0o755 if found.st_mode & 0o100 else 0o644))


@contextmanager
def server(
    place: Server, python: str, job_file: Path, args: Dict[str, Any], log: Callable[[str], None], where: Dict[str, Any]
) -> Iterator[Started]:
    """A machine over SSH. Files go there once, by content; a lost connection ends the job there."""
    if shutil.which("ssh") is None:
        raise errors.BrokenError(
            "OpenSSH's client is not on PATH", "install openssh-client on this machine", kind="environment_missing", **where
        )
    folder = job_file.parent
    reads, writes = read_and_written(args, folder)
    shared = [path for path in reads | writes if within(path, place.shared) and not within(path, [folder])]
    reads, writes = reads.difference(shared), {path for path in writes.difference(shared) if not within(path.parent, writes)}
    cargo = _Cargo(folders=["files" + str(path) for path in sorted(writes)])
    for path in sorted(reads):
        if not within(path.parent, reads):
            cargo.add("files" + str(path), path)
    for package in ("errors.py", "__init__.py", "numerics", "runner", "toolchains"):
        cargo.add("library/qatladder/" + package, LIBRARY / "qatladder" / package)
    name = "{}-{}".format(folder.name, uuid.uuid4().hex[:12])
    with tempfile.TemporaryDirectory(prefix="ql-", dir="/tmp") as sockets:  # a socket's path may have 108 bytes at most
        link = _Link(place, python, sockets, where)
        try:
            root = _send(link, name, cargo, log)
            there = root + "/files"
            _write_job(link, name, job_file, there, [str(path) for path in reads | writes])
            yield Started(
                link.command(python, "-I", root + "/library/" + _SUPERVISE, there + str(job_file)),
                home=lambda text: text.replace(there + "/", "/"),
                collect=lambda: _collect(link, name, folder, writes),
            )
        finally:
            end = [*link.ssh, "-O", "exit", place.host]
            forgetting = link.stage("forget", {"job": name})
            try:
                forgetting.communicate(timeout=30)
            except (subprocess.TimeoutExpired, OSError):
                forgetting.kill()
                forgetting.wait()
            subprocess.run(end, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _send(link: _Link, name: str, cargo: _Cargo, log: Callable[[str], None]) -> str:
    """Everything the job reads, to the server; returns the job's folder there, absolute."""
    rows = [[target, digest, size, mode] for target, _, digest, size, mode in cargo.files]
    process = link.stage("put", {"job": name, "files": rows, "folders": cargo.folders})
    missing = list(link.answer(process)["missing"])
    by_digest = {digest: (source, size) for _, source, digest, size, _ in cargo.files}
    if missing:
        total = sum(by_digest[digest][1] for digest in missing)
        log("to {}: {} of {} files are new there, {:.1f} MB".format(link.place.host, len(missing), len(by_digest), total / 1e6))
    assert process.stdin is not None
    try:
        for digest in missing:
            with open(str(by_digest[digest][0]), "rb") as file:
                shutil.copyfileobj(file, process.stdin, 1 << 20)
        process.stdin.close()  # a file that became shorter leaves nobody waiting for the rest
    except BrokenPipeError:
        pass  # `answer` says why
    process.stdin = None
    done = link.answer(process)
    process.communicate()
    return str(done["folder"])


def _write_job(link: _Link, name: str, job_file: Path, there: str, paths: List[str]) -> None:
    """The job file as the server shall read it: with the paths things have there."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, str) and any(value == path or value.startswith(path + "/") for path in paths):
            return there + value
        return value

    job = json.loads(job_file.read_text(encoding="utf-8"))
    job["args"] = moved(job["args"])
    if "watch" in job:
        job["watch"] = [there + folder for folder in job["watch"]]
    job["limits"]["heartbeat"] = 60
    process = link.stage("job", {"job": name, "file": "files" + str(job_file), "content": job})
    link.answer(process)
    process.communicate()


def _collect(link: _Link, name: str, folder: Path, writes: Set[Path]) -> None:
    """What the job wrote, from the server: complete or not at all; the job's own result last."""
    incoming = folder / "incoming"
    shutil.rmtree(str(incoming), ignore_errors=True)
    process = link.stage("get", {"job": name, "folders": ["files" + str(path) for path in sorted(writes)], "own": "files" + str(folder)})
    link.answer(process)
    assert process.stdout is not None
    arrived: List[Tuple[Path, Path]] = []
    whole = False
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            for member in tar:
                whole = member.name == _WHOLE
                target = Path("/" + member.name)
                if whole or ".." in target.parts or not member.isfile() or not within(target, writes):
                    continue
                content = tar.extractfile(member)
                assert content is not None
                incoming.mkdir(parents=True, exist_ok=True)
                part = incoming / str(len(arrived))
                with open(str(part), "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                arrived.append((part, target))
        if not whole:
            raise EOFError
        for part, target in arrived:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(str(part), str(target))
    except (tarfile.TarError, EOFError):
        raise errors.BrokenError(
            "what the job wrote did not come back whole from the toolchain server",
            "run this rung again",
            kind="connection",
            console=(process.stderr.read().decode("utf-8", "replace") if process.stderr is not None and process.wait() is not None else ""),
            host=link.place.host,
            **link.where,
        ) from None
    except OSError as error:
        raise errors.BrokenError(
            "what the job wrote cannot be kept here: {}".format(error),
            "free space in the data folder, then run this rung again",
            kind="disk_full" if error.errno == errno.ENOSPC else "disk",
            **link.where,
        ) from error
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(str(incoming), ignore_errors=True)
