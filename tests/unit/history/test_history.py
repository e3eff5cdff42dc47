"""Promises: every check of every run is one row, written once; nothing is counted twice or lost, whoever writes or compacts, and whenever."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.toy import ToyZoo

from qatladder.errors import BrokenError
from qatladder.evidence import open_store
from qatladder.evidence.store import FolderStore, Store
from qatladder.history import History, facts_of, write_facts
from qatladder.history.facts import FOLDER, compact, headline, numbers, rebuild
from qatladder.ladder import CheckResult, LadderResult, Rung, RungResult, Status, check_ids
from qatladder.settings import load_settings
from qatladder.validation import finish_run, plan, run_rung


def night(number: int, models: int = 2, failing: str = "", month: int = 10) -> tuple[list[LadderResult], dict[str, Any]]:
    """A run in which every check of every model answers, `failing` fails for model_0."""
    run = {"id": f"night-2026{month:02}{number:02}", "started": f"2026-{month:02}-{number:02}T01:00:00+00:00"}
    results = []
    for model in range(models):
        rungs = []
        for rung in Rung:
            checks = tuple(
                CheckResult(
                    check_id,
                    Status.FAILED if check_id == failing and model == 0 else Status.PASSED,
                    measured=f"{check_id} measured",
                    values={"metric": "top1", "value": 0.9 + number / 1000} if check_id.endswith("accuracy") else {},
                )
                for check_id in check_ids(rung)
            )
            rungs.append(RungResult(rung, checks, facts={"determinants": {"entry": f"e{model}"}, "board": "x5"}))
        results.append(
            LadderResult(f"model_{model}", "1", "bayes", tuple(rungs), march="bayes", toolchain="hmct", owner="team", run_id=run["id"])
        )
    return results, run


def write(store: Store, *args: Any, **kwargs: Any) -> None:
    results, run = night(*args, **kwargs)
    write_facts(store, facts_of(results, run), run)


@pytest.fixture
def history(store: Store, tmp_path: Path) -> Callable[[], History]:
    return lambda: History(store, tmp_path / "mirror").refresh()


def test_facts_of_before_a_column_was_thought_of_are_asked_alike(store: Store, history: Callable[[], History]) -> None:
    results, run = night(1)
    write_facts(store, facts_of(results, run).drop_columns(["carried_from", "trend"]), run)
    assert history().ask("SELECT count(*) AS n FROM facts WHERE carried_from IS NULL")[0]["n"] == 2 * len(check_ids())
    write(store, 2)
    assert history().ask("SELECT count(*) AS n FROM facts WHERE coalesce(carried_from, '') = ''")[0]["n"] == 4 * len(check_ids())
    assert len(compact(store, "2026-11")) == 1
    assert history().ask("SELECT count(*) AS n FROM facts WHERE trend = ''")[0]["n"] == 2 * len(check_ids())


def count(history: History) -> int:
    return int(history.ask("SELECT count(*) AS n FROM facts")[0]["n"])


def test_a_fact_says_what_the_check_said(store: Store, history: Callable[[], History]) -> None:
    write(store, 3, failing="int.input")
    rows = history().ladder("model_0")
    assert [row["check_id"] for row in rows] == sorted(check_ids())
    (row,) = [row for row in rows if row["check_id"] == "qat.accuracy"]
    assert (row["status"], row["value"], row["unit"], row["verdict"], row["measured"]) == (
        "passed",
        0.903,
        "top1",
        "no-ship",
        "qat.accuracy measured",
    )
    assert row["time"] == datetime.datetime(2026, 10, 3, 1, tzinfo=datetime.UTC)
    assert {row["determined_by"] for row in rows} != {row["determined_by"] for row in history().ladder("model_1")}


def test_the_zoo_is_its_newest_runs(store: Store, history: Callable[[], History]) -> None:
    assert history().zoo() == []
    write(store, 1)
    write(store, 2, failing="hbm.compile")
    first, second = history().zoo()
    assert (first["verdict"], first["failures"], first["nights"]) == ("no-ship", 1, 2)
    assert first["shipped"] == datetime.datetime(2026, 10, 1, 1, tzinfo=datetime.UTC)
    assert (second["verdict"], second["run_id"]) == ("ship", "night-20261002")


def test_writing_a_run_again_doubles_nothing(store: Store, history: Callable[[], History]) -> None:
    write(store, 1)
    assert count(history()) == 2 * len(check_ids())
    write(store, 1, failing="int.input")
    assert count(history()) == 2 * len(check_ids())
    assert history().zoo()[0]["verdict"] == "no-ship"


def test_compaction_changes_no_answer(store: Store, history: Callable[[], History]) -> None:
    for number in range(1, 6):
        write(store, number, failing="int.input" if number == 4 else "")
    write(store, 1, month=11)
    before = [history().zoo(), history().ladder("model_0", nights=99), count(history())]
    (whole,) = compact(store, "2026-11")
    assert [key for key in store.keys(FOLDER + "/2026-10/")] == [whole]
    assert len(list(store.keys(FOLDER + "/2026-11/"))) == 1, "the open month is left alone"
    assert [history().zoo(), history().ladder("model_0", nights=99), count(history())] == before
    assert compact(store, "2026-11") == []


def test_compaction_interrupted_anywhere_counts_every_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path / "store")
    for number in range(1, 5):
        write(store, number)
    whole = 4 * 2 * len(check_ids())
    kept = store.delete_key
    for survives in range(4):
        left = iter(range(survives))

        def dying(key: str, left: Any = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            kept(key)

        monkeypatch.setattr(store, "delete_key", dying)
        with pytest.raises(KeyboardInterrupt):
            compact(store, "2026-11")
        assert count(History(store, tmp_path / "mirror").refresh()) == whole
        write(store, 10 + survives)
        whole += 2 * len(check_ids())
        assert count(History(store, tmp_path / "mirror").refresh()) == whole
    monkeypatch.setattr(store, "delete_key", kept)
    compact(store, "2026-11")
    assert count(History(store, tmp_path / "other").refresh()) == whole
    assert len(list(store.keys(FOLDER + "/"))) == 1


def test_many_writers_and_two_who_compact(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    for number in range(1, 9):
        write(store, number)
    errors: list[BaseException] = []

    def tried(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    work: list[Callable[[], object]] = [lambda: compact(store, "2026-11")] * 2
    work += [lambda number=number: write(store, number) for number in range(9, 17)]  # type: ignore[misc]
    threads = [threading.Thread(target=tried, args=(item,)) for item in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert count(History(store, tmp_path / "mirror").refresh()) == 16 * 2 * len(check_ids())
    compact(store, "2026-11")
    assert count(History(store, tmp_path / "mirror").refresh()) == 16 * 2 * len(check_ids())


def test_a_damaged_file_is_named_and_nothing_is_made_of_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    write(store, 1)
    (path,) = (tmp_path / "store" / FOLDER).rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenError, match="history") as caught:
        History(store, tmp_path / "mirror").refresh().zoo()
    assert path.name in str(caught.value)


def test_a_finished_run_has_its_facts_and_old_ones_are_read_from_their_reports(toy_zoo: ToyZoo, tmp_path: Path) -> None:
    (ladder,) = plan(["toy"])
    for run_id in ("cli-20261001T000000Z-aaaa", "cli-20261002T000000Z-bbbb"):
        run_rung(ladder, "float", run_id, print)
        finish_run([ladder], run_id)
    store = open_store(load_settings())
    history = History(store, tmp_path / "mirror")
    before = history.refresh().ladder("toy")
    assert len({row["run_id"] for row in before}) == 2
    for key in list(store.keys(FOLDER + "/")):
        store.delete_key(key)
    assert history.refresh().ladder("toy") == []
    assert rebuild(store) == ["cli-20261001T000000Z-aaaa", "cli-20261002T000000Z-bbbb"]
    assert history.refresh().ladder("toy") == before
    assert rebuild(store) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"metric": "mAP", "value": 0.5}, (0.5, "mAP")),
        ({"metric": "mAP", "value": float("nan")}, (None, "mAP")),
        ({"latency_ms": 1.5, "fps": 3}, (1.5, "ms")),
        ({"out": {"differing": 3}, "map": {"differing": 4}, "same_origin": True}, (7.0, "integers differ")),
        ({"kind": "timeout"}, (None, "")),
    ],
)
def test_the_one_number_of_a_check(values: dict[str, Any], expected: tuple[float | None, str]) -> None:
    assert headline(CheckResult("int.accuracy", Status.PASSED, values=values)) == expected


def test_numbers_are_flat_and_finite() -> None:
    nested = {"a": {"b": 1, "c": {"d": True, "e": "x"}}, "n": float("inf"), "list": [1, 2]}
    assert dict(numbers(nested)) == {"a.b": 1.0, "a.c.d": 1.0}
    assert replace(CheckResult("int.input", Status.PASSED), values=nested).values is nested


def test_runs_that_start_in_the_same_second_keep_their_order(store: Store, history: Callable[[], History]) -> None:
    """Two short runs of a command line; the later one is the newest, whichever name or file comes first."""
    for name, moment in (("b-first", "01:00:00.100"), ("a-second", "01:00:00.900"), ("c-earliest", "01:00:00.050")):
        results, run = night(1, models=1, failing="float.accuracy" if name == "a-second" else "")
        run = {"id": name, "started": f"2026-10-01T{moment}+00:00"}
        write_facts(store, facts_of([replace(result, run_id=name) for result in results], run), run)
    assert [row["run_id"] for row in history().zoo()] == ["a-second"]
    assert list(dict.fromkeys(row["run_id"] for row in history().ladder("model_0"))) == ["c-earliest", "b-first", "a-second"]
