"""`python -m qatladder.runner JOB.json`: run one job and write `result.json` beside it.

Job file:    {"protocol": 1, "call": "package.module:function", "args": {...}, and what only `supervise.py` reads:
              "limits": {"seconds", "memory_mb", "heartbeat"}, "environment": {"variables", "path", "paths"}};
              with "watch": [folders that say nothing], what it reads is noted (`qatladder.runner.seen`)
Result file: {"protocol": 1, "ok": true, "value": ..., "seconds": ..., "environment": {...}, "seen": report or null}
         or  {"protocol": 1, "ok": false, "error": as `qatladder.runner.failures.describe` has it, ...}

The result file is written last and atomically: its absence means the process died. What the job prints is its log.
Only functions of `qatladder` can be called; tensors travel as .npy files named in args and value.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, Optional

from qatladder.runner.failures import describe
from qatladder.runner.seen import Watch

PROTOCOL = 1

_PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "hmct", "hbdk", "horizon_tc_ui", "horizon_plugin_pytorch", "great_expectations")


def installed() -> List[str]:
    """`name-version` of every package on sys.path, sorted: from the names of their metadata folders, in milliseconds."""
    found = set()
    for folder in sys.path:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info"):
                found.add("-".join(stem.split("-")[:2]).lower().replace("_", "-"))
    return sorted(found)


def environment() -> Dict[str, str]:
    """Interpreter, versions of the packages the job imported, and `sha256` of the interpreter's version and all that is installed."""
    found = {"python": platform.python_version(), "executable": sys.executable, "machine": platform.machine()}
    everything = "\n".join([sys.version, platform.machine(), *installed()])
    found["sha256"] = hashlib.sha256(everything.encode()).hexdigest()
    for name in _PACKAGES:
        module = sys.modules.get(name)
        version = getattr(module, "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the whole file or none of it."""
    temporary = path.with_name(path.name + ".part")
    with open(str(temporary), "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(temporary), str(path))


def main(job_file: str) -> int:
    path = Path(job_file)
    started = time.time()
    result: Dict[str, Any] = {"protocol": PROTOCOL, "ok": False}
    watch: Optional[Watch] = None
    try:
        job = json.loads(path.read_text(encoding="utf-8"))
        if job.get("protocol") != PROTOCOL:
            raise ValueError("job protocol {} where this runner speaks {}".format(job.get("protocol"), PROTOCOL))
        module_name, _, function_name = job["call"].partition(":")
        if not module_name.startswith("qatladder."):
            raise ValueError("only functions of qatladder can be called, not {!r}".format(job["call"]))
        if "watch" in job:
            watch = Watch(path.parent / "seen.txt", [str(path.parent), *job["watch"]])
            watch.start()
        function = getattr(importlib.import_module(module_name), function_name)
        result["value"] = function(**job["args"])
        result["ok"] = True
    except (Exception, SystemExit) as error:
        result["error"] = describe(error)
        sys.stdout.flush()
        traceback.print_exc()
    result["seconds"] = round(time.time() - started, 3)
    result["seen"] = watch.report() if watch else None
    result["environment"] = environment()
    write_json(path.parent / "result.json", result)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread the adapter left behind keeps nobody waiting: the result is written
