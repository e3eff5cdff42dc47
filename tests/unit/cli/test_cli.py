"""Promises: exit code 0 ship, 1 no-ship, 2 undecided or ours broke, 3 usage; JSON for machines on stdout; errors without a traceback."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.toy import ToyZoo

from qatladder import cli
from qatladder.errors import BrokenError
from qatladder.ladder import CheckResult, LadderResult, Rung, RungResult, Status, check_ids


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def qatladder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["qatladder", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    "arguments", [["nope"], ["validate"], ["sweep", "--colour"], ["validate", "toy", "--rungs", "flaot"], ["validate", "ghost"]]
)
def test_usage_errors_exit_3_with_a_hint_and_no_traceback(toy_zoo: ToyZoo, qatladder: Any, arguments: list[str]) -> None:
    ran = qatladder(*arguments)
    assert ran.code == 3
    assert ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "value"), [("QATLADDER_HOME", "/dev/null/x"), ("QATLADDER_S3_ENDPOINT", "nonsense")], ids=["no folder", "no address"]
)
def test_what_nobody_foresaw_is_an_internal_error_and_never_a_verdict(
    toy_zoo: ToyZoo, qatladder: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    if name == "QATLADDER_S3_ENDPOINT":
        monkeypatch.setenv("QATLADDER_STORE", "s3://bucket")
    ran = qatladder("validate", "toy", "--rungs", "float")
    assert ran.code == 2
    assert ran.out == ""
    assert "internal error: " in ran.err.splitlines()[-1]
    assert "Traceback" in ran.err


def test_broken_infrastructure_outside_a_check_is_undecided_and_no_usage_error(
    toy_zoo: ToyZoo, qatladder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise BrokenError("the store is away", kind="store", console="503 from the server")

    monkeypatch.setattr("qatladder.evidence.open_store", away)
    ran = qatladder("report")
    assert ran.code == 2
    assert "the store is away" in ran.err
    assert "503 from the server" in ran.err
    assert "Traceback" not in ran.err


def test_one_rung_without_an_answer_does_not_keep_the_other_ladders_from_theirs(
    toy_zoo: ToyZoo, qatladder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qatladder.evidence.store import FolderStore

    write = FolderStore.write_run_file

    def sometimes(store: FolderStore, run_id: str, name: str, data: bytes) -> str:
        if name.endswith("@bayes/float.json"):
            raise BrokenError("the store cannot be written", kind="store", file=name)
        return write(store, run_id, name, data)

    monkeypatch.setattr(FolderStore, "write_run_file", sometimes)
    toy_zoo.entry(targets=[{"march": "bayes"}, {"march": "bayes-e"}])
    toy_zoo.artifact("calib", 5)
    ran = qatladder("validate", "toy", "--rungs", "float,calib", "--json")
    ladders = {ladder["target"]: {check["id"]: check["status"] for check in ladder["checks"]} for ladder in json.loads(ran.out)}
    assert "the store cannot be written" in ran.err
    assert ladders["bayes"]["float.accuracy"] == "broken"
    assert ladders["bayes-e"]["float.accuracy"] == "passed"
    assert ladders["bayes-e"]["calib.accuracy"] == "failed"
    assert ran.code == 1


def test_a_board_that_cannot_be_started_is_broken_and_an_unknown_one_is_usage(toy_zoo: ToyZoo, qatladder: Any) -> None:
    ran = qatladder("board", "start", "virtual-x5")  # QATLADDER_VENDOR=0
    assert ran.code == 2
    assert "the vendor environment" in ran.err
    assert qatladder("board", "start", "ghost").code == 3
    assert qatladder("board", "stop", "ghost").code == 3
    assert qatladder("board", "stop").out.splitlines() == ["virtual-x5: was not running", "virtual-j5: was not running"]


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


def test_linting_a_model_that_does_not_exist_is_not_ok(toy_zoo: ToyZoo, qatladder: Any) -> None:
    assert qatladder("zoo", "lint", "ghost").code == 3


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
    assert "qatladder board start virtual-x5" in ran.out
    assert qatladder("board", "check", "ghost").code == 3


def test_a_board_is_taken_out_and_listed_under_both_names_of_the_command(toy_zoo: ToyZoo, qatladder: Any) -> None:
    assert qatladder("fleet", "quarantine", "virtual-x5").code == 3, "a reason is asked for"
    assert qatladder("fleet", "quarantine", "ghost", "--reason", "x").code == 3
    assert qatladder("fleet", "quarantine", "virtual-x5", "--reason", "fan replaced on Monday").code == 0
    for group in ("fleet", "board"):
        line, other = qatladder(group, "list").out.splitlines()
        assert "in quarantine since" in line and "fan replaced on Monday" in line
        assert other.endswith("ready")
    boards = {item["name"]: item for item in json.loads(qatladder("fleet", "list", "--json").out)}
    assert boards["virtual-x5"]["state"]["status"] == "quarantined"
    assert boards["virtual-x5"]["march"] == "bayes-e"
    ran = qatladder("fleet", "return", "virtual-x5")  # nobody serves it
    assert ran.code == 2
    assert "in quarantine" in ran.out
    checked = json.loads(qatladder("fleet", "check", "virtual-j5", "--json").out)["virtual-j5"]
    assert (checked["outcome"], checked["state"]["status"]) == ("stopped", "ready")


def test_what_the_fleet_has_not_is_said(toy_zoo: ToyZoo, qatladder: Any) -> None:
    ran = qatladder("fleet", "power-cycle", "virtual-x5")
    assert ran.code == 3
    assert "no power_cycle command" in ran.err
    ran = qatladder("fleet", "golden", "bayes")  # QATLADDER_VENDOR=0
    assert ran.code == 3
    assert "bayes: not available" in ran.out and "QATLADDER_VENDOR=0" in ran.out


def test_environments_are_listed_and_checked(qatladder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "zoo.yaml").write_text(
        "environments:\n"
        f"  here: {{python: {sys.executable}, memory_gb: 2}}\n"
        "  ghost: {python: no/python}\n"
        "  oven: {python: /opt/j5/bin/python, container: {image: 'oe:1', engine: no-such-engine}}\n"
        "  far: {python: /opt/j5/bin/python, server: {host: builder@toolserver}}\n"
    )
    monkeypatch.setenv("QATLADDER_ZOO", str(zoo))
    listed = qatladder("env", "list").out
    assert "at most 2000 MB" in listed
    assert "/opt/j5/bin/python in the image oe:1 (no-such-engine)" in listed
    assert "/opt/j5/bin/python on builder@toolserver" in listed
    checked = qatladder("env", "check", "here")
    assert checked.code == 0
    assert f"Python {sys.version.split()[0]}" in checked.out
    broken = qatladder("env", "check", "here", "ghost", "oven", "--json")
    assert broken.code == 2
    here, ghost, oven = json.loads(broken.out)
    assert here["problem"] == "" and f"numpy-{np.__version__}" in here["found"]["packages"]
    assert f"{zoo}/no/python" in ghost["problem"]
    assert "not on PATH" in oven["problem"]


def test_an_environment_is_in_one_place(qatladder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo.yaml").write_text("environments: {x: {python: p, container: {image: i}, server: {host: h}}}\n")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    result = qatladder("env", "list")
    assert result.code == cli.USAGE
    assert "not both" in result.err


def test_the_history_is_shown_and_old_nights_go(qatladder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.history.test_history import night

    from qatladder.evidence import open_store
    from qatladder.reports.report import report_json
    from qatladder.settings import load_settings

    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    store = open_store(load_settings())
    for number in (1, 2):
        results, run = night(number, failing="hbm.compile" if number == 2 else "")
        store.write_run_file(run["id"], "report.json", json.dumps(report_json(results, run)).encode())
        store.write_run_file(run["id"], "manifest.json", b"{}")
    assert qatladder("history", "rebuild").out.split() == ["night-20261001", "night-20261002"]
    first, second = qatladder("history", "zoo").out.splitlines()[1:]
    assert "no-ship" in first and "2026-10-01" in first.split("2026-10-02")[1]
    assert " ship " in second
    shown = qatladder("history", "show", "model_0").out
    assert "hbm.compile        PF" in shown and "float.accuracy     PP" in shown
    assert len(json.loads(qatladder("history", "show", "model_0", "--json").out)) == 32
    assert qatladder("history", "show", "ghost").code == cli.USAGE
    assert "1 runs stay" not in qatladder("evidence", "sweep", "--keep", "1", "--dry-run").out
    assert "night-20261001 stays: baseline" in qatladder("evidence", "sweep", "--keep", "1").out
    assert qatladder("evidence", "sweep", "--keep", "0").code == cli.USAGE
    assert "whole-" in qatladder("history", "compact").out


def test_an_announcement_is_sent_and_what_became_of_it_is_listed(
    toy_zoo: ToyZoo, qatladder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qatladder.announcements import decide, settle
    from qatladder.announcements.places import places
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.zoo import load_zoo

    for name in ("QATLADDER_ANNOUNCE_TO", "QATLADDER_ANNOUNCEMENTS"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    store = open_store(settings)
    weights = toy_zoo.artifacts / "qat.json"
    sent = qatladder("announce", "toy", "--version", "1", "--artifact", f"qat={weights}", "--training", "git=1f", "--who", "me")
    assert sent.code == 0 and Path(sent.out.strip()).parent == settings.home / "announcements"
    (place,) = places(settings)
    assert place.take(store, lambda line: None) == 1
    assert "pending" in qatladder("announcements").out
    (decision,) = decide(store, load_zoo(settings))
    settle(store, decision.letter, decision.outcome, decision.why, decision.run_id)
    shown = qatladder("announcements").out
    assert "toy 1" in shown and decision.run_id in shown and "pending" not in shown
    (record,) = json.loads(qatladder("announcements", "--json").out)
    assert record["outcome"] == "run" and record["announcement"]["training"] == {"git": "1f"}
    monkeypatch.setenv("QATLADDER_ANNOUNCE_TO", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in qatladder("announce", "toy").out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["two words"], 3, "field model"),
        (["toy", "--artifact", "qat"], 3, "NAME=VALUE"),
        (["toy", "--artifact", "weights=x"], 3, "no such artifact role"),
        (["toy", "--when", "yesterday"], 3, "field when"),
        (["toy", "--to", "/dev/null/x"], 2, "did not arrive"),
    ],
)
def test_an_announcement_that_is_wrong_or_does_not_arrive_is_told(
    toy_zoo: ToyZoo, qatladder: Any, arguments: list[str], code: int, told: str
) -> None:
    ran = qatladder("announce", *arguments)
    assert ran.code == code and told in ran.err and "Traceback" not in ran.err


def suite_in_the_store(folder: Path) -> None:
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    night = {
        "run": "night-1",
        "when": "2026-11-01T01:00:00+00:00",
        "statistics": {"name": "statistics.json", "sha256": "a" * 64, "size": 10, "uri": ""},
        "hbm": "b" * 64,
        "frames": "f",
    }
    about = {"source": "learnt", "output": "y_int", "expected": "max <= 5 (1 good night)", "question": 0}
    suite = {
        "name": "dump_quality",
        "expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "max", "max_value": 5}, "meta": about}],
        "meta": {"qatladder": {"words": "learnt from 1 good night", "nights": [night]}},
    }
    (folder / "suite.json").write_text(json.dumps(suite))
    open_store(load_settings()).write_key("expectations/toy@1@bayes/suite.json", folder / "suite.json")


def test_expectations_are_shown_and_learnt_anew(toy_zoo: ToyZoo, qatladder: Any, tmp_path: Path) -> None:
    toy_zoo.entry()
    assert "no suite yet" in qatladder("expectations", "show", "toy").out
    suite_in_the_store(tmp_path)
    shown = qatladder("expectations", "show", "toy", "--target", "bayes")
    assert shown.code == 0
    for text in ("toy 1 @ bayes", "learnt from 1 good night", "night-1", "y_int", "learnt   max <= 5 (1 good night)"):
        assert text in shown.out
    (data,) = json.loads(qatladder("expectations", "show", "toy", "--json").out)
    assert data["suite"]["expectations"][0]["kwargs"] == {"column": "max", "max_value": 5} and data["since"] == ""
    assert "learns anew; 3 good nights" in qatladder("expectations", "relearn", "toy").out
    (data,) = json.loads(qatladder("expectations", "show", "toy", "--json").out)
    assert data["suite"] is None and data["since"].startswith("20")
    assert "since then" in qatladder("expectations", "show", "toy").out


@pytest.mark.parametrize("command", ["show", "relearn"])
def test_expectations_of_a_ladder_the_zoo_does_not_hold_are_a_usage_error(toy_zoo: ToyZoo, qatladder: Any, command: str) -> None:
    toy_zoo.entry()
    for arguments in (["ghost"], ["toy", "--version", "2"], ["toy", "--target", "nash-e"]):
        ran = qatladder("expectations", command, *arguments)
        assert ran.code == 3 and "no such ladder" in ran.err


@pytest.mark.parametrize(
    ("name", "value"), [("QATLADDER_LEARN_NIGHTS", "many"), ("QATLADDER_LEARN_NIGHTS", "-1"), ("QATLADDER_LEARN_MINIMUM", "0")]
)
def test_a_setting_that_is_no_number_of_nights_is_named(
    toy_zoo: ToyZoo, qatladder: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    ran = qatladder("zoo", "list")
    assert ran.code == 3 and name in ran.err and value in ran.err
