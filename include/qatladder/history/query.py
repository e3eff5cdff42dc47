"""Asks the facts with DuckDB, on a local mirror of the store's files: they never change, so each is fetched once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from qatladder.errors import BrokenError
from qatladder.evidence import Store
from qatladder.history.facts import FOLDER, SCHEMA, live

LADDER = "model, version, target"


class History:
    """The facts of all runs as the table `facts`; columns as `facts.SCHEMA` has them.

    Args:
        store: where they are.
        mirror: a folder of this machine; safe to delete.
    """

    def __init__(self, store: Store, mirror: Path) -> None:
        self.store, self.mirror = store, mirror
        self._files: list[Path] = []

    def refresh(self) -> History:
        """Fetch what is new and forget what is gone."""
        there = {key.removeprefix(FOLDER + "/") for key in self.store.keys(FOLDER + "/") if key.endswith(".parquet")}
        here = {path.relative_to(self.mirror).as_posix(): path for path in self.mirror.rglob("*.parquet")} if self.mirror.is_dir() else {}
        for name in here.keys() - there:
            here.pop(name).unlink(missing_ok=True)
        for name in sorted(there):
            path = self.mirror / name
            if name not in here or not path.name.startswith("whole-"):  # a run that is finished again replaces its own file
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")  # others may refresh at the same time
                with contextlib.suppress(FileNotFoundError):  # compacted since it was listed: its rows are in another file
                    self.store.fetch_key(f"{FOLDER}/{name}", part)
                    part.replace(path)
                    here[name] = path
        months: dict[str, dict[str, Path]] = {}
        for name, path in here.items():
            months.setdefault(name.split("/")[0], {})[path.name] = path
        self._files = sorted(path for files in months.values() for path in live(files).values())
        return self

    def ask(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query over `facts`, as dictionaries.

        Raises:
            BrokenError: kind `history`: the facts cannot be read, or the query is wrong.
        """
        connection = duckdb.connect()
        try:
            connection.execute("SET TimeZone = 'UTC'")
            if self._files:
                connection.read_parquet([str(path) for path in self._files], union_by_name=True).create_view("stored")
                connection.register("columns", SCHEMA.empty_table())  # files of before a column was thought of have it, too: empty
                connection.execute("CREATE VIEW facts AS SELECT * FROM stored UNION ALL BY NAME SELECT * FROM columns")
            else:
                connection.register("facts", SCHEMA.empty_table())
            cursor = connection.execute(sql, list(parameters))
            names = [item[0] for item in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            raise BrokenError(
                "the history cannot be asked",
                "delete the mirror and ask again; if it stays, a facts file of the store is damaged",
                kind="history",
                mirror=self.mirror,
                found=str(error).splitlines()[0],
            ) from error
        finally:
            connection.close()

    def zoo(self, nights: int = 30) -> list[dict[str, Any]]:
        """One row per ladder that ran in the last nights: its newest verdict, first failed check and cause, and when it last shipped."""
        return self.ask(
            f"""
            WITH recent AS (
                SELECT {LADDER}, run_id, time, verdict, check_id, status, cause, owner, required FROM facts
                WHERE time >= (SELECT max(time) FROM facts) - to_days(?)
            ), runs AS (
                SELECT {LADDER}, run_id, any_value(time) AS time, any_value(verdict) AS verdict, any_value(owner) AS owner,
                    min(CASE WHEN status = 'failed' THEN check_id END) AS failed, count(*) FILTER (status = 'failed') AS failures
                FROM recent GROUP BY ALL
            )
            SELECT {LADDER}, arg_max(run_id, time) AS run_id, max(time) AS time, arg_max(verdict, time) AS verdict, arg_max(owner, time) AS owner,
                arg_max(failures, time) AS failures, max(time) FILTER (verdict = 'ship') AS shipped, count(*) AS nights
            FROM runs GROUP BY ALL ORDER BY {LADDER}
            """,
            [nights],
        )

    def ladder(self, model: str, target: str | None = None, nights: int = 30) -> list[dict[str, Any]]:
        """Every check of a model in its last runs, oldest first: what was measured, and how it was answered."""
        return self.ask(
            f"""
            WITH newest AS (
                SELECT DISTINCT run_id, time FROM facts WHERE model = ? AND (? IS NULL OR target = ?) ORDER BY time DESC LIMIT ?
            )
            SELECT {LADDER}, run_id, time, verdict, check_id, status, value, unit, measured, expected, reason, cause, determined_by
            FROM facts SEMI JOIN newest USING (run_id) WHERE model = ? AND (? IS NULL OR target = ?)
            ORDER BY {LADDER}, time, run_id, check_id
            """,
            [model, target, target, nights, model, target, target],
        )
