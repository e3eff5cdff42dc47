"""What each task of a validation DAG does: plan, one rung, one verdict, the summary, the alert.

Plain functions, called by the task decorators in `flow.py`; everything beyond `airflow.sdk` is imported inside them.

They log and never print: Airflow stamps a printed line when its supervisor reads it, a few milliseconds late, and its log
view sorts by that stamp, so that printed lines slip into the wrong group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qatladder.airflow.names import NO_BOARD, run_key

if TYPE_CHECKING:
    from qatladder.ladder import RungResult

log = logging.getLogger(__name__)

UNCHANGED = "unchanged"
"""Slot of the ladders that need not be climbed."""

Ladder = dict[str, Any]
"""One ladder as `qatladder.validation.plan` describes it."""


def say(text: str) -> None:
    """Log a text line by line: the log view knows groups by lines that start with `::group::`."""
    for line in text.splitlines() or [""]:
        log.info("%s", line)


def plan_ladders(params: Mapping[str, Any], slots: Sequence[str], run_id: str) -> dict[str, list[Ladder]]:
    """The run's ladders by slot: the board the plan gave each one, `no_board`, or `unchanged`: carried over, nothing to climb.

    Args:
        params: the DAG run's params: `models` or `model`, `version`, `target`, `rungs`; absent or None means all;
            `force`: answer again what is unchanged.
        slots: the slots the DAG has a group for.
        run_id: the object store's name of the run.

    Raises:
        AirflowFailException: the zoo or a param is wrong, or no ladder matches.
    """
    from qatladder.airflow.ssh import connect
    from qatladder.validation import carry_over, plan

    models = params.get("models") or ([params["model"]] if params.get("model") else None)
    with airflow_errors():
        ladders = plan(
            models=models,
            version=params.get("version"),
            target=params.get("target"),
            rungs=params.get("rungs"),
            force=bool(params.get("force")),
        )
        unchanged = carry_over(ladders, run_id, say, connect=connect)
    planned: dict[str, list[Ladder]] = {slot: [] for slot in slots}
    planned[UNCHANGED] = unchanged
    for ladder in ladders:
        if ladder in unchanged:
            continue
        # A board that joined the fleet after the DAG was parsed has no slot until the next parse.
        planned[ladder["board"] if ladder["board"] in planned else NO_BOARD].append(ladder)
    for slot, chosen in planned.items():
        for ladder in chosen:
            what = {NO_BOARD: "no board", UNCHANGED: "unchanged, carried over"}.get(slot, f"board {slot}")
            say(f"{ladder['label']}: {' '.join(ladder['rungs'])}; {what}")
    return planned


def climb(
    ladder: Ladder,
    rung: str,
    context: Mapping[str, Any],
    patience: float | None = None,
    done: Callable[[RungResult], None] = lambda result: None,
) -> None:
    """Run one rung of one ladder, log its checks in groups, and leave its answer as the task's state.

    Args:
        patience: seconds a job on a board is waited for; None waits for its end.
        done: is given the rung's result, whatever state the task takes from it.
    Raises:
        AirflowFailException, AirflowException, AirflowSkipException: see `qatladder.airflow.states`.
        StillRunning: a job on a board takes longer.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    from qatladder.airflow.ssh import connect
    from qatladder.airflow.states import deciding, raise_for_rung
    from qatladder.reports.text import check_log
    from qatladder.validation import run_rung

    if rung not in ladder["rungs"]:
        raise AirflowSkipException(f"this run was not asked for the rung {rung}")
    say(f"::group::{rung} of {ladder['label']}: what ran")
    try:
        with airflow_errors():
            result = run_rung(ladder, rung, run_key_of(context), say, connect=connect, patience=patience)
    finally:
        say("::endgroup::")
    done(result)
    for check in result.checks:
        say(f"::group::{check.id} {check.status}")
        say("\n".join(check_log(check)))
        say("::endgroup::")
    status, line = deciding(result)
    context["ti"].xcom_push(key="answer", value={"label": ladder["label"], "status": str(status), "why": line})
    say(line)
    raise_for_rung(result)


def judge(ladder: Ladder, context: Mapping[str, Any]) -> None:
    """Join the rungs of one ladder into its verdict, and leave the verdict as the task's state.

    Raises:
        AirflowFailException, AirflowSkipException: see `qatladder.airflow.states.raise_for_ladder`.
    """
    from qatladder.airflow.states import raise_for_ladder
    from qatladder.reports.text import ladder_text
    from qatladder.validation import finish_ladder

    with airflow_errors():
        result = finish_ladder(ladder, run_key_of(context))
    say(ladder_text(result))
    context["ti"].xcom_push(key="answer", value={"label": ladder["label"], "status": str(result.verdict), "why": result.why})
    raise_for_ladder(result)


