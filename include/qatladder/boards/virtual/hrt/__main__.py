"""`hrt_model_exec {model_info,infer,perf} --flags` on the virtual board, in the dialect of its board.

    python -m qatladder.boards.virtual.hrt MARCH [DIALECT] ARGUMENTS...

MARCH is the board's; a model compiled for another one is refused. DIALECT (default x5) decides which flags there are, what the consoles
look like, how dumps are called and, for j6 and s100, that an NV12 picture is two inputs, Y and UV. Exit code 0, or 1 with a line that
says `failed`.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards.dialects import DIALECTS, Dialect
from qatladder.boards.virtual.hrt import flags as gflags
from qatladder.boards.virtual.hrt import hbm, model
from qatladder.boards.virtual.hrt.hbm import CANNOT_OPEN_FILE, INVALID_ARGUMENT, INVALID_MODEL, ToolError
from qatladder.boards.virtual.hrt.model import Model, Tensor

LINE = "-" * 69


def main(argv: Sequence[str]) -> int:
    march, *arguments = argv
    name = arguments.pop(0) if arguments and arguments[0] in DIALECTS else "x5"
    dialect = DIALECTS[name]
    try:
        positional, flags = gflags.parse(arguments, name)
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
        print("\n".join(f"--{flag}" for flag in gflags.known(name)))
        return 0 if flags["help"] else 1
    try:
        command(_load(flags, march, dialect), flags, dialect)
    except ToolError as error:
        sys.stdout.flush()
        print(error.console, end="", file=sys.stderr)
        print(f"[E][HRT_MODEL_EXEC] {error}, error code: {error.code}", file=sys.stderr)
        return 1
    if not dialect.states_memory:
        print(_log(dialect, "main.cpp:410", "hbDNNRelease success!"))
    return 0


def _log(dialect: Dialect, where: str, text: str) -> str:
    """A line as the tool's logger writes it."""
    if dialect.split_nv12:
        return f"[I][{os.getpid()}]{time.strftime('[%m-%d][%H:%M:%S:000]')}[{where}][hrt_model_exec][HRT_MODEL_EXEC] {text}"
    return text if dialect.states_memory else f"I{time.strftime('%m%d %H:%M:%S')}.000000 {os.getpid()} {where}] {text}"


def _tool_version() -> str:
    text = (Path(sysconfig.get_paths()["purelib"]) / "horizon_tc_ui" / "version.py").read_text()
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match.group(1) if match else "unknown"


def _load(flags: dict[str, Any], march: str, dialect: Dialect) -> list[Model]:
    """The models asked for, with the lines a runtime prints while it loads them."""
    if not flags["model_file"]:
        raise ToolError("model_file is empty, parse flags failed", INVALID_ARGUMENT)
    runtime, started = hbm.simulator_version(), time.perf_counter()
    library = f"{_tool_version()}_({runtime.rsplit('.', 1)[0]} HBRT)"
    if dialect.split_nv12:
        print(f"[UCP]: log level = 3\n[UCP]: UCP version = {_tool_version()}\n[DNN]: {library}")
    else:
        print(f"[HBRT] set log level as 0. version = {runtime}")
        if dialect.states_memory:
            print(f"[DNN] Runtime version = {library}")
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
    if dialect.states_memory:
        print(f"Load model to DDR cost {(time.perf_counter() - started) * 1e3:.3f}ms.")
    return [_with_planes(item) for item in found] if dialect.split_nv12 else found


