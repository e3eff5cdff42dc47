"""The graph of a validation run.

    plan ─> ladders of board A ─> [ float ─> calib ─> qat ─> int ─> hbm ─> board ─> verdict ] x ladder ─┐
        └─> ladders of board B ─> [ ...                                                     ] x ladder ─┴─> summary ─> alert

A ladder of which nothing has changed since it was last climbed is carried over by `plan` and goes straight to the summary. A board for
which nothing is left is skipped by `plan` itself: no process is started to find an empty list.

One mapped task group per board, because Airflow takes a mapped task's pool from the DAG and not from the mapped value:
this is what lets every board have a pool of its own, with one slot. A rung runs after the one below it whatever that one
found (`all_done`): its checks are skipped, with the reason, where they need something that is not there.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Context, get_current_context, task, task_group
from airflow.sdk.exceptions import DownstreamTasksSkipped

from qatladder.airflow import tasks
from qatladder.airflow.board import BoardRung
from qatladder.airflow.names import NO_BOARD, RUNGS, board_names, group_of, pool_of
from qatladder.airflow.notifier import LadderNotifier
from qatladder.airflow.tasks import Ladder

QUEUES = {"float": "pc", "calib": "pc", "qat": "pc", "int": "toolchain", "hbm": "toolchain", "board": "board"}
"""Queue of each rung: which workers may take it. Executors without queues ignore it."""

RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=10)}
"""For `broken`: infrastructure often answers the second time. `failed` is never retried, whatever this says."""

LABEL = "{{ task.op_kwargs['ladder']['label'] }}"
TIMEOUT = timedelta(hours=6)
BOARD: dict[str, Any] = {"map_index_template": "{{ task.ladder['label'] }}", "execution_timeout": TIMEOUT, **RETRIES}


def ladder_group(group_id: str, board: str | None = None) -> Any:
    """A task group to map over ladders: one task per rung, then the verdict.

    Args:
        group_id: name of the group.
        board: whose pool the board task waits for; None for the default pool.

    Returns:
        a decorated task group: `ladder_group("on_x5", "x5").expand(ladder=...)`.
    """

    @task_group(group_id=group_id, prefix_group_id=True)
    def climb_ladder(ladder: Ladder) -> None:
        below: Any = None
        for rung in RUNGS:
            common: dict[str, Any] = {"task_id": rung, "queue": QUEUES[rung], "trigger_rule": "all_done" if below else "all_success"}
            if rung == "board":
                here: Any = BoardRung(ladder=ladder, pool=pool_of(board) if board else "default_pool", **common, **BOARD)
            else:
                here = _rung.override(**common)(ladder=ladder, rung=rung)
            if below:
                below >> here
            below = here
        below >> _verdict(ladder=ladder)

    return climb_ladder


def validation_flow() -> None:
    """Build the whole graph inside a DAG."""
    boards = board_names()
    slots = (*boards, NO_BOARD)
    planned: Any = _plan(slots=list(slots))
    summary = _summary()
    for slot in slots:
        chosen = _ladders_of.override(task_id=_ladders_task(slot))(planned=planned, slot=slot)
        group = ladder_group(group_of(slot), board=None if slot == NO_BOARD else slot)
        group.expand(ladder=chosen) >> summary
    summary >> _alert()


@task(task_id="plan", **RETRIES)
def _plan(slots: list[str]) -> dict[str, list[Ladder]]:
    context = _context()
    planned = tasks.plan_ladders(context["params"], slots, tasks.run_key_of(context))
    if idle := [_ladders_task(slot) for slot in slots if not planned[slot]]:
        context["ti"].xcom_push(key="return_value", value=planned)
        raise DownstreamTasksSkipped(tasks=idle)  # type: ignore[no-untyped-call]  # how Airflow is told: this task succeeds
    return planned


def _ladders_task(slot: str) -> str:
    return f"ladders_{group_of(slot)}"


@task
def _ladders_of(planned: dict[str, list[Ladder]], slot: str) -> list[Ladder]:
    return planned[slot]


@task(map_index_template=LABEL, execution_timeout=TIMEOUT, **RETRIES)
def _rung(ladder: Ladder, rung: str) -> None:
    tasks.climb(ladder, rung, _context())


@task(task_id="verdict", map_index_template=LABEL, trigger_rule="all_done", **RETRIES)
def _verdict(ladder: Ladder) -> None:
    tasks.judge(ladder, _context())


@task(task_id="summary", trigger_rule="all_done", on_failure_callback=LadderNotifier(), **RETRIES)
def _summary() -> dict[str, Any]:
    context = _context()
    return tasks.summarise(context["ti"].xcom_pull(task_ids="plan"), context)


@task(task_id="alert", **RETRIES)
def _alert() -> None:
    LadderNotifier()(_context())


def _context() -> Context:
    return get_current_context()
