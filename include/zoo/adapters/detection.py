"""Are the detected boxes the true ones? Intersection over union, non-maximum suppression and mAP, in numpy.

Boxes are float [n, 4] in pixels: x0, y0, x1, y1. The metric follows PASCAL VOC 2010 and later (area under the monotone
precision-recall curve), with IoU 0.5 and each true box matched at most once: a second detection of it is a false positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [n, 4] and [m, 4] to float [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices that survive, best score first: a box goes when it overlaps a better one by more than `threshold`."""
    order = np.argsort(-scores, kind="stable")
    overlap = iou(boxes[order], boxes[order])
    kept: list[int] = []
    for position in range(len(order)):
        if not kept or overlap[position, kept].max() <= threshold:
            kept.append(position)
    return order[kept]


def mean_average_precision(predictions: list[dict[str, Any]], targets: list[dict[str, Any]], threshold: float = 0.5) -> float:
    """mAP over the classes that occur in `targets`.

    Args:
        predictions: per frame {"boxes": [[x0, y0, x1, y1], ...], "scores": [...], "labels": [...]}.
        targets: per frame {"boxes": [...], "labels": [...]}.
    """
    classes = sorted({label for target in targets for label in target["labels"]})
    return float(np.mean([_average_precision(predictions, targets, label, threshold) for label in classes]))


def _average_precision(predictions: list[dict[str, Any]], targets: list[dict[str, Any]], label: int, threshold: float) -> float:
    truths = [_of_class(target, label) for target in targets]
    count = sum(len(boxes) for boxes in truths)
    used = [np.zeros(len(boxes), bool) for boxes in truths]
    candidates = [
        (score, frame, np.asarray(box, np.float64))
        for frame, prediction in enumerate(predictions)
        for box, score, found in zip(prediction["boxes"], prediction["scores"], prediction["labels"], strict=True)
        if found == label
    ]
    hits = np.zeros(len(candidates), bool)
    for rank, (_, frame, box) in enumerate(sorted(candidates, key=lambda candidate: -candidate[0])):
        if len(truths[frame]) == 0:
            continue
        overlap = iou(box[None], truths[frame])[0]
        best = int(overlap.argmax())
        if overlap[best] >= threshold and not used[frame][best]:
            used[frame][best] = hits[rank] = True
    found = np.cumsum(hits)
    recall = np.concatenate([[0.0], found / count])
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall) * precision))


def _of_class(target: dict[str, Any], label: int) -> np.ndarray:
    boxes = [box for box, found in zip(target["boxes"], target["labels"], strict=True) if found == label]
    return np.asarray(boxes, np.float64).reshape(-1, 4)
