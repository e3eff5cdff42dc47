"""board.quality: are tonight's dumps sane data, and like those of the last good nights?

A **good night** is a whole run in which this ladder (model, version, target) shipped; of a day with several the newest counts. The
statistics of the last good nights (QATLADDER_LEARN_NIGHTS of them, 14 by default) teach what tonight's are held against, once there are
QATLADDER_LEARN_MINIMUM (3). A night never teaches itself, and equal statistics, however many nights left them, teach once.

**What a learnt expectation that does not hold means.** The frames are the same every night, and `board.runtime` has just proven the
board's integers to be the int model's. So the same hbm gives the same integers and meets whatever it taught, with no luck involved. An
expectation fails only when the model behind the version is another one. That fails the check, although the new model may meet every gate
on accuracy: a metric looks at some outputs and some values, baselines and approvals of this version were given to another model, and the
name of what ships would be wrong. The way out is a person's word: another version, or `qatladder expectations relearn`.

When the frames themselves are others than those of enough good nights, a difference may be theirs: it is said as a warning, and fails
nothing, until there are enough good nights of these frames.

In the object store, below `expectations/<ladder>/`: `suite.json`, the newest suite as great_expectations serialises it, replaced as a
whole, with the nights it was learnt from in its meta (so that they teach on when retention has let their runs go), and `since.json`, which
only `relearn` writes. Both follow from the runs and from a person's word, so two writers write nothing that contradicts.
"""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError, ConfigError
from qatladder.evidence import Store
from qatladder.evidence.store import safe_name
from qatladder.ladder import Evidence, Rung, RungResult, Status, Verdict
from qatladder.ladder.results import decide
from qatladder.numerics.tensor import TensorContract
from qatladder.quality.learning import learn
from qatladder.quality.statistics import Table, read_table, write_table
from qatladder.runner.client import Environment, run_job
from qatladder.settings import Settings
from qatladder.validation.ask import Answer
from qatladder.validation.context import Context, Log, ladder_key, load_rung
from qatladder.validation.features import feature_of, raw_names
from qatladder.zoo.schema import Entry

FOLDER = "expectations"

MAX_SATURATION_SHARE = 0.5
"""An output that sits at its type's limits in more than half of its elements carries no information."""

LOOK_BACK = 100
"""Earlier runs that are looked through for good nights."""

_TIME = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):?(\d\d):?(\d\d)")


@dataclass(frozen=True)
class Night:
    """A good night.

    Attributes:
        run: its name in the object store.
        when: ISO 8601, UTC: when its board rung began.
        statistics: its table.
        hbm: sha256 of the compiled model.
        frames: what identifies the frames the board was fed.
    """

    run: str
    when: str
    statistics: Evidence
    hbm: str
    frames: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Night:
        night = cls(**{**data, "statistics": Evidence(**data["statistics"])})
        if not all(isinstance(text, str) for text in (night.run, night.when, night.hbm, night.frames, night.statistics.sha256)):
            raise TypeError("not the record of a night")
        return night


@dataclass(frozen=True)
class Lesson:
    """What is known from earlier nights.

    Attributes:
        state: `off`, `learning` (too few nights), `learnt`, or `advisory` (learnt from other frames).
        nights: what it was learnt from, newest first; while learning, what there is so far.
        outputs: see `quality.learning.learn`; None while there is nothing.
        words: the same for people.
        same_hbm: tonight's hbm is one it was learnt from.
    """

    state: str
    nights: tuple[Night, ...] = ()
    outputs: dict[str, Any] | None = None
    words: str = ""
    same_hbm: bool = False

    @property
    def source(self) -> str:
        """Where from, on one line."""
        days = [night.when[:10] for night in self.nights]
        return ", ".join([_nights(len(days)), " to ".join(dict.fromkeys(days[-1:] + days[:1]))]) if days else "nothing"


