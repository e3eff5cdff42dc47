"""How does an adapter of the sample zoo load its float, calib or qat checkpoint?"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

from qatladder.runner.adapter import Model, Tensors

ZOO = Path(__file__).resolve().parents[1]


def load_rung(model: str, rung: str, artifact: Path) -> Model:
    """Rebuild the network of `training/<model>.py` as it is at a rung and fill it from a checkpoint.

    Returns:
        float32 [N, ...] tensors by input name to float32 [N, ...] tensors by output name.
    """
    import torch

    if str(ZOO) not in sys.path:
        sys.path.insert(0, str(ZOO))
    network = importlib.import_module(f"training.{model}").Network()
    if rung != "float":
        importlib.import_module("training.quant").prepare(network)
    network.load_state_dict(torch.load(artifact, map_location="cpu", weights_only=True))
    network.eval()

    def run(tensors: Tensors) -> Tensors:
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in network.inputs))
        return {name: output.numpy() for name, output in zip(network.outputs, outputs, strict=True)}

    return run
