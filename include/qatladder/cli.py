"""`qatladder`: the same ladder without a scheduler.

Exit codes: 0 every ladder ships, 1 one does not, 2 one is undecided (and none is no-ship), or something of ours broke, so
that nothing is known; 3 usage or configuration. 130 and 143: ended by Ctrl-C, by SIGTERM.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qatladder import __version__
from qatladder.errors import BrokenError, ConfigError, QATLadderError
from qatladder.ladder import LadderResult, Verdict

if TYPE_CHECKING:
    from qatladder.alerts.outbox import Outcome
    from qatladder.boards.fleet import BoardSpec
    from qatladder.evidence import Store
    from qatladder.history import History
    from qatladder.validation.fleet import Checked

BROKEN = 2
USAGE = 3

console = Console(stderr=True)

rungs_option = click.option("--rungs", help="Only these rungs, separated by commas, e.g. float,calib.")
force_option = click.option("--force", is_flag=True, help="Answer again what is unchanged: evaluate, convert, compile and run anew.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
verbose_option = click.option("--verbose", "-v", is_flag=True, help="Print what the tools print.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qatladder")
def app() -> None:
    """Validate quantised models on NPUs, rung by rung: float, calib, qat, int, hbm, board."""


@app.group("zoo")
def zoo_app() -> None:
    """Look at the zoo and check its entries."""


@app.group("fleet")
def fleet_app() -> None:
    """Look after the boards of the fleet."""


app.add_command(fleet_app, "board")


@app.group("baseline")
def baseline_app() -> None:
    """See and accept what each night is held against."""


@baseline_app.command("list")
@click.argument("model", required=False)
@json_option
def baseline_list(model: str | None, as_json: bool) -> None:
    """Every ladder's baseline: since when, and who accepted it."""
    import dataclasses

    from qatladder.evidence import open_store
    from qatladder.history.baselines import baselines
    from qatladder.settings import load_settings

    rows = list(baselines(open_store(load_settings()), model))
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return
    print(f"{'MODEL':<20} {'VERSION':<10} {'TARGET':<10} {'OF':<17} {'ACCEPTED BY':<16} RUN")
    for row in rows:
        by = f"{row.by}: {row.why}" if row.approved else "-"
        print(f"{row.model:<20} {row.version:<10} {row.target:<10} {row.time[:16]:<17} {by:<16} {row.run_id}")


