"""What is not as it was when the result was good: every hash and version that a rung's answer rests on, held against the baseline's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qatladder.ladder import Rung, RungResult

ENTERS: Mapping[str, tuple[Rung, str]] = {
    "weights float": (Rung.FLOAT, "the float model was trained or exported anew"),
    "adapter code": (Rung.FLOAT, "pre-processing, post-processing or metric may do something else"),
    "dataset": (Rung.FLOAT, "the adapter read other files, or yielded other samples"),
    "environment": (Rung.FLOAT, "other packages in the model's environment"),
    "entry": (Rung.FLOAT, "another input declaration, option or gate"),
    "qatladder": (Rung.FLOAT, "this product was upgraded"),
    "weights calib": (Rung.CALIB, "the model was calibrated anew"),
    "weights qat": (Rung.QAT, "QAT was trained anew"),
    "exported model": (Rung.INT, "the exported model is another one"),
    "calibration set": (Rung.INT, "the toolchain calibrated on other samples"),
    "toolchain": (Rung.INT, "other versions convert, compile and simulate"),
    "given hbm": (Rung.HBM, "the compiled model that was handed in is another one"),
    "board software": (Rung.BOARD, "another hrt_model_exec, libdnn, hbrt or system on the board"),
    "board": (Rung.BOARD, "another board"),
    "on-board program": (Rung.BOARD, "the program on the board is another one"),
}
"""By what may change: the lowest rung it acts on, and what it means."""

_ARTIFACTS = {
    "float": "weights float",
    "calib": "weights calib",
    "qat": "weights qat",
    "onnx": "exported model",
    "int": "exported model",
    "hbm": "given hbm",
}


def determinants_of(rung: RungResult) -> dict[str, str]:
    """What a rung's answer rests on, by the names of `ENTERS` (the tools and packages one by one): hash or version."""
    facts, found = rung.facts, {}
    for role, digest in (facts.get("artifacts") or {}).items():
        found[f"{_ARTIFACTS.get(role, role)}"] = str(digest)
    known = facts.get("determinants") or {}
    for name, digest in (known.get("adapter_code") or ({"adapter": known["adapter"]} if "adapter" in known else {})).items():
        found[f"adapter code: {name}"] = str(digest)
    for name, key in (("entry", "entry"), ("qatladder", "qatladder"), ("dataset: files", "data")):
        if known.get(key):
            found[name] = str(known[key])
    if facts.get("samples_sha256"):
        found["dataset: samples"] = str(facts["samples_sha256"])
    if facts.get("calibration_sha256"):
        found["calibration set"] = str(facts["calibration_sha256"])
    for name, environment in (facts.get("environments") or {}).items():
        for package, version in environment.items():
            if package not in ("sha256", "executable"):
                found[f"environment: {name}: {package}"] = str(version)
        if "sha256" in environment:
            found[f"environment: {name}: all packages"] = str(environment["sha256"])
    versions = facts.get("versions") or {}
    installed = versions.get("installed")
    for tool, version in (installed if isinstance(installed, dict) else versions).items():
        if isinstance(version, str):
            found[f"toolchain: {tool}"] = version
    for name, version in ((facts.get("health") or {}).get("versions") or {}).items():
        found[f"board software: {name}"] = str(version)
    if facts.get("board"):
        found["board"] = str(facts["board"])
    for name, digest in (facts.get("onboard_files") or {}).items():
        found[f"on-board program: {name}"] = str(digest)
    return found


def suspects(before: Mapping[Rung, RungResult], now: Sequence[RungResult], moved: Rung) -> list[dict[str, str]]:
    """What has changed since the baseline and can explain it, most probable first.

    What enters the ladder at the rung that moved first is more probable than what entered below it: the rungs below it did not move.

    Args:
        moved: the first rung that became worse.
    Returns:
        `what`, `was`, `now` (hash or version; empty where there was none), `why`.
    """
    order = list(Rung)
    found: dict[str, dict[str, Any]] = {}
    for rung in now:
        if order.index(rung.rung) > order.index(moved) or rung.rung not in before:
            continue
        old, new = determinants_of(before[rung.rung]), determinants_of(rung)
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) == new.get(name) or name in found:
                continue
            kind = name.split(": ")[0]
            enters, why = ENTERS.get(kind, (rung.rung, "changed"))
            distance = max(0, order.index(moved) - order.index(enters))
            item = {"what": name, "was": old.get(name, ""), "now": new.get(name, ""), "why": why}
            found[name] = {"distance": distance, "item": item}
    ranked = sorted(found.values(), key=lambda entry: (entry["distance"], _weight(entry["item"]["what"])))
    return [entry["item"] for entry in ranked]


def _weight(name: str) -> tuple[int, str]:
    """Of what enters at one rung: weights and code before data before packages before what changes on its own."""
    kinds = [
        "weights",
        "exported",
        "toolchain",
        "adapter",
        "calibration",
        "dataset",
        "board software",
        "given",
        "on-board",
        "board",
        "entry",
    ]
    place = next((index for index, kind in enumerate(kinds) if name.startswith(kind)), len(kinds))
    return place, name
