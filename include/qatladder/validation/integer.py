"""The int rung: convert, prove the input, hold the accuracy, measure the fidelity of the conversion."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.evidence.store import sha256_file
from qatladder.ladder import CheckResult, Rung
from qatladder.ladder.checks import check_ids
from qatladder.numerics.compare import compare
from qatladder.numerics.contract import GRAY_LEVEL_SHARE, explain_difference
from qatladder.toolchains.base import IntInput, IntModel
from qatladder.validation import reuse
from qatladder.validation.ask import Answer, Unprovable, ask, skip_all
from qatladder.validation.context import Context
from qatladder.validation.samples import Samples, calibration_samples, contract_of, make_samples, take
from qatladder.validation.training import judge_metric
from qatladder.zoo.schema import InputSpec


def validate(context: Context) -> list[CheckResult]:
    if reason := context.toolchain.unavailable():
        return skip_all(context, check_ids(Rung.INT), reason)
    work = _Work(context)
    results = [ask(context, "int.input", work.input)]
    if work.model is None:
        reason = f"there is no int model (int.input {results[0].status})"
        return results + skip_all(context, ("int.accuracy", "int.fidelity"), reason)
    results.append(ask(context, "int.accuracy", work.accuracy))
    results.append(ask(context, "int.fidelity", work.fidelity))
    return results


def enough(context: Context, count: int) -> int:
    """How many samples were compared, if they are as many as the entry asks for.

    Raises:
        Unprovable: they are fewer than `samples.probe`.
    """
    wanted = context.entry.samples.probe
    if count < wanted:
        raise Unprovable(f"only {count} sample(s) to compare, the entry asks for {wanted} (samples.probe)")
    return count


class _Work:
    """The int rung's steps, each using what the one before it left."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.entry = context.entry
        self.head = max(self.entry.samples.probe, self.entry.samples.board)
        self.model: IntModel | None = None
        self.int_file: Path | None = None
        self.samples: Samples | None = None
        self.outputs: dict[str, Path] = {}

    @property
    def source(self) -> Rung:
        """The rung the exported ONNX comes from: float when the toolchain quantises, else qat, or calib when qat was skipped."""
        if self.context.target.ptq is not None:
            return Rung.FLOAT
        return Rung.QAT if self.entry.artifacts.qat is not None else Rung.CALIB

    def input(self) -> Answer:
        context, entry = self.context, self.entry
        source = context.target.source
        exported = context.artifact(source)
        context.keep(source, exported)
        calibration = calibration_samples(context) if context.target.ptq is not None else None
        if calibration is not None:
            digests = "".join(sha256_file(path)[0] for _, path in sorted(calibration.items()))
            context.facts["calibration_sha256"] = hashlib.sha256(digests.encode()).hexdigest()
        given = context.artifact("hbm") if entry.artifacts.hbm is not None else None
        conversion, origin = reuse.convert(context, exported, given, calibration)
        for role, path in conversion.products.items():
            context.keep(role, path)
        self.int_file = conversion.products["int"]
        model = conversion.model
        context.facts.update(
            identity=conversion.identity,
            versions=conversion.versions,
            int_model=_jsonable(model),
            source=str(self.source),
            conversion=asdict(origin),
        )
        evidence = [context.products[role] for role in ("config", "log", "int") if role in context.products]
        self.samples = make_samples(context, self.head, {item.name: tuple(item.shape) for item in model.inputs})
        self.model = model
        described = {item.name: item for item in model.inputs}
        problems, measured, values = [], [], {}
        for spec in entry.inputs:
            if spec.name not in described:
                raise ArtifactError("the int model has no such input", model=entry.model, input=spec.name, found=sorted(described))
            declared = _declaration_problem(spec, described[spec.name], np.load(self.samples.int_inputs[spec.name], mmap_mode="r"))
            if declared:
                problems.append(f"{spec.name}: {declared}")
            gap, text = self._gap(spec)
            measured.append(f"{spec.name} {text}")
            values.update(gap)
            if gap.get("fingerprint"):
                problems.append(
                    f"{spec.name}: {gap['fingerprint_detail'] or 'the declared preprocessing is not what the training code does'}"
                )
        return Answer(
            not problems,
            "; ".join([*measured, str(origin)]),
            "; ".join(_expectation(spec) for spec in entry.inputs),
            reason="; ".join(problems),
            values=values,
            evidence=[*evidence, *(item for name, item in context.products.items() if name.startswith("difference/"))],
        )

    def _gap(self, spec: InputSpec) -> tuple[dict[str, Any], str]:
        """How far the declared preprocessing is from the adapter's own, on the same pictures."""
        assert self.samples is not None
        trained = np.load(self.samples.training[spec.name])
        if trained.shape[1:] != spec.shape[1:]:
            raise ArtifactError(
                "the adapter's preprocess gives another shape than the entry declares",
                model=self.entry.model,
                input=spec.name,
                expected=list(spec.shape[1:]),
                found=list(trained.shape[1:]),
                next_step="correct `shape` and `layout` of the input, or the adapter",
            )
        if not spec.is_image:
            finite = bool(np.isfinite(trained).all())
            if not finite:
                raise ArtifactError("the adapter's preprocess gives NaN or infinity", model=self.entry.model, input=spec.name)
            return {}, f"featuremap float32 {list(trained.shape[1:])}, fed as the training code makes it"
        contract = contract_of(spec)
        pictures = np.load(self.samples.raw[spec.name], mmap_mode="r")[: len(trained)]
        declared = contract.training_tensor_of_pictures(np.asarray(pictures))
        found = compare(trained, declared, spec.name)
        tolerance = contract.tolerance
        text = f"as {contract.intermediate_type}: max |declared - trained| {found.max_abs:.3g} (tolerance {tolerance:.1g}) over {len(trained)} pictures"
        values: dict[str, Any] = {"max_abs": found.max_abs, "tolerance": tolerance, "cosine": found.cosine}
        if found.max_abs > tolerance:
            mark = explain_difference(contract, np.asarray(pictures), trained, tolerance)
            first = self.context.folder / f"{spec.name}_declared_and_trained.npy"
            np.save(first, np.stack([declared[0], trained[0]]))
            self.context.keep(f"difference/{spec.name}", first)
            values.update(fingerprint=mark.cause, fingerprint_confidence=mark.confidence, fingerprint_detail=mark.detail)
        return values, text

    def accuracy(self) -> Answer:
        context, samples = self.context, self.samples
        assert samples is not None and self.int_file is not None and self.model is not None
        self.outputs = context.toolchain.run_int(self.int_file, samples.int_inputs, context.folder / "int", False, context.log, self.model)
        value = context.model_job(
            "score",
            {
                "outputs": {item.name: str(self.outputs[item.name]) for item in self.model.outputs},
                "targets": str(samples.targets),
                "out": str(context.folder / "score"),
            },
            "score",
        )
        if value["count"] != samples.count:
            raise ArtifactError("the int model answered for another number of samples", expected=samples.count, found=value["count"])
        return judge_metric(context, {**value, "samples_sha256": samples.sha256}, self.entry.gates.int, self.source)

    def fidelity(self) -> Answer:
        """The fake-quant model and the int model on the same pictures, as the int model sees them.

        The fake-quant model is the qat (or calib) model; where the toolchain quantised, the one it left.
        """
        context, samples, limits = self.context, self.samples, self.entry.fidelity
        assert samples is not None and self.int_file is not None and self.model is not None
        fed = take(samples.int_inputs, self.head, context.folder / "probe_int")
        answered = context.toolchain.run_int(self.int_file, fed, context.folder / "probe_run", True, context.log, self.model)
        self._keep_probe(fed, answered)
        expected = self._reference(fed) if context.target.ptq is not None else self._fake_quant(fed)
        followed = "toolchain's own calibrated" if context.target.ptq is not None else str(self.source)
        passed, texts, values = True, [], {}
        count = enough(context, len(np.load(next(iter(fed.values())), mmap_mode="r")))
        for output in self.model.outputs:
            if output.name not in expected:
                raise ArtifactError(
                    "the fake-quant model has no such output", model=self.entry.model, output=output.name, found=sorted(expected)
                )
            ours, theirs = np.load(answered[output.name]), np.load(expected[output.name])
            if ours.size != theirs.size:
                raise ArtifactError(
                    "the fake-quant model's output has another size than the int model's",
                    model=self.entry.model,
                    output=output.name,
                    expected=list(theirs.shape),
                    found=list(ours.shape),
                    next_step="was the ONNX exported from this checkpoint?",
                )
            found = compare(theirs.reshape(ours.shape), ours, output.name)
            passed &= found.cosine >= limits.min_cosine and found.mean_lsb <= limits.max_mean_lsb
            texts.append(f"{output.name} cosine {found.cosine:.6f}, mean {found.mean_lsb:.3f} LSB, max {found.max_abs:.4g}")
            values[output.name] = found.to_json()
        return Answer(
            passed,
            f"{'; '.join(texts)} on {count} samples",
            f"cosine >= {limits.min_cosine:g} and mean difference <= {limits.max_mean_lsb:g} LSB of {followed}",
            reason="" if passed else f"the int model does not follow the {followed} model it was converted from",
            values={"outputs": values},
            evidence=[context.products[f"raw/{item.raw_name}"] for item in self.model.outputs],
        )

    def _fake_quant(self, fed: dict[str, Path]) -> dict[str, str]:
        """Outputs of the trained fake-quant model on what the int model was fed."""
        context = self.context
        artifact = context.artifact(str(self.source))
        tensors = {}
        for spec in self.entry.inputs:
            tensors[spec.name] = context.folder / f"probe_{spec.name}.npy"
            array = np.load(fed[spec.name])
            if spec.is_image:
                nhwc = array if array.shape[1:3] == spec.height_width else array.transpose(0, 2, 3, 1)
                array = contract_of(spec).training_tensor(np.ascontiguousarray(nhwc))
            np.save(tensors[spec.name], array)
        arguments = {
            "rung": str(self.source),
            "artifact": str(artifact),
            "tensors": {name: str(path) for name, path in tensors.items()},
            "out": str(context.folder / "fake_quant"),
        }
        answered: dict[str, str] = context.model_job("infer", arguments, "infer")["tensors"]
        return answered

    def _reference(self, fed: dict[str, Path]) -> dict[str, str]:
        """Outputs of the fake-quant model the toolchain made by calibrating."""
        context = self.context
        reference = context.folder / "products_of_convert" / "reference.onnx"
        context.store.fetch(context.products["reference"], reference)
        folder = context.folder / "reference"
        folder.mkdir()
        return {name: str(path) for name, path in context.toolchain.run_reference(reference, fed, folder, context.log).items()}

    def _keep_probe(self, fed: dict[str, Path], answered: dict[str, Path]) -> None:
        """Hand the compared samples and their raw integers to the rungs above."""
        context, samples = self.context, self.samples
        assert samples is not None and self.model is not None
        for name, path in take(samples.runtime, self.head, context.folder / "probe_runtime").items():
            context.keep(f"runtime/{name}", path, "runtime.npy")
        for name, path in fed.items():
            context.keep(f"fed/{name}", path, "fed.npy")
        for raw_name in [*(item.raw_name for item in self.model.inputs), *(item.raw_name for item in self.model.outputs)]:
            context.keep(f"raw/{raw_name}", answered[raw_name], "raw.npy")
        context.keep("targets", samples.targets, "targets.json")
        context.facts["compared_samples"] = len(np.load(next(iter(fed.values())), mmap_mode="r"))


def _expectation(spec: InputSpec) -> str:
    kind = contract_of(spec).intermediate_type
    if not spec.is_image:
        return f"{spec.name} is taken as float32 featuremap, finite, in the declared shape"
    return f"{spec.name} is taken as {kind}, and the declared preprocessing equals the training code's to {GRAY_LEVEL_SHARE:g} gray level"


def _declaration_problem(spec: InputSpec, found: IntInput, fed: np.ndarray) -> str:
    """Why the int model's own declaration contradicts the entry; empty when it agrees."""
    dtype = "int8" if spec.is_image else "float32"
    if found.dtype != dtype or tuple(found.shape[1:]) != fed.shape[1:]:
        kind = contract_of(spec).intermediate_type
        return f"the int model takes {found.dtype} {list(found.shape)}, the intermediate type {kind} is {dtype} {[1, *fed.shape[1:]]}"
    return ""


def _jsonable(model: IntModel) -> dict[str, Any]:
    return {"inputs": [asdict(item) for item in model.inputs], "outputs": [asdict(item) for item in model.outputs]}
