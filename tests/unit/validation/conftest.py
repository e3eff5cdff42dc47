"""A ladder in fakes: the toolchain and the board are ours, every check is the product's."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fakes import Lab
from tests.unit.toy import ToyZoo

from qatladder.boards.golden import GoldenResult
from qatladder.boards.state import golden_passed
from qatladder.evidence import open_store
from qatladder.runner.__main__ import PROTOCOL
from qatladder.runner.client import LIBRARY, Environment, JobAnswer
from qatladder.settings import load_settings
from qatladder.validation import context as context_module
from qatladder.validation import expectations, onboard
from qatladder.validation import run as run_module
from qatladder.validation.fleet import note


class QualityJobs:
    """The real Great Expectations job by the real runner, in one process for all tests: importing the library takes 3 s.

    Equal statistics and rules are judged once: the answer depends on nothing else, but for the record, which goes into the suite as it is.
    """

    LOOP = "import sys; from qatladder.runner.__main__ import main\nfor line in sys.stdin: print('done', main(line.strip()), flush=True)"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, tuple[Path, dict[str, Any]]] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        )

    def close(self) -> None:
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0

    def __call__(self, environment: Environment, call: str, args: dict[str, Any], folder: Path, **_: Any) -> JobAnswer:
        key = json.dumps([[json.loads(Path(table).read_text()) for table in args["tables"]], args["rules"]], sort_keys=True)
        if key not in self.answers:
            place = self.folder / str(len(self.answers))
            self.answers[key] = place, self.judge(place, {"protocol": PROTOCOL, "call": call, "args": {**args, "out_dir": str(place)}})
        place, answer = self.answers[key]
        shutil.copytree(place, args["out_dir"])
        suite = Path(args["out_dir"]) / "suite.json"
        data = json.loads(suite.read_text())
        data["meta"]["qatladder"] = args["record"]
        suite.write_text(json.dumps(data, indent=1, sort_keys=True))
        return JobAnswer(json.loads(json.dumps(answer).replace(str(place), args["out_dir"])), {}, 0.0)

    def judge(self, place: Path, job: dict[str, Any]) -> dict[str, Any]:
        place.mkdir()
        (place / "job.json").write_text(json.dumps(job))
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{place / 'job.json'}\n")
        self.process.stdin.flush()
        assert any(line.startswith("done ") for line in self.process.stdout), "the process died"
        result: dict[str, Any] = json.loads((place / "result.json").read_text())
        assert result["ok"], result
        value: dict[str, Any] = result["value"]
        return value


def run_here(environment: Environment, call: str, args: dict[str, Any], folder: Path, **_: Any) -> JobAnswer:
    """A job of the model's code in this process; only JSON goes in and out, as between processes."""
    module, function = call.split(":")
    value = getattr(importlib.import_module(module), function)(**json.loads(json.dumps(args)))
    return JobAnswer(json.loads(json.dumps(value)), {}, 0.0)


@pytest.fixture(scope="module")
def quality_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QualityJobs]:
    jobs = QualityJobs(tmp_path_factory.mktemp("quality"))
    yield jobs
    jobs.close()


@pytest.fixture
def slow_lab(toy_zoo: ToyZoo, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Every job in a process of its own."""
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", "0")  # what a test changes in a fake, no key can know
    lab = Lab(toy_zoo)
    monkeypatch.setitem(run_module.TOOLCHAINS, "hmct", lab.make_toolchain)
    monkeypatch.setattr(onboard, "Board", lab.bench.board)
    # The golden model has just passed on this board.
    now = datetime.datetime.now(datetime.UTC)
    note(open_store(load_settings()), "virtual-j5", golden_passed(GoldenResult(3, 1.0, "0" * 64, {}), now))
    return lab


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's jobs in this process."""
    monkeypatch.setattr(context_module, "run_job", run_here)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def lab(slow_lab: Lab, quality_jobs: QualityJobs, in_process: None, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The model's jobs in this process, the quality job in one of its own."""
    monkeypatch.setattr(expectations, "run_job", quality_jobs)
    return slow_lab
