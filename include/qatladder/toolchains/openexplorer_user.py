"""The part of the openexplorer toolchain that runs in the user's own environment: torch and horizon_plugin_pytorch, Python 3.8.

The int model is what the plugin's documents have the user save: `torch.jit.save(torch.jit.trace(convert_fx(qat_model), example), "int.pt")`.
Called through `qatladder.runner`; plain data in and out, tensors as .npy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import hbdk, hmct_tools

MARCHES = {"bernoulli2": "BERNOULLI2", "bayes": "BAYES"}
"""A march of a zoo entry to its name in the plugin's `March`."""

VALUES = (
    "aten::reshape",
    "aten::view",
    "aten::flatten",
    "aten::permute",
    "aten::transpose",
    "aten::squeeze",
    "aten::unsqueeze",
    "aten::contiguous",
)
"""Operators that move values and compute nothing."""


def versions() -> Dict[str, str]:
    """Versions of the tools in this environment; importing them proves that it works."""
    import horizon_plugin_pytorch as horizon  # type: ignore[import-not-found]
    import torch

    console = hmct_tools.run_tool(["hbdk-cc", "--version"], Path.cwd()).console
    found = {"horizon_plugin_pytorch": str(horizon.__version__), "torch": str(torch.__version__)}
    for key, pattern in (("hbdk", r"^version: *(\S+)"), ("hbdk_runtime", r"^runtime version: *(\S+)")):
        match = re.search(pattern, console, re.MULTILINE)
        if match is None:
            raise BrokenError(
                "hbdk-cc does not state its version", "is hbdk whole in this environment?", kind="tool_failed", console=console
            )
        found[key] = match.group(1)
    return found


def convert(model: str, inputs: List[Dict[str, Any]], target: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Check and compile an int model.

    Args:
        model: TorchScript file.
        inputs: the entry's inputs, in the order of the model's.
        target: march, optimize_level, core_num.
    Returns:
        {"inputs", "outputs": see `describe`, outputs with their "shape"; "hbm": path, "perf_html", "perf_json": paths or None}
    Raises:
        ArtifactError: the file is no int model.
        ToolchainError: the plugin refuses it.
    """
    import torch
    from horizon_plugin_pytorch.quantization import perf_model  # type: ignore[import-not-found]

    work = Path(folder)
    script = _load(model, target["march"])
    described = describe(script, [item["name"] for item in inputs])
    examples = _examples(inputs)
    with torch.no_grad():
        for item, tensor in zip(described["outputs"], _flat(script(*examples))):
            item["shape"] = list(tensor.shape)
    _check(script, examples)
    hbm = compile_script(script, examples, inputs, target, work / "model.hbm", target["optimize_level"])
    answer: Dict[str, Any] = dict(described, hbm=str(hbm), perf_html=None, perf_json=None)
    out = work / "perf"
    perf_model(script, examples, out_dir=str(out), input_source=_sources(inputs), opt=target["optimize_level"], layer_details=True)
    for key, pattern in (("perf_html", "*.html"), ("perf_json", "*.json")):
        files = sorted(out.glob(pattern)) if out.is_dir() else []
        answer[key] = str(files[0]) if files else None
    return answer


def report(model: str, hbm: str, inputs: List[Dict[str, Any]], target: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Describe an hbm, and prove whether it comes from this int model: compiled anew, both carry the checksum of the same hbir.

    Returns:
        as `hbdk.describe` has it, with "contradiction", and "problems" of check_model.
    """
    work = Path(folder)
    described = hbdk.describe(hbm, folder)
    script = _load(model, target["march"])
    examples = _examples(inputs)
    problems = _problems(script, examples)
    fresh = compile_script(script, examples, inputs, target, work / "fresh.hbm", "O0")  # the hbir does not depend on the optimisation
    (again,) = hbdk.disassemble(fresh, work)
    crc = again["model file crc32"]
    contradiction = (
        ""
        if crc == described["hbir_crc"]
        else "the int model leads to an hbir with CRC-32 {:08x}, the hbm was compiled from {:08x}".format(crc, described["hbir_crc"])
    )
    return dict(described, contradiction=contradiction, problems=problems)


def run(
    model: str, inputs: List[Dict[str, Any]], outputs: List[Dict[str, Any]], tensors: Dict[str, str], raw: bool, folder: str
) -> Dict[str, str]:
    """Run an int model on [N, ...] .npy inputs, sample by sample.

    Args:
        inputs, outputs: see `describe`.
        tensors: per input: int8 values of the intermediate type, or the float32 featuremap.
        raw: also write the integers behind inputs and outputs.
    Raises:
        ToolchainError: an output is not its integers times its scale, so they cannot be told.
    """
    import torch

    script = _load(model)
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in tensors.items()}
    found: Dict[str, List[np.ndarray]] = {}
    count = len(next(iter(arrays.values())))
    for index in range(count):
        feed = []
        for item in inputs:
            sample = np.ascontiguousarray(arrays[item["name"]][index : index + 1])
            if sample.dtype == np.int8:
                integers, values = sample, sample.astype(np.float32) * np.float32(item["scale"][0])
            else:
                values = sample.astype(np.float32)
                integers = np.clip(np.floor(values / np.float32(item["scale"][0]) + np.float32(0.5)), -128, 127).astype(np.int8)
            feed.append(torch.from_numpy(values))
            if raw:
                found.setdefault(item["raw_name"], []).append(integers)
        with torch.no_grad():
            answers = _flat(script(*feed))
        if len(answers) != len(outputs):
            raise ArtifactError("the int model has another number of outputs", expected=len(outputs), found=len(answers))
        for item, answer in zip(outputs, answers):
            value = np.ascontiguousarray(answer.detach().cpu().numpy())
            found.setdefault(item["name"], []).append(value.astype(np.float32))
            if raw:
                found.setdefault(item["raw_name"], []).append(_integers(item, value))
    work = Path(folder)
    files = {}
    for number, (name, parts) in enumerate(found.items()):
        files[name] = str(work / "{}.npy".format(number))
        np.save(files[name], np.concatenate(parts))
    return files


