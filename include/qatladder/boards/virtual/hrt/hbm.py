"""An hbm on the vendor's simulator: what features has it, how are they laid out in memory, what does it compute?

Layout is read from hbdk-disas, never derived. One trap, seen with hbdk 3.49.15: for a feature in NCHW order the tool lists
`real stride` in another order than `valid dim` and `aligned dim` (stride (s0, s3, s1, s2) for dims (d0, d1, d2, d3)). The
memory is dense over the aligned dims in either case, which is checked here against every number the tool states.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BIN = Path(sysconfig.get_paths()["purelib"]) / "hbdk" / "bin"
MARCHES = {"BERNOULLI2": "bernoulli2", "BAYES": "bayes", "B25E": "bayes-e"}
Array = npt.NDArray[Any]


class ToolError(Exception):
    """What the runtime of a board would report: a line for the console and one of libdnn's error codes."""

    def __init__(self, message: str, code: int, console: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.console = console


INVALID_ARGUMENT, INVALID_MODEL, CANNOT_OPEN_FILE, INFER_FAILED = -6000001, -6000002, -6000006, -6000009


@dataclass(frozen=True)
class Feature:
    """One input or output of an hbm; all tuples have one item per axis, outermost first.

    Attributes:
        dtype: of one element, little endian.
        valid, aligned: shapes without and with padding.
        stride: bytes between neighbours along each axis of `aligned`.
        size: bytes of the padded feature.
        source: pyramid, resizer or ddr; empty for an output.
        layout: NHWC or NCHW.
        shift, scale: quantisation the hbm itself records; one of them or none.
    """

    name: str
    dtype: np.dtype[Any]
    valid: tuple[int, ...]
    aligned: tuple[int, ...]
    stride: tuple[int, ...]
    size: int
    source: str
    layout: str
    shift: tuple[int, ...]
    scale: tuple[float, ...]

    @property
    def is_image(self) -> bool:
        return self.source in ("pyramid", "resizer")

    def pack(self, array: Array) -> bytes:
        """Valid array to the padded bytes of a board's memory; padding is zero."""
        buffer = bytearray(self.size)
        np.ndarray(self.valid, self.dtype, buffer, 0, self.stride)[...] = array
        return bytes(buffer)

    def unpack(self, data: bytes) -> Array:
        """Padded bytes to the valid array; what is in the padding does not matter."""
        return np.ndarray(self.valid, self.dtype, data, 0, self.stride)


@dataclass(frozen=True)
class Hbm:
    """One model inside an hbm file."""

    path: Path
    name: str
    march: str
    runtime_version: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]

    def simulate(self, inputs: Sequence[Array | bytes]) -> list[Array]:
        """Run the model once.

        Args:
            inputs: per feature a valid integer array (ddr), or the raw bytes of the picture (pyramid).
        Returns:
            Per output its integers in valid shape.
        Raises:
            ToolError: the simulator refused the model or the input; its console is attached.
        """
        with tempfile.TemporaryDirectory(prefix="hrt-") as scratch:
            files, sizes = [], []
            for index, (feature, data) in enumerate(zip(self.inputs, inputs, strict=True)):
                if isinstance(data, bytes):
                    # A gray picture is `.y` to the simulator, NV12 `.yuv`; it takes height x width of the picture.
                    path = Path(scratch) / f"{index}.{'y' if feature.valid[3] == 1 else 'yuv'}"
                    path.write_bytes(data)
                    sizes.append(f"{feature.valid[1]}x{feature.valid[2]}")
                else:
                    path = Path(scratch) / f"{index}.bin"
                    np.ascontiguousarray(data, dtype=feature.dtype).tofile(path)
                    sizes.append("")
                files.append(str(path))
            out = Path(scratch) / "out"
            out.mkdir()
            argv = [str(BIN / "hbdk-sim"), "-f", str(self.path), "-n", self.name, "-i", ",".join(files), "-o", str(out)]
            if any(sizes):
                argv += ["--yuv-size", ",".join(sizes)]
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode:
                raise _refused(done, "infer", INFER_FAILED)
            return [_read_output(out, index, feature) for index, feature in enumerate(self.outputs)]

    def estimate(self) -> dict[str, Any]:
        """The compiler's own performance estimate: the `summary` of hbdk-perf."""
        with tempfile.TemporaryDirectory(prefix="hrt-") as scratch:
            done = subprocess.run([str(BIN / "hbdk-perf"), str(self.path), "-o", scratch], capture_output=True, text=True)
            report = Path(scratch) / f"{self.name}.json"
            if done.returncode or not report.is_file():
                raise _refused(done, "performance analysis", INVALID_MODEL)
            summary: dict[str, Any] = json.loads(report.read_text())["summary"]
            return summary


