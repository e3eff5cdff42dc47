"""What a job read besides what it was given: so that a job of which nothing has changed need not run again.

A hook of the interpreter (PEP 578) sees every file that Python opens and every folder it lists, in the process and in what it forks.
What it cannot see is said (`blind`): reads of C libraries that open files themselves, other programs, the network. Python 3.8, standard
library only.

A file's state is [size, modification time in ns, sha256]; None when it does not exist. A folder's is the sha256 of its listing: names, and
sizes and times of its files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import stat
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Set

State = Optional[List[Any]]

BLIND_MODULES = ("cv2", "h5py", "lmdb", "decord", "av", "nvidia.dali", "tensorflow", "netCDF4", "tables", "zarr")
"""Packages that open files on their own, past the interpreter."""

BLIND_CALLS = ("InferenceSession(", "read_table(", "jit.load(", "read_image(", "read_video(", "VideoReader(")
"""Calls in the adapter's own code that open files past the interpreter, of packages that are imported for other reasons, too."""

_OTHER_START_METHODS = (
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.popen_forkserver",
    "joblib.externals.loky.backend.popen_loky_posix",
    "loky.backend.popen_loky_posix",
)

_HARMLESS = ("ldconfig", "uname", "gcc", "cc", "ld", "objdump", "lscpu", "nvidia-smi")
"""Programs that libraries start to learn about the machine; they read no data."""

_OF_THE_MACHINE = ("/proc", "/sys", "/dev")

CHANGED = "changed while it ran"
"""End of the reason that nothing an entry declares takes away: what was read is not what is there."""


class Watch:
    """Notes what the interpreter reads, from `start` on.

    Args:
        notes: file the notes go to, line by line: processes that are forked write to it, too.
        ignored: folders whose files say nothing: scratch, and what the caller knows already.
    """

    def __init__(self, notes: Path, ignored: Sequence[str] = ()) -> None:
        self.started = time.time_ns()
        self._notes = notes
        # not the whole prefix: an environment may be made around a project, and /usr holds more than Python
        installed = [path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib")]
        own = [*installed, os.path.dirname(os.__file__), str(Path(__file__).resolve().parents[1]), *_OF_THE_MACHINE]
        folders = [*own, *(path for path in sys.path if path.endswith(("site-packages", "dist-packages"))), *ignored, str(notes)]
        self._ignored = tuple({os.path.realpath(folder) for folder in folders} | set(folders))
        self._told: Set[str] = set()
        self._file = os.open(str(notes), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def start(self) -> None:
        """Watch until the process ends: a hook cannot be taken away."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: Any) -> None:
        try:
            if event == "open":
                self._opened(*args)
            elif event in ("os.listdir", "os.scandir"):
                # the importer lists the folders it searches; what it finds there is noted as a module
                if "importlib" not in sys._getframe(1).f_code.co_filename:
                    self._note("folder", args[0] if args[0] is not None else ".")
            elif event == "ctypes.dlopen":
                if isinstance(args[0], (str, bytes)) and "/" in os.fsdecode(args[0]):
                    self._note("file", args[0])
            elif event == "sqlite3.connect":
                self._note("file", args[0])
            elif event == "socket.connect":
                if isinstance(args[1], tuple):  # a path is a socket of this machine
                    self._note("blind", "it reads from the network ({})".format(args[1][0]))
            elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn"):
                program = os.path.basename(os.fsdecode(args[1] if event == "os.spawn" else args[0]))
                if program not in _HARMLESS:
                    self._note("blind", "it starts another program ({})".format(program))
            elif event == "os.system":
                self._note("blind", "it starts another program ({})".format(os.fsdecode(args[0]).split(" ")[0]))
        except Exception:
            pass  # a hook that raises would end what it watches

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if isinstance(flags, int) and flags & os.O_RDWR and not flags & (os.O_TRUNC | os.O_EXCL):
            writes = 0  # what is there already may be read: numpy.memmap opens so unless told otherwise
        self._note("written" if writes else "file", path)

    def _note(self, kind: str, what: Any) -> None:
        if isinstance(what, int):  # a file that is open already
            return
        text = os.fsdecode(what) if kind != "blind" else str(what)
        if kind != "blind":
            text = os.path.abspath(text)
            if _within(text, self._ignored):
                return
        line = json.dumps([kind, text])
        if line not in self._told:
            self._told.add(line)
            os.write(self._file, line.encode() + b"\n")

    def report(self) -> Dict[str, Any]:
        """{"files": [[path, state]...], "folders": [[path, state]...], "blind": [why what it read cannot all be seen...]}, each sorted."""
        noted: Dict[str, Set[str]] = {"file": set(), "folder": set(), "written": set(), "blind": set()}
        for line in self._notes.read_text(encoding="utf-8").splitlines():
            kind, text = json.loads(line)
            noted[kind].add(text)
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        sources = {os.path.abspath(path) for path in modules if isinstance(path, str)}
        read = {_source(path) for path in noted["file"]} | sources
        files = {path for path in read if not _within(path, self._ignored)} - noted["written"]
        blind = noted["blind"] | {"{} opens files on its own".format(name) for name in BLIND_MODULES if name in sys.modules}
        if any(name in sys.modules for name in _OTHER_START_METHODS):
            blind.add("it starts other processes of Python")
        own = [path for path in sorted(files) if path.endswith(".py")]
        blind |= {
            "{} calls {}...), which opens files on its own".format(os.path.basename(path), call) for path in own for call in _calls(path)
        }
        found = [(path, state_of(path)) for path in sorted(files) if not os.path.isdir(path)]
        blind |= {"{} {}".format(path, CHANGED) for path, state in found if state and max(state[1], _ctime(path)) >= self.started}
        folders = {path for path in noted["folder"] if not _within(path, self._ignored)}
        return {
            "files": [list(row) for row in found],
            "folders": [[path, listing_of(path)] for path in sorted(folders)],
            "blind": sorted(blind),
        }


def _calls(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return []
    return [call for call in BLIND_CALLS if call in text]


def _source(path: str) -> str:
    """The source of a cached module: it is compiled again when that changes, and perhaps nobody keeps the module where it is found."""
    if path.endswith(".pyc"):
        try:
            return importlib.util.source_from_cache(path)
        except ValueError:  # not of a cache: the module itself
            pass
    return path


def _ctime(path: str) -> int:
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return 0


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def state_of(path: str, known: State = None) -> State:
    """A file's state. The bytes are read only when size or time are not those of `known`."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        if known is not None and known[:2] == [found.st_size, found.st_mtime_ns]:
            return known
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, digest.hexdigest()]


def listing_of(path: str) -> Optional[str]:
    """sha256 of a folder's listing; None when it is none."""
    try:
        with os.scandir(path) as entries:
            rows = sorted(_row(entry) for entry in entries if entry.name != "__pycache__")
    except OSError:
        return None
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _row(entry: Any) -> List[Any]:
    try:
        found = entry.stat()
    except OSError:
        return [entry.name]
    return [entry.name, found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else [entry.name]


def changed(seen: Dict[str, Any]) -> Optional[str]:
    """The first thing of a report that is not as it was, in words; None when all is."""
    for path, known in seen["files"]:
        found = state_of(path, known)
        if (found or [None])[-1] != (known or [None])[-1]:
            return "{} {}".format(path, "is gone" if found is None else "is new" if known is None else "has changed")
    for path, known in seen["folders"]:
        if listing_of(path) != known:
            return "what is in {} has changed".format(path)
    return None
