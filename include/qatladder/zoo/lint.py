"""Finds what is wrong with zoo entries before the night does: schema, files, adapter, shapes, boards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from qatladder.errors import QATLadderError
from qatladder.runner.client import run_job
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Entry

WHICH = ("float", "calib", "qat", "onnx")


def lint_entry(zoo: Zoo, entry: Entry) -> list[str]:
    """Every problem of one entry, one line each. Runs the adapter on one sample in the model's environment."""
    problems = []
    for which in WHICH:
        path = zoo.artifact(entry, which)
        if path is not None and not path.exists():
            problems.append(f"artifacts.{which}: {path} does not exist")
    if entry.artifacts.onnx is None:
        problems.append("artifacts.onnx: is empty, so the int, hbm and board rungs have nothing to convert")
    if entry.artifacts.calib is None and entry.artifacts.qat is None:
        problems.append("artifacts: neither calib nor qat, so nothing is quantised")
    try:
        with tempfile.TemporaryDirectory(prefix="qatladder-lint-") as folder:
            problems += _run_adapter(zoo, entry, Path(folder))
    except QATLadderError as error:
        problems.append(f"adapter: {' '.join(str(error).split())}")
    return problems


def _run_adapter(zoo: Zoo, entry: Entry, folder: Path) -> list[str]:
    environment = zoo.environment(entry)
    adapter = {"adapter": zoo.adapter(entry), "options": entry.adapter_options}
    exported = run_job(
        environment,
        "qatladder.runner.evaluate:export_samples",
        {**adapter, "split": "evaluation", "limit": 1, "out": str(folder / "raw")},
        folder / "export",
    ).value
    tensors = run_job(
        environment,
        "qatladder.runner.evaluate:preprocess",
        {**adapter, "inputs": exported["inputs"], "out": str(folder / "tensors")},
        folder / "pre",
    ).value["tensors"]
    problems = []
    for spec in entry.inputs:
        if spec.name not in exported["inputs"] or spec.name not in tensors:
            problems.append(f"inputs.{spec.name}: the adapter has no such input; it has {', '.join(exported['inputs'])}")
            continue
        raw = np.load(exported["inputs"][spec.name])
        if spec.is_image and (raw.dtype != np.uint8 or raw.shape[1:] != (*spec.height_width, 3)):
            problems.append(
                f"inputs.{spec.name}: samples are {raw.dtype} {list(raw.shape[1:])}, an image is uint8 {[*spec.height_width, 3]}"
            )
        tensor = np.load(tensors[spec.name])
        if tensor.dtype != np.float32 or tensor.shape != spec.shape:
            problems.append(
                f"inputs.{spec.name}: preprocess gives {tensor.dtype} {list(tensor.shape)}, the entry declares float32 {list(spec.shape)}"
            )
    return problems