def load(path: Path) -> list[Hbm]:
    """The models of an hbm file.

    Raises:
        ToolError: the file is missing or no hbm.
    """
    if not path.is_file():
        raise ToolError(f"open file {path} failed", CANNOT_OPEN_FILE)
    handle, listing = tempfile.mkstemp(prefix="hrt-", suffix=".json")
    os.close(handle)
    try:
        done = subprocess.run([str(BIN / "hbdk-disas"), str(path), "--json", "-o", listing], capture_output=True, text=True)
        if done.returncode:
            raise _refused(done, "load model", INVALID_MODEL)
        models = json.loads(Path(listing).read_text())
    except ValueError as error:
        raise ToolError(f"load model failed, {path} is not an hbm", INVALID_MODEL) from error
    finally:
        Path(listing).unlink()
    return [
        Hbm(
            path=path,
            name=model["model name"],
            march=MARCHES.get(model["march"], model["march"]),
            runtime_version=_runtime(model["hbdk-cc version"]),
            inputs=tuple(_feature(item) for item in model["input features"]),
            outputs=tuple(_feature(item) for item in model["output features"]),
        )
        for model in models
    ]


def simulator_version() -> str:
    """Version of the runtime inside the simulator, e.g. 3.15.55.0."""
    done = subprocess.run([str(BIN / "hbdk-sim"), "--version"], capture_output=True, text=True)
    return _runtime(done.stdout + done.stderr)


def _runtime(text: str) -> str:
    match = re.search(r"runtime version: ([\d.]+)", text)
    return match.group(1) if match else "unknown"


def _feature(item: dict[str, Any]) -> Feature:
    dtype = np.dtype(item["element type name"]).newbyteorder(">" if item.get("big endian") else "<")
    valid, aligned, stated = tuple(item["valid dim"]), tuple(item["aligned dim"]), tuple(item["real stride"])
    stride = tuple(dtype.itemsize * math.prod(aligned[axis + 1 :]) for axis in range(len(aligned)))
    as_nchw = (stride[0], stride[3], stride[1], stride[2]) if len(stride) == 4 else stride
    if (
        item["layout type name"] != "NHWC_NATIVE"
        or stated not in (stride, as_nchw)
        or stride[0] * aligned[0] != item["occupied memory size"]
    ):
        raise ToolError(
            f"memory layout {item['layout type name']} of feature {item['feature name']} (aligned {aligned}, stride {stated}) is not supported",
            INVALID_MODEL,
        )
    return Feature(
        name=item["feature name"],
        dtype=dtype,
        valid=valid,
        aligned=aligned,
        stride=stride,
        size=item["occupied memory size"],
        source=str(item.get("input source", "")).lower(),
        layout="NHWC" if stated == stride else "NCHW",
        shift=tuple(item.get("shift values", ())) if item.get("is quantized by shift") else (),
        scale=tuple(item.get("scale values", ())) if item.get("is quantized by scale") else (),
    )


def _read_output(folder: Path, index: int, feature: Feature) -> Array:
    files = list(folder.glob(f"hbdk_output{index}_feature_*_elem_int.txt"))
    if len(files) != 1:
        raise ToolError(f"infer failed, the simulator wrote no output {index}", INFER_FAILED)
    with files[0].open() as stream:
        for _ in range(4):  # operator, shift, valid_dim, dynamic_n
            stream.readline()
        values = np.fromstring(stream.read(), dtype=np.int64, sep=" ")
    if values.size != math.prod(feature.valid):
        raise ToolError(
            f"infer failed, the simulator wrote {values.size} of {math.prod(feature.valid)} values of output {index}", INFER_FAILED
        )
    return values.reshape(feature.valid).astype(feature.dtype)


def _refused(done: subprocess.CompletedProcess[str], what: str, code: int) -> ToolError:
    console = done.stdout + done.stderr
    reasons = [line.strip() for line in console.splitlines() if line.strip().startswith("hbrtError")]
    reason = f" ({reasons[0].split()[0]})" if reasons else ""
    return ToolError(f"{what} failed{reason}, simulator return code {done.returncode}", code, console)
