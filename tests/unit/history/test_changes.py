"""Promises: everything that changed since the good night is named, what can explain the first worse rung first."""

from __future__ import annotations

from typing import Any

from qatladder.history.changes import ENTERS, determinants_of, suspects
from qatladder.ladder import Rung, RungResult

GOOD: dict[Rung, dict[str, Any]] = {
    Rung.FLOAT: {
        "artifacts": {"float": "w1"},
        "samples_sha256": "s1",
        "environments": {"product": {"sha256": "p1", "torch": "2.13", "executable": "/a/python"}},
        "determinants": {"adapter_code": {"adapters/a.py": "c1"}, "data": "d1", "entry": "e1", "qatladder": "1"},
    },
    Rung.QAT: {"artifacts": {"float": "w1", "qat": "q1"}},
    Rung.INT: {"artifacts": {"onnx": "o1"}, "versions": {"hmct": "1.1.0"}, "calibration_sha256": "k1"},
    Rung.HBM: {"versions": {"installed": {"hbdk": "3.49"}}},
    Rung.BOARD: {"board": "x5-1", "health": {"versions": {"libdnn": "1.23"}}, "onboard_files": {"app.py": "a1"}},
}


def rungs(**changes: dict[str, Any]) -> dict[Rung, RungResult]:
    return {rung: RungResult(rung, (), facts={**facts, **changes.get(str(rung), {})}) for rung, facts in GOOD.items()}


def names(moved: Rung, **changes: dict[str, Any]) -> list[str]:
    return [item["what"] for item in suspects(rungs(), list(rungs(**changes).values()), moved)]


def test_nothing_changed_is_nobody_suspected() -> None:
    assert names(Rung.BOARD) == []


def test_what_enters_where_it_moved_comes_first() -> None:
    everything: dict[str, dict[str, Any]] = {
        "float": {"artifacts": {"float": "w2"}, "samples_sha256": "s2"},
        "int": {"versions": {"hmct": "1.2.0"}, "artifacts": {"onnx": "o2"}},
        "board": {"health": {"versions": {"libdnn": "1.24"}}},
    }
    assert names(Rung.FLOAT, **everything) == ["weights float", "dataset: samples"]
    assert names(Rung.INT, **everything)[:2] == ["exported model", "toolchain: hmct"]
    assert names(Rung.BOARD, **everything)[0] == "board software: libdnn"
    assert "weights float" in names(Rung.BOARD, **everything)


def test_what_enters_above_cannot_explain_it() -> None:
    assert names(Rung.QAT, board={"board": "x5-2"}, hbm={"versions": {"installed": {"hbdk": "3.50"}}}) == []


def test_old_and_new_are_told() -> None:
    (found,) = suspects(rungs(), list(rungs(int={"versions": {"hmct": "1.2.0"}}).values()), Rung.INT)
    assert (found["what"], found["was"], found["now"]) == ("toolchain: hmct", "1.1.0", "1.2.0")
    (found,) = suspects(rungs(), list(rungs(board={"onboard_files": {}}).values()), Rung.BOARD)
    assert (found["was"], found["now"]) == ("a1", "")


def test_each_part_of_the_good_night_is_watched() -> None:
    kinds = {name.split(": ")[0] for facts in GOOD.values() for name in determinants_of(RungResult(Rung.FLOAT, (), facts=facts))}
    assert kinds >= set(ENTERS) - {"given hbm", "weights calib"}
    assert "environment: product: executable" not in determinants_of(RungResult(Rung.FLOAT, (), facts=GOOD[Rung.FLOAT]))
