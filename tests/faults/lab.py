"""The fault laboratory: boards of our own to break.

A board is a set of Linux namespaces with OpenSSH's sshd in it: its own network, reached over one wire (`wire.py`), its own
processes, so that whatever is left behind can be seen, and its own files. As on a real board /tmp is lost in a reboot, /mnt
is not; everything else of this machine is read-only there. `hrt_model_exec` is the virtual board's, behind a wrapper that logs
each start and can be told to misbehave.

Nothing outside the namespaces is changed: no address, no mount, no process; all of it ends with the process that made it.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from qatladder.boards.fleet import BoardSpec
from qatladder.boards.virtual.server import prepare
from qatladder.settings import PROJECT, load_settings

from .wire import enter_network, network_of

WIRE = Path(__file__).with_name("wire.py")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
LOCK_FILE = "/tmp/hbdk_model_verifier.lock"
"""The lock of the vendor's verifier, which whoever uses the BPU must hold."""

PATIENCE = 30.0
"""Seconds after which something that must happen has not happened; generous, as nothing that works waits so long."""

# Ends with its standard input, and with it every process of the board. SIGCHLD is ignored: no orphan stays as a zombie.
_BOOT = """
set -e
read -r pid _ </proc/self/stat
board=$1; shift
mount -t proc proc /proc
mount --bind "$board" /mnt
mount -t tmpfs tmpfs /mnt/tmp
for kept; do
  case "$kept" in /tmp/*) mkdir -p "/mnt/tmp/${kept#/tmp/}"; mount --bind "$kept" "/mnt/tmp/${kept#/tmp/}" ;; esac
done
mount --move /mnt/tmp /tmp
mount -o bind,ro /root /root
mount -t tmpfs tmpfs /run
mkdir /run/sshd
mount --bind /mnt/etc/shadow /etc/shadow
mount -o remount,bind,ro /
ip link set lo up
echo "$pid"
trap '' CHLD
exec cat >/dev/null
"""

# The log's lines are in the order of the events: each is appended at once. `hold` keeps every inference at its start.
_WRAPPER = """#!/bin/sh
REAL=/mnt/bin/real OUT=.
for word; do case "$word" in --dump_path=*) OUT=${{word#*=}} ;; esac; done
echo "begin $1 $$" >>/mnt/tool.log
case "$1" in infer) while test -e /mnt/hold; do sleep 0.02; done ;; esac
case "$1" in infer)
{infer}
;; *)
{other}
;; esac
code=$?
echo "end $1 $$" >>/mnt/tool.log
exit $code
"""
REAL = '"$REAL" "$@"'


