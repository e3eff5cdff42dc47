"""Does the store hold this very conversion already? Then nothing is compiled again.

A conversion is keyed by everything that determines it: the source model and the calibration samples by content, the inputs, the
target's options, the toolchain with its versions and its own code. Its products are objects of the store, verified when they are read;
the record that lists them is written last. What is carried over is never merely believed: hbm.compile proves again that the hbm
comes from exactly this int model.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from qatladder import toolchains
from qatladder.errors import BrokenError
from qatladder.evidence.store import sha256_file
from qatladder.ladder import Evidence
from qatladder.toolchains.base import Conversion, IntInput, IntModel, IntOutput
from qatladder.validation.context import Context, external_data

RECORDS = "conversions"
"""Where the store keeps the records, as files of a run of that name."""

_NOT_OF_THE_MODEL = {"name", "boards", "perf", "onboard"}
"""Fields of a target that the toolchain never sees."""


@dataclass(frozen=True)
class Origin:
    """Where a conversion comes from.

    Attributes:
        key: sha256 of all that determines it.
        run_id: the run that converted; None when this one just did.
        time: when that was, UTC.
    """

    key: str
    run_id: str | None
    time: str

    def __str__(self) -> str:
        if self.run_id is None:
            return "converted in this run"
        return f"not converted again: unchanged since {self.run_id} ({self.time}; key {self.key[:12]})"


def convert(
    context: Context, model: Path, hbm: Path | None = None, calibration: dict[str, Path] | None = None
) -> tuple[Conversion, Origin]:
    """`Toolchain.convert`, unless the store holds its answer; `force` of the ladder converts in any case.

    Raises:
        ToolchainError, BrokenError: as `Toolchain.convert`.
    """
    key = _key(context, model, hbm, calibration or {})
    if not context.ladder.get("force") and (found := _carried_over(context, key)) is not None:
        return found
    folder = context.folder / "convert"
    conversion = context.toolchain.convert(context.entry, context.target, model, folder, context.log, hbm=hbm, calibration=calibration)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {
        "conversion": 1,
        "run_id": context.run_id,
        "time": now,
        "products": {role: asdict(context.store.put(path)) for role, path in conversion.products.items()},
        "identity": conversion.identity,
        "versions": conversion.versions,
        "model": asdict(conversion.model),
    }
    context.store.write_run_file(RECORDS, f"{key}.json", json.dumps(record, indent=1).encode())
    return conversion, Origin(key, None, now)


def _carried_over(context: Context, key: str) -> tuple[Conversion, Origin] | None:
    """The recorded conversion with its products as local files, None when there is none that is whole."""
    try:
        record = json.loads(context.store.read_run_file(RECORDS, f"{key}.json"))
    except FileNotFoundError:
        return None
    products = {}
    for role, item in record["products"].items():
        evidence = Evidence(**item)
        try:
            products[role] = context.store.fetch(evidence, context.folder / "carried" / role / evidence.name)
        except BrokenError as error:
            context.log(f"the store's {role} of {record['run_id']} cannot be used, so it is converted again: {error.message}")
            context.store.discard(evidence)
            return None
    origin = Origin(key, record["run_id"], record["time"])
    context.store.touch_run_file(RECORDS, f"{key}.json")
    context.log(str(origin))
    return Conversion(products, record["identity"], record["versions"], _int_model(record["model"])), origin


def _key(context: Context, model: Path, hbm: Path | None, calibration: dict[str, Path]) -> str:
    toolchain = context.toolchain
    determinants = {
        "model": context.entry.model,
        "source": sha256_file(model)[0],
        **({"beside": beside} if (beside := external_data(model)) else {}),
        "hbm": sha256_file(hbm)[0] if hbm else None,
        "calibration": {name: sha256_file(path)[0] for name, path in sorted(calibration.items())},
        "inputs": [spec.model_dump(mode="json") for spec in context.entry.inputs],
        "outputs": context.entry.outputs,
        "target": context.target.model_dump(mode="json", exclude=_NOT_OF_THE_MODEL),
        "toolchain": f"{type(toolchain).__module__}.{type(toolchain).__qualname__}",
        "versions": toolchain.versions(),
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> str:
    """sha256 of our own side of all toolchains."""
    folder = Path(toolchains.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _int_model(data: dict[str, Any]) -> IntModel:
    def made(kind: Any, item: dict[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(kind)}
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in item.items() if key in known})

    return IntModel(tuple(made(IntInput, item) for item in data["inputs"]), tuple(made(IntOutput, item) for item in data["outputs"]))