def judge(context: Context, raw: Mapping[str, Path], features: tuple[TensorContract, ...], built: RungResult) -> Answer:
    """Hold tonight's dumps against what holds for every model, what good nights taught, and what the zoo entry says.

    Args:
        raw: [N, ...] .npy by output name, valid integers.
        features: how the board describes the outputs.
        built: the int rung's result.
    """
    table = context.folder / "statistics.json"
    write_table(raw, table)
    samples = len(np.load(next(iter(raw.values())), mmap_mode="r"))
    outputs, names = {}, {}
    for index, item in enumerate(built.facts["int_model"]["outputs"]):
        feature = feature_of(features, raw_names(built), index)
        outputs[feature.name] = {"count": int(np.prod(item["raw_shape"])), "dtype": item["raw_dtype"]}
        names.update({item["name"]: feature.name, feature.name: feature.name})
    hbm, frames = built.products["hbm"].sha256, f"{built.facts.get('samples_sha256') or '?'} first {samples}"
    context.facts["dumped"] = {"hbm": hbm, "frames": frames}
    lesson = study(context, hbm, frames)
    unknown = [] if lesson.outputs is None else [name for name in outputs if name not in lesson.outputs]
    if unknown:
        lesson = replace(lesson, words=f"{lesson.words}; they teach nothing about {', '.join(unknown)}")
    context.log(lesson.words)
    rules = {
        "samples": samples,
        "max_saturation_share": MAX_SATURATION_SHARE,
        "outputs": outputs,
        "learnt": None
        if lesson.outputs is None
        else {"outputs": lesson.outputs, "source": lesson.source, "advisory": lesson.state == "advisory"},
        "written": written(context.entry, context.target.id, names),
    }
    record = {
        "ladder": {key: context.ladder[key] for key in ("model", "version", "target")},
        "state": lesson.state,
        "words": lesson.words,
        "minimum": context.settings.learn_minimum,
        "nights": [night.to_json() for night in lesson.nights],
    }
    found = run_job(
        Environment("product", context.zoo.environments["product"].python),
        "qatladder.quality.expectations:judge",
        {"tables": [str(table)], "rules": rules, "out_dir": str(context.folder / "quality"), "record": record},
        context.folder / "quality_job",
        log=context.log,
        model=context.entry.model,
        rung="board",
    ).value
    docs = context.folder / "data_docs.tar"
    with tarfile.open(docs, "w") as tar:
        tar.add(Path(found["data_docs"]).parent, "data_docs")
    evidence = [
        context.keep("data_docs_page", Path(found["page"]), "data_docs.html"),
        context.keep("data_docs", docs),
        context.keep("statistics", table),
        context.keep("suite", Path(found["suite"])),
        context.store.put_json(found["expectations"], "expectations.json"),
    ]
    keep(context.store, context.ladder, Path(found["suite"]))
    return _answer(found, samples, lesson, evidence)


def _answer(found: Mapping[str, Any], samples: int, lesson: Lesson, evidence: Sequence[Evidence]) -> Answer:
    wrong = [item for item in found["expectations"] if not item["success"]]
    failed = [item for item in wrong if not item["advisory"]]
    warned = [item for item in wrong if item["advisory"]]
    measured = f"{found['evaluated'] - len(wrong)} of {found['evaluated']} expectations hold over {samples} samples"
    values = {
        "evaluated": found["evaluated"],
        "failed": found["failed"],
        "warned": found["warned"],
        "learnt": sum(item["source"] == "learnt" for item in found["expectations"]),
        "nights": len(lesson.nights),
        "state": lesson.state,
    }
    if failed:
        values["blame"] = _blame({item["source"] for item in failed}, lesson)
    return Answer(
        bool(found["success"]),
        measured + (f"; as a warning: {'; '.join(map(_says, warned))}" if warned else ""),
        f"finite, in the range of the type, not constant, every element there, at most {MAX_SATURATION_SHARE:.0%} saturated; {lesson.words}",
        "; ".join(map(_says, failed)),
        values,
        evidence,
    )


def _says(item: Mapping[str, Any]) -> str:
    held = f"; expected {item['expected']}" if item["source"] != "fixed" else ""
    return f"{item['output']}: {item['title']}: {item['observed']}{held}"


