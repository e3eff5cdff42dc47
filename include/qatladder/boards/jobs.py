"""Detached work on a board: it goes on when the connection, the worker or the whole of Airflow goes away.

A job is a folder `<workdir>/jobs/<id>` and one process group. The folder says all there is to know:

    begun       the job's process group; made once, so a job runs at most once, however often it is started
    alive       locked (flock) by the job as long as it lives: no process id has to be trusted
    log         what it printed
    exit_code   how it ended; written last, in one piece

Whoever knows the id finds the job again: a worker that was killed, a retry, a trigger. The job itself holds the board
(`flock -x` on the vendor's lock file), so the lock cannot outlive it and nobody has to give it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qatladder.boards.session import BoardSession, Completed
from qatladder.boards.transfer import Files
from qatladder.errors import BrokenError

LOCK_FILE = "/tmp/hbdk_model_verifier.lock"
"""The vendor's verifier takes this file with `flock -x` while it uses the BPU; so do we."""

KEEP_MINUTES = 60
"""How long a job that ended waits for somebody to fetch its results."""

BUSY, TIMED_OUT = 175, 124

# place JOBS FOLDER KEEP_MINUTES [FROM NAME]... [-- ARCHIVE...]: the job's folder with files of the cache in it, and unpacked once.
# What dead jobs left behind long ago goes.
_PLACE = """mkdir -p "$1" && cd "$1" || exit 73
find . -mindepth 1 -maxdepth 1 -type d -mmin +"$3" | while read -r old; do
  test -e "$old/alive" && ! flock -n "$old/alive" true || rm -rf "$old"
done
mkdir -p "$2" && cd "$2" || exit 73
shift 3
# Hard links: the cache may drop its own name of a file while the job uses it.
while test $# -gt 0 && test "$1" != --; do
  ln -f "$1" "$2" 2>/dev/null || cp "$1" "$2" || exit 73
  shift 2
done
test -e unpacked && exit 0
shift
for archive in "$@"; do tar -xf "$archive" || exit 73; done
: > unpacked"""

# The job. run LOCK_FILE WAIT LIMIT COMMAND... in its folder; 8 says that it lives, 9 is the board's lock.
_RUN = """#!/bin/sh
exec 8>>alive
flock -n 8 || exit 0
test -e begun && exit 0
printf '    \\n' > exit_code.part  # its place on the disk, should that be full in the end
echo "$$" > begun.part && mv begun.part begun
exec > log 2>&1 < /dev/null
lock=$1 wait=$2 limit=$3
shift 3
end() { printf '%-4s\\n' "$1" 1<> exit_code.part && mv exit_code.part exit_code; kill -KILL 0; }
if test "$lock" != none; then
  test -e "$lock" || : >> "$lock"
  exec 9< "$lock" || end 73
  waited=0
  until flock -n 9; do
    test $((waited % 60)) -gt 0 || echo "waiting: somebody else holds the board"
    test "$waited" -lt "$wait" || end 175
    sleep 1
    waited=$((waited + 1))
  done
fi
{ sleep "$limit"; end 124; } 8>&- 9>&- &
"$@" 8>&- 9>&-
end $?
"""

# start JOB ARGUMENTS OF RUN...
_START = """cd "$1" || exit 66
shift
if ! test -e begun; then
  setsid sh ./run.sh "$@" < /dev/null > /dev/null 2>&1 &
fi
for pause in 0.01 0.02 0.05 0.1 0.2 0.5 1 2 4; do
  test -e begun && exit 0
  sleep "$pause" 2>/dev/null || sleep 1
done
test -e begun"""

# follow JOB OFFSET: the log from the offset on as it grows, until the job is over; then how it ended, on stderr.
_FOLLOW = """cd "$1" 2>/dev/null || { echo gone >&2; exit 0; }
at=$2
while :; do
  over=
  if test -e exit_code; then over=1; elif flock -n alive true; then over=1; fi
  size=$(wc -c < log)
  if test "$size" -gt "$at"; then tail -c +$((at + 1)) log | head -c $((size - at)); at=$size; fi
  test -z "$over" || break
  test "$3" = wait || { echo running >&2; exit 0; }
  sleep 0.05 2>/dev/null || sleep 1
done
if test -e exit_code; then cat exit_code >&2; else echo killed >&2; fi"""

