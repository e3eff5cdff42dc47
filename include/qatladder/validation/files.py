"""Compares two files that should hold the same tensors: whatever form each is in, one verdict per tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatladder.errors import ConfigError
from qatladder.numerics.dumps import Dump, read_archive, read_tensor
from qatladder.numerics.judgement import Judgement, judge, judge_text
from qatladder.numerics.tensor import TensorContract
from qatladder.validation.contracts import choose, load_contracts

Array = NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """One pair of tensors and what was found.

    Attributes:
        name: of the tensor in an archive; empty for files that hold one.
        sides: what each file holds, in words.
    """

    name: str
    judged: Judgement
    expected: Array
    found: Array
    sides: tuple[str, str]


def compare_files(
    expected: Path,
    found: Path,
    contract_file: Path | None = None,
    tensor: str = "",
    dtype: str = "",
    shape: tuple[int, ...] = (),
    layout: str = "",
) -> list[Compared]:
    """Compare two files of the same or of different forms (.npy, .npz, raw bytes, text dumps).

    Args:
        contract_file: what states dtype, shape, padding and scale of the dumps; see `load_contracts`.
        tensor: which of its tensors; or the key in an .npz.
        dtype, shape: of raw bytes and texts, where no contract is given. What is not given is taken from the other file.
        layout: NCHW or NHWC: where the channels are.
    Raises:
        ConfigError, ArtifactError: a file cannot be read as what it should be.
    """
    archives = [path.suffix == ".npz" for path in (expected, found)]
    if any(archives):
        return _archives(expected, found, archives, tensor, _channel_axis(layout))
    contract = choose(load_contracts(contract_file), tensor, [found, expected]) if contract_file else None
    left, right = _both(expected, found, contract, dtype, shape)
    axis = _channel_axis(layout or (contract.layout if contract else ""))
    step = contract.scale[0] if contract and len(contract.scale) == 1 else 0.0
    return [_judged("", left, right, axis, step)]


def _both(expected: Path, found: Path, contract: TensorContract | None, dtype: str, shape: tuple[int, ...]) -> tuple[Dump, Dump]:
    """Read both; a file that does not say what it holds is read as the other one's type and shape."""
    if contract is not None:
        left, right = (read_tensor(path, _for(path, contract), finite=False, unterminated=True) for path in (expected, found))
        return left, right
    dumps: dict[Path, Dump] = {}
    for path in sorted((expected, found), key=lambda item: item.suffix != ".npy"):
        other = next(iter(dumps.values()), None)
        if path.suffix == ".npy":
            dumps[path] = read_tensor(path, finite=False)
            continue
        dumps[path] = read_tensor(
            path,
            dtype=dtype or (other.array.dtype.name if other else ""),
            shape=shape or (tuple(other.array.shape) if other else ()),
            finite=False,  # a NaN is an answer, not a file that cannot be read
            unterminated=True,  # digits that were cut off the last number are a difference
        )
    return dumps[expected], dumps[found]


def _for(path: Path, contract: TensorContract) -> TensorContract | None:
    """An .npy says itself what it holds, and may hold the dequantised values."""
    return None if path.suffix == ".npy" else contract


def _archives(expected: Path, found: Path, archives: list[bool], key: str, axis: int | None) -> list[Compared]:
    sides = []
    for path, archive in zip((expected, found), archives, strict=True):
        arrays = read_archive(path) if archive else {key: read_tensor(path, finite=False).array}
        if key and archive:
            if key not in arrays:
                raise ConfigError("the archive holds no such tensor", file=path, expected=" | ".join(arrays), found=key)
            arrays = {key: arrays[key]}
        sides.append(arrays)
    if not all(archives):
        alone = next(arrays for arrays, archive in zip(sides, archives, strict=True) if archive)
        if len(alone) != 1:
            raise ConfigError(
                "the archive holds several tensors", expected=" | ".join(alone), found="one file", next_step="name one with --tensor"
            )
        name = next(iter(alone))
        sides = [{name: next(iter(arrays.values()))} for arrays in sides]
    if sides[0].keys() != sides[1].keys():
        raise ConfigError(
            "the archives hold different tensors",
            file=found,
            expected=", ".join(sorted(sides[0])),
            found=", ".join(sorted(sides[1])),
            next_step="name one with --tensor",
        )
    return [_judged(name, Dump(array, expected), Dump(sides[1][name], found), axis, 0.0) for name, array in sides[0].items()]


def _judged(name: str, left: Dump, right: Dump, axis: int | None, step: float) -> Compared:
    a, b = left.array, right.array
    if axis is not None and (axis >= a.ndim or a.ndim < 3):
        axis = None
    judged: Judgement
    texts = [dump for dump in (left, right) if dump.text is not None and not dump.text.integer]
    if texts and b.dtype.kind == "f" and a.shape == b.shape:
        # The text is what limits the claim; where both are texts, the one of fewer digits.
        weak = min(texts, key=lambda dump: dump.text.digits if dump.text else 0)
        assert weak.text is not None and weak.numbers is not None
        judged = judge_text(a if weak is right else b, weak.array, weak.numbers, weak.text, name, axis, step)
    else:
        judged = judge(a, b, name, axis, step)
    return Compared(name, judged, a, b, (_described(left), _described(right)))


def _described(dump: Dump) -> str:
    text = f", text of {dump.text.digits} significant digits" if dump.text and not dump.text.integer else ", text" if dump.text else ""
    cut = ", no separator behind its last number" if dump.text and not dump.text.complete else ""
    return f"{dump.path}  {dump.array.dtype} {list(dump.array.shape)}{text}{cut}{', padding taken off' if dump.padded else ''}"


def _channel_axis(layout: str) -> int | None:
    return {"NCHW": 1, "NHWC": 3}.get(layout)


def worst(results: list[Compared]) -> Compared:
    """The first that failed, else the first that is unprovable, else the first."""
    order = {"failed": 0, "unprovable": 1, "passed": 2}
    return min(results, key=lambda item: order[item.judged.status])


def as_dtype(name: str) -> str:
    """A dtype as numpy calls it.

    Raises:
        ConfigError: no number type of that name.
    """
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise ConfigError("no such dtype", expected="int8 | uint8 | int16 | int32 | float16 | float32 ...", found=name)
    return dtype.name
