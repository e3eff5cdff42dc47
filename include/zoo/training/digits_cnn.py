"""The classifier: a residual network of 0.1 M weights on 1x3x64x64."""

from __future__ import annotations

import numpy as np
import torch
from frames import coloured_digit
from torch import Tensor, nn
from torch.nn import functional

from training.fit import Recipe
from training.quant import ConvUnit, QuantPoint

RECIPE = Recipe(adapter="digits_cnn.py:DigitsCnn", shape=(1, 3, 64, 64), batch=64, epochs=7, rate=4e-3, qat_epochs=1, qat_rate=2e-4)


class Network(nn.Module):
    inputs = ("image",)
    outputs = ("logits",)

    def __init__(self) -> None:
        super().__init__()
        self.image = QuantPoint()
        self.stem = ConvUnit(3, 16, stride=2)
        self.down1 = ConvUnit(16, 32, stride=2)
        self.block1a, self.block1b = ConvUnit(32, 32), ConvUnit(32, 32)
        self.down2 = ConvUnit(32, 64, stride=2)
        self.block2a, self.block2b = ConvUnit(64, 64), ConvUnit(64, 64)
        self.pooled = QuantPoint()
        self.classifier = ConvUnit(64, 10, kernel=1, head=True)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        x = self.down1(self.stem(self.image(image)))
        x = self.block1b(self.block1a(x), skip=x)
        x = self.down2(x)
        x = self.block2b(self.block2a(x), skip=x)
        x = self.pooled(x.mean((2, 3), keepdim=True))
        return (self.classifier(x),)


def training_set() -> tuple[dict[str, np.ndarray], list[Tensor]]:
    """Raw inputs, [N, ...] by name, and the targets of `loss`."""
    frames = [coloured_digit("train", index) for index in range(7 * 1317)]
    return {"image": np.stack([frame.pixels for frame in frames])}, [torch.tensor([int(frame.labels[0]) for frame in frames])]


def loss(outputs: tuple[Tensor], labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs[0].flatten(1), labels, label_smoothing=0.02)
