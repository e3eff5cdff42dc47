"""The golden model: one small model per march whose integers are known. A board that gets them wrong may judge no other model.

A folder holds it, written whole or not at all (`qatladder.validation.golden` builds one; a fleet may name its own):

    golden.json       march, the files below with their sha256, the versions it was built with
    model.hbm
    input_<sample>_<input>.bin     the bytes a board is fed
    expected_<output>.npy          [samples, *valid shape], the integers of the int model, in the order of the hbm's axes
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qatladder.boards import hrt
from qatladder.boards.device import Board
from qatladder.errors import ArtifactError, BrokenError

Integers = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Golden:
    """A golden model, its files proven to be those that were written.

    Attributes:
        inputs: per sample one raw file per model input.
        expected: [samples, *valid shape] integers by output name, in output order.
        sha256: of the model file.
        versions: tool name to version, of the toolchain that built it.
    """

    march: str
    model: Path
    inputs: tuple[tuple[Path, ...], ...]
    expected: dict[str, Integers]
    sha256: str
    versions: dict[str, str]


@dataclass(frozen=True)
class GoldenResult:
    """A passed golden run: `samples` samples twice, every integer as expected, in `seconds`; `versions` as the board's runtime states them."""

    samples: int
    seconds: float
    sha256: str
    versions: dict[str, str]


def load(folder: Path) -> Golden:
    """Read a golden folder.

    Raises:
        ArtifactError: it is not whole, or a file is not the one that was written.
    """
    again = "build it again: qatladder fleet golden --rebuild; one of your own: correct `golden` in the fleet file"
    try:
        data: dict[str, Any] = json.loads((folder / "golden.json").read_text())
        for name, digest in data["sha256"].items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != digest:
                raise ArtifactError(
                    "a file of the golden model is not the one that was written",
                    again,
                    file=folder / name,
                    expected=f"sha256 {digest}",
                    found=f"sha256 {found}",
                )
        expected = {item["name"]: np.load(folder / item["file"]) for item in data["outputs"]}
        inputs = tuple(tuple(folder / name for name in sample) for sample in data["inputs"])
        listed = {data["model"], *(item["file"] for item in data["outputs"]), *(name for sample in data["inputs"] for name in sample)}
        if not inputs or not expected or any(len(array) != len(inputs) for array in expected.values()) or listed - set(data["sha256"]):
            raise ValueError("samples, outputs and sha256 do not belong together")
        return Golden(data["march"], folder / data["model"], inputs, expected, data["sha256"][data["model"]], data["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "the folder holds no whole golden model", again, file=folder, found=f"{type(error).__name__}: {error}"
        ) from error


def run(board: Board, golden: Golden) -> GoldenResult:
    """Run the golden model twice on a board and hold every integer against what is known.

    Raises:
        BrokenError: kind `nondeterministic` (the two runs differ) or `golden_mismatch` (they agree on wrong integers); names the first
            integer that differs. Also everything `Board.infer` raises.
    """
    started = time.monotonic()
    # A question of nobody's: one that was asked before in this run would be answered with the dumps of then.
    board = Board(board.spec, board.session, board.lock_timeout, log=board.log)
    with tempfile.TemporaryDirectory(prefix="qatladder-golden-") as scratch:
        info = board.model_info(golden.model)
        first, second = (_integers(board, golden, info, Path(scratch) / which) for which in ("first", "second"))
    where = {"board": board.spec.name, "model": f"golden {golden.march}, sha256 {golden.sha256[:12]}"}
    for name in golden.expected:
        if difference := first_difference(first[name], second[name]):
            raise BrokenError(
                "the board gives two answers to one question",
                "check its memory, power supply and temperature; it judges nothing until two golden runs agree",
                kind="nondeterministic",
                output=name,
                found=difference.format("the first run", "the second"),
                **where,
            )
    for name, expected in golden.expected.items():
        if difference := first_difference(expected, first[name]):
            raise BrokenError(
                "the board computes other integers than the golden model's",
                "compare its driver, hbrt and libdnn versions with a board that passes; it judges nothing until the golden model passes",
                kind="golden_mismatch",
                output=name,
                found=difference.format("expected", "found"),
                **where,
            )
    return GoldenResult(len(golden.inputs), round(time.monotonic() - started, 2), golden.sha256, info.versions)


def first_difference(expected: Integers, found: Integers) -> str:
    """Where two arrays part, as `12 of 640 differ, first [0, 3, 1]: {} 5, {} 7`; empty when they are equal, type and shape included."""
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return f"{{}} {expected.dtype} {list(expected.shape)}, {{}} {found.dtype} {list(found.shape)}"
    apart = np.argwhere(expected != found)
    if not len(apart):
        return ""
    index = tuple(apart[0])
    return f"{len(apart)} of {expected.size} differ, first {[int(item) for item in index]}: {{}} {expected[index]}, {{}} {found[index]}"


def _integers(board: Board, golden: Golden, info: hrt.ModelInfo, folder: Path) -> dict[str, Integers]:
    chosen = _outputs(golden, info)
    dumps = board.infer(golden.model, golden.inputs, folder, info=info)
    found = {}
    for position, (name, expected) in zip(chosen, golden.expected.items(), strict=True):
        array = np.stack([hrt.read_dump(files[position], info.outputs[position]) for files in dumps])
        same = [size for size in array.shape if size != 1] == [size for size in expected.shape if size != 1]
        found[name] = array.reshape(expected.shape) if same else array  # a batch axis of 1 more or less is no other tensor
    return found


def _outputs(golden: Golden, info: hrt.ModelInfo) -> list[int]:
    """Positions of the golden's outputs among the board's: by name, in order where the board's build prints no names."""
    names = [tensor.name for tensor in info.outputs]
    if sorted(names) == sorted(golden.expected):
        return [names.index(name) for name in golden.expected]
    if len(names) == len(golden.expected) and not any(names):
        return list(range(len(names)))
    raise BrokenError(
        "the board states other outputs than the golden model has",
        kind="golden_mismatch",
        model=info.name,
        expected=", ".join(golden.expected),
        found=", ".join(names),
    )
