"""Who is told about a run, and when: Airflow notifiers with apprise behind them.

Any DAG of a lab can use them: `on_success_callback=LadderNotifier()`. Where the messages go is set by the zoo's `alerts.yaml` and QATLADDER_ALERTS
(docs/alerts.md); by default they are files in the data folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseNotifier, Context

if TYPE_CHECKING:
    from qatladder.alerts.findings import Finding
    from qatladder.alerts.outbox import Outcome


class LadderNotifier(BaseNotifier):
    """Tells a DAG run's findings, one message per cause. A run without a report is an alert of its own.

    Args:
        urls: apprise addresses that get everything in place of the configured ones; None for those.
    """

    template_fields = ("urls",)

    def __init__(self, urls: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.urls = urls

    def notify(self, context: Context) -> None:
        """Queue and send; says so in the log when there is nothing to tell.

        Raises:
            BrokenError: a message could not be delivered; it is in the outbox, and the DAG `deliver_alerts` goes on trying.
            ConfigError: routing or acknowledgements are wrong; everybody was told all the same.
        """
        from qatladder.airflow.tasks import run_key_of, say
        from qatladder.alerts.messages import StoreLinks
        from qatladder.alerts.tell import tell, tell_broken
        from qatladder.evidence import open_store
        from qatladder.settings import load_settings

        settings, key = load_settings(), run_key_of(context)
        store = open_store(settings)
        try:
            report = json.loads(store.read_run_file(key, "report.json"))
        except FileNotFoundError:
            telling = tell_broken(_no_report(context), store, settings, key, self.urls)
        else:
            page = store.run_uri(key, "report.html")
            links = AirflowLinks.of(context, page) or StoreLinks(page)
            telling = tell(report, store, settings, links, key, self.urls)
        if not telling.outcomes:
            say("nothing to tell")
        show(telling.outcomes)
        raise_for(telling.outcomes, ("waiting", "lost"))
        for problem in telling.problems:
            raise problem


class OutboxNotifier(BaseNotifier):
    """Delivers what is held or failed before; what the DAG `deliver_alerts` does."""

    def notify(self, context: Context) -> None:
        """Send what is due.

        Raises:
            BrokenError: a message is given up; `qatladder alerts retry` puts it back.
        """
        from datetime import UTC, datetime

        from qatladder.airflow.tasks import say
        from qatladder.alerts.outbox import deliver_items, prune
        from qatladder.alerts.routing import load_routes
        from qatladder.evidence import open_store
        from qatladder.settings import load_settings

        settings = load_settings()
        store = open_store(settings)
        outcomes = deliver_items(store, load_routes(settings))
        if not outcomes:
            say("nothing is due")
        show(outcomes)
        prune(store, datetime.now(UTC))
        raise_for(outcomes, ("lost",))


def show(outcomes: Sequence[Outcome]) -> None:
    """A line per address; no secret in it."""
    from qatladder.airflow.tasks import say

    for outcome in outcomes:
        say(outcome.line())


def raise_for(outcomes: Sequence[Outcome], states: Sequence[str]) -> None:
    """Raise when a message is in one of these states.

    Raises:
        BrokenError: kind `alert`; names each address, without its secrets, and the reason.
    """
    from qatladder.errors import BrokenError

    lost = [f"{outcome.address}: {outcome.reason}" for outcome in outcomes if outcome.state in states]
    if lost:
        given_up = any(outcome.state == "lost" for outcome in outcomes)
        raise BrokenError(
            "an alert was not delivered and is given up" if given_up else "an alert was not delivered; deliver_alerts goes on trying",
            kind="alert",
            found="; ".join(dict.fromkeys(lost)),
            next_step="check the address and the service it names, then `qatladder alerts retry`; the report itself is whole",
        )


class AirflowLinks:
    """Links into Airflow's UI: the task's log, the report's page, evidence through the plugin.

    Args:
        base: address of the UI.
        dag_id, run_id: of the run.
        planned: ladders by slot, as the plan task left them: place of a ladder's tasks in their mapped group.
        page: URI of report.html in the store.
    """

    def __init__(self, base: str, dag_id: str, run_id: str, planned: Any, page: str) -> None:
        self.base, self.dag_id, self.run_id, self.page = base.rstrip("/"), dag_id, run_id, page
        self.places = {
            (str(ladder["model"]), str(ladder["version"]), str(ladder["target"])): (slot, index)
            for slot, ladders in (planned or {}).items()
            for index, ladder in enumerate(ladders)
        }

    @classmethod
    def of(cls, context: Any, page: str) -> AirflowLinks | None:
        """Of a running task; None where Airflow does not say its address, or the DAG has no plan of ours."""
        from airflow.sdk.configuration import conf

        base = conf.get("api", "base_url", fallback="")
        if not base:
            return None
        run = context["dag_run"]
        try:
            planned = context["ti"].xcom_pull(task_ids="plan")
        except Exception:  # a DAG without such a task, or a context without a task: the links lead to the report alone
            planned = None
        return cls(base, run.dag_id, run.run_id, planned if isinstance(planned, dict) else None, page)

    def report(self) -> Sequence[str]:
        return (f"{self.base}/qatladder/report/{quote(self.dag_id, safe='')}/{quote(self.run_id, safe='')}", self.page)

    def log(self, finding: Finding) -> str:
        from qatladder.airflow.names import RUNGS, group_of

        place = self.places.get((finding.ladder.model, finding.ladder.version, finding.ladder.target))
        if place is None:
            return ""
        slot, index = place
        rung = finding.check.partition(".")[0]
        task = f"{group_of(slot)}.{rung if rung in RUNGS else 'verdict'}"
        return f"{self.base}/dags/{self.dag_id}/runs/{quote(self.run_id)}/tasks/{task}/mapped/{index}"

    def evidence(self, uri: str) -> str:
        _, objects, key = uri.rpartition("/objects/")
        return f"{self.base}/qatladder/objects/{quote(key)}" if objects else uri


def _no_report(context: Context) -> Any:
    """The alert of a run that ended without a report: its machinery broke, nothing is known about the models."""
    from qatladder.alerts.send import Message

    run = context["dag_run"]
    why = context.get("exception")
    return Message(
        title=f"{run.dag_id}: the run ended without a report",
        body=f"run {run.run_id}\n"
        + (f"{type(why).__name__}: {why}\n" if why else "")
        + "next: open the run in Airflow; the first red task says why",
    )
