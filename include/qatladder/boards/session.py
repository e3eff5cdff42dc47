"""One SSH connection to a board: run a command, stream what it says, feed it a file. Infrastructure and nothing else.

Every failure is a `BrokenError` that names the board and has a kind of `qatladder.boards.taxonomy`.
"""

from __future__ import annotations

import select
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import paramiko

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.jump import open_jump
from qatladder.errors import BrokenError, ConfigError

CONNECT_TIMEOUT = 10.0
KEEPALIVE = 10
DEAD_AFTER = 30.0
"""Seconds without a sign of life after which a connection counts as lost, although nobody closed it (a pulled cable)."""

PATIENCE = 60.0
"""Seconds a board that was reached once may be away in the middle of something before we give up."""

MAX_LOSSES = 10
"""Connections lost within one action before it counts as hopeless, however soon the board comes back."""

T = TypeVar("T")

# An SSH server need not kill a command whose channel closes, and a BPU held by an orphan is lost to everybody. So the
# command runs in a session of its own ("$@"), and a watcher kills that whole session when stdin, the channel, ends.
_WATCHED = """. /etc/profile >/dev/null 2>&1
cd -- "$1" || exit 66
shift
exec 3<&0
setsid "$@" </dev/null 3<&- &
job=$!
{ while read -r _; do :; done; kill -KILL "-$job" || kill -KILL "$job"; } <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$job"
code=$?
kill "$watcher" 2>/dev/null
exit $code"""


