"""Which digit is the warm one? A 64x64 frame with a red or orange digit among blue ones; the label is the warm digit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from frames import coloured_digit, sources

from qatladder.runner.adapter import Adapter, Model, Sample, Tensors

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SCALE = np.array([0.01712475, 0.017507, 0.01742919], np.float32)


class DigitsCnn(Adapter):
    metric = "top1"
    batch = 30

    def samples(self, split: str, limit: int | None = None) -> Iterator[Sample]:
        for index in islice(range(len(sources(split))), limit):
            frame = coloured_digit(split, index)
            yield Sample({"image": frame.pixels}, int(frame.labels[0]))

    def preprocess(self, inputs: Tensors) -> Tensors:
        normal = (inputs["image"].astype(np.float32) - MEAN) * SCALE
        return {"image": np.ascontiguousarray(normal.transpose(2, 0, 1)[None])}

    def load(self, rung: str, artifact: Path) -> Model:
        from torch_rung import load_rung

        return load_rung("digits_cnn", rung, artifact)

    def postprocess(self, outputs: Tensors) -> int:
        return int(outputs["logits"].reshape(10).argmax())

    def score(self, predictions: list[Any], targets: list[Any]) -> dict[str, float]:
        return {"top1": float(np.mean(np.array(predictions) == np.array(targets)))}
