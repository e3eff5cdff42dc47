"""Unchanged work is not redone: a rung's answer is carried over while nothing that determined it has changed.

An answer is recorded under a key of everything that is known before a rung runs: the artifacts by content, the entry's fields it is held
against, what the rungs below left, the environment with all that is installed, the toolchain's versions, our own code. What the adapter
read is only known afterwards: its files and folders stand in the record, and are looked at again (`qatladder.runner.seen`).

Only answers about the model are carried over: never what was broken, unprovable, left open or ended by an error. An answer whose
determinants cannot all be seen is found anew every night, and says why. A board's health is never carried over.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import qatladder
from qatladder.evidence.store import sha256_file
from qatladder.ladder import Evidence, Rung, RungResult, Status
from qatladder.runner import seen
from qatladder.runner.client import Environment, ask_once
from qatladder.validation.context import Context, external_data, ladder_key
from qatladder.validation.expectations import learns_since

RECORDS = "rungs"
"""Where the store keeps the records, as files of a run of that name."""

_CODE = ("errors.py", "numerics", "runner", "ladder", "zoo", "toolchains", "boards", "quality", "diagnosis", "validation")
"""Our own code that an answer depends on."""

_NOT_ASKED = {"owner", "description", "timeout_minutes", "targets", "artifacts", "gates", "fidelity"}
"""Fields of an entry that no answer depends on, or that stand in the key in a form of their own."""

_ARTIFACTS: dict[Rung, tuple[str, ...]] = {
    Rung.FLOAT: ("float",),
    Rung.CALIB: ("float", "calib", "qat"),
    Rung.QAT: ("float", "calib", "qat"),
    Rung.INT: ("float", "calib", "qat", "onnx", "int", "hbm"),
    Rung.HBM: (),
    Rung.BOARD: (),
}
_BELOW: dict[Rung, tuple[Rung, ...]] = {
    Rung.FLOAT: (),
    Rung.CALIB: (Rung.FLOAT,),
    Rung.QAT: (Rung.FLOAT, Rung.CALIB),
    Rung.INT: (Rung.FLOAT, Rung.CALIB, Rung.QAT),
    Rung.HBM: (Rung.INT,),
    Rung.BOARD: (Rung.INT, Rung.HBM),
}
_HANDED_OVER = ("metric", "metrics", "count", "samples_sha256", "int_model", "source", "compared_samples", "compile", "contradiction")
"""Facts of a rung that the rungs above it read."""

_LOGS = ("config", "log", "predictions", "scores", "truth")
"""Products that no rung above reads."""

Health = Callable[[Context, RungResult], RungResult | None]
"""A board rung's answer with the health of now; None when the rung must be climbed."""


def find(context: Context, health: Health) -> RungResult | None:
    """The recorded answer of this rung, if it still holds; the log says what does not.

    Args:
        health: see `Health`.
    """
    context.declared = list(_declared(context))
    if context.ladder.get("force") or context.ladder.get("layers") or context.settings.carry_days <= 0:
        return None
    started, clock = _now(), time.monotonic()
    name = f"{_key(context)}.json"
    try:
        record = json.loads(context.store.read_run_file(RECORDS, name))
    except FileNotFoundError:
        return None
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["time"])
    if age > datetime.timedelta(days=context.settings.carry_days):
        context.log(f"{context.rung}: the answer of {record['run_id']} is {age.days} days old, so it is asked for anew")
        return None
    if (why := seen.changed(record["seen"])) is not None:
        context.log(f"{context.rung}: not carried over from {record['run_id']}: {why}")
        return None
    result = RungResult.from_json(record["result"])
    if (lost := _missing(context, result, name)) is not None:
        context.log(f"{context.rung}: not carried over from {record['run_id']}: the store has lost {lost.name} ({lost.uri})")
        return None
    if context.rung is Rung.BOARD:
        fit = health(context, result)
        if fit is None:
            return None
        result = fit
    context.log(f"{context.rung}: carried over from {record['run_id']} ({record['time']}): nothing that determines it has changed")
    carried = {"run_id": record["run_id"], "time": record["time"]}
    return dataclasses.replace(result, carried=carried, started=started, seconds=round(time.monotonic() - clock, 2))