@dataclass(frozen=True)
class Completed:
    """A command that ended. True in a boolean context when it exited 0; for hrt_model_exec that proves nothing."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    def __bool__(self) -> bool:
        return self.exit_code == 0

    @property
    def console(self) -> str:
        return self.stdout + self.stderr


def connect(board: BoardSpec, gate: Callable[[BoardSpec], paramiko.SSHClient] | None = None) -> paramiko.SSHClient:
    """Log in to a board with its key: no agent, no other keys, no password, no unknown host.

    Args:
        gate: opens the connection to its jump host, if it has one; default: this function.
    Raises:
        BrokenError: kinds `unreachable`, `host_key`, `auth`, `jump_host`.
        ConfigError: no key file or no known_hosts is configured, or the key cannot be read.
    """
    host, port = board.address
    where = {"board": board.name, "address": f"{host}:{port}"}
    start = f"start it: python -m qatladder.boards.virtual start {board.name}" if board.virtual else "check power, network, host and port"
    entry = host if port == 22 else f"[{host}]:{port}"
    key, known = board.private_key, board.host_keys
    if key is None or known is None:
        raise ConfigError("the board has no key_file or known_hosts", next_step="set both in the fleet file", **where)
    through = f"ssh -p {board.jump.port} {board.jump.user}@{board.jump.host} " if board.jump else ""
    learn = f"compare the board's key fingerprint, then: {through}ssh-keyscan -p {port} {host} >> {known}"
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    if board.virtual and not key.is_file():
        raise BrokenError("the virtual board was never started", kind="unreachable", next_step=start, **where)
    if not key.is_file():
        raise ConfigError("the board's key_file does not exist", file=key, next_step="fix `key_file` in the fleet file", **where)
    if not known.is_file():
        raise BrokenError(
            "the board's host key is unknown: there is no known_hosts file", kind="host_key", file=known, next_step=learn, **where
        )
    tunnel = open_jump(board, gate or connect)
    try:
        client.load_host_keys(str(known))
        client.connect(
            host,
            port,
            sock=tunnel,  # type: ignore[arg-type]  # paramiko asks for send, recv, settimeout and close
            username=board.user,
            key_filename=str(key),
            allow_agent=False,
            look_for_keys=False,
            timeout=CONNECT_TIMEOUT,
            banner_timeout=CONNECT_TIMEOUT,
            auth_timeout=CONNECT_TIMEOUT,
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise BrokenError(
            "the board's host key has changed: another machine answers, or the board was reinstalled",
            kind="host_key",
            file=known,
            found=f"{error.key.get_name()} {error.key.fingerprint}",
            next_step=f"if the board was reinstalled: ssh-keygen -f {known} -R '{entry}', then {learn}",
            **where,
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise BrokenError(
            f"the board refuses the key of user {board.user!r}",
            kind="auth",
            file=key,
            found=str(error),
            next_step=f"add {key}.pub to ~{board.user}/.ssh/authorized_keys on the board",
            **where,
        ) from error
    except (OSError, EOFError, paramiko.SSHException) as error:
        client.close()
        if "not found in known_hosts" in str(error):
            raise BrokenError("the board's host key is unknown", kind="host_key", file=known, next_step=learn, **where) from error
        if "not a valid" in str(error):
            raise ConfigError("the board's key_file is no private key", file=key, found=str(error), **where) from error
        raise BrokenError(
            "the board does not answer", kind="unreachable", found=str(error) or type(error).__name__, next_step=start, **where
        ) from error
    return client


class BoardSession:
    """A driver over one SSH connection, opened when first used and again after it was lost. Not for several threads at once.

    Args:
        client: returns a connected `paramiko.SSHClient`; `functools.partial(connect, board)`, or Airflow's `SSHHook.get_conn`.
        name: the board's name, for errors.
        workdir: folder on the board for the cache and for job folders.
        patience: see `persist`; seconds.
    Attributes:
        commands: how many commands went to the board so far, one or two round trips each.
        bytes_sent, bytes_received: payload of files so far, as it went over the wire.
    """

    def __init__(
        self,
        client: Callable[[], paramiko.SSHClient],
        name: str,
        workdir: str = "/userdata/qatladder",
        patience: float = PATIENCE,
    ) -> None:
        self._connect = client
        self._client: paramiko.SSHClient | None = None
        self.name = name
        self.workdir = PurePosixPath(workdir)
        self.patience = patience
        self.commands = 0
        self.bytes_sent = 0
        self.bytes_received = 0

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def run(
        self,
        argv: Sequence[str],
        timeout: float = 60.0,
        cwd: str | PurePosixPath = "/",
        on_line: Callable[[str], None] | None = None,
        on_data: Callable[[bytes], None] | None = None,
        silence: float | None = None,
    ) -> Completed:
        """Run one command and wait for it. No argument is ever seen by a shell. The command dies with the connection.

        Args:
            argv: the program and its arguments.
            timeout: seconds in total; then the command is killed.
            cwd: working directory.
            on_line: called with each complete line of stdout as it arrives.
            on_data: called with the bytes of stdout as they arrive; they are not kept then.
            silence: seconds without output after which the command counts as hanging; None: it may say nothing.
        Raises:
            BrokenError: see the module; also when the command was killed by the board.
        """
        command = shlex.join(["sh", "-c", _WATCHED, "sh", str(cwd), *argv])
        started = time.monotonic()
        with self.channel(f"run {argv[0]}", command, timeout) as channel:
            stdout, stderr = self._read(channel, started + timeout, on_line, on_data, silence)
            code = exit_code(channel)
        return Completed(tuple(argv), code, stdout, stderr, time.monotonic() - started)

    def persist(self, action: Callable[[], T]) -> T:
        """Do something again after the connection was lost, until the board was away for `patience` seconds.

        Only for what may be done twice. A board that was never reached is not waited for.

        Raises:
            BrokenError: whatever `action` raises; the loss itself when the board stays away.
        """
        lost: BrokenError | None = None
        since, losses = 0.0, 0
        while True:
            try:
                return action()
            except BrokenError as error:
                if error.kind not in ("connection_lost", "unreachable") or (lost is None and error.kind == "unreachable"):
                    raise
                if error.kind == "connection_lost":
                    lost, since, losses = error, time.monotonic(), losses + 1
                if losses > MAX_LOSSES or time.monotonic() - since >= self.patience:
                    raise (lost or error) from error
                time.sleep(min(1.0, self.patience / 10))

    @contextmanager
    def channel(self, doing: str, command: str, timeout: float, file: object = "") -> Iterator[paramiko.Channel]:
        """A channel on which a command line was started; what goes wrong inside is one `BrokenError`.

        Args:
            doing: for the error: "could not <doing>".
            timeout: for the error's text; whoever reads the channel keeps the time.
        """
        with self._guard(doing, timeout, file):
            if self._client is None:
                self._client = self._connect()
                _notice_death(self._client)
            transport = self._client.get_transport()
            if transport is None or not transport.is_active():
                raise EOFError("the connection is closed")
            channel = transport.open_session(timeout=CONNECT_TIMEOUT)
            self.commands += 1
            try:
                channel.exec_command(command)
                yield channel
            finally:
                channel.close()

    # --- inside ---

    def _read(
        self,
        channel: paramiko.Channel,
        deadline: float,
        on_line: Callable[[str], None] | None,
        on_data: Callable[[bytes], None] | None,
        silence: float | None,
    ) -> tuple[str, str]:
        """Both streams of a command up to its end."""
        out, err, line_start = bytearray(), bytearray(), 0
        heard = time.monotonic()
        while True:
            readable = select.select([channel], [], [], max(0.0, min(1.0, deadline - time.monotonic())))[0]
            if channel.recv_stderr_ready():
                err += channel.recv_stderr(1 << 16)
            elif channel.recv_ready():
                data = channel.recv(1 << 18)
                heard = time.monotonic()
                if on_data:
                    on_data(data)
                else:
                    out += data
                while on_line and (end := out.find(b"\n", line_start)) >= 0:
                    on_line(out[line_start:end].decode(errors="replace"))
                    line_start = end + 1
            elif channel.exit_status_ready() and (channel.eof_received or channel.closed):
                return out.decode(errors="replace"), err.decode(errors="replace")
            elif readable and channel.closed:
                raise EOFError("the connection ended while the command ran")
            elif readable and channel.eof_received:
                time.sleep(0.005)  # output has ended, the exit status is on its way
            if time.monotonic() >= deadline:
                raise TimeoutError((out + err).decode(errors="replace"))
            if silence is not None and time.monotonic() - heard > silence:
                raise self.error(
                    "the board has said nothing for too long",
                    "silence",
                    console=(out + err).decode(errors="replace"),
                    expected=f"a sign of life every {silence:.0f} s",
                    next_step="the tool hangs, in the driver as a rule: dmesg on the board, then reboot it",
                )

    @contextmanager
    def _guard(self, doing: str, timeout: float, file: object = "") -> Iterator[None]:
        """Turn what paramiko and the sockets raise into one `BrokenError`."""
        where: dict[str, Any] = {"file": file} if file else {}
        try:
            yield
        except BrokenError as error:
            if error.kind in ("connection_lost", "timeout"):
                self.close()
            error.where.setdefault("board", self.name)
            raise
        except TimeoutError as error:
            self.close()
            raise self.error(
                f"could not {doing} in time",
                "timeout",
                expected=f"an end within {timeout:.0f} s",
                console=str(error),
                next_step="raise the timeout if the board is merely slow; else check what else runs on it",
                **where,
            ) from error
        except (EOFError, OSError, paramiko.SSHException) as error:
            self.close()
            raise self.error(
                f"the connection was lost: could not {doing}",
                "connection_lost",
                found=str(error) or type(error).__name__,
                next_step="check that the board is powered and did not reboot (uptime)",
                **where,
            ) from error

    def error(self, message: str, kind: str, next_step: str = "", console: str | None = None, **where: object) -> BrokenError:
        return BrokenError(message, next_step, kind, console, board=self.name, **where)


def exit_code(channel: paramiko.Channel) -> int:
    """The exit code of a command whose output has ended.

    Raises:
        EOFError: it has none: the connection ended, or the command was killed by a signal.
    """
    code = channel.recv_exit_status()
    if code < 0:
        raise EOFError("the command ended without an exit status")
    return code


def _notice_death(client: paramiko.SSHClient) -> None:
    """Have a connection end when the other side is gone without a word, instead of waiting for ever."""
    transport = client.get_transport()
    if transport is None:
        return
    transport.set_keepalive(KEEPALIVE)
    if isinstance(transport.sock, socket.socket):  # through a jump host it is a channel, whose own connection notices
        with suppress(OSError):
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_AFTER * 1000))
