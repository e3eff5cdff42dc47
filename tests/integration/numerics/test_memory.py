"""Promises: two 10 GB tensors are compared in under 512 MB of memory, mapped pages counted, and one wrong byte in them is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qatladder.runner.client import LIBRARY

GIGABYTE = 10**9
SHAPE = (10, 1000, 1000, 1000)

SCRIPT = """
import json, sys
from qatladder.cli import main
sys.argv = ["qatladder", "compare", *sys.argv[1:], "--json"]
try:
    main()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def sparse(path: Path, byte: int | None = None) -> Path:
    """An int8 .npy of 10 GB that takes no space on disk: all zero but one element."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=SHAPE)
    if byte is not None:
        array.reshape(-1)[byte] = 1
    array.flush()
    return path


def test_two_10_gb_tensors_are_compared_in_under_512_mb(tmp_path: Path) -> None:
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < GIGABYTE:
        pytest.skip("less than 1 GB of disk left")
    expected, found = sparse(tmp_path / "a.npy"), sparse(tmp_path / "b.npy", 9_876_543_210)
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(expected), str(found)], env=environment, capture_output=True, text=True, timeout=600
    )
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert (result["stats"]["count"], result["stats"]["mismatches"]) == (10 * GIGABYTE, 1)
    assert result["stats"]["first"] == [9, 876, 543, 210]
    peak = int(done.stderr.split()[-1]) * 1024
    assert peak < 512 * 2**20, f"{peak / 2**20:.0f} MiB"
    print(f"peak {peak / 2**20:.0f} MiB")
