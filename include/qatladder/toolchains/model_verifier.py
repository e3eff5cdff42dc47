"""Drives the vendor's `hbdk-model-verifier` (J5, X3) and reads what it computed; its own verdict and its exit code are not believed.

It runs a traced int model and an hbm on one sample and writes what the hbm gave, dequantised, as text:

    <local work path>/<a folder of its own>/simulator_output/hbdk_output<i>_feature_<name>_torch_native_elem_float.txt
                                            bpu_output/...      (with --ip, unless --skip-bpu)

each with header lines and then one value per element in the order of the torch tensor. As documented, an input is a .jpg or .png (decoded,
never resized), a .yuv (then `--yuv-shape` states its size), or for ddr inputs a .bin of int8 or int16 NHWC values, or a .txt that
numpy.loadtxt reads. The integers are told from the text by the output's scale, and only where the text is fine enough to tell them.

Runs in the user's environment: Python 3.8, numpy. The tool is not published: what is not documented (`--version`) is only a help.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError
from qatladder.toolchains import hmct_tools

TOOL = "hbdk-model-verifier"
IMAGES = (".jpg", ".jpeg", ".png", ".yuv")
TENSORS = (".bin", ".txt")
HEADER_LINES = 3
"""Of a dump whose header is not marked with `#`."""


def arguments(
    hbm: Path,
    model_pt: Path,
    inputs: Sequence[Path],
    work: Path,
    *,
    ip: str = "",
    model_name: str = "",
    yuv_shape: Sequence[int] | None = None,
    image_stride: int = 0,
    times: int = 1,
    skip_bpu: bool = False,
) -> list[str]:
    """The command line.

    Args:
        inputs: one file per input of the model, in its order.
        work: the tool's `--local-work-path`.
        ip: of a board; empty to use the simulator alone.
        yuv_shape: (height, width) of the .yuv files.
        image_stride: bytes per row of a .yuv; 0 for its width.
        times: runs on the board.
        skip_bpu: leave the board out although `ip` is given.
    Raises:
        ArtifactError: a file is of no kind the tool reads, or a .yuv comes without its size.
    """
    for path in inputs:
        if path.suffix.lower() not in IMAGES + TENSORS:
            raise ArtifactError(
                "hbdk-model-verifier does not read such a file",
                "pictures as jpg, png or yuv; tensors as bin or txt",
                file=path,
                expected=" ".join(IMAGES + TENSORS),
            )
        if "," in str(path):
            raise ArtifactError("hbdk-model-verifier separates inputs by commas", "move the file to a path without one", file=path)
        if path.suffix.lower() == ".yuv" and not yuv_shape:
            raise ArtifactError("a yuv file does not state its size", "give yuv_shape", file=path)
    command = [TOOL, "--hbm", str(hbm), "--model-pt", str(model_pt), "--model-input", ",".join(map(str, inputs))]
    command += ["--local-work-path", str(work)]
    if ip:
        command += ["--ip", ip]
    if model_name:
        command += ["--model-name", model_name]
    if yuv_shape:
        command += ["--yuv-shape", "{}x{}".format(*yuv_shape)]
    if image_stride:
        command += ["--image-stride", str(image_stride)]
    if times != 1:
        command += ["--times", str(times)]
    if skip_bpu or not ip:
        command += ["--skip-bpu"]
    return command


def verify(
    hbm: str, model_pt: str, samples: list[list[str]], outputs: list[dict[str, Any]], folder: str, options: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Run the tool on samples, one call each.

    Args:
        samples: per sample one file per input.
        outputs: {"raw_name", "raw_dtype", "shape", "scale", "axis"} of the int model's outputs, in order.
        options: further arguments of `arguments`.
    Returns:
        {"version": as the tool states it, "dumps": {"simulator_output" | "bpu_output": {raw_name: [N, ...] .npy of integers}},
        "said": lines with a failure or an error the tool printed, "codes": exit codes, "log": console}; None: the environment has no such tool.
    Raises:
        BrokenError: the tool wrote no result, not all of it, or text too coarse to tell integers from.
    """
    if shutil.which(TOOL) is None:
        return None
    place = Path(folder)
    given = dict(options or {})
    version = _version(hmct_tools.run_tool([TOOL, "--version"], place))
    dumps: dict[str, dict[str, list[np.ndarray]]] = {}
    said: list[str] = []
    codes: list[int] = []
    consoles: list[str] = []
    log = place / "hbdk-model-verifier.log"
    for index, files in enumerate(samples):
        work = place / f"verifier_{index}"
        shutil.rmtree(str(work), ignore_errors=True)  # nothing an earlier call left is taken for this one's
        work.mkdir()
        run = hmct_tools.run_tool(arguments(Path(hbm), Path(model_pt), [Path(file) for file in files], work, **given), work)
        consoles.append(f"$ {run.command}\n{run.console}")
        log.write_text("\n".join(consoles), encoding="utf-8")
        codes.append(run.code)
        said += [line.strip() for line in run.console.splitlines() if re.search(r"\b(?:fail(?:ed|ure)?|error|mismatch\w*)\b", line, re.I)]
        for kind in expected_kinds(given):
            for output, array in zip(outputs, read_outputs(work, kind, outputs, run)):
                dumps.setdefault(kind, {}).setdefault(output["raw_name"], []).append(array)
        print(f"hbdk-model-verifier: {index + 1} of {len(samples)} samples, exit code {run.code}")
    written: dict[str, dict[str, str]] = {}
    for kind, arrays in dumps.items():
        for number, (name, parts) in enumerate(arrays.items()):
            path = place / f"{kind}_{number}.npy"
            np.save(str(path), np.concatenate(parts))
            written.setdefault(kind, {})[name] = str(path)
    return {"version": version, "dumps": written, "said": said, "codes": codes, "log": str(log)}


