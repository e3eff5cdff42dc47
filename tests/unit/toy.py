"""A toy zoo: a real ladder's float, calib and qat rungs in milliseconds of model code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from qatladder.settings import PROJECT

ADAPTER = """
import json
import numpy as np
from qatladder.runner.adapter import Adapter, Sample

class Toy(Adapter):
    \"\"\"Classifies by the sign of the first feature; the artifact says how many of ten samples it gets wrong.\"\"\"
    metric = "accuracy"

    def samples(self, split, limit=None):
        for index in range(10):
            yield Sample({"x": np.array([1.0 if index % 2 else -1.0, index], "float32")}, index % 2)

    def preprocess(self, inputs):
        return {"x": inputs["x"][None]}

    def load(self, rung, artifact):
        wrong = json.loads(artifact.read_text())["wrong"]
        return lambda t: {"y": np.where(t["x"][:, 1:] < wrong, -t["x"][:, :1], t["x"][:, :1])}

    def postprocess(self, outputs):
        return int(outputs["y"][0, 0] > 0)

    def score(self, predictions, targets):
        return {"accuracy": sum(p == t for p, t in zip(predictions, targets)) / len(targets)}
"""


class ToyZoo:
    """Writes entries and artifacts; the library reads them through the environment variables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / "home" / "zoo" / "toy"
        self.artifacts.mkdir(parents=True)
        (folder / "zoo").mkdir()
        (folder / "zoo" / "toy.py").write_text(ADAPTER)
        shutil.copy(PROJECT / "include" / "zoo" / "fleet.yaml", folder / "zoo")

    def artifact(self, which: str, wrong: int) -> None:
        (self.artifacts / f"{which}.json").write_text(f'{{"wrong": {wrong}}}')

    def entry(self, **changes: Any) -> None:
        data: dict[str, Any] = {
            "model": "toy",
            "version": "1",
            "adapter": "toy.py:Toy",
            "inputs": [
                {"name": "x", "shape": [1, 2], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}
            ],
            "artifacts": {"float": "toy/float.json", "calib": "toy/calib.json", "qat": "toy/qat.json"},
            "metric": "accuracy",
            "gates": {"float": {"min": 0.9}, "calib": {"max_drop": 0.1}, "qat": {"max_drop": 0.0}},
            "targets": [{"march": "bayes"}],
        }
        data.update(changes)
        (self.folder / "zoo" / "toy.yaml").write_text(yaml.safe_dump(data))
