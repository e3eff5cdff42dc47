"""Stand-in of `convert_fx` and `torch.jit.trace`: from a network's integers to a traced int model.

The plan (plan.json and plan.npz; tests/standins/openexplorer/plan.py writes it from the vendor's quantized ONNX) lists the integer
operators of the network. Each is computed as the BPU computes it: convolutions are exact sums, both shifts of
`((acc >> right_shift) * scale) >> out_shift` floor (the half for rounding is in the bias already), then the limits of int8.

    python -m horizon_plugin_pytorch.int_model PLAN_FOLDER INT.pt
"""

import json
import os
import sys

import numpy as np
import torch
from torch import nn

import horizon_plugin_pytorch.operators  # noqa: F401


class Quantise(nn.Module):
    """QuantStub of the converted model."""

    def __init__(self, scale, march):
        super().__init__()
        self.march = march
        self.register_buffer("scale", torch.tensor([scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int64))

    def forward(self, x):
        return torch.ops.horizon.bpu_scale_quantization(x, self.scale, self.zero_point, -1, -128, 127, "qint8", "bpu_round", self.march)


class Dequantise(nn.Module):
    """DeQuantStub of the converted model."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, x):
        return torch.ops.horizon.bpu_scale_dequantization(x, self.scale, 1)


class Convolution(nn.Module):
    """An integer convolution, NCHW."""

    def __init__(self, step, weight, bias):
        super().__init__()
        self.step = step
        self.register_buffer("weight", torch.from_numpy(weight.transpose(0, 3, 1, 2).astype(np.float64)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float64)))
        self.requantised = step["output_bit"] == 8
        if self.requantised:
            for name in ("right_shift", "scale", "out_shift"):
                values = torch.tensor(step[name], dtype=torch.float64).reshape(1, -1, 1, 1)
                self.register_buffer(name, values if name == "scale" else torch.pow(2.0, values))

    def forward(self, x):
        step = self.step
        top, left, bottom, right = step["pads"]
        x = nn.functional.pad(x, (left, right, top, bottom))
        x = nn.functional.conv2d(x, self.weight, self.bias, step["strides"], 0, step["dilations"], step["group"])
        if self.requantised:
            x = torch.floor(x / self.right_shift)
            x = torch.floor(x * self.scale / self.out_shift)
            x = torch.clamp(x, 0 if step["activation"] == "relu" else -128, 127)
        return x


class Network(nn.Module):
    def __init__(self, folder):
        super().__init__()
        with open(os.path.join(folder, "plan.json")) as file:
            plan = json.load(file)
        arrays = np.load(os.path.join(folder, "plan.npz"))
        self.quantise = nn.ModuleList([Quantise(scale, plan["march"]) for scale in plan["input_scales"]])
        self.steps = nn.ModuleList(
            [Convolution(step, arrays["weight_%d" % index], arrays["bias_%d" % index]) for index, step in enumerate(plan["steps"])]
        )
        self.dequantise = Dequantise(arrays["output_scale"].astype(np.float32))
        with open(os.path.join(folder, "model.hbir"), "rb") as file:
            self.register_buffer("hbir", torch.tensor(list(bytearray(file.read())), dtype=torch.uint8))
        self.register_buffer("sources", torch.tensor(list(bytearray(",".join(plan["sources"]).encode())), dtype=torch.uint8))
        self.shape = plan["input_shape"]

    def forward(self, x):
        x = self.quantise[0](x)
        for step in self.steps:
            x = step(x)
        return self.dequantise(x)


if __name__ == "__main__":
    network = Network(sys.argv[1]).eval()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(network, torch.zeros(network.shape), check_trace=False), sys.argv[2])