def _with_planes(item: Model) -> Model:
    """The model with two inputs, Y and UV, for each NV12 picture: their strides are the caller's to choose, here always dense."""
    inputs: list[Tensor] = []
    planes = [2 if tensor.type == "IMG_TYPE_NV12" else 1 for tensor in item.inputs]
    for tensor, count in zip(item.inputs, planes, strict=True):
        if count == 1:
            inputs.append(tensor)
            continue
        height, width = tensor.valid[2:]
        for plane, shape in (("y", (1, height, width, 1)), ("uv", (1, height // 2, width // 2, 2))):
            size = int(np.prod(shape))
            stride = (size, shape[2] * shape[3], shape[3], 1)
            inputs.append(Tensor(f"{tensor.name}_{plane}", tensor.source, shape, shape, stride, size, "TENSOR_TYPE_U8", tensor.dtype, ""))

    def run(buffers: Sequence[bytes]) -> list[bytes]:
        items = iter(buffers)
        return item.run([b"".join(next(items) for _ in range(count)) for count in planes])

    return replace(item, inputs=tuple(inputs), run=run)


def _chosen(models: list[Model], flags: dict[str, Any]) -> Model:
    found = [item for item in models if not flags["model_name"] or item.name == flags["model_name"]]
    if len(found) != 1:
        names = ", ".join(item.name for item in models)
        raise ToolError(f"get model handle failed, model_name must be one of: {names}", INVALID_ARGUMENT)
    return found[0]


# --- model_info ----------------------------------------------------------------------------------------------------------------


def _model_info(models: list[Model], flags: dict[str, Any], dialect: Dialect) -> None:
    if flags["model_name"]:
        models = [_chosen(models, flags)]
    print(f"This model file has {len(models)} model{'s' if len(models) > 1 else ''}:")
    for item in models:
        print(f"[{item.name}]")
    for item in models:
        print(f"{LINE}\n[model name]: {item.name}\n" + ("" if dialect.states_memory else "\nstage count: 1"))
        for side, tensors in (("input", item.inputs), ("output", item.outputs)):
            for index, tensor in enumerate(tensors):
                print(f"{side}[{index}]: \n" + "\n".join(_describe(tensor, dialect)) + "\n")
    print(LINE)


def _describe(tensor: Tensor, dialect: Dialect) -> list[str]:
    chosen = dialect.split_nv12 and tensor.source in ("pyramid", "resizer")
    scale = ",".join(f"{value:.9g}" for value in tensor.scale)
    lines = {
        "name": tensor.name,
        "input source": f"HB_DNN_INPUT_FROM_{tensor.source.upper()}" if tensor.source else "",
        "valid shape": _tuple(tensor.valid),
        "aligned shape": _tuple(tensor.aligned),
        "aligned byte size": "-1" if chosen else str(tensor.size),
        "tensor type": f"HB_DNN_{tensor.type}",
        "tensor layout": f"HB_DNN_LAYOUT_{tensor.layout}",
        "quanti type": tensor.quanti,
        "stride": _tuple((-1, -1, *tensor.stride[2:])) if chosen else _tuple(tensor.stride),
        "scale data": "" if tensor.quanti != "SCALE" else f"({scale})" if dialect.split_nv12 else f"{scale},",
        "quantizeAxis": str(tensor.axis) if tensor.quanti == "SCALE" else "",
        "shift data": "".join(f"{value}," for value in tensor.shift) if tensor.quanti == "SHIFT" else "",
    }
    hidden = {"input source", "aligned shape", "tensor layout"} if dialect.split_nv12 else set()
    if not dialect.states_memory:
        hidden = {"name", "input source", "aligned byte size", "stride"}
    said = [f"{key}: {value}" for key, value in lines.items() if value and key not in hidden]
    if not dialect.states_memory and tensor.source in ("pyramid", "resizer"):
        said.append(f"stage[0]: (0, 0, {tensor.valid[3] - 1}, {tensor.valid[2] - 1})")
    return said


def _tuple(values: Sequence[int]) -> str:
    return "(" + "".join(f"{value}," for value in values) + ")"


# --- infer ---------------------------------------------------------------------------------------------------------------------


def _infer(models: list[Model], flags: dict[str, Any], dialect: Dialect) -> None:
    item = _chosen(models, flags)
    if any(tensor.source == "resizer" for tensor in item.inputs):
        raise ToolError("infer failed, resizer inputs are not supported by the virtual board", INVALID_ARGUMENT)
    if flags["roi_infer"]:
        raise ToolError("infer failed, roi_infer is set but the model has no resizer input", INVALID_ARGUMENT)
    if flags["dump_format"] not in ("bin", "txt"):
        raise ToolError("parse flags failed, dump_format only supports [bin, txt]", INVALID_ARGUMENT)
    if flags["input_stride"] or flags["input_valid_shape"] or flags["input_img_properties"]:
        raise ToolError("parse flags failed, the virtual board takes dense raw inputs of the model's shape", INVALID_ARGUMENT)
    if flags["dump_intermediate"]:
        print("[W][HRT_MODEL_EXEC] dump_intermediate is ignored: the simulator keeps no intermediate tensors")
    files = [path for path in flags["input_file"].split(",") if path]
    if len(files) != len(item.inputs):
        raise ToolError(f"read file failed, the model has {len(item.inputs)} inputs, input_file names {len(files)}", INVALID_ARGUMENT)
    buffers = [_read_input(path, tensor, dialect) for path, tensor in zip(files, item.inputs, strict=True)]
    folder = Path(flags["dump_path"])
    if flags["enable_dump"] and not folder.is_dir():
        raise ToolError(f"dump_path {folder} does not exist, dump failed", CANNOT_OPEN_FILE)
    outputs: list[bytes] = []
    for frame in range(1 if flags["frame_count"] is None else max(1, flags["frame_count"])):
        started = time.perf_counter()
        outputs = item.run(buffers)
        begin, end = (f"{LINE[:21]}Frame {frame} {word}{LINE[:21]}" for word in ("begin", "end"))
        if not dialect.states_memory:
            begin = end = LINE[:41]
        print(f"\n{begin}\nInfer time: {(time.perf_counter() - started) * 1e3:.3f} ms\n{end}\n")
    if flags["enable_dump"]:
        for side, tensors, data in (("input", item.inputs, buffers), ("output", item.outputs, outputs)):
            for index, (tensor, buffer) in enumerate(zip(tensors, data, strict=True)):
                path = _dump(folder, side, index, tensor, buffer, flags, dialect)
                print(_log(dialect, "main.cpp:733", f"Dump path: {path}"))


def _read_input(path: str, tensor: Tensor, dialect: Dialect) -> bytes:
    """The bytes of an input buffer from a `.bin` (raw) or `.txt` (numbers) file; j6 and s100 also pad a file of the valid size."""
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
    length = f"read file {path} length: {len(data)}" if dialect.states_memory else f"file length: {len(data)}"
    print(_log(dialect, "file_util.cpp:128", length))
    valid_size = int(np.prod(tensor.valid)) * tensor.dtype.itemsize
    if dialect.split_nv12 and len(data) == valid_size != tensor.size:
        shapes = f"validShape: {_tuple(tensor.valid)}, stride: {_tuple(tensor.stride)}"
        print(_log(dialect, "file_util.cpp:155", f"Input [{path}] will padding, {shapes}"))
        buffer = bytearray(tensor.size)
        np.ndarray(tensor.valid, tensor.dtype, buffer, 0, tensor.stride)[...] = np.frombuffer(data, tensor.dtype).reshape(tensor.valid)
        return bytes(buffer)
    if len(data) != tensor.size:
        raise ToolError(
            f"input file {path} size {len(data)} is not equal to {tensor.size} of input {tensor.name}, read file failed", INVALID_ARGUMENT
        )
    return data


def _dump(folder: Path, side: str, index: int, tensor: Tensor, data: bytes, flags: dict[str, Any], dialect: Dialect) -> Path:
    name = f"_{tensor.name.replace('/', '_')}" if dialect.named_dumps else ""
    path = folder / f"model_infer_{side}_{index}{name}.{flags['dump_format']}"
    floats = (flags["hybrid_dequantize_process"] or flags["dequantize_process"]) and side == "output" and tensor.quanti != "NONE"
    valid = floats or (flags["remove_padding_process"] and any(tensor.stride))
    if valid:
        values, shape = np.ascontiguousarray(tensor.dequantized(data) if floats else tensor.read(data)), tensor.valid
    else:
        # Raw dumps, text ones too, hold the buffer, padding included.
        values = np.frombuffer(data, tensor.dtype)
        shape = tensor.aligned if values.size == np.prod(tensor.aligned) else (values.size,)
    if flags["dump_format"] == "bin":
        path.write_bytes(values.tobytes())
        return path
    per_line = int(np.prod(shape[flags["dump_txt_axis"] :])) if flags["dump_txt_axis"] < len(shape) else 1
    form = f"%.{flags['dump_precision']}f" if values.dtype.kind == "f" else "%d"
    np.savetxt(path, np.ascontiguousarray(values).reshape(-1, per_line), fmt=form)
    return path


# --- perf ----------------------------------------------------------------------------------------------------------------------


def _perf(models: list[Model], flags: dict[str, Any], dialect: Dialect) -> None:
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
        f"thread min latency: {latency:.6f} ms" + (f",  FPS: {fps:.6f}\n" if dialect.states_memory else "\n")
    )
    print(f"Running condition:\n  Thread number is: {threads}\n  Frame count   is: {frames}\n  Program run time: {frames * latency:.6f} ms")
    print(f"Perf result:\n  Frame totally latency is: {frames * latency:.6f} ms\n  Average    latency    is: {latency:.6f} ms")
    print(f"  Frame      rate       is: {fps:.6f} FPS")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
