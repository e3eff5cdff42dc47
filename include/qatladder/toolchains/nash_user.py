"""The part of the nash toolchain (J6, S100) that runs in the user's own OpenExplorer: hb_compile, hb_verifier and hbdk4, Python 3.10.

The vendor publishes none of these packages. What is used of them is what the vendor's public pages state: `hb_compile -c` and its YAML
(the S100 OpenExplorer 3.5.0 guide), `hbdk4.compiler.load`, `Hbm` and `feed` and the options of hb_verifier (github.com/HorizonRobotics/OE-Skills),
and `hmct.api.ORTExecutor` (the vendor's page on x86 inference). docs/toolchain-nash.md lists what has no published source.

Called through `qatladder.runner`; plain data in and out, tensors as .npy.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import hb_verifier, hmct_tools

PACKAGES = ("hbdk4-compiler", "horizon-tc-ui", "hmct")
DIGITS = 5
"""Decimals hb_verifier compares: its default."""

_LOG = "hb_compile.log"
_CONFIG = "hb_compile.yaml"


def versions() -> dict[str, str]:
    """Versions of the tools in this environment; importing the compiler proves that it works."""
    import hbdk4.compiler  # type: ignore[import-not-found]  # noqa: F401

    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise BrokenError(
                "the environment lacks a package of OpenExplorer for J6 and S100",
                "install the wheels of your OpenExplorer into it",
                kind="tool_missing",
                tool=name,
            ) from None
    return found


def convert(
    model: str,
    onnx_file: str,
    folder: str,
    inputs: list[dict[str, Any]],
    target: dict[str, Any],
    calibration: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Convert an exported QDQ ONNX, or calibrate and convert a float one, with hb_compile.

    Args:
        model: the entry's model name; names the products.
        onnx_file, folder: absolute paths.
        inputs: the entry's inputs as `InputSpec` has them.
        target: march, options and `ptq` as `Target` has them.
        calibration: [N, ...] float32 .npy per input of a `ptq` target; see `qatladder.toolchains.base`.
    Returns:
        {"products": {role: path}, "identity": sha256 of the .bc, "inputs", "outputs": see `describe`}
    Raises:
        ToolchainError: hb_compile refuses the model, or built something else than was asked.
    """
    work = Path(folder)
    name = re.sub(r"\W", "_", model)
    check_inputs(inputs)
    if target["ptq"] is not None:
        write_calibration(calibration or {}, inputs, work / "calibration")
    shutil.copyfile(onnx_file, work / "model.onnx")
    (work / _CONFIG).write_text(configuration(name, inputs, target), encoding="utf-8")
    run = hmct_tools.run_tool(["hb_compile", "-c", _CONFIG], work)
    (work / _LOG).write_text(run.console, encoding="utf-8")
    print(run.console)
    products = found_products(work / "build", name, target["ptq"] is not None, run, model)
    described = describe(str(products["int"]), inputs)
    compiled = open_hbm(str(products["hbm"]))
    if march_of(compiled) != target["march"]:
        raise ToolchainError(
            "the hbm is for another march than was asked",
            "convert again",
            file=products["hbm"],
            expected=target["march"],
            found=march_of(compiled),
        )
    same_rim(str(products["int"]), str(products["hbm"]))
    products.update(config=work / _CONFIG, log=work / _LOG)
    return {
        "products": {role: str(file) for role, file in products.items()},
        "identity": hashlib.sha256(products["int"].read_bytes()).hexdigest(),
        **described,
    }


def check_inputs(inputs: list[dict[str, Any]]) -> None:
    """Raises ToolchainError for an input whose way into a nash model is published nowhere."""
    for item in inputs:
        if (item["type_rt"], item["source"]) not in (("nv12", "pyramid"), ("featuremap", "ddr")):
            raise ToolchainError(
                "an input of this kind is not supported on nash",
                "feed the model nv12 through the pyramid, or a featuremap from ddr",
                input=item["name"],
                found="{} through {}".format(item["type_rt"], item["source"]),
            )