def _blame(sources: set[str], lesson: Lesson) -> str:
    """What a failure speaks of: `data` no model should emit, what the entry's author `written` down, or a change since good nights."""
    if "fixed" in sources:
        return "data"
    if "written" in sources:
        return "written"
    return "other_integers" if lesson.same_hbm else "other_model"


def written(entry: Entry, target: str, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The zoo entry's expectations for a target, about outputs as the board names them.

    Raises:
        ConfigError: an output the model does not have.
    """
    items = [item for item in entry.expectations if item.target in (None, target)]
    for item in items:
        if item.output not in names:
            raise ConfigError(
                "the zoo entry expects something of an output the model does not have",
                model=entry.model,
                found=item.output,
                expected=" | ".join(names),
                next_step="correct `expectations` in the zoo entry",
            )
    return [{**item.model_dump(exclude={"target"}), "output": names[item.output]} for item in items]


# --- learning ----------------------------------------------------------------------------------------------------------------


def study(context: Context, hbm: str, frames: str) -> Lesson:
    """What the last good nights teach about a night with this hbm and these frames."""
    settings, store = context.settings, context.store
    if not settings.learn_nights:
        return Lesson("off", words="nothing is learnt from earlier nights (QATLADDER_LEARN_NIGHTS is 0)")
    least = min(settings.learn_minimum, settings.learn_nights)
    good = good_nights(store, context.ladder, settings, frames, but=safe_name(context.run_id), log=context.log)
    tables: dict[str, Table | None] = {}
    while True:
        same = _newest(good, settings, frames)
        chosen = same if len(same) >= least else _newest(good, settings)
        for night in chosen:
            if night.statistics.sha256 not in tables:
                tables[night.statistics.sha256] = _table(store, night, context.folder, context.log)
        if all(tables[night.statistics.sha256] for night in chosen):
            break
        good = [night for night in good if tables.get(night.statistics.sha256, night)]
    if len(chosen) < least:
        others = f"; {_nights(len(chosen) - len(same))} of other frames" if len(chosen) > len(same) else ""
        return Lesson("learning", chosen, words=f"learning: {len(same)} of {_nights(least)} so far{others}")
    known = list(dict.fromkeys(night.statistics.sha256 for night in chosen))
    lesson = Lesson(
        "learnt" if chosen is same else "advisory",
        chosen,
        learn([table for table in map(tables.get, known) if table is not None]),
        same_hbm=hbm in {night.hbm for night in chosen},
    )
    distinct = "" if len(known) == len(chosen) else f", {len(known)} different" if len(known) > 1 else ", all alike"
    then = ", ".join(dict.fromkeys(night.hbm[:12] for night in chosen))
    model = "this hbm" if lesson.same_hbm else f"another hbm ({then} then, {hbm[:12]} tonight)"
    of = f"the same frames and {model}" if chosen is same else f"other frames and {model}, as warnings only"
    return replace(lesson, words=f"learnt from {lesson.source}{distinct}, of {of}")


def good_nights(
    store: Store, ladder: dict[str, Any], settings: Settings, frames: str = "", but: str = "", log: Log = lambda line: None
) -> list[Night]:
    """Every good night among the newest runs, and those the kept suite still knows, newest first; see the module.

    Args:
        frames: once there are enough nights of these, older ones are not looked for.
        but: a run that is none: the one that is judged.
    """
    runs = store.runs()
    since = learns_since(store, ladder)
    found: list[Night] = []
    for run in sorted((run for run in runs if run != but), key=_when, reverse=True)[:LOOK_BACK]:
        try:
            night = _good(store, run, ladder)
        except (ValueError, KeyError, TypeError) as error:
            log(f"{run} teaches nothing: its record cannot be read: {error}")
            continue
        if night is not None and night.when > since:
            found.append(night)
            if len(_newest(found, settings, frames)) >= settings.learn_nights:
                break
    there = {*runs, but}
    found += [night for night in nights_of(kept(store, ladder, log)) if night.run not in there and night.when > since]
    return sorted(found, key=lambda night: night.when, reverse=True)


def _good(store: Store, run: str, ladder: dict[str, Any]) -> Night | None:
    board = load_rung(store, run, ladder, Rung.BOARD)
    if board is None or "statistics" not in board.products or "dumped" not in board.facts:
        return None
    for check_id in ("board.quality", "board.runtime"):
        check = board.check(check_id)
        if check is None or check.status is not Status.PASSED:
            return None
    rungs = [load_rung(store, run, ladder, rung) for rung in Rung]
    if decide([check for rung in rungs if rung is not None for check in rung.checks]) is not Verdict.SHIP:
        return None
    return Night(run, board.started, board.products["statistics"], board.facts["dumped"]["hbm"], board.facts["dumped"]["frames"])


def _newest(nights: Sequence[Night], settings: Settings, frames: str = "") -> tuple[Night, ...]:
    """The newest night of each day, as many days as are learnt from, newest first; only those of some frames when they are given."""
    days: dict[str, Night] = {}
    for night in sorted(nights, key=lambda night: night.when, reverse=True):
        if not frames or night.frames == frames:
            days.setdefault(night.when[:10], night)
    return tuple(days.values())[: settings.learn_nights]


def _table(store: Store, night: Night, folder: Path, log: Log) -> Table | None:
    """A night's table; None, with a line in the log, when it is gone, damaged, or of an older version."""
    try:
        return read_table([store.fetch(night.statistics, folder / "learnt" / f"{night.statistics.sha256}.json")])
    except (BrokenError, ArtifactError) as error:
        log(f"{night.run} teaches nothing: {error}")
        return None


def _when(run: str) -> tuple[str, str]:
    """A run's time as its id has it; runs of ids without one come first."""
    match = _TIME.search(run)
    return ("".join(match.groups()) if match else "", run)


def _nights(count: int) -> str:
    return "1 good night" if count == 1 else f"{count} good nights"


# --- the object store --------------------------------------------------------------------------------------------------------


def keep(store: Store, ladder: dict[str, Any], suite: Path) -> None:
    """Keep the newest suite of a ladder; writes nothing when it is the one that is kept."""
    try:
        if store.read_key(_key(ladder, "suite.json")) == suite.read_bytes():
            return
    except FileNotFoundError:
        pass
    store.write_key(_key(ladder, "suite.json"), suite)


def kept(store: Store, ladder: dict[str, Any], log: Log = lambda line: None) -> dict[str, Any] | None:
    """The newest suite of a ladder as great_expectations serialises it; None without one, or, with a line in the log, when it is damaged."""
    try:
        suite: dict[str, Any] = json.loads(store.read_key(_key(ladder, "suite.json")))
        nights_of(suite)
        _ = suite["expectations"], suite["meta"]["qatladder"]["words"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log(f"the kept suite {store.uri(_key(ladder, 'suite.json'))} is damaged ({error}); it is learnt again from the runs of the store")
        return None
    return suite


def nights_of(suite: Mapping[str, Any] | None) -> list[Night]:
    """The nights a suite was learnt from."""
    return [] if suite is None else [Night.from_json(item) for item in suite["meta"]["qatladder"]["nights"]]


def relearn(store: Store, ladder: dict[str, Any], now: str) -> None:
    """Forget what a ladder learnt: nights up to now (ISO 8601, UTC) teach nothing any more."""
    with tempfile.TemporaryDirectory(prefix="qatladder-") as folder:
        path = Path(folder) / "since.json"
        path.write_text(json.dumps({"since": now}), encoding="utf-8")
        store.write_key(_key(ladder, "since.json"), path)
    store.delete_key(_key(ladder, "suite.json"))


def learns_since(store: Store, ladder: dict[str, Any]) -> str:
    """When a person had the ladder learn anew (ISO 8601, UTC); empty for never.

    Raises:
        BrokenError: kind `store`: the file that says so is damaged.
    """
    key = _key(ladder, "since.json")
    try:
        return str(json.loads(store.read_key(key))["since"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenError(
            "the file that says since when a ladder learns is damaged",
            "`qatladder expectations relearn` writes it anew",
            kind="store",
            uri=store.uri(key),
            found=error,
        ) from error


def _key(ladder: dict[str, Any], name: str) -> str:
    return f"{FOLDER}/{ladder_key(ladder)}/{name}"
