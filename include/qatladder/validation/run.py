"""Plans ladders, runs rungs, joins results; the object store is the only state between the calls."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qatladder import __version__
from qatladder.alerts.tell import in_report
from qatladder.boards.jobs import StillRunning
from qatladder.diagnosis import explain
from qatladder.errors import ArtifactError, BrokenError, ConfigError, QATLadderError
from qatladder.evidence import Store, open_store
from qatladder.evidence.store import safe_name, sha256_file
from qatladder.ladder import CheckResult, LadderResult, Rung, RungResult, Status
from qatladder.ladder.checks import checks_of, question
from qatladder.reports.report import report_html, report_json
from qatladder.runner.client import Environment
from qatladder.runner.once import Once
from qatladder.settings import Settings, load_settings
from qatladder.toolchains.base import Toolchain
from qatladder.toolchains.hmct import Hmct
from qatladder.toolchains.nash import Nash
from qatladder.toolchains.openexplorer import OpenExplorer
from qatladder.validation import carry, compiled, integer, onboard, training
from qatladder.validation.ask import Answer, ask
from qatladder.validation.context import Context, Log, ladder_key, load_rung, rung_file
from qatladder.validation.fleet import usable_boards
from qatladder.validation.pairing import with_pairs
from qatladder.zoo.load import Zoo, load_zoo
from qatladder.zoo.schema import Entry, Target

TOOLCHAINS: dict[str, Callable[[Settings, Environment | None], Toolchain]] = {
    "hmct": Hmct,
    "openexplorer": OpenExplorer,
    "nash": Nash,
}
"""By name: settings and the environment with the tools (None: the toolchain's own) to the toolchain."""

LOOKS = 8
"""Ladders that are looked at at once for whether they have changed: what is waited for is the object store, boards and environments."""

ARTIFACTS = ("float", "calib", "qat", "onnx", "int", "hbm")

VALIDATORS: dict[Rung, Callable[[Context], list[CheckResult]]] = {
    Rung.FLOAT: training.validate,
    Rung.CALIB: training.validate,
    Rung.QAT: training.validate,
    Rung.INT: integer.validate,
    Rung.HBM: compiled.validate,
    Rung.BOARD: onboard.validate,
}


def new_run_id(kind: str = "cli") -> str:
    """A run id that sorts by time: `cli-20261123T210503Z-1f3a`."""
    return f"{kind}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def plan(
    models: Sequence[str] | None = None,
    version: str | None = None,
    target: str | None = None,
    rungs: Sequence[str] | None = None,
    force: bool = False,
    layers: bool = False,
) -> list[dict[str, Any]]:
    """The ladders to climb: one per model version and target, as plain JSON data.

    The entry travels inside the plan, so editing the zoo during a run changes nothing in that run.

    Args:
        models: model names; None or empty for all.
        version, target, rungs: restrict to these.
        force: answer, convert and compile again what is unchanged.
        layers: compare the compiled model layer by layer in any case, not only when it differs.
    Raises:
        ConfigError: a name that does not exist, or an entry that cannot be read.
    """
    zoo = load_zoo(load_settings())
    asked = set(models or ())
    named = [problem for problem in zoo.problems if Path(problem.where.get("file", "")).stem in asked]
    if named:
        raise named[0]
    unknown = asked - {entry.model for entry in zoo.entries.values()}
    if unknown:
        raise ConfigError(
            "the zoo has no such model",
            found=", ".join(sorted(unknown)),
            expected=" | ".join(sorted(entry.model for entry in zoo.entries.values())) or "(the zoo is empty)",
            next_step="`qatladder zoo list` shows the zoo",
        )
    chosen = _rungs(rungs)
    whole_zoo = not asked and version is None and target is None
    ladders = [
        {**_ladder(zoo, entry, target_id, chosen), "force": force, "layers": layers, "whole_zoo": whole_zoo}
        for entry in zoo.entries.values()
        if (not asked or entry.model in asked) and (version is None or entry.version == version)
        for target_id in [item.id for item in entry.targets]
        if target is None or target_id == target
    ]
    if not ladders:
        raise ConfigError(
            "no ladder matches",
            models=", ".join(sorted(asked)) or "all",
            version=version or "any",
            target=target or "any",
            next_step="`qatladder zoo list` shows models, versions and targets",
        )
    if not asked:
        ladders += [{**_unreadable(problem, chosen), "whole_zoo": whole_zoo} for problem in zoo.problems]
    _give_boards(ladders, load_settings())
    return ladders


