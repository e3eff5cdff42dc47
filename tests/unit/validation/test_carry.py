"""Promises: an unchanged rung is not climbed again; whatever determines its answer makes it climbed again, and only what depends on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.fakes import Lab, model_data

from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.ladder import RungResult, Status
from qatladder.reports.text import ladder_text
from qatladder.settings import load_settings
from qatladder.validation import carry, carry_over, expectations, finish_ladder, finish_run, plan, run_rung
from qatladder.zoo import load

GATES = {"float": {"min": 0.9}, "calib": {"max_drop": 0.0}, "qat": {"max_drop": 0.0}, "int": {"max_drop": 0.0}}
ALL = ["float", "calib", "qat", "int", "hbm", "board"]


@pytest.fixture
def nights(slow_lab: Lab, quality_jobs: Any, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A lab whose answers are carried over, and that is older than today."""
    monkeypatch.delenv("QATLADDER_CARRY_DAYS")
    monkeypatch.setattr(expectations, "run_job", quality_jobs)
    age(slow_lab)
    return slow_lab


def age(lab: Lab) -> None:
    """Files that are written while a job runs are no proof of anything: these were written long ago."""
    for path in lab.zoo.folder.rglob("*"):
        if path.is_file() and "evidence" not in path.parts:
            os.utime(path, (1e9, 1e9))


def climb(run_id: str, log: Any = lambda line: None, **options: Any) -> dict[str, RungResult]:
    (ladder,) = plan(**options)
    answers = {rung: run_rung(ladder, rung, run_id, log) for rung in ladder["rungs"]}
    finish_run([ladder], run_id)
    return answers


def carried(answers: dict[str, RungResult]) -> list[str]:
    return [rung for rung, answer in answers.items() if answer.carried]


def again(answers: dict[str, RungResult]) -> list[str]:
    return [rung for rung in answers if rung not in carried(answers)]


def test_an_unchanged_ladder_is_not_climbed_again(nights: Lab) -> None:
    first, second, third = climb("first"), climb("second"), climb("third")
    assert carried(first) == []
    assert carried(second) == carried(third) == ALL
    for rung in ALL:
        assert third[rung].carried["run_id"] == "first"
        assert [check.status for check in third[rung].checks] == [check.status for check in first[rung].checks]
        assert third[rung].products == first[rung].products
    (ladder,) = plan()
    result = finish_ladder(ladder, "third")
    assert result.verdict == "ship"
    assert f"unchanged since first ({third['float'].carried['time']}), carried over: {' '.join(ALL)}" in ladder_text(result)
    page = open_store(load_settings()).read_run_file("third", "report.html").decode()
    assert "float, calib, qat, int, hbm, board: unchanged since first" in page
    manifest = json.loads(open_store(load_settings()).read_run_file("third", "manifest.json"))
    assert {item.sha256 for item in first["hbm"].products.values()} <= manifest["objects"].keys()