def keep(context: Context, result: RungResult) -> None:
    """Record an answer, if it may be carried over; `facts["not_carried"]` says why not."""
    sight = _together(context.seen)
    result.facts["determinants"] = {**result.facts.get("determinants", {}), **_read(context, sight)}
    declared = bool(context.entry.data or context.entry.data_version)
    why = [*_reasons(context, result), *(reason for reason in sight["blind"] if not declared or reason.endswith(seen.CHANGED))]
    files, folders = _declared(context) if context.seen else ([], [])
    if context.seen and not context.entry.data_version and [files, folders] != context.declared:
        why.append(f"the declared data {seen.CHANGED}")
    if why:
        result.facts["not_carried"] = why
        return
    record = {
        "rung": 1,
        "run_id": context.run_id,
        "time": _now(),
        "seen": {"files": sight["files"] + files, "folders": sight["folders"] + folders},
        "result": result.to_json(),
    }
    context.store.write_run_file(RECORDS, f"{_key(context)}.json", json.dumps(record).encode())


def _reasons(context: Context, result: RungResult) -> list[str]:
    """Why an answer is not carried over; not worth a word for what is open or broken."""
    onboard = context.target.onboard
    if context.rung is Rung.BOARD and onboard is not None and onboard.dump_dir is not None:
        return ["the on-board program writes its dumps on its own (dump_dir)"]
    for check in result.checks:
        if check.status in (Status.BROKEN, Status.UNPROVABLE) or (check.status is Status.SKIPPED and check.required):
            return [f"{check.id} was {check.status}"]
        if "error" in check.values:
            return [f"{check.id} ended with an error"]
    return []


def _key(context: Context) -> str:
    ladder, entry, rung = context.ladder, context.entry, context.rung
    determinants: dict[str, Any] = {
        "ladder": ladder_key(ladder),
        "rung": str(rung),
        "artifacts": {name: _artifact(context, name) for name in _ARTIFACTS[rung]},
        "ptq": None if context.target.ptq is None else context.target.ptq.model_dump(mode="json"),
        "entry": entry.model_dump(mode="json", exclude=_NOT_ASKED),
        "gate": entry.gates.model_dump(mode="json").get(str(rung)),
        "below": {str(below): _left(context, below) for below in _BELOW[rung]},
        "environment": None if rung is Rung.HBM else installed(context.zoo.environment(entry), context.settings.work),
        "code": code(),
    }
    if rung is not Rung.HBM:  # another checkout of the zoo, on the same store, has other files under the same names
        adapter = Path(context.zoo.adapter(entry).rpartition(":")[0])
        determinants["adapter"] = [str(adapter), sha256_file(adapter)[0] if adapter.is_file() else None, str(context.zoo.artifact_root)]
    if rung in (Rung.INT, Rung.HBM, Rung.BOARD):
        toolchain = context.toolchain
        given = context.target.environment or (None if context.target.toolchain == "hmct" else entry.environment)
        determinants.update(
            fidelity=entry.fidelity.model_dump(mode="json"),
            target=context.target.model_dump(mode="json"),
            tools=installed(context.zoo.environment_named(given, entry.model), context.settings.work) if given else None,
            toolchain=f"{type(toolchain).__module__}.{type(toolchain).__qualname__}",
            versions=None if toolchain.unavailable() else toolchain.versions(),
        )
    if rung is Rung.BOARD:  # a person's word on what was learnt has the dumps judged anew
        learns = (learns_since(context.store, ladder), context.settings.learn_nights, context.settings.learn_minimum)
        determinants["learns"] = list(learns)
    if rung is Rung.BOARD and context.target.onboard is not None:
        files = [context.zoo.folder / name for name in context.target.onboard.files]
        determinants["onboard"] = [sha256_file(path)[0] if path.is_file() else None for path in files]
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()


def _artifact(context: Context, name: str) -> Any:
    """An artifact by content, with the files an ONNX keeps its weights in; None when the entry declares none."""
    path = context.zoo.artifact(context.entry, name)
    if path is None:
        return None
    digest = context.ladder["artifacts"].get(name, "missing")
    beside = external_data(path)
    return [digest, beside] if beside else digest


