"""How does an adapter of the sample zoo load its float, calib or qat checkpoint?"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from qatladder.runner.adapter import Model
from qatladder.runner.adapters import as_model, fill, read_weights

ZOO = Path(__file__).resolve().parents[1]


def load_rung(model: str, rung: str, artifact: Path) -> Model:
    """Rebuild the network of `training/<model>.py` as it is at a rung and fill it from a checkpoint.

    Returns:
        float32 [N, ...] tensors by input name to float32 [N, ...] tensors by output name.
    """
    if str(ZOO) not in sys.path:
        sys.path.insert(0, str(ZOO))
    network = importlib.import_module(f"training.{model}").Network()
    if rung != "float":
        importlib.import_module("training.quant").prepare(network)
    fill(network, read_weights(artifact), artifact)
    network.eval()
    return as_model(network, network.inputs, network.outputs)