# cancel JOB: the whole process group, at once.
_CANCEL = """cd "$1" 2>/dev/null || exit 0
: >> alive
test -e begun || { echo 0 > begun; exit 0; }
flock -n alive true || kill -KILL -"$(cat begun)"
exit 0"""


@dataclass(frozen=True)
class JobState:
    """How far a job is.

    Attributes:
        state: `running`; `ended` by itself; `killed` from outside; `gone`: the board knows no such job (any more).
        exit_code: of its command, when it ended.
        offset: bytes of the log read so far.
    """

    state: Literal["running", "ended", "killed", "gone"]
    exit_code: int | None
    offset: int


class StillRunning(Exception):
    """A job takes longer than its caller wants to wait here; ask again later, from anywhere.

    Attributes:
        board, job, offset: what `Job.look` needs to go on.
    """

    def __init__(self, board: str, job: str, offset: int) -> None:
        super().__init__(f"job {job} on {board} goes on")
        self.board, self.job, self.offset = board, job, offset


class Job:
    """One job on a board, new or old.

    Args:
        session: the board's session.
        job_id: letters, digits and dashes; whoever computes the same id means the same job.
    """

    def __init__(self, session: BoardSession, job_id: str) -> None:
        self.session = session
        self.id = job_id
        self.folder = session.workdir / "jobs" / job_id

    def prepare(self, files: Files, placed: Mapping[str, Path], unpack: Sequence[str] = ()) -> None:
        """Make the folder and place files in it, by name; through the cache, so that nothing is sent twice.

        Args:
            unpack: names of those that are tar archives to unpack there.
        """
        cached = files.cache(list(placed.values()))
        pairs = [str(path) for name, local in placed.items() for path in (cached[local], name)]
        argv = ["sh", "-c", _PLACE, "sh", str(self.folder.parent), str(self.folder), str(KEEP_MINUTES), *pairs, "--", *unpack]
        done = self.session.persist(lambda: self.session.run(argv, 300.0))
        if not done:
            raise files.refused("the board cannot fill a job folder", done.console, done.exit_code)

    def start(self, argv: Sequence[str], limit: float, lock_wait: float | None = 600.0) -> None:
        """Start it, unless it was started before.

        Args:
            argv: command, run in the job's folder.
            limit: seconds the command may take; then it is killed on the board, whoever watches.
            lock_wait: seconds to wait for the board's lock; None for a command that does not use the BPU.
        """
        write = "cat > \"$1/run.sh.$$\" <<'QATLADDER'\n" + _RUN + 'QATLADDER\nmv "$1/run.sh.$$" "$1/run.sh" || exit 73\n' + _START
        lock = LOCK_FILE if lock_wait is not None else "none"
        arguments = [lock, str(int(lock_wait or 0)), str(max(1, int(limit))), *argv]
        done = self.session.persist(lambda: self.session.run(["sh", "-c", write, "sh", str(self.folder), *arguments]))
        if not done:
            raise self.session.error(
                "the board did not start a job",
                "disk_full" if "No space left" in done.console or done.exit_code == 73 else "remote_file",
                console=done.console,
                file=self.folder,
                found=done.console.strip()[-300:] or f"exit code {done.exit_code}",
                next_step="check that the board has sh, setsid and flock, and space",
            )

    def look(self, offset: int = 0, on_line: Callable[[str], None] | None = None) -> JobState:
        """How far it is, without waiting; new lines of the log on the way."""
        lines = _Lines(on_line, offset)
        return self.session.persist(lambda: self._follow(lines, "look", 60.0))

    def follow(
        self,
        on_line: Callable[[str], None] | None = None,
        limit: float = 3600.0,
        patience: float | None = None,
        offset: int = 0,
        silence: float | None = None,
    ) -> Completed:
        """Wait for its end, its log line by line meanwhile. A lost connection is taken up where it was.

        Args:
            limit: seconds until we stop believing in an end; the board itself ends the job before.
            patience: seconds after which `StillRunning` is raised instead.
            silence: seconds without a line in its log after which it counts as hanging; waiting for the board's lock is no silence.
        Returns:
            The command's exit code; `stdout` is empty: `on_line` had it.
        Raises:
            StillRunning: it goes on.
            BrokenError: kinds `killed`, `timeout`, `silence`, `board_busy`, or that of the session.
        """
        started, lines = time.monotonic(), _Lines(on_line, offset)
        while True:
            left = limit - (time.monotonic() - started)
            wait = min(left, patience - (time.monotonic() - started)) if patience is not None else left
            if wait <= 0 < left:
                raise StillRunning(self.session.name, self.id, lines.offset)
            try:
                found = self.session.persist(lambda: self._follow(lines, "wait", max(1.0, wait), silence))  # noqa: B023
            except BrokenError as error:
                if error.kind == "timeout" and wait < left:
                    continue
                raise
            lines.finish()
            return self.ended(found, time.monotonic() - started)

    def ended(self, found: JobState, seconds: float = 0.0) -> Completed:
        """What the end of a job means.

        Raises:
            BrokenError: kinds `killed`, `timeout`, `board_busy`.
        """
        if found.exit_code == BUSY:
            raise self.session.error(
                "somebody else is using the board", "board_busy", file=LOCK_FILE, next_step=f"on the board: fuser -v {LOCK_FILE}"
            )
        if found.exit_code == TIMED_OUT:
            raise self.session.error(
                "the job took too long and was killed on the board",
                "timeout",
                file=self.folder,
                next_step="raise the timeout if the board is merely slow; else check what else runs on it",
            )
        if found.exit_code is None:
            raise self.session.error(
                "the job was killed on the board" if found.state == "killed" else "the board has lost the job",
                "killed",
                file=self.folder,
                next_step="look at dmesg (out of memory?) and uptime (did it reboot?) of the board",
            )
        return Completed((self.id,), found.exit_code, "", "", seconds)

    def cancel(self) -> None:
        """Kill its process group. One that has not begun never will."""
        self.session.persist(lambda: self.session.run(["sh", "-c", _CANCEL, "sh", str(self.folder)]))

    def remove(self) -> None:
        """Delete its folder. Not to be called while it runs."""
        self.session.persist(lambda: self.session.run(["rm", "-rf", str(self.folder)]))

    # --- inside ---

    def _follow(self, lines: _Lines, how: str, timeout: float, silence: float | None = None) -> JobState:
        argv = ["sh", "-c", _FOLLOW, "sh", str(self.folder), str(lines.begin()), how]
        done = self.session.run(argv, timeout, on_data=lines.take, silence=silence)
        word = done.stderr.split()[-1] if done.stderr.split() else ""
        if word.lstrip("-").isdecimal():
            return JobState("ended", int(word), lines.offset)
        if word in ("running", "killed", "gone"):
            return JobState(word, None, lines.offset)  # type: ignore[arg-type]
        raise self.session.error("the board does not say how a job is", "remote_file", console=done.console, file=self.folder)


class _Lines:
    """Cuts a growing log into lines, over several connections.

    Attributes:
        offset: bytes of whole lines seen so far; reading goes on there.
    """

    def __init__(self, on_line: Callable[[str], None] | None, offset: int) -> None:
        self.on_line = on_line
        self.offset = offset
        self._rest = b""

    def begin(self) -> int:
        self._rest = b""
        return self.offset

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self.offset += len(line) + 1
            if self.on_line:
                self.on_line(line.decode(errors="replace"))

    def finish(self) -> None:
        """The end of a log need not be a whole line."""
        if self._rest:
            self.take(b"\n")
