"""The golden model on boards of both marches: built here, known without a board, and never passed by a board that computes wrong."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qatladder.boards import golden
from qatladder.boards.fleet import BoardSpec, load_fleet
from qatladder.boards.golden import Golden
from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.evidence import open_store
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import fleet
from qatladder.validation import golden as making

from .conftest import J5, X5, Bench  # type: ignore[import-not-found]

pytestmark = pytest.mark.vendor


@pytest.fixture(scope="module")
def known(bench: Bench) -> dict[str, Golden]:
    """The golden models, built into this module's data folder."""
    found = load_fleet(bench.fleet)
    return {march: making.golden_of(march, found, bench.settings, Hmct(bench.settings), print) for march in ("bayes-e", "bayes")}


@contextmanager
def tool(bench: Bench, spec: BoardSpec, script: str) -> Iterator[None]:
    """Put a script in the tool's place; `$REAL` in it is the real tool."""
    bench.start(spec)
    path = bench.root(spec) / "usr" / "bin" / "hrt_model_exec"
    real = path.with_name("hrt_model_exec.real")
    shutil.copy2(path, real)
    wrapper = path.with_name("wrapper")
    wrapper.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    wrapper.chmod(0o755)
    wrapper.replace(path)
    try:
        yield
    finally:
        real.replace(path)


FLIP = """python3 - "$FOLDER" <<'END'
import pathlib, sys
for path in pathlib.Path(sys.argv[1]).rglob("model_infer_output_0*.bin"):
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
END"""


@pytest.mark.parametrize("spec", [X5, J5], ids=["bayes-e", "bayes"])
def test_a_sound_board_gives_the_known_integers_twice(bench: Bench, known: dict[str, Golden], spec: BoardSpec) -> None:
    model = known[spec.march]
    assert all(len(np.unique(array)) > 500 for array in model.expected.values()), "the integers carry something"
    with bench.board(spec) as board:
        result = golden.run(board, model)
    assert (result.samples, result.sha256) == (making.SAMPLES, model.sha256)
    assert result.versions["hbrt"]


def test_it_is_really_run_twice_also_for_a_board_that_finds_its_jobs_again(bench: Bench, known: dict[str, Golden], tmp_path: Path) -> None:
    with tool(bench, X5, f'case "$1" in infer) echo run >> {tmp_path}/runs ;; esac\nexec "$REAL" "$@"'), bench.board(X5) as board:
        board.run = "nightly m 1 @ bayes-e"
        golden.run(board, known["bayes-e"])
        once = (tmp_path / "runs").read_text().count("run")
        golden.run(board, known["bayes-e"])
    assert once >= 2
    assert (tmp_path / "runs").read_text().count("run") == 2 * once


def test_a_wrong_integer_is_a_mismatch_that_names_it(bench: Bench, known: dict[str, Golden]) -> None:
    model = known["bayes-e"]
    name = list(model.expected)[1]
    wrong = model.expected[name].copy()
    wrong[1, 3, 2, 1] += 1
    with bench.board(X5) as board, pytest.raises(BrokenError) as caught:
        golden.run(board, replace(model, expected={**model.expected, name: wrong}))
    assert caught.value.kind == "golden_mismatch"
    assert caught.value.where["output"] == name
    assert caught.value.where["found"].startswith(f"1 of {wrong.size} differ, first [1, 3, 2, 1]: expected {wrong[1, 3, 2, 1]}, found")


def test_a_board_that_always_flips_a_bit_is_a_mismatch(bench: Bench, known: dict[str, Golden]) -> None:
    script = f'"$REAL" "$@"\ncode=$?\nFOLDER=.\n{FLIP}\nexit $code'
    with tool(bench, X5, script), bench.board(X5) as board, pytest.raises(BrokenError) as caught:
        golden.run(board, known["bayes-e"])
    assert caught.value.kind == "golden_mismatch"


def test_a_board_that_flips_a_bit_the_second_time_is_nondeterministic(bench: Bench, known: dict[str, Golden], tmp_path: Path) -> None:
    first = tmp_path / "first_job"
    script = f"""case "$1" in infer) ;; *) exec "$REAL" "$@" ;; esac
"$REAL" "$@"
code=$?
job=${{PWD%/out/*}} FOLDER=.
test -e {first} || echo "$job" > {first}
if test "$job" != "$(cat {first})"; then
{FLIP}
fi
exit $code"""
    with tool(bench, X5, script), bench.board(X5) as board, pytest.raises(BrokenError) as caught:
        golden.run(board, known["bayes-e"])
    assert caught.value.kind == "nondeterministic"
    assert "the first run" in caught.value.where["found"]


