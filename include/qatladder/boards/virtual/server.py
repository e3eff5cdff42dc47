"""The virtual board's server: SSH commands and SFTP on a loopback address, unprivileged, one folder for a file tree.

How a board's absolute paths reach that folder: SFTP is rooted in it; in the text of a command, `/userdata`, `/tmp`,
`/etc/profile` and `/sys/devices/system/bpu` at the start of a path are replaced by their place in it. A mount namespace would
be more faithful, but needs rights that containers and hardened kernels do not give; a script that is uploaded must therefore
use relative paths (ours and the vendor's do). The data folder's path is put into commands, so it must need no quoting.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

import qatladder
from qatladder.boards.fleet import BoardSpec, is_loopback
from qatladder.errors import BrokenError, ConfigError
from qatladder.settings import Settings

INCLUDE = Path(qatladder.__file__).resolve().parents[1]
BINDINGS = Path(__file__).with_name("bindings")
_MAPPED = re.compile(r"(?<![\w./~-])/(?=(?:userdata|tmp|etc/profile|sys/devices/system/bpu)(?:[^\w.-]|$))")

_TOOL = """#!/bin/sh
# hrt_model_exec of the virtual board {name}.
PYTHONPATH={include} PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 exec {python} -m qatladder.boards.virtual.hrt {march} {dialect} "$@"
"""
_PYTHON = """#!/bin/sh
# Python of the virtual board {name}, with a stand-in for the board's bindings.
PYTHONPATH={include}:{bindings} PYTHONDONTWRITEBYTECODE=1 QATLADDER_VIRTUAL_MARCH={march} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 exec {python} "$@"
"""
_SH = """#!/bin/sh
# A login shell on the board reads the board's profile, not the host's.
case "$1" in -l | --login) shift && . {root}/etc/profile ;; esac
exec /bin/sh "$@"
"""


@dataclass(frozen=True)
class Place:
    """Where a virtual board keeps its files: `<home>/boards/<name>/`."""

    folder: Path

    @property
    def root(self) -> Path:
        """What the board sees as /."""
        return self.folder / "root"

    @property
    def tools(self) -> Path:
        return self.root / "usr" / "bin"

    @property
    def path(self) -> str:
        """PATH of every command: the board's own tools first."""
        return f"{self.tools}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def map_paths(command: str, root: Path) -> str:
    """A command's text with the board's absolute paths turned into paths below `root`."""
    return _MAPPED.sub(lambda _: f"{root}/", command)


def prepare(board: BoardSpec, settings: Settings) -> Place:
    """Make the board's folder, file tree, tool and keys, as far as they are not there.

    Raises:
        ConfigError: not a virtual board, not a loopback address, or a data folder whose path needs quoting.
        BrokenError: kind `tool_missing` without the vendor environment.
    """
    if not board.virtual or not is_loopback(board.host):
        raise ConfigError("only a board with `virtual: true` and a loopback host can be served", board=board.name, host=board.host)
    place = Place(settings.home / "boards" / board.name)
    if not re.fullmatch(r"[\w./+-]+", str(place.folder)):
        raise ConfigError(
            "the data folder's path must consist of letters, digits and ._+-/ to hold virtual boards",
            found=place.folder,
            next_step="set QATLADDER_HOME to such a path",
        )
    if not settings.vendor or not settings.vendor_python.is_file():
        raise BrokenError(
            "the virtual board needs the vendor environment (simulator)",
            kind="tool_missing",
            file=settings.vendor_python,
            next_step="make setup, or set QATLADDER_VENDOR_PYTHON; QATLADDER_VENDOR must not be 0",
        )
    for folder in (place.tools, place.root / "userdata", place.root / "tmp", place.root / "root", place.root / "etc"):
        folder.mkdir(parents=True, exist_ok=True)
    place.folder.chmod(0o700)
    python = shlex.quote(str(settings.vendor_python.absolute()))
    words = {"name": board.name, "include": shlex.quote(str(INCLUDE)), "python": python, "march": board.march, "dialect": board.dialect}
    _write(place.tools / "hrt_model_exec", _TOOL.format(**words), 0o755)
    _write(place.tools / "python3", _PYTHON.format(bindings=shlex.quote(str(BINDINGS)), **words), 0o755)
    _write(place.tools / "sh", _SH.format(root=place.root), 0o755)
    _write(place.root / "etc" / "profile", f"export PATH={place.path}\n", 0o644)
    for name in ("host_key", "client_key"):
        if not (place.folder / name).is_file():
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"qatladder {board.name} {name}")
            _write(place.folder / name, key.export_private_key().decode(), 0o600)
            _write(place.folder / f"{name}.pub", key.export_public_key().decode(), 0o644)
    if not (place.folder / "authorized_keys").is_file():
        _write(place.folder / "authorized_keys", (place.folder / "client_key.pub").read_text(), 0o600)
    return place


