"""Whose fault an exception of a job is: the model's own code, the machine, or ours."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qatladder.errors import BrokenError, ConfigError, RunnerError
from qatladder.runner import failures
from qatladder.runner.client import Environment, run_job

ADAPTER = """
import os
import numpy as np
from qatladder.runner.adapter import Adapter, Sample
{top}
class Toy(Adapter):
    def __init__(self): pass
    def samples(self, split, limit=None):
        yield Sample({{"x": np.zeros(4, "float32")}}, 0)
    def preprocess(self, inputs): return {{"x": inputs["x"][None]}}
    def load(self, rung, artifact):
        {load}
        return lambda tensors: tensors
    def postprocess(self, outputs): return 0
    def score(self, predictions, targets): return {{"accuracy": 1.0}}
"""


def evaluate(folder: Path, load: str = "pass", top: str = "", change: tuple[str, str] = ("", ""), **options: object) -> None:
    (folder / "toy.py").write_text(ADAPTER.format(top=top, load=load).replace(*change))
    (folder / "m").write_bytes(b"x")
    args = {"adapter": f"{folder / 'toy.py'}:Toy", "options": options, "rung": "float", "artifact": str(folder / "m")}
    args.update(split="evaluation", limit=None, out=str(folder / "out"))
    run_job(Environment("lab", Path(sys.executable)), "qatladder.runner.evaluate:evaluate", args, folder / "job", model="toy")


def test_the_toy_works(tmp_path: Path) -> None:
    evaluate(tmp_path)


@pytest.mark.parametrize(
    ("load", "kind"),
    [
        ("raise MemoryError()", "memory"),
        ("np.empty(1 << 60, 'u1')", "memory"),
        ("raise OSError(12, 'Cannot allocate memory')", "memory"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')", "memory"),
        ('raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: can\'t allocate memory: you tried")', "memory"),
        ("raise OSError(28, 'No space left on device')", "disk_full"),
        ("np.ones(10 ** 6).tofile('/dev/full')", "disk_full"),  # numpy's OSError carries no errno
        (f"raise OSError({errno.EDQUOT}, 'Disk quota exceeded')", "disk_full"),
        (f"raise OSError({errno.EIO}, 'Input/output error')", "disk"),
        (f"raise OSError({errno.ESTALE}, 'Stale file handle')", "disk"),
        ("import a_framework_nobody_has.nn", "environment_incomplete"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "environment_incomplete"),
        ("from json import no_such_name", "environment_incomplete"),
    ],
)
def test_the_machine_is_broken(tmp_path: Path, load: str, kind: str) -> None:
    with pytest.raises(BrokenError) as caught:
        evaluate(tmp_path, load)
    assert caught.value.kind == kind
    assert caught.value.next_step
    assert (caught.value.where["model"], caught.value.where["environment"]) == ("toy", "lab")


def test_a_missing_package_is_named_with_its_environment(tmp_path: Path) -> None:
    with pytest.raises(BrokenError) as caught:
        evaluate(tmp_path, top="import a_framework_nobody_has")
    assert "a_framework_nobody_has" in caught.value.next_step
    assert "'lab'" in caught.value.next_step


@pytest.mark.parametrize(
    ("load", "match"),
    [
        ("raise KeyError('head.weight')", "KeyError"),
        ("raise OSError('the checkpoint has no header')", "no header"),
        ("open('/nowhere/weights.pt')", "FileNotFoundError"),
        ("import json; json.loads('{')", "JSONDecodeError"),
        ("np.zeros(3) + np.zeros(4)", "ValueError"),
        ("raise RuntimeError('size mismatch for head.weight')", "size mismatch"),
        ("assert False, 'shape'", "AssertionError"),
        ("class ConfigError(Exception): pass\n        raise ConfigError('mine')", "ConfigError: mine"),
    ],
)
def test_the_models_own_code_is_a_runner_error(tmp_path: Path, load: str, match: str) -> None:
    with pytest.raises(RunnerError, match=match) as caught:
        evaluate(tmp_path, load)
    assert "toy.py" in caught.value.where["at"] or "json" in caught.value.where["at"]


def test_a_name_its_own_module_does_not_have_is_the_models_fault(tmp_path: Path) -> None:
    (tmp_path / "backbone.py").write_text("class Backbone: pass\n")
    with pytest.raises(RunnerError, match="Bacbone"):
        evaluate(tmp_path, top="from backbone import Bacbone")


def test_an_option_the_adapter_does_not_take_is_the_entrys_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes other options") as caught:
        evaluate(tmp_path, change=("", ""), wdith=3)
    assert "wdith" in caught.value.where["found"]


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (("class Toy", "class Toy:::"), {}, "SyntaxError"),
        (("return lambda tensors: tensors", "return None"), {}, "not callable"),
        (("return {'accuracy': 1.0}".replace("'", '"'), "return 1.0"), {}, "items"),
        (("def score", "def scoer"), {}, "NotImplementedError"),
        (("outputs): return 0", "outputs): return np.int64(0)"), {}, "JSON"),
    ],
)
def test_what_an_adapter_returns_is_its_own_fault(tmp_path: Path, change: tuple[str, str], options: dict, match: str) -> None:
    with pytest.raises(RunnerError, match=match):
        evaluate(tmp_path, change=change, **options)


@pytest.mark.parametrize(
    ("call", "args", "match"),
    [
        ("qatladder.runner.evaluate:no_such_job", {}, "no_such_job"),
        ("qatladder.runner.evaluate:score", {"unknown": 1}, "unknown"),
        ("qatladder.toolchains.hmct_tools:describe_performance", {"summary": {}, "size": 1}, "KeyError"),
    ],
)
def test_a_fault_of_our_own_code_is_internal(tmp_path: Path, call: str, args: dict, match: str) -> None:
    with pytest.raises(BrokenError, match=match) as caught:
        run_job(Environment("lab", Path(sys.executable)), call, args, tmp_path / "job", model="toy")
    assert caught.value.kind == "internal"
    assert "report it" in caught.value.next_step
    assert caught.value.where["call"] == call


def test_a_job_that_could_not_write_its_result_says_why(tmp_path: Path) -> None:
    """The result file itself may be what the disk had no room for."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'OSError: [Errno 28] No space left on device'\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(BrokenError, match="died") as caught:
        run_job(Environment("lab", python), "qatladder.runner.evaluate:score", {}, tmp_path / "job")
    assert caught.value.kind == "disk_full"


def test_a_broken_error_keeps_its_kind_and_console(tmp_path: Path) -> None:
    try:
        raise BrokenError("the simulator crashed", "again", kind="tool_crashed", console="last words", rung="hbm")
    except BrokenError as error:
        written = json.loads(json.dumps(failures.describe(error)))
    found = failures.raised(written, "call", "vendor", {"model": "toy"})
    assert isinstance(found, BrokenError)
    assert (found.kind, found.console, found.where) == ("tool_crashed", "last words", {"model": "toy", "rung": "hbm"})


def test_an_exception_with_attributes_of_its_own_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="odd"):
        evaluate(tmp_path, "error = ValueError('odd'); error.message = error.where = error.kind = {1: object()}; raise error")


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys; import qatladder.runner.failures; print('numpy' in sys.modules)"
    library = str(Path(failures.PACKAGE).parent)
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": library}, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
