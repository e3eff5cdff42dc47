"""The detector: two anchor-free heads at strides 8 and 16 on 1x3x96x96."""

from __future__ import annotations

import numpy as np
import torch
from frames import Frame, many_digits
from torch import Tensor, nn
from torch.nn import functional

from training.fit import Recipe
from training.quant import ConvUnit, QuantPoint

RECIPE = Recipe(adapter="digits_det.py:DigitsDet", shape=(1, 3, 96, 96), batch=32, epochs=8, rate=3e-3, qat_epochs=1, qat_rate=2e-4)

SIZE = 96
STRIDES = (8, 16)
SPLIT_AT = 28
"""Longest side, in pixels, up to which a digit belongs to the fine head."""


class Network(nn.Module):
    inputs = ("image",)
    outputs = ("head8", "head16")

    def __init__(self) -> None:
        super().__init__()
        self.image = QuantPoint()
        self.stem = ConvUnit(3, 16, stride=2)
        self.down4 = ConvUnit(16, 32, stride=2)
        self.down8 = ConvUnit(32, 64, stride=2)
        self.block8a, self.block8b = ConvUnit(64, 64), ConvUnit(64, 64)
        self.neck8 = ConvUnit(64, 64)
        self.head8 = ConvUnit(64, 15, kernel=1, head=True)
        self.down16 = ConvUnit(64, 96, stride=2)
        self.block16a, self.block16b = ConvUnit(96, 96), ConvUnit(96, 96)
        self.head16 = ConvUnit(96, 15, kernel=1, head=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.down8(self.down4(self.stem(self.image(image))))
        x = self.block8b(self.block8a(x), skip=x)
        y = self.down16(x)
        y = self.block16b(self.block16a(y), skip=y)
        return self.head8(self.neck8(x)), self.head16(y)


def training_set() -> tuple[dict[str, np.ndarray], list[Tensor]]:
    """Raw inputs, [N, ...] by name, and the targets of `loss`: per head the digit's number (-1: none) and its box, per cell."""
    frames = [many_digits("train", index) for index in range(4 * 1317)]
    targets = [_assign(frame, stride) for stride in STRIDES for frame in frames]
    fine, coarse = targets[: len(frames)], targets[len(frames) :]
    stacked = [torch.from_numpy(np.stack(column)) for part in (fine, coarse) for column in zip(*part, strict=True)]
    return {"image": np.stack([frame.pixels for frame in frames])}, stacked


def _assign(frame: Frame, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cell answers for which digit: the cells within 0.8 strides of its centre, in the head of its size.

    Returns:
        int64 [H, W], the digit or -1; float32 [4, H, W], its box.
    """
    cells = SIZE // stride
    labels = np.full((cells, cells), -1, np.int64)
    boxes = np.zeros((4, cells, cells), np.float32)
    centre = (np.arange(cells) + 0.5) * stride
    for box, label in zip(frame.boxes, frame.labels, strict=True):
        small = max(box[2] - box[0], box[3] - box[1]) <= SPLIT_AT
        if small != (stride == STRIDES[0]):
            continue
        near_x = np.abs(centre - (box[0] + box[2]) / 2) < 0.8 * stride
        near_y = np.abs(centre - (box[1] + box[3]) / 2) < 0.8 * stride
        inside = (near_y & (centre > box[1]) & (centre < box[3]))[:, None] & (near_x & (centre > box[0]) & (centre < box[2]))[None, :]
        labels[inside] = label
        boxes[:, inside] = box[:, None]
    return labels, boxes


def loss(outputs: tuple[Tensor, Tensor], labels8: Tensor, boxes8: Tensor, labels16: Tensor, boxes16: Tensor) -> Tensor:
    """Binary cross-entropy of objectness, plus cross-entropy of the digit and 1 - IoU of the box where a digit is."""
    parts = [_head_loss(outputs[0], labels8, boxes8, STRIDES[0]), _head_loss(outputs[1], labels16, boxes16, STRIDES[1])]
    return torch.stack(parts).sum()


def _head_loss(head: Tensor, labels: Tensor, boxes: Tensor, stride: int) -> Tensor:
    there = labels >= 0
    count = there.sum().clamp(min=1)
    objectness = functional.binary_cross_entropy_with_logits(head[:, 0], there.float(), reduction="sum") / count
    if not there.any():
        return objectness
    cells = head.permute(0, 2, 3, 1)[there]
    truth = boxes.permute(0, 2, 3, 1)[there]
    _, y, x = there.nonzero(as_tuple=True)
    centre = (torch.stack([x, y], 1) + 0.5) * stride
    distance = cells[:, 1:5].clamp(-4, 4).exp() * stride
    wanted = torch.cat([centre - truth[:, :2], truth[:, 2:] - centre], 1)
    low, high = torch.minimum(distance[:, :2], wanted[:, :2]), torch.minimum(distance[:, 2:], wanted[:, 2:])
    shared = (low + high).clamp(min=0).prod(1)
    areas = (distance[:, :2] + distance[:, 2:]).prod(1) + (wanted[:, :2] + wanted[:, 2:]).prod(1)
    box = (1 - shared / (areas - shared)).mean()
    return objectness + 2 * box + functional.cross_entropy(cells[:, 5:], labels[there])
