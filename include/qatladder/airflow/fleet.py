"""Airflow follows the fleet: a pool for every board, and the connections its boards name. And what a health task does.

    python -m qatladder.airflow.fleet sync [--check]

Exit code of `sync`: 0 Airflow follows the fleet, 1 `--check` found something to do, 3 a connection is missing or wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qatladder.airflow.names import board_slots, pool_of
from qatladder.airflow.tasks import airflow_errors, say

if TYPE_CHECKING:
    from airflow.models.connection import Connection

    from qatladder.boards.fleet import BoardSpec, Fleet

PENDING, WRONG = 1, 3


@dataclass(frozen=True)
class Row:
    """One line of what `sync` says.

    Attributes:
        what: `pool board_x5`, `connection bench-x5`.
        status: a pool is `ok`, `created`, `updated`, `retired` or `kept`; a connection `ok`, `unused` or `wrong`.
    """

    what: str
    status: str
    why: str = ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="qatladder fleet", description="Airflow follows the fleet.")
    commands = parser.add_subparsers(dest="command", required=True)
    sync = commands.add_parser("sync", help="make pools follow the fleet, and look at the connections its boards name")
    sync.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)

    from qatladder.airflow.environment import DEFAULT_PORT, airflow_home, native_environment
    from qatladder.boards.fleet import load_fleet
    from qatladder.errors import QATLadderError
    from qatladder.settings import load_settings

    try:
        settings = load_settings()
        fleet = load_fleet(settings.fleet)
        if "AIRFLOW_HOME" not in os.environ:  # not in a container: the Airflow of this data folder, which reads its settings at import
            if not (airflow_home(settings) / "airflow.db").exists():
                print(f"error: there is no Airflow database in {airflow_home(settings)}: start the UI once (make ui)", file=sys.stderr)
                return WRONG
            os.environ.update(native_environment(settings, DEFAULT_PORT))
        rows = [*sync_pools(board_slots(settings), options.check), *check_connections(fleet)]
    except QATLadderError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    width = max(len(row.what) for row in rows)
    for row in rows:
        print(f"{row.what:<{width}}  {row.status:<8}  {row.why}".rstrip())
    if any(row.status == "wrong" for row in rows):
        return WRONG
    return PENDING if options.check and any(row.status in ("created", "updated", "retired") for row in rows) else 0


def sync_pools(slots: Mapping[str, int], check: bool = False) -> list[Row]:
    """A pool per board with as many slots as the fleet states; a pool of a board that left goes when nobody is in it.

    A pool somebody set to 0 slots stays so: that takes a board out of the ladders. Quarantine is no matter of pools.

    Args:
        slots: by board, see `names.board_slots`.
        check: only say what would be done.
    """
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    rows = []
    with create_session() as session:
        there = {str(pool.pool): pool for pool in Pool.get_pools(session=session)}
        for board, wanted in slots.items():
            pool = there.get(pool_of(board))
            if pool is not None and pool.slots == wanted:
                rows.append(Row(f"pool {pool_of(board)}", "ok", f"{wanted} slot{'s' * (wanted > 1)}"))
                continue
            if pool is not None and pool.slots == 0:
                rows.append(Row(f"pool {pool_of(board)}", "kept", "0 slots: somebody took the board out of service by hand"))
                continue
            before = "" if pool is None else f"{pool.slots} -> "
            rows.append(Row(f"pool {pool_of(board)}", "updated" if pool else "created", f"{before}{wanted} slot{'s' * (wanted > 1)}"))
            if not check:
                Pool.create_or_update_pool(pool_of(board), wanted, _description(board, wanted), include_deferred=True, session=session)
        for name, pool in there.items():
            board = name.removeprefix("board_")
            if board == name or board in slots or not (pool.description or "").startswith(f"board {board}:"):
                continue  # not a board's, or somebody else's
            if pool.occupied_slots(session=session):
                rows.append(Row(f"pool {name}", "kept", "the fleet has no such board, but somebody is in its pool"))
                continue
            rows.append(Row(f"pool {name}", "retired", "the fleet has no such board"))
            if not check:
                Pool.delete_pool(name, session=session)
    return rows


def _description(board: str, slots: int) -> str:
    return f"board {board}: {'one ladder' if slots == 1 else f'{slots} ladders'} at a time"


def check_connections(fleet: Fleet) -> list[Row]:
    """Whether each Airflow connection the fleet names can be used as it is; no secret is shown, and no board is asked."""
    from airflow.models.connection import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    rows: dict[str, Row] = {}
    for spec in fleet.boards:
        for conn_id, own_data in _connections(spec):
            what = f"connection {conn_id}"
            try:
                problems = _problems(Connection.get_connection_from_secrets(conn_id), spec if conn_id == spec.conn_id else None)
            except AirflowNotFoundException:
                if own_data:
                    rows[conn_id] = Row(what, "unused", f"not defined; {spec.name} is reached as the fleet file says")
                else:
                    rows[conn_id] = Row(what, "wrong", f"not defined, and {spec.name} cannot be reached without it: Admin > Connections")
                continue
            if problems or conn_id not in rows:
                rows[conn_id] = Row(what, "wrong" if problems else "ok", "; ".join(problems) or f"reaches {spec.name}")
    return list(rows.values())


def _connections(spec: BoardSpec) -> Iterator[tuple[str, bool]]:
    """(connection, whether the fleet file alone would do) of a board and of its jump host."""
    for item in (spec, spec.jump):
        if item is not None and item.conn_id:
            own = bool(item.key_file and item.known_hosts) or (item is spec and spec.virtual)
            yield item.conn_id, own


def _problems(connection: Connection, spec: BoardSpec | None) -> list[str]:
    extra = connection.extra_dejson
    found = []
    if connection.conn_type != "ssh":
        found.append(f"its type is {connection.conn_type}, not ssh")
    if not connection.host:
        found.append("it has no host")
    if not (connection.password or extra.get("key_file") or extra.get("private_key")):
        found.append("it has neither key nor password")
    for switch in ("no_host_key_check", "allow_host_key_change"):
        if str(extra.get(switch, "")).lower() == "true":
            found.append(f"{switch} switches host-key checking off: remove it")
    if not extra.get("host_key"):
        found.append("the host key is not pinned: put the board's public key into the extra `host_key` (ssh-keyscan)")
    for key in ("march", "dialect"):
        if spec is not None and extra.get(key) not in (None, getattr(spec, key)):
            found.append(f"its {key} is {extra[key]}, the fleet's {spec.name} is {getattr(spec, key)}")
    return found


def check(board: str, context: Mapping[str, Any]) -> None:
    """Look at one board and run the golden model on it: what a task of `board_health` does.

    Raises:
        AirflowSkipException: nothing was learnt: somebody works on the board, or nobody serves the virtual board.
        AirflowFailException: the board is not fit; its state says since when and why it is in quarantine.
    """
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    from qatladder.airflow.ssh import connect
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.reports.fleet import health_log, state_line
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import check_board

    with airflow_errors():
        settings = load_settings()
        spec = load_fleet(settings.fleet).board(board)
        say(f"::group::{board}: what ran")
        try:
            found = check_board(spec, settings, open_store(settings), say, connect=connect)
        finally:
            say("::endgroup::")
    if found.health is not None:
        say(f"::group::health of {board}")
        say("\n".join(health_log(found.health)))
        say("::endgroup::")
    line = state_line(found.state)
    context["ti"].xcom_push(key="answer", value={"label": board, "status": found.outcome, "why": found.why or line})
    say(f"{board}: {line}")
    if found.outcome in ("busy", "stopped"):
        raise AirflowSkipException(found.why)
    if found.outcome != "fit":
        raise AirflowFailException(f"{board} is not fit ({found.kind}): {found.why}")


if __name__ == "__main__":
    sys.exit(main())
