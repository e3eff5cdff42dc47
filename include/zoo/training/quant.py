"""How does a float network become a calibrated and then a quantisation-aware trained one?

The arithmetic is the BPU's: symmetric int8 with zero point 0, `q = clamp(round_half_even(x / scale), -128, 127)`, one scale
per activation tensor and one per output channel of a weight, `scale = threshold / 127`. The hardware fuses
conv + add + relu and rounds once, so a value is fake-quantised once, behind all three.

    prepare(network)              fold batch norm, put fake-quant behind every unit (rung calib and qat have this form)
    calibrate(network, batches)   choose the activation scales
    network.train(); fit ...      quantisation-aware training: straight-through gradients inside the clamping range
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

QMIN, QMAX = -128, 127


class QuantPoint(nn.Identity):
    """Marks where a network's value is int8 on the hardware. Does nothing in the float network; `prepare` replaces it.

    Args:
        percentile: share of |x| of a calibration batch that lies within the threshold; 1.0 is the maximum.
    """

    def __init__(self, percentile: float = 1.0) -> None:
        super().__init__()
        self.percentile = percentile


class ActivationQuant(nn.Module):
    """Fake-quant of an activation with one scale, fixed by `calibrate`."""

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.thresholds: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.thresholds is not None:
            self.thresholds.append(_threshold(x, self.percentile))
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, QMIN, QMAX)


class WeightQuant(nn.Module):
    """Fake-quant of a conv weight, [O, I, H, W], one scale per output channel; follows the weight while it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))

    @torch.no_grad()
    def follow(self, weight: Tensor) -> None:
        self.scale.copy_(weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / QMAX)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.follow(weight)
        return torch.fake_quantize_per_channel_affine(weight, self.scale, self.zero_point, 0, QMIN, QMAX)


class ConvUnit(nn.Module):
    """conv (+ batch norm) (+ skip) (+ relu), then one quantisation: what the hardware runs as one operation.

    A `head` has a bias instead of a batch norm, no relu, and leaves its int32 sums unquantised.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, head: bool = False) -> None:
        super().__init__()
        self.head = head
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=head)
        self.norm: nn.Module = nn.Identity() if head else nn.BatchNorm2d(outputs)
        self.weight_quant: nn.Module = nn.Identity()
        self.output: nn.Module = nn.Identity() if head else QuantPoint()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        conv = self.conv
        x = self.norm(functional.conv2d(x, self.weight_quant(conv.weight), conv.bias, conv.stride, conv.padding))
        if skip is not None:
            x = x + skip
        return self.output(x if self.head else functional.relu(x))

    @torch.no_grad()
    def fold(self) -> None:
        """Merge the batch norm into weight and bias, so that fake-quant sees the weight the hardware multiplies with."""
        if isinstance(self.norm, nn.BatchNorm2d):
            gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
            self.conv.weight.mul_(gain[:, None, None, None])
            self.conv.bias = nn.Parameter(self.norm.bias - self.norm.running_mean * gain)
            self.norm = nn.Identity()


def prepare(network: nn.Module) -> None:
    """Turn a float network, in place, into its fake-quantised form; weight scales are set, activation scales are 1."""
    for module in list(network.modules()):
        if isinstance(module, ConvUnit):
            module.fold()
            quant = WeightQuant(module.conv.out_channels)
            quant.follow(module.conv.weight)
            module.weight_quant = quant
        for name, child in list(module.named_children()):
            if isinstance(child, QuantPoint):
                setattr(module, name, ActivationQuant(child.percentile))
    network.eval()


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set every activation scale to the mean threshold of the batches / 127, in place."""
    quants = [module for module in network.modules() if isinstance(module, ActivationQuant)]
    network.eval()
    for quant in quants:
        quant.thresholds = []
    for batch in batches:
        network(batch)
    for quant in quants:
        quant.scale.fill_((torch.stack(quant.thresholds).mean() / QMAX).clamp(min=1e-8))
        quant.thresholds = None


def _threshold(x: Tensor, percentile: float) -> Tensor:
    size = x.detach().abs().flatten()
    if percentile >= 1.0:
        return size.max()
    return size.kthvalue(max(1, round(percentile * size.numel()))).values
