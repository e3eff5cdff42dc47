"""The fleet at work, without a board: what several workers note at once, and which boards may be used."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from qatladder.boards import state
from qatladder.boards.device import Health
from qatladder.boards.fleet import load_fleet
from qatladder.boards.golden import GoldenResult
from qatladder.errors import ArtifactError, BrokenError, ConfigError, ToolchainError
from qatladder.evidence import Store, open_store
from qatladder.settings import Settings, load_settings
from qatladder.validation import fleet

FLEET = """
quarantine_after: 2
boards:
  - {name: a, march: bayes-e, host: 192.0.2.1, conn_id: a}
  - {name: b, march: bayes-e, host: 192.0.2.2, conn_id: b}
  - {name: kind, march: bernoulli2, host: 192.0.2.4, conn_id: k}
  - {name: j, march: bayes, host: 192.0.2.3, conn_id: j}
  - {name: v, march: bayes, host: 127.0.0.1, virtual: true}
"""
RESULT = GoldenResult(2, 1.0, "ab" * 32, {})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("QATLADDER_STORE", "QATLADDER_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "fleet.yaml"))
    return load_settings()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "folder":
        yield open_store(settings)
        return
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield open_store(replace(settings, store="s3://bucket/prefix"))


def spec(name: str) -> Any:
    return load_fleet().board(name)


def broken(kind: str = "timeout") -> BrokenError:
    return BrokenError("it did not work", kind=kind)


def names(settings: Settings, store: Store, march: str = "bayes-e", **options: Any) -> list[str]:
    return [item.name for item in fleet.usable_boards(settings, store, march, **options)]


def test_a_quarantined_board_is_not_used_and_the_error_says_why(settings: Settings, store: Store) -> None:
    assert names(settings, store) == ["a", "b"]
    assert names(settings, store, prefer="b") == ["b", "a"]
    assert names(settings, store, prefer="gone") == ["a", "b"]
    fleet.note_failure(store, spec("a"), broken(), "run 1")
    assert names(settings, store) == ["a", "b"]
    fleet.note_failure(store, spec("a"), broken(), "run 2")
    assert names(settings, store, prefer="a") == ["b"]
    assert names(settings, store, names=["b"]) == ["b"]
    with pytest.raises(BrokenError) as caught:
        names(settings, store, names=["a"])
    assert caught.value.kind == "no_board"
    assert "2 failures, the last: timeout: it did not work" in caught.value.where["a"]
    assert "since 20" in caught.value.where["a"]
    with pytest.raises(ConfigError):
        names(settings, store, march="bernoulli2", names=["a"])
    fleet.quarantine(store, spec("kind"), "a board of any name is named")
    with pytest.raises(BrokenError) as caught:
        names(settings, store, march="bernoulli2")
    assert "a board of any name is named" in caught.value.where["kind"]


def test_other_boards_failures_and_other_answers_do_not_count(settings: Settings, store: Store) -> None:
    fleet.note_failure(store, spec("a"), broken(), "run 1")
    fleet.note_failure(store, spec("b"), broken(), "run 1")
    fleet.note_success(store, spec("a"), "run 2")
    fleet.note_failure(store, spec("a"), broken(), "run 3")
    assert names(settings, store) == ["a", "b"]
    assert fleet.board_state(store, "a", 2).ladder == {
        "when": fleet.board_state(store, "a", 2).recent[-1]["when"],
        "run": "run 3",
        "answered": False,
    }


def test_a_virtual_board_nobody_started_is_not_punished(settings: Settings, store: Store) -> None:
    for _ in range(5):
        fleet.note_failure(store, spec("v"), broken("unreachable"), "run")
    assert fleet.board_state(store, "v", 2).ready
    for _ in range(2):
        fleet.note_failure(store, spec("v"), broken("timeout"), "run")
    assert not fleet.board_state(store, "v", 2).ready


def test_nothing_is_lost_when_everybody_writes_and_folds_at_once(settings: Settings) -> None:
    store = open_store(settings)
    with ThreadPoolExecutor(8) as pool:
        for index in range(40):
            pool.submit(fleet.note_failure, store, spec("a"), broken(), f"run {index}")
            if index % 5 == 0:
                pool.submit(fleet.compact, store, "a", 100)
    assert fleet.board_state(store, "a", 100).failures == 40
    assert fleet.compact(store, "a", 100).failures == 40
    assert fleet.board_state(store, "a", 100).failures == 40, "folding again counts nothing twice"


def test_folded_events_go_after_an_hour_and_the_state_stays(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        fleet.note_failure(store, spec("a"), broken(), f"run {index}")
    known = fleet.compact(store, "a", 2)
    assert fleet.compact(store, "a", 2) == known
    assert len(store.run_files("fleet", "a")) == 4, "whoever reads an older state.json still needs them"
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    monkeypatch.setattr(fleet, "_now", lambda: later)
    fleet.note_success(store, spec("a"), "run 3")
    known = fleet.compact(store, "a", 2)
    assert fleet.compact(store, "a", 2) == known == fleet.board_state(store, "a", 2)
    assert [file for file in store.run_files("fleet", "a") if file != "state.json"] == [
        file for file in store.run_files("fleet", "a") if file.startswith(f"{later:%Y%m%dT%H}")
    ]
    assert len(store.run_files("fleet", "a")) == 2
    assert not known.ready and known.failures == 2 and len(known.recent) == 3


def test_a_fold_killed_before_it_deletes_is_harmless(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.note_failure(store, spec("a"), broken(), "run 1")
    fleet.compact(store, "a", 9)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2)
    monkeypatch.setattr(fleet, "_now", lambda: later)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "delete_run_file", killed)
        with pytest.raises(KeyboardInterrupt):
            fleet.compact(store, "a", 9)
    assert fleet.board_state(store, "a", 9).failures == 1
    assert fleet.compact(store, "a", 9).failures == 1
    assert store.run_files("fleet", "a") == ["state.json"]


def test_the_fleets_files_are_no_run(settings: Settings, store: Store) -> None:
    fleet.note_failure(store, spec("a"), broken(), "run 1")
    fleet.compact(store, "a", 3)
    assert store.runs() == []


# --- checks, with a board that answers as told ---


class FakeBoard:
    """Stands in for `Board`: health as told, or an error."""

    health_says: list[Any]

    def __init__(self, spec: Any, session: Any = None, lock_timeout: float = 600.0) -> None:
        self.spec = spec

    def __enter__(self) -> FakeBoard:
        return self

    def __exit__(self, *_: object) -> None: ...

    def health(self) -> Health:
        says = FakeBoard.health_says
        answer = says.pop(0) if len(says) > 1 else says[0]
        if isinstance(answer, Exception):
            raise answer
        found: Health = answer
        return found


FIT = Health("/usr/bin/hrt_model_exec", {"tool": "1.9"}, "bayes-e", 1000.0, 1000.0, 100.0, 0.0, (0,), ())


@dataclasses.dataclass
class Bench:
    """How the fake board and its golden run behave."""

    golden: Exception | GoldenResult
    proofs: int = 0

    def health(self, *answers: Any) -> None:
        FakeBoard.health_says = list(answers)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(RESULT)
    bench.health(FIT)

    def run(board: Any, known: Any) -> GoldenResult:
        bench.proofs += 1
        if isinstance(bench.golden, Exception):
            raise bench.golden
        return bench.golden

    def golden_of(*_: Any) -> None:
        if isinstance(bench.golden, (ToolchainError, ArtifactError)):
            raise bench.golden

    monkeypatch.setattr(fleet, "Board", FakeBoard)
    monkeypatch.setattr(fleet.golden, "run", run)
    monkeypatch.setattr(fleet, "golden_of", golden_of)
    monkeypatch.setattr(fleet.time, "sleep", lambda seconds: None)
    return bench


@pytest.fixture
def check(settings: Settings) -> Callable[[], fleet.Checked]:
    store = open_store(settings)
    return lambda: fleet.check_board(spec("a"), settings, store, print)


def test_a_board_leaves_and_returns_by_itself(bench: Bench, check: Callable[[], fleet.Checked]) -> None:
    first = check()
    assert (first.outcome, first.golden, first.state.ready) == ("fit", True, True)
    bench.health(broken("unreachable"))
    assert check().state.ready
    out = check()
    assert (out.outcome, out.kind, out.state.ready) == ("broken", "unreachable", False)
    bench.health(FIT)
    bench.golden = broken("golden_mismatch")
    assert not check().state.ready, "it answers again, and computes wrong"
    bench.golden = RESULT
    back = check()
    assert (back.outcome, back.state.ready, back.state.failures) == ("fit", True, 0)


def test_an_unfit_board_is_broken_and_its_health_is_kept(bench: Bench, check: Callable[[], fleet.Checked]) -> None:
    bench.health(replace(FIT, disk_free_mb=3.0))
    found = check()
    assert (found.outcome, found.kind) == ("broken", "unfit_board")
    assert "only 3 MB free on disk" in found.why
    assert bench.proofs == 0
    assert found.state.health and found.state.health["problems"] == ["only 3 MB free on disk"]


@pytest.mark.parametrize("how", ["the BPU is used", "the lock is held"])
def test_a_busy_board_teaches_nothing(bench: Bench, check: Callable[[], fleet.Checked], how: str) -> None:
    if how == "the BPU is used":
        bench.health(replace(FIT, bpu_users=("4711 bench",)))
    else:
        bench.golden = broken("board_busy")
    for _ in range(4):
        found = check()
        assert (found.outcome, found.state.ready, found.state.failures) == ("busy", True, 0)


def test_a_stopped_virtual_board_is_said_to_be_stopped(bench: Bench, settings: Settings) -> None:
    bench.health(broken("unreachable"))
    for _ in range(3):
        found = fleet.check_board(spec("v"), settings, open_store(settings), print)
    assert (found.outcome, found.state.ready) == ("stopped", True)
    assert "qatladder board start v" in found.why


def test_by_hand_out_and_back(bench: Bench, check: Callable[[], fleet.Checked], settings: Settings) -> None:
    store = open_store(settings)
    fleet.quarantine(store, spec("a"), "fan")
    assert (check().state.ready, check().state.reason) == (False, "fan")
    bench.golden = broken("golden_mismatch")
    assert not fleet.give_back(spec("a"), settings, store, print).state.ready
    bench.golden = RESULT
    assert check().state.ready, "given back already; the golden model was what was missing"


def test_without_a_golden_model_a_fit_board_is_given_back(bench: Bench, check: Callable[[], fleet.Checked], settings: Settings) -> None:
    store = open_store(settings)
    bench.golden = ToolchainError("no compiler for this march")
    fleet.quarantine(store, spec("a"), "fan")
    bench.health(broken("unreachable"))
    assert not fleet.give_back(spec("a"), settings, store, print).state.ready
    bench.health(FIT)
    assert not check().state.ready, "never by itself: nothing proves it"
    found = fleet.give_back(spec("a"), settings, store, print)
    assert (found.golden, found.state.ready) == (None, True)


def test_preflight_runs_the_golden_model_once_in_a_quarter_of_an_hour(
    bench: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(settings)
    said: list[str] = []

    def preflight() -> None:
        fleet.preflight(FakeBoard(spec("a")), spec("a"), "bayes-e", store, settings, said.append)  # type: ignore[arg-type]

    preflight()
    preflight()
    assert bench.proofs == 1
    assert "s ago" in said[-1]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=16)
    monkeypatch.setattr(fleet, "_now", lambda: later)
    bench.golden = broken("nondeterministic")
    with pytest.raises(BrokenError) as caught:
        preflight()
    assert caught.value.kind == "nondeterministic"
    assert fleet.board_state(store, "a", 2).ready, "whoever asked notes the failure, once"
    fleet.note_failure(store, spec("a"), caught.value, "run 1")
    assert not fleet.board_state(store, "a", 2).ready


def test_preflight_waits_for_a_health_run_and_then_calls_the_board_busy(
    bench: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(settings)
    busy = replace(FIT, bpu_ratio=(40,))
    bench.health(busy, busy, FIT)
    assert fleet.preflight(FakeBoard(spec("a")), spec("a"), "bayes-e", store, settings, print) == FIT  # type: ignore[arg-type]
    bench.health(busy)
    with pytest.raises(BrokenError) as caught:
        fleet._look(FakeBoard(spec("a")), "bayes-e", store, print, patience=0)  # type: ignore[arg-type]
    assert caught.value.kind == "board_busy"


def test_a_wrong_fleet_is_no_fault_of_the_model(bench: Bench, settings: Settings) -> None:
    bench.health(ConfigError("the board's key_file does not exist"))
    with pytest.raises(BrokenError) as caught:
        fleet.preflight(FakeBoard(spec("a")), spec("a"), "bayes-e", open_store(settings), settings, print)  # type: ignore[arg-type]
    assert caught.value.kind == "fleet"


def test_a_damaged_golden_model_lets_no_board_judge_and_blames_none(bench: Bench, check: Callable[[], fleet.Checked]) -> None:
    bench.golden = ArtifactError("a file of the golden model is not the one that was written", "build it again")
    for _ in range(3):
        found = check()
        assert (found.outcome, found.kind, found.state.ready) == ("broken", "fleet", True)
    assert "build it again" in found.why


# --- power ---


def with_power(settings: Settings, command: list[str], **more: Any) -> Any:
    import yaml

    data = yaml.safe_load(settings.fleet.read_text())
    data["boards"][0]["power_cycle"] = command
    settings.fleet.write_text(yaml.safe_dump({**data, **more}))
    return spec("a")


def test_power_is_cycled_once_for_an_unreachable_board_when_the_fleet_says_so(
    bench: Bench, check: Callable[[], fleet.Checked], settings: Settings, tmp_path: Path
) -> None:
    log = tmp_path / "cycles $(touch owned); x"
    with_power(settings, [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write('off on ')", str(log)], power_cycle_after=2)
    bench.health(broken("unreachable"))
    check()
    assert not log.exists()
    for _ in range(3):
        check()
    assert log.read_text() == "off on ", "once, until it worked again"
    bench.health(FIT)
    check()
    bench.health(broken("timeout"))
    for _ in range(3):
        check()
    assert log.read_text() == "off on ", "only a board that does not answer"
    bench.health(broken("unreachable"))
    check()
    assert log.read_text() == "off on off on "
    assert not list(tmp_path.rglob("owned"))


def test_power_is_never_cycled_unasked(bench: Bench, check: Callable[[], fleet.Checked], settings: Settings, tmp_path: Path) -> None:
    with_power(settings, ["touch", str(tmp_path / "cycled")])
    bench.health(broken("unreachable"))
    for _ in range(5):
        check()
    assert not (tmp_path / "cycled").exists()


@pytest.mark.parametrize("command", [["/nowhere/switch"], [sys.executable, "-c", "print('relay 3: no answer'); raise SystemExit(4)"]])
def test_a_power_switch_that_fails_is_said(settings: Settings, command: list[str]) -> None:
    board = with_power(settings, command)
    with pytest.raises(BrokenError) as caught:
        fleet.power_cycle(board, open_store(settings), print)
    assert caught.value.kind == "power_cycle"
    assert not fleet.board_state(open_store(settings), "a", 2).power_cycled
    with pytest.raises(ConfigError, match="no power_cycle command"):
        fleet.power_cycle(spec("b"), open_store(settings), print)


def test_what_the_ui_is_given_holds_no_address_and_no_key(bench: Bench, check: Callable[[], fleet.Checked], settings: Settings) -> None:
    check()
    rows = fleet.fleet_status(settings, open_store(settings))
    assert [row["name"] for row in rows] == ["a", "b", "kind", "j", "v"]
    assert rows[0]["status"] == "ready" and rows[0]["golden"]["passed"] and rows[0]["health"]["versions"] == {"tool": "1.9"}
    assert "192.0.2.1" not in str(rows)
    assert state.BoardState.from_json({key: rows[0][key] for key in state.BoardState().to_json()}).ready
