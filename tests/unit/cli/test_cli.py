"""Promises: exit code 0 ship, 1 no-ship, 2 undecided, 3 usage; JSON for machines on stdout; errors without a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.toy import ToyZoo

from qatladder import cli
from qatladder.ladder import CheckResult, LadderResult, Rung, RungResult, Status, check_ids


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def qatladder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["qatladder", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.mark.parametrize(
    "arguments", [["nope"], ["validate"], ["sweep", "--colour"], ["validate", "toy", "--rungs", "flaot"], ["validate", "ghost"]]
)
def test_usage_errors_exit_3_with_a_hint_and_no_traceback(toy_zoo: ToyZoo, qatladder: Any, arguments: list[str]) -> None:
    ran = qatladder(*arguments)
    assert ran.code == 3
    assert ran.err
    assert "Traceback" not in ran.err


def test_validate_json_lists_every_check_with_the_documented_keys(toy_zoo: ToyZoo, qatladder: Any) -> None:
    ran = qatladder("validate", "toy", "--json")
    assert ran.code == 2
    (ladder,) = json.loads(ran.out)
    assert {"model", "version", "target", "verdict", "first_failed_check", "checks"} <= set(ladder)
    assert [check["id"] for check in ladder["checks"]] == list(check_ids())
    for check in ladder["checks"]:
        assert {"id", "rung", "status", "measured", "expected", "evidence"} <= set(check)
    assert ladder["verdict"] == "undecided"


def test_a_failing_model_exits_1_and_names_the_check(toy_zoo: ToyZoo, qatladder: Any) -> None:
    toy_zoo.artifact("float", 5)
    ran = qatladder("validate", "toy", "--rungs", "float")
    assert ran.code == 1
    assert "float.accuracy" in ran.out
    assert "no-ship" in ran.out


def test_the_exit_code_is_the_worst_verdicts() -> None:
    def ladder(status: Status) -> LadderResult:
        rungs = tuple(
            RungResult(rung, tuple(CheckResult(item, status) for item in check_ids() if item.startswith(f"{rung}."))) for rung in Rung
        )
        return LadderResult("m", "1", "t", rungs)

    ship, no_ship, undecided = ladder(Status.PASSED), ladder(Status.FAILED), ladder(Status.BROKEN)
    assert cli._exit_code([ship]) == 0
    assert cli._exit_code([ship, undecided]) == 2
    assert cli._exit_code([undecided, no_ship, ship]) == 1


def test_report_shows_the_last_whole_run(toy_zoo: ToyZoo, qatladder: Any) -> None:
    assert qatladder("report").code == 3
    qatladder("validate", "toy", "--rungs", "float")
    ran = qatladder("report", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)[0]["model"] == "toy"
    assert qatladder("report", "--list").out.startswith("cli-")
    assert qatladder("report", "no-such-run").code == 3


def test_zoo_list_and_lint(toy_zoo: ToyZoo, qatladder: Any) -> None:
    assert json.loads(qatladder("zoo", "list", "--json").out)[0]["model"] == "toy"
    ran = qatladder("zoo", "lint", "--json")
    (problems,) = json.loads(ran.out).values()
    assert ran.code == 1
    assert any("artifacts.onnx" in text for text in problems)


def test_lint_finds_what_the_adapter_and_the_entry_disagree_on(toy_zoo: ToyZoo, qatladder: Any) -> None:
    toy_zoo.entry(
        inputs=[{"name": "x", "shape": [1, 3], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}],
        targets=[{"march": "bernoulli2"}],
    )
    text = qatladder("zoo", "lint").out
    assert "preprocess gives float32 [1, 2], the entry declares float32 [1, 3]" in text
    assert "no board of the fleet has this march" in text


def test_the_schema_is_printed(toy_zoo: ToyZoo, qatladder: Any) -> None:
    assert json.loads(qatladder("zoo", "schema").out)["title"] == "QATLadder zoo entry"


def test_a_board_that_does_not_answer_is_not_fit(toy_zoo: ToyZoo, qatladder: Any) -> None:
    ran = qatladder("board", "check", "virtual-x5")
    assert ran.code == 2
    assert "not fit" in ran.out
    assert qatladder("board", "check", "ghost").code == 3