def configuration(name: str, inputs: list[dict[str, Any]], target: dict[str, Any]) -> str:
    """The YAML of hb_compile: paths relative to the folder it is run in, so that equal entries give equal bytes.

    Quantise and dequantise nodes stay in the model, the tool's default: its outputs are what the compiler's own dequantisation gives.
    """
    import yaml

    def each(values: list[str]) -> str:
        return "".join(f"{value};" for value in values)

    parameters: dict[str, Any] = {
        "input_name": each([item["name"] for item in inputs]),
        "input_type_rt": each([item["type_rt"] for item in inputs]),
        "input_type_train": each([item["type_train"] for item in inputs]),
        "input_layout_train": each(["NCHW" if item["layout"] == "none" else item["layout"] for item in inputs]),
        "input_shape": each(["x".join(map(str, item["shape"])) for item in inputs]),
    }
    for key in ("mean", "scale"):
        if any(item[key] for item in inputs):
            parameters[f"{key}_value"] = each([" ".join(repr(float(value)) for value in item[key]) or "None" for item in inputs])
    ptq = target["ptq"]
    calibration: dict[str, Any] = {"calibration_type": "load"}
    if ptq is not None:
        calibration = {
            "calibration_type": ptq["method"],
            "cal_data_dir": each([f"calibration/{index}" for index in range(len(inputs))]),
            "per_channel": ptq["per_channel"],
        }
        if ptq["max_percentile"] is not None:
            calibration["max_percentile"] = ptq["max_percentile"]
    compiler: dict[str, Any] = {
        "compile_mode": target["compile_mode"],
        "optimize_level": target["optimize_level"],
        "core_num": target["core_num"],
        "debug": True,
        "jobs": 2,
        "input_source": {item["name"]: item["source"] for item in inputs},
    }
    if target["compile_mode"] == "balance":
        compiler["balance_factor"] = target["balance_factor"]
    if target["max_time_per_fc"]:
        compiler["max_time_per_fc"] = target["max_time_per_fc"]
    document = {
        "model_parameters": {
            "onnx_model": "model.onnx",
            "march": target["march"],
            "working_dir": "build",
            "output_model_file_prefix": name,
        },
        "input_parameters": parameters,
        "calibration_parameters": calibration,
        "compiler_parameters": compiler,
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def write_calibration(files: dict[str, str], inputs: list[dict[str, Any]], folder: Path) -> None:
    """[N, ...] float32 .npy per input as hb_compile reads it: `<folder>/<index of the input>/<sample>.npy`, [1, ...] float32.

    Raises:
        ArtifactError: an input has no samples, or of another shape.
    """
    for index, item in enumerate(inputs):
        if item["name"] not in files:
            raise ArtifactError(
                "an input of a ptq target has no calibration samples",
                "let `samples` of the adapter yield the split `calibration`",
                input=item["name"],
                found=sorted(files),
            )
        samples = np.load(files[item["name"]], mmap_mode="r")
        if list(samples.shape[1:]) != list(item["shape"][1:]) or not len(samples):
            raise ArtifactError(
                "the calibration samples have another shape than the entry states",
                "correct `shape`, or `preprocess` of the adapter",
                input=item["name"],
                expected="[N, {}]".format(", ".join(map(str, item["shape"][1:]))),
                found=list(samples.shape),
            )
        place = folder / str(index)
        place.mkdir(parents=True, exist_ok=True)
        for number in range(len(samples)):
            np.save(place / f"{number:05d}.npy", np.ascontiguousarray(samples[number : number + 1], np.float32))


def found_products(build: Path, name: str, calibrated: bool, run: hmct_tools.ToolRun, model: str) -> dict[str, Path]:
    """What hb_compile wrote, by role; its console and its files are believed, not its exit code.

    Raises:
        ToolchainError: the console has an error, or a product is missing.
        BrokenError: the tool died.
    """
    required = {"int": build / f"{name}_quantized_model.bc", "hbm": build / f"{name}.hbm"}
    if calibrated:
        required["reference"] = build / f"{name}_calibrated_model.onnx"
    missing = [file.name for file in required.values() if not file.is_file() or not file.stat().st_size]
    _, errors = hmct_tools.console_problems(run.console)
    if errors or missing or run.code:
        died = hmct_tools.crashed("hb_compile", run, model=model)
        if died is not None:
            raise died
        raise ToolchainError(
            "hb_compile did not convert the model",
            "read its log; `hb_compile -m model.onnx --march ...` checks the operators alone",
            model=model,
            found=(errors[-1] if errors else run.tail(3)).splitlines()[0] if errors or run.console.strip() else "nothing",
            detail="\n".join(errors[-1].splitlines()[1:8]) if errors else "",
            missing=", ".join(missing) or "nothing",
            exit_code=run.code,
        )
    optional = {
        "perf_json": build / f"{name}.json",
        "perf_html": build / f"{name}.html",
        "quant_info": build / f"{name}_quant_info.json",
        "node_info": build / f"{name}_node_info.csv",
    }
    return {**required, **{role: file for role, file in optional.items() if file.is_file()}}


def describe(bc: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Inputs and outputs of an int model (.bc).

    Returns:
        {"inputs": [{"name", "dtype", "shape"}], "outputs": [{"name", "dtype", "shape"}]}; the planes of an nv12 input (`<input>_y` and
        `<input>_uv`) are one input, int8 [1, H, W, 3], the intermediate type.
    Raises:
        ArtifactError: the file is no .bc, or takes other inputs than the entry's.
    """
    graph = open_bc(bc)[0]
    stated = {item.name: item for item in graph.flatten_inputs}
    expected = [name for item in inputs for name in planes(item)]
    if sorted(stated) != sorted(expected):
        raise ArtifactError(
            "the int model has other inputs than the entry",
            "correct `inputs` of the entry",
            file=bc,
            expected=expected,
            found=sorted(stated),
        )
    described = []
    for item in inputs:
        if item["type_rt"] == "nv12":
            height, width = stated[planes(item)[0]].type.shape[1:3]
            described.append({"name": item["name"], "dtype": "int8", "shape": [1, int(height), int(width), 3]})
        else:
            described.append(_tensor(stated[item["name"]]))
    return {"inputs": described, "outputs": [_tensor(item) for item in graph.flatten_outputs]}


def planes(item: dict[str, Any]) -> list[str]:
    """The model's own inputs behind an input of the entry."""
    return [item["name"] + "_y", item["name"] + "_uv"] if item["type_rt"] == "nv12" else [item["name"]]


def same_rim(bc: str, hbm: str) -> None:
    """Raises ToolchainError unless .bc and hbm take and give the same tensors."""
    theirs, ours = open_hbm(hbm)[0], open_bc(bc)[0]
    for side in ("flatten_inputs", "flatten_outputs"):
        expected, found = ([_tensor(item) for item in getattr(graph, side)] for graph in (ours, theirs))
        if expected != found:
            raise ToolchainError(
                "the hbm has other {} than the int model".format(side.rpartition("_")[2]),
                "convert again",
                file=hbm,
                expected=expected,
                found=found,
            )


def run(bc: str, inputs: list[dict[str, Any]], tensors: dict[str, str], folder: str) -> dict[str, str]:
    """Run an int model on [N, ...] .npy inputs, sample by sample.

    Args:
        inputs: [{"name", "type_rt"}] of the entry.
        tensors: per input: int8 NHWC values of the intermediate type (nv12), or the featuremap.
    Returns:
        {output name: [N, ...] .npy}.
    """
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in tensors.items()}
    count = len(next(iter(arrays.values())))
    feeds = []
    for index in range(count):
        feed: dict[str, Any] = {}
        for item in inputs:
            sample = arrays[item["name"]][index : index + 1]
            feed.update(zip(planes(item), split(sample[0]) if item["type_rt"] == "nv12" else [np.ascontiguousarray(sample)], strict=True))
        feeds.append(feed)
    return _feed(open_bc(bc)[0], feeds, Path(folder))


def split(sample: Any) -> tuple[Any, Any]:
    """[H, W, 3] int8 of yuv444_128 to the planes of its nv12 picture: uint8 [1, H, W, 1] and [1, H/2, W/2, 2].

    Raises:
        ArtifactError: its chroma is not doubled from an nv12 picture's, so that no picture gives it.
    """
    values = (np.asarray(sample).astype(np.int16) + 128).astype(np.uint8)
    chroma = values[::2, ::2, 1:]
    if not np.array_equal(chroma.repeat(2, 0).repeat(2, 1), values[..., 1:]):
        raise ArtifactError("a tensor is of no nv12 picture: its chroma differs within a block of 2x2", "make it from the picture's bytes")
    return np.ascontiguousarray(values[None, ..., :1]), np.ascontiguousarray(chroma[None])


def run_reference(reference: str, tensors: dict[str, str], folder: str) -> dict[str, str]:
    """Run the calibrated (fake-quant) ONNX on what the int model is fed: float32 .npy per output."""
    import onnx
    from hmct.api import ORTExecutor  # type: ignore[import-not-found]

    executor = ORTExecutor(onnx.load(reference))
    executor.create_session()
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in tensors.items()}
    found: dict[str, list[Any]] = {}
    for index in range(len(next(iter(arrays.values())))):
        feed = {}
        for item in executor.get_inputs():
            value = np.asarray(arrays[item.name][index : index + 1])
            if list(value.shape) != list(item.shape) and value.ndim == 4:
                value = value.transpose(0, 3, 1, 2)
            feed[item.name] = np.ascontiguousarray(value, np.float32)
        for name, value in executor.inference(feed).items():
            found.setdefault(name, []).append(np.array(value, np.float32))
    return _write(found, Path(folder))


