"""What went wrong in a job, and whose fault it is: the model's own code, the machine, or ours.

`describe` runs in the job's process and writes down what only that process knows; `raised` turns it into the exception of
the process that asked. Only the model's own code makes a model `failed`; the other two are `broken`.

| what the job raised                                                   | becomes                                      |
|-----------------------------------------------------------------------|----------------------------------------------|
| an error of `qatladder.errors`                                        | the same                                     |
| no memory, a full or failing disk                                     | BrokenError: `memory`, `disk_full`, `disk`   |
| a package that is missing in, or does not load in, the environment    | BrokenError: `environment_incomplete`        |
| anything else with the adapter, or what it calls, in the traceback    | RunnerError                                  |
| a value the adapter returned that its caller cannot use               | RunnerError                                  |
| anything else                                                         | BrokenError: `internal`, a bug of ours       |

Python 3.8, standard library only.
"""

from __future__ import annotations

import errno
import os
import re
import sysconfig
import traceback
from typing import Any, Dict, List, Tuple

from qatladder import errors

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""The folder of the `qatladder` package."""

_TAKES_WHAT_ADAPTERS_RETURN = tuple(os.path.join(PACKAGE, "runner", name) for name in ("evaluate.py", "adapter.py"))
_MISFITS = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError)

_BY_ERRNO = {
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EIO: "disk",
    errno.ESTALE: "disk",
}
_BY_TEXT = (  # of torch, ONNX Runtime and numpy (whose tofile raises an OSError without errno)
    ("memory", re.compile(r"out of memory|bad_alloc|MemoryError|(can't|cannot|failed to) allocate memory|ALLOC_FAILED", re.IGNORECASE)),
    ("disk_full", re.compile(r"No space left|Disk quota exceeded|requested and \d+ written|PytorchStreamWriter failed writing")),
)
_MESSAGES = {
    "memory": ("the job ran out of memory", "give the task more memory, or run fewer at once; a smaller `batch` of the adapter needs less"),
    "disk_full": ("the disk is full", "free space in the data folder, then run this rung again"),
    "disk": ("the disk or the network share failed", "check the disk or the mount, then run this rung again"),
}


def describe(error: BaseException) -> Dict[str, Any]:
    """An exception as plain JSON data, to be called while it is handled.

    Returns:
        {"type", "bases": ["module.Class", ...] with the type first, "message", "next_step", "where", "kind", "console" (the last four of
        our own errors), "errno" of an OSError, "module" that an import missed, "at": the last frame, "blame": see `_blame`, "traceback"}.
    """
    own = error if isinstance(error, errors.QATLadderError) else None
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "type": type(error).__name__,
        "bases": ["{}.{}".format(base.__module__, base.__qualname__) for base in type(error).__mro__],
        "message": own.message if own else str(error) or type(error).__name__,
        "next_step": own.next_step if own else "",
        "where": own.where if own else {},
        "kind": str(getattr(own, "kind", "")),
        "console": str(getattr(own, "console", "")),
        "errno": error.errno if isinstance(error, OSError) else None,
        "module": (error.name or "") if isinstance(error, ImportError) else "",
        "at": 'File "{}", line {}, in {}'.format(frames[-1].filename, frames[-1].lineno, frames[-1].name) if frames else "",
        "blame": _blame(error, [frame.filename for frame in frames]),
        "traceback": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }


def _blame(error: BaseException, files: List[str]) -> str:
    """Whose fault an exception is, if it is not the machine's: "model", "environment" (a package of it is at fault) or "" (ours)."""
    if isinstance(error, ImportError):
        if (error.name or "").split(".")[0] == "qatladder" or _within(error.path or "", PACKAGE):
            return ""
        own_module = bool(error.path) and not _of_environment(str(error.path)) and not isinstance(error, ModuleNotFoundError)
        return "model" if own_module else "environment"
    if isinstance(error, SyntaxError) and error.filename:
        files = [*files, error.filename]
    if any(not _within(file, PACKAGE) and not _is_tool_of_ours(file) for file in files):
        return "model"
    takes = any(os.path.realpath(file) in _TAKES_WHAT_ADAPTERS_RETURN for file in files)
    return "model" if takes and isinstance(error, _MISFITS) else ""


def _within(file: str, folder: str) -> bool:
    return os.path.realpath(file).startswith(os.path.join(folder, ""))


def _is_tool_of_ours(file: str) -> bool:
    """The standard library and numpy: our own code calls them too, and an adapter that calls them has a frame of its own."""
    if file.startswith("<"):  # frozen modules, generated code of dataclasses, numpy's dispatch
        return True
    if "site-packages" in file or "dist-packages" in file:
        return re.search(r"-packages/numpy/", file.replace(os.sep, "/")) is not None
    return _of_environment(file)


def _of_environment(file: str) -> bool:
    if "site-packages" in file or "dist-packages" in file:
        return True
    paths = sysconfig.get_paths()
    return any(_within(file, os.path.realpath(paths[key])) for key in ("stdlib", "platstdlib"))


def raised(error: Dict[str, Any], call: str, environment: str, where: Dict[str, Any]) -> errors.QATLadderError:
    """The exception to raise for an error that `describe` wrote down in the environment of that name."""
    merged = dict(where)
    merged.update(error["where"])
    for base in error["bases"]:
        kind = getattr(errors, base[len("qatladder.errors.") :], None) if base.startswith("qatladder.errors.") else None
        if isinstance(kind, type) and issubclass(kind, errors.BrokenError):
            return kind(error["message"], error["next_step"], kind=error["kind"], console=error["console"], **merged)
        if isinstance(kind, type) and issubclass(kind, errors.QATLadderError):
            return kind(error["message"], error["next_step"], **merged)
    text = "{}: {}".format(error["type"], error["message"])
    merged.update(call=call, at=error["at"], environment=environment)
    starved = _starved(error)
    if starved:
        message, next_step = _MESSAGES[starved]
        return errors.BrokenError("{}: {}".format(message, text), next_step, kind=starved, **merged)
    if error["blame"] == "environment":
        return errors.BrokenError(
            "the environment cannot import what the job needs: {}".format(text),
            "install {} in the environment {!r}, or name another environment in the zoo entry".format(
                error["module"] or "what is missing", environment
            ),
            kind="environment_incomplete",
            **merged,
        )
    if error["blame"] == "model":
        return errors.RunnerError(text, "the full traceback is in the task log", **merged)
    return errors.BrokenError(
        "a bug in QATLadder: {}".format(text), "report it with the traceback in the task log", kind="internal", **merged
    )


def of_console(console: str) -> Tuple[str, str]:
    """(kind, next step) of a process that died without a result, from the last lines it printed."""
    for kind, pattern in _BY_TEXT:
        if pattern.search(console):
            return kind, _MESSAGES[kind][1]
    return "killed", "exit code -9 is usually the memory limit; look at the last lines of the log"


def _starved(error: Dict[str, Any]) -> str:
    """The kind of an error for which the machine is at fault; empty for any other."""
    if "builtins.MemoryError" in error["bases"]:
        return "memory"
    if error["errno"] is not None:
        return _BY_ERRNO.get(error["errno"], "")
    names = {base.rpartition(".")[2] for base in error["bases"]}
    if names & {"RuntimeError", "OSError", "RuntimeException"}:  # the last is ONNX Runtime's, and no RuntimeError
        return next((kind for kind, pattern in _BY_TEXT if pattern.search(error["message"])), "")
    return ""
