"""Promises: readings that pass the obvious event by are noticed, too."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from qatladder.runner import seen
from qatladder.runner.client import Environment, run_job

ADAPTER = """
import ctypes, importlib.util, os
import numpy as np
from pathlib import Path
from qatladder.runner.adapter import Adapter, Sample
HERE = Path(__file__).parent
class Reads(Adapter):
    metric = "m"
    def samples(self, split, limit=None):
{body}
        yield Sample({{"x": np.zeros((1, 1), np.float32)}}, 0)
    def preprocess(self, inputs): return inputs
    def load(self, rung, artifact): return None
    def postprocess(self, outputs): return None
    def score(self, predictions, targets): return {{"m": 1.0}}
"""


def _read(folder: Path, body: str, python: Path = Path(sys.executable), paths: tuple[Path, ...] = ()) -> dict[str, list[str]]:
    (folder / "reads.py").write_text(ADAPTER.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)))
    for path in folder.rglob("*"):
        if path.suffix != ".pyc" and path.is_file() and not path.is_symlink():
            os.utime(path, (1e9, 1e9))
    job = folder / "job"
    args = {"adapter": f"{folder / 'reads.py'}:Reads", "options": {}, "split": "s", "limit": None, "out": str(job / "out")}
    environment = Environment("e", python, paths=list(paths))
    found = run_job(environment, "qatladder.runner.evaluate:export_samples", args, job, watch=[job]).seen
    assert found is not None
    assert found["blind"] == []
    assert seen.changed(found) is None
    return found


def _module(folder: Path, text: str = "VALUE = 1") -> None:
    (folder / "config.py").write_text(text)
    os.utime(folder / "config.py", (1e9, 1e9))
    py_compile.compile(str(folder / "config.py"))


@pytest.mark.parametrize(
    ("before", "body", "after"),
    [
        (
            lambda folder: (folder / "d").write_bytes(b"a"),
            "np.memmap(HERE / 'd', dtype=np.uint8)",
            lambda folder: (folder / "d").write_bytes(b"b"),
        ),
        (
            _module,
            """\
            spec = importlib.util.spec_from_file_location("of_nobody", HERE / "config.py")
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
            """,
            lambda folder: (folder / "config.py").write_text("VALUE = 22"),
        ),
        (
            _module,
            """\
            child = os.fork()
            if child == 0:
                import config
                os._exit(0)
            os.waitpid(child, 0)
            """,
            lambda folder: (folder / "config.py").write_text("VALUE = 22"),
        ),
    ],
    ids=["memmap", "module of nobody", "module of a child"],
)
def test_a_reading_is_noticed(tmp_path: Path, before: Callable[[Path], object], body: str, after: Callable[[Path], object]) -> None:
    before(tmp_path)
    found = _read(tmp_path, body)
    after(tmp_path)
    assert seen.changed(found) is not None


def test_a_library_of_the_users_own_is_read(tmp_path: Path) -> None:
    import _ctypes

    (tmp_path / "own.so").write_bytes(Path(_ctypes.__file__).read_bytes())
    found = _read(tmp_path, "ctypes.CDLL(str(HERE / 'own.so'))")
    (tmp_path / "own.so").write_bytes(b"other")
    assert seen.changed(found) is not None


def test_a_project_inside_its_own_environment_is_looked_at(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    paths = tuple(Path(path) for path in sys.path if path.endswith("site-packages"))
    (tmp_path / "d").write_text("a")
    found = _read(tmp_path, "open(HERE / 'd').read()", tmp_path / "bin" / "python", paths)
    assert {path for path, _ in found["files"]} >= {str(tmp_path / "d"), str(tmp_path / "reads.py")}
