"""The part of the hmct toolchain that runs inside the vendor environment: one function per job, plain data in and out.

Called through `qatladder.runner`; see `qatladder.toolchains.hmct` for the other side. Python 3.10, numpy 1.23, onnx 1.15, protobuf 3.20;
nothing of `qatladder.zoo` (pydantic) can be imported here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import hbdk, hmct_graph, hmct_ptq, hmct_tools
from qatladder.toolchains.hmct_onnx import Pair
from qatladder.toolchains.hmct_provenance import contradiction
from qatladder.toolchains.hmct_rewrite import rewrite

_CONVERTED = "Convert to runtime bin file successfully!"


def versions() -> dict[str, str]:
    """Versions of the installed tools; importing them proves that the environment works."""
    import hbdk  # type: ignore[import-not-found]
    import horizon_nn.api  # type: ignore[import-not-found]
    import horizon_tc_ui.version  # type: ignore[import-not-found]

    console = hmct_tools.run_tool(["hbdk-cc", "--version"], Path.cwd()).console
    runtime = re.search(r"^runtime version: *(\S+)", console, re.MULTILINE)
    if runtime is None:
        raise BrokenError("hbdk-cc does not state its version", "run `make setup` again", kind="tool_failed", console=console)
    return {
        "hb_mapper": horizon_tc_ui.version.__version__,
        "horizon_nn": horizon_nn.api.version,
        "hbdk": hbdk.__version__,
        "hbdk_runtime": runtime.group(1),
    }


def convert(
    model: str,
    onnx_file: str,
    folder: str,
    inputs: list[dict[str, Any]],
    target: dict[str, Any],
    calibration: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Convert an exported QDQ ONNX, or calibrate and convert a float one.

    Args:
        model: the entry's model name; names the hbm's model and the .bin.
        onnx_file, folder: absolute paths.
        inputs: the entry's inputs as `InputSpec` has them.
        target: march, options and `ptq` as `Target` has them.
        calibration: [N, ...] float32 .npy per input of a `ptq` target; see `qatladder.toolchains.base`.
    Returns:
        {"products": {role: path}, "identity": sha256, "versions": {...}, "compared": scales and weights found equal,
        "half_way": single weights whose rounding is open (see `hmct_graph.verify_scales`)}.
    """
    work = Path(folder)
    name = re.sub(r"\W", "_", model)
    shapes = {item["name"]: item["shape"] for item in inputs}
    exported = _load(Path(onnx_file))
    pairs: Sequence[Pair] = ()
    if target["ptq"] is None:
        rewritten = rewrite(exported, shapes, name)
        exported, pairs = rewritten.model, rewritten.pairs
    else:
        hmct_ptq.check_nodes(exported, target["ptq"])
        exported = hmct_ptq.prepare(exported, shapes, name)
        hmct_ptq.write_calibration(calibration or {}, inputs, work / "calibration")
    (work / "model.onnx").write_bytes(exported.SerializeToString(deterministic=True))
    config = work / "hb_mapper.yaml"
    config.write_text(configuration(name, inputs, target), encoding="utf-8")
    build = work / "build"
    run = hmct_tools.run_tool(
        ["hb_mapper", "makertbin", "--model-type", "onnx", "--config", config],
        work,
        variables={"HNN_MODEL_EXPORT": "1"},  # hmct's own switch to keep the .hbir and the hybrid model, without changing the outputs
    )
    log = work / "hb_mapper.log"
    log.write_text(run.console, encoding="utf-8")
    for line in _worth_telling(run.console):
        print(line)
    binary, quantized_file, calibrated = (build / f"{name}{end}" for end in (".bin", "_quantized_model.onnx", "_calibrated_model.onnx"))
    complete = all(file.is_file() and file.stat().st_size for file in (binary, quantized_file, calibrated))
    if run.code != 0 or not complete or _CONVERTED not in run.console:
        error = hmct_tools.conversion_error(run, model)
        if isinstance(error, ToolchainError) and pairs and calibrated.is_file():  # a scale of hmct's own is the better explanation
            hmct_graph.verify_calibration(pairs, _written(calibrated))
        raise error
    _one_bpu_part(build / f"{name}_hybrid_model.onnx", run.console)
    quantized = _written(quantized_file)
    compared, half_way = hmct_graph.verify_scales(pairs, _written(calibrated), quantized) if target["ptq"] is None else (0, 0)
    hbm = work / f"{name}.hbm"
    hbm.write_bytes(_packed_hbm(binary))
    described = hmct_tools.describe_hbm(hbdk.disassemble(hbm, work), hbm)
    _same_rim(described, hmct_graph.describe(quantized), quantized, hbm)
    if described["march"] != target["march"]:
        raise ToolchainError(
            "the hbm is for another march than was asked", "convert again", expected=target["march"], found=described["march"]
        )
    int_model = work / quantized_file.name
    int_model.write_bytes(hmct_graph.canonical(quantized))
    products = {"int": int_model, "hbm": hbm, "bin": binary, "config": config, "log": log}
    part = build / f"{described['name']}.x"
    if target["ptq"] is not None:
        products["reference"] = calibrated
    optional = {"hbir": part.with_suffix(".hbir"), "perf_json": part.with_suffix(".json"), "perf_html": part.with_suffix(".html")}
    products.update({role: file for role, file in optional.items() if file.is_file()})
    return {
        "products": {role: str(file) for role, file in products.items()},
        "identity": hashlib.sha256(int_model.read_bytes()).hexdigest(),
        "versions": {**_logged_versions(run.console), **described["versions"]},
        "compared": compared,
        "half_way": half_way,
    }