def _left(context: Context, rung: Rung) -> Any:
    """What a rung below left, as far as the rungs above it look."""
    result = context.earlier(rung)
    if result is None:
        return None
    products = {name: item.sha256 for name, item in result.products.items() if name not in _LOGS and not name.startswith("difference/")}
    return {
        "checks": {check.id: str(check.status) for check in result.checks},
        "facts": {name: result.facts.get(name) for name in _HANDED_OVER},
        "products": products if rung in (Rung.INT, Rung.HBM) else {},
    }


def _together(reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    files: dict[str, Any] = {}
    folders: dict[str, Any] = {}
    blind: set[str] = set()
    for report in reports:
        for path, state in report["files"]:
            if path in files and (files[path] or [None])[-1] != (state or [None])[-1]:
                blind.add(f"{path} {seen.CHANGED}")
            files[path] = state
        for path, state in report["folders"]:
            if folders.setdefault(path, state) != state:
                blind.add(f"what is in {path} {seen.CHANGED}")
        blind |= set(report["blind"])
    return {"files": sorted(files.items()), "folders": sorted(folders.items()), "blind": sorted(blind)}


def _declared(context: Context) -> tuple[list[Any], list[Any]]:
    """The files and folders the entry says its adapter reads, with all that is below them."""
    files, folders = [], []
    for name in context.entry.data:
        root = context.zoo.artifact_root / name
        if root.is_dir():
            above: dict[str, set[str]] = {str(root): set()}
            for folder, inside, _ in os.walk(root, followlinks=True):
                real = above[folder] | {os.path.realpath(folder)}
                inside[:] = sorted(item for item in inside if os.path.realpath(f"{folder}/{item}") not in real)
                above.update({f"{folder}/{item}": real for item in inside})
                folders.append([folder, seen.listing_of(folder)])
        else:
            files.append([str(root), seen.state_of(str(root))])
    return files, folders


def _read(context: Context, sight: dict[str, Any]) -> dict[str, Any]:
    """What the adapter read, for people who ask what has changed: its own code file by file, its data as one hash."""
    code_files, data = {}, []
    artifacts = {str(path) for name in _ARTIFACTS[Rung.INT] if (path := context.zoo.artifact(context.entry, name)) is not None}
    for path, state in sight["files"]:
        digest = state[-1] if state else None
        if path.endswith(".py"):
            code_files[_short(context, path)] = digest
        elif path not in artifacts:
            data.append([_short(context, path), digest])
    data += [[_short(context, path), state] for path, state in sight["folders"]]
    found: dict[str, Any] = {"adapter_code": dict(list(code_files.items())[:100])} if code_files else {}
    if data or context.entry.data_version:
        found["data"] = hashlib.sha256(json.dumps([data, context.entry.data_version]).encode()).hexdigest()
    return found


def _short(context: Context, path: str) -> str:
    place = Path(path)
    return place.relative_to(context.zoo.folder).as_posix() if place.is_relative_to(context.zoo.folder) else path


def _missing(context: Context, result: RungResult, name: str) -> Evidence | None:
    """An object of the answer that the store has lost. From now on they are needed: retention goes by that."""
    objects = [*result.products.values(), *(item for check in result.checks for item in check.evidence)]
    rested = context.store.rested(f"runs/{RECORDS}/{name}")
    context.store.touch_run_file(RECORDS, name)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda item: context.store.has(item, use=rested > 86400), objects))
    return next((item for item, there in zip(objects, found, strict=True) if not there), None)


@cache
def code() -> str:
    """sha256 of our own code that an answer depends on."""
    root = Path(qatladder.__file__).parent
    digest = hashlib.sha256()
    for name in _CODE:
        for path in sorted((root / name).rglob("*")) if (root / name).is_dir() else [root / name]:
            if path.suffix in (".py", ".toml", ".json", ".j2"):
                digest.update(f"{path.relative_to(root)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def installed(environment: Environment, work: Path) -> str:
    """sha256 of an environment: its description, and all that is installed there; asked once per process.

    Raises:
        BrokenError: it cannot be asked.
    """
    answer = ask_once(environment, "qatladder.runner.probe:probe", work)
    return hashlib.sha256(f"{environment!r} {answer.environment['sha256']} {answer.value['contents']}".encode()).hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