def _give_boards(ladders: list[dict[str, Any]], settings: Settings) -> None:
    """Give each ladder the board in service with the least to do so far; empty where there is none (the board rung says why)."""
    load: dict[str, int] = {}
    able: dict[tuple[str, ...], list[str]] = {}
    for ladder in ladders:
        ladder["board"] = ""
        if "board" not in ladder["rungs"] or "problem" in ladder:
            continue
        wanted = (ladder["march"], *ladder["boards"])
        if wanted not in able:
            able[wanted] = []
            with contextlib.suppress(ConfigError, BrokenError):
                able[wanted] = [spec.name for spec in usable_boards(settings, open_store(settings), ladder["march"], ladder["boards"])]
        if able[wanted]:
            ladder["board"] = min(able[wanted], key=lambda name: load.get(name, 0))
            load[ladder["board"]] = load.get(ladder["board"], 0) + 1


def _rungs(names: Sequence[str] | None) -> list[Rung]:
    if not names:
        return list(Rung)
    try:
        wanted = {Rung(name) for name in names}
    except ValueError as error:
        raise ConfigError("no such rung", found=str(error), expected=" | ".join(Rung), next_step="name rungs separated by commas") from None
    return [rung for rung in Rung if rung in wanted]


def _unreadable(problem: ConfigError, rungs: list[Rung]) -> dict[str, Any]:
    """An entry that cannot be read, as a ladder that says so: the others are validated, and nobody takes its silence for health."""
    name = Path(problem.where.get("file", "entry")).stem
    nothing = {"version": "?", "target": "?", "march": "?", "toolchain": "?", "owner": "", "boards": []}
    return {"label": f"{name} (unreadable)", "model": name, **nothing, "rungs": [str(rung) for rung in rungs], "problem": str(problem)}


def _ladder(zoo: Zoo, entry: Entry, target_id: str, rungs: list[Rung]) -> dict[str, Any]:
    paths = {which: zoo.artifact(entry, which) for which in ARTIFACTS}
    target = next(item for item in entry.targets if item.id == target_id)
    return {
        "label": f"{entry.model} {entry.version} @ {target_id}",
        "model": entry.model,
        "version": entry.version,
        "target": target_id,
        "march": target.march,
        "toolchain": target.toolchain,
        "owner": entry.owner,
        "boards": list(target.boards),
        "rungs": [str(rung) for rung in rungs],
        "entry": entry.model_dump(mode="json"),
        "artifacts": {which: sha256_file(path)[0] for which, path in paths.items() if path is not None and path.is_file()},
    }


def run_rung(
    ladder: dict[str, Any],
    rung: str,
    run_id: str,
    log: Log,
    connect: Callable[[Any], Any] | None = None,
    patience: float | None = None,
) -> RungResult:
    """Run all checks of a rung, store the result under the run, and return it. Model faults do not raise.

    What has not changed since it was last answered is carried over; see `qatladder.validation.carry`.

    Args:
        ladder: one item of `plan`.
        log: receives lines for the task log.
        connect: opens an SSH connection to a board of the fleet (Airflow's hook); None for the fleet file's own data.
        patience: seconds a job on a board is waited for; None waits for its end.
    Raises:
        StillRunning: a job on a board takes longer; the same call, made again later and anywhere, goes on with it.
    """
    wanted = Rung(rung)
    if "problem" in ladder:
        store = open_store(load_settings())
        result = _silent(wanted, "config", "the zoo entry cannot be read: " + " ".join(ladder["problem"].split()))
        log(ladder["problem"])
        store.write_run_file(run_id, rung_file(ladder, wanted), _json(result.to_json()))
        return result
    started, clock = _now(), time.monotonic()
    with _context(ladder, wanted, run_id, log, connect, patience) as context:
        carried = _carried_over(context, partial(onboard.still_fit, known=Once()))
        if carried is not None:
            result = carried
        else:
            context.facts["determinants"] = _determinants(context)
            try:
                checks = VALIDATORS[wanted](context)
            except StillRunning:
                raise
            except Exception as error:  # outside any single check: the store, the toolchain's environment, a bug of ours
                checks = [ask(context, check.id, partial(_raise, error)) for check in checks_of(wanted)]
            result = RungResult(rung=wanted, checks=tuple(checks), products=context.products, facts=context.facts, started=started)
            result = replace(with_pairs(context, result), seconds=round(time.monotonic() - clock, 2))
            try:
                carry.keep(context, result)
            except (
                QATLadderError,
                OSError,
                KeyError,
                ValueError,
                TypeError,
            ) as error:  # the answer stands; it is only found anew next time
                log(f"the answer is not recorded: {error}")
        context.store.write_run_file(run_id, rung_file(ladder, wanted), _json(result.to_json()))
    return result


