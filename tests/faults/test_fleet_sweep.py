"""Twelve ladders in one night over three boards of one march, one of them flaky: every verdict is right, and the flaky one is found out.

The rungs below the board are climbed once for a good model and once for a model with one wrong weight; each ladder of the night then
climbs the board rung alone, on the board the plan gave it, three at a time.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.validation.test_sample_zoo import tamper

from qatladder.boards.fleet import load_fleet
from qatladder.boards.jobs import Job
from qatladder.boards.state import BoardState
from qatladder.boards.virtual import control
from qatladder.evidence import open_store
from qatladder.ladder import LadderResult, Rung, Status, Verdict
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import finish_ladder, plan, run_rung
from qatladder.validation import run as run_module
from qatladder.validation.fleet import board_state

pytestmark = [pytest.mark.vendor, pytest.mark.zoo]

BOARDS = ("steady-1", "flaky", "steady-2")
LADDERS = 12
WRONG = {4, 7, 10}
"""Ladders of the model with the wrong weight; the plan gives 4, 7 and 10 to the flaky board."""

# Each start of an inference takes the next line of `faults`; the first two are those of the golden model's two runs.
FLAKY = """#!/bin/sh
case "$1" in infer) ;; *) exec {real} "$@" ;; esac
echo >>{folder}/starts
fault=$(sed -n "$(wc -l <{folder}/starts)p" {folder}/faults)
echo "$fault" >>{folder}/injected
case "$fault" in
  fail) echo "hbDNNInfer failed, error code: -6000009"; exit 1 ;;
  hang) sleep 1000 ;;
  corrupt) {real} "$@" && for dump in model_infer_output_0_*; do printf '\\125\\252' | dd of="$dump" bs=1 conv=notrunc 2>/dev/null; done ;;
  *) exec {real} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder of our own that borrows the trained artifacts, and the three boards."""
    trained = load_settings().home / "zoo"
    home = tmp_path_factory.mktemp("home")
    (home / "zoo").symlink_to(trained)
    boards = [{"name": name, "march": "bayes-e", "host": "127.0.0.1", "port": 0, "virtual": True} for name in BOARDS]
    (home / "fleet.yaml").write_text(yaml.safe_dump({"boards": boards, "quarantine_after": 3}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_HOME", str(home))
        patch.setenv("QATLADDER_FLEET", str(home / "fleet.yaml"))
        patch.delenv("QATLADDER_STORE", raising=False)
        settings = load_settings()
        for spec in load_fleet(settings.fleet).boards:
            control.start_background(spec, settings)
        yield home
        for spec in load_fleet(settings.fleet).boards:
            control.stop(spec, settings)


@pytest.fixture(scope="module")
def ladder(home: Path) -> dict[str, Any]:
    """One ladder whose boards are open; its target may name the fleet's boards of this installation."""
    (ladder,) = plan(["digits_cnn"])
    return {**ladder, "boards": [], "entry": _any_board(ladder["entry"])}


def _any_board(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "targets": [{**target, "boards": []} for target in entry["targets"]]}


@pytest.fixture(scope="module")
def below(home: Path, ladder: dict[str, Any]) -> dict[bool, Path]:
    """Runs with every rung below the board: of the good model (True) and of the one with a wrong weight (False)."""
    runs = home / "evidence" / "runs"
    for rung in (Rung.FLOAT, Rung.CALIB, Rung.QAT, Rung.INT, Rung.HBM):
        if rung == Rung.INT:
            shutil.copytree(runs / "good", runs / "wrong")
        run_rung(ladder, rung, "good", print)

    class Tampered(Hmct):
        def convert(self, *args: Any, **kwargs: Any) -> Any:
            conversion = super().convert(*args, **kwargs)
            tamper(conversion.products["int"], -1)
            return conversion

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(run_module.TOOLCHAINS, "hmct", Tampered)
        for rung in (Rung.INT, Rung.HBM):
            run_rung(ladder, rung, "wrong", print)
    return {True: runs / "good", False: runs / "wrong"}


