"""`hrt_model_exec {model_info,infer,perf} --flags` on the virtual board. The console is that of the X5 tool.

    python -m qatladder.boards.virtual.hrt MARCH ARGUMENTS...

MARCH is the board's; a model compiled for another one is refused. Exit code 0, or 1 with a line that says `failed`.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards.virtual.hrt import flags as gflags
from qatladder.boards.virtual.hrt import hbm, model
from qatladder.boards.virtual.hrt.hbm import CANNOT_OPEN_FILE, INVALID_ARGUMENT, INVALID_MODEL, ToolError
from qatladder.boards.virtual.hrt.model import Model, Tensor

LINE = "-" * 69


def main(argv: Sequence[str]) -> int:
    march, arguments = argv[0], argv[1:]
    try:
        positional, flags = gflags.parse(arguments)
    except gflags.FlagError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    if flags["version"]:
        print(f"hrt_model_exec {_tool_version()} (virtual board, march {march}, on hbdk-sim with HBRT {hbm.simulator_version()})")
        return 0
    commands = {"model_info": _model_info, "infer": _infer, "perf": _perf}
    command = commands.get(positional[0] if positional else "")
    if command is None or flags["help"]:
        print("Usage:\nhrt_model_exec [model_info|infer|perf] [Option...] [Parameter]\n")
        print("\n".join(f"--{name}" for name in gflags.DEFAULTS))
        return 0 if flags["help"] else 1
    try:
        command(_load(flags, march), flags)
    except ToolError as error:
        sys.stdout.flush()
        print(error.console, end="", file=sys.stderr)
        print(f"[E][HRT_MODEL_EXEC] {error}, error code: {error.code}", file=sys.stderr)
        return 1
    return 0


def _tool_version() -> str:
    text = (Path(sysconfig.get_paths()["purelib"]) / "horizon_tc_ui" / "version.py").read_text()
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match.group(1) if match else "unknown"


def _load(flags: dict[str, Any], march: str) -> list[Model]:
    """The models asked for, with the lines a runtime prints while it loads them."""
    if not flags["model_file"]:
        raise ToolError("model_file is empty, parse flags failed", INVALID_ARGUMENT)
    runtime, started = hbm.simulator_version(), time.perf_counter()
    print(f"[HBRT] set log level as 0. version = {runtime}")
    print(f"[DNN] Runtime version = {_tool_version()}_({runtime.rsplit('.', 1)[0]} HBRT)")
    found: list[Model] = []
    for path in flags["model_file"].split(","):
        found += model.load(Path(path))
    for item in found:
        if item.builder:
            print(f"[HorizonRT] The model builder version = {item.builder}")
        for part in item.hbms:
            if part.march != march:
                raise ToolError(
                    f"load model failed, model {item.name} is compiled for march {part.march}, the BPU is {march}", INVALID_MODEL
                )
            if part.runtime_version != runtime:
                print(
                    f"[W][DNN] Model: {item.name}. Inconsistency between the hbrt library version {runtime} and the model build "
                    f"version {part.runtime_version} detected"
                )
    print(f"Load model to DDR cost {(time.perf_counter() - started) * 1e3:.3f}ms.")
    return found


def _chosen(models: list[Model], flags: dict[str, Any]) -> Model:
    found = [item for item in models if not flags["model_name"] or item.name == flags["model_name"]]
    if len(found) != 1:
        names = ", ".join(item.name for item in models)
        raise ToolError(f"get model handle failed, model_name must be one of: {names}", INVALID_ARGUMENT)
    return found[0]


# --- model_info ----------------------------------------------------------------------------------------------------------------


def _model_info(models: list[Model], flags: dict[str, Any]) -> None:
    if flags["model_name"]:
        models = [_chosen(models, flags)]
    print(f"This model file has {len(models)} model{'s' if len(models) > 1 else ''}:")
    for item in models:
        print(f"[{item.name}]")
    for item in models:
        print(f"{LINE}\n[model name]: {item.name}\n")
        for side, tensors in (("input", item.inputs), ("output", item.outputs)):
            for index, tensor in enumerate(tensors):
                print(f"{side}[{index}]: \n" + "\n".join(_describe(tensor)) + "\n")
    print(LINE)


def _describe(tensor: Tensor) -> list[str]:
    lines = [f"name: {tensor.name}"]
    if tensor.source:
        lines.append(f"input source: HB_DNN_INPUT_FROM_{tensor.source.upper()}")
    lines += [
        f"valid shape: {_tuple(tensor.valid)}",
        f"aligned shape: {_tuple(tensor.aligned)}",
        f"aligned byte size: {tensor.size}",
        f"tensor type: HB_DNN_{tensor.type}",
        f"tensor layout: HB_DNN_LAYOUT_{tensor.layout}",
        f"quanti type: {tensor.quanti}",
        f"stride: {_tuple(tensor.stride)}",
    ]
    if tensor.quanti == "SCALE":
        lines.append("scale data: " + "".join(f"{value:.9g}," for value in tensor.scale))
        lines.append(f"quantizeAxis: {tensor.axis}")
    if tensor.quanti == "SHIFT":
        lines.append("shift data: " + "".join(f"{value}," for value in tensor.shift))
    return lines


def _tuple(values: Sequence[int]) -> str:
    return "(" + "".join(f"{value}," for value in values) + ")"


# --- infer ---------------------------------------------------------------------------------------------------------------------


def _infer(models: list[Model], flags: dict[str, Any]) -> None:
    item = _chosen(models, flags)
    if any(tensor.source == "resizer" for tensor in item.inputs):
        raise ToolError("infer failed, resizer inputs are not supported by the virtual board", INVALID_ARGUMENT)
    if flags["roi_infer"]:
        raise ToolError("infer failed, roi_infer is set but the model has no resizer input", INVALID_ARGUMENT)
    if flags["dump_format"] not in ("bin", "txt"):
        raise ToolError("parse flags failed, dump_format only supports [bin, txt]", INVALID_ARGUMENT)
    if flags["dump_intermediate"]:
        print("[W][HRT_MODEL_EXEC] dump_intermediate is ignored: the simulator keeps no intermediate tensors")
    files = [path for path in flags["input_file"].split(",") if path]
    if len(files) != len(item.inputs):
        raise ToolError(f"read file failed, the model has {len(item.inputs)} inputs, input_file names {len(files)}", INVALID_ARGUMENT)
    buffers = [_read_input(path, tensor) for path, tensor in zip(files, item.inputs, strict=True)]
    folder = Path(flags["dump_path"])
    if flags["enable_dump"] and not folder.is_dir():
        raise ToolError(f"dump_path {folder} does not exist, dump failed", CANNOT_OPEN_FILE)
    outputs: list[bytes] = []
    for frame in range(1 if flags["frame_count"] is None else max(1, flags["frame_count"])):
        started = time.perf_counter()
        outputs = item.run(buffers)
        print(f"\n---------------------Frame {frame} begin---------------------")
        print(f"Infer time: {(time.perf_counter() - started) * 1e3:.3f} ms")
        print(f"---------------------Frame {frame} end---------------------\n")
    if flags["enable_dump"]:
        for side, tensors, data in (("input", item.inputs, buffers), ("output", item.outputs, outputs)):
            for index, (tensor, buffer) in enumerate(zip(tensors, data, strict=True)):
                print(f"Dump path: {_dump(folder, side, index, tensor, buffer, flags)}")


def _read_input(path: str, tensor: Tensor) -> bytes:
    """The bytes of an input buffer from a `.bin` (raw) or `.txt` (numbers) file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ToolError(f"read file {path} failed: {error.strerror}", CANNOT_OPEN_FILE) from error
    suffix = path.rpartition(".")[2].lower()
    if suffix in ("jpg", "jpeg", "png"):
        raise ToolError(f"read file {path} failed, the virtual board takes raw .bin or .txt inputs, no pictures", INVALID_ARGUMENT)
    if suffix == "txt":
        numbers = np.array(data.decode().replace(",", " ").split(), dtype=np.float64)
        data = numbers.astype(tensor.dtype).tobytes()
    print(f"read file {path} length: {len(data)}")
    if len(data) != tensor.size:
        raise ToolError(
            f"input file {path} size {len(data)} is not equal to {tensor.size} of input {tensor.name}, read file failed", INVALID_ARGUMENT
        )
    return data