def configuration(name: str, inputs: list[dict[str, Any]], target: dict[str, Any]) -> str:
    """The hb_mapper configuration: paths relative to itself, so that equal entries give equal bytes."""
    import yaml

    def each(values: list[str]) -> str:
        return "".join(f"{value};" for value in values)

    def numbers(values: list[float], channels: int) -> str:
        return " ".join(repr(float(value)) for value in (values * channels if len(values) == 1 else values))

    images = [item["type_rt"] != "featuremap" for item in inputs]
    layouts = [item["layout"] if item["layout"] != "none" else "NCHW" for item in inputs]
    channels = [item["shape"][1] if layout == "NCHW" else item["shape"][-1] for item, layout in zip(inputs, layouts, strict=True)]
    norms = {(True, True): "data_mean_and_scale", (True, False): "data_mean", (False, True): "data_scale", (False, False): "no_preprocess"}
    parameters: dict[str, Any] = {
        "input_name": each([item["name"] for item in inputs]),
        "input_type_rt": each([item["type_rt"] for item in inputs]),
        "input_type_train": each([item["type_train"] for item in inputs]),
        "input_layout_train": each(layouts),
        "input_shape": each(["x".join(map(str, item["shape"])) for item in inputs]),
        "norm_type": each([norms[bool(item["mean"]), bool(item["scale"])] for item in inputs]),
    }
    if not all(item["type_rt"] == "nv12" for item in inputs):
        runtime = [
            "NHWC" if image and item["type_rt"] != "gray" else layout for item, image, layout in zip(inputs, images, layouts, strict=True)
        ]
        parameters["input_layout_rt"] = each(runtime)
    if any(item.get("swing") == "studio" for item in inputs):
        parameters["input_space_and_range"] = each(["bt601_video" if item.get("swing") == "studio" else "regular" for item in inputs])
    for key in ("mean", "scale"):
        if any(item[key] for item in inputs):
            values = [numbers(list(item[key]), count) if item[key] else "None" for item, count in zip(inputs, channels, strict=True)]
            parameters[f"{key}_value"] = each(values)
    document = {
        "model_parameters": {
            "onnx_model": "model.onnx",
            "march": target["march"],
            "layer_out_dump": False,  # true would make every layer an output, and the hbm another one
            "working_dir": "build",
            "output_model_file_prefix": name,
        },
        "input_parameters": parameters,
        "calibration_parameters": _calibration_parameters(inputs, target["ptq"]),
        "compiler_parameters": {
            "compile_mode": target["compile_mode"],
            **({"balance_factor": target["balance_factor"]} if target["compile_mode"] == "balance" else {}),
            **({"max_time_per_fc": target["max_time_per_fc"]} if target["max_time_per_fc"] else {}),
            "optimize_level": target["optimize_level"],
            "debug": True,
            "core_num": target["core_num"],
            "jobs": 2,
            "input_source": {item["name"]: item["source"] for item in inputs},
        },
    }
    return str(yaml.safe_dump(document, sort_keys=False))


