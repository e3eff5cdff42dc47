"""Finds what is wrong with a zoo entry before the night does: gates, files, adapter, shapes, preprocessing, checkpoints, ONNX.

The model's own code runs in the model's environment, on a few samples; nothing is converted or compiled.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import BrokenError, QATLadderError, RunnerError
from qatladder.numerics.compare import compare
from qatladder.numerics.contract import GRAY_LEVEL_SHARE, InputContract, explain_difference
from qatladder.runner import adapters
from qatladder.runner.client import run_job
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Entry, InputSpec, OnBoard

RUNGS = ("float", "calib", "qat")
SAMPLES = 4
"""Samples the adapter is tried on."""

TIMEOUT = 300.0
"""Seconds one job may take."""

FIELDS = {"channel_swap": "type_train", "offset": "mean", "scale": "scale", "swing": "swing", "transposed": "layout"}
"""The field of an input that a cause of `explain_difference` is about."""


def lint_entry(zoo: Zoo, entry: Entry) -> list[str]:
    """Every problem of one entry, one line each: the field, what is wrong, what to write."""
    problems = []
    if entry.gates.float.min is None:
        problems.append(f"gates.float: has no min, and float has no rung below to drop from; write the lowest acceptable {entry.metric}")
    wanted = entry.samples.probe
    if entry.samples.evaluation is not None and entry.samples.evaluation < wanted:
        problems.append(
            f"samples.evaluation: {entry.samples.evaluation} is less than samples.probe {wanted}, which int.fidelity and hbm.bit_exact compare: "
            f"they would stay unprovable; write evaluation: {wanted} or more, or a smaller probe"
        )
    if entry.artifacts.calib is None and entry.artifacts.qat is None and not all(target.ptq for target in entry.targets):
        problems.append("artifacts: neither calib nor qat, so nothing is quantised; name at least one checkpoint, or give the target a ptq")
    if any(target.source == "onnx" for target in entry.targets):
        problems += _onnx(zoo, entry)
    for which in ("int", "hbm"):
        path = zoo.artifact(entry, which)
        if path is not None and not path.is_file():
            problems.append(f"artifacts.{which}: {path} does not exist; make it, or correct the path")
    if entry.artifacts.int is None and (needing := [target.id for target in entry.targets if target.source == "int"]):
        problems.append(
            f"artifacts.int: is empty, so the target {', '.join(needing)} has nothing to compile; name the traced int model of the plugin"
        )
    for target in entry.targets:
        if target.environment is not None and target.environment not in zoo.environments:
            problems.append(
                f"targets.{target.id}.environment: zoo.yaml defines no {target.environment}; it defines {', '.join(zoo.environments)}"
            )
    problems += [
        f"data: {path} does not exist, so that nothing tells whether the adapter reads the same data every night; correct the path"
        for path in (zoo.artifact_root / name for name in entry.data)
        if not path.exists()
    ]
    for target_id, program in _programs(entry):
        problems += [
            f"targets.{target_id}.onboard.files: {zoo.folder / file} does not exist; build it, or correct the path"
            for file in program.files
            if not (zoo.folder / file).is_file()
        ]
    checkpoints: dict[str, Path] = {}
    for rung in RUNGS:
        path = zoo.artifact(entry, rung)
        if path is None:
            continue
        if path.exists():
            checkpoints[rung] = path
        else:
            problems.append(f"artifacts.{rung}: {path} does not exist; make it, or correct the path")
    try:
        with tempfile.TemporaryDirectory(prefix="qatladder-lint-") as folder:
            problems += _Trial(zoo, entry, Path(folder)).problems(checkpoints)
    except QATLadderError as error:
        problems.append(f"environment: {_one_line(error)}")
    return problems


class _Trial:
    """The adapter on a few samples, a job per step, each using what the one before it left."""

    def __init__(self, zoo: Zoo, entry: Entry, folder: Path) -> None:
        self.entry = entry
        self.zoo = zoo.folder
        self.exported_file = zoo.artifact(entry, "onnx")
        self.exported = _exported_outputs(zoo, entry)
        self.environment = zoo.environment(entry)
        self.adapter = {"adapter": zoo.adapter(entry), "options": entry.adapter_options}
        self.folder = folder

    def _job(self, function: str, name: str, **arguments: Any) -> dict[str, Any]:
        call = f"qatladder.runner.evaluate:{function}"
        arguments = {**self.adapter, **arguments}
        return dict(run_job(self.environment, call, arguments, self.folder / name, timeout=TIMEOUT, reads=[self.zoo]).value)

    def problems(self, checkpoints: dict[str, Path]) -> Iterator[str]:
        """Raises BrokenError when the environment itself does not work."""
        step = "adapter.samples"
        try:
            exported = self._job("export_samples", "export", split="evaluation", limit=SAMPLES, out=str(self.folder / "raw"))
            step = "adapter.preprocess"
            tensors = self._job("preprocess", "pre", inputs=exported["inputs"], out=str(self.folder / "tensors"))["tensors"]
        except BrokenError:
            raise
        except QATLadderError as error:
            yield f"{step}: {_one_line(error)}"
            return
        wanted = self.entry.samples.probe
        if exported["count"] < min(SAMPLES, wanted):
            yield (
                f"adapter.samples: yields {exported['count']} of the split `evaluation`, int.fidelity and hbm.bit_exact compare {wanted} "
                "(samples.probe): they would stay unprovable; yield more, or write a smaller probe"
            )
        if any(target.ptq for target in self.entry.targets):
            try:
                self._job("export_samples", "calibration", split="calibration", limit=1, out=str(self.folder / "calibration"))
            except BrokenError:
                raise
            except QATLadderError as error:
                yield f"adapter.samples: a ptq target needs the split `calibration`: {_one_line(error)}"
        yield from self._repeated(exported["samples_sha256"])
        sound = True
        for spec in self.entry.inputs:
            if spec.name not in exported["inputs"] or spec.name not in tensors:
                yield f"inputs.{spec.name}: the adapter has no such input; it has {', '.join(tensors)}"
                sound = False
                continue
            raw, tensor = np.load(exported["inputs"][spec.name]), np.load(tensors[spec.name])
            misfits = list(_misfits(spec, raw, tensor))
            yield from misfits
            sound &= not misfits
            if spec.is_image and not misfits:
                yield from _preprocessing(spec, raw, tensor)
        ran: dict[str, dict[str, str]] = {}
        for rung, path in checkpoints.items():
            try:
                outputs = self._job("infer", rung, rung=rung, artifact=str(path), tensors=tensors, out=str(self.folder / f"out-{rung}"))
            except BrokenError as error:
                yield f"artifacts.{rung}: its job broke, loading {path}: {_one_line(error)}"
                continue
            except RunnerError as error:
                if sound:  # else the inputs are at fault, and said to be
                    yield f"artifacts.{rung}: the adapter cannot load and run {path}: {_one_line(error)}"
                continue
            except QATLadderError as error:
                yield f"artifacts.{rung}: {path} cannot be loaded and run, make it anew: {_one_line(error)}"
                continue
            endless = [name for name, file in outputs["tensors"].items() if not np.isfinite(np.load(file)).all()]
            if endless:
                yield f"artifacts.{rung}: its output {', '.join(endless)} is not finite; evaluate the checkpoint on its own"
            else:
                ran[rung] = outputs["tensors"]
        if ran:
            answered = next(iter(ran.values()))
            yield from self._metric(answered, exported["targets"])
            yield from self._results(answered)
            if sound:
                yield from self._origin(ran, tensors)

    def _repeated(self, sha256: str) -> Iterator[str]:
        """Are the samples the same when they are asked for again? A drop between two rungs means nothing otherwise."""
        try:
            again = self._job("export_samples", "again", split="evaluation", limit=SAMPLES, out=str(self.folder / "again"))
        except BrokenError:
            raise
        except QATLadderError as error:
            yield f"adapter.samples: fails when it is asked again: {_one_line(error)}"
            return
        if again["samples_sha256"] != sha256:
            yield (
                "adapter.samples: yields other samples when it is asked again, so that no two rungs could be compared; fix their order, and the seed of "
                "whatever is random"
            )

    def _origin(self, ran: dict[str, dict[str, str]], tensors: dict[str, str]) -> Iterator[str]:
        """Was the ONNX exported from the entry's checkpoint? Asked where the environment's ONNX Runtime can run it, within `fidelity`."""
        converting = [target for target in self.entry.targets if target.source == "onnx"]
        trained = "qat" if self.entry.artifacts.qat is not None else "calib"
        source = "float" if all(target.ptq is not None for target in converting) else trained
        if source not in ran or not self.exported or self.environment.place is not None or set(self.exported) - set(ran[source]):
            return
        arguments = {"adapter": f"{Path(adapters.__file__).resolve()}:OnnxModel", "options": {}, "artifact": str(self.exported_file)}
        try:
            found = self._job("infer", "onnx", **arguments, rung=source, tensors=tensors, out=str(self.folder / "onnx"))["tensors"]
        except QATLadderError:
            return  # no ONNX Runtime there, or one that does not take this model: nothing was learnt about it
        gap = self._gap(ran[source], found)
        if gap:
            other = next((rung for rung in reversed(ran) if rung != source and not self._gap(ran[rung], found)), "")
            follows = f"it follows artifacts.{other}" if other else "it follows no checkpoint of the entry"
            yield f"artifacts.onnx: was not exported from artifacts.{source}: {gap}; {follows}; export it from {source} again, or correct the path"

    def _gap(self, checkpoint: dict[str, str], exported: dict[str, str]) -> str:
        """The first output of the exported model that does not follow the checkpoint's; empty when all do."""
        limits = self.entry.fidelity
        for name in self.exported:
            if name not in checkpoint:
                return f"{name} is no output of it"
            theirs, ours = np.load(checkpoint[name]), np.load(exported[name])
            if theirs.size != ours.size:
                return f"{name} is {list(ours.shape)} for {list(theirs.shape)}"
            if not (np.isfinite(theirs).all() and np.isfinite(ours).all()):
                return f"{name} is not finite"
            found = compare(theirs.astype(np.float32), ours.reshape(theirs.shape).astype(np.float32), name, profile=False)
            if found.cosine < limits.min_cosine or found.mean_lsb > limits.max_mean_lsb:
                return (
                    f"{name} cosine {found.cosine:.6f}, mean {found.mean_lsb:.3g} LSB "
                    f"(fidelity: >= {limits.min_cosine:g}, <= {limits.max_mean_lsb:g} LSB)"
                )
        return ""

    def _metric(self, outputs: dict[str, str], targets: str) -> Iterator[str]:
        try:
            metric = self._job("score", "score", outputs=outputs, targets=targets, out=str(self.folder / "scored"))["metric"]
        except RunnerError as error:
            metric = error.where.get("metric")  # known although its value is not finite: a few samples may be too few for it
            if metric is None:
                yield f"adapter.score: fails on {SAMPLES} samples: {_one_line(error)}"
                return
        except BrokenError:
            raise
        except QATLadderError as error:
            yield f"adapter.score: {_one_line(error)}"
            return
        if metric != self.entry.metric:
            yield f"metric: is {self.entry.metric}, the adapter's primary metric is {metric}; write metric: {metric}"

    def _results(self, outputs: dict[str, str]) -> Iterator[str]:
        """What others say of the outputs: the exported model, the expectations, and the on-board programs, which also dump predictions."""
        if strange := [name for name in self.exported if name not in outputs]:
            yield (
                f"artifacts.onnx: the adapter's model has no output {', '.join(strange)}, as the exported one has; it has {', '.join(outputs)}; "
                "export it with these output_names, or correct the names the adapter gives"
            )
        for name in dict.fromkeys(item.output for item in self.entry.expectations):
            if name not in outputs:
                yield f"expectations: the model has no output {name}; it has {', '.join(outputs)}"
        prediction: Any = None
        for target, program in _programs(self.entry):
            for item in program.outputs:
                field = f"targets.{target}.onboard.outputs: {item.name} {item.stage}"
                if item.stage != "postprocessed":
                    if item.name not in outputs:
                        yield f"{field}: the model has no such output; it has {', '.join(outputs)}"
                    continue
                if prediction is None:
                    try:
                        answer = self._job("predict", "predict", outputs=outputs, out=str(self.folder / "predicted"))
                    except BrokenError:
                        raise
                    except QATLadderError as error:
                        yield f"adapter.postprocess: {_one_line(error)}"
                        return
                    prediction = json.loads(Path(answer["predictions"]).read_text(encoding="utf-8"))[0]
                keys = list(prediction) if isinstance(prediction, dict) else []
                if missing := [name for name in item.fields if name not in keys]:
                    yield f"{field}: the adapter's prediction has no {', '.join(missing)}; it has {', '.join(keys) or 'no fields'}"
                elif keys and not item.fields:
                    yield f"{field}: the adapter's prediction has several parts; write fields: [{', '.join(keys)}], in the order of the dump"


