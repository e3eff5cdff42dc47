"""Whole networks as they are published, fake-quantised, with random weights: MobileNetV2, ResNet18, a detector of several outputs.

Layers, widths, strides and kernel sizes are the papers'; batch norms are taken as folded into the convolutions, as a QAT export has them.
"""

from __future__ import annotations

import torch
from tests.integration.toolchains.nets import Conv, FakeQuant, Linear
from torch import nn


class ConvQuant(nn.Module):
    """Convolution, activation ("relu", "relu6" or ""), quantisation of what comes out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: str = "relu") -> None:
        super().__init__()
        self.conv, self.act = Conv(inputs, outputs, kernel, stride, kernel // 2, groups=groups), act
        self.quant = FakeQuant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.act:
            x = torch.relu(x) if self.act == "relu" else nn.functional.relu6(x)
        return self.quant(x)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; added to its input where shapes agree (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        layers = [ConvQuant(inputs, wide, 1, act="relu6")] if expand > 1 else []
        layers.append(ConvQuant(wide, wide, 3, stride, groups=wide, act="relu6"))
        self.body = nn.Sequential(*layers, ConvQuant(wide, outputs, 1, act=""))
        self.add = FakeQuant() if stride == 1 and inputs == outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) if self.add is None else self.add(x + self.body(x))


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, table 2; 1000 classes."""

    SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.input = FakeQuant()
        layers: list[nn.Module] = [ConvQuant(3, 32, 3, 2, act="relu6")]
        width = 32
        for expand, outputs, repeats, stride in self.SETTINGS:
            for index in range(repeats):
                layers.append(InvertedResidual(width, outputs, stride if index == 0 else 1, expand))
                width = outputs
        self.features = nn.Sequential(*layers, ConvQuant(width, 1280, 1, act="relu6"))
        self.pool, self.pooled, self.fc = nn.AdaptiveAvgPool2d(1), FakeQuant(), Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.pooled(self.pool(self.features(self.input(x)))), 1))


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = ConvQuant(inputs, outputs, 3, stride), Conv(outputs, outputs, 3, 1, 1)
        self.down = ConvQuant(inputs, outputs, 1, stride, act="") if stride > 1 or inputs != outputs else None
        self.out = FakeQuant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.two(self.one(x)) + (x if self.down is None else self.down(x))))


class ResNet18(nn.Module):
    """He et al. 2015, table 1; 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.stem, self.stem_quant = FakeQuant(), Conv(3, 64, 7, 2, 3), FakeQuant()
        blocks: list[nn.Module] = []
        width = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Basic(width, outputs, stride), Basic(outputs, outputs, 1)]
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.pooled, self.fc = nn.AdaptiveAvgPool2d(1), FakeQuant(), Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.max_pool2d(self.stem_quant(torch.relu(self.stem(self.input(x)))), 3, 2, 1)
        return self.fc(torch.flatten(self.pooled(self.pool(self.blocks(x))), 1))


class Detector(nn.Module):
    """A YOLO-like detector: a small backbone, a top-down path with upsampling and concatenation, three scales, decoupled heads.

    Outputs per scale of stride 8, 16, 32: classes [1, 20, h, w], boxes [1, 4, h, w], objectness [1, 1, h, w].
    """

    OUTPUTS = tuple(f"{kind}_{stride}" for stride in (8, 16, 32) for kind in ("cls", "box", "obj"))

    def __init__(self, width: int = 16, classes: int = 20) -> None:
        super().__init__()
        self.input = FakeQuant()
        self.stem = nn.Sequential(ConvQuant(3, width, 3, 2), ConvQuant(width, 2 * width, 3, 2))
        self.c3 = nn.Sequential(ConvQuant(2 * width, 4 * width, 3, 2), ConvQuant(4 * width, 4 * width, 3))
        self.c4 = nn.Sequential(ConvQuant(4 * width, 8 * width, 3, 2), ConvQuant(8 * width, 8 * width, 3))
        self.c5 = nn.Sequential(ConvQuant(8 * width, 16 * width, 3, 2), ConvQuant(16 * width, 8 * width, 1))
        self.cat4, self.p4 = FakeQuant(), ConvQuant(16 * width, 4 * width, 3)
        self.cat3, self.p3 = FakeQuant(), ConvQuant(8 * width, 4 * width, 3)
        self.heads = nn.ModuleList()
        for inputs in (4 * width, 4 * width, 8 * width):
            branches = nn.ModuleDict({"cls": ConvQuant(inputs, 4 * width, 3), "reg": ConvQuant(inputs, 4 * width, 3)})
            branches.update({"c": Conv(4 * width, classes, 1), "b": Conv(4 * width, 4, 1), "o": Conv(4 * width, 1, 1)})
            self.heads.append(branches)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        c3 = self.c3(self.stem(self.input(x)))
        c4 = self.c4(c3)
        p5 = self.c5(c4)
        p4 = self.p4(self.cat4(torch.cat([nn.functional.interpolate(p5, scale_factor=2.0, mode="nearest"), c4], 1)))
        p3 = self.p3(self.cat3(torch.cat([nn.functional.interpolate(p4, scale_factor=2.0, mode="nearest"), c3], 1)))
        outputs: list[torch.Tensor] = []
        for head, level in zip(self.heads, (p3, p4, p5), strict=True):
            classes, boxes = head["cls"](level), head["reg"](level)
            outputs += [head["c"](classes), head["b"](boxes), head["o"](boxes)]
        return tuple(outputs)
