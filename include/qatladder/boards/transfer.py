"""Files to and from a board: nothing is sent twice, nothing arrives half, a cut costs only what was on the wire.

Files go through plain commands (`dd`, `tail`, `gzip`, `sha256sum`), not through SFTP: small boards run SSH servers without it,
and one command checks, receives, verifies and renames in a single round trip.

On the board, `<workdir>/cache/<sha256>` holds every file ever sent, until the quota or a full disk drives the least recently
used ones out. An upload writes to a name of its own, at its own offsets: whoever resumes it, or sends the same content at the
same time, writes the same bytes to the same places. Only what has the right sha256 is renamed to its final name.
"""

from __future__ import annotations

import gzip
import hashlib
import shlex
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import paramiko

from qatladder.boards.session import BoardSession, exit_code
from qatladder.errors import BrokenError

TRANSFER_TIMEOUT = 60.0
"""Seconds in which a transfer must make progress."""

BLOCK = 1 << 16
CACHE_MB = 2048
SPARE_MB = 64
"""What stays free on the board after a file arrived (10**6 bytes)."""

SMALL = 1 << 16
"""Files below this size are not worth compressing (bytes)."""

FAST = 30e6
"""Bytes per second above which a board's processor is a narrower place than the wire."""

# check FOLDER SHA...: verifies and touches; prints the digests that are there, whole.
_CHECK = """mkdir -p "$1" && cd "$1" || exit 66
shift
for sha in "$@"; do
  test -f "$sha" && test "$(sha256sum < "$sha" | cut -c1-64)" = "$sha" && touch "$sha" && echo "$sha"
done
exit 0"""

# reserve FOLDER FREE_KB KEEP_KB: drops the least recently used files until so much is free and no more is kept; says what is free.
_RESERVE = """mkdir -p "$1" && cd "$1" || exit 66
find . -maxdepth 1 -name '*.part*' -mtime +0 -exec rm -f {} +
free() { df -Pk . | tail -n 1 | awk '{print $4}'; }
total=$(ls -l | awk '{s += $5} END {printf "%d", s / 1024}')
ls -ltr | awk 'NF >= 9 && $NF !~ /part/ {print $5, $NF}' | while read -r size name; do
  test "$total" -gt "$3" || test "$(free)" -lt "$2" || break
  rm -f "$name"
  total=$((total - size / 1024))
done
free"""

# receive PATH SHA SIZE FORM: stdin, from the offset we say, is SIZE bytes of FORM (raw or gz) whose content has the digest SHA.
_RECEIVE = """cd "$(dirname "$1")" || exit 66
target=$(basename "$1") part=$(basename "$1").$2.part
have=0
test -e "$part" && have=$(wc -c < "$part")
test "$have" -le "$3" || { rm -f "$part"; have=0; }
blocks=$((have / 65536))
echo "at $((blocks * 65536))"
dd of="$part" bs=65536 seek="$blocks" conv=notrunc 2> "$part.said" || { cat "$part.said" >&2; rm -f "$part.said"; exit 73; }
rm -f "$part.said"
have=$(wc -c < "$part")
test "$have" -eq "$3" || { echo "received $have of $3 bytes" >&2; exit 74; }
whole=$part
if test "$4" = gz; then
  whole=$part.$$
  gzip -dc < "$part" > "$whole" || { rm -f "$whole"; test "$(df -Pk . | tail -n 1 | awk '{print $4}')" -gt 1024 || exit 73; rm -f "$part"; exit 65; }
fi
found=$(sha256sum < "$whole" | cut -c1-64)
if test "$found" = "$2"; then
  # Somebody who sent the same file at the same time may have been faster.
  mv "$whole" "$target" 2>/dev/null || test "$(sha256sum < "$target" | cut -c1-64)" = "$2" || exit 73
  rm -f "$part"
else
  echo "sha256 $found" >&2
  rm -f "$part" "$whole"
  exit 65
fi"""

# send PATH OFFSET FORM: size, digest and form of a file, then its bytes from the offset on.
_SEND = """test -f "$1" || exit 66
form=$3
size=$(wc -c < "$1")
if test "$form" = auto; then
  form=raw
  test "$size" -gt 65536 && test "$(head -c 65536 "$1" | gzip -1 | wc -c)" -lt 52428 && form=gz
fi
echo $size "$(sha256sum < "$1" | cut -c1-64)" $form
if test "$form" = gz; then gzip -1c < "$1" | tail -c +$(($2 + 1)); else tail -c +$(($2 + 1)) "$1"; fi"""


