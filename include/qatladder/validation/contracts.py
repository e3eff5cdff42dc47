"""Tensor contracts from whatever states them: a zoo entry, a `model_info` console, `hbdk-disas --json`, an ONNX file, our own JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from qatladder.boards import hrt
from qatladder.errors import ArtifactError, BrokenError, ConfigError
from qatladder.numerics.tensor import TensorContract
from qatladder.toolchains import hmct_tools

_FIELDS = {field.name for field in dataclasses.fields(TensorContract)}


def load_contracts(path: Path) -> dict[str, list[TensorContract]]:
    """What a file states of a model's tensors.

    Args:
        path: `.yaml` zoo entry (its inputs); `.onnx`; `.json` of `hbdk-disas --json` or of our own (one contract or a list of them, fields
            as `TensorContract` has them); anything else is taken for the console of `hrt_model_exec model_info`.
    Returns:
        {"input": [...], "output": [...]}.
    Raises:
        ConfigError, ArtifactError: the file cannot be read, or states no tensors.
    """
    if not path.is_file():
        raise ConfigError("the contract file does not exist", file=path, next_step="name a zoo entry, a model_info console, or JSON")
    if path.suffix in (".yaml", ".yml"):
        return _entry(path)
    if path.suffix == ".onnx":
        from qatladder.toolchains.onnx_contract import tensor_contracts

        return tensor_contracts(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        return _json(path, text)
    try:
        models = hrt.parse_model_info(text)
    except BrokenError as error:
        raise ArtifactError(
            "the file is no console of hrt_model_exec model_info", file=path, found=error.message, next_step="name a zoo entry or JSON"
        ) from error
    return {side: [tensor.contract() for model in models for tensor in getattr(model, f"{side}s")] for side in ("input", "output")}


def _entry(path: Path) -> dict[str, list[TensorContract]]:
    from qatladder.zoo.schema import Entry

    try:
        entry = Entry.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            "the file is no zoo entry", file=path, found=str(error).splitlines()[0], next_step="`qatladder zoo lint`"
        ) from error
    contracts = []
    for spec in entry.inputs:
        contract = spec.contract()
        contracts.append(
            contract.tensor or TensorContract(spec.name, "", spec.shape, source=spec.source, layout=spec.layout.replace("none", ""))
        )
    return {"input": contracts, "output": []}


def _json(path: Path, text: str) -> dict[str, list[TensorContract]]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ArtifactError("the contract is no JSON", file=path, found=error, next_step="is it truncated?") from error
    items = data if isinstance(data, list) else [data]
    if not all(isinstance(item, dict) for item in items) or not items:
        raise ArtifactError("the JSON states no tensors", file=path, expected="an object or a list of objects", found=type(data).__name__)
    if all({"name", "valid_shape"} <= item.keys() for item in items):
        return {"input": [], "output": [_own(path, item) for item in items]}
    described = hmct_tools.describe_hbm(items, path)
    return {
        side: [_own(path, {key: value for key, value in item.items() if key in _FIELDS}) for item in described[f"{side}s"]]
        for side in ("input", "output")
    }


def _own(path: Path, item: dict[str, Any]) -> TensorContract:
    if unknown := item.keys() - _FIELDS:
        raise ConfigError(
            "the contract has unknown fields", file=path, found=", ".join(sorted(unknown)), expected=", ".join(sorted(_FIELDS))
        )
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    return TensorContract(**{"dtype": "", **values})


def choose(contracts: dict[str, list[TensorContract]], name: str, files: list[Path]) -> TensorContract:
    """The contract of one tensor: as named, else the one whose name or index a dump's file name carries, else the only one.

    Args:
        name: tensor name, `input[0]` or `output[1]`; empty to go by the files.
    Raises:
        ConfigError: none or several fit.
    """
    everything = {f"{side}[{index}]": item for side, items in contracts.items() for index, item in enumerate(items)}
    if name:
        found = [item for key, item in everything.items() if name in (key, item.name)]
    else:
        from qatladder.numerics.dumps import parse_name

        found = []
        for said in filter(None, (parse_name(path.name) for path in files)):
            if f"{said.side}[{said.index}]" in everything:
                found = [everything[f"{said.side}[{said.index}]"]]
                break
        found = found or contracts["output"] or contracts["input"]
    if len(found) != 1:
        raise ConfigError(
            "the contract does not tell which tensor is meant",
            expected=" | ".join(f"{key} {item.name}" for key, item in everything.items()),
            found=name or "several",
            next_step="name it with --tensor",
        )
    return found[0]