@baseline_app.command("accept")
@click.argument("model")
@click.option("--run", "run_id", help="Run with the result; default: the newest in which it ships.")
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
@click.option("--by", help="Who accepts it; default: you.")
@click.option("--why", required=True, help="The reason; kept with the baseline.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def baseline_accept(model: str, run_id: str | None, version: str | None, target: str | None, by: str | None, why: str, yes: bool) -> None:
    """Accept a result: from now on the nights are held against it, until the next one is accepted."""
    import getpass

    from qatladder.evidence import open_store
    from qatladder.history.baselines import promote, proposal
    from qatladder.settings import load_settings

    store = open_store(load_settings())
    found = proposal(store, _history(), model, target, version, run_id)
    print(found["body"])
    if not yes:
        click.confirm(found["subject"], abort=True)
    for item in promote(store, found["run_id"], model, target, version, by or getpass.getuser(), why):
        print(f"{item.model} {item.version} on {item.target}: held against {item.run_id} from now on")


@app.group("history")
def history_app() -> None:
    """Ask what every check answered, night by night."""


def _history() -> History:
    from qatladder.evidence import open_store
    from qatladder.history import History
    from qatladder.settings import load_settings

    settings = load_settings()
    return History(open_store(settings), settings.home / "history").refresh()


@history_app.command("zoo")
@click.option("--nights", default=30, show_default=True, help="How far to look back.")
@json_option
def history_zoo(nights: int, as_json: bool) -> None:
    """Every ladder's newest verdict, and when it last shipped."""
    rows = _history().zoo(nights)
    if as_json:
        print(json.dumps(rows, indent=1, default=str))
        return
    print(f"{'MODEL':<20} {'VERSION':<10} {'TARGET':<10} {'VERDICT':<10} {'RUNS':>5}  {'NEWEST':<16} LAST SHIPPED")
    for row in rows:
        shipped = f"{row['shipped']:%Y-%m-%d %H:%M}" if row["shipped"] else "never"
        name = f"{row['model']:<20} {row['version']:<10} {row['target']:<10}"
        print(f"{name} {row['verdict']:<10} {row['nights']:>5}  {row['time']:%Y-%m-%d %H:%M} {shipped}")


@history_app.command("show")
@click.argument("model")
@click.option("--target", help="Only this target.")
@click.option("--nights", default=14, show_default=True, help="How many runs.")
@json_option
def history_show(model: str, target: str | None, nights: int, as_json: bool) -> None:
    """A model's checks over its last runs: one letter per run, oldest first, and the newest measurement.

    P passed, F failed, B broken, U unprovable, s skipped.
    """
    rows = _history().ladder(model, target, nights)
    if not rows:
        raise ConfigError(
            "the history has no such model",
            found=model,
            next_step="`qatladder history zoo` lists them; `qatladder history rebuild` reads old runs",
        )
    if as_json:
        print(json.dumps(rows, indent=1, default=str))
        return
    ladders: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        ladders.setdefault((row["model"], row["version"], row["target"]), {}).setdefault(row["check_id"], []).append(row)
    from qatladder.ladder.checks import check_ids

    for (name, version, on), checks in ladders.items():
        print(f"{name} {version} @ {on}")
        for check_id in [check for check in check_ids() if check in checks]:
            letters = "".join(row["status"][0] if row["status"] == "skipped" else row["status"][0].upper() for row in checks[check_id])
            last = checks[check_id][-1]
            print(f"  {check_id:<18} {letters:<{nights}}  {last['measured'] or last['reason']}")


@history_app.command("compact")
def history_compact() -> None:
    """Put every closed month into one file."""
    import datetime

    from qatladder.evidence import open_store
    from qatladder.history.facts import compact
    from qatladder.settings import load_settings

    for key in compact(open_store(load_settings()), f"{datetime.datetime.now(datetime.UTC):%Y-%m}"):
        print(key)


@history_app.command("rebuild")
def history_rebuild() -> None:
    """Write the facts of runs that have none, from their reports."""
    from qatladder.evidence import open_store
    from qatladder.history.facts import rebuild
    from qatladder.settings import load_settings

    for run in rebuild(open_store(load_settings())):
        print(run)


@app.group("expectations")
def expectations_app() -> None:
    """What earlier nights taught about the outputs on the board."""


def _ladders(model: str, version: str | None, target: str | None) -> list[dict[str, Any]]:
    from qatladder.settings import load_settings
    from qatladder.zoo import load_zoo

    found = [
        {"model": entry.model, "version": entry.version, "target": item.id}
        for entry in load_zoo(load_settings()).entries.values()
        for item in entry.targets
        if entry.model == model and version in (None, entry.version) and target in (None, item.id)
    ]
    if not found:
        raise ConfigError(
            "the zoo has no such ladder",
            found=" ".join(filter(None, [model, version, target])),
            next_step="`qatladder zoo list` shows models, versions and targets",
        )
    return found


@expectations_app.command("show")
@click.argument("model")
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
@json_option
def expectations_show(model: str, version: str | None, target: str | None, as_json: bool) -> None:
    """The newest suite of a model: what its outputs are held against, and which nights taught it."""
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.expectations import kept, learns_since, nights_of

    store = open_store(load_settings())
    found = [(ladder, kept(store, ladder, lambda line: console.print(line, markup=False))) for ladder in _ladders(model, version, target)]
    if as_json:
        print(json.dumps([{**ladder, "since": learns_since(store, ladder), "suite": suite} for ladder, suite in found], indent=1))
        return
    for ladder, suite in found:
        since = learns_since(store, ladder)
        print(f"{ladder['model']} {ladder['version']} @ {ladder['target']}" + (f", learning since {since}" if since else ""))
        if suite is None:
            print("  no suite yet: the board rung has not judged any dumps" + (" since then" if since else ""))
            continue
        print(f"  {suite['meta']['qatladder']['words']}")
        for night in nights_of(suite):
            print(f"    {night.when[:16]}  hbm {night.hbm[:12]}  statistics {night.statistics.sha256[:12]}  {night.run}")
        for output in dict.fromkeys(item["meta"]["output"] for item in suite["expectations"]):
            print(f"  {output or 'outputs'}")
            for item in suite["expectations"]:
                if item["meta"]["output"] == output:
                    print(f"    {item['meta']['source']:<8} {item['meta']['expected']}")


@expectations_app.command("relearn")
@click.argument("model")
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
def expectations_relearn(model: str, version: str | None, target: str | None) -> None:
    """Forget what a model's nights taught: from now on it learns anew. For a model that was replaced on purpose."""
    import datetime

    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.expectations import relearn

    settings = load_settings()
    for ladder in _ladders(model, version, target):
        relearn(open_store(settings), ladder, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        print(
            f"{ladder['model']} {ladder['version']} @ {ladder['target']}: learns anew; {settings.learn_minimum} good nights from now on "
            "make the first suite"
        )


@app.group("evidence")
def evidence_app() -> None:
    """Look after the object store."""


@evidence_app.command("sweep")
@click.option("--keep", "keep_nights", default=30, show_default=True, help="Newest days with runs that stay whole.")
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would go.")
def evidence_sweep(keep_nights: int, dry_run: bool) -> None:
    """Let old nights go: never a finding, a ladder's last ship, or what those refer to."""
    import time

    from qatladder.evidence import open_store
    from qatladder.evidence.retention import sweep
    from qatladder.settings import load_settings

    kept = sweep(open_store(load_settings()), keep_nights, time.time(), dry_run, lambda line: print(line))
    for run, reason in kept.runs.items():
        print(f"  {run} stays: {reason}")


@app.group("alerts")
def alerts_app() -> None:
    """See who is told what, answer for regressions, and deliver what waits."""


@alerts_app.command("list")
@json_option
def alerts_list(as_json: bool) -> None:
    """Show findings that are open, who answers for which, and messages that wait or are given up.

    Exit code 3: the routing or the acknowledgements have a mistake; 2: a message is given up.
    """
    import datetime

    from qatladder.alerts.acknowledged import load_acknowledged
    from qatladder.alerts.memory import load
    from qatladder.alerts.outbox import LOST, WAITING, items
    from qatladder.alerts.routing import load_routes
    from qatladder.alerts.tell import stale_of
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    settings = load_settings()
    store, routes = open_store(settings), load_routes(settings)
    found = load_acknowledged(settings.acknowledged, datetime.datetime.now(datetime.UTC).date())
    records = sorted(load(store, "main").values(), key=lambda record: record.ladder)
    waiting, lost = list(items(store, WAITING)), list(items(store, LOST))
    problems = [problem for problem in (routes.problem, *found.problems) if problem is not None]
    run = _latest_run(store)
    old = stale_of(json.loads(store.read_run_file(run, "report.json")), found, settings) if run else []
    if as_json:
        data = {
            "open": [record.model_dump(mode="json") for record in records if record.open],
            "acknowledged": [entry.to_json() for entry in found.active],
            "expired": [entry.to_json() for entry in found.expired],
            "stale": [entry.to_json() for entry in old],
            "waiting": [item.model_dump(exclude={"body", "claim", "claimed_until"}) for item in waiting],
            "lost": [item.model_dump(exclude={"body", "claim", "claimed_until"}) for item in lost],
            "addresses": {name: list(addresses) for name, addresses in routes.recipients()},
            "problems": [str(problem) for problem in problems],
        }
        print(json.dumps(data, indent=1))
    else:
        for record in records:
            for check, entry in record.open.items():
                state = "acknowledged" if entry.acknowledged else f"told {entry.told[:10]}" if entry.told else "not told"
                print(f"{entry.kind:<11} {record.ladder!s:<36} {check:<16} since {entry.since[:10]}  {state}")
        for entries, word in ((found.active, "until"), (found.expired, "EXPIRED")):
            for acknowledgement in entries:
                print(
                    f"acknowledged {acknowledgement.where}, {word} {acknowledgement.expires}, {acknowledgement.owner}: {acknowledgement.reason}"
                )
        for acknowledgement in old:
            print(f"STALE        {acknowledgement.where}: matches nothing any more; remove it from {settings.acknowledged.name}")
        for state, queued in (("waiting", waiting), ("LOST", lost)):
            for item in queued:
                print(f"{state:<12} {item.id} to {item.to} ({item.address}): {item.title}" + (f"; {item.error}" if item.error else ""))
        for name, addresses in routes.recipients():
            print(f"addresses    {name}: {', '.join(addresses)}")
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
    sys.exit(USAGE if problems else BROKEN if lost else 0)


@alerts_app.command("acknowledge")
@click.argument("model")
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
@click.option("--check", "checks", multiple=True, help="A check, or `missing`; may be repeated. Default: all that the last run found.")
@click.option("--owner", required=True, help="Who answers for it.")
@click.option("--reason", required=True, help="Why it may stay so, for whoever reads it in a month.")
@click.option("--expires", required=True, help="The last day it holds, 2026-12-24, or 30d from today; at most 180 days away.")
@click.option("--issue", help="Link to the issue about it.")
def alerts_acknowledge(
    model: str, version: str | None, target: str | None, checks: Sequence[str], owner: str, reason: str, expires: str, issue: str | None
) -> None:
    """Write an entry into the zoo's acknowledged.yaml: the finding is not told any more until it expires. Commit the file."""
    import datetime

    from qatladder.alerts.acknowledged import acknowledge, build, parse_expiry
    from qatladder.alerts.findings import candidates, ladder_of, missing
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    settings, today = load_settings(), datetime.datetime.now(datetime.UTC).date()
    if not checks:
        store = open_store(settings)
        run = _latest_run(store)
        report = json.loads(store.read_run_file(run, "report.json")) if run else {"ladders": []}
        findings = [
            *(finding for item in report["ladders"] if ladder_of(item).model == model for finding in candidates(item)),
            *(finding for finding in missing(report) if finding.ladder.model == model),
        ]
        chosen = [item for item in findings if version in (None, item.ladder.version) and target in (None, item.ladder.target)]
        checks = tuple(dict.fromkeys(finding.check for finding in chosen if finding.check))
        if not checks:
            raise ConfigError(
                "the last run found nothing of this model to acknowledge",
                "name the check with --check",
                found=f"{model} in {run or 'no run'}",
            )
    fields = {
        "model": model,
        "version": version,
        "target": target,
        "check": tuple(checks),
        "owner": owner,
        "reason": reason,
        "issue": issue,
    }
    entry = build(**fields, expires=parse_expiry(expires, today))
    acknowledge(settings.acknowledged, entry, today)
    print(f"{entry.where}: acknowledged until {entry.expires} in {settings.acknowledged}; have it reviewed like the zoo")


@alerts_app.command("test")
@click.option("--owner", "owners", multiple=True, help="Only this owner, or `default`; may be repeated.")
def alerts_test(owners: Sequence[str]) -> None:
    """Send a test message to every address now, quiet hours or not. Exit code 2: one did not take it."""
    from qatladder.alerts.routing import load_routes
    from qatladder.alerts.send import Message, deliver
    from qatladder.settings import load_settings

    routes = load_routes(load_settings())
    if routes.problem is not None:
        raise routes.problem
    names = [name for name, _ in routes.recipients()]
    for name in owners:
        if name not in names:
            raise ConfigError("nobody of that name has an address", found=name, expected=" | ".join(names))
    failed = False
    for name, addresses in routes.recipients():
        for reference in addresses if not owners or name in owners else ():
            try:
                done = [deliver(Message("QATLadder: a test", f"Alerts for {name} arrive here."), url) for url in routes.urls(reference)]
            except ConfigError as error:
                failed = True
                print(f"{name}: {reference}: {error}")
                continue
            for item in done:
                failed |= not item.ok
                print(f"{name}: {item.url}: {'accepted' if item.ok else 'NOT accepted: ' + item.reason}")
    sys.exit(BROKEN if failed else 0)


@alerts_app.command("send")
@click.argument("run")
@click.option("--dry-run", is_flag=True, help="Print the messages; send and remember nothing.")
def alerts_send(run: str, dry_run: bool) -> None:
    """Tell a run's findings, as its task `alert` does. Exit code 2: a message could not be delivered and waits."""
    from qatladder.alerts.messages import StoreLinks
    from qatladder.alerts.tell import preview, tell
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    settings = load_settings()
    store = open_store(settings)
    try:
        report = json.loads(store.read_run_file(run, "report.json"))
    except FileNotFoundError:
        raise ConfigError("there is no such run", found=run, next_step="`qatladder report --list` shows the runs") from None
    links = StoreLinks(store.run_uri(run, "report.html"))
    if dry_run:
        for item in preview(report, store, settings, links, run):
            print(f"to {item['to']} ({item['address']}), {item['kind']}\n{item['title']}\n\n{item['body']}\n{'-' * 72}")
        return
    telling = tell(report, store, settings, links, run)
    print("\n".join(outcome.line() for outcome in telling.outcomes) or "nothing to tell")
    for problem in telling.problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(_sent(telling.outcomes) or (USAGE if telling.problems else 0))


@alerts_app.command("retry")
@click.argument("ids", nargs=-1)
def alerts_retry(ids: Sequence[str]) -> None:
    """Send what waits, now, and what was given up (all of it, or the messages named). Quiet hours hold. Exit code 2: one still fails."""
    from qatladder.alerts.outbox import deliver_items, items, put_back
    from qatladder.alerts.routing import load_routes
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    settings = load_settings()
    store = open_store(settings)
    put_back(store, ids)
    outcomes = deliver_items(store, load_routes(settings), only=list(ids) or [item.id for item in items(store)])
    print("\n".join(outcome.line() for outcome in outcomes) or "nothing waits")
    sys.exit(_sent(outcomes))


def _sent(outcomes: Sequence[Outcome]) -> int:
    return BROKEN if any(outcome.state in ("waiting", "lost") for outcome in outcomes) else 0


def _latest_run(store: Store) -> str | None:
    """The whole run that finished last."""
    return max(store.runs(), key=lambda name: json.loads(store.read_run_file(name, "manifest.json"))["finished"], default=None)


@app.group("env")
def env_app() -> None:
    """Look at the environments models and toolchains run in."""


@env_app.command("list")
@json_option
def env_list(as_json: bool) -> None:
    """Show the environments of zoo.yaml and who uses them."""
    from qatladder.settings import load_settings
    from qatladder.zoo.environments import users_of
    from qatladder.zoo.load import load_zoo

    zoo = load_zoo(load_settings())
    rows = [(name, item, users_of(zoo, name)) for name, item in zoo.environments.items()]
    if as_json:
        print(
            json.dumps(
                [{"name": name, "where": item.describe(), "memory_mb": item.memory_mb, "users": users} for name, item, users in rows]
            )
        )
        return
    print(f"{'ENVIRONMENT':<16} {'USED BY':>8}  WHERE")
    for name, item, users in rows:
        limit = f", at most {item.memory_mb} MB" if item.memory_mb else ""
        print(f"{name:<16} {len(users):>8}  {item.describe()}{limit}")


@env_app.command("check")
@click.argument("names", nargs=-1)
@json_option
def env_check(names: Sequence[str], as_json: bool) -> None:
    """Run a small job in each environment (or in those named) and show what it finds there. Exit code 2: one does not work."""
    from qatladder.settings import load_settings
    from qatladder.zoo.environments import check_environment
    from qatladder.zoo.load import load_zoo

    zoo = load_zoo(load_settings())
    for name in names:
        if name not in zoo.environments:
            raise ConfigError(
                "zoo.yaml defines no such environment",
                found=name,
                expected=" | ".join(zoo.environments),
                next_step="`qatladder env list` shows them",
            )
    checked = [check_environment(zoo, zoo.environments[name]) for name in names or zoo.environments]
    if as_json:
        keys = ("users", "seconds", "found", "problem")
        print(json.dumps([{"name": item.environment.name, **{key: getattr(item, key) for key in keys}} for item in checked], indent=1))
    for item in () if as_json else checked:
        print(f"{item.environment.name}: {item.environment.describe()}")
        if item.found:
            memory = f", {item.found['memory_mb'] / 1000:.0f} GB" if item.found["memory_mb"] else ""
            print(
                f"  Python {item.found['python']}, {item.found['system']}, {item.found['cpus']} CPUs{memory}; a job takes {item.seconds} s"
            )
            known = ("numpy", "torch", "onnx", "onnxruntime", "horizon-plugin-pytorch", "horizon-tc-ui", "hmct", "hbdk", "hbdk4")
            shown = [package for package in item.found["packages"] if package.rpartition("-")[0] in known]
            print(f"  {len(item.found['packages'])} packages (sha256 {item.found['sha256'][:12]}): {', '.join(shown) or 'none of ours'}")
            print(f"  programs: {', '.join(item.found['tools']) or 'none of the vendors'}")
        if item.problem:
            print("  BROKEN: " + item.problem.replace("\n", "\n  "))
    sys.exit(BROKEN if any(item.problem for item in checked) else 0)


@app.command()
@rungs_option
@force_option
@json_option
@verbose_option
def sweep(rungs: str | None, force: bool, as_json: bool, verbose: bool) -> None:
    """Validate every model of the zoo on every target."""
    _climb(None, None, None, rungs, force, as_json, verbose)


@app.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
@rungs_option
@force_option
@json_option
@verbose_option
def validate(
    models: Sequence[str], version: str | None, target: str | None, rungs: str | None, force: bool, as_json: bool, verbose: bool
) -> None:
    """Validate some models, float to board."""
    _climb(models, version, target, rungs, force, as_json, verbose)


@app.command()
@click.argument("model")
@click.option("--version", help="Only this version.")
@click.option("--target", help="Only this target.")
@json_option
@verbose_option
def layers(model: str, version: str | None, target: str | None, as_json: bool, verbose: bool) -> None:
    """Compare a compiled model with its int model, layer by layer, on the simulator."""
    from qatladder.validation import new_run_id, plan, run_rung

    log: Callable[[str], None] = (lambda line: console.print(line, markup=False, highlight=False)) if verbose else (lambda line: None)
    found: dict[str, Any] = {}
    with _progress() as progress:
        for ladder in plan([model], version, target, ["int", "hbm"], layers=True):
            run_id = new_run_id()
            bar = progress.add_task(ladder["label"], total=2)
            for rung in ladder["rungs"]:
                result = run_rung(ladder, rung, run_id, log)
                progress.advance(bar)
            if "layers" not in result.facts:
                check = result.check("hbm.bit_exact")
                raise ConfigError(
                    "the layers could not be compared",
                    model=ladder["label"],
                    found=check.reason or check.measured if check else "no answer",
                    next_step="`--verbose` shows the log",
                )
            found[ladder["label"]] = result.facts["layers"]
    if as_json:
        print(json.dumps(found, indent=1))
    for label, item in found.items() if not as_json else ():
        print(f"{label}, sample {item['sample']}")
        print(f"  {'TENSOR':<48} {'OPERATOR':<28} {'SHAPE':<16} {'DIFFERING':>18} {'MAX':>8}")
        for row in item["layers"]:
            share = f"{row['differing']} of {row['size']}"
            shape = "x".join(map(str, row["shape"]))
            print(f"  {row['name']:<48} {row['operator']:<28} {shape:<16} {share:>18} {row['max_abs']:>8}")
    sys.exit(int(any(row["differing"] for item in found.values() for row in item["layers"])))


def _climb(
    models: Sequence[str] | None,
    version: str | None,
    target: str | None,
    rungs: str | None,
    force: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    from qatladder.evidence import open_store
    from qatladder.reports.text import ladder_text, trend_text, verdict_table
    from qatladder.settings import load_settings
    from qatladder.validation import carry_over, finish_ladder, finish_run, new_run_id, plan, run_rung

    ladders = plan(models, version, target, [name.strip() for name in rungs.split(",")] if rungs else None, force)
    run_id = new_run_id()
    log: Callable[[str], None] = (lambda line: console.print(line, markup=False, highlight=False)) if verbose else (lambda line: None)
    with _virtual_boards(ladders), _progress() as progress:
        bar = progress.add_task("", total=sum(len(ladder["rungs"]) for ladder in ladders))
        progress.update(bar, description="what has changed")
        unchanged = carry_over(ladders, run_id, log)
        for ladder in ladders:
            for rung in ladder["rungs"]:
                progress.update(bar, description=f"{ladder['label']}  {rung}")
                if ladder in unchanged:
                    progress.advance(bar)
                    continue
                try:
                    run_rung(ladder, rung, run_id, log)
                except BrokenError as error:  # the store, say: this rung has no answer, and `finish_ladder` says so; the others may
                    _show(error, f"{ladder['label']}  {rung}: ")
                progress.advance(bar)
        progress.update(bar, description="report")
        results = [finish_ladder(ladder, run_id) for ladder in ladders]
        summary = finish_run(ladders, run_id)
    if as_json:
        print(json.dumps([_flat(result) for result in results], indent=1))
    else:
        for result in results:
            print(ladder_text(result), end="\n\n")
        print(verdict_table(results))
        if moved := trend_text(json.loads(open_store(load_settings()).read_run_file(run_id, "report.json"))):
            print(f"\n{moved}")
        if summary["problem"]:
            print(f"\n{summary['problem']}")
        print(f"\nreport: {summary['report_html']}")
    sys.exit(_exit_code(results))


def _flat(result: LadderResult) -> dict[str, Any]:
    data = result.to_json()
    keys = ("model", "version", "target", "verdict", "first_failed_check", "why", "run_id", "checks")
    return {key: data[key] for key in keys}


def _exit_code(results: Sequence[LadderResult]) -> int:
    verdicts = {result.verdict for result in results}
    for verdict in (Verdict.NO_SHIP, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict.exit_code
    return Verdict.SHIP.exit_code


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


@contextmanager
def _virtual_boards(ladders: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Serve the virtual boards these ladders need, unless they are served already; stop those that were started here."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.boards.virtual import control
    from qatladder.settings import load_settings

    settings = load_settings()
    fleet = load_fleet(settings.fleet) if any(ladder["board"] for ladder in ladders) else None
    needed = [fleet.board(name) for name in sorted({ladder["board"] for ladder in ladders} - {""})] if fleet else []
    started = []
    try:
        for board in needed:
            if board.virtual and settings.vendor and not control.running(board, settings):
                try:
                    with _signals_held_back():
                        control.start_background(board, settings)
                        started.append(board)
                except BrokenError as error:  # the board rung says so again, and only that rung is broken
                    _show(error)
        yield
    finally:
        with _signals_held_back():
            for board in started:
                control.stop(board, settings)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect after this block: a board that is being started or stopped must not be lost track of."""
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _show(error: QATLadderError, where: str = "") -> None:
    console.print(f"{where}{error}", markup=False, highlight=False)


@zoo_app.command("list")
@json_option
def zoo_list(as_json: bool) -> None:
    """Models, versions and targets of the zoo."""
    from qatladder.settings import load_settings
    from qatladder.zoo import load_zoo

    zoo = load_zoo(load_settings())
    rows = [
        {
            "model": entry.model,
            "version": entry.version,
            "target": target.id,
            "march": target.march,
            "toolchain": target.toolchain,
            "file": str(path),
        }
        for path, entry in zoo.entries.items()
        for target in entry.targets
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            print(f"{row['model']:<24} {row['version']:<8} {row['target']:<12} {row['toolchain']:<10} {Path(row['file']).name}")
    for problem in zoo.problems:
        print(problem, file=sys.stderr)
    if zoo.problems:
        sys.exit(1)


@zoo_app.command("lint")
@click.argument("models", nargs=-1)
@json_option
def zoo_lint(models: Sequence[str], as_json: bool) -> None:
    """Find the mistakes of entries: fields, files, adapter, shapes, preprocessing, what a toolchain refuses, boards.

    Exit code 1 when there are any.
    """
    from qatladder.boards.fleet import load_fleet
    from qatladder.errors import ConfigError
    from qatladder.settings import load_settings
    from qatladder.toolchains.foresight import refusals
    from qatladder.zoo import load_zoo
    from qatladder.zoo.lint import lint_entry

    settings = load_settings()
    zoo, fleet = load_zoo(settings), load_fleet(settings.fleet)
    known = {entry.model for entry in zoo.entries.values()}
    if unknown := set(models) - known - {Path(problem.where.get("file", "")).stem for problem in zoo.problems}:
        raise ConfigError(
            "the zoo has no such model",
            found=", ".join(sorted(unknown)),
            expected=" | ".join(sorted(known)),
            next_step="`qatladder zoo list` shows the zoo",
        )
    found: dict[str, list[str]] = {}
    for problem in zoo.problems:
        found[problem.where.get("file", "zoo")] = str(problem).splitlines()
    for path, entry in zoo.entries.items():
        if models and entry.model not in models:
            continue
        problems = lint_entry(zoo, entry) + refusals(zoo, entry)
        for target in entry.targets:
            try:
                fleet.boards_for(target.march, target.boards)
            except ConfigError as error:
                problems.append(f"targets.{target.id}: {' '.join(str(error).split())}")
        found[str(path)] = problems
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for file, problems in found.items():
            print(f"{Path(file).name}: {'ok' if not problems else ''}")
            for text in problems:
                print(f"  {text}")
    sys.exit(1 if any(found.values()) else 0)


@zoo_app.command("new")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["torch", "torchscript", "onnx", "hat"]),
    default="torch",
    show_default=True,
    help="What the checkpoints are: state dicts, TorchScript, ONNX, or of a HAT configuration.",
)
@click.option(
    "--data",
    type=click.Choice(["own", "folder", "coco"]),
    default="own",
    show_default=True,
    help="What the data set is: your own code, folders of pictures by class, or COCO annotations.",
)
@click.option("--toolchain", type=click.Choice(["hmct", "openexplorer", "nash"]), default="hmct", show_default=True)
@click.option("--march", default="bayes", show_default=True, help="Chip: bernoulli2 (X3), bayes (J5), bayes-e (RDK X5), nash-e ...")
@click.option("--ptq", is_flag=True, help="The toolchain quantises the float model.")
@click.option("--environment", default="", help="Environment of zoo.yaml the model's own code runs in.")
def zoo_new(name: str, kind: str, data: str, toolchain: str, march: str, ptq: bool, environment: str) -> None:
    """Write the first version of an entry and its adapter."""
    from qatladder.settings import load_settings
    from qatladder.zoo.load import load_entry
    from qatladder.zoo.scaffold import scaffold

    folder = load_settings().zoo
    files = scaffold(folder, name, kind, toolchain, march, ptq, environment, data)  # type: ignore[arg-type]
    load_entry(files[0])
    for path in files:
        print(path)
    print(f"\nfill them in; then: qatladder zoo lint {name}")


@zoo_app.command("schema")
def zoo_schema() -> None:
    """The JSON schema of a zoo entry, for editors."""
    from qatladder.zoo.schema import json_schema

    print(json.dumps(json_schema(), indent=1))


@fleet_app.command("list")
@json_option
def fleet_list(as_json: bool) -> None:
    """The boards of the fleet, and which of them are in quarantine."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.reports.fleet import state_line
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import board_state

    settings = load_settings()
    fleet, store = load_fleet(settings.fleet), open_store(settings)
    states = {spec.name: board_state(store, spec.name, fleet.quarantine_after) for spec in fleet.boards}
    if as_json:
        print(json.dumps([{**spec.model_dump(mode="json"), "state": states[spec.name].to_json()} for spec in fleet.boards], indent=1))
        return
    for spec in fleet.boards:
        host, port = spec.address
        where = f"{host}:{port}{'  virtual' if spec.virtual else ''}"
        print(f"{spec.name:<16} {spec.march:<12} {where:<32} {state_line(states[spec.name])}")


@fleet_app.command("check")
@click.argument("names", nargs=-1)
@json_option
def fleet_check(names: Sequence[str], as_json: bool) -> None:
    """Look at boards and run the golden model on them; a quarantined one that passes is back. Exit code 2 when one is not fit."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import check_board

    settings = load_settings()
    fleet = load_fleet(settings.fleet)
    store = open_store(settings)
    specs = [fleet.board(name) for name in names] or fleet.boards
    _show_checked([check_board(spec, settings, store, _to_console) for spec in specs], as_json)


@fleet_app.command("quarantine")
@click.argument("name")
@click.option("--reason", required=True, help="Why, for everybody who wonders where the board went.")
def fleet_quarantine(name: str, reason: str) -> None:
    """Take a board out of service until it is given back with `return`."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import quarantine

    settings = load_settings()
    spec = load_fleet(settings.fleet).board(name)
    quarantine(open_store(settings), spec, reason)
    print(f"{name}: in quarantine: {reason}")


@fleet_app.command("return")
@click.argument("name")
@json_option
def fleet_return(name: str, as_json: bool) -> None:
    """Give a board back: it is in service again when its golden model passes. Exit code 2 when it does not."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import give_back

    settings = load_settings()
    spec = load_fleet(settings.fleet).board(name)
    _show_checked([give_back(spec, settings, open_store(settings), _to_console)], as_json)


@fleet_app.command("power-cycle")
@click.argument("name")
def fleet_power_cycle(name: str) -> None:
    """Switch a board's power off and on, with the command the fleet names for it."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings
    from qatladder.validation.fleet import power_cycle

    settings = load_settings()
    spec = load_fleet(settings.fleet).board(name)
    power_cycle(spec, open_store(settings), _to_console)
    print(f"{name}: power-cycled; `qatladder fleet check {name}` when it is up")


@fleet_app.command("golden")
@click.argument("marches", nargs=-1)
@click.option("--rebuild", is_flag=True, help="Build them again, though they are there.")
def fleet_golden(marches: Sequence[str], rebuild: bool) -> None:
    """Build the golden models, of every march of the fleet by default. Exit code 3 when one cannot be."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.errors import ArtifactError, ToolchainError
    from qatladder.settings import load_settings
    from qatladder.toolchains.hmct import Hmct
    from qatladder.validation.golden import golden_of

    settings = load_settings()
    fleet = load_fleet(settings.fleet)
    missing = False
    for march in marches or dict.fromkeys(spec.march for spec in fleet.boards):
        try:
            found = golden_of(march, fleet, settings, Hmct(settings), lambda line: None, rebuild)
            print(f"{march}: {found.model.parent}, {len(found.inputs)} samples, hbm {found.sha256[:12]}")
        except (ToolchainError, ArtifactError) as error:
            missing = True
            print(f"{march}: not available: {error}")
    sys.exit(USAGE if missing else 0)


@fleet_app.command("sync")
@click.option("--check", is_flag=True, help="Only say what would be done.")
def fleet_sync(check: bool) -> None:
    """Make Airflow's pools follow the fleet, and look at the connections its boards name.

    Exit code 1: --check found something to do; 3: a connection is missing or wrong.
    """
    command = [sys.executable, "-m", "qatladder.airflow.fleet", "sync", *(["--check"] if check else [])]
    sys.exit(subprocess.run(command, check=False).returncode)


def _to_console(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _show_checked(found: Sequence[Checked], as_json: bool) -> None:
    """What checks of boards found, then exit: 0 when every one is fit and in service, 2 otherwise."""
    from dataclasses import asdict

    from qatladder.reports.fleet import health_log, state_line

    if as_json:
        print(json.dumps({item.name: {**asdict(item), "state": item.state.to_json()} for item in found}, indent=1))
    else:
        for item in found:
            print(f"{item.name}: {'fit' if item.outcome == 'fit' else f'not fit ({item.outcome})'}; {state_line(item.state)}")
            for line in [*item.why.splitlines(), *(health_log(item.health) if item.health else [])]:
                print(f"  {line}")
    sys.exit(0 if all(item.outcome == "fit" and item.state.ready for item in found) else BROKEN)


@fleet_app.command("start")
@click.argument("names", nargs=-1)
def fleet_start(names: Sequence[str]) -> None:
    """Start virtual boards in the background."""
    from qatladder.boards.virtual import control
    from qatladder.settings import load_settings

    settings = load_settings()
    for board in _virtual(names):
        print(f"{board.name}: listening on {board.host}:{control.start_background(board, settings)}")


@fleet_app.command("stop")
@click.argument("names", nargs=-1)
def fleet_stop(names: Sequence[str]) -> None:
    """Stop virtual boards."""
    from qatladder.boards.virtual import control
    from qatladder.settings import load_settings

    settings = load_settings()
    for board in _virtual(names):
        print(f"{board.name}: {'stopped' if control.stop(board, settings) else 'was not running'}")


def _virtual(names: Sequence[str]) -> list[BoardSpec]:
    """The named boards; every virtual one of the fleet when none is named."""
    from qatladder.boards.fleet import load_fleet
    from qatladder.settings import load_settings

    fleet = load_fleet(load_settings().fleet)
    return [fleet.board(name) for name in names] or [board for board in fleet.boards if board.virtual]


@app.command("announce")
@click.argument("model")
@click.option("--version", help="Version of the zoo entry.")
@click.option("--target", help="Only this target.")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="ROLE=FILE", help="A file by role (float, calib, qat, onnx, int, hbm); it is hashed."
)
@click.option("--training", multiple=True, metavar="NAME=VALUE", help="What the run is remembered with, e.g. git=1f3a9c0.")
@click.option("--who", help="Default: user@host.")
@click.option("--when", help="End of the training, ISO 8601 with time zone; default: now.")
@click.option("--to", help="Folder, s3://bucket/prefix or http(s)://airflow; default: QATLADDER_ANNOUNCE_TO, else the watched place.")
def announce_command(
    model: str,
    version: str | None,
    target: str | None,
    artifacts: Sequence[str],
    training: Sequence[str],
    who: str | None,
    when: str | None,
    to: str | None,
) -> None:
    """Announce a trained model: its ladder runs in Airflow. Exit code 2: the announcement did not arrive."""
    import datetime
    import os

    from qatladder import announce
    from qatladder.announcements import parse
    from qatladder.settings import load_settings

    place = to or os.environ.get("QATLADDER_ANNOUNCE_TO") or next(iter(load_settings().announcements), None)
    if place is None:
        raise ConfigError("nowhere to announce to", next_step="give --to, or set QATLADDER_ANNOUNCE_TO")
    try:
        files, notes = announce.pairs(artifacts, "--artifact"), announce.pairs(training, "--training")
        data = announce.content(model, version, files, target, notes, who, when)
    except (ValueError, OSError) as error:
        raise ConfigError("the announcement is wrong", found=error, next_step="correct it; `qatladder announce --help`") from error
    parse(data, "the command line", datetime.datetime.now(datetime.UTC))
    try:
        print(announce.send(data, place))
    except announce.AnnounceError as error:
        raise BrokenError("the announcement did not arrive", kind="announcements", found=error, next_step="announce again") from error


@app.command("announcements")
@click.option("--last", default=20, show_default=True, help="How many.")
@json_option
def announcements_command(last: int, as_json: bool) -> None:
    """What became of the announced models, the newest last; then what still waits."""
    from qatladder.announcements import inbox
    from qatladder.evidence import open_store
    from qatladder.settings import load_settings

    store = open_store(load_settings())
    rows = inbox.settled(store, last)
    rows += [{**letter.to_json(), "outcome": "pending", "why": "", "run": "", "settled": ""} for letter in reversed(inbox.pending(store))]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'RECEIVED':<20} {'MODEL':<32} {'OUTCOME':<10} RUN, OR WHY")
    for row in rows:
        print(f"{row['received'][:19]:<20} {inbox.Letter.from_json(row).label:<32} {row['outcome']:<10} {row['run'] or row['why']}")


@app.command("compare")
@click.argument("expected", type=click.Path(path_type=Path))
@click.argument("found", type=click.Path(path_type=Path))
@click.option(
    "--contract",
    type=click.Path(path_type=Path),
    help="What states dtype, shape, padding and scale of dumps: a model_info console, hbdk-disas JSON, ONNX, a zoo entry, or JSON.",
)
@click.option("--tensor", default="", help="Which tensor of the contract or of an .npz: its name, or input[0], output[1] ...")
@click.option("--dtype", default="", help="Type of raw bytes or text without a contract, e.g. int8.")
@click.option("--shape", default="", help="Shape of raw bytes or text without a contract, e.g. 1,3,224,224.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), help="Where the channels are; guessed from the shape by default.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a picture: error maps, mismatches per channel, histogram.")
@json_option
def compare_command(
    expected: Path,
    found: Path,
    contract: Path | None,
    tensor: str,
    dtype: str,
    shape: str,
    layout: str | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Compare two tensors bit for bit, and say what a difference looks like.

    Files: .npy, .npz, raw bytes (.bin), text dumps of hrt_model_exec, hbdk-sim and hbdk-model-verifier. Exit code 0: identical,
    1: different, 2: the digits of a text cannot prove it, 3: a file cannot be read.
    """
    from qatladder.errors import ConfigError
    from qatladder.reports.difference import difference_html
    from qatladder.reports.text import judgement_text
    from qatladder.validation.files import as_dtype, compare_files, worst

    try:
        sizes = tuple(int(size) for size in shape.replace("x", ",").strip("[]()").split(",") if size.strip())
    except ValueError:
        raise ConfigError("not a shape", expected="1,3,224,224", found=shape) from None
    results = compare_files(expected, found, contract, tensor, as_dtype(dtype) if dtype else "", sizes, layout or "")
    item = worst(results)
    if html:
        axis = {"NCHW": 1, "NHWC": 3}.get(layout or "")
        page = difference_html(item.judged, item.expected, item.found, (expected.name, found.name), axis)
        html.with_name(html.name + ".part").write_text(page, encoding="utf-8")
        html.with_name(html.name + ".part").replace(html)
    if as_json:
        data = item.judged.to_json()
        if len(results) > 1:
            data.update(tensor=item.name, tensors={result.name: result.judged.to_json() for result in results})
        print(json.dumps(data, indent=1))
    else:
        for result in results:
            print(judgement_text(result.name, result.judged, [("expected", result.sides[0]), ("found", result.sides[1])]))
        if html:
            print(f"  picture    {html}")
    sys.exit({"passed": 0, "failed": 1, "unprovable": 2}[item.judged.status])


@app.command("inputs")
@click.argument("sources", nargs=-1, required=True)
@click.option("--model", required=True, help="The zoo entry whose input contract is used.")
@click.option("--version", help="Its version, when the zoo holds several.")
@click.option("--int", "int_model", type=click.Path(path_type=Path), help="The int ONNX: states layout and scale; needed for featuremaps.")
@click.option(
    "--contract", type=click.Path(path_type=Path), help="What states the board's strides: a model_info console or hbdk-disas JSON."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("inputs"), show_default=True, help="Folder the forms are written to.")
@json_option
def inputs_command(
    sources: Sequence[str], model: str, version: str | None, int_model: Path | None, contract: Path | None, out: Path, as_json: bool
) -> None:
    """Write the float, int and hbm form of a picture for a model, and prove that they are the same picture.

    SOURCES: a picture of exactly the model's input size, or NAME=FILE for each input. Exit code 0: the forms agree, 1: they do not.
    """
    from qatladder.errors import ConfigError
    from qatladder.settings import load_settings
    from qatladder.validation.forms import write_forms
    from qatladder.zoo import load_zoo

    found = [entry for entry in load_zoo(load_settings()).entries.values() if entry.model == model and version in (None, entry.version)]
    if len(found) != 1:
        raise ConfigError(
            "the zoo does not hold exactly one such model",
            expected=f"{model} {version or ''}".strip(),
            found=", ".join(f"{entry.model} {entry.version}" for entry in found) or "none",
            next_step="`qatladder zoo list` shows models and versions",
        )
    entry = found[0]
    names = [spec.name for spec in entry.inputs]
    given = {}
    for index, source in enumerate(sources):
        name, equals, path = source.partition("=")
        given[name if equals and name in names else names[min(index, len(names) - 1)]] = Path(path if equals and name in names else source)
    results = write_forms(entry, given, out, int_model, contract)
    agree = all(bool(item.proof) for item in results)
    if as_json:
        data = [
            {**item.proof.to_json(), "files": {form: str(path) for form, path in item.files.items()}, "forms": item.shapes}
            for item in results
        ]
        print(json.dumps({"status": "passed" if agree else "failed", "inputs": data}, indent=1, default=str))
    else:
        for item in results:
            print(f"{'✔' if item.proof else '✖'} {item.name}: {'all forms are the same picture' if item.proof else 'the forms part'}")
            for form, written in item.files.items():
                print(f"  {form:<6} {item.shapes[form]:<56} {written}")
            for step in item.proof.steps:
                print(f"  {step}")
            loss = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in item.proof.loss.to_json().items() if value)
            print(f"  lost by the runtime type, for every rung alike: {loss or 'nothing'}")
    sys.exit(0 if agree else 1)


@app.command()
@click.argument("run", required=False)
@click.option("--list", "list_runs", is_flag=True, help="List the runs.")
@json_option
def report(run: str | None, list_runs: bool, as_json: bool) -> None:
    """Show the report of a run; of the latest whole run when none is named."""
    from qatladder.errors import ConfigError
    from qatladder.evidence import open_store
    from qatladder.reports.text import ladder_text, trend_text, verdict_table
    from qatladder.settings import load_settings

    store = open_store(load_settings())
    runs = store.runs()
    if list_runs:
        print("\n".join(runs))
        return
    if not runs:
        raise ConfigError("there is no run to report", next_step="`qatladder sweep` or `make sweep`")
    run = run or max(runs, key=lambda name: json.loads(store.read_run_file(name, "manifest.json"))["finished"])
    try:
        data = json.loads(store.read_run_file(run, "report.json"))
    except FileNotFoundError:
        raise ConfigError("there is no such run", found=run, next_step="`qatladder report --list` shows the runs") from None
    results = [LadderResult.from_json(item) for item in data["ladders"]]
    if as_json:
        print(json.dumps([_flat(result) for result in results], indent=1))
        return
    for result in results:
        print(ladder_text(result), end="\n\n")
    print(verdict_table(results))
    if moved := trend_text(data):
        print(f"\n{moved}")
    print(f"\nreport: {store.run_uri(run, 'report.html')}")


def main() -> None:
    """Entry point: turns errors into messages and exit codes. Only a verdict exits 0 or 1, never something that broke."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenError as error:
        if error.console:
            print(error.console, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BROKEN)
    except QATLadderError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except Exception as error:
        traceback.print_exc()
        print(f"internal error: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(BROKEN)


def _terminate(number: int, _frame: FrameType | None) -> None:
    """SIGTERM leaves as an exception, so that boards are stopped, jobs ended and work folders removed on the way out."""
    signal.signal(number, signal.SIG_IGN)  # once is enough: a second one must not cut the cleaning up short
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