def test_a_sick_board_is_out_and_comes_back_when_it_is_well(
    bench: Bench, known: dict[str, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QATLADDER_FLEET", str(bench.fleet))
    settings = replace(load_settings(), store=str(bench.settings.home / "evidence"))
    store = open_store(settings)
    bench.stop(X5)
    assert fleet.check_board(X5, settings, store, print).outcome == "stopped"
    bench.start(X5)
    script = f'"$REAL" "$@"\ncode=$?\nFOLDER=.\n{FLIP}\nexit $code'
    with tool(bench, X5, script):
        sick = fleet.check_board(X5, settings, store, print)
    assert (sick.outcome, sick.kind, sick.state.ready) == ("broken", "golden_mismatch", False)
    with pytest.raises(BrokenError) as caught:
        fleet.usable_boards(settings, store, "bayes-e")
    assert caught.value.kind == "no_board"
    well = fleet.check_board(X5, settings, store, print)
    assert (well.outcome, well.golden, well.state.ready) == ("fit", True, True)
    assert [item.name for item in fleet.usable_boards(settings, store, "bayes-e")] == [X5.name]
    said: list[str] = []
    with bench.board(X5) as board:
        fleet.preflight(board, X5, "bayes-e", store, settings, said.append)
    assert any("the golden model passed" in line and "ago" in line for line in said)


def test_a_board_somebody_works_on_is_left_alone(bench: Bench, known: dict[str, Golden], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATLADDER_FLEET", str(bench.fleet))
    settings = replace(load_settings(), store=str(bench.settings.home / "evidence"))
    bench.start(X5)
    lock = bench.root(X5) / "tmp" / "hbdk_model_verifier.lock"
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = fleet.check_board(X5, settings, open_store(settings), print, lock_timeout=1.0)
    assert (found.outcome, found.kind, found.state.ready, found.state.failures) == ("busy", "board_busy", True, 0)
    assert fleet.check_board(X5, settings, open_store(settings), print).outcome == "fit"


@pytest.mark.parametrize("march", ["bayes-e", "bernoulli2"])
def test_a_golden_model_is_whole_and_built_once(bench: Bench, known: dict[str, Golden], march: str, tmp_path: Path) -> None:
    settings = replace(bench.settings, home=tmp_path)
    none = load_fleet(bench.fleet)
    built = making.golden_of(march, none, settings, Hmct(settings), print)
    assert sorted(path.name for path in (tmp_path / "golden").iterdir()) == [".lock", march], "nothing half-made lies about"
    before = (tmp_path / "golden" / march / "golden.json").stat().st_mtime_ns
    again = making.golden_of(march, none, settings, Hmct(replace(settings, vendor=False)), print)
    assert again.sha256 == built.sha256
    assert (tmp_path / "golden" / march / "golden.json").stat().st_mtime_ns == before
    if march in known:
        for name, array in known[march].expected.items():
            np.testing.assert_array_equal(built.expected[name], array)  # the integers repeat from build to build


def test_a_damaged_golden_model_is_not_used(bench: Bench, known: dict[str, Golden], tmp_path: Path) -> None:
    folder = tmp_path / "golden"
    shutil.copytree(known["bayes"].model.parent, folder)
    assert golden.load(folder).march == "bayes"
    for name in ("model.hbm", "expected_0.npy", "input_0_0.bin"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ArtifactError) as caught:
            golden.load(folder)
        assert name in caught.value.where["file"]
        (folder / name).write_bytes(data)
    description = json.loads((folder / "golden.json").read_text())
    for change in ({"inputs": description["inputs"][:1]}, {"outputs": []}, {"sha256": {}}):
        (folder / "golden.json").write_text(json.dumps({**description, **change}))
        with pytest.raises(ArtifactError):
            golden.load(folder)
    (folder / "golden.json").unlink()
    with pytest.raises(ArtifactError):
        golden.load(folder)


def test_a_fleets_own_golden_model_is_preferred_and_its_march_checked(bench: Bench, known: dict[str, Golden]) -> None:
    folder = known["bayes"].model.parent
    own = load_fleet(bench.fleet).model_copy(update={"golden": {"bayes": folder, "bayes-e": folder}})
    nothing = replace(bench.settings, home=Path("/nonexistent"), vendor=False)
    assert making.golden_of("bayes", own, nothing, Hmct(nothing), print).model == folder / "model.hbm"
    with pytest.raises(ArtifactError, match="of another march"):
        making.golden_of("bayes-e", own, nothing, Hmct(nothing), print)


def test_without_a_toolchain_there_is_none_and_that_is_said(bench: Bench, tmp_path: Path) -> None:
    settings = replace(bench.settings, home=tmp_path, vendor=False)
    with pytest.raises(ToolchainError, match="QATLADDER_VENDOR=0"):
        making.golden_of("bayes", load_fleet(bench.fleet), settings, Hmct(settings), print)


def test_a_board_with_other_outputs_is_a_mismatch(bench: Bench, known: dict[str, Golden]) -> None:
    model = known["bayes-e"]
    with bench.board(X5) as board, pytest.raises(BrokenError) as caught:
        golden.run(board, replace(model, expected={"another": next(iter(model.expected.values()))}))
    assert caught.value.kind == "golden_mismatch"
