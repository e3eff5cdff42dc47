"""The same results, faster: kernels compiled by numba where it is installed and the data is large enough to be worth it.

Nothing outside this package imports numba. A module of numerics asks for its kernels and does the same work with numpy when
there are none:

    kernels = accelerated.load("compare", nbytes)
    if kernels is None: ...numpy...

`QATLADDER_ACCELERATE=0` turns the kernels off, `=1` uses them for data of any size (tests hold both against each other).
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Optional

WORTH_BYTES = 4 << 20
"""Below this numpy is done before numba is imported (0.3 s) and its kernels are loaded from their cache."""

WORTH_BYTES_LOADED = 1 << 16
"""The same once the kernels are there."""


def load(name: str, nbytes: int) -> Optional[ModuleType]:
    """The kernels `qatladder.numerics.accelerated.<name>`; None when numpy shall do the work.

    Args:
        nbytes: size of the data the kernels would work on.
    """
    wish = os.environ.get("QATLADDER_ACCELERATE", "")
    worth = WORTH_BYTES_LOADED if __name__ + "." + name in sys.modules else WORTH_BYTES
    if wish == "0" or (wish != "1" and nbytes < worth):
        return None
    try:
        return importlib.import_module(__name__ + "." + name)
    except (ImportError, RuntimeError):  # not installed; or no folder where numba may keep what it compiled
        return None
