"""`torch.onnx` of the stand-in: symbolics can be registered (and are forgotten), nothing can be exported."""

from __future__ import annotations

from typing import NoReturn

from torch.onnx import symbolic_helper, symbolic_opset9

__all__ = ["export", "register_custom_op_symbolic", "symbolic_helper", "symbolic_opset9"]


def register_custom_op_symbolic(*_: object, **__: object) -> None:
    """Accepted and forgotten: symbolics matter to an export only."""


def export(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("torch.onnx.export was called, but the vendor environment holds a stand-in for PyTorch; export in the model's own")