def simulate(hbm: str, inputs: list[dict[str, Any]], files: dict[str, list[str]], folder: str) -> dict[str, str]:
    """Run an hbm on hbdk4's simulator, sample by sample.

    Args:
        inputs: [{"name", "type_rt"}] of the entry.
        files: per input one raw file per sample: nv12 bytes, or the values of a featuremap.
    Raises:
        ArtifactError: a file has another size than the hbm's input.
    """
    graph = open_hbm(hbm)[0]
    stated = {item.name: item for item in graph.flatten_inputs}
    feeds = []
    for index in range(len(next(iter(files.values())))):
        feed = {}
        for item in inputs:
            data = np.fromfile(files[item["name"]][index], np.uint8)
            expected = sum(_bytes(stated[name]) for name in planes(item))
            if data.size != expected:
                raise ArtifactError(
                    "an input file has the wrong size for the hbm",
                    "write it again",
                    file=files[item["name"]][index],
                    input=item["name"],
                    expected=f"{expected} bytes",
                    found=f"{data.size} bytes",
                )
            start = 0
            for name in planes(item):
                size = _bytes(stated[name])
                feed[name] = data[start : start + size].view(stated[name].type.np_dtype).reshape(stated[name].type.shape)
                start += size
        feeds.append(feed)
    return _feed(graph, feeds, Path(folder))