def _programs(entry: Entry) -> Iterator[tuple[str, OnBoard]]:
    """(target, the user's program on its boards)."""
    return ((target.id, target.onboard) for target in entry.targets if target.onboard is not None)


def _misfits(spec: InputSpec, raw: np.ndarray, tensor: np.ndarray) -> Iterator[str]:
    """What of one input is no sample as the world delivers it, or no training tensor as the entry declares it."""
    field = f"inputs.{spec.name}"
    if len(tensor) != len(raw):
        yield f"{field}: preprocess gives {list(tensor.shape)} for {len(raw)} samples; give every sample a batch axis of 1"
        return
    if spec.is_image and (raw.dtype != np.uint8 or raw.shape[1:] != (*spec.height_width, 3)):
        yield f"{field}: samples are {raw.dtype} {list(raw.shape[1:])}, an image is uint8 {[*spec.height_width, 3]}"
    if tensor.dtype != np.float32 or tensor.shape[1:] != spec.shape[1:]:
        yield (
            f"{field}: preprocess gives {tensor.dtype} {[1, *tensor.shape[1:]]}, the entry declares float32 {list(spec.shape)}; "
            "correct shape and layout, or the adapter"
        )
    if not np.isfinite(tensor).all():
        yield f"{field}: preprocess gives NaN or infinity; correct the adapter"