def carry_over(
    ladders: Sequence[dict[str, Any]], run_id: str, log: Log, connect: Callable[[Any], Any] | None = None
) -> list[dict[str, Any]]:
    """The ladders of a plan that need not be climbed, because no answer of any of their rungs has changed; their results are stored.

    Several ladders are looked at at once; each board they ran on once, each environment once. The log has a ladder's lines together.
    """
    store, known = open_store(load_settings()), Once[CheckResult | None]()

    def unchanged(ladder: dict[str, Any], say: Log) -> bool:
        try:
            return all(_rung_over(ladder, Rung(name), run_id, say, connect, store, known) for name in ladder["rungs"])
        except (ConfigError, ArtifactError) as error:  # of this ladder: its own rungs say so, and the others' go on
            say(f"{ladder['label']}: {error}")
            return False

    asked = [ladder for ladder in ladders if "problem" not in ladder and not ladder.get("force")]
    said: list[list[str]] = [[] for _ in asked]
    whole = []
    with ThreadPoolExecutor(LOOKS) as threads:
        for ladder, lines, found in zip(asked, said, threads.map(unchanged, asked, [lines.append for lines in said]), strict=True):
            for line in lines:
                log(line)
            if found:
                whole.append(ladder)
    return whole


def _rung_over(
    ladder: dict[str, Any],
    rung: Rung,
    run_id: str,
    log: Log,
    connect: Callable[[Any], Any] | None,
    store: Store,
    known: Once[CheckResult | None],
) -> bool:
    with _context(ladder, rung, run_id, log, connect, None, store) as context:
        result = _carried_over(context, partial(onboard.still_fit, known=known))
        if result is not None:
            context.store.write_run_file(run_id, rung_file(ladder, rung), _json(result.to_json()))
    return result is not None


def _carried_over(context: Context, health: carry.Health) -> RungResult | None:
    try:
        found = carry.find(context, health)
        return None if found is None else with_pairs(context, found)
    except StillRunning:
        raise
    except (QATLadderError, OSError, KeyError, ValueError, TypeError) as error:  # a record of another version, an environment that is gone
        context.log(f"{context.rung}: what was answered before cannot be used: {error}")
        return None


@contextlib.contextmanager
def _context(
    ladder: dict[str, Any],
    rung: Rung,
    run_id: str,
    log: Log,
    connect: Callable[[Any], Any] | None,
    patience: float | None,
    store: Store | None = None,
) -> Iterator[Context]:
    """A rung with a scratch folder of its own, which goes when the rung is done."""
    settings = load_settings()
    entry = Entry.model_validate(ladder["entry"])
    target = next(item for item in entry.targets if item.id == ladder["target"])
    settings.work.mkdir(parents=True, exist_ok=True)
    _forget_old_work(settings.work)
    folder = Path(tempfile.mkdtemp(prefix=f"{ladder_key(ladder)}-{rung}-", dir=settings.work))
    try:
        zoo = load_zoo(settings, entries=False)
        yield Context(
            ladder=ladder,
            entry=entry,
            target=target,
            rung=rung,
            run_id=run_id,
            settings=settings,
            zoo=zoo,
            store=store or open_store(settings),
            toolchain=toolchain_of(entry, target, zoo, settings),
            folder=folder,
            log=log,
            connect=connect,
            patience=patience,
        )
    finally:
        if os.environ.get("QATLADDER_KEEP_WORK") != "1":
            shutil.rmtree(folder, ignore_errors=True)


def toolchain_of(entry: Entry, target: Target, zoo: Zoo, settings: Settings) -> Toolchain:
    """The toolchain of a target, in the environment the zoo gives it.

    Raises:
        ConfigError: the target names an environment that zoo.yaml does not define.
    """
    given = target.environment or (None if target.toolchain == "hmct" else entry.environment)
    return TOOLCHAINS[target.toolchain](settings, None if given is None else zoo.environment_named(given, entry.model))


def _raise(error: Exception) -> Answer:
    raise error


def _determinants(context: Context) -> dict[str, str]:
    """Hashes of what decides a rung's answer, besides the artifacts the checks hash themselves."""
    adapter = Path(context.zoo.adapter(context.entry).rpartition(":")[0])
    entry = {name: value for name, value in context.ladder["entry"].items() if name not in ("owner", "description", "timeout_minutes")}
    return {
        "entry": hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest(),
        "adapter": sha256_file(adapter)[0] if adapter.is_file() else "missing",
        "qatladder": __version__,
    }


