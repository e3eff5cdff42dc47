"""What becomes of the BPU's integers on the CPU: dequantised, and through whatever operators the int model has behind that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qatladder.ladder import RungResult
from qatladder.numerics.tensor import dequantize
from qatladder.validation.context import Context
from qatladder.validation.features import restore


def dequantised(built: RungResult, integers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[N, ...] integers by output name, in the axis order of the int model or the hbm, to float32 in the shapes of the outputs."""
    values = {}
    for item in built.facts["int_model"]["outputs"]:
        array = integers[item["name"]]
        array = restore(array, (len(array), *item["raw_shape"][1:]))
        values[item["name"]] = dequantize(array, item["scale"], item["axis"]).reshape(len(array), *item["shape"][1:])
    return values


def outputs(context: Context, built: RungResult, integers: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The model's outputs, as the adapter's postprocess takes them.

    Args:
        built: the int rung's result.
        integers: [N, ...] by output name, in the axis order of the int model or the hbm.
        name: of the job's folder.
    """
    items = built.facts["int_model"]["outputs"]
    if not any(item.get("tail") for item in items):
        return dequantised(built, integers)
    folder = context.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for index, item in enumerate(items):
        array = integers[item["name"]]
        files[item["raw_name"]] = folder / f"raw_{index}.npy"
        np.save(files[item["raw_name"]], restore(array, (len(array), *item["raw_shape"][1:])))
    finished = context.toolchain.finish(context.fetch(built, "int"), files, folder, context.log)
    return {output: np.load(path) for output, path in finished.items()}
