"""`load`, `Model.forward`, `inputs[i].properties`, `outputs[i].buffer`, as on an X3, J5 or X5. The simulator is real, the binding is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.boards.virtual.hrt import hbm, model


@dataclass(frozen=True)
class Properties:
    tensor_type: str
    dtype: str
    layout: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PyDNNTensor:
    name: str
    properties: Properties
    buffer: Any = None


class Model:
    """One model; `forward` takes one array, or a list with one per input, and gives one tensor per output."""

    def __init__(self, found: model.Model) -> None:
        self._model = found
        self.name = found.name
        self.inputs = [PyDNNTensor(tensor.name, _properties(tensor)) for tensor in found.inputs]
        self.outputs = [PyDNNTensor(tensor.name, _properties(tensor)) for tensor in found.outputs]

    def forward(self, data: Any) -> list[PyDNNTensor]:
        arrays = data if isinstance(data, Sequence) else [data]
        if len(arrays) != len(self._model.inputs):
            raise ValueError(f"the model has {len(self._model.inputs)} inputs, not {len(arrays)}")
        buffers = []
        for tensor, array in zip(self._model.inputs, arrays, strict=True):
            buffers.append(_padded(tensor, np.asarray(array)))
        outputs = self._model.run(buffers)
        return [
            PyDNNTensor(tensor.name, _properties(tensor), np.ascontiguousarray(tensor.read(data)))
            for tensor, data in zip(self._model.outputs, outputs, strict=True)
        ]


def load(path: str) -> list[Model]:
    """The models of a `.hbm` or `.bin` file, if they are compiled for this board's BPU."""
    found = model.load(Path(path))
    march = os.environ.get("QATLADDER_VIRTUAL_MARCH", "")
    for item in found:
        for part in item.hbms:
            if march and part.march != march:
                raise hbm.ToolError(f"load model failed, {item.name} is compiled for {part.march}, the BPU is {march}", hbm.INVALID_MODEL)
    return [Model(item) for item in found]


def _properties(tensor: model.Tensor) -> Properties:
    return Properties(tensor.type.rpartition("TYPE_")[2], tensor.dtype.name, tensor.layout, tensor.valid)


def _padded(tensor: model.Tensor, array: Any) -> bytes:
    if tensor.stride == (0, 0, 0, 0):  # a picture: bytes as they are
        data = bytes(np.ascontiguousarray(array, np.uint8).tobytes())
        if len(data) != tensor.size:
            raise ValueError(f"{tensor.name} takes {tensor.size} bytes, not {len(data)}")
        return data
    if array.size != np.prod(tensor.valid):
        raise ValueError(f"{tensor.name} takes {tensor.valid}, not {array.shape}")
    buffer = bytearray(tensor.size)
    np.ndarray(tensor.valid, tensor.dtype, buffer, 0, tensor.stride)[...] = array.reshape(tensor.valid)
    return bytes(buffer)