def missing() -> str:
    """Why there can be no such board on this machine; empty when there can."""
    if os.geteuid() != 0:
        return "namespaces and TUN devices need root"
    for tool in ("ip", "unshare", "nsenter", "flock", "openssl"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if SSHD is None:
        return "openssh-server is not installed"
    if not Path("/dev/net/tun").exists():
        return "this machine has no /dev/net/tun"
    if PROJECT.is_relative_to("/mnt"):
        return "the project is in /mnt, where a board keeps its own files"
    argv = ["unshare", "--mount", "--pid", "--net", "--fork", "sh", "-c", "mount -t tmpfs tmpfs /mnt && ip tuntap add probe mode tun"]
    done = subprocess.run(argv, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"namespaces cannot be made here: {done.stderr.strip()[-200:]}"


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.01)


class Wire:
    """See `wire.py`. A new wire neither delays nor loses."""

    def __init__(self, client_pid: int, board_pid: int, number: int) -> None:
        argv = [sys.executable, str(WIRE), str(client_pid), str(board_pid), str(number)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        assert self._process.stdout and self._process.stdout.readline() == "ready\n", "the wire did not come up"

    def tell(self, **behaviour: float) -> tuple[int, int]:
        """Change what is named (`delay`, `loss`, `rate`). Returns the bytes delivered so far: (to the board, to us)."""
        assert self._process.stdin and self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(behaviour) + "\n")
            self._process.stdin.flush()
            to_board, to_us = json.loads(self._process.stdout.readline())
        return to_board, to_us

    def cut(self) -> None:
        self.tell(loss=1)

    def restore(self) -> None:
        self.tell(loss=0, delay=0, rate=0)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(PATIENCE)


class LabBoard:
    """One board of the laboratory. `spec` is what the product is told of it.

    Args:
        folder: what the board sees as /mnt.
        client_pid: a process in the network namespace of the board's clients.
        number: of the board in its laboratory, from 1.
        password: also let root in with it; None: keys only.
    """

    def __init__(self, folder: Path, client_pid: int, number: int = 1, password: str | None = None) -> None:
        self.folder = folder
        self._client_pid, self._number, self._password = client_pid, number, password
        self.keys = folder.with_name(f"{folder.name}-client")
        for path in (folder / "tmp", folder / "etc", folder / "bin", folder / "home", folder / "userdata", self.keys):
            path.mkdir(parents=True)
        self.known_hosts = self.keys / "known_hosts"
        self.new_host_key()
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(self.keys / "key"))
        (self.keys / "key").chmod(0o600)
        (folder / "etc" / "authorized_keys").write_text(key.export_public_key().decode())
        self.spec = BoardSpec(
            name=f"lab-{number}",
            march="bayes-e",
            host=f"10.213.{number}.2",
            user=getpass.getuser(),
            key_file=self.keys / "key",
            known_hosts=self.known_hosts,
            workdir="/mnt/userdata/qatladder",
            tool="/mnt/bin/hrt_model_exec",
        )
        self._configure()
        self.behave()

    def _configure(self) -> None:
        etc, settings = self.folder / "etc", load_settings()
        virtual = BoardSpec(name="tool", march="bayes-e", host="127.0.0.1", virtual=True)
        shutil.copy2(prepare(virtual, replace(settings, home=self.keys)).tools / "hrt_model_exec", self.folder / "bin" / "real")
        if self._password:
            argv = ["openssl", "passwd", "-6", "-stdin"]
            coded = subprocess.run(argv, input=self._password, capture_output=True, text=True, check=True).stdout.strip()
        else:
            coded = "*"
        (etc / "shadow").write_text(f"root:{coded}:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
        (etc / "shadow").chmod(0o600)
        options = {
            "HostKey": "/mnt/etc/host_key",
            "AuthorizedKeysFile": "/mnt/etc/authorized_keys",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "yes" if self._password else "no",
            "KbdInteractiveAuthentication": "no",
            "StrictModes": "no",
            "SetEnv": "HOME=/mnt/home",
            "UsePAM": "no",
            "UseDNS": "no",
            "PidFile": "none",
            "LogLevel": "VERBOSE",
            "Subsystem": "sftp internal-sftp",
        }
        (etc / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in options.items()))

    def new_host_key(self, known: bool = True) -> None:
        """A fresh host key, and what clients know of it (unless `known` is False); for the next start of sshd."""
        key = asyncssh.generate_private_key("ssh-ed25519")
        path = self.folder / "etc" / "host_key"
        path.unlink(missing_ok=True)
        key.write_private_key(str(path))
        path.chmod(0o600)
        if known:
            self.known_hosts.write_text(f"10.213.{self._number}.2 {key.export_public_key().decode()}")

    # --- power, server, wire ---

    def boot(self) -> None:
        """Power on: the board, its wire and its sshd."""
        settings = load_settings()
        kept = [str(PROJECT), str(settings.vendor_python.parents[1].absolute())]
        argv = ["unshare", "--mount", "--pid", "--net", "--fork", "sh", "-c", _BOOT, "sh", str(self.folder), *kept]
        self._power = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._power.stdout and self._power.stderr
        said = self._power.stdout.readline()
        assert said, f"the board did not boot: {self._power.stderr.read()}"
        self.pid = int(said)
        self.wire = Wire(self._client_pid, self.pid, self._number)
        self.start_sshd()

    def power_off(self) -> None:
        """Everything on the board stops at once, and nobody closes a connection."""
        assert self._power.stdin
        self.wire.close()
        self._power.stdin.close()
        self._power.wait(PATIENCE)

    def reboot(self) -> None:
        self.power_off()
        self.boot()

    def inside(self, *argv: str) -> list[str]:
        """The command that runs `argv` on the board, without SSH."""
        return ["nsenter", "-t", str(self.pid), "--mount", "--pid", "--net", "--", *argv]

    def start_sshd(self) -> None:
        assert SSHD
        with (self.folder / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(self.inside(SSHD, "-D", "-e", "-f", "/mnt/etc/sshd_config"), stdin=subprocess.DEVNULL, stderr=log)
        until(lambda: subprocess.run(self.inside("ss", "-Hltn", "sport = :22"), capture_output=True).stdout, "sshd listens")

    def kill_sshd(self) -> None:
        """The server and all its sessions die at once, and nothing else."""
        while doomed := [pid for pid, (_, command) in self._processes().items() if _is_sshd(command)]:
            for pid in doomed:
                subprocess.run(["kill", "-KILL", str(pid)], stderr=subprocess.DEVNULL)
            time.sleep(0.01)
        self._sshd.wait(PATIENCE)

    def kill(self, command: str) -> None:
        """Kill every process of the board with exactly this command line."""
        for pid, (_, found) in self._processes().items():
            if found == command:
                subprocess.run(["kill", "-KILL", str(pid)], stderr=subprocess.DEVNULL)

    # --- what it does ---

    def behave(self, infer: str = REAL, other: str = REAL) -> None:
        """Make hrt_model_exec a shell script; `$REAL` in it is the real tool, `$OUT` the dumps' folder. `other` is for all but `infer`."""
        wrapper = self.folder / "bin" / "wrapper"
        wrapper.write_text(_WRAPPER.format(infer=infer, other=other))
        wrapper.chmod(0o755)
        wrapper.replace(self.folder / "bin" / "hrt_model_exec")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Every inference waits at its start until the end of the block."""
        (self.folder / "hold").touch()
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        (self.folder / "hold").unlink(missing_ok=True)

    def log(self, word: str = "") -> list[str]:
        """The tool's log: `begin infer 12`, `end infer 12` ..., in the order of the events; only lines that start with `word`."""
        path = self.folder / "tool.log"
        return [line for line in (path.read_text().splitlines() if path.exists() else []) if line.startswith(word)]

    @property
    def starts(self) -> int:
        """Inferences started so far."""
        return len(self.log("begin infer"))

    # --- what is left ---

    def path(self, path: str) -> Path:
        """A path of the board, seen from here."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def _processes(self) -> dict[int, tuple[int, str]]:
        """Every process on the board but its first, by process id out here: (parent, command line)."""
        ours = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # it ended meanwhile
                if entry.name.isdigit() and int(entry.name) != self.pid and (entry / "ns" / "pid").readlink() == ours:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if command:  # a zombie has none
                        found[int(entry.name)] = (parent, command)
        return found

    def processes(self) -> list[str]:
        """Command lines of what nobody on this side waits for: not sshd, and started by no SSH session.

        The BPU is another matter: whatever uses it or holds the lock is listed, whoever started it. (A session whose link was cut
        for good stays on the board until its sshd finds out, and a shell may wait for input in it.)
        """
        found = self._processes()

        def in_session(pid: int) -> bool:
            parent, command = found.get(pid, (0, ""))
            return _is_sshd(command) or (bool(parent) and in_session(parent))

        return [
            command
            for pid, (_, command) in found.items()
            if not _is_sshd(command) and (not in_session(pid) or "hrt_model_exec" in command or "flock" in command)
        ]

    def lock_is_free(self) -> bool:
        return subprocess.run(self.inside("flock", "-n", LOCK_FILE, "true"), capture_output=True).returncode == 0

    def job_folders(self) -> list[str]:
        folder = self.path(f"{self.spec.workdir}/jobs")
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def assert_clean(self) -> None:
        """Nothing of ours runs, nothing holds the lock, no job and no half-sent file is left."""
        until(lambda: not self.processes(), "the board is left alone")
        assert self.lock_is_free()
        assert self.job_folders() == []
        assert not [path for path in self.path(self.spec.workdir).rglob("*") if ".part" in path.name]


def _is_sshd(command: str) -> bool:
    return command.startswith(("sshd: ", str(SSHD)))


@contextmanager
def laboratory(folder: Path, count: int = 1, password: str | None = None) -> Iterator[list[LabBoard]]:
    """Running boards, and this thread in the network namespace of their clients.

    Skips the test, with the reason, on a machine that cannot have them.
    """
    if reason := missing():
        pytest.skip(f"no fault laboratory: {reason}")
    with ExitStack() as stack:
        argv = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec cat >/dev/null"]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert client.stdin and client.stdout and client.stdout.readline() == "up\n"
        stack.callback(client.wait, PATIENCE)
        stack.callback(client.stdin.close)
        boards = [LabBoard(folder / f"board{number}", client.pid, number, password) for number in range(1, count + 1)]
        for board in boards:
            board.boot()
            stack.callback(board.power_off)
        back = stack.enter_context(Path("/proc/thread-self/ns/net").open())
        stack.callback(enter_network, Path(f"/proc/self/fd/{back.fileno()}"))
        enter_network(network_of(client.pid))
        yield boards
