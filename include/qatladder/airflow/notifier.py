"""Who is told about a run, and when: an Airflow notifier with apprise behind it.

Any DAG of a lab can use it: `on_success_callback=LadderNotifier()`. Where the messages go is set by QATLADDER_ALERTS
(apprise addresses); by default they are files in the data folder.
"""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import BaseNotifier, Context


class LadderNotifier(BaseNotifier):
    """Sends the alert of a DAG run: its `no-ship` and `undecided` ladders. A run without a report is an alert of its own.

    Args:
        urls: apprise addresses; None for QATLADDER_ALERTS.
    """

    template_fields = ("urls",)

    def __init__(self, urls: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.urls = urls

    def notify(self, context: Context) -> None:
        """Send; says so in the log when there is nothing to tell.

        Raises:
            BrokenError: a message could not be delivered.
        """
        from qatladder.airflow.tasks import run_key_of, say
        from qatladder.errors import BrokenError
        from qatladder.evidence import open_store
        from qatladder.reports.alerts import Message, alert_message, send
        from qatladder.settings import load_settings

        settings, key = load_settings(), run_key_of(context)
        store = open_store(settings)
        try:
            report = json.loads(store.read_run_file(key, "report.json"))
        except FileNotFoundError:
            message: Message | None = _no_report(context)
        else:
            message = alert_message(report, store.run_uri(key, "report.html"))
        if message is None:
            say("nothing to tell: every ladder ships")
            return
        deliveries = send(message, self.urls or settings.alerts)
        for delivery in deliveries:
            say(f"{'told' if delivery.ok else 'could not tell'} {delivery.url}: {message.title if delivery.ok else delivery.reason}")
        if lost := [delivery.url for delivery in deliveries if not delivery.ok]:
            raise BrokenError(
                "an alert was not delivered",
                kind="alert",
                found=", ".join(lost),
                next_step="check QATLADDER_ALERTS and the service it names; the report itself is whole",
            )


def _no_report(context: Context) -> Any:
    """The alert of a run that ended without a report: its machinery broke, nothing is known about the models."""
    from qatladder.reports.alerts import Message

    run = context["dag_run"]
    why = context.get("exception")
    return Message(
        title=f"{run.dag_id}: the run ended without a report",
        body=f"run {run.run_id}\n"
        + (f"{type(why).__name__}: {why}\n" if why else "")
        + "next: open the run in Airflow; the first red task says why",
    )