def _calibration_parameters(inputs: list[dict[str, Any]], ptq: dict[str, Any] | None) -> dict[str, Any]:
    if ptq is None:
        return {"calibration_type": "load"}
    count = len(inputs)
    parameters: dict[str, Any] = {
        "calibration_type": ptq["method"],
        "cal_data_dir": "".join(f"calibration/{index};" for index in range(count)),
        "cal_data_type": "float32;" * count,
        "preprocess_on": False,
        "per_channel": ptq["per_channel"],
    }
    if ptq["max_percentile"] is not None:
        parameters["max_percentile"] = ptq["max_percentile"]
    for key in ("run_on_cpu", "run_on_bpu"):
        if ptq[key]:
            parameters[key] = "".join(f"{node};" for node in ptq[key])
    return parameters


def describe_int(int_model: str) -> dict[str, Any]:
    """Inputs and outputs of an int model; see `hmct_graph.describe`."""
    return hmct_graph.describe(_load(Path(int_model)))


def run_int(int_model: str, tensors: dict[str, str], folder: str, raw: bool) -> dict[str, str]:
    """Run an int model with the vendor's bundled ONNX Runtime.

    Args:
        tensors: [N, ...] .npy per input, each sample without the batch axis, in the type the int model declares.
        raw: also write the integers behind every input and output.
    Returns:
        {tensor name: .npy}.
    """
    model = _load(Path(int_model))
    described = hmct_graph.describe(model)
    arrays = _arrays(tensors)
    count = _check_tensors(described["inputs"], arrays)
    wanted = [item["name"] for item in described["outputs"]]
    if raw:
        model_inputs = {item["name"] for item in described["inputs"]}
        integers = [item["raw_name"] for item in (*described["inputs"], *described["outputs"])]
        model = hmct_graph.with_outputs(model, [name for name in integers if name not in model_inputs])
        wanted = list(dict.fromkeys(wanted + integers))
    return run_model(model, arrays, count, wanted, Path(folder))


def run_reference(reference: str, tensors: dict[str, str], folder: str) -> dict[str, str]:
    """Run the calibrated (fake-quant) model hmct made, on what the int model is fed: float32 .npy per output."""
    model = _load(Path(reference))
    arrays = _arrays(tensors)
    for item in model.graph.input:  # the same values, as float32 in the layout of training
        shape = [axis.dim_value for axis in item.type.tensor_type.shape.dim]
        array = arrays[item.name]
        if list(array.shape[1:]) != shape[1:] and [array.shape[axis] for axis in (3, 1, 2)] == shape[1:]:
            array = array.transpose(0, 3, 1, 2)
        arrays[item.name] = array.astype(np.float32)
    return run_model(model, arrays, len(next(iter(arrays.values()))), [item.name for item in model.graph.output], Path(folder))


def finish(int_model: str, raw: dict[str, str], folder: str) -> dict[str, str]:
    """Integers behind the int model's outputs to its outputs: what runs on the CPU after the BPU."""
    model = _load(Path(int_model))
    arrays = _arrays(raw)
    wanted = [item.name for item in model.graph.output]
    return run_model(hmct_graph.end_of(model, list(arrays)), arrays, len(next(iter(arrays.values()))), wanted, Path(folder))


def _arrays(files: dict[str, str]) -> dict[str, Any]:
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


