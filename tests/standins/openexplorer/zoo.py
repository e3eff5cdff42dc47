"""A J5 team's model: a small network on nv12, its int model traced with the plugin, ready to be validated on march bayes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tests.integration.toolchains import nets
from tests.standins.openexplorer.environment import STANDIN
from tests.standins.openexplorer.plan import write_plan

from qatladder.toolchains.hmct import Hmct

ADAPTER = """
import json
from pathlib import Path
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

MEAN, SCALE = np.float32([123.675, 116.28, 103.53]), np.float32([0.01712475, 0.017507, 0.01742919])


class Head(Adapter):
    metric = "top1"

    def samples(self, split, limit=None):
        data = np.load(Path(__file__).with_name("pictures.npy"))
        labels = json.loads(Path(__file__).with_name("labels.json").read_text())
        for picture, label in list(zip(data, labels))[:limit]:
            yield Sample({"data": picture}, label)

    def preprocess(self, inputs):
        return {"data": ((inputs["data"].astype(np.float32) - MEAN) * SCALE).transpose(2, 0, 1)[None]}

    def load(self, rung, artifact):
        import torch
        net = torch.jit.load(str(artifact)).eval()

        def run(tensors):
            with torch.no_grad():
                return {"out": net(torch.from_numpy(np.ascontiguousarray(tensors["data"]))).numpy()}

        return run

    def postprocess(self, outputs):
        return int(outputs["out"].mean((0, 2, 3)).argmax())

    def score(self, predictions, targets):
        return {"top1": float(np.mean(np.array(predictions) == np.array(targets)))}
"""
SIZE = (32, 64)


def pictures(count: int) -> np.ndarray:
    """[N, 32, 64, 3] uint8 RGB of nv12 pictures, so that chroma is halved already."""
    frames = nets.nv12_pictures(np.random.default_rng(11), count, *SIZE)
    yuv = nets.yuv444_128(frames).astype(np.float32)
    y, u, v = yuv[..., 0] + 128, yuv[..., 1], yuv[..., 2]
    return np.clip(np.rint(np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)), 0, 255).astype(np.uint8)


def build(folder: Path, hmct: Hmct, python: Path, seed: int = 0) -> dict[str, Any]:
    """Write the adapter and the artifacts of the entry into a folder; returns the entry as YAML has it.

    `seed` chooses the weights: two seeds are two trainings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rgb = pictures(12)
    np.save(folder / "pictures.npy", rgb)
    (folder / "head.py").write_text(ADAPTER)
    tensors = ((rgb.astype(np.float32) - np.float32(nets.MEAN)) * np.float32(nets.SCALE)).transpose(0, 3, 1, 2)
    net = nets.build(nets.Head(3), [(tensor[None],) for tensor in tensors], seed=seed)
    example = torch.from_numpy(np.ascontiguousarray(tensors[:1]))
    floating = Floating(net).eval()
    with torch.no_grad():
        labels = [int(floating(torch.from_numpy(np.ascontiguousarray(tensor[None]))).mean((0, 2, 3)).argmax()) for tensor in tensors]
        torch.jit.save(torch.jit.trace(floating, example), str(folder / "float.pt"))
        torch.jit.save(torch.jit.trace(net.eval(), example), str(folder / "qat.pt"))
    (folder / "labels.json").write_text(json.dumps(labels))
    nets.export(net, (tensors[0][None],), folder / "qat.onnx", ["data"], ["out"])
    entry = nets.entry("head", [nets.nv12_input(*SIZE)], "bayes")
    conversion = hmct.convert(entry, entry.targets[0], folder / "qat.onnx", folder / "integers", lambda line: None)
    write_plan(conversion.products["int"], conversion.products["hbir"], "bayes", ["pyramid"], folder / "plan")
    trace(folder / "plan", folder / "int.pt", python)
    return {
        "model": "j5_head",
        "version": "1",
        "adapter": f"{folder / 'head.py'}:Head",
        "environment": "j5",
        "inputs": [nets.nv12_input(*SIZE)],
        "outputs": ["out"],
        "artifacts": {name: str(folder / f"{name}.pt") for name in ("float", "qat", "int")},
        "metric": "top1",
        "gates": {"float": {"min": 0.9}, "qat": {"max_drop": 0.2}, "int": {"max_drop": 0.1}},
        "samples": {"probe": 4, "board": 4},
        "targets": [{"march": "bayes", "toolchain": "openexplorer"}],
    }


class Floating(torch.nn.Module):
    """The same weights without fake-quantisation."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.conv, self.head = net.stem.conv, net.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(torch.nn.functional.conv2d(x, self.conv.weight, self.conv.bias, 2, 1))
        return torch.nn.functional.conv2d(x, self.head.weight, self.head.bias)


def trace(plan: Path, file: Path, python: Path) -> None:
    """What a user's deployment script does with the plugin: convert, trace, save."""
    command = [str(python), "-m", "horizon_plugin_pytorch.int_model", str(plan), str(file)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(STANDIN)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def write_zoo(folder: Path, entries: list[dict[str, Any]], environments: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.yaml").write_text(yaml.safe_dump({"environments": environments}))
    for entry in entries:
        (folder / f"{entry['model']}.yaml").write_text(yaml.safe_dump(entry))
