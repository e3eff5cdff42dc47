"""Is the tumour benign? 30 measurements of cell nuclei (scikit-learn's bundled Wisconsin breast cancer set, 569 patients)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import ConfigError
from qatladder.runner.adapter import Adapter, Model, Sample, Tensors

SEED = 20240611
SPLITS = {"evaluation": 200, "calibration": 50, "train": 319}

MEAN = np.array(
    [
        14.088,
        19.118,
        91.785,
        649.55,
        0.097074,
        0.10516,
        0.092654,
        0.050365,
        0.18161,
        0.063016,
        0.39976,
        1.1919,
        2.8163,
        39.064,
        0.0068866,
        0.02544,
        0.032882,
        0.011808,
        0.020393,
        0.0038547,
        16.219,
        25.502,
        107.02,
        872.31,
        0.13332,
        0.25844,
        0.28198,
        0.11699,
        0.29295,
        0.084633,
    ],
    np.float32,
)
DEVIATION = np.array(
    [
        3.4324,
        4.2855,
        23.753,
        334.26,
        0.013919,
        0.05169,
        0.082713,
        0.039353,
        0.027258,
        0.006771,
        0.24902,
        0.55258,
        1.7748,
        35.789,
        0.0026398,
        0.01749,
        0.034367,
        0.0061162,
        0.0080473,
        0.0029267,
        4.678,
        6.355,
        32.606,
        537.73,
        0.022783,
        0.1567,
        0.21544,
        0.06456,
        0.0606,
        0.017926,
    ],
    np.float32,
)
"""Mean and standard deviation of the training split, as exported with the model (five digits)."""


@lru_cache(maxsize=1)
def table() -> tuple[np.ndarray, np.ndarray]:
    """All patients: float64 [569, 30], and int64 [569] (0 malignant, 1 benign)."""
    from sklearn.datasets import load_breast_cancer

    bundle = load_breast_cancer()
    return bundle.data, bundle.target.astype(np.int64)


def rows(split: str) -> np.ndarray:
    """Indices of the patients a split owns."""
    if split not in SPLITS:
        raise ConfigError("the sample zoo has no such split", expected=", ".join(SPLITS), found=split)
    order = np.random.RandomState(SEED).permutation(sum(SPLITS.values()))
    end = sum(list(SPLITS.values())[: list(SPLITS).index(split) + 1])
    return order[end - SPLITS[split] : end]


class WdbcMlp(Adapter):
    metric = "accuracy"
    batch = 30

    def samples(self, split: str, limit: int | None = None) -> Iterator[Sample]:
        features, labels = table()
        for row in islice(rows(split), limit):
            yield Sample({"features": features[row].astype(np.float32).reshape(30, 1, 1)}, int(labels[row]))

    def preprocess(self, inputs: Tensors) -> Tensors:
        normal = (inputs["features"].reshape(30) - MEAN) / DEVIATION
        return {"features": normal.astype(np.float32).reshape(1, 30, 1, 1)}

    def load(self, rung: str, artifact: Path) -> Model:
        from torch_rung import load_rung

        return load_rung("wdbc_mlp", rung, artifact)

    def postprocess(self, outputs: Tensors) -> int:
        return int(outputs["logits"].reshape(2).argmax())

    def score(self, predictions: list[Any], targets: list[Any]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.array(predictions) == np.array(targets)))}
