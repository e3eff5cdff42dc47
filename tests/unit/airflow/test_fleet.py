"""Airflow follows the fleet: pools and connections on a real Airflow database, and a health task's answer as a task state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from qatladder.airflow import fleet
from qatladder.airflow.fleet import Row
from qatladder.airflow.names import board_slots
from qatladder.boards.fleet import load_fleet


@pytest.fixture(scope="module")
def database() -> None:
    """The schema, in the folder the conftest gave Airflow."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def pools(database: None) -> Iterator[Callable[[], dict[str, int]]]:
    """The slots by pool; nothing but `default_pool` before and after."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    def found() -> dict[str, int]:
        with create_session() as session:
            return {pool.pool: pool.slots for pool in session.query(Pool) if pool.pool != "default_pool"}

    def clear() -> None:
        with create_session() as session:
            session.query(Pool).filter(Pool.pool != "default_pool").delete()

    clear()
    yield found
    clear()


def set_pool(name: str, slots: int, description: str = "in repair") -> None:
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    with create_session() as session:
        Pool.create_or_update_pool(name, slots, description, include_deferred=True, session=session)


def said(rows: list[Row]) -> dict[str, str]:
    return {row.what: row.status for row in rows}


def test_pools_follow_the_fleet(pools: Callable[[], dict[str, int]]) -> None:
    assert said(fleet.sync_pools({"a": 1, "b.2": 2})) == {"pool board_a": "created", "pool board_b.2": "created"}
    assert pools() == {"board_a": 1, "board_b.2": 2}
    assert set(said(fleet.sync_pools({"a": 1, "b.2": 2})).values()) == {"ok"}
    rows = fleet.sync_pools({"a": 3, "c": 1})
    assert said(rows) == {"pool board_a": "updated", "pool board_c": "created", "pool board_b.2": "retired"}
    assert rows[0].why == "1 -> 3 slots"
    assert pools() == {"board_a": 3, "board_c": 1}


def test_what_an_operator_set_to_0_and_what_is_not_ours_is_kept(pools: Callable[[], dict[str, int]]) -> None:
    fleet.sync_pools({"a": 1})
    set_pool("board_a", 0)
    set_pool("board_games", 7, "somebody else's")
    set_pool("board_gone", 2, "board gone: 2 ladders at a time")
    assert said(fleet.sync_pools({"a": 1})) == {"pool board_a": "kept", "pool board_gone": "retired"}
    assert pools() == {"board_a": 0, "board_games": 7}, "0 slots takes a board out of service; a restart must not put it back"
    set_pool("board_a", 5)
    assert said(fleet.sync_pools({"a": 1}))["pool board_a"] == "updated"


def test_a_pool_somebody_is_in_is_not_taken_away(pools: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.models.pool import Pool

    fleet.sync_pools({"a": 1})
    monkeypatch.setattr(Pool, "occupied_slots", lambda self, session: 1)
    assert said(fleet.sync_pools({})) == {"pool board_a": "kept"}
    assert pools() == {"board_a": 1}


def test_check_changes_nothing(pools: Callable[[], dict[str, int]]) -> None:
    fleet.sync_pools({"a": 1, "gone": 1})
    assert said(fleet.sync_pools({"a": 2, "new": 1}, check=True)) == {
        "pool board_a": "updated",
        "pool board_new": "created",
        "pool board_gone": "retired",
    }
    assert pools() == {"board_a": 1, "board_gone": 1}


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000"
GOOD = {"conn_type": "ssh", "host": "192.0.2.1", "login": "root", "extra": {"private_key": "-", "host_key": KEY}}


def rows_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any] | None, **board: Any) -> list[Row]:
    spec = {"name": "x5", "march": "bayes-e", "dialect": "x5", "host": "192.0.2.1", "conn_id": "bench", **board}
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump({"boards": [spec]}))
    monkeypatch.delenv("AIRFLOW_CONN_BENCH", raising=False)
    if connection is not None:
        monkeypatch.setenv("AIRFLOW_CONN_BENCH", json.dumps(connection))
    return fleet.check_connections(load_fleet(tmp_path / "fleet.yaml"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"conn_type": "http"}, "its type is http"),
        ({"host": ""}, "no host"),
        ({"extra": {"host_key": KEY}}, "neither key nor password"),
        ({"extra": {"host_key": KEY}, "password": "secret-word"}, ""),
        ({"extra": {"private_key": "-"}}, "host key is not pinned"),
        ({"extra": {"private_key": "-", "host_key": KEY, "no_host_key_check": "true"}}, "switches host-key checking off"),
        ({"extra": {"private_key": "-", "host_key": KEY, "allow_host_key_change": True}}, "switches host-key checking off"),
        ({"extra": {"private_key": "-", "host_key": KEY, "march": "bayes"}}, "its march is bayes, the fleet's x5 is bayes-e"),
        ({"extra": {"private_key": "-", "host_key": KEY, "march": "bayes-e"}}, ""),
        ({"extra": {"private_key": "-", "host_key": KEY, "dialect": "j5"}}, "its dialect is j5"),
    ],
)
def test_what_is_wrong_with_a_connection(
    database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    (row,) = rows_of(tmp_path, monkeypatch, {**GOOD, **change})
    assert row.status == ("wrong" if words else "ok")
    assert words in row.why
    assert "secret-word" not in str(row)


def test_a_connection_that_is_not_there(database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.status for row in rows_of(tmp_path, monkeypatch, None)] == ["wrong"]
    own = {"key_file": "/keys/bench", "known_hosts": "/keys/known_hosts"}
    assert [row.status for row in rows_of(tmp_path, monkeypatch, None, **own)] == ["unused"]
    rows = rows_of(tmp_path, monkeypatch, GOOD, jump={"conn_id": "gate"})
    assert [(row.what, row.status) for row in rows] == [("connection bench", "ok"), ("connection gate", "wrong")]


def test_slots_of_a_broken_fleet_are_those_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet.yaml").write_text(
        "boards: [{name: a}, {name: b, slots: 2}, {name: c, slots: many}, {march: bayes}, 3, {name: d, slots: 0}]"
    )
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "fleet.yaml"))
    assert board_slots() == {"a": 1, "b": 2, "c": 1, "d": 1}


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--check"], 1)])
def test_the_command_says_one_table_and_leaves_a_code(
    pools: Callable[[], dict[str, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    (tmp_path / "fleet.yaml").write_text("boards: [{name: v, march: bayes, host: 127.0.0.1, virtual: true, slots: 2}]")
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "fleet.yaml"))
    assert "AIRFLOW_HOME" in os.environ
    assert fleet.main(["sync", *arguments]) == code
    assert capsys.readouterr().out.splitlines() == ["pool board_v  created   2 slots"]
    assert pools() == ({} if arguments else {"board_v": 2})


def test_the_command_without_an_airflow_or_a_fleet(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFLOW_HOME")
    assert fleet.main(["sync"]) == 3
    assert "no Airflow database" in capsys.readouterr().err
    monkeypatch.setenv("QATLADDER_FLEET", str(tmp_path / "none.yaml"))
    assert fleet.main(["sync"]) == 3
    assert "cannot be read" in capsys.readouterr().err


# --- the health task ---


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, home: Path, two_boards: Path) -> SimpleNamespace:
    """What the check of a board will find."""
    from qatladder.boards.state import BoardState

    found = SimpleNamespace(outcome="fit", why="", kind="", golden=True, health=None, state=BoardState(), asked=[])

    def check_board(spec: Any, settings: Any, store: Any, log: Any, connect: Any) -> SimpleNamespace:
        found.asked.append(spec.name)
        log("golden model: every integer as expected")
        return found

    monkeypatch.setattr("qatladder.validation.fleet.check_board", check_board)
    return found


@pytest.mark.parametrize(
    ("outcome", "exception"),
    [("fit", None), ("busy", "AirflowSkipException"), ("stopped", "AirflowSkipException"), ("broken", "AirflowFailException")],
)
def test_a_boards_health_is_the_tasks_state(
    found: SimpleNamespace, context: dict[str, Any], log_lines: Callable[[], list[str]], outcome: str, exception: str | None
) -> None:
    from airflow.sdk import exceptions

    found.outcome, found.why = outcome, "" if outcome == "fit" else "the reason"
    if exception is None:
        fleet.check("b.2", context)
    else:
        with pytest.raises(getattr(exceptions, exception), match="the reason"):
            fleet.check("b.2", context)
    assert found.asked == ["b.2"]
    lines = log_lines()
    assert lines[0] == "::group::b.2: what ran"
    assert lines.index("golden model: every integer as expected") < lines.index("::endgroup::")
    assert "b.2: ready" in lines
    assert context["ti"].pushed["answer"]["status"] == outcome


def test_a_board_that_left_the_fleet_is_no_crash(found: SimpleNamespace, context: dict[str, Any]) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="no board named 'gone'"):
        fleet.check("gone", context)
