"""The samples of a ladder as every rung is fed them, derived once and proven equal from rung to rung."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.numerics.contract import InputContract
from qatladder.validation.context import Context
from qatladder.zoo.schema import InputSpec


def contract_of(spec: InputSpec) -> InputContract:
    return spec.contract()


@dataclass(frozen=True)
class Samples:
    """Evaluation samples on disk, [N, ...] .npy per input name.

    Attributes:
        count: N.
        sha256: over all of them, in order.
        targets: JSON file of the ground truth.
        raw: as the adapter delivers them (uint8 RGB pictures; featuremaps before preprocessing).
        training: the adapter's own preprocessing of the first `head` samples (all of them for a featuremap-only model).
        runtime: the board's bytes of image inputs.
        int_inputs: what the int model is fed: the intermediate type of images, the training tensor of featuremaps.
    """

    count: int
    sha256: str
    targets: Path
    raw: dict[str, Path]
    training: dict[str, Path]
    runtime: dict[str, Path]
    int_inputs: dict[str, Path]


def make_samples(context: Context, head: int, int_shapes: dict[str, tuple[int, ...]]) -> Samples:
    """Export the evaluation samples from the model's environment and derive every rung's input from them.

    Args:
        head: how many samples the rungs above compare.
        int_shapes: shape of each input as the int model declares it; an image it wants NCHW is given so.
    """
    entry, folder = context.entry, context.folder / "samples"
    exported = context.model_job(
        "export_samples", {"split": "evaluation", "limit": entry.samples.evaluation, "out": str(folder / "raw")}, "export"
    )
    raw = {name: Path(path) for name, path in exported["inputs"].items()}
    declared = {spec.name for spec in entry.inputs}
    if set(raw) != declared:
        raise ArtifactError(
            "the adapter's samples and the entry's inputs have different names",
            model=entry.model,
            expected=sorted(declared),
            found=sorted(raw),
            next_step="name them alike in `samples` of the adapter and `inputs` of the entry",
        )
    images = [spec for spec in entry.inputs if spec.is_image]
    featuremaps = [spec for spec in entry.inputs if not spec.is_image]
    # Featuremaps are fed to the int model as the adapter makes them, so all are needed; of images only the compared head.
    source = raw if featuremaps else take(raw, head, folder / "head")
    tensors = context.model_job(
        "preprocess", {"inputs": {name: str(path) for name, path in source.items()}, "out": str(folder / "training")}, "preprocess"
    )
    training = {name: Path(path) for name, path in tensors["tensors"].items()}
    if missing := declared - set(training):
        raise ArtifactError(
            "the adapter's preprocess does not return every input of the entry",
            model=entry.model,
            expected=sorted(declared),
            found=sorted(training),
            missing=sorted(missing),
            next_step="return one tensor per input from `preprocess`",
        )
    runtime: dict[str, Path] = {}
    int_inputs = {spec.name: training[spec.name] for spec in featuremaps}
    for spec in images:
        contract = contract_of(spec)
        pictures = np.load(raw[spec.name], mmap_mode="r")
        if tuple(pictures.shape[1:3]) != spec.height_width:
            raise ArtifactError(
                "the adapter's pictures are not of the model's input size",
                model=entry.model,
                input=spec.name,
                expected=f"{spec.height_width[0]}x{spec.height_width[1]}",
                found=f"{pictures.shape[1]}x{pictures.shape[2]}",
                next_step="resize in `samples`: no later rung resizes",
            )
        frames, tensor = None, None
        for start in range(0, len(pictures), 64):
            block = contract.runtime(np.asarray(pictures[start : start + 64]))
            fed = contract.intermediate(block)
            if int_shapes.get(spec.name, ())[1:] == (fed.shape[3], *fed.shape[1:3]):
                fed = np.ascontiguousarray(fed.transpose(0, 3, 1, 2))
            if frames is None or tensor is None:
                runtime[spec.name] = folder / f"{spec.name}.runtime.npy"
                int_inputs[spec.name] = folder / f"{spec.name}.int.npy"
                frames = np.lib.format.open_memmap(
                    runtime[spec.name], mode="w+", dtype=block.dtype, shape=(len(pictures), *block.shape[1:])
                )
                tensor = np.lib.format.open_memmap(int_inputs[spec.name], mode="w+", dtype=fed.dtype, shape=(len(pictures), *fed.shape[1:]))
            frames[start : start + 64] = block
            tensor[start : start + 64] = fed
        assert frames is not None and tensor is not None
        frames.flush()
        tensor.flush()
    return Samples(exported["count"], exported["samples_sha256"], Path(exported["targets"]), raw, training, runtime, int_inputs)


def calibration_samples(context: Context) -> dict[str, Path]:
    """What the toolchain calibrates a `ptq` target on: [N, ...] float32 .npy per input, in the layout of training.

    A featuremap as the adapter makes it; an image as the values 0..255 of `type_train` that the board's picture gives, so that the
    losses of its way there (4:2:0 chroma, say) are calibrated for.
    """
    assert context.target.ptq is not None
    entry, folder = context.entry, context.folder / "calibration"
    exported = context.model_job(
        "export_samples", {"split": "calibration", "limit": context.target.ptq.samples, "out": str(folder / "raw")}, "export_calibration"
    )
    if exported["count"] < context.target.ptq.samples:
        context.log(f"the adapter's split `calibration` has {exported['count']} samples of {context.target.ptq.samples} asked for (ptq)")
    files = {}
    if any(not spec.is_image for spec in entry.inputs):
        made = context.model_job("preprocess", {"inputs": exported["inputs"], "out": str(folder / "training")}, "preprocess_calibration")
        files = {spec.name: Path(made["tensors"][spec.name]) for spec in entry.inputs if not spec.is_image}
    for index, spec in enumerate(entry.inputs):
        if spec.is_image:
            contract = replace(contract_of(spec), mean=(), scale=())
            pictures = np.load(exported["inputs"][spec.name])
            values = contract.training_tensor(contract.intermediate(contract.runtime(pictures)))
            files[spec.name] = folder / f"image_{index}.npy"
            np.save(files[spec.name], values.astype(np.float32))
    return files


def take(files: dict[str, Path], count: int, folder: Path) -> dict[str, Path]:
    """The first `count` samples of each file, as files of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = {}
    for index, (name, path) in enumerate(files.items()):
        taken[name] = folder / f"{index}.npy"
        np.save(taken[name], np.load(path, mmap_mode="r")[:count])
    return taken
