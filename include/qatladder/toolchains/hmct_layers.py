"""Every layer of a compiled model on the simulator, next to the int model's tensor of the same name.

The hbir the hbm was compiled from is compiled once more, with the same options and with each layer's output dumped; that the hbm
carries the CRC-32 of this hbir proves that it is the same network. Runs in the vendor environment (Python 3.10).
"""

from __future__ import annotations

import json
import shlex
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qatladder.errors import ArtifactError, BrokenError
from qatladder.toolchains import hbdk, hmct_graph, hmct_tools, hmct_vendor


def layers(int_model: str, hbm: str, hbir: str, inputs: dict[str, str], tensors: dict[str, str], folder: str) -> list[dict[str, Any]]:
    """Run one sample through both.

    Args:
        int_model, hbm, hbir: of one conversion, or of two that are to be told apart.
        inputs: the sample's raw file per input feature of the hbm.
        tensors: the same sample as the int model takes it, [1, ...] .npy per input.
    Returns:
        [{"name", "operator", "expected", "found"}] in the order of computation: tensor name, type of the operator that makes it, .npy of the
        int model's and of the simulator's integers, each [1, ...] in its own order of axes.
    Raises:
        ArtifactError: the hbm was not compiled from this hbir.
        BrokenError: a tool died.
    """
    work = Path(folder)
    file = Path(hbm)
    (described,) = hbdk.disassemble(file, work)
    if described["model file crc32"] != zlib.crc32(Path(hbir).read_bytes()):
        raise ArtifactError(
            "the hbm was not compiled from the hbir beside it, so its layers cannot be dumped",
            "convert again",
            file=file,
            expected=f"CRC-32 {described['model file crc32']:08x}",
            found=f"CRC-32 {zlib.crc32(Path(hbir).read_bytes()):08x}",
        )
    dumped = work / "layers.hbm"
    _compile(described["compiling options"], Path(hbir), dumped, _names(file, described["model name"], work), work)
    feature = hmct_tools.describe_hbm(hbdk.disassemble(dumped, work), dumped)
    place = work / "sample"
    place.mkdir()
    arrays = hbdk.simulate_one(dumped, feature, [inputs[item["name"]] for item in feature["inputs"]], place)
    found = {item["name"]: array for item, array in zip(feature["outputs"], arrays, strict=True)}

    model = onnx.load(int_model)
    order = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    operators = {name: node.op_type for node in model.graph.node for name in node.output}
    known = sorted((name for name in found if name in order), key=order.__getitem__)
    answered = hmct_vendor.run_model(
        hmct_graph.with_outputs(model, known), {name: np.load(path) for name, path in tensors.items()}, 1, known, work
    )
    rows = []
    for index, name in enumerate(known):
        path = work / f"found_{index}.npy"
        np.save(path, found[name])
        rows.append({"name": name, "operator": operators[name], "expected": answered[name], "found": str(path)})
    return rows


def _names(hbm: Path, model: str, work: Path) -> list[str]:
    """The compiler's own names of the layers, as hbdk-perf lists them."""
    run = hmct_tools.run_tool(["hbdk-perf", hbm, "-o", work], work)
    report = work / f"{model}.json"
    error = hmct_tools.hbm_error(run, "hbdk-perf", hbm)
    if error is not None or not report.is_file():
        raise error or BrokenError("hbdk-perf wrote no report", "read its console", kind="dump_missing", console=run.tail(), file=report)
    rows = json.loads(report.read_text(encoding="utf-8"))["summary"].get("layer details") or [[]]
    return [row[0] for row in rows[1:]]


def _compile(options: str, hbir: Path, hbm: Path, names: list[str], work: Path) -> None:
    """Compile as before, each layer dumped."""
    arguments: list[str] = []
    words = iter(shlex.split(options))
    for word in words:
        if word in ("-m", "--model", "-o", "--output", "--dump-layer-output", "--cache"):
            next(words, None)
        else:
            arguments.append(word)
    run = hmct_tools.run_tool(["hbdk-cc", *arguments, "-m", hbir, "-o", hbm, "--dump-layer-output", ",".join(names)], work)
    (work / "hbdk-cc.log").write_text(run.console, encoding="utf-8")
    if run.code != 0 or not hbm.is_file():
        raise hmct_tools.crashed("hbdk-cc", run, file=hbir) or BrokenError(
            "hbdk-cc did not compile the model with its layers dumped",
            "read its console in the log",
            kind="tool_failed",
            console=run.tail(),
            file=hbir,
        )
