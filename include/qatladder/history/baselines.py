"""The last accepted result of every ladder: what tonight is held against.

    baselines/<model>/<version>@<target>.json            the newest night on which it shipped and nothing had become worse: nobody's doing
    baselines/<model>/accepted/<version>@<target>.json   what somebody accepted: who, when and why; it stays until the next is accepted

Nights write the one and people the other, which counts where it is: a sweep that ends while somebody accepts a result takes nothing back. A
version that has none yet is held against the highest version below it, else the highest, of its model on the same target.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qatladder.errors import BrokenError, ConfigError
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name

if TYPE_CHECKING:
    from qatladder.history.query import History

FOLDER = "baselines"
REMEMBERED = 50
"""Accepted baselines before this one that are kept by name."""


@dataclass(frozen=True)
class Baseline:
    """An accepted result.

    Attributes:
        model, version, target: of the ladder.
        run_id: the run with the result; `time` when it started (ISO 8601, UTC).
        by, why: who accepted it and the reason; empty for one that nobody had to accept.
        accepted: when (ISO 8601, UTC).
        before: what it replaced, newest first: `run_id`, `time`, `by`, `why`, `accepted`; of those nobody accepted only one.
        anchor: the last result that somebody accepted, else the first of all: `version`, `run_id`, `time`; empty when this is it. Held against it,
            small losses cannot add up unseen while the baseline moves on from night to night.
    """

    model: str
    version: str
    target: str
    run_id: str
    time: str
    by: str = ""
    why: str = ""
    accepted: str = ""
    before: tuple[dict[str, str], ...] = field(default=())
    anchor: dict[str, str] = field(default_factory=dict)

    @property
    def anchored(self) -> Baseline | None:
        """The anchor as a baseline; None when this is it."""
        if not self.anchor:
            return None
        return Baseline(self.model, self.anchor["version"], self.target, self.anchor["run_id"], self.anchor["time"])

    @property
    def approved(self) -> bool:
        """Somebody accepted it."""
        return bool(self.by)


def baseline_of(store: Store, model: str, version: str, target: str, run_id: str = "") -> Baseline | None:
    """What a ladder is held against; None when its model has never been accepted on this target.

    Args:
        run_id: the run that asks; it is never held against itself, also when it asks a second time.
    """
    own = _own(store, model, version, target)
    while own is not None and own.run_id == run_id:
        anchor = {} if own.anchor.get("run_id") == (own.before[0]["run_id"] if own.before else "") else own.anchor
        own = Baseline(model, version, target, **own.before[0], before=own.before[1:], anchor=anchor) if own.before else None
    if own is not None:
        return own
    others = [item for item in baselines(store, model) if item.target == target and item.version != version]
    return max(others, key=lambda item: (_natural(item.version) < _natural(version), _natural(item.version), item.time), default=None)


def _natural(version: str) -> list[tuple[int, int, str]]:
    """Versions in the order people count: all of a model's are validated in the same nights, so times do not tell them apart."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", version) if part]


def baselines(store: Store, model: str | None = None) -> Iterator[Baseline]:
    """All of a model, or of all."""
    prefix = f"{FOLDER}/{safe_name(model)}/" if model else f"{FOLDER}/"
    keys = set(store.keys(prefix))
    for key in sorted(keys):
        found = None if "{}/accepted/{}".format(*key.rsplit("/", 1)) in keys else _read(store, key)
        if found is not None:
            yield found


def advance(store: Store, model: str, version: str, target: str, run_id: str, time: str) -> bool:
    """Make a good night the baseline, unless somebody accepted one, or a later night is it already."""
    known = _own(store, model, version, target)
    if known is not None and (known.approved or known.time > time):
        return False
    if known is None or known.run_id != run_id:
        held = baseline_of(store, model, version, target, run_id)
        anchor = {} if held is None else held.anchor or {"version": held.version, "run_id": held.run_id, "time": held.time}
        found = Baseline(model, version, target, run_id, time, before=(_short(known),) if known else (), anchor=anchor)
        _write(store, _key(model, version, target), found)
    return True


def promote(store: Store, run_id: str, model: str, target: str | None, version: str | None, by: str, why: str) -> list[Baseline]:
    """Accept the result of a run, for every ladder of the model in it that matches.

    Raises:
        ConfigError: no such whole run, no such ladder in it, one that does not ship, or nobody, or no reason.
    """
    if not by.strip() or not why.strip():
        raise ConfigError("a baseline is accepted by somebody, for a reason", found=f"by {by!r}, why {why!r}", next_step="name both")
    ladders = [ladder for ladder in _report(store, run_id)["ladders"] if ladder["model"] == model]
    chosen = [ladder for ladder in ladders if target in (None, ladder["target"]) and version in (None, ladder["version"])]
    if not chosen:
        raise ConfigError(
            "the run has no such ladder",
            run=run_id,
            model=model,
            version=version or "any",
            target=target or "any",
            found=", ".join(f"{item['model']} {item['version']} @ {item['target']}" for item in ladders) or "no ladder of this model",
            next_step="`qatladder history show MODEL` lists the runs of a model",
        )
    _must_ship(run_id, chosen)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return [_promoted(store, ladder, run_id, by.strip(), why.strip(), now) for ladder in chosen]


