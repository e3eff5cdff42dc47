"""A stand-in for PyTorch, so that the vendor's converter imports without the 2 GB wheel it does not use.

hmct (dg_nn_toolkit 1.0.0) imports torch at the top of modules that every conversion needs. For an ONNX model it then uses torch for
three things only, and these are here: names in annotations and isinstance() tests (`Tensor`, `nn.Module`), its table of dtypes, and the
registration of exporter symbolics, which has nothing to register with. Everything else raises `TorchStandInError`, so that a path which
does need torch fails by name instead of computing something else.

Only on the path of the vendor environment (see `qatladder.toolchains.hmct`); the product and the models use the real PyTorch.
"""

from __future__ import annotations

import types
from typing import Any, NoReturn

__version__ = "0.0.0+qatladder.standin"


class TorchStandInError(RuntimeError):
    """The vendor's code needed the real PyTorch."""


class dtype:
    """A dtype object: compared by identity and used as a key, never computed with."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"torch.{self._name}"


float16, float32, float64, bfloat16 = dtype("float16"), dtype("float32"), dtype("float64"), dtype("bfloat16")
uint8, int8, int16, int32, int64 = dtype("uint8"), dtype("int8"), dtype("int16"), dtype("int32"), dtype("int64")
bool, complex64, complex128 = dtype("bool"), dtype("complex64"), dtype("complex128")


class Tensor:
    """Never instantiated: `isinstance(x, torch.Tensor)` is False for every value hmct holds."""

    def __init__(self, *_: object, **__: object) -> None:
        _missing("Tensor")


class LongTensor(Tensor):
    """As `Tensor`."""


class _Module:
    """`torch.nn.Module`: never instantiated."""


def _missing(name: str) -> NoReturn:
    raise TorchStandInError(
        f"torch.{name} was called, but the vendor environment holds a stand-in for PyTorch: "
        "this conversion path needs the real one (only ONNX models are converted without it)"
    )


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_, **__: _missing(name)


nn = types.SimpleNamespace(Module=_Module)
cuda = types.SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)

import torch.onnx as onnx  # noqa: E402 - `from torch import onnx` would ask __getattr__ first

__all__ = ["LongTensor", "Tensor", "TorchStandInError", "cuda", "dtype", "nn", "onnx"]