def run_model(model: onnx.ModelProto, arrays: dict[str, Any], count: int, wanted: list[str], folder: Path) -> dict[str, str]:
    """Run a model of hmct's with the bundled ONNX Runtime, sample by sample: .npy per wanted tensor."""
    from hmct.api import ORTExecutor  # type: ignore[import-not-found]

    computed = [name for name in wanted if name not in arrays]
    session = ORTExecutor(model).to("cpu").create_session()
    files = {name: str(folder / f"{index}.npy") for index, name in enumerate(wanted)}
    written: dict[str, Any] = {}
    for index in range(count):
        feed = {name: np.ascontiguousarray(array[index : index + 1]) for name, array in arrays.items()}
        answers = session.forward(feed, computed)
        for name, value in {**answers, **{name: feed[name] for name in wanted if name in feed}}.items():
            if name not in written:
                written[name] = np.lib.format.open_memmap(files[name], mode="w+", dtype=value.dtype, shape=(count, *value.shape[1:]))
            written[name][index] = value[0]
    for array in written.values():
        array.flush()
    return files


def _check_tensors(inputs: list[dict[str, Any]], arrays: dict[str, Any]) -> int:
    names = {item["name"] for item in inputs}
    if names != set(arrays):
        raise ArtifactError(
            "the int model has other inputs", "feed it what describe_int states", expected=sorted(names), found=sorted(arrays)
        )
    for item in inputs:
        array = arrays[item["name"]]
        if array.dtype.name != item["dtype"] or list(array.shape[1:]) != item["shape"][1:] or item["shape"][0] != 1:
            raise ArtifactError(
                "a tensor does not fit the int model's input",
                "feed the int model its intermediate type (an nv12 or rgb image as int8 NHWC, value - 128)",
                input=item["name"],
                expected=f"{item['dtype']} [N, {', '.join(map(str, item['shape'][1:]))}]",
                found=f"{array.dtype.name} {list(array.shape)}",
            )
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise ArtifactError("the inputs hold no samples, or different numbers of them", "write all inputs again", found=sorted(counts))
    return counts.pop()


def compile_report(int_model: str, hbm: str, hbir: str | None, folder: str) -> dict[str, Any]:
    """Describe an hbm; fields as `qatladder.toolchains.base.CompileReport` has them."""
    file, work = Path(hbm), Path(folder)
    described = hmct_tools.describe_hbm(hbdk.disassemble(file, work), file)
    names = {side: [item["name"] for item in described[side]] for side in ("inputs", "outputs")}
    sources = {item["name"]: item["source"] for item in described["inputs"] if item["source"] != "ddr"}
    where = hmct_graph.operators(_load(Path(int_model)), names["inputs"], names["outputs"])
    return {
        **{key: described[key] for key in ("march", "inputs", "outputs", "versions")},
        **hbdk.estimate(file, described["name"], work),
        "operators": {key: where[key] for key in ("bpu", "cpu", "rim")},
        "cpu_operators": where["cpu_operators"],
        "contradiction": contradiction(Path(int_model), described["march"], sources, described["hbir_crc"], work / "derived.hbir"),
        "problems": _check_support(Path(hbir) if hbir else None, described, work),
    }


def _check_support(hbir: Path | None, described: dict[str, Any], work: Path) -> list[str]:
    """What the compiler's own checker has against a model; empty when it supports it."""
    if hbir is None or not hbir.is_file():
        raise BrokenError(
            "the conversion left no hbir, so the compiler's checker cannot be asked which operators it supports",
            "convert again; hmct keeps the hbir of every conversion",
            kind="dump_missing",
            file=hbir or "(no hbir among the products)",
        )
    sources = ",".join(item["source"] for item in described["inputs"])
    run = hmct_tools.run_tool(
        ["hbdk-model-check", "-f", "hbir", "-m", hbir, "--march", described["march"], "-i", sources, "--core-num", described["core_num"]],
        work,
    )
    if run.code == 0 and "This model is supported!" in run.console:
        return []
    if "Deserialize hbir file" in run.console:
        raise ArtifactError("the hbir cannot be read", "convert again", file=hbir, found=run.tail(1))
    died = hmct_tools.crashed("hbdk-model-check", run, file=hbir)
    if died is not None:
        raise died
    lines = [line.strip() for line in run.console.splitlines() if line.strip()]
    if not lines:
        raise BrokenError(
            f"hbdk-model-check ended with exit code {run.code} and said nothing", "run this rung again", kind="tool_crashed", file=hbir
        )
    return lines


