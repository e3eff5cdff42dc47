"""One SSH connection to a board: run a command, move a file, hold the board's lock. Infrastructure and nothing else.

Every failure is a `BrokenError` that names the board and has one of these kinds:

    unreachable       nobody answers at host:port, or what answers does not speak SSH
    host_key          the board's host key is unknown or has changed
    auth              the board refused the key
    timeout           it took longer than it was given; the remote command has been killed
    connection_lost   the connection ended in the middle; the next call connects again
    corrupt_transfer  a file arrived with other bytes than were sent
    disk_full, remote_file   the board could not store or find a file
    board_busy        another user holds the board's lock
"""

from __future__ import annotations

import errno
import hashlib
import select
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko

from qatladder.boards.fleet import BoardSpec
from qatladder.errors import BrokenError, ConfigError

CONNECT_TIMEOUT = 10.0
TRANSFER_TIMEOUT = 60.0
KEEPALIVE = 15
LOCK_FILE = "/tmp/hbdk_model_verifier.lock"
"""The vendor's verifier takes this file with `flock -x` while it uses the BPU; so do we."""

PREFETCH = 256
"""Read requests of 32 KiB in flight: unlimited (paramiko's default) stalls now and then, 64 took 10 times as long on loopback."""

CACHE_DAYS = 3

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


