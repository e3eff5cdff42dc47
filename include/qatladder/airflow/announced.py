"""Trained models that announce themselves: the asset, the bell that watches for them, and what each task of `model_announced` does.

    collect ─> decide ─> [ start ─> settle ] x announcement ─> all_well

Announcements come as events of the asset (REST, another DAG), or lie in a folder, an S3 prefix or an MLflow registry. For the latter a bell in the
triggerer looks every few seconds and, when something is there, makes an event that carries nothing: the tasks take what is there, with
retries, and where it cannot be taken they go red.

A run of this DAG does not only serve the events that triggered it. Airflow puts an event that arrives while an earlier one waits for its run
into no run at all (3.3.2: the queue keeps the time of the first one, and the run takes the events up to then). So `collect` reads the asset's
events itself, from the last one it saw.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, AssetWatcher, Context, get_current_context, task, task_group
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from qatladder.airflow.notifier import LadderNotifier
from qatladder.airflow.tasks import airflow_errors, say
from qatladder.announce import ASSET

log = logging.getLogger(__name__)

LADDER_DAG = "validate_model"
EVERY = float(os.environ.get("QATLADDER_ANNOUNCEMENTS_EVERY") or 15)
"""Seconds between two looks of the bell."""

AGAIN = 120.0
"""Seconds until the bell rings again for what still lies there: it was half-written, say."""

AWAY = 900.0
"""Seconds until it rings again for a place that cannot be looked at; each ring is a red run and an alert."""

OVERDUE = 600.0
"""Seconds an announcement may be pending before the bell rings for it."""

OVERLAP = timedelta(minutes=10)
"""Events are read again so far back: one may become visible after a later one."""

RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": timedelta(seconds=10)}
PATIENT: dict[str, Any] = {"retries": 5, "retry_delay": timedelta(seconds=15)}
"""A new version of the zoo is refused by `validate_model` until its file was parsed again: half a minute."""


class AnnouncementBell(BaseEventTrigger):
    """Rings when announcements lie in a watched place or registry, or wait in the inbox for too long.

    It only looks. What it has seen it keeps in memory: after a restart it rings once too often, and never once too little.

    Args:
        every: seconds between two looks.
    """

    def __init__(self, every: float = EVERY) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.every = every

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "qatladder.airflow.announced.AnnouncementBell", {"every": self.every}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        rung: dict[str, float] = {}
        while True:
            found = await asyncio.to_thread(waiting)  # S3 and HTTP block, and the triggerer must not
            now = time.monotonic()
            rung = {what: when for what, when in rung.items() if what in found}
            if fresh := [what for what, pause in found.items() if what not in rung or now - rung[what] > pause]:
                rung.update(dict.fromkeys(fresh, now))
                yield TriggerEvent({"waiting": fresh[:20]})  # type: ignore[no-untyped-call]
            await asyncio.sleep(self.every)


def waiting() -> dict[str, float]:
    """What a run of `model_announced` would have to do, and seconds until it is worth saying again. Never raises."""
    found: dict[str, float] = {}
    try:
        from qatladder.announcements import inbox, registry
        from qatladder.announcements.places import places
        from qatladder.errors import QATLadderError
        from qatladder.evidence import open_store
        from qatladder.settings import load_settings

        settings = load_settings()
        store = open_store(settings)
        for place in places(settings):
            try:
                found.update({f"{place.uri}: {item.key} {item.modified:.3f}": AGAIN for item in place.waiting()})
            except QATLadderError as error:
                found[f"{place.uri}: {error.message}"] = AWAY
        if settings.mlflow:
            try:
                letters, _ = registry.look(registry.Registry(settings.mlflow), store, _models(settings))
                found.update({letter.source: AGAIN for letter in letters})
            except QATLadderError as error:
                found[f"{settings.mlflow}: {error.message}"] = AWAY
        found.update(dict.fromkeys(inbox.overdue(store, OVERDUE), AWAY))
    except Exception as error:  # a bug or a setting: the run it causes says so in red
        log.exception("announcements cannot be watched for")
        found[f"{type(error).__name__}: {error}"] = AWAY
    return found


MODELS = Asset(ASSET, watchers=[AssetWatcher(name="announcement_bell", trigger=AnnouncementBell())])


class StartLadder(TriggerDagRunOperator):
    """Start the ladder of one announcement, or say why there is none to start.

    pink    duplicate or superseded: nothing to do; waiting: not yet
    red     unknown, missing or rejected: somebody announced what cannot be validated

    Args:
        decided: an item of what `decide` returned.
    """

    template_fields = ("decided",)

    def __init__(self, *, decided: Any, **kwargs: Any) -> None:
        super().__init__(trigger_dag_id=LADDER_DAG, skip_when_already_exists=True, openlineage_inject_parent_info=False, **kwargs)
        self.decided = decided

    def execute(self, context: Context) -> None:
        """Ask for the run, whose id follows from the announcement: a second attempt finds it there.

        Raises:
            AirflowSkipException, AirflowFailException: see above.
        """
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

        from qatladder.announcements import Decision, settle
        from qatladder.evidence import open_store
        from qatladder.settings import load_settings

        decision = Decision.from_json(self.decided["decision"])
        say(f"{decision.label}: {decision.why}")
        if decision.outcome == "waiting":  # it stays pending, and the bell rings for it
            raise AirflowSkipException(f"{decision.label}: {decision.why}")
        if decision.outcome != "run":
            with airflow_errors():
                settle(open_store(load_settings()), decision.letter, decision.outcome, decision.why)
            if decision.outcome in ("unknown", "missing", "rejected"):
                raise AirflowFailException(f"{decision.label}: {decision.why}")
            raise AirflowSkipException(f"{decision.label}: {decision.why}")
        self.trigger_run_id, self.conf, self.note = decision.run_id, decision.params, note_of(decision)
        say(f"{LADDER_DAG} {decision.run_id}")
        super().execute(context)


def note_of(decision: Any) -> str:
    """What the ladder's run says of itself in the UI."""
    found = decision.letter.announcement
    lines = [f"Announced{f' by {found.who}' if found.who else ''}, {found.when:%Y-%m-%d %H:%M:%S %Z}; came as {decision.letter.source}"]
    lines += [f"{name}: {value}" for name, value in found.training.items()]
    return "\n\n".join(lines)[:1000]


