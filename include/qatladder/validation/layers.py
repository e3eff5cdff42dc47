"""Where do int model and compiled model part? Every layer's integers, in the order of computation.

The worst layer is not the root: a difference grows on its way. The first layer that differs is what to look at.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from qatladder.errors import QATLadderError
from qatladder.ladder import RungResult
from qatladder.validation.ask import Answer
from qatladder.validation.context import Context
from qatladder.validation.features import restore


@dataclass(frozen=True)
class Layer:
    """How one layer's integers differ between the int model and the simulator.

    Attributes:
        name: of the tensor; `operator` makes it.
        differing: integers that differ, of `size`.
        max_abs: largest difference.
    """

    name: str
    operator: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    differing: int
    max_abs: int


def compare_layers(context: Context, built: RungResult, hbm: Path, files: dict[str, list[Path]], sample: int) -> list[Layer]:
    """One compared sample through every layer.

    Args:
        built: the int rung's result.
        files: per hbm input feature one raw file per compared sample.
        sample: which of them.
    """
    folder = context.folder / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for index, spec in enumerate(context.entry.inputs):
        tensors[spec.name] = folder / f"fed_{index}.npy"
        np.save(tensors[spec.name], np.load(context.fetch(built, f"fed/{spec.name}"), mmap_mode="r")[sample : sample + 1])
    dumps = context.toolchain.layers(
        context.fetch(built, "int"),
        hbm,
        context.fetch(built, "hbir"),
        {name: paths[sample] for name, paths in files.items()},
        tensors,
        folder,
        context.log,
    )
    rows = []
    for dump in dumps:
        expected = np.load(dump.expected)
        found = restore(np.load(dump.found), expected.shape)
        gap = np.abs(expected.astype(np.int64) - found)
        rows.append(
            Layer(
                dump.name,
                dump.operator,
                str(expected.dtype),
                tuple(expected.shape),
                int(gap.size),
                int(np.count_nonzero(gap)),
                int(gap.max(initial=0)),
            )
        )
    return rows


def with_layers(context: Context, answer: Answer, built: RungResult, hbm: Path, files: dict[str, list[Path]], sample: int) -> Answer:
    """An answer of hbm.bit_exact with the layers behind it; when they cannot be had, the answer alone, and the log says why."""
    try:
        rows = compare_layers(context, built, hbm, files, sample)
    except QATLadderError as error:
        context.log(f"the layers cannot be compared: {error}")
        return answer
    if not rows:
        return answer
    context.facts["layers"] = {"sample": sample, "layers": [asdict(row) for row in rows]}
    evidence = context.store.put_bytes(_csv(rows), "layers.csv")
    differing = [row for row in rows if row.differing]
    first = differing[0] if differing else None
    text = (
        f"first layer that differs: {first.name} ({first.operator}), {first.differing} of {first.size} integers, then "
        f"{len(differing) - 1} of the {len(rows) - 1 - rows.index(first)} behind it"
        if first
        else f"all {len(rows)} layers are equal on sample {sample}"
    )
    context.log(text)
    return replace(
        answer,
        reason="; ".join(part for part in (answer.reason, text if not answer.passed else "") if part),
        values={**answer.values, "first_layer": first.name if first else "", "layers": len(rows), "layers_differing": len(differing)},
        evidence=[*answer.evidence, evidence],
    )


def _csv(rows: list[Layer]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tensor", "operator", "dtype", "shape", "integers", "differing", "max_abs"])
    for row in rows:
        writer.writerow([row.name, row.operator, row.dtype, "x".join(map(str, row.shape)), row.size, row.differing, row.max_abs])
    return text.getvalue().encode()