def report(bc: str, hbm: str, inputs: list[dict[str, Any]], folder: str) -> dict[str, Any]:
    """Describe an hbm.

    Returns:
        {"march", "latency_ms", "fps", "ddr_mb", "size_mb", "layers", "inputs", "outputs", "toolkit"}
    """
    compiled = open_hbm(hbm)
    described = describe(bc, inputs)
    same_rim(bc, hbm)
    return {**described, **estimate(hbm, Path(folder)), "march": march_of(compiled), "toolkit": str(compiled.toolkit_version)}


def estimate(hbm: str, work: Path) -> dict[str, Any]:
    """hbdk4's estimate of an hbm: see `hmct_tools.describe_performance`.

    Raises:
        BrokenError: it wrote no report, or one in another form than hbdk3's, which is the only published one.
    """
    import json

    from hbdk4.compiler import hbm_perf

    place = work / "perf"
    place.mkdir(parents=True, exist_ok=True)
    hbm_perf(hbm, str(place))
    for file in sorted(place.glob("*.json")):
        try:
            return hmct_tools.describe_performance(json.loads(file.read_text(encoding="utf-8"))["summary"], Path(hbm).stat().st_size)
        except (KeyError, ValueError, TypeError) as error:
            raise BrokenError(
                "hbm_perf's report has another form than this library reads", "send it to us", kind="console", file=file, found=repr(error)
            ) from None
    raise BrokenError("hbm_perf wrote no report", "read its console in the log", kind="dump_missing", file=place)