def _dump(folder: Path, side: str, index: int, tensor: Tensor, data: bytes, flags: dict[str, Any]) -> Path:
    path = folder / f"model_infer_{side}_{index}_{tensor.name.replace('/', '_')}.{flags['dump_format']}"
    floats = flags["hybrid_dequantize_process"] and side == "output" and tensor.quanti != "NONE"
    if flags["dump_format"] == "bin":
        path.write_bytes(np.ascontiguousarray(tensor.dequantized(data)).tobytes() if floats else data)
        return path
    if floats:
        values, shape = tensor.dequantized(data), tensor.valid
    else:
        # Raw text dumps hold the buffer, padding included, as the binary ones do.
        values = np.frombuffer(data, tensor.dtype)
        shape = tensor.aligned if values.size == np.prod(tensor.aligned) else (values.size,)
    per_line = int(np.prod(shape[flags["dump_txt_axis"] :])) if flags["dump_txt_axis"] < len(shape) else 1
    form = f"%.{flags['dump_precision']}f" if values.dtype.kind == "f" else "%d"
    np.savetxt(path, np.ascontiguousarray(values).reshape(-1, per_line), fmt=form)
    return path


# --- perf ----------------------------------------------------------------------------------------------------------------------


def _perf(models: list[Model], flags: dict[str, Any]) -> None:
    item = _chosen(models, flags)
    frames, threads = flags["frame_count"] or 200, min(max(1, flags["thread_num"]), 8)
    latency = fps = 0.0
    for part in item.hbms:
        summary = part.estimate()
        fps = float(summary["FPS"])
        latency += 1e3 * float(summary.get("frame per run", 1)) / fps
    fps = 1e3 / latency if len(item.hbms) > 1 else fps
    print(
        "[W][HRT_MODEL_EXEC] virtual board: the figures below are the compiler's estimate (hbdk-perf) of the BPU part, not a measurement;"
    )
    print(
        f"[W][HRT_MODEL_EXEC] one frame at a time whatever thread_num is, without CPU operators ({', '.join(item.cpu_operators) or 'none'})"
    )
    print(
        f"Frame count: {frames},  Thread Average: {latency:.6f} ms,  thread max latency: {latency:.6f} ms,  "
        f"thread min latency: {latency:.6f} ms,  FPS: {fps:.6f}\n"
    )
    print(f"Running condition:\n  Thread number is: {threads}\n  Frame count   is: {frames}\n  Program run time: {frames * latency:.6f} ms")
    print(f"Perf result:\n  Frame totally latency is: {frames * latency:.6f} ms\n  Average    latency    is: {latency:.6f} ms")
    print(f"  Frame      rate       is: {fps:.6f} FPS")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
