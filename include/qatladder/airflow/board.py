"""The board rung as a task that can be put aside: a long job on a board holds no worker, and no worker's death harms it.

The job on the board has an id that follows from who asks for what (see `qatladder.boards.jobs`). So there is no state to hand over:
a task that resumes, or is tried again on another worker, asks the same questions, finds the job, and goes on with it. That is why
this is no SSHRemoteJobOperator, whose jobs have random ids, whose hosts are Airflow connections alone, and which knows no lock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, Context
from airflow.triggers.base import BaseTrigger, TriggerEvent

PATIENCE = float(os.environ.get("QATLADDER_BOARD_PATIENCE", "60"))
"""Seconds a job is watched by the worker that started it; deferring costs several seconds and is not for short ones."""

POLL = 5.0
AWAY = 900.0
"""Seconds a board may be out of reach before the task is woken up to deal with it."""


class DataDocsLink(BaseOperatorLink):
    """The button "Data Docs" of a board task: great_expectations' page about the dumps it judged, served by the plugin."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Called in the task's process when it ends, and kept as an XCom; empty when no dumps were judged."""
        return str(getattr(operator, "data_docs", ""))


class BoardRung(BaseOperator):
    """Climb the board rung of a ladder.

    Args:
        ladder: one item of `qatladder.validation.plan`.
        patience: see `PATIENCE`.
    """

    template_fields = ("ladder",)
    operator_extra_links = (DataDocsLink(),)
    data_docs = ""

    def __init__(self, *, ladder: Any, patience: float = PATIENCE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ladder = ladder
        self.patience = patience

    def execute(self, context: Context) -> None:
        """Climb, or defer while a job goes on."""
        self._climb(context)

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        """The same again: what was asked before is answered from the board's job."""
        from qatladder.airflow import tasks

        tasks.say(f"{event['board']}: job {event['job']} {event['why']}")
        self._climb(context)

    def _climb(self, context: Context) -> None:
        from qatladder.airflow import tasks
        from qatladder.boards.jobs import StillRunning

        try:
            tasks.climb(self.ladder, "board", context, self.patience, self._link)
        except StillRunning as job:
            tasks.say(f"{job}; it holds no worker meanwhile")
            trigger = BoardJobTrigger(job.board, job.job, job.offset)
        else:
            return
        self.defer(trigger=trigger, method_name="resume")

    def _link(self, result: Any) -> None:
        """Remember where the plugin serves the Data Docs of a rung's result."""
        page = result.products.get("data_docs_page")
        self.data_docs = f"/qatladder/objects/{page.sha256[:2]}/{page.sha256}.html" if page else ""

    def on_kill(self) -> None:
        """Leave the climb as an exception would: on the way out the board's job is killed with its process group."""
        raise SystemExit("the task was killed; its job on the board is cancelled")


class BoardJobTrigger(BaseTrigger):
    """Fires when a job on a board is over, and writes the job's output into the task's log meanwhile.

    Args:
        board: name of a board of the fleet.
        job: id of the job.
        offset: bytes of its log that are in the task's log already.
    """

    def __init__(self, board: str, job: str, offset: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.board, self.job, self.offset = board, job, offset

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "qatladder.airflow.board.BoardJobTrigger", {"board": self.board, "job": self.job, "offset": self.offset}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        why = await self._until_over()
        yield TriggerEvent({"board": self.board, "job": self.job, "why": why})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """A user ended the task while it was put aside: the job on the board ends too."""
        await asyncio.to_thread(self._cancel)

    async def _until_over(self) -> str:
        """Ask in threads: the SSH library blocks, and the triggerer must not."""
        from qatladder.errors import QATLadderError

        reached = time.monotonic()
        session = await asyncio.to_thread(self._session)
        try:
            while True:
                try:
                    state = await asyncio.to_thread(self._look, session)
                    reached = time.monotonic()
                    if state != "running":
                        return f"is over: {state}"
                except QATLadderError as error:
                    if time.monotonic() - reached > AWAY:
                        return f"cannot be asked: {error}"
                await asyncio.sleep(POLL)
        finally:
            await asyncio.to_thread(session.close)

    def _session(self) -> Any:
        from qatladder.airflow.ssh import connect
        from qatladder.boards.fleet import load_fleet
        from qatladder.boards.session import BoardSession

        spec = load_fleet().board(self.board)
        return BoardSession(partial(connect, spec), spec.name, spec.workdir, patience=0.0)

    def _look(self, session: Any) -> str:
        from qatladder.boards.jobs import Job

        found = Job(session, self.job).look(self.offset, lambda line: self.log.info("%s: %s", self.board, line))
        self.offset = found.offset
        return str(found.state)

    def _cancel(self) -> None:
        from qatladder.boards.jobs import Job

        with self._session() as session:
            job = Job(session, self.job)
            job.cancel()
            job.remove()