def _forget_old_work(folder: Path) -> None:
    """Remove what killed rungs left behind more than two days ago."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * 86400:
                shutil.rmtree(path, ignore_errors=True)


def finish_ladder(ladder: dict[str, Any], run_id: str, store: Store | None = None) -> LadderResult:
    """Join the stored rung results of a ladder. A rung that was asked for and never answered is broken."""
    store = store or open_store(load_settings())
    asked = tuple(Rung(name) for name in ladder["rungs"])
    rungs = tuple(load_rung(store, run_id, ladder, rung) or _silent(rung) for rung in asked)
    return LadderResult(
        model=ladder["model"],
        version=ladder["version"],
        target=ladder["target"],
        march=ladder["march"],
        toolchain=ladder["toolchain"],
        owner=ladder["owner"],
        run_id=run_id,
        rungs=rungs,
        rungs_asked=asked,
        started=min((rung.started for rung in rungs if rung.started), default=""),
        seconds=round(sum(rung.seconds for rung in rungs), 2),
    )


def _silent(rung: Rung, kind: str = "killed", reason: str = "the rung's process ended without an answer") -> RungResult:
    """The result of a rung that could not answer: its process died, or its entry cannot be read."""
    checks = tuple(
        CheckResult(
            id=check.id,
            status=Status.BROKEN,
            question=question(check.id),
            reason=reason,
            cause=explain(check.id, {"status": "broken", "kind": kind}).cause,
            next_steps=explain(check.id, {"status": "broken", "kind": kind}).next_steps,
            values={"kind": kind},
        )
        for check in checks_of(rung)
    )
    return RungResult(rung=rung, checks=checks)


def finish_run(ladders: Sequence[dict[str, Any]], run_id: str) -> dict[str, Any]:
    """Join all ladders of a run, write `report.json` and `report.html`, and last the manifest.

    Returns:
        `report_json` and `report_html` (URIs), `verdicts` and `counts`; `problem`: what kept the trends from being judged.
    """
    from qatladder.history import facts_of, write_facts  # pyarrow and duckdb: 0.3 s that no rung needs
    from qatladder.validation.trends import advance_baselines, night_trends

    settings = load_settings()
    store = open_store(settings)
    results = [finish_ladder(ladder, run_id, store) for ladder in ladders]
    started, finished = min((result.started for result in results if result.started), default=_now()), _now()
    run = {
        "id": run_id,
        "started": started,
        "finished": finished,
        "seconds": (datetime.datetime.fromisoformat(finished) - datetime.datetime.fromisoformat(started)).total_seconds(),
        "store": settings.store,
        "qatladder": __version__,
    }
    trends, missing, problem = night_trends(store, settings, results, run, all(ladder.get("whole_zoo") for ladder in ladders))
    if problem:
        run["trends"] = problem
    report = report_json(results, run, trends, missing)
    report["alerts"] = in_report(report, settings, store)
    json_uri = store.write_run_file(run_id, "report.json", _json(report))
    html_uri = store.write_run_file(run_id, "report.html", report_html(report).encode())
    try:
        write_facts(store, facts_of(results, run, [trend["verdict"] if trend else "" for trend in trends]), run)
    finally:  # the run is whole without its facts: `qatladder history rebuild` makes them from it
        store.write_run_file(run_id, "manifest.json", _json(_manifest(run, results, store)))
    advance_baselines(store, results, trends, run)  # only a whole run stays
    verdicts = [
        {
            "model": result.model,
            "version": result.version,
            "target": result.target,
            "verdict": str(result.verdict),
            "first_failed_check": result.first_failed_check,
            "trend": trend["verdict"] if trend else "",
        }
        for result, trend in zip(results, trends, strict=True)
    ]
    counts: dict[str, int] = {}
    for item in verdicts:
        counts[str(item["verdict"])] = counts.get(str(item["verdict"]), 0) + 1
    return {"run_id": run_id, "report_json": json_uri, "report_html": html_uri, "verdicts": verdicts, "counts": counts, "problem": problem}


def _manifest(run: dict[str, Any], results: Sequence[LadderResult], store: Store) -> dict[str, Any]:
    """Everything the run refers to, so that nothing it needs is ever swept away."""
    objects = {
        item.sha256: {"name": item.name, "size": item.size, "uri": item.uri}
        for result in results
        for rung in result.rungs
        for item in [*rung.products.values(), *(item for check in rung.checks for item in check.evidence)]
    }
    files = sorted(key.split("/", 2)[2] for key in store.keys(f"runs/{safe_name(str(run['id']))}/"))
    return {"manifest": 1, **run, "files": [name for name in files if name != "manifest.json"], "objects": dict(sorted(objects.items()))}


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=1).encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
