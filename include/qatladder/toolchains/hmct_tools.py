"""Runs one vendor tool and reads what it wrote: consoles, the disassembler's JSON, the performance JSON, the simulator's text.

Nothing here trusts an exit code: hb_mapper and hbdk exit 0 with an error on the console and crash with a good file on disk.
Parsers take text and plain data, so that they are tested without the tools. Runs in the vendor environment and in a user's (Python 3.8).
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError, QATLadderError, ToolchainError
from qatladder.numerics.dumps import cast
from qatladder.numerics.text import parse_numbers

MARCH = {"BERNOULLI2": "bernoulli2", "BAYES": "bayes", "B25E": "bayes-e"}
"""Name of a march inside an hbm, to the name in a zoo entry."""

_COLOUR = re.compile(r"\x1b?\[\d+m")
_LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (WARNING|ERROR|CRITICAL) (.*)$")
_OCCURRED = re.compile(r"\*\*\* ERROR-OCCUR-DURING \{([^}]*)\} \*\*\*,? *error message: *(.*)", re.DOTALL)
_CORRUPT = re.compile(
    r"hbrtError(?:IllegalHBM\w*|HBMCRC32VerifyFail|IncompatibleVersion)|hbm file format invalid|Recognize march from hbm failed"
    r"|crc32 = \w+, should be \w+|Only HBM is supported|is specified as hbm, but it seems not|not compatible with the hbrt version"
)
_NO_MEMORY = re.compile(r"\bbad_alloc\b|MemoryError\b|Cannot allocate memory")
_NO_DISK = re.compile(r"No space left|Disk quota exceeded")
_KILLS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


@dataclass(frozen=True)
class ToolRun:
    """A finished tool: exit code (negative: the signal that ended it) and its console, colours removed."""

    command: str
    code: int
    console: str

    @property
    def signal(self) -> str:
        """Name of the signal that ended the tool; empty when it exited."""
        number = -self.code if self.code < 0 else self.code - 128 if self.code > 128 else 0
        try:
            return signal.Signals(number).name if number else ""
        except ValueError:
            return ""

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.console.splitlines()[-lines:])


def run_tool(arguments: Sequence[str | Path], folder: Path, timeout: float = 1500.0, variables: dict[str, str] | None = None) -> ToolRun:
    """Run a vendor tool in `folder` and return its console, whatever its exit code.

    Raises:
        BrokenError: the tool is not installed (`tool_missing`), ran out of time (`timeout`), was killed (`killed`), or the disk is full.
    """
    command = [str(item) for item in arguments]
    if shutil.which(command[0]) is None:
        raise BrokenError("a vendor tool is not installed", "run `make setup`", kind="tool_missing", tool=command[0])
    try:
        finished = subprocess.run(
            ["env", *(f"{key}={value}" for key, value in (variables or {}).items()), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokenError(
            f"a vendor tool did not finish in {timeout:.0f} s and was ended",
            "try again on a less busy machine",
            kind="timeout",
            tool=command[0],
        ) from None
    console = _COLOUR.sub("", finished.stdout.decode("utf-8", "replace"))
    run = ToolRun(" ".join(command), finished.returncode, console)
    if -run.code in _KILLS or run.code - 128 in _KILLS:
        raise killed(command[0], run)
    if _NO_DISK.search(console):
        raise BrokenError("the disk is full", "free space in the data folder", kind="disk_full", console=run.tail(), tool=command[0])
    return run


def killed(tool: str, run: ToolRun, name: str = "") -> BrokenError:
    """The error of a tool that something else ended."""
    return BrokenError(
        f"a vendor tool was killed ({name or run.signal})",
        "usually the memory limit: give the task more memory, or run fewer at once",
        kind="killed",
        console=run.tail(),
        tool=tool,
    )


def crashed(tool: str, run: ToolRun, **where: object) -> BrokenError | None:
    """The error of a failed tool that a signal or want of memory ended, so that it judged nothing; None when it ended in its own way."""
    if _NO_MEMORY.search(run.console):
        return BrokenError(
            f"{tool} ran out of memory",
            "give the task more memory, or run fewer at once",
            kind="memory",
            console=run.tail(),
            tool=tool,
            **where,
        )
    if run.signal:
        return BrokenError(
            f"{tool} ended with {run.signal}",
            "read its console in the log, then run this rung again",
            kind="tool_crashed",
            console=run.tail(),
            tool=tool,
            last_line=_last_error(run),
            **where,
        )
    return None


def _last_error(run: ToolRun) -> str:
    return next((line for line in reversed(run.console.splitlines()) if "rror" in line), run.tail(1))


def console_problems(console: str) -> tuple[list[str], list[str]]:
    """(warnings, errors) of an hb_mapper console, in order, without time stamps; an error of several lines is joined."""
    warnings: list[str] = []
    errors: list[str] = []
    into: list[str] | None = None
    for line in console.splitlines():
        found = _LEVEL.match(line)
        if found:
            into = warnings if found.group(1) == "WARNING" else errors
            into.append(found.group(2).strip())
        elif re.match(r"^\d{4}-\d\d-\d\d ", line):
            into = None
        elif into is errors and line.strip():
            errors[-1] += "\n" + line.strip()
    return warnings, errors


def conversion_error(run: ToolRun, model: str) -> QATLadderError:
    """What went wrong in an hb_mapper run that did not convert."""
    _, errors = console_problems(run.console)
    signals = re.search(r"returncode -(\d+)", "\n".join(errors))
    if signals and int(signals.group(1)) in _KILLS:
        return killed("hbdk-cc", run, signal.Signals(int(signals.group(1))).name)
    died = crashed("hb_mapper", run, model=model)
    if died is not None and (died.kind == "memory" or run.signal == "SIGABRT"):
        return died
    if run.signal:
        return ToolchainError(
            f"hb_mapper crashed with {run.signal} on this model",
            "bisect: export the model up to its middle and convert that; the log shows the step that crashed",
            model=model,
            last_line=run.tail(1),
        )
    message = errors[-1] if errors else run.tail(3) or "nothing"
    where: dict[str, object] = {"model": model}
    found = _OCCURRED.search("\n".join(errors))
    if found:
        where["step"], message = found.group(1), found.group(2).strip()
    where["found"] = message.splitlines()[0] if message else "nothing"
    if len(message.splitlines()) > 1:
        where["detail"] = "\n".join(message.splitlines()[1:8])
    return ToolchainError(
        "hb_mapper did not convert the model", "read the last lines of its log; `hb_mapper checker` lists unsupported operators", **where
    )


def hbm_error(run: ToolRun, tool: str, hbm: Path) -> QATLadderError | None:
    """The error behind a run of an hbdk tool on an hbm; None when nothing is wrong with the run."""
    corrupt = _CORRUPT.search(run.console)
    if corrupt:
        return ArtifactError(
            "the hbm is corrupt or of another toolchain version",
            "convert again; if it comes from the store, its hash no longer holds",
            file=hbm,
            tool=tool,
            found=corrupt.group(0),
        )
    name = re.search(r'no model named "([^"]*)" in hbm\S*,? candidates are: *(.*)', run.console)
    if name:
        return ArtifactError(
            "the hbm holds no model of that name", "convert again", file=hbm, expected=name.group(1), found=name.group(2).strip()
        )
    size = re.search(r"[Ee]xpect (?:the )?file size.*", run.console)
    if size:
        return ArtifactError(
            "an input file has the wrong size for the hbm", "compare the input's shape with the compile report", found=size.group(0)
        )
    if run.code != 0:
        return crashed(tool, run, file=hbm) or BrokenError(
            f"{tool} ended with exit code {run.code}",
            "read its console in the log",
            kind="tool_failed",
            console=run.tail(),
            file=hbm,
            last_line=_last_error(run),
        )
    return None


def describe_hbm(models: list[dict[str, Any]], hbm: Path) -> dict[str, Any]:
    """The one model of an hbm, from the parsed `hbdk-disas --json`.

    Returns:
        {"name", "march", "core_num", "hbir_crc", "versions", "inputs", "outputs"}; a feature as `qatladder.numerics.tensor.TensorContract` has it.
    Raises:
        ToolchainError: several models, a march, type or stride this library does not know.
    """
    if len(models) != 1:
        raise ToolchainError(
            "the hbm does not hold exactly one model",
            "an operator in the middle of the network runs on the CPU; see the convert log",
            file=hbm,
            found=", ".join(model.get("model name", "?") for model in models) or "none",
        )
    model = models[0]
    march = MARCH.get(model["march"])
    if march is None:
        raise ToolchainError("the hbm is for a march this library does not know", "extend hmct_tools.MARCH", file=hbm, found=model["march"])
    compiler = dict(item.split(": ", 1) for item in model["hbdk-cc version"].split("; ") if ": " in item)
    return {
        "name": model["model name"],
        "march": march,
        "core_num": model["core num"],
        "hbir_crc": model["model file crc32"],
        "versions": {"hbdk": compiler.get("version", ""), "hbdk_runtime": compiler.get("runtime version", "")},
        "inputs": [_feature(item, hbm) for item in model["input features"]],
        "outputs": [_feature(item, hbm) for item in model["output features"]],
    }


def _feature(item: dict[str, Any], hbm: Path) -> dict[str, Any]:
    name, dtype = item["feature name"], item["element type name"]
    if dtype not in ("int8", "uint8", "int32"):
        raise ToolchainError(
            "the hbm has an input or output of a type that cannot be compared as int8 or int32",
            "only int8 models are supported (no int16, no float)",
            file=hbm,
            feature=name,
            found=dtype,
        )
    valid, aligned = _shapes(item, hbm)
    return {
        "name": name,
        "dtype": dtype,
        "valid_shape": valid,
        "aligned_shape": aligned,
        "stride": _stride(item, aligned, hbm),
        "byte_size": item["occupied memory size"],
        "source": item.get("input source", "").lower() if item.get("is model input") else "",
    }


def _shapes(item: dict[str, Any], hbm: Path) -> tuple[list[int], list[int]]:
    """(valid, aligned) shape in the rank of the int model's tensor.

    The disassembler states both in four dims; `real dim` is the tensor's own rank ([1,10] for dims [1,1,1,10]). Strides have its rank.
    """
    valid, aligned, real = item["valid dim"], item["aligned dim"], item["real dim"]
    if len(real) == len(valid):
        return list(valid), list(aligned)
    kept = [axis for axis in range(len(valid)) if (valid[axis], aligned[axis]) != (1, 1)]
    kept = sorted({*kept, *[axis for axis in range(len(valid)) if axis not in kept][: max(0, len(real) - len(kept))]})
    if [valid[axis] for axis in kept] != list(real):
        raise ToolchainError(
            "the shapes the disassembler states do not fit each other",
            "report this with the file",
            file=hbm,
            feature=item["feature name"],
            expected=real,
            found=valid,
        )
    return list(real), [aligned[axis] for axis in kept]


def _stride(item: dict[str, Any], aligned: list[int], hbm: Path) -> list[int]:
    """Bytes between neighbours along each axis of the valid shape.

    The disassembler lists a feature's dims as N,H,W,C. Its strides are in the same order for images and on bernoulli2, but as N,C,H,W
    for ddr features on bayes (seen on hbdk 3.49.15: aligned [1,8,16,64], strides [8192,1,1024,64]). Only one of the two orders packs the
    aligned tensor without gap or overlap.
    """
    stated = item["real stride"]
    orders = [stated, [stated[0], *stated[2:], stated[1]]] if len(stated) == 4 else [stated]
    for order in orders:
        if len(order) == len(aligned) and _packs(order, aligned, item["element type size"], item["occupied memory size"]):
            return list(order)
    raise ToolchainError(
        "the strides the disassembler states fit neither order of its axes",
        "report this with the file; until then the padding of this feature is unknown",
        file=hbm,
        feature=item["feature name"],
        expected=f"aligned {aligned} in {item['occupied memory size']} bytes",
        found=stated,
    )


def _packs(stride: list[int], aligned: list[int], size: int, total: int) -> bool:
    """True when these strides lay the aligned tensor out without gap or overlap; axes of size 1 may have any stride."""
    expected = size
    for step, length in sorted((step, length) for step, length in zip(stride, aligned) if length > 1):
        if step != expected:
            return False
        expected = step * length
    return expected <= total


def describe_performance(summary: dict[str, Any], size: int) -> dict[str, Any]:
    """The compiler's estimate, from the `summary` of hbdk-perf's JSON.

    Returns:
        {"latency_ms", "fps", "ddr_mb", "size_mb", "layers"}; a layer is {"layer", "ops", "output_shape", "aligned_shape", "compute_us",
        "load_store_us", "active"}, its times 0.0 where the compiler says "<1 us".
    """
    latency_us = float(summary["latency (us)"])
    rows = summary.get("layer details") or [[]]
    layers = []
    for row in rows[1:]:
        cells = dict(zip(rows[0], row))
        layers.append(
            {
                "layer": cells["layer"],
                "ops": int(cells["ops"].replace(",", "")),
                "output_shape": cells["original output shape"],
                "aligned_shape": cells["aligned output shape"],
                "compute_us": _cost(cells["computing cost (no DDR)"], latency_us),
                "load_store_us": _cost(cells["load/store cost"], latency_us),
                "active": cells["active period of time"],
            }
        )
    return {
        "latency_ms": round(latency_us / 1000, 6),
        "fps": float(summary["FPS"]),
        "ddr_mb": summary["DDR bytes per frame"] / 1e6,
        "size_mb": size / 1e6,
        "layers": layers,
    }


def _cost(text: str, latency_us: float) -> float:
    """Microseconds of a cell such as "3 us (20.7% of model)"; the share is the more precise of its two numbers."""
    share = re.search(r"\(([\d.]+)% of model\)", text)
    if share:
        return round(float(share.group(1)) / 100 * latency_us, 3)
    plain = re.match(r"([\d,.]+)( us| ms)?", text)
    if not plain:
        return 0.0
    return float(plain.group(1).replace(",", "")) * (1000 if plain.group(2) == " ms" else 1)


def read_simulated(file: Path, shape: Sequence[int], dtype: str) -> Any:
    """One `*_elem_int.txt` of hbdk-sim as an array.

    The file has `#` header lines, one of them `#valid_dim=1x6x16x32`, then the integers in the order of the valid shape.

    Raises:
        BrokenError: no file (`dump_missing`), or one that holds too few or too many values (`dump_truncated`).
        ToolchainError: the shape in the header is not the one the disassembler states, or a value does not fit the type.
    """
    if not file.is_file():
        raise BrokenError("the simulator wrote no output", "read its console in the log", kind="dump_missing", file=file)
    try:
        parsed = parse_numbers(file.read_bytes(), str(file))
    except ArtifactError as error:
        raise BrokenError(
            "the simulator's output is no list of integers",
            "run again; check the disk",
            kind="dump_truncated",
            file=file,
            reason=error.message,
            found=error.where.get("found", ""),
            line=error.where.get("line", ""),
        ) from None
    values, header = parsed.values, parsed.format.header
    stated = next((line.partition("=")[2].strip() for line in header if line.startswith("#valid_dim=")), "")
    if [size for size in stated.split("x") if size != "1"] != [str(size) for size in shape if size != 1]:  # four dims, also for [1, 10]
        raise ToolchainError(
            "the simulator's output has another shape than the disassembler states",
            "convert again",
            file=file,
            expected=list(shape),
            found=stated or list(header),
        )
    count = int(np.prod(shape, dtype=np.int64))
    if values.size != count or not parsed.format.integer:
        raise BrokenError(
            "the simulator's output is incomplete" if values.size != count else "the simulator's output is no list of integers",
            "run again; check the disk",
            kind="dump_truncated",
            file=file,
            expected=f"{count} integers",
            found=f"{values.size} {'integers' if parsed.format.integer else 'numbers'}",
        )
    try:
        array = cast(values, dtype, str(file))
    except ArtifactError as error:
        raise ToolchainError("the simulator's output does not fit its type", "convert again", **error.where) from None
    if not parsed.format.terminated:
        raise BrokenError(
            "the simulator's output ends within a number", "run again; check the disk", kind="dump_truncated", file=file, found=values[-1]
        )
    return array.reshape(shape)