def _version(run: hmct_tools.ToolRun) -> str:
    """What a tool answers to --version: a line that is the version alone, or names the tool before it; empty when it says neither."""
    for line in run.console.splitlines() if run.code == 0 else ():
        found = re.match(r"(?:{}\b[^\d]*|version:? *)?v?(\d+(?:\.\d+){{2,}})\s*$".format(TOOL), line.strip(), re.IGNORECASE)
        if found:
            return found.group(1)
    return ""


def expected_kinds(options: dict[str, Any]) -> list[str]:
    """Which folders a call with these options must leave."""
    return ["simulator_output"] + (["bpu_output"] if options.get("ip") and not options.get("skip_bpu") else [])


def read_outputs(work: Path, kind: str, outputs: list[dict[str, Any]], run: hmct_tools.ToolRun) -> list[np.ndarray]:
    """The integers of one sample, [1, ...] per output, from the folder `kind` the tool left under `work`."""
    folders = sorted(path for path in work.rglob(kind) if path.is_dir())
    if len(folders) != 1:
        raise BrokenError(
            "hbdk-model-verifier left no result" if not folders else "hbdk-model-verifier left several results",
            "read its console in the log",
            kind="dump_missing",
            console=run.tail(),
            expected=kind,
            found=", ".join(str(path.relative_to(work)) for path in folders) or f"exit code {run.code}",
        )
    arrays = []
    for index, output in enumerate(outputs):
        files = sorted(folders[0].glob(f"hbdk_output{index}_feature_*_torch_native_elem_float.txt"))
        if len(files) != 1:
            raise BrokenError(
                "hbdk-model-verifier left no dump of an output",
                "read its console in the log",
                kind="dump_missing",
                console=run.tail(),
                output=output["raw_name"],
                folder=folders[0],
            )
        arrays.append(integers_of(files[0], output))
    return arrays


def _resolution(lines: Sequence[str]) -> float:
    """The unit of the last place of a text with a fixed number of decimals (`%f`); 0.0 of any other, which keeps significant digits."""
    tokens = [token for line in lines for token in re.split(r"[\s,]+", line) if token]
    places = {len(token.partition(".")[2]) if re.match(r"-?\d+\.\d+$", token) else 0 for token in tokens}
    return 10.0 ** -places.pop() if len(places) == 1 and 0 not in places else 0.0


def integers_of(file: Path, output: dict[str, Any]) -> np.ndarray:
    """[1, ...] integers of an output from its text of dequantised values.

    Raises:
        BrokenError: another number of values than the output has, something that is no number, or text too coarse for the scale.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    marked = [line for line in lines if not line.lstrip().startswith("#")]
    body = marked if len(marked) < len(lines) else lines[HEADER_LINES:]
    shape = tuple(output["shape"])
    try:
        values = np.array(" ".join(body).replace(",", " ").split(), np.float64)
    except ValueError as error:
        raise BrokenError(f"a dump of hbdk-model-verifier is no text of numbers: {error}", kind="dump", file=file) from None
    if values.size != int(np.prod(shape)) or not np.isfinite(values).all():
        raise BrokenError(
            "a dump of hbdk-model-verifier does not hold the output",
            "was it cut, or does the hbm belong to another model?",
            kind="dump_truncated",
            file=file,
            expected=f"{int(np.prod(shape))} finite values, {list(shape)}",
            found=f"{values.size} values",
        )
    finest = _resolution(body)
    values = values.reshape(shape)
    scale = np.asarray(output["scale"], np.float64)
    if scale.size > 1:
        broad = [1] * values.ndim
        broad[output["axis"] % values.ndim] = scale.size
        scale = scale.reshape(broad)
    steps = values / scale
    integers = np.rint(steps)
    off = float(np.abs(steps - integers).max(initial=0))
    if off > 0.25 or finest > float(scale.min()) / 2:
        raise BrokenError(
            "a dump of hbdk-model-verifier is too coarse to tell the integers, or is of another scale",
            "compare its scale with the int model's",
            kind="dump",
            file=file,
            expected="multiples of the scale",
            found=f"{off:.2f} of a step away",
        )
    limits = np.iinfo(output["raw_dtype"])
    if integers.min(initial=0) < limits.min or integers.max(initial=0) > limits.max:
        raise BrokenError("a dump of hbdk-model-verifier exceeds the output's type", kind="dump", file=file, expected=output["raw_dtype"])
    return integers.astype(output["raw_dtype"])
