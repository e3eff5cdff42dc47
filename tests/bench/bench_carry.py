"""A second night over the unchanged sample zoo against the first, in one run. Prints; `make bench`. Needs the trained zoo and the vendor tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qatladder.settings import PROJECT, load_settings


@pytest.mark.timeout(1800)
def test_a_second_night(tmp_path: Path) -> None:
    trained = load_settings().home / "zoo"
    if not (trained / "digits_cnn" / "manifest.json").exists() or not load_settings().vendor_python.exists():
        pytest.skip("the sample zoo is not trained, or the vendor environment is missing")
    (tmp_path / "zoo").symlink_to(trained)
    environment = {**os.environ, "QATLADDER_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT / "include")}
    environment.pop("QATLADDER_STORE", None)
    seconds, carried = [], []
    for _ in range(2):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "qatladder.cli", "sweep"], env=environment, capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 1, done.stdout + done.stderr  # one of the sample models does not ship
        newest = max((tmp_path / "evidence" / "runs").glob("cli-*/report.json"), key=lambda path: path.stat().st_mtime)
        rungs = [rung for ladder in json.loads(newest.read_text())["ladders"] for rung in ladder["rungs"]]
        carried.append(f"{sum(bool(rung['carried']) for rung in rungs)} of {len(rungs)} rungs carried over")
    print(
        f"\nfirst night {seconds[0]:.1f} s ({carried[0]}), second {seconds[1]:.1f} s ({carried[1]}): {seconds[0] / seconds[1]:.1f} times faster"
    )
