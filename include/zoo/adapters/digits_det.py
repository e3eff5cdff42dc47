"""Where is which digit? A single-shot, anchor-free detector on 96x96 frames with two heads."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from detection import mean_average_precision, nms
from frames import many_digits, sources

from qatladder.runner.adapter import Adapter, Model, Sample, Tensors

STRIDES = {"head8": 8, "head16": 16}


class DigitsDet(Adapter):
    """Each head is [1, 15, H, W]: objectness logit; log distances from the cell's centre to left, top, right, bottom in
    strides; 10 class logits.

    Args:
        score_threshold: detections below it are dropped.
        nms_iou: a detection that overlaps a better one by more is dropped, whatever its class.
    """

    metric = "mAP50"
    batch = 30

    def __init__(self, score_threshold: float = 0.05, nms_iou: float = 0.5) -> None:
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou

    def samples(self, split: str, limit: int | None = None) -> Iterator[Sample]:
        for index in islice(range(len(sources(split))), limit):
            frame = many_digits(split, index)
            yield Sample({"image": frame.pixels}, {"boxes": frame.boxes.tolist(), "labels": frame.labels.tolist()})

    def preprocess(self, inputs: Tensors) -> Tensors:
        normal = (inputs["image"].astype(np.float32) - np.float32(128)) * np.float32(0.0078125)
        return {"image": np.ascontiguousarray(normal.transpose(2, 0, 1)[None])}

    def load(self, rung: str, artifact: Path) -> Model:
        from torch_rung import load_rung

        return load_rung("digits_det", rung, artifact)

    def postprocess(self, outputs: Tensors) -> dict[str, list[Any]]:
        parts = [_decode(outputs[name][0], stride) for name, stride in STRIDES.items()]
        boxes, scores, labels = (np.concatenate(items) for items in zip(*parts, strict=True))
        likely = np.flatnonzero(scores >= self.score_threshold)
        kept = likely[nms(boxes[likely], scores[likely], self.nms_iou)]
        return {"boxes": boxes[kept].tolist(), "scores": scores[kept].tolist(), "labels": labels[kept].tolist()}

    def score(self, predictions: list[Any], targets: list[Any]) -> dict[str, float]:
        return {"mAP50": mean_average_precision(predictions, targets)}


def _decode(head: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One head, [15, H, W], to boxes [H*W, 4] in pixels, scores [H*W] and labels [H*W]."""
    _, height, width = head.shape
    cells = head.reshape(15, -1).astype(np.float64)
    y, x = np.divmod(np.arange(height * width), width)
    centre = (np.stack([x, y]) + 0.5) * stride
    distance = np.exp(np.clip(cells[1:5], -4.0, 4.0)) * stride
    boxes = np.concatenate([centre - distance[:2], centre + distance[2:]]).T
    chance = np.exp(cells[5:] - cells[5:].max(axis=0))
    scores = chance.max(axis=0) / chance.sum(axis=0) / (1.0 + np.exp(-cells[0]))
    return boxes, scores, cells[5:].argmax(axis=0)
