"""Promises, with the sample zoo's program on a virtual board over real SSH: as it is, it agrees with hrt_model_exec and with Python at every
stage; each mistake programs make is found with its cause; and the guide's words are true.

Stand-in: hrt_model_exec on the virtual board (the vendor publishes none for x86). Everything else is the real thing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec, load_fleet
from qatladder.boards.virtual import control
from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.numerics.tensor import TensorContract
from qatladder.settings import PROJECT, load_settings
from qatladder.validation import plan, run_rung
from qatladder.validation.ask import ask
from qatladder.validation.context import Context
from qatladder.validation.onboard_app import App
from qatladder.validation.perf import measure
from qatladder.zoo.lint import lint_entry
from qatladder.zoo.load import load_zoo

pytestmark = [pytest.mark.vendor, pytest.mark.zoo]

SAMPLES = 4
GUIDE = PROJECT / "docs" / "on-board-program.md"


@dataclass
class Bench:
    """A ladder whose rungs below the board are done, its board, and what hrt_model_exec said of all samples.

    Attributes:
        raw, features: integers hrt_model_exec dumped, and what the board states of them.
    """

    home: Path
    spec: BoardSpec
    ladder: dict[str, Any]
    built: RungResult
    compiled: RungResult
    hbm: Path
    raw: dict[str, Path] = field(default_factory=dict)
    features: list[TensorContract] = field(default_factory=list)

    @property
    def program(self) -> Path:
        return self.home / "include" / "zoo" / "onboard" / "digits_app.py"

    def context(self, folder: Path, **onboard: Any) -> Context:
        settings = load_settings()
        zoo = load_zoo(settings)
        (entry,) = zoo.entries.values()
        target = entry.targets[0]
        assert target.onboard is not None
        if onboard:
            changes = {"command": (), "files": (), **onboard} if "dump_dir" in onboard else onboard
            target = target.model_copy(update={"onboard": target.onboard.model_copy(update=changes)})
        folder.mkdir()
        return Context(self.ladder, entry, target, Rung.BOARD, "run", settings, zoo, open_store(settings), None, folder, print)  # type: ignore[arg-type]

    def ask(self, folder: Path, **onboard: Any) -> tuple[CheckResult, CheckResult]:
        context = self.context(folder, **onboard)
        assert context.target.onboard is not None
        with Board(self.spec) as board:
            app = App(context, context.target.onboard, self.built, self.compiled, board, self.hbm)
            went_in = ask(context, "board.app_input", app.input)
            return went_in, ask(context, "board.app_output", lambda: app.output(self.raw, self.features))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    trained = load_settings().home / "zoo"
    home = tmp_path_factory.mktemp("home")
    (home / "zoo").symlink_to(trained)
    zoo = home / "include" / "zoo"
    shutil.copytree(PROJECT / "include" / "zoo" / "adapters", zoo / "adapters", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "include" / "zoo" / "onboard", zoo / "onboard", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "include" / "zoo" / "training", zoo / "training", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "include" / "zoo" / "zoo.yaml", zoo)
    entry = yaml.safe_load((PROJECT / "include" / "zoo" / "digits_cnn.yaml").read_text())
    entry["samples"] = {"probe": SAMPLES, "board": SAMPLES, "evaluation": 30}
    (zoo / "digits_cnn.yaml").write_text(yaml.safe_dump(entry))
    fleet = yaml.safe_load((PROJECT / "include" / "zoo" / "fleet.yaml").read_text())
    fleet["boards"] = [{**board, "port": 0} for board in fleet["boards"] if board["march"] == "bayes-e"]
    (home / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    patch = pytest.MonkeyPatch()
    patch.setenv("QATLADDER_HOME", str(home))
    patch.setenv("QATLADDER_ZOO", str(zoo))
    patch.setenv("QATLADDER_FLEET", str(home / "fleet.yaml"))
    patch.delenv("QATLADDER_STORE", raising=False)
    settings = load_settings()
    (spec,) = load_fleet(settings.fleet).boards
    try:
        (ladder,) = plan(["digits_cnn"])
        built, compiled = (run_rung(ladder, rung, "run", print) for rung in ("int", "hbm"))
        hbm = open_store(settings).fetch(built.products["hbm"], home / "model.hbm")
        control.start_background(spec, settings)
        found = Bench(home, spec, ladder, built, compiled, hbm)
        bundle = np.load(open_store(settings).fetch(compiled.products["board/image"], home / "bundle.npy"))
        frames = []
        for number, row in enumerate(bundle):
            frames.append([home / f"frame_{number}.bin"])
            row.tofile(frames[-1][0])
        with Board(spec) as board:
            info = board.model_info(hbm)
            dumps = board.infer(hbm, frames, home / "dumps", info=info)
        for index, tensor in enumerate(info.outputs):
            np.save(home / f"raw_{index}.npy", np.stack([hrt.read_dump(files[index], tensor) for files in dumps]))
            found.raw[tensor.name] = home / f"raw_{index}.npy"
            found.features.append(tensor.contract())
        yield found
    finally:
        control.stop(spec, settings)
        patch.undo()


@pytest.fixture
def edited(bench: Bench) -> Iterator[Any]:
    """Puts a mistake into the program, for one test."""
    text = bench.program.read_text()

    def edit(old: str, new: str) -> None:
        assert text.count(old) == 1
        bench.program.write_text(text.replace(old, new))

    yield edit
    bench.program.write_text(text)


def test_the_sample_program_agrees_at_every_stage(bench: Bench, tmp_path: Path) -> None:
    went_in, came_out = bench.ask(tmp_path / "work")
    assert went_in.status is Status.PASSED, went_in
    assert came_out.status is Status.PASSED, came_out
    assert went_in.measured.startswith(f"{SAMPLES} of {SAMPLES} frames")
    for stage in ("logits raw", "logits dequantised", "digit postprocessed"):
        assert f"{stage}: {SAMPLES} of {SAMPLES} frames agree" in came_out.measured


@pytest.mark.parametrize(
    ("old", "new", "stage", "cause", "said"),
    [
        ("raw = buffer[::step]", "raw = buffer[:count]", "raw", "padding", "the aligned output buffer as if it held no padding"),
        ("raw[i] * scales[i] for", "raw[i] for", "dequantised", "not_dequantised", "dequantisation is missing"),
        ("max(range(count),", "max(range(1),", "postprocessed", "all_zero", "an arg max over an axis of length 1"),
    ],
)
def test_a_mistake_behind_the_model_is_found(
    bench: Bench, edited: Any, tmp_path: Path, old: str, new: str, stage: str, cause: str, said: str
) -> None:
    edited(old, new)
    went_in, came_out = bench.ask(tmp_path / "work")
    assert went_in.status is Status.PASSED, went_in
    assert came_out.status is Status.FAILED
    assert (came_out.values["stage"], came_out.values["fingerprint"]) == (stage, cause), came_out.reason
    assert said in came_out.cause


def test_the_guides_mistake_is_found_in_the_guides_words(bench: Bench, tmp_path: Path) -> None:
    guide = GUIDE.read_text()
    (command,) = re.findall(r"^sed .*$", guide, re.MULTILINE)
    (words,) = re.findall(r"`board.app_input` fails: `(.*?)`", guide)
    text = bench.program.read_text()
    try:
        subprocess.run(["sh", "-c", command], cwd=bench.home, check=True)
        assert bench.program.read_text() != text
        went_in, came_out = bench.ask(tmp_path / "work")
    finally:
        bench.program.write_text(text)
    assert went_in.status is Status.FAILED
    assert words in went_in.reason
    assert came_out.status is Status.SKIPPED


def test_the_guides_lint_is_content(bench: Bench, tmp_path: Path) -> None:
    context = bench.context(tmp_path / "work")
    assert lint_entry(context.zoo, context.entry) == []


def test_a_program_that_fails_is_broken_with_what_it_said(bench: Bench, edited: Any, tmp_path: Path) -> None:
    edited("    out.mkdir(exist_ok=True)", '    sys.exit("no camera")')
    went_in, _ = bench.ask(tmp_path / "work")
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "program_failed")


def test_dumps_a_program_left_on_the_board_find_their_samples_and_those_of_an_earlier_model_do_not_pass(
    bench: Bench, tmp_path: Path
) -> None:
    bench.ask(tmp_path / "by_hand")
    (out,) = (tmp_path / "by_hand").glob("app-*/dumps")
    dumps = bench.spec.folder / "root" / "userdata" / "app" / "dumps"
    dumps.mkdir(parents=True)
    for number, sample in enumerate((2, 0)):
        for name in ("input_{}.yuv", "raw_{}.bin", "logits_{}.bin", "digit_{}.txt"):
            shutil.copyfile(out / name.format(sample), dumps / name.format(70 + number))
    went_in, came_out = bench.ask(tmp_path / "work", dump_dir="/userdata/app/dumps")
    assert went_in.status is Status.PASSED and went_in.measured.startswith("2 of 2 frames"), went_in
    assert came_out.status is Status.PASSED, came_out

    earlier = np.fromfile(dumps / "raw_70.bin", np.int32) + np.arange(10, dtype=np.int32) ** 3
    earlier.tofile(dumps / "raw_70.bin")
    went_in, came_out = bench.ask(tmp_path / "earlier", dump_dir="/userdata/app/dumps")
    assert went_in.status is Status.PASSED
    assert came_out.status is Status.FAILED and "another model (an earlier version?)" in came_out.cause

    os.utime(dumps / "raw_70.bin", (1.7e9, 1.7e9))
    went_in, _ = bench.ask(tmp_path / "stale", dump_dir="/userdata/app/dumps")
    assert (went_in.status, went_in.values["kind"]) == (Status.BROKEN, "dump_stale")


def test_a_virtual_board_states_its_estimate_once(bench: Bench, tmp_path: Path) -> None:
    context = bench.context(tmp_path / "work")
    with Board(bench.spec) as board:
        check = ask(
            context, "board.perf", lambda: measure(context, lambda: board.perf(bench.hbm), board.health, bench.spec.name, 0.03, 200)
        )
    assert check.status is Status.PASSED, check
    assert "a virtual board cannot measure" in check.measured


def test_the_board_rung_asks_both_checks(bench: Bench) -> None:
    result = run_rung(bench.ladder, "board", "run", print)
    found = {check.id: (check.status, check.reason) for check in result.checks}
    assert found["board.app_input"] == found["board.app_output"] == (Status.PASSED, "")
    assert found["board.perf"] == (Status.PASSED, "")
    assert "app_dumps" in result.products
    assert list(result.facts["onboard_files"]) == ["digits_app.py"]
