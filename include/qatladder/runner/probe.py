"""What an environment has, as a job of its own: `qatladder env check`. Python 3.8, standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from typing import Any, Dict, Optional

from qatladder.runner.__main__ import installed

TOOLS = ("hb_mapper", "hbdk-cc", "hbdk-sim", "hbdk-model-verifier", "hb_compile", "hb_verifier", "hbm_infer")
"""The vendors' programs that a toolchain starts."""


def probe() -> Dict[str, Any]:
    """The interpreter, what is installed, which of the vendors' programs are on PATH, and the machine.

    Returns:
        {"python", "system", "cpus", "memory_mb" or None, "numpy": whether it can be found, "packages": ["name-version"...],
        "contents": sha256 of what their installers say they put there,
        "tools": {name: path}}
    """
    return {
        "python": platform.python_version(),
        "system": "{} {}".format(platform.system(), platform.machine()),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_mb": _memory_mb(),
        "numpy": importlib.util.find_spec("numpy") is not None,
        "packages": installed(),
        "contents": contents(),
        "tools": {name: path for name, path in ((name, shutil.which(name)) for name in TOOLS) if path},
    }


def contents() -> str:
    """sha256 over the RECORD of every package: a package installed anew under its old version has another one."""
    digest = hashlib.sha256()
    for folder in sorted({os.path.realpath(item) for item in sys.path if os.path.isdir(item)}):
        for name in sorted(item for item in os.listdir(folder) if item.endswith(".dist-info")):
            try:
                with open(os.path.join(folder, name, "RECORD"), encoding="utf-8", errors="replace") as file:
                    # what the installer wrote itself differs from machine to machine: scripts with paths, notes, caches
                    lines = sorted(
                        line for line in file if not line.startswith("..") and ".dist-info/" not in line and "__pycache__" not in line
                    )
            except OSError:
                continue
            digest.update(name.encode() + "".join(lines).encode())
    return digest.hexdigest()


def _memory_mb() -> Optional[int]:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6)
    except (ValueError, OSError, AttributeError):
        return None
