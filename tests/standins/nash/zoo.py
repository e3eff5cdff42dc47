"""A J6 team's model: a small network on nv12, exported with its own scales, and as a float model to be calibrated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.integration.toolchains import nets
from tests.standins.openexplorer.zoo import ADAPTER, SIZE, Floating, pictures


def build(folder: Path) -> dict[str, Any]:
    """Write the adapter and the artifacts of the entry into a folder; returns the entry as YAML has it."""
    folder.mkdir(parents=True, exist_ok=True)
    rgb = pictures(12)
    np.save(folder / "pictures.npy", rgb)
    (folder / "head.py").write_text(ADAPTER)
    tensors = ((rgb.astype(np.float32) - np.float32(nets.MEAN)) * np.float32(nets.SCALE)).transpose(0, 3, 1, 2)
    net = nets.build(nets.Head(3), [(tensor[None],) for tensor in tensors])
    example = np.ascontiguousarray(tensors[:1])
    floating = Floating(net).eval()
    with torch.no_grad():
        labels = [int(floating(torch.from_numpy(np.ascontiguousarray(tensor[None]))).mean((0, 2, 3)).argmax()) for tensor in tensors]
        torch.jit.save(torch.jit.trace(floating, torch.from_numpy(example)), str(folder / "float.pt"))
        torch.jit.save(torch.jit.trace(net.eval(), torch.from_numpy(example)), str(folder / "qat.pt"))
    (folder / "labels.json").write_text(json.dumps(labels))
    nets.export(net, (example,), folder / "qat.onnx", ["data"], ["out"])
    nets.export(floating, (example,), folder / "float.onnx", ["data"], ["out"])
    return {
        "model": "j6_head",
        "version": "1",
        "adapter": f"{folder / 'head.py'}:Head",
        "inputs": [nets.nv12_input(*SIZE)],
        "artifacts": {"float": str(folder / "float.pt"), "qat": str(folder / "qat.pt"), "onnx": str(folder / "qat.onnx")},
        "metric": "top1",
        "gates": {"float": {"min": 0.9}, "qat": {"max_drop": 0.2}, "int": {"max_drop": 0.1}},
        "samples": {"probe": 4, "board": 4},
        "targets": [{"march": "nash-e", "toolchain": "nash", "environment": "j6"}],
    }