def _load(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise ArtifactError("the ONNX file does not exist", "export it, or correct `artifacts.onnx`", file=file)
    content = file.read_bytes()
    where = {"file": file, "size": f"{len(content)} bytes"}
    if not content:
        raise ArtifactError("the ONNX file is empty", "export it again", **where)
    try:
        model = onnx.load_model_from_string(content)
        external_data_helper.load_external_data_for_model(model, str(file.parent))
    except MemoryError:
        raise
    except Exception as error:  # protobuf raises its own DecodeError, onnx several others
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(
            "the file cannot be read as ONNX: truncated, or no ONNX model", "export it again", found=found, **where
        ) from None
    if not model.HasField("graph") or not model.opset_import:  # protobuf reads a file that was cut between two fields without a word
        raise ArtifactError(
            "the file cannot be read as ONNX: it holds no graph or states no opset, as a truncated one does", "export it again", **where
        )
    return model


def _written(file: Path) -> onnx.ModelProto:
    """An ONNX file the converter wrote."""
    if not file.is_file():
        raise BrokenError("the converter left a file out", "convert again; read its console in the log", kind="dump_missing", file=file)
    try:
        return onnx.load(str(file))
    except MemoryError:
        raise
    except Exception as error:
        raise BrokenError(
            "a file the converter wrote cannot be read", "convert again; check the disk", kind="dump_truncated", file=file, found=error
        ) from None


def _packed_hbm(binary: Path) -> bytes:
    """The hbm inside a runtime .bin: an initializer of the vendor's own model protobuf."""
    from horizon_tc_ui.hbdtort.runtime_pb2 import ModelProto  # type: ignore[import-not-found]

    model = ModelProto()
    model.ParseFromString(binary.read_bytes())
    graph = model.graphs[0] if len(model.graphs) else model.graph
    for item in graph.initializer:
        if item.name == "PACKED_HBM_MODEL":
            return bytes(item.string_data[0])
    raise ToolchainError("the .bin holds no hbm: the whole model fell back to the CPU", "read the operator table in the log", file=binary)


def _one_bpu_part(hybrid: Path, console: str) -> None:
    between = hmct_graph.splitting_operators(_written(hybrid))
    parts = len(set(re.findall(r"Compile submodel: (\S+)", console)))
    if between or parts > 1:
        raise ToolchainError(
            "the model splits into several BPU parts: an operator between them runs on the CPU",
            "replace the operator, quantise its output, or move it to the end of the network",
            found=", ".join(between) or f"{parts} parts",
        )


def _same_rim(described: dict[str, Any], rim: dict[str, Any], quantized: onnx.ModelProto, hbm: Path) -> None:
    """The hbm's features must be exactly the integers behind the int model's inputs and outputs."""
    for side in ("inputs", "outputs"):
        expected, found = {item["raw_name"] for item in rim[side]}, {item["name"] for item in described[side]}
        if expected != found:
            outside = hmct_graph.operators(
                quantized, [item["name"] for item in described["inputs"]], [item["name"] for item in described["outputs"]]
            )
            raise ToolchainError(
                f"the hbm's {side} are not the integers at the rim of the int model",
                "keep operators that run on the CPU out of the exported model",
                file=hbm,
                expected=", ".join(sorted(expected)),
                found=", ".join(sorted(found)),
                cpu_operators=", ".join(outside["cpu_operators"]) or "none",
            )


def _logged_versions(console: str) -> dict[str, str]:
    keys = {
        "hb_mapper": "hb_mapper version",
        "hbdk": "hbdk version",
        "hbdk_runtime": "hbdk runtime version",
        "horizon_nn": "horizon_nn version",
    }
    found = {key: re.search(rf"{text} *: *(\S+)", console) for key, text in keys.items()}
    return {key: match.group(1) for key, match in found.items() if match}


def _worth_telling(console: str) -> list[str]:
    """What of a conversion's console goes to the task log: warnings, errors and the tables; not the runtime's initializer noise."""
    lines = [line for line in console.splitlines() if "[W:onnxruntime" not in line]
    return [line for line in lines if line.strip()]