def verify(bc: str, hbm: str, inputs: list[dict[str, Any]], files: dict[str, str], folder: str) -> dict[str, Any] | None:
    """Ask hb_verifier whether the hbm computes what the int model computes, on the first sample.

    Args:
        inputs: [{"name", "type_rt"}] of the entry.
        files: per input [N, ...] .npy: pictures as nv12 bytes [N, H * 3 / 2, W], or what a featuremap is fed.
    Returns:
        {"tool", "rows": [[output, what differs, "" for nothing]], every row of its table, "log"}; None when the environment has no hb_verifier.
    Raises:
        BrokenError: its table lacks an output, or a row is not understood.
    """
    if shutil.which("hb_verifier") is None:
        return None
    work, graph = Path(folder), open_bc(bc)[0]
    feed: dict[str, Any] = {}
    for item in inputs:
        sample = np.load(files[item["name"]], mmap_mode="r", allow_pickle=False)[:1]
        feed.update(zip(planes(item), nv12_planes(sample[0]) if item["type_rt"] == "nv12" else [sample], strict=True))
    command: list[str | Path] = ["hb_verifier", "-m", f"{bc},{hbm}"]
    for index, stated in enumerate(graph.flatten_inputs):
        np.save(work / f"verifier_{index}.npy", np.ascontiguousarray(feed[stated.name], np.dtype(stated.type.np_dtype)))
        command += ["-i", work / f"verifier_{index}.npy"]
    finished = hmct_tools.run_tool([*command, "-c", str(DIGITS), "--skip-arm"], work)
    print(finished.console)
    (work / "hb_verifier.log").write_text(finished.console, encoding="utf-8")
    rows = hb_verifier.parse_consistency_table(finished.console, [item.name for item in graph.flatten_outputs])
    return {
        "tool": "hb_verifier",
        "rows": [[row.output, "" if row else f"{row.mismatched} elements, largest difference {row.max_abs:g}"] for row in rows],
        "log": str(work / "hb_verifier.log"),
    }


def nv12_planes(frame: Any) -> tuple[Any, Any]:
    """[H * 3 / 2, W] bytes of an nv12 picture to its planes: uint8 [1, H, W, 1] and [1, H/2, W/2, 2]."""
    rows, width = frame.shape
    height = rows * 2 // 3
    return frame[:height].reshape(1, height, width, 1), frame[height:].reshape(1, height // 2, width // 2, 2)


def open_bc(bc: str) -> Any:
    """Raises ArtifactError when the file is no whole .bc."""
    from hbdk4.compiler import load

    return _opened(load, bc, "the int model is no whole .bc file")


def open_hbm(hbm: str) -> Any:
    """Raises ArtifactError when the file is no whole hbm."""
    from hbdk4.compiler import Hbm

    return _opened(Hbm, hbm, "the hbm is no whole file of hbdk4")


def march_of(hbm: Any) -> str:
    """`nash-e` and its like, as the zoo schema writes it."""
    found = re.search(r"nash-[a-z]\b", str(hbm.march_name).lower().replace("_", "-"))
    return found.group(0) if found else str(hbm.march_name)


def _opened(opener: Any, file: str, message: str) -> Any:
    path = Path(file)
    if not path.is_file():
        raise ArtifactError("a file of the compiled model does not exist", "convert again", file=path)
    try:
        return opener(file)
    except MemoryError:
        raise
    except Exception as error:  # the compiler's own errors have no common class
        raise ArtifactError(
            message,
            "convert again; if it comes from the store, its hash no longer holds",
            file=path,
            size=f"{path.stat().st_size} bytes",
            found=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
        ) from None


def _tensor(item: Any) -> dict[str, Any]:
    return {"name": item.name, "dtype": np.dtype(item.type.np_dtype).name, "shape": [int(size) for size in item.type.shape]}


def _bytes(item: Any) -> int:
    return int(np.prod(item.type.shape, dtype=np.int64) * np.dtype(item.type.np_dtype).itemsize)


def _feed(graph: Any, feeds: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    found: dict[str, list[Any]] = {}
    names = [item.name for item in graph.flatten_outputs]
    for number, feed in enumerate(feeds, 1):
        answer = graph.feed(feed)
        for name in names:
            found.setdefault(name, []).append(np.array(answer[name]))  # a copy: hbdk4 writes the next answer into the same memory
        if number == len(feeds) or number % 10 == 0:
            print(f"ran {number} of {len(feeds)} samples")
    return _write(found, folder)


def _write(found: dict[str, list[Any]], folder: Path) -> dict[str, str]:
    files = {}
    for number, (name, parts) in enumerate(found.items()):
        files[name] = str(folder / f"{number}.npy")
        np.save(files[name], np.concatenate(parts))
    return files
