"""Small fake-quantised networks: untrained, calibrated by the largest value, exported as a user exports a QAT model."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from qatladder.zoo.schema import Entry

MEAN, SCALE = (123.675, 116.28, 103.53), (0.01712475, 0.017507, 0.01742919)


class FakeQuant(nn.Module):
    """Symmetric int8 per tensor; takes its scale from the largest value it sees while `calibrating`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calibrating = 0.0, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.calibrating:
            self.scale = max(self.scale, float(x.abs().max()) / 127)
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, -128, 127)


def _per_channel(weight: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.fake_quantize_per_channel_affine(weight, scale, torch.zeros(len(scale), dtype=torch.int32), axis, -128, 127)


class Conv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, _per_channel(self.weight, self.weight_scale, 0), self.bias)


class Deconv(nn.ConvTranspose2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv_transpose2d(x, _per_channel(self.weight, self.weight_scale, 1), self.bias, self.stride, self.padding)


class Linear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, _per_channel(self.weight, self.weight_scale, 0), self.bias)


class Stem(nn.Module):
    """One quantised conv + relu on a quantised input: what every network below starts with."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.input, self.conv, self.out = FakeQuant(), Conv(channels, 16, 3, 2, 1), FakeQuant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(self.input(x))))


class Residual(nn.Module):
    """Two outputs of very different shape: logits through a global pool and a Gemm, and a map; with a residual add."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = Stem(channels)
        self.conv2, self.quant2 = Conv(16, 16, 3, 1, 1), FakeQuant()
        self.conv3, self.quant3 = Conv(16, 16, 3, 1, 1), FakeQuant()
        self.pool, self.quant_pool, self.fc = nn.AdaptiveAvgPool2d(1), FakeQuant(), Linear(16, 10)
        self.head = Conv(16, 6, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        x = self.quant3(torch.relu(x + self.conv3(self.quant2(torch.relu(self.conv2(x))))))
        return self.fc(torch.flatten(self.quant_pool(self.pool(x)), 1)), self.head(x)


class Head(nn.Module):
    """The smallest model: stem and 1x1 head."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem, self.head = Stem(channels), Conv(16, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x))


class Necks(Head):
    """Max pool, nearest upsampling, concat, transposed conv, a Gemm over a flattened map and a mean without kept axes."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels)
        self.low, self.low_quant, self.cat_quant = Conv(16, 16, 3, 1, 1), FakeQuant(), FakeQuant()
        self.up, self.up_quant, self.map = Deconv(32, 8, 2, 2), FakeQuant(), Conv(8, 4, 1)
        self.flat, self.mean_quant, self.vector = Linear(16 * 8 * 16, 5), FakeQuant(), Linear(32, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.stem(x)
        small = torch.max_pool2d(x, 2)
        low = nn.functional.interpolate(self.low_quant(torch.relu(self.low(small))), scale_factor=2, mode="nearest")
        both = self.cat_quant(torch.cat([x, low], 1))
        return (
            self.map(self.up_quant(torch.relu(self.up(both)))),
            self.flat(torch.flatten(small, 1)),
            self.vector(self.mean_quant(both.mean((2, 3)))),
        )


class ConcatWithoutQuant(Head):
    """Concatenates tensors of two scales without quantising the result: hmct would choose one."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.branch_quant, self.head = Conv(16, 16, 3, 1, 1), FakeQuant(), Conv(32, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x, self.branch_quant(torch.relu(self.branch(x)))], 1))


class RoundInTheMiddle(Head):
    """Round runs on the CPU only, so the model falls into two BPU parts."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.middle_quant = Conv(16, 16, 3, 1, 1), FakeQuant()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle_quant(torch.round(self.middle(self.stem(x)))))


class SoftmaxTail(Head):
    """Softmax over the channel axis, on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(super().forward(x), 1)


class TwoInputs(nn.Module):
    """A picture and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.vector_quant, self.fc, self.fc_quant = Stem(3), FakeQuant(), Linear(8, 16), FakeQuant()
        self.sum_quant, self.head = FakeQuant(), Conv(16, 6, 1)

    def forward(self, picture: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        bias = self.fc_quant(self.fc(self.vector_quant(vector)))
        return self.head(self.sum_quant(self.stem(picture) + bias[:, :, None, None]))


def build(net: nn.Module, samples: list[tuple[np.ndarray, ...]], seed: int = 0) -> nn.Module:
    """Fix the weights, calibrate activations on float32 `samples` (batch first), switch the fake-quantisation on."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data = (torch.rand(parameter.shape, generator=generator) - 0.45) * 2 / max(1, parameter[0].numel()) ** 0.5
        parameter.requires_grad_(False)
    for module in net.modules():
        if isinstance(module, (Conv, Linear, Deconv)):
            axes = [axis for axis in range(module.weight.ndim) if axis != (1 if isinstance(module, Deconv) else 0)]
            module.register_buffer("weight_scale", module.weight.abs().amax(axes) / 127)
    for sample in samples:
        net(*map(torch.from_numpy, sample))
    for module in net.modules():
        if isinstance(module, FakeQuant):
            module.calibrating = False
    return net.eval()


def export(net: nn.Module, sample: tuple[np.ndarray, ...], file: Path, inputs: list[str], outputs: list[str]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, tuple(map(torch.from_numpy, sample)), str(file), input_names=inputs, output_names=outputs, opset_version=13, dynamo=False
        )
    return file


def entry(model: str, inputs: list[dict], march: str, **target: object) -> Entry:
    return Entry.model_validate(
        {
            "model": model,
            "version": "1",
            "adapter": "a.py:A",
            "inputs": inputs,
            "artifacts": {"float": "float.pt"},
            "metric": "top1",
            "gates": {"float": {"min": 0.5}},
            "targets": [{"march": march, **target}],
        }
    )


def nv12_input(height: int, width: int, source: str = "pyramid") -> dict:
    return {
        "name": "data",
        "shape": [1, 3, height, width],
        "type_train": "rgb",
        "type_rt": "nv12",
        "source": source,
        "mean": list(MEAN),
        "scale": list(SCALE),
    }


def featuremap_input(*shape: int, name: str = "data", layout: str = "NCHW") -> dict:
    return {"name": name, "shape": list(shape), "layout": layout, "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}


def nv12_pictures(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """[N, H*3/2, W] uint8: smooth brightness, little colour, so that every RGB value stays within 0..255."""
    y, x = np.mgrid[0:height, 0:width]
    pictures = []
    for _ in range(count):
        a, b, phase = rng.uniform(0.1, 0.5, 3)
        luma = 128 + 45 * np.sin(a * y + phase) * np.cos(b * x) + rng.normal(0, 6, (height, width))
        chroma = 128 + rng.uniform(-14, 14, (height // 2, width))
        pictures.append(np.clip(np.concatenate([luma, chroma]), 0, 255).astype(np.uint8))
    return np.stack(pictures)


def yuv444_128(nv12: np.ndarray) -> np.ndarray:
    """[N, H*3/2, W] uint8 to the intermediate type: [N, H, W, 3] int8, value - 128, chroma doubled."""
    height = nv12.shape[1] * 2 // 3
    chroma = nv12[:, height:].reshape(len(nv12), height // 2, -1, 2).repeat(2, 1).repeat(2, 2)
    return (np.concatenate([nv12[:, :height, :, None], chroma], -1).astype(np.int16) - 128).astype(np.int8)


def training_tensor(nv12: np.ndarray) -> np.ndarray:
    """The float32 [N, 3, H, W] tensor of training for an nv12 picture: BT.601 full swing to RGB, mean and scale."""
    yuv = yuv444_128(nv12).astype(np.float64)
    y, u, v = yuv[..., 0] + 128, yuv[..., 1], yuv[..., 2]
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], 1)
    return ((rgb - np.reshape(MEAN, (3, 1, 1))) * np.reshape(SCALE, (3, 1, 1))).astype(np.float32)