def test_a_rung_reads_no_entry_of_the_zoo(nights: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own is in the plan: a night's time grows with the zoo, not with its square."""
    climb("first")
    (ladder,) = plan()

    def read(path: Path) -> None:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(load, "load_entry", read)
    assert carry_over([ladder], "second", lambda line: None) == [ladder]
    assert not run_rung({**ladder, "force": True}, "float", "third", lambda line: None).carried
    assert finish_run([ladder], "second")["counts"] == {"ship": 1}


def test_only_the_health_of_the_board_is_asked_anew(nights: Lab) -> None:
    first = climb("first")
    health = first["board"].check("board.health")
    nights.bench.health["disk_free_mb"] = 3210.0
    nights.bench.asked.clear()
    fresh = climb("second")["board"].check("board.health")
    assert health is not None and fresh is not None
    assert fresh.status is Status.PASSED
    assert fresh.values["disk_free_mb"] == 3210.0 != health.values["disk_free_mb"]
    assert set(nights.bench.asked) == {"health", "close"}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("float weights", ["float", "calib", "qat", "int"]),
        ("qat weights", ["calib", "qat", "int"]),
        ("exported model", ["int", "hbm", "board"]),
        ("adapter comment", ["float", "calib", "qat", "int", "board"]),
        ("adapter data", ["float", "calib", "qat", "int"]),
        ("gate of calib", ["calib"]),
        ("gate of the board", ["board"]),
        ("latency gate", ["int", "hbm", "board"]),
        ("samples", ALL),
        ("toolchain", ["int", "hbm", "board"]),
        ("our code", ALL),
        ("owner and description", []),
    ],
)
def test_what_determines_an_answer_makes_it_asked_again_and_nothing_else(
    what: str, expected: list[str], nights: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = nights.zoo.folder / "zoo" / "linear.py"
    source = adapter.read_text()
    data = nights.zoo.folder / "labels.txt"
    data.write_text("labels")
    adapter.write_text(source.replace("rng = np", f"open({str(data)!r}).close(); rng = np"))
    source = adapter.read_text()
    age(nights)
    climb("first")
    if what.endswith("weights"):
        which = what.split()[0]
        other = model_data()
        other["remark"] = "trained again, to the same weights"
        nights.artifact(which, other)
    elif what == "exported model":
        other = model_data()
        other["weights"]["a"][1][0] += 1e-3
        for which in ("float", "calib", "qat", "onnx"):
            nights.artifact(which, other)
        expected = ALL
    elif what == "adapter comment":
        adapter.write_text(source + "# a comment\n")
    elif what == "adapter data":
        data.write_text("other labels")
    elif what == "gate of calib":
        nights.entry(gates={**GATES, "calib": {"max_drop": 0.02}})
    elif what == "gate of the board":
        nights.entry(gates={**GATES, "board": {"max_drop": 0.02}})
    elif what == "latency gate":
        nights.entry(targets=[{"march": "bayes", "perf": {"max_latency_ms": 3}}])
    elif what == "samples":
        nights.entry(samples={"probe": 3})
    elif what == "toolchain":
        monkeypatch.setattr(nights.toolchain, "versions", lambda: {"fake": "1.1"})
    elif what == "our code":
        monkeypatch.setattr(carry, "code", lambda: "other")
    else:
        nights.entry(owner="somebody else", description="words")
    age(nights)
    second = climb("second")
    assert again(second) == expected
    assert carried(climb("third")) == ALL


def test_force_asks_again(nights: Lab) -> None:
    climb("first")
    assert carried(climb("second", force=True)) == []
    third = climb("third")
    assert carried(third) == ALL
    assert third["float"].carried["run_id"] == "second"


@pytest.mark.parametrize("days", ["0", "0.00000001"])
def test_an_old_answer_is_asked_for_anew(days: str, nights: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    climb("first")
    monkeypatch.setenv("QATLADDER_CARRY_DAYS", days)
    assert carried(climb("second")) == []


def test_a_failed_answer_is_carried_over_too_and_an_error_is_not(nights: Lab) -> None:
    nights.entry(gates={"float": {"min": 1.0}})
    first, second = climb("first"), climb("second")
    assert first["float"].checks[0].status is second["float"].checks[0].status is Status.FAILED
    assert second["float"].carried
    nights.zoo.artifacts.joinpath("float.json").write_text("{}")
    third, fourth = climb("third"), climb("fourth")
    assert third["float"].checks[0].status is Status.FAILED
    assert "error" in third["float"].checks[0].values
    assert not fourth["float"].carried
    assert fourth["float"].facts["not_carried"] == ["float.accuracy ended with an error"]


def test_a_broken_answer_is_never_carried_over(nights: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def dies(*_: Any, **__: Any) -> None:
            raise BrokenError("the tool died", kind="killed")

        patch.setattr(nights.toolchain, "simulate", dies)
        first = climb("first")
    assert first["hbm"].check("hbm.bit_exact").status is Status.BROKEN  # type: ignore[union-attr]
    second = climb("second")
    assert again(second) == ["hbm", "board"]
    assert second["hbm"].check("hbm.bit_exact").status is Status.PASSED  # type: ignore[union-attr]


def test_what_cannot_be_seen_is_not_carried_over_unless_the_entry_says_what_it_is(nights: Lab) -> None:
    adapter = nights.zoo.folder / "zoo" / "linear.py"
    adapter.write_text(adapter.read_text().replace("rng = np", "import subprocess; subprocess.run(['true']); rng = np"))
    age(nights)
    climb("first")
    second = climb("second")
    assert again(second) == ["float", "calib", "qat", "int"]
    assert second["float"].facts["not_carried"] == ["it starts another program (true)"]
    data = load_settings().home / "zoo" / "pictures" / "deep"
    data.mkdir(parents=True)
    (data / "1.jpg").write_bytes(b"1")
    nights.entry(data=["pictures"])
    climb("third")
    assert carried(climb("fourth")) == ALL
    (data / "2.jpg").write_bytes(b"2")
    assert again(climb("fifth")) == ["float", "calib", "qat", "int", "board"]
    nights.entry(data_version="2026-11")
    climb("sixth")
    assert carried(climb("seventh")) == ALL
    nights.entry(data_version="2026-12")
    assert again(climb("eighth")) == ALL


@pytest.mark.parametrize("damage", ["object", "record"])
def test_what_the_store_lost_or_damaged_is_found_anew(damage: str, nights: Lab) -> None:
    first = climb("first")
    root = Path(load_settings().store)
    if damage == "object":
        (path,) = root.glob(f"objects/*/{first['hbm'].products['board/a'].sha256}*")
        path.unlink()
    else:
        for path in (root / "runs" / "rungs").iterdir():
            path.write_bytes(path.read_bytes()[:100])
    lines: list[str] = []
    second = climb("second", log=lines.append)
    assert again(second) == (["hbm"] if damage == "object" else ALL)
    assert any("lost board.npy" in line or "cannot be used" in line for line in lines)
    assert carried(climb("third")) == ALL


def test_another_board_or_other_versions_on_it_are_climbed_again(nights: Lab) -> None:
    climb("first")
    nights.bench.health["versions"] = {"tool": "hrt_model_exec 1.99"}
    assert again(climb("second")) == ["board"]


def test_ladders_are_looked_at_together_and_boards_once(nights: Lab) -> None:
    entry = nights.zoo.folder / "zoo" / "toy.yaml"
    for name in ("toy_b", "toy_c", "toy_d"):
        entry.with_name(f"{name}.yaml").write_text(entry.read_text().replace("model: toy", f"model: {name}"))
    age(nights)
    ladders = plan()
    for ladder in ladders:
        for rung in ladder["rungs"]:
            run_rung(ladder, rung, "first", lambda line: None)
    (nights.zoo.folder / "zoo" / "toy_c.yaml").write_text(entry.read_text().replace("model: toy", "model: toy_c").replace("0.9", "0.8"))
    age(nights)
    ladders = plan()
    nights.bench.asked.clear()
    log: list[str] = []
    whole = carry_over(ladders, "second", log.append)
    assert [ladder["model"] for ladder in whole] == ["toy", "toy_b", "toy_d"], "in the plan's order"
    assert nights.bench.asked.count("health") == 1
    rungs = [line.partition(":")[0] for line in log if ": carried over from first" in line]
    assert rungs == ALL * 3, "the lines of a ladder stand together"
    assert {result.first_failed_check for ladder in whole if (result := finish_ladder(ladder, "second"))} == {None}


def test_whole_ladders_need_no_task_of_their_own(nights: Lab) -> None:
    climb("first")
    ladders = plan()
    assert carry_over(ladders, "second", lambda line: None) == ladders
    assert finish_ladder(ladders[0], "second").verdict == "ship"
    nights.entry(gates={**GATES, "board": {"max_drop": 0.02}})
    ladders = plan()
    assert carry_over(ladders, "third", lambda line: None) == []