def _preprocessing(spec: InputSpec, pictures: np.ndarray, trained: np.ndarray) -> Iterator[str]:
    """The question of the check int.input: does the entry declare what the training code does?"""
    contract = spec.contract()
    gap = compare(trained, contract.training_tensor_of_pictures(pictures), spec.name, profile=False).max_abs
    if gap <= contract.tolerance:
        return
    mark = explain_difference(contract, pictures, trained, contract.tolerance)
    right = _correction(contract, pictures, trained)
    fields = ", ".join(right) or FIELDS.get(mark.cause, "type_train, layout, mean, scale")
    why = mark.detail or "the declared preprocessing is not what the training code does"
    write = "write " + ", ".join(f"{field}: {value}" for field, value in right.items()) if right else f"correct {fields}"
    yield f"inputs.{spec.name}.{fields}: {why} (off by up to {gap:.3g}); {write}"


def _correction(contract: InputContract, pictures: np.ndarray, trained: np.ndarray) -> dict[str, str]:
    """The right values of the wrong fields, fitted to the training code; empty when no mean and scale can express what it does.

    A line per channel is fitted from the pictures in the declared colour order, then in the other one, to the training tensor.
    """
    other = {"rgb": "bgr", "bgr": "rgb"}.get(contract.type_train, "")
    target = trained.transpose(0, 2, 3, 1) if contract.layout == "NCHW" else trained
    for colours in filter(None, (contract.type_train, other)):
        plain = replace(contract, type_train=colours, layout="NHWC", mean=(), scale=())
        values = plain.training_tensor_of_pictures(pictures).astype(np.float64)
        if min(float(np.ptp(values[..., channel])) for channel in range(values.shape[-1])) < 2:
            continue  # nothing to fit a line through
        lines = [np.polyfit(values[..., channel].ravel(), target[..., channel].ravel(), 1) for channel in range(values.shape[-1])]
        scale, start = np.array(lines).T
        if not scale.all() or np.abs(values * scale + start - target).max() > GRAY_LEVEL_SHARE * np.abs(scale).max():
            continue
        right = {"type_train": colours} if colours != contract.type_train else {}
        # As close as two hundredths of a gray level is the same number, written with fewer digits.
        if np.abs(-start / scale - (contract.mean or (0.0,))).max() > 2 * GRAY_LEVEL_SHARE:
            right["mean"] = _numbers(-start / scale)
        if np.abs(scale / (contract.scale or (1.0,)) - 1).max() > 1e-4:
            right["scale"] = _numbers(scale)
        return right
    return {}


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value + 0.0:.6g}" for value in np.where(np.abs(values) < 1e-6, 0.0, values)) + "]"