def collect_announcements(events: Iterable[Any], triggering: Iterable[Any]) -> int:
    """Put everything that was announced, in whatever way, into the inbox; returns how many were new.

    Args:
        events: reads the asset's events: `.after(ISO 8601)`, then iterated.
        triggering: those that triggered this run.
    Raises:
        AirflowException: one of the ways cannot be read now; the others were.
    """
    from airflow.sdk.exceptions import AirflowException

    from qatladder.announcements import registry
    from qatladder.announcements.places import places
    from qatladder.errors import BrokenError, QATLadderError
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    with airflow_errors():
        settings = load_settings()
        store = open_store(settings)
        new = take_events(store, events, list(triggering))
        ways = places(settings)
    problems: list[QATLadderError] = []
    for place in ways:
        try:
            new += place.take(store, say)
        except BrokenError as error:
            problems.append(error)
    if settings.mlflow:
        try:
            new += registry.poll(registry.Registry(settings.mlflow), store, _models(settings), say)
        except QATLadderError as error:
            problems.append(error)
    say(f"{new} new")
    if problems:
        raise AirflowException("\n".join(map(str, problems)))
    return new


def take_events(store: Any, events: Any, triggering: list[Any]) -> int:
    """Put asset events into the inbox: those that triggered the run, and all since the last that was seen."""
    from qatladder.announcements import letter_of, parse, problem_letter, receive
    from qatladder.announcements.inbox import note, remember
    from qatladder.errors import ConfigError

    times = [event.timestamp for event in triggering]
    if until := note(store, "events").get("until"):
        times.append(datetime.datetime.fromisoformat(until))
    found = {(event.timestamp, str(event.extra)): event for event in triggering}
    if times:
        found |= {(event.timestamp, str(event.extra)): event for event in events.after((min(times) - OVERLAP).isoformat())}
    new = 0
    for event in sorted(found.values(), key=lambda event: event.timestamp):
        extra = {key: value for key, value in (event.extra or {}).items() if key != "from_rest_api"}
        if extra.pop("from_trigger", False):  # the bell
            continue
        source = f"event of {event.timestamp.isoformat()}"
        try:
            letter = letter_of(parse(extra, source, event.timestamp), source)
        except ConfigError as error:
            letter = problem_letter(str(extra).encode(), source, str(error))
        if receive(store, letter):
            new += 1
            say(f"{source}: {letter.label}, announcement {letter.id}")
        elif event in triggering:
            say(f"{source}: {letter.label}, announcement {letter.id}, is known already")
    if found:
        newest = max(event.timestamp for event in found.values()).isoformat()
        remember(store, "events", {"until": max(newest, until or newest)})
    return new