def _must_ship(run_id: str, ladders: Sequence[Mapping[str, Any]]) -> None:
    bad = [ladder for ladder in ladders if ladder["verdict"] != "ship"]
    if bad:
        raise ConfigError(
            "only a ladder that ships can be a baseline",
            run=run_id,
            model=bad[0]["model"],
            target=bad[0]["target"],
            expected="ship",
            found=f"{bad[0]['verdict']}: {bad[0]['why']}",
            next_step="correct the gate in the zoo entry if the result is good enough, validate again, and accept that run",
        )


def proposal(store: Store, history: History, model: str, target: str | None, version: str | None, run_id: str | None) -> dict[str, str]:
    """A result beside what it would replace, for whoever is asked to accept it.

    Args:
        run_id: the run with the result; None for the newest in which a ladder that matches ships.
    Returns:
        `run_id`, and `subject` and `body` in Markdown.
    Raises:
        ConfigError: there is no such result.
    """
    if run_id is None:
        rows = history.ask(
            """
            SELECT run_id FROM facts WHERE model = ? AND verdict = 'ship' AND (? IS NULL OR target = ?) AND (? IS NULL OR version = ?)
            GROUP BY run_id ORDER BY max(time) DESC LIMIT 1
            """,
            [model, target, target, version, version],
        )
        if not rows:
            raise ConfigError(
                "no result of this model ships", model=model, target=target or "any", next_step="`qatladder history show MODEL` says why"
            )
        run_id = str(rows[0]["run_id"])
    report = _report(store, run_id)
    chosen = [
        item
        for item in report["ladders"]
        if item["model"] == model and target in (None, item["target"]) and version in (None, item["version"])
    ]
    if not chosen:
        raise ConfigError("the run has no such ladder", run=run_id, model=model, next_step="`qatladder history show MODEL` lists the runs")
    _must_ship(run_id, chosen)
    lines = [f"Run `{run_id}` of {report['run']['started']}.", ""]
    for item in chosen:
        lines += [f"**{item['model']} {item['version']} on {item['target']}: {item['verdict']}**", ""]
        trend = item.get("trend") or {}
        rows = [entry for entry in trend.get("movements", ()) if entry["value"] is not None]
        if rows:
            lines += ["| check | figure | baseline | this result | verdict |", "|---|---|---|---|---|"]
            for entry in rows:
                held = "" if entry["baseline"] is None else f"{entry['baseline']:.6g}"
                lines.append(f"| {entry['check_id']} | {entry['metric']} | {held} | {entry['value']:.6g} | {entry['verdict']} |")
        known = baseline_of(store, item["model"], item["version"], item["target"])
        replaced = (
            f"`{known.run_id}` of {known.time}" + (f", accepted by {known.by}: {known.why}" if known.approved else "") if known else ""
        )
        lines += ["", f"It replaces {replaced}." if known else "It would be the first.", ""]
        lines += [
            f"Changed since: {suspect['what']} `{suspect['was'][:12]}` -> `{suspect['now'][:12]}`" for suspect in trend.get("suspects", ())
        ]
    return {"run_id": run_id, "subject": f"Accept {run_id} as the baseline of {model}?", "body": "\n".join(lines)}


def _promoted(store: Store, ladder: Mapping[str, Any], run_id: str, by: str, why: str, now: str) -> Baseline:
    model, version, target = ladder["model"], ladder["version"], ladder["target"]
    known = _own(store, model, version, target)
    before = (_short(known), *known.before)[:REMEMBERED] if known is not None else ()
    started = _report(store, run_id)["run"]["started"]
    found = Baseline(model, version, target, run_id, started, by, why, now, before)
    _write(store, _key(model, version, target, accepted=True), found)
    store.delete_key(_key(model, version, target))  # for order's sake: it does not count any more
    return found


def _short(baseline: Baseline) -> dict[str, str]:
    return {name: getattr(baseline, name) for name in ("run_id", "time", "by", "why", "accepted")}


def _report(store: Store, run_id: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(store.read_run_file(run_id, "report.json"))
        store.read_run_file(run_id, "manifest.json")
    except FileNotFoundError:
        raise ConfigError(
            "there is no such run, or it did not end", run=run_id, next_step="`qatladder history show MODEL` lists the runs of a model"
        ) from None
    return report


def _key(model: str, version: str, target: str, accepted: bool = False) -> str:
    return f"{FOLDER}/{safe_name(model)}/{'accepted/' if accepted else ''}{safe_name(f'{version}@{target}')}.json"


def _own(store: Store, model: str, version: str, target: str) -> Baseline | None:
    return _read(store, _key(model, version, target, accepted=True)) or _read(store, _key(model, version, target))


def _read(store: Store, key: str) -> Baseline | None:
    try:
        data = json.loads(store.read_key(key))
        return Baseline(**{**data, "before": tuple(data.get("before", ()))})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise BrokenError(
            "a baseline cannot be read",
            "delete it from the store; the next good night becomes the baseline, or `qatladder baseline accept` another",
            kind="store",
            file=store.uri(key),
            found=str(error),
        ) from error


def _write(store: Store, key: str, baseline: Baseline) -> None:
    store.write_bytes(key, json.dumps(asdict(baseline), indent=1).encode())
