"""What a night moved: brings baselines, earlier nights and missing ladders together for `qatladder.history.trends`."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from qatladder.errors import BrokenError, QATLadderError
from qatladder.evidence import Store
from qatladder.history import History
from qatladder.history.baselines import advance, baseline_of
from qatladder.history.trends import Past, Policy, judge_night
from qatladder.ladder import LadderResult, Rung, RungResult, Verdict
from qatladder.settings import Settings
from qatladder.validation.context import load_rung
from qatladder.validation.pairing import OTHER_SAMPLES
from qatladder.zoo.load import load_zoo

MISSING_DAYS = 7
"""A ladder that ran within so many days and does not run tonight is missing."""

SERIES_NIGHTS = 60

Key = tuple[str, str, str]
Series = dict[Key, dict[str, list[tuple[datetime.datetime, float]]]]


def night_trends(
    store: Store, settings: Settings, results: Sequence[LadderResult], run: Mapping[str, Any], whole_zoo: bool
) -> tuple[list[dict[str, Any] | None], list[dict[str, Any]], str]:
    """The trend of every ladder, in order; the ladders that are missing; and what went wrong on the way, for the report.

    Args:
        whole_zoo: the run was asked for every ladder, so one that is not there is missing.
    """
    try:
        policy = Policy(**load_zoo(settings, entries=False).trend)
        history = History(store, settings.home / "history").refresh()
        previous, series = _previous(history, run), _series(history, run, _measured(results))
        pasts: list[Past | None] = []
        problems = []
        for result in results:
            try:
                pasts.append(_past(store, result, previous, series))
            except (QATLadderError, OSError, ValueError, KeyError, TypeError) as error:
                pasts.append(None)
                problems.append(f"nothing is said about the trend of {result.model} {result.version}: {' '.join(str(error).split())}")
        judged = iter(judge_night([(result, past) for result, past in zip(results, pasts, strict=True) if past is not None], policy))
        trends = [None if past is None else next(judged) for past in pasts]
        missing = _missing(previous, {(item.model, item.version, item.target) for item in results}, run) if whole_zoo else []
    except (QATLadderError, OSError, ValueError, KeyError) as error:
        return [None] * len(results), [], f"nothing is said about trends: {' '.join(str(error).split())}"
    return list(trends), missing, "; ".join(problems)


def advance_baselines(
    store: Store, results: Sequence[LadderResult], trends: Sequence[dict[str, Any] | None], run: Mapping[str, Any]
) -> None:
    """Every ladder that ships and in which nothing became worse is what the next nights are held against.

    Not one on other samples than its baseline: nobody can say whether it became worse, so a person accepts it.
    """
    for result, trend in zip(results, trends, strict=True):
        if trend is None or result.verdict is not Verdict.SHIP or trend["verdict"] in ("regression", "suspicious"):
            continue
        if not any(OTHER_SAMPLES in item["why"] for item in trend["movements"]):
            advance(store, result.model, result.version, result.target, str(run["id"]), str(run["started"]))


def _past(store: Store, result: LadderResult, previous: Mapping[Key, tuple[str, str, str, str]], series: Series) -> Past:
    key = (result.model, result.version, result.target)
    last = previous.get(key)
    baseline = baseline_of(store, *key, run_id=result.run_id)
    before: dict[Rung, RungResult] | None = None
    if baseline is not None:
        ladder = {"model": baseline.model, "version": baseline.version, "target": baseline.target}
        before = {rung: found for rung in Rung if (found := load_rung(store, baseline.run_id, ladder, rung)) is not None}
        if not before:
            raise BrokenError(
                "the baseline's run is not in the store any more",
                "accept another: qatladder baseline accept",
                kind="store",
                model=result.model,
                run=baseline.run_id,
            )
    anchor = None
    if baseline is not None and baseline.anchor:
        ladder = {"model": baseline.model, "version": baseline.anchor["version"], "target": baseline.target}
        anchor = {rung: found for rung in Rung if (found := load_rung(store, baseline.anchor["run_id"], ladder, rung)) is not None}
    # a level that somebody accepted is what the nights from then on are held against, not those before
    since = datetime.datetime.fromisoformat(baseline.time) if baseline is not None and baseline.approved else None
    nights = {check: [value for time, value in found if since is None or time >= since] for check, found in series.get(key, {}).items()}
    return Past(baseline, before, last[:3] if last else None, nights, anchor)


def _previous(history: History, run: Mapping[str, Any]) -> dict[Key, tuple[str, str, str, str]]:
    """(run, time, verdict, owner) of every ladder's last run before this one."""
    rows = history.ask(
        """
        SELECT model, version, target, arg_max(run_id, time) AS run_id, max(time) AS time, arg_max(verdict, time) AS verdict,
            arg_max(owner, time) AS owner
        FROM facts SEMI JOIN (
            SELECT run_id, model, version, target FROM facts GROUP BY ALL HAVING count(DISTINCT rung) = 6  -- no part of a ladder
        ) USING (run_id, model, version, target)
        WHERE run_id <> ? AND time <= CAST(? AS TIMESTAMPTZ) AND version <> '?' GROUP BY ALL
        """,
        [run["id"], run["started"]],
    )
    return {
        (row["model"], row["version"], row["target"]): (row["run_id"], row["time"].isoformat(), row["verdict"], row["owner"])
        for row in rows
    }


def _measured(results: Sequence[LadderResult]) -> dict[Key, str]:
    """The run in which a board rung that is carried over was measured."""
    return {
        (result.model, result.version, result.target): rung.carried["run_id"]
        for result in results
        for rung in result.rungs
        if rung.rung is Rung.BOARD and rung.carried
    }


def _series(history: History, run: Mapping[str, Any], measured: Mapping[Key, str]) -> Series:
    """What earlier nights measured of board.perf, oldest first: those that measured."""
    rows = history.ask(
        """
        SELECT model, version, target, check_id, list(value ORDER BY time) AS found, list(run_id ORDER BY time) AS runs,
            list(time ORDER BY time) AS times
        FROM facts
        WHERE check_id = 'board.perf' AND value IS NOT NULL AND coalesce(carried_from, '') = '' AND run_id <> ?
            AND time <= CAST(? AS TIMESTAMPTZ)
        GROUP BY ALL
        """,
        [run["id"], run["started"]],
    )
    found: Series = {}
    for row in rows:
        key = (row["model"], row["version"], row["target"])
        values = row["found"]
        if measured.get(key) in row["runs"]:  # carried over: held against the nights before it was measured
            values = values[: row["runs"].index(measured[key])]
        found.setdefault(key, {})[row["check_id"]] = list(zip(row["times"], values, strict=False))[-SERIES_NIGHTS:]
    return found


def _missing(previous: Mapping[Key, tuple[str, str, str, str]], tonight: set[Key], run: Mapping[str, Any]) -> list[dict[str, Any]]:
    oldest = datetime.datetime.fromisoformat(str(run["started"])) - datetime.timedelta(days=MISSING_DAYS)
    return [
        {"model": key[0], "version": key[1], "target": key[2], "owner": owner, "last_run": last, "last_time": time}
        for key, (last, time, _, owner) in sorted(previous.items())
        if key not in tonight and datetime.datetime.fromisoformat(time) >= oldest
    ]