def _onnx(zoo: Zoo, entry: Entry) -> Iterator[str]:
    """The exported model: can it be read, is it whole, and does it take the entry's inputs?"""
    path = zoo.artifact(entry, "onnx")
    if path is None:
        yield "artifacts.onnx: is empty, so the int, hbm and board rungs have nothing to convert; name the exported QDQ ONNX"
        return
    if not path.exists():
        yield f"artifacts.onnx: {path} does not exist; export it, or correct the path"
        return
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        if not graph.node:
            yield f"artifacts.onnx: {path} holds no operator; export it again"
            return
        onnx.checker.check_model(str(path))
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        yield f"artifacts.onnx: {path} is not a whole ONNX model, export it again: {str(error).splitlines()[0] if str(error) else error!r}"
        return
    quantised = any(node.op_type == "QuantizeLinear" for node in graph.node)
    for target in entry.targets:
        if target.source == "onnx" and quantised == (target.ptq is not None):
            yield (
                f"targets.{target.id}.ptq: the exported model carries scales of its own; export the float model, or leave ptq out"
                if quantised
                else f"artifacts.onnx: {path} holds no QuantizeLinear; export the qat (or calib) model, or give the target {target.id} a ptq"
            )
    constants = {item.name for item in graph.initializer}
    found = {item.name: item.type.tensor_type for item in graph.input if item.name not in constants}
    declared = {spec.name: spec for spec in entry.inputs}
    for name in found.keys() - declared.keys():
        yield f"inputs: the exported model's input {name} is not declared; add it (declared: {', '.join(declared)})"
    for name, spec in declared.items():
        if name not in found:
            yield f"inputs.{name}: the exported model has no such input; it has {', '.join(found) or 'none'}"
            continue
        shape = tuple(axis.dim_value or axis.dim_param or "?" for axis in found[name].shape.dim)
        if shape != spec.shape:
            yield f"inputs.{name}.shape: is {list(spec.shape)}, the exported model takes {_shape(shape)}; write that, or export it again"
        if found[name].elem_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(found[name].elem_type).lower()
            yield f"inputs.{name}: the exported model takes {kind}, not float32; export the training model itself"


def _exported_outputs(zoo: Zoo, entry: Entry) -> list[str]:
    """Names of the exported model's outputs; none where no target converts it, or `_onnx` says what is wrong with the file."""
    path = zoo.artifact(entry, "onnx")
    if path is None or not path.is_file() or all(target.source != "onnx" for target in entry.targets):
        return []
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return [item.name for item in onnx.load(str(path), load_external_data=False).graph.output]
    except (OSError, DecodeError):
        return []


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def _one_line(error: QATLadderError) -> str:
    """An error as one line of bearable length."""
    line = " ".join(str(error).split())
    return line if len(line) <= 500 else line[:497] + "..."