def connect(board: BoardSpec) -> paramiko.SSHClient:
    """Log in to a board with its key: no agent, no other keys, no password, no unknown host.

    Raises:
        BrokenError: kinds `unreachable`, `host_key`, `auth`.
        ConfigError: no key file or no known_hosts is configured, or the key cannot be read.
    """
    host, port = board.address
    where = {"board": board.name, "address": f"{host}:{port}"}
    start = f"start it: python -m qatladder.boards.virtual start {board.name}" if board.virtual else "check power, network, host and port"
    entry = host if port == 22 else f"[{host}]:{port}"
    key, known = board.private_key, board.host_keys
    if key is None or known is None:
        raise ConfigError("the board has no key_file or known_hosts", next_step="set both in the fleet file", **where)
    learn = f"compare the board's key fingerprint, then: ssh-keyscan -p {port} {host} >> {known}"
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
    try:
        client.load_host_keys(str(known))
        client.connect(
            host,
            port,
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
    """

    def __init__(self, client: Callable[[], paramiko.SSHClient], name: str, workdir: str = "/userdata/qatladder") -> None:
        self._connect = client
        self._client: paramiko.SSHClient | None = None
        self._sftp_client: paramiko.SFTPClient | None = None
        self.name = name
        self.workdir = PurePosixPath(workdir)

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        client, self._client, self._sftp_client = self._client, None, None
        if client is not None:
            client.close()

    # --- commands ---

    def run(
        self, argv: Sequence[str], timeout: float = 60.0, cwd: str | PurePosixPath = "/", on_line: Callable[[str], None] | None = None
    ) -> Completed:
        """Run one command and wait for it. No argument is ever seen by a shell.

        Args:
            argv: the program and its arguments.
            timeout: seconds in total; then the command is killed.
            cwd: working directory.
            on_line: called with each complete line of stdout as it arrives.
        Raises:
            BrokenError: see the module; also when the command was killed by the board.
        """
        command = shlex.join(["sh", "-c", _WATCHED, "sh", str(cwd), *argv])
        started = time.monotonic()
        with self._guard(f"run {argv[0]}", timeout), self._channel(command) as channel:
            stdout, stderr = self._read(channel, started + timeout, on_line)
            code = channel.recv_exit_status()
            if code < 0:
                raise EOFError("the command ended without an exit status")
        return Completed(tuple(argv), code, stdout, stderr, time.monotonic() - started)

    @contextmanager
    def lock(self, timeout: float = 600.0) -> Iterator[None]:
        """Hold the board for ourselves, together with the vendor's tools (see `LOCK_FILE`).

        A process on the board holds the lock as long as its channel is open, so a lock can never be left behind.

        Raises:
            BrokenError: kind `board_busy` when nobody lets go within `timeout` seconds.
        """
        holder = "exec flock -x " + LOCK_FILE + " sh -c 'echo locked; read -r _'"
        with ExitStack() as stack:
            with self._guard("take the board's lock", timeout):
                channel = stack.enter_context(self._channel(holder))
                self._await_lock(channel, timeout)
            yield
            if channel.closed or channel.exit_status_ready():
                raise self._error("the board's lock was lost while it was needed", "connection_lost", file=LOCK_FILE)

    def _await_lock(self, channel: paramiko.Channel, timeout: float) -> None:
        deadline, said = time.monotonic() + timeout, b""
        while b"locked" not in said:
            if not select.select([channel], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._error(
                    "somebody else is using the board",
                    "board_busy",
                    file=LOCK_FILE,
                    expected=f"the lock within {timeout:.0f} s",
                    next_step=f"on the board: fuser -v {LOCK_FILE}",
                )
            data = channel.recv(4096)
            if not data:
                errors = channel.recv_stderr(4096).decode(errors="replace") if channel.recv_stderr_ready() else ""
                raise EOFError(f"flock ended {errors.strip()}".strip())
            said += data

    # --- files ---

    def put(self, local: Path, remote: str | PurePosixPath) -> None:
        """Upload one file: under a temporary name, verified by size and sha256, then renamed over the old one.

        Raises:
            BrokenError: kind `corrupt_transfer`, `disk_full`, or see the module.
        """
        partial = f"{remote}.part-{uuid.uuid4().hex[:8]}"
        size, wanted = local.stat().st_size, sha256_of(local)
        with self._guard(f"upload {local.name}", TRANSFER_TIMEOUT, local), self._sftp() as sftp:
            try:
                sftp.put(str(local), partial, confirm=False)
                if sftp.stat(partial).st_size != size:
                    raise self._corrupt(local, f"{size} bytes", f"{sftp.stat(partial).st_size} bytes")
                found = self.sha256([partial]).get(partial, "nothing")
                if found != wanted:
                    raise self._corrupt(local, f"sha256 {wanted}", f"sha256 {found}")
                sftp.posix_rename(partial, str(remote))
            except BaseException:
                with suppress(Exception):
                    sftp.remove(partial)
                raise

    def get(self, remote: str | PurePosixPath, local: Path) -> None:
        """Download one file: under a temporary name, verified by sha256, then renamed.

        Raises:
            BrokenError: kind `corrupt_transfer`, `remote_file`, or see the module.
        """
        partial = local.with_name(f".{local.name}.part-{uuid.uuid4().hex[:8]}")
        with self._guard(f"download {remote}", TRANSFER_TIMEOUT, remote), self._sftp() as sftp:
            try:
                sftp.get(str(remote), str(partial), max_concurrent_prefetch_requests=PREFETCH)
                wanted = self.sha256([str(remote)]).get(str(remote), "nothing")
                found = sha256_of(partial)
                if found != wanted:
                    raise self._corrupt(local, f"sha256 {wanted}", f"sha256 {found}")
                partial.replace(local)
            finally:
                partial.unlink(missing_ok=True)

    def sha256(self, paths: Sequence[str]) -> dict[str, str]:
        """sha256 of files on the board, by path; a file that is not there has no entry."""
        script = 'for f in "$@"; do if test -f "$f"; then sha256sum < "$f" | cut -c1-64; else echo -; fi; done'
        done = self.run(["sh", "-c", script, "sh", *paths], timeout=TRANSFER_TIMEOUT + 10.0 * len(paths))
        found = done.stdout.split()
        if not done or len(found) != len(paths):
            raise self._error(
                "sha256sum does not work on the board", "tool_missing", console=done.console, found=done.console.strip()[-200:]
            )
        return {path: digest for path, digest in zip(paths, found, strict=True) if len(digest) == 64}

    def cache(self, files: Sequence[Path]) -> dict[Path, PurePosixPath]:
        """Have files on the board: each is uploaded once and then found again by its content.

        Returns:
            Per local file its path `<workdir>/cache/<sha256>`, whose content was verified just now.
        """
        folder = self.workdir / "cache"
        remote = {local: folder / sha256_of(local) for local in files}
        present = self.sha256([str(path) for path in remote.values()])
        for local, path in remote.items():
            if present.get(str(path)) != path.name:
                self.put(local, path)
                present[str(path)] = path.name
        return remote

    @contextmanager
    def job(self) -> Iterator[PurePosixPath]:
        """A fresh folder on the board for one run; removed at the end, as far as the board can still be reached.

        What crashed runs left behind, and cached files unused for `CACHE_DAYS` days, go when the next job starts.
        """
        folder = self.workdir / "jobs" / uuid.uuid4().hex[:12]
        script = (
            f'mkdir -p "$1/cache" "$2" && find "$1/cache" -type f -mtime +{CACHE_DAYS} -exec rm -f {{}} + '
            '&& find "$1/jobs" -mindepth 1 -maxdepth 1 -mtime +0 -exec rm -rf {} +'
        )
        done = self.run(["sh", "-c", script, "sh", str(self.workdir), str(folder)])
        if not done:
            raise self._remote_failure("the board cannot make a job folder", done)
        try:
            yield folder
        finally:
            with suppress(BrokenError):
                self.run(["rm", "-rf", str(folder)])

    def link(self, links: dict[PurePosixPath, PurePosixPath]) -> None:
        """Place cached files (values) into a job folder (keys): hard links, or symbolic ones where the file system has none."""
        script = 'while test $# -gt 1; do touch "$1"; ln "$1" "$2" 2>/dev/null || ln -s "$1" "$2" || exit 1; shift 2; done'
        pairs = [str(path) for target, source in links.items() for path in (source, target)]
        done = self.run(["sh", "-c", script, "sh", *pairs])
        if not done:
            raise self._remote_failure("the board cannot link a file into the job folder", done)

    # --- inside ---

    @contextmanager
    def _channel(self, command: str) -> Iterator[paramiko.Channel]:
        if self._client is None:
            self._client = self._connect()
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise EOFError("the connection is closed")
        transport.set_keepalive(KEEPALIVE)
        channel = transport.open_session(timeout=CONNECT_TIMEOUT)
        try:
            channel.exec_command(command)
            yield channel
        finally:
            channel.close()

    @contextmanager
    def _sftp(self) -> Iterator[paramiko.SFTPClient]:
        if self._client is None:
            self._client = self._connect()
        if self._sftp_client is None:
            self._sftp_client = self._client.open_sftp()
            channel = self._sftp_client.get_channel()
            if channel is not None:
                channel.settimeout(TRANSFER_TIMEOUT)
        yield self._sftp_client

    def _read(self, channel: paramiko.Channel, deadline: float, on_line: Callable[[str], None] | None) -> tuple[str, str]:
        """Both streams of a command up to its end."""
        out, err, line_start = bytearray(), bytearray(), 0
        while True:
            readable = select.select([channel], [], [], max(0.0, min(1.0, deadline - time.monotonic())))[0]
            if channel.recv_stderr_ready():
                err += channel.recv_stderr(1 << 16)
            elif channel.recv_ready():
                out += channel.recv(1 << 16)
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
            raise self._error(
                f"could not {doing} in time",
                "timeout",
                expected=f"an end within {timeout:.0f} s",
                console=str(error),
                next_step="raise the timeout if the board is merely slow; else check what else runs on it",
                **where,
            ) from error
        except (EOFError, OSError, paramiko.SSHException) as error:
            if isinstance(error, FileNotFoundError):
                raise self._error(f"could not {doing}: no such file on the board", "remote_file", **where) from error
            alive = self._client is not None and (transport := self._client.get_transport()) is not None and transport.is_active()
            if isinstance(error, OSError) and alive and not isinstance(error, ConnectionError):
                kind = "disk_full" if error.errno == errno.ENOSPC else "remote_file"
                raise self._error(f"could not {doing}", kind, found=str(error), next_step="check the disk of the board", **where) from error
            self.close()
            raise self._error(
                f"the connection was lost: could not {doing}",
                "connection_lost",
                found=str(error) or type(error).__name__,
                next_step="check that the board is powered and did not reboot (uptime)",
                **where,
            ) from error

    def _error(self, message: str, kind: str, next_step: str = "", console: str | None = None, **where: object) -> BrokenError:
        return BrokenError(message, next_step, kind, console, board=self.name, **where)

    def _corrupt(self, local: Path, wanted: str, found: str) -> BrokenError:
        return self._error(
            "a file arrived with other bytes than were sent",
            "corrupt_transfer",
            file=local,
            expected=wanted,
            found=found,
            next_step="check the board's storage and free space",
        )

    def _remote_failure(self, message: str, done: Completed) -> BrokenError:
        full = "No space left" in done.console
        return self._error(
            message,
            "disk_full" if full else "remote_file",
            console=done.console,
            found=done.console.strip()[-300:],
            next_step=f"check {self.workdir} on the board",
        )


def sha256_of(path: Path) -> str:
    """sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