def describe(script: Any, names: List[str]) -> Dict[str, Any]:
    """Inputs and outputs of a traced int model, by its own quantise and dequantise nodes.

    Returns:
        {"inputs": [{"name", "scale"}], "outputs": [{"name", "scale", "axis", "tail"}]}; outputs are named by their position.
    Raises:
        ArtifactError: another number of inputs, or one that is not quantised.
    """
    import torch

    graph = torch.jit.freeze(script.eval()).graph
    taken = list(graph.inputs())[1:]
    if len(taken) != len(names):
        raise ArtifactError("the int model has another number of inputs than the entry", expected=len(names), found=len(taken))
    inputs = []
    for name, value in zip(names, taken):
        node = _quantise_behind(value)
        if node is None:
            raise ArtifactError(
                "an input of the int model is not quantised by the model itself",
                "trace the converted model (`convert_fx`), QuantStub included",
                input=name,
            )
        inputs.append({"name": name, "scale": _numbers(node.inputsAt(1))})
    outputs = []
    for index, value in enumerate(_leaves(list(graph.outputs()))):
        tail: List[str] = []
        moved: List[str] = []
        node = value.node()
        while not _is(node, "dequantization"):
            sources = [item for item in node.inputs() if item.type().kind() == "TensorType" and item.node().kind() != "prim::Constant"]
            if len(sources) != 1:
                raise ArtifactError(
                    "an output of the int model does not come from one DeQuantStub, so its integers cannot be told",
                    "let `dequant` be the last operation of every output",
                    output=index,
                    found=node.kind(),
                )
            if node.kind() != "aten::contiguous":
                (moved if node.kind() in VALUES else tail).insert(0, node.kind())
            node = sources[0].node()
        scale = _numbers(node.inputsAt(1))
        if len(scale) > 1 and moved:
            raise ArtifactError(
                "an output with a scale per channel is moved behind its DeQuantStub, so its scales cannot be told from its axes",
                "let `dequant` be the last operation of every output; move axes in the adapter's postprocess",
                output=index,
                found=", ".join(moved),
            )
        axis = int(node.inputsAt(2).toIValue()) if node.inputsSize() > 2 else -1
        outputs.append({"name": "output_{}".format(index), "scale": scale, "axis": axis if len(scale) > 1 else -1, "tail": tail})
    return {"inputs": inputs, "outputs": outputs}


def compile_script(script: Any, examples: List[Any], inputs: List[Dict[str, Any]], target: Dict[str, Any], hbm: Path, opt: str) -> Path:
    """Compile with the plugin; what it wrote is believed, not what it returned.

    Raises:
        ToolchainError: it wrote no hbm.
    """
    from horizon_plugin_pytorch.quantization import compile_model

    options = {"core_num": target["core_num"]} if target["core_num"] != 1 else {}
    code = compile_model(script, examples, hbm=str(hbm), input_source=_sources(inputs), opt=opt, **options)
    if not hbm.is_file() or not hbm.stat().st_size:
        raise ToolchainError(
            "compile_model wrote no hbm",
            "read its console in the log; check_model names what is not supported",
            file=hbm,
            found="returned {}".format(code),
        )
    return hbm


def _check(script: Any, examples: List[Any]) -> None:
    problems = _problems(script, examples)
    if problems:
        raise ToolchainError(
            "check_model refuses the int model", "replace what it names in the network, and train again", found="; ".join(problems)
        )


def _problems(script: Any, examples: List[Any]) -> List[str]:
    """What check_model has against the model; it says it on the console, and returns 0 when it has nothing."""
    import contextlib
    import io

    from horizon_plugin_pytorch.quantization import check_model

    console = io.StringIO()
    with contextlib.redirect_stdout(console), contextlib.redirect_stderr(console):
        code = check_model(script, examples)
    said = [line.strip() for line in console.getvalue().splitlines() if line.strip()]
    for line in said:
        print(line)
    wrong = [line for line in said if re.search(r"\b(?:error|fail(?:ed)?|not supported|unsupported)\b", line, re.IGNORECASE)]
    if code in (0, None) and not wrong:
        return []
    return wrong or said[-3:] or ["check_model returned {}".format(code)]


