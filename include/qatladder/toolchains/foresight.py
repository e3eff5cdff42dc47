"""What a toolchain will refuse of an entry, told before the night: by the same code that refuses it then, and without the vendor's tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from qatladder.errors import ToolchainError
from qatladder.toolchains import hmct_ptq, nash, nash_user
from qatladder.toolchains.hmct_rewrite import rewrite
from qatladder.zoo.load import Zoo
from qatladder.zoo.schema import Entry, Target


def refusals(zoo: Zoo, entry: Entry) -> list[str]:
    """One line per target and mistake. What `qatladder.zoo.lint` says of the exported model (not there, not whole, other inputs, scales) is not repeated."""
    problems = []
    for target in entry.targets:
        looks = {"hmct": _hmct, "nash": _nash}.get(target.toolchain)
        problems += [f"targets.{target.id}: {' '.join(str(error).split())}" for error in (looks(zoo, entry, target) if looks else ())]
    return problems


def _hmct(zoo: Zoo, entry: Entry, target: Target) -> Iterator[ToolchainError]:
    model = _exported(zoo.artifact(entry, "onnx"), entry)
    if model is None or (target.ptq is not None) == any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return
    shapes = {spec.name: list(spec.shape) for spec in entry.inputs}
    try:
        if target.ptq is None:
            rewrite(model, shapes, entry.model)
        else:
            hmct_ptq.check_nodes(model, target.ptq.model_dump())
            hmct_ptq.prepare(model, shapes, entry.model)
    except ToolchainError as error:
        yield error


def _nash(zoo: Zoo, entry: Entry, target: Target) -> Iterator[ToolchainError]:
    for spec in entry.inputs:
        try:
            nash_user.check_inputs([spec.model_dump(mode="json")])
        except ToolchainError as error:
            yield error
    hbm = zoo.artifact(entry, "hbm")
    if hbm is not None:
        yield nash.unproven(entry, hbm)


def _exported(path: Path | None, entry: Entry) -> onnx.ModelProto | None:
    """The exported model; None where `qatladder.zoo.lint` says why it cannot be converted at all."""
    if path is None or not path.is_file():
        return None
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(str(path))
    except (OSError, DecodeError, onnx.checker.ValidationError):
        return None
    constants = {item.name for item in model.graph.initializer}
    found = {item.name: item.type.tensor_type for item in model.graph.input if item.name not in constants}
    sizes = {name: tuple(axis.dim_value for axis in kind.shape.dim) for name, kind in found.items()}
    floats = all(kind.elem_type == onnx.TensorProto.FLOAT for kind in found.values())
    return model if floats and sizes == {spec.name: spec.shape for spec in entry.inputs} else None
