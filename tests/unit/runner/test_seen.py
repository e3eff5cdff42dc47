"""Promises: what a job reads is noted, in forked children too; what cannot be seen is said; a change of any of it is found, and nothing else is."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from qatladder.runner import seen
from qatladder.runner.client import Environment, run_job

ADAPTER = """
import json, os, pathlib, sys, numpy as np
from neighbour import GAIN
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    metric = "accuracy"
    def __init__(self, code=""):
        self.code = code
    def samples(self, split, limit=None):
        exec(self.code)
        yield Sample({"x": np.zeros(1, "float32")}, 0)
    def preprocess(self, inputs):
        return {"x": inputs["x"][None]}
    def load(self, rung, artifact):
        return lambda tensors: {"y": tensors["x"]}
    def postprocess(self, outputs):
        return 0
    def score(self, predictions, targets):
        return {"accuracy": 1.0}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    (folder / "list.txt").write_text("a b")
    (folder / "pictures" / "a.txt").write_text("a")
    return folder


def watched(tmp_path: Path, data: Path, code: str) -> dict[str, Any]:
    """What a job saw whose adapter runs `code`, with `data` bound to the folder."""
    adapters = tmp_path / "adapters"
    adapters.mkdir(exist_ok=True)
    (adapters / "toy.py").write_text(ADAPTER)
    (adapters / "neighbour.py").write_text("GAIN = 1")
    (tmp_path / "m").write_text("")
    for path in [*adapters.iterdir(), tmp_path / "m"]:
        os.utime(path, (1e9, 1e9))
    code = f"data = pathlib.Path({str(data)!r})\n" + textwrap.dedent(code)
    args = {"adapter": f"{adapters}/toy.py:Toy", "options": {"code": code}, "rung": "float", "artifact": str(tmp_path / "m")}
    args.update(split="evaluation", limit=None, out=str(tmp_path / "rung" / "out"))
    call = "qatladder.runner.evaluate:evaluate"
    answer = run_job(Environment("lab", Path(sys.executable)), call, args, tmp_path / "rung" / "job", watch=[tmp_path / "rung"])
    assert answer.seen is not None
    return answer.seen


def names(report: dict[str, Any], what: str = "files") -> set[str]:
    return {Path(path).name for path, _ in report[what]}


READS = {
    "open": "open(data / 'list.txt').read()",
    "numpy": "np.fromfile(data / 'list.txt', 'uint8')",
    "memory map": "np.memmap(data / 'list.txt', 'uint8', 'r')",
    "a descriptor": "os.close(os.open(data / 'list.txt', os.O_RDONLY))",
    "a relative path": "os.chdir(data); open('list.txt').read()",
    "a forked child": "pid = os.fork()\nif not pid:\n    open(data / 'list.txt').read(); os._exit(0)\nos.waitpid(pid, 0)",
    "workers": "import multiprocessing as m\np = m.get_context('fork').Process(target=(data / 'list.txt').read_text); p.start(); p.join()",
    "a thread": "import threading\nt = threading.Thread(target=(data / 'list.txt').read_text); t.start(); t.join()",
}


@pytest.mark.parametrize("how", READS)
def test_every_way_to_read_a_file_is_seen(how: str, tmp_path: Path, data: Path) -> None:
    os.utime(data / "list.txt", (1e9, 1e9))
    report = watched(tmp_path, data, READS[how])
    assert names(report) >= {"list.txt", "toy.py", "neighbour.py"}
    assert report["blind"] == []
    assert seen.changed(report) is None
    (data / "list.txt").write_text("a c")
    assert seen.changed(report) == f"{data / 'list.txt'} has changed"


def test_only_what_may_change_is_noted(tmp_path: Path, data: Path) -> None:
    """Not the interpreter, its packages, our library, the job's own files."""
    report = watched(tmp_path, data, "import decimal, csv; (pathlib.Path('own.txt')).write_text('x'); open('own.txt').read()")
    assert names(report) == {"toy.py", "neighbour.py"}
    assert report["folders"] == []


@pytest.mark.parametrize(
    "listing", ["os.listdir(data / 'pictures')", "list(data.glob('pictures/*'))", "list(os.scandir(data / 'pictures'))"]
)
def test_a_listed_folder_is_noted_with_what_is_in_it(listing: str, tmp_path: Path, data: Path) -> None:
    report = watched(tmp_path, data, listing)
    assert "pictures" in names(report, "folders")
    assert seen.changed(report) is None
    (data / "pictures" / "__pycache__").mkdir()
    assert seen.changed(report) is None
    (data / "pictures" / "a.txt").write_text("other bytes, which no Python read")
    assert "pictures has changed" in str(seen.changed(report))


def test_a_file_that_comes_or_goes_is_a_change(tmp_path: Path, data: Path) -> None:
    report = watched(tmp_path, data, "try: open(data / 'more.txt')\nexcept OSError: pass")
    assert seen.changed(report) is None
    (data / "more.txt").write_text("")
    assert "more.txt is new" in str(seen.changed(report))
    (data / "more.txt").unlink()
    (tmp_path / "adapters" / "neighbour.py").unlink()
    assert "neighbour.py is gone" in str(seen.changed(report))


def test_the_same_bytes_written_again_are_no_change(tmp_path: Path, data: Path) -> None:
    os.utime(data / "list.txt", (1e9, 1e9))
    report = watched(tmp_path, data, "open(data / 'list.txt').read()")
    (data / "list.txt").write_text("a b")
    assert seen.changed(report) is None


BLIND = {
    "network": (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass",
        "reads from the network (127.0.0.1)",
    ),
    "program": ("import subprocess; subprocess.run(['cat', '/dev/null'])", "starts another program (cat)"),
    "shell": ("os.system('true')", "starts another program (true)"),
    "spawn": ("import multiprocessing.popen_spawn_posix", "starts other processes of Python"),
    "package": ("import types; sys.modules['h5py'] = types.ModuleType('h5py')", "h5py opens files on its own"),
    "changing": ("(data / 'list.txt').touch(); open(data / 'list.txt').read()", "list.txt changed while it ran"),
}


@pytest.mark.parametrize("how", BLIND)
def test_what_cannot_be_seen_is_said(how: str, tmp_path: Path, data: Path) -> None:
    code, expected = BLIND[how]
    report = watched(tmp_path, data, code)
    assert any(expected in reason for reason in report["blind"]), report["blind"]


def test_a_report_is_plain_json(tmp_path: Path, data: Path) -> None:
    report = watched(tmp_path, data, "os.listdir(data)")
    assert json.loads(json.dumps(report)) == report