def _load(model: str, march: str = "") -> Any:
    """Read a TorchScript file and set the march its operators were traced for.

    Raises:
        ArtifactError: it is none, is of another plugin, or was traced for another march than asked for.
    """
    import torch
    from horizon_plugin_pytorch.march import March, set_march  # type: ignore[import-not-found]  # registers its operators, too

    path = Path(model)
    if not path.is_file():
        raise ArtifactError("the int model does not exist", "save the traced int model, or correct `artifacts.int`", file=path)
    try:
        script = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        said = str(error).strip().splitlines()
        if "Unknown builtin op" in str(error):
            raise ArtifactError(
                "the int model uses an operator this environment's plugin does not have",
                "trace it with the plugin of this environment",
                file=path,
                found=next(line for line in said if "Unknown builtin op" in line),
            ) from None
        raise ArtifactError(
            "the int model is no TorchScript file: truncated, or saved by torch.save",
            "save torch.jit.trace(convert_fx(model), example) with torch.jit.save",
            file=path,
            size="{} bytes".format(path.stat().st_size),
            found=said[0] if said else type(error).__name__,
        ) from None
    traced = _march(script)
    if march and traced and traced != march:
        raise ArtifactError(
            "the int model was traced for another march", "call set_march before convert_fx", file=path, expected=march, found=traced
        )
    set_march(getattr(March, MARCHES[march or traced or "bayes"]))
    return script


def _march(script: Any) -> str:
    """The march the quantise nodes name; empty when they name none."""
    import torch

    for node in torch.jit.freeze(script).graph.nodes():
        if _is(node, "quantization"):
            words = [item.toIValue() for item in node.inputs() if item.type().kind() == "StringType"]
            return next((word for word in words if word in MARCHES), "")
    return ""


def _examples(inputs: List[Dict[str, Any]]) -> List[Any]:
    import torch

    return [torch.zeros(*item["shape"]) for item in inputs]


def _sources(inputs: List[Dict[str, Any]]) -> Any:
    sources = [item["source"] for item in inputs]
    return sources[0] if len(sources) == 1 else sources


def _is(node: Any, what: str) -> bool:
    """True for `horizon::bpu_scale_quantization` and its like."""
    name = node.kind().rpartition("::")[2]
    return name.endswith(what) and (what == "dequantization" or not name.endswith("dequantization"))


def _quantise_behind(value: Any) -> Optional[Any]:
    """The quantise node an input goes into, past operators that only move values."""
    for use in value.uses():
        if _is(use.user, "quantization"):
            return use.user
        if use.user.kind() in VALUES:
            found = _quantise_behind(use.user.outputsAt(0))
            if found is not None:
                return found
    return None


def _numbers(value: Any) -> List[float]:
    tensor = value.toIValue()
    if tensor is None:
        raise ArtifactError("a scale of the int model is no constant", "trace the model in evaluation state")
    return [float(item) for item in np.asarray(tensor.detach().cpu()).reshape(-1)]


def _leaves(values: List[Any]) -> List[Any]:
    """Tensors inside the tuples, lists and dictionaries a model returns."""
    found: List[Any] = []
    for value in values:
        node = value.node()
        if node.kind() == "prim::DictConstruct":
            found += _leaves(list(node.inputs())[1::2])
        elif node.kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
            found += _leaves(list(node.inputs()))
        else:
            found.append(value)
    return found


def _flat(answer: Any) -> List[Any]:
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (tuple, list)):
        return [leaf for item in answer for leaf in _flat(item)]
    return [answer]


def _integers(item: Dict[str, Any], value: np.ndarray) -> np.ndarray:
    """The integers behind a dequantised output: proven, since times the scale they give it back bit for bit."""
    shape = [1] * value.ndim
    scale = np.asarray(item["scale"], np.float32)
    if scale.size > 1:
        shape[item["axis"] % value.ndim] = scale.size
    scale = scale.reshape(shape)
    integers = np.rint(value.astype(np.float64) / scale)
    limits = np.iinfo(item["raw_dtype"])
    if item["tail"] or np.abs(integers).max(initial=0) >= 2**24 or not np.array_equal(integers.astype(np.float32) * scale, value):
        raise ToolchainError(
            "an output of the int model is not its integers times its scale, so they cannot be told",
            "let `dequant` be the last operation of every output",
            output=item["name"],
            found=", ".join(item["tail"]) or "other values",
        )
    if integers.min(initial=0) < limits.min or integers.max(initial=0) > limits.max:
        raise ToolchainError(
            "an output of the int model does not fit the type of the hbm's feature", output=item["name"], expected=item["raw_dtype"]
        )
    return integers.astype(item["raw_dtype"])