def decide_all() -> list[dict[str, Any]]:
    """What is to be done with everything in the inbox, the newest first."""
    from qatladder.announcements import decide
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.zoo import load_zoo

    with airflow_errors():
        settings = load_settings()
        decisions = decide(open_store(settings), load_zoo(settings))
    for decision in decisions:
        say(f"{decision.label}: {decision.why}")
    if not decisions:
        say("nothing waits")
    return [{"label": decision.label, "decision": decision.to_json()} for decision in decisions[:MOST]]


MOST = 500
"""Announcements one run serves; the newest. The bell rings for the others."""


def settle_started(decided: Mapping[str, Any], state_of_run: Any) -> None:
    """Write down that an announcement's run exists, after having looked.

    Args:
        state_of_run: `(dag_id, run_id)` to the run's state; raises when there is none.
    Raises:
        AirflowSkipException: there was no run to start.
    """
    import json

    from airflow.sdk.exceptions import AirflowSkipException

    from qatladder.airflow.names import run_key
    from qatladder.announcements import Decision, settle
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    decision = Decision.from_json(dict(decided["decision"]))
    if decision.outcome != "run":
        raise AirflowSkipException(decision.why)
    say(f"{LADDER_DAG} {decision.run_id}: {state_of_run(LADDER_DAG, decision.run_id)}")
    with airflow_errors():
        store = open_store(load_settings())
        data = json.dumps(decision.letter.to_json(), indent=1).encode()
        store.write_run_file(run_key(LADDER_DAG, decision.run_id), "announcement.json", data)
        latest = {"key": decision.key, "content": decision.content}
        settle(store, decision.letter, decision.outcome, decision.why, decision.run_id, latest)


def announced_flow() -> None:
    """Build the whole graph inside a DAG."""
    decided: Any = _decide()
    all_well = EmptyOperator(task_id="all_well", trigger_rule="none_failed")
    collected = _collect()
    collected >> decided
    [collected, decided, _announcement.expand(decided=decided)] >> all_well


@task(task_id="collect", inlets=[MODELS], on_failure_callback=LadderNotifier(), execution_timeout=timedelta(minutes=10), **RETRIES)
def _collect() -> int:
    context: Any = get_current_context()
    triggering = [event for events in context["triggering_asset_events"].values() for event in events]
    return collect_announcements(context["inlet_events"][MODELS], triggering)


@task(task_id="decide", trigger_rule="all_done", on_failure_callback=LadderNotifier(), execution_timeout=timedelta(hours=1), **RETRIES)
def _decide() -> list[dict[str, Any]]:
    return decide_all()


@task_group(group_id="announcement")
def _announcement(decided: Any) -> None:
    label: dict[str, Any] = {"map_index_template": "{{ task.decided['label'] }}"}
    start = StartLadder(task_id="start", decided=decided, on_failure_callback=LadderNotifier(), **label, **PATIENT)
    start >> _settle(decided=decided)


@task(
    task_id="settle",
    trigger_rule="none_failed",
    map_index_template="{{ task.op_kwargs['decided']['label'] }}",
    on_failure_callback=LadderNotifier(),
    **RETRIES,
)
def _settle(decided: dict[str, Any]) -> None:
    settle_started(decided, get_current_context()["ti"].get_dagrun_state)


def _models(settings: Any) -> tuple[str, ...]:
    from qatladder.airflow.names import zoo_names

    return zoo_names(settings).models
