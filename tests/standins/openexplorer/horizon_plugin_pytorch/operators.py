"""Stand-in of the operators `horizon::bpu_scale_quantization` and `horizon::bpu_scale_dequantization` of a traced int model.

Integers travel as float64 tensors: exact to 2**53, which no accumulator of these networks reaches.
"""

import torch

library = torch.library.Library("horizon", "DEF")
library.define(
    "bpu_scale_quantization(Tensor data, Tensor scale, Tensor zero_point, int vector_dim, int quant_min, int quant_max, str qtype, "
    "str round_mode, str march_str) -> Tensor"
)
library.define("bpu_scale_dequantization(Tensor data, Tensor scale, int ch_axis) -> Tensor")


def quantise(data, scale, zero_point, vector_dim, quant_min, quant_max, qtype, round_mode, march_str):
    """clamp(floor(x / scale + 0.5)), the documents' rule."""
    return torch.clamp(torch.floor(data / scale + 0.5), quant_min, quant_max).double()


def dequantise(data, scale, ch_axis):
    if scale.numel() > 1:
        shape = [1] * data.dim()
        shape[ch_axis] = scale.numel()
        scale = scale.reshape(shape)
    return data.float() * scale


library.impl("bpu_scale_quantization", quantise, "CPU")
library.impl("bpu_scale_dequantization", dequantise, "CPU")