def serve(board: BoardSpec, settings: Settings, port: int | None = None, host: str | None = None, password: str | None = None) -> None:
    """Serve a board in the foreground until SIGTERM or SIGINT.

    Args:
        port: overrides the fleet's; 0 takes a free one. The port in use is written to `<home>/boards/<name>/port`.
        host: overrides the fleet's; loopback only.
        password: also accept this password, which the vendor's hb_verifier needs; None: keys only.
    Raises:
        ConfigError, BrokenError: see `prepare`; kind `port_taken` when the port is in use or needs root.
    """
    place = prepare(board, settings)
    host = host or board.host
    if not is_loopback(host):
        raise ConfigError("a virtual board is served on a loopback address only", board=board.name, host=host)
    if password == "":
        raise ConfigError("an empty password would let everybody in", board=board.name)
    asyncio.run(_serve(board, place, host, board.port if port is None else port, password))


async def _serve(board: BoardSpec, place: Place, host: str, port: int, password: str | None) -> None:
    class Login(asyncssh.SSHServer):
        """The board's one user, by key, and by password where that was asked for."""

        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._conn = conn

        def begin_auth(self, username: str) -> bool:
            if username == board.user:
                self._conn.set_authorized_keys(str(place.folder / "authorized_keys"))
            return True

        def password_auth_supported(self) -> bool:
            return password is not None

        def validate_password(self, username: str, password_: str) -> bool:
            return password is not None and username == board.user and hmac.compare_digest(password_.encode(), password.encode())

    async def command(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await _run(process, place)

    try:
        server = await asyncssh.listen(
            host,
            port,
            server_factory=Login,
            server_host_keys=[str(place.folder / "host_key")],
            process_factory=command,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(place.root).encode()),
            allow_scp=True,
            encoding=None,
            family=socket.AF_INET,
        )
    except OSError as error:
        raise BrokenError(
            "the virtual board cannot listen on its port",
            kind="port_taken",
            board=board.name,
            address=f"{host}:{port}",
            found=error.strerror,
            next_step="stop what listens there, or set another port in the fleet file (0: any free one)",
        ) from error
    port = server.get_port()
    entry = host if port == 22 else f"[{host}]:{port}"
    _write(place.folder / "known_hosts", f"{entry} {(place.folder / 'host_key.pub').read_text()}", 0o644)
    _write(place.folder / "pid", f"{os.getpid()}\n", 0o644)
    _write(place.folder / "port", f"{port}\n", 0o644)
    print(f"{board.name}: {board.march} on {host}:{port}", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for name in ("port", "pid"):
            (place.folder / name).unlink(missing_ok=True)
        server.close()
        await server.wait_closed()
        power_off(place)


async def _run(process: asyncssh.SSHServerProcess[bytes], place: Place) -> None:
    """One command of a client, killed with its session when its channel closes, as an SSH server does."""
    if process.command is None:
        process.stderr.write(b"the virtual board runs commands, it has no interactive shell\n")
        process.exit(1)
        return
    environment = {
        "HOME": str(place.root / "root"),
        "PATH": place.path,
        "USER": "root",
        "LANG": "C.UTF-8",
        "TMPDIR": str(place.root / "tmp"),
    }
    child = await asyncio.create_subprocess_exec(
        "/bin/bash",
        "-c",
        map_paths(process.command, place.root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=place.root / "root",
        env=environment,
        start_new_session=True,
    )
    assert child.stdin and child.stdout and child.stderr
    incoming = asyncio.create_task(_forward_in(process, child.stdin))
    outgoing = [
        asyncio.create_task(_forward_out(child.stdout, process.stdout)),
        asyncio.create_task(_forward_out(child.stderr, process.stderr)),
    ]
    closed = asyncio.create_task(process.channel.wait_closed())
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({closed, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await asyncio.wait(outgoing, timeout=5)
            code = ended.result()
            if code >= 0:
                process.exit(code)
            else:
                process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
    finally:
        kill_session(child.pid)
        for task in (incoming, *outgoing, closed, ended):
            task.cancel()


async def _forward_in(process: asyncssh.SSHServerProcess[bytes], sink: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncssh.Error):
        while data := await process.stdin.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


async def _forward_out(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    with suppress(ConnectionError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()


def kill_session(leader: int) -> None:
    """SIGKILL the processes of a session: what an SSH server ends with a channel. Who has left the session goes on."""
    for pid, stat in _processes():
        if int(stat[3]) == leader:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def power_off(place: Place) -> None:
    """SIGKILL every process that works in the board's file tree, detached jobs too."""
    for pid, _ in _processes():
        with suppress(OSError):
            if pid != os.getpid() and Path(f"/proc/{pid}/cwd").readlink().is_relative_to(place.root):
                os.kill(pid, signal.SIGKILL)


def _processes() -> Iterator[tuple[int, list[str]]]:
    """(process id, fields of /proc/<pid>/stat after the name: state, parent, group, session ...)."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                yield int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file at once, with its mode from the first byte on."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    partial.chmod(mode)
    partial.replace(path)