def summarise(planned: Mapping[str, Sequence[Ladder]] | None, context: Mapping[str, Any]) -> dict[str, Any]:
    """Write the run's report, print the verdict table, and return where the report is and what the verdicts are.

    Raises:
        AirflowFailException: nothing was planned.
        AirflowException: the report could not be written; Airflow tries again.
    """
    import json

    from airflow.sdk.exceptions import AirflowFailException

    from qatladder.evidence import open_store
    from qatladder.ladder import LadderResult
    from qatladder.reports.text import trend_text, verdict_table
    from qatladder.settings import load_settings
    from qatladder.validation import finish_run

    if not planned:
        raise AirflowFailException("nothing was planned; the plan task's log says why")
    with airflow_errors():
        summary = finish_run([ladder for ladders in planned.values() for ladder in ladders], run_key_of(context))
        report = json.loads(open_store(load_settings()).read_run_file(run_key_of(context), "report.json"))
    say(verdict_table([LadderResult.from_json(ladder) for ladder in report["ladders"]]))
    if moved := trend_text(report):
        say(moved)
    if summary["problem"]:
        say(summary["problem"])
    say(f"report: {summary['report_html']}")
    return {key: summary[key] for key in ("report_json", "report_html", "verdicts", "counts")}


def retention(params: Mapping[str, Any]) -> dict[str, int]:
    """Let old nights go, and what became of announcements of over a year ago; what goes is in the log.

    Args:
        params: `keep_nights`, `dry_run`.
    """
    import time

    from qatladder.announcements.inbox import forget
    from qatladder.evidence import open_store
    from qatladder.evidence.retention import sweep
    from qatladder.settings import load_settings

    with airflow_errors():
        store = open_store(load_settings())
        kept = sweep(store, int(params["keep_nights"]), time.time(), bool(params["dry_run"]), say)
        if not params["dry_run"]:
            forget(store, time.time() - 366 * 86400)
    return {"stay": len(kept.runs), "go": len(kept.gone), "objects": len(kept.objects), "bytes": kept.bytes}


def compact_history() -> list[str]:
    """Put every closed month of facts into one file; returns their keys."""
    import datetime

    from qatladder.evidence import open_store
    from qatladder.history.facts import compact
    from qatladder.settings import load_settings

    with airflow_errors():
        written = compact(open_store(load_settings()), f"{datetime.datetime.now(datetime.UTC):%Y-%m}")
    say("\n".join(written) or "no closed month has more than one file")
    return written


def propose_baseline(params: Mapping[str, Any]) -> dict[str, str]:
    """What somebody is asked to accept, in words.

    Args:
        params: `model`, `version`, `target`, `run`; absent or None: any, the newest that ships.
    Returns:
        `run_id`, and `subject` and `body` (Markdown) of the question.
    Raises:
        AirflowFailException: there is no such result, or it does not ship.
    """
    from qatladder.evidence import open_store
    from qatladder.history import History
    from qatladder.history.baselines import proposal
    from qatladder.settings import load_settings

    settings = load_settings()
    store = open_store(settings)
    with airflow_errors():
        found = proposal(
            store,
            History(store, settings.home / "history").refresh(),
            params["model"],
            params.get("target"),
            params.get("version"),
            params.get("run"),
        )
    say(found["body"])
    return found


def accept_baseline(context: Mapping[str, Any]) -> list[str]:
    """Keep the approved result as the baseline of its ladders; returns them.

    Raises:
        AirflowFailException: nobody, or no reason, or the result cannot be accepted.
    """
    from qatladder.evidence import open_store
    from qatladder.history.baselines import promote
    from qatladder.settings import load_settings

    params, answer = context["params"], context["ti"].xcom_pull(task_ids="approve")
    run_id = context["ti"].xcom_pull(task_ids="propose")["run_id"]
    user = answer.get("responded_by_user") or {}
    with airflow_errors():
        accepted = promote(
            open_store(load_settings()),
            run_id,
            params["model"],
            params.get("target"),
            params.get("version"),
            by=str(user.get("name") or user.get("id") or ""),
            why=str((answer.get("params_input") or {}).get("why") or ""),
        )
    labels = [f"{item.model} {item.version} @ {item.target}" for item in accepted]
    for label in labels:
        say(f"{label}: held against {run_id} from now on; accepted by {accepted[0].by}: {accepted[0].why}")
    return labels


def run_key_of(context: Mapping[str, Any]) -> str:
    """The object store's name of the running DAG run."""
    return run_key(context["dag_run"].dag_id, context["dag_run"].run_id)


class airflow_errors:
    """Context manager: what the library raises, as what Airflow should do about it.

    `BrokenError` becomes `AirflowException` (retried); a user's error, and a bug of ours, `AirflowFailException` (not retried).
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        from airflow.sdk.exceptions import AirflowException, AirflowFailException

        from qatladder.errors import BrokenError, InternalError, QATLadderError

        if isinstance(error, BrokenError):
            if error.console:
                say(error.console)
            raise AirflowException(f"broken ({error.kind}): {error}") from error
        if isinstance(error, InternalError):
            raise AirflowFailException(f"a bug in QATLadder: {error}") from error
        if isinstance(error, QATLadderError):
            raise AirflowFailException(str(error)) from error
