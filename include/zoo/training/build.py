"""One sample model from nothing to its artifacts: float, calib, qat checkpoints and the QDQ ONNX of the last two."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qatladder.runner.adapter import Adapter, load_adapter
from training.fit import Recipe, fit, tensors
from training.quant import calibrate, prepare

SEED = 7
CALIBRATION_BATCH = 20


def build(model: str, adapters: Path, write: Callable[[str, bytes], None], log: Callable[[str], None]) -> dict[str, float]:
    """Train, calibrate, fine-tune and export.

    Args:
        model: module of this package.
        write: takes each artifact's file name and content.
        log: takes one line per stage.
    Returns:
        The adapter's metric of the float, calib and qat network on the evaluation split.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    module = importlib.import_module(f"training.{model}")
    recipe: Recipe = module.RECIPE
    adapter = load_adapter(adapters / recipe.adapter)
    clock = _Clock(log)

    raw, targets = module.training_set()
    network = module.Network()
    name = network.inputs[0]
    feed = {
        "batches": lambda chosen: tensors(adapter, raw, name, chosen, recipe.jitter),
        "targets": targets,
        "loss": module.loss,
        "batch": recipe.batch,
    }
    clock(f"data   {len(targets[0])} training samples")

    measured = {}
    last = fit(network, epochs=recipe.epochs, rate=recipe.rate, warmup=0.25, **feed)
    measured["float"] = _measure(adapter, network)
    write("float.pt", _checkpoint(network))
    clock(f"float  {recipe.epochs} epochs, loss {last:.3f}, {adapter.metric} {measured['float']:.4f}")

    prepare(network)
    samples = [adapter.preprocess(sample.inputs)[name] for sample in adapter.samples("calibration")]
    calibrate(network, torch.from_numpy(np.concatenate(samples)).split(CALIBRATION_BATCH))
    measured["calib"] = _measure(adapter, network)
    write("calib.pt", _checkpoint(network))
    write("calib_qdq.onnx", _export(network, recipe))
    clock(f"calib  {len(samples)} samples, {adapter.metric} {measured['calib']:.4f}")

    last = fit(network, epochs=recipe.qat_epochs, rate=recipe.qat_rate, warmup=0.0, **feed)
    measured["qat"] = _measure(adapter, network)
    write("qat.pt", _checkpoint(network))
    write("qat_qdq.onnx", _export(network, recipe))
    clock(f"qat    {recipe.qat_epochs} epochs, loss {last:.3f}, {adapter.metric} {measured['qat']:.4f}")
    return measured


class _Clock:
    """Logs a line with the seconds since the last one."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.last = time.perf_counter()

    def __call__(self, line: str) -> None:
        now = time.perf_counter()
        self.log(f"{line}  ({now - self.last:.1f} s)")
        self.last = now


@torch.inference_mode()
def _measure(adapter: Adapter, network: nn.Module) -> float:
    samples = list(adapter.samples("evaluation"))
    predictions = []
    for sample in samples:
        outputs = network(*(torch.from_numpy(adapter.preprocess(sample.inputs)[name]) for name in network.inputs))
        predictions.append(adapter.postprocess({name: output.numpy() for name, output in zip(network.outputs, outputs, strict=True)}))
    return adapter.score(predictions, [sample.target for sample in samples])[adapter.metric]


def _checkpoint(network: nn.Module) -> bytes:
    buffer = io.BytesIO()  # written to a path, torch would put the path's name into the file
    torch.save(network.state_dict(), buffer)
    return buffer.getvalue()


def _export(network: nn.Module, recipe: Recipe) -> bytes:
    """QDQ ONNX at opset 13, the first that has a per-channel QuantizeLinear."""
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(recipe.shape),),
        buffer,
        input_names=list(network.inputs),
        output_names=list(network.outputs),
        opset_version=13,
        dynamo=False,
    )
    return buffer.getvalue()