class Files:
    """The files of one board, over its session.

    Args:
        session: the board's session; it counts what goes over the wire.
        cache_mb: quota of the cache on the board (10**6 bytes).
    """

    def __init__(self, session: BoardSession, cache_mb: float = CACHE_MB) -> None:
        self.session = session
        self.cache_mb = cache_mb
        self.folder = session.workdir / "cache"
        self._rate = 0.0

    def cache(self, files: Sequence[Path]) -> dict[Path, PurePosixPath]:
        """Have files on the board: each content is sent once and found again, also by later runs.

        Returns:
            Per local file its path `<workdir>/cache/<sha256>`, whose content was verified just now.
        Raises:
            BrokenError: kind `disk_full`, `corrupt_transfer`, or that of the session.
        """
        remote = {local: self.folder / sha256_of(local) for local in files}
        digests = sorted({path.name for path in remote.values()})
        if not digests:
            return {}
        done = self.session.persist(
            lambda: self.session.run(["sh", "-c", _CHECK, "sh", str(self.folder), *digests], TRANSFER_TIMEOUT + 10.0 * len(files))
        )
        if not done:
            raise self.refused("the board cannot use its cache folder", done.console, done.exit_code)
        missing = {path.name: local for local, path in remote.items() if path.name not in done.stdout.split()}
        if missing:
            self.reserve(sum(local.stat().st_size for local in missing.values()))
        for digest, local in missing.items():
            self.put(local, self.folder / digest, digest)
        return remote

    def reserve(self, size: int) -> None:
        """Make room for `size` more bytes, at the cost of the least recently used files.

        Raises:
            BrokenError: kind `disk_full`.
        """
        # While it arrives a compressed file is there twice.
        need = 2 * size // 1024 + int(SPARE_MB * 1e6 / 1024)
        keep = max(0, int(self.cache_mb * 1e6 - size) // 1024)
        done = self.session.persist(lambda: self.session.run(["sh", "-c", _RESERVE, "sh", str(self.folder), str(need), str(keep)]))
        free = done.stdout.strip()
        if not done or not free.isdecimal():
            raise self.refused("the board cannot say how much space is free", done.console, done.exit_code)
        if int(free) < need:
            raise self.session.error(
                "the board's disk is too full for the files of this run",
                "disk_full",
                file=self.session.workdir,
                expected=f"{need * 1024 / 1e6:.0f} MB free",
                found=f"{int(free) * 1024 / 1e6:.0f} MB free after the cache gave way",
                next_step=f"free space below {self.session.workdir} on the board",
            )

    def put(self, local: Path, remote: PurePosixPath, digest: str = "") -> None:
        """Upload one file; after a cut it goes on where it was.

        Raises:
            BrokenError: kind `corrupt_transfer`, `disk_full`, `remote_file`, or that of the session.
        """
        digest = digest or sha256_of(local)
        with tempfile.TemporaryDirectory(prefix="qatladder-") as scratch:
            wire, form = self._wire(local, Path(scratch))
            for attempt in (1, 2):
                try:
                    self.session.persist(lambda: self._send(local, wire, form, remote, digest))
                    return
                except BrokenError as error:
                    # What an earlier attempt had left may have been of other bytes; now it is gone.
                    if error.kind != "corrupt_transfer" or attempt == 2:
                        raise

    def get(self, remote: PurePosixPath, local: Path) -> None:
        """Download one file: whole under its name or not at all; after a cut it goes on where it was.

        Raises:
            BrokenError: kind `corrupt_transfer`, `remote_file`, or that of the session.
        """
        partial = local.with_name(f".{local.name}.part-{uuid.uuid4().hex[:8]}")
        download = _Download(self.session, remote, partial, "raw" if self._rate > FAST else "auto")
        try:
            started = time.monotonic()
            self.session.persist(download.go_on)
            self._measure(partial.stat().st_size, started)
            size, digest, form = download.header
            if form == "gz":
                self._decompress(partial, local)
            found, length = sha256_of(partial), partial.stat().st_size
            if (str(length), found) != (size, digest):
                raise self._corrupt(local, f"{size} bytes, sha256 {digest}", f"{length} bytes, sha256 {found}")
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def refused(self, message: str, console: str, code: int) -> BrokenError:
        """The error of a command that the board's file system made fail."""
        full = code == 73 or any(said in console for said in ("No space left", "Disk quota", "Wrote only", "write error"))
        return self.session.error(
            message,
            "disk_full" if full else "tool_missing" if code in (126, 127) else "remote_file",
            console=console,
            file=self.session.workdir,
            found=console.strip()[-300:] or f"exit code {code}",
            next_step=f"check {self.session.workdir} on the board: free space, rights, whether it is mounted read-only",
        )

    # --- inside ---

    def _wire(self, local: Path, scratch: Path) -> tuple[Path, str]:
        """What is really sent: the file, or its compressed form where that pays."""
        size = local.stat().st_size
        if size <= SMALL or self._rate > FAST:
            return local, "raw"
        with local.open("rb") as stream:
            sample = stream.read(16 * SMALL)
        if len(zlib.compress(sample, 1)) > 0.8 * len(sample):
            return local, "raw"
        wire = scratch / "wire.gz"
        # Deterministic, so that another attempt can go on in the middle.
        with local.open("rb") as source, wire.open("wb") as sink, gzip.GzipFile("", "wb", 1, sink, mtime=0) as packed:
            shutil.copyfileobj(source, packed, 1 << 20)
        return wire, "gz"

    def _send(self, local: Path, wire: Path, form: str, remote: PurePosixPath, digest: str) -> None:
        size = wire.stat().st_size
        command = shlex.join(["sh", "-c", _RECEIVE, "sh", str(remote), digest, str(size), form])
        with self.session.channel(f"upload {local.name}", command, TRANSFER_TIMEOUT, local) as channel:
            channel.settimeout(TRANSFER_TIMEOUT)
            offset = _line(channel)
            started, sent = time.monotonic(), 0
            if offset.startswith("at "):
                with wire.open("rb") as stream, suppress(_BoardStopped):
                    stream.seek(int(offset[3:]))
                    while chunk := stream.read(8 * BLOCK):
                        _send_all(channel, chunk)
                        sent += len(chunk)
                self.session.bytes_sent += sent
                with suppress(OSError):
                    channel.shutdown_write()
            said = b""
            while data := channel.recv_stderr(BLOCK):
                said += data
            code = exit_code(channel)
        self._measure(sent, started)
        console = said.decode(errors="replace")
        if code == 65:
            raise self._corrupt(local, f"sha256 {digest}", console.strip() or "no gzip stream")
        if code == 74:  # the end of the file never came: the connection is about to be lost
            raise self.session.error("an upload was cut off", "connection_lost", file=local, found=console.strip())
        if code:
            raise self.refused(f"the board cannot store {local.name}", console, code)

    def _decompress(self, partial: Path, local: Path) -> None:
        plain = partial.with_name(partial.name + ".plain")
        try:
            with gzip.open(partial) as source, plain.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            plain.replace(partial)
        except (OSError, EOFError, zlib.error) as error:
            raise self._corrupt(local, "a whole gzip stream", str(error)) from error
        finally:
            plain.unlink(missing_ok=True)

    def _measure(self, size: int, started: float) -> None:
        if size > 1 << 20:
            self._rate = size / max(time.monotonic() - started, 1e-6)

    def _corrupt(self, local: Path, wanted: str, found: str) -> BrokenError:
        return self.session.error(
            "a file arrived with other bytes than were sent",
            "corrupt_transfer",
            file=local,
            expected=wanted,
            found=found,
            next_step="check the board's storage and memory (dmesg)",
        )


class _Download:
    """One file on its way here, over as many connections as it takes.

    Attributes:
        header: size, sha256 and form (`raw` or `gz`) of the file, as the board stated them.
    """

    def __init__(self, session: BoardSession, remote: PurePosixPath, partial: Path, form: str) -> None:
        self.session, self.remote, self.partial = session, remote, partial
        self.header: tuple[str, str, str] = ("", "", form)
        self._line = b""

    def go_on(self) -> None:
        self._line = b""
        with self._local_disk():
            self.partial.touch()
            have = self.partial.stat().st_size
        argv = ["sh", "-c", _SEND, "sh", str(self.remote), str(have), self.header[2]]
        done = self.session.run(argv, 6 * 3600.0, on_data=self._take)
        if not done:
            raise self.session.error(
                "the board has no such file" if done.exit_code == 66 else "the board cannot read a file",
                "remote_file",
                console=done.console,
                file=self.remote,
                found=done.console.strip()[-300:] or f"exit code {done.exit_code}",
            )

    def _take(self, data: bytes) -> None:
        """The header's line, then bytes of the file."""
        if not self._line.endswith(b"\n"):
            head, newline, data = data.partition(b"\n")
            self._line += head + newline
            if newline:
                size, digest, form = self._line.decode().split()
                self.header = (size, digest, form)
        if data:
            self.session.bytes_received += len(data)
            with self._local_disk(), self.partial.open("ab") as sink:
                sink.write(data)

    @contextmanager
    def _local_disk(self) -> Iterator[None]:
        """A full disk on this side is no fault of the board's."""
        try:
            yield
        except OSError as error:
            raise BrokenError(
                "this machine cannot store what the board sends",
                "free space, or move QATLADDER_HOME",
                "worker_disk",
                board=self.session.name,
                file=self.partial,
                found=error,
            ) from error


class _BoardStopped(Exception):
    """The board's end of a channel is closed although the connection lives: it has something to say."""


def _send_all(channel: paramiko.Channel, data: bytes) -> None:
    try:
        channel.sendall(data)
    except TimeoutError:
        raise
    except OSError as error:
        transport = channel.get_transport()
        if transport.is_active() and (channel.exit_status_ready() or channel.closed):
            raise _BoardStopped from error
        raise


def _line(channel: paramiko.Channel) -> str:
    """The first line of a command's output; empty when it printed none."""
    line = b""
    while not line.endswith(b"\n"):
        data = channel.recv(1)
        if not data:
            break
        line += data
    return line.decode(errors="replace").strip()


def sha256_of(path: Path) -> str:
    """sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