def misbehave(home: Path, board: str, faults: Sequence[str]) -> Path:
    """Make a board misbehave; returns the file that lists what it did so far."""
    folder = home / f"{board}-faults"
    folder.mkdir()
    tool = home / "boards" / board / "root" / "usr" / "bin" / "hrt_model_exec"
    tool.rename(tool.with_name("hrt_model_exec.real"))
    tool.write_text(FLAKY.format(real=tool.with_name("hrt_model_exec.real"), folder=folder))
    tool.chmod(0o755)
    (folder / "faults").write_text("".join(f"{fault}\n" for fault in faults))
    return folder / "injected"


def climb(home: Path, ladder: dict[str, Any], below: Path, board: str, run: str) -> LadderResult:
    """The board rung on the board that the plan gave the ladder, over the results of the rungs below."""
    shutil.copytree(below, home / "evidence" / "runs" / run)
    mine = {**ladder, "board": board}
    run_rung(mine, Rung.BOARD, run, print)
    return finish_ladder(mine, run)


def state_of(board: str) -> BoardState:
    settings = load_settings()
    return board_state(open_store(settings), board, load_fleet(settings.fleet).quarantine_after)


def test_a_flaky_board_costs_no_ladder_and_no_verdict(
    home: Path, ladder: dict[str, Any], below: dict[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A minute per sample is for real boards; a tool that hangs is found out sooner here.
    start = Job.start
    monkeypatch.setattr(Job, "start", lambda job, argv, limit, wait=600.0: start(job, argv, min(limit, 25.0), wait))
    chance = random.Random(29)  # hang, fail, corrupt ...
    injected = misbehave(home, "flaky", ["", "", *chance.choices(["fail", "hang", "corrupt", ""], [4, 2, 3, 1], k=500)])

    def one_after_the_other(board: int) -> dict[int, LadderResult]:
        """As a board's pool does with its one slot."""
        mine = range(board, LADDERS, len(BOARDS))
        return {index: climb(home, ladder, below[index not in WRONG], BOARDS[board], f"night-{index:02d}") for index in mine}

    with ThreadPoolExecutor(len(BOARDS)) as pool:
        results = {index: result for found in pool.map(one_after_the_other, range(len(BOARDS))) for index, result in found.items()}

    assert len(results) == LADDERS
    for index, result in sorted(results.items()):
        expected = Verdict.NO_SHIP if index in WRONG else Verdict.SHIP
        assert result.verdict is expected, f"ladder {index} on {BOARDS[index % 3]}: {result.why}"
        runtime = next(check for check in result.checks if check.id == "board.runtime")
        assert runtime.status is (Status.FAILED if index in WRONG else Status.PASSED), f"ladder {index}: {runtime.reason}"
    assert injected.read_text().split(), "the flaky board did nothing wrong"
    assert [board for board in BOARDS if not state_of(board).ready] == ["flaky"]
    assert state_of("flaky").reason
    assert all(state_of(board).failures == 0 for board in BOARDS if board != "flaky"), "a steady board was blamed"
    for board in BOARDS:
        jobs = home / "boards" / board / "root" / "userdata" / "qatladder" / "jobs"
        assert not list(jobs.iterdir()), f"{board} was not left clean"


def test_a_board_that_computes_wrong_is_outvoted_and_taken_out_at_once(home: Path, ladder: dict[str, Any], below: dict[bool, Path]) -> None:
    """It says nothing is wrong, and every dump of it is the right size."""
    injected = misbehave(home, "steady-1", ["corrupt"] * 500)
    result = climb(home, ladder, below[True], "steady-1", "outvoted")
    assert "corrupt" in injected.read_text()
    assert result.verdict is Verdict.SHIP, result.why
    found = state_of("steady-1")
    assert not found.ready
    assert found.recent[-1]["kind"] in {"bad_board", "golden_mismatch"}
