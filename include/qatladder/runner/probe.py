"""What an environment has, as a job of its own: `qatladder env check`. Python 3.8, standard library only."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from typing import Any, Dict, Optional

from qatladder.runner.__main__ import installed

TOOLS = ("hb_mapper", "hbdk-cc", "hbdk-sim", "hbdk-model-verifier", "hb_compile", "hb_verifier", "hbm_infer")
"""The vendors' programs that a toolchain starts."""


def probe() -> Dict[str, Any]:
    """The interpreter, what is installed, which of the vendors' programs are on PATH, and the machine.

    Returns:
        {"python", "system", "cpus", "memory_mb" or None, "numpy": whether it can be found, "packages": ["name-version"...],
        "tools": {name: path}}
    """
    return {
        "python": platform.python_version(),
        "system": "{} {}".format(platform.system(), platform.machine()),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_mb": _memory_mb(),
        "numpy": importlib.util.find_spec("numpy") is not None,
        "packages": installed(),
        "tools": {name: path for name, path in ((name, shutil.which(name)) for name in TOOLS) if path},
    }


def _memory_mb() -> Optional[int]:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6)
    except (ValueError, OSError, AttributeError):
        return None
