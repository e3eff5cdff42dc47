"""Checkpoints as training code writes them are read; what is not weights is refused, and never run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner import adapters


class Two(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(width, 1)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.first(a + b))
        return self.second(hidden), hidden


class Ready(adapters.TorchModule):
    inputs, outputs = ("a", "b"), ("y", "hidden")

    def network(self, rung: str) -> nn.Module:
        return Two()


@pytest.fixture
def trained() -> Two:
    torch.manual_seed(0)
    return Two().eval()


def run(model: Any) -> dict[str, np.ndarray]:
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    return model({"b": x, "a": -2 * x})


def wrapped(how: str, state: dict[str, torch.Tensor]) -> Any:
    return {
        "plain": state,
        "nested": {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
        "model": {"model": state},
        "parallel": {f"module.{name}": value for name, value in state.items()},
    }[how]


@pytest.mark.parametrize("how", ["plain", "nested", "model", "parallel"])
def test_a_checkpoint_as_training_code_writes_it(how: str, trained: Two, tmp_path: Path) -> None:
    torch.save(wrapped(how, trained.state_dict()), tmp_path / "float.pt")
    found = run(Ready().load("float", tmp_path / "float.pt"))
    with torch.no_grad():
        x = torch.arange(8.0).reshape(4, 2)
        expected = trained(-2 * x, x)
    np.testing.assert_array_equal(found["y"], expected[0].numpy())
    np.testing.assert_array_equal(found["hidden"], expected[1].numpy())


class Bomb:
    def __reduce__(self) -> Any:
        return (subprocess.check_call, (["touch", "exploded"],))


@pytest.mark.parametrize("old", [False, True], ids=["weights_only", "torch before 1.13"])
def test_pickled_code_is_named_and_never_run(old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Two().state_dict(), "hook": Bomb()}, "bomb.pt")
    if old:
        real = torch.load
        monkeypatch.setattr(
            torch, "load", lambda file, map_location, pickle_module: real(file, map_location, pickle_module, weights_only=False)
        )
    with pytest.raises(ArtifactError, match="pickled code, which is never run") as caught:
        adapters.read_weights(Path("bomb.pt"))
    assert caught.value.where["found"].endswith(".check_call")
    assert caught.value.where["file"] == "bomb.pt"
    assert not Path("exploded").exists()
    if old:
        torch.save({"state_dict": Two().state_dict()}, "sound.pt")
        assert set(adapters.read_weights(Path("sound.pt"))) == set(Two().state_dict())


def test_a_whole_pickled_model_is_refused(trained: Two, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="pickled code") as caught:
        adapters.read_weights(tmp_path / "model.pt")
    assert "Two" in caught.value.where["found"]
    assert "state_dict()" in caught.value.next_step


@pytest.mark.parametrize("size", [0, 10, 700])
def test_a_truncated_checkpoint(size: int, trained: Two, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:size])
    with pytest.raises(ArtifactError) as caught:
        adapters.read_weights(tmp_path / "cut.pt")
    assert caught.value.where["file"].endswith("cut.pt")


def test_what_holds_no_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="no state dict") as caught:
        adapters.read_weights(tmp_path / "a.pt")
    assert "epoch" in caught.value.where["found"]


def test_weights_of_another_network(trained: Two, tmp_path: Path) -> None:
    state = dict(trained.state_dict())
    state["third.weight"] = state.pop("first.bias")
    state["second.weight"] = torch.zeros(1, 7)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="not of this network") as caught:
        Ready().load("float", tmp_path / "a.pt")
    where = caught.value.where
    assert (where["missing"], where["unexpected"], where["other shape"]) == (
        "first.bias",
        "third.weight",
        "second.weight [1, 7] instead of [1, 3]",
    )


def test_torchscript(trained: Two, tmp_path: Path) -> None:
    class Scripted(adapters.TorchScript):
        inputs, outputs = ("a", "b"), ("y", "hidden")

    example = torch.zeros(1, 2)
    torch.jit.save(torch.jit.trace(trained, (example, example)), str(tmp_path / "float.pt"))
    assert run(Scripted().load("float", tmp_path / "float.pt"))["y"].shape == (4, 1)
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    with pytest.raises(ArtifactError, match="no TorchScript model"):
        Scripted().load("float", tmp_path / "state.pt")


def test_names_that_do_not_fit(trained: Two) -> None:
    with pytest.raises(ConfigError, match="another number of outputs"):
        run(adapters.as_model(trained, ("a", "b"), ("y",)))
    with pytest.raises(ConfigError, match="takes other inputs"):
        run(adapters.as_model(trained, ("a", "c"), ("y", "hidden")))


class TestOnnx:
    @pytest.fixture
    def exported(self, trained: Two, tmp_path: Path) -> Path:
        x = torch.zeros(4, 2)
        torch.onnx.export(
            trained, (x, x), str(tmp_path / "m.onnx"), input_names=["a", "b"], output_names=["y", "hidden"], opset_version=13, dynamo=False
        )
        return tmp_path / "m.onnx"

    def test_an_onnx_file_answers_as_the_network(self, trained: Two, exported: Path) -> None:
        found = run(adapters.OnnxModel().load("float", exported))
        with torch.no_grad():
            x = torch.arange(8.0).reshape(4, 2)
            y, hidden = trained(-2 * x, x)
        np.testing.assert_allclose(found["y"], y.numpy(), atol=1e-6)
        np.testing.assert_allclose(found["hidden"], hidden.numpy(), atol=1e-6)

    def test_what_is_no_model_or_another_shape_is_named(self, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:100])
        with pytest.raises(ArtifactError, match="no ONNX model"):
            adapters.OnnxModel().load("float", tmp_path / "cut.onnx")
        model = adapters.OnnxModel().load("float", exported)
        with pytest.raises(ConfigError, match="other inputs"):
            model({"a": np.zeros((4, 2), np.float32)})
        with pytest.raises(ConfigError, match="another shape") as caught:
            model({name: np.zeros((1, 2), np.float32) for name in "ab"})
        assert (caught.value.where["expected"], caught.value.where["found"]) == ("[4, 2]", "[1, 2]")


def test_a_per_channel_qat_checkpoint_loads(tmp_path: Path) -> None:
    """torch's fake-quant modules take scales of another shape than they are made with."""

    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.weight_quant = torch.ao.quantization.default_per_channel_weight_fake_quant()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, self.weight_quant(self.conv.weight), self.conv.bias)

    trained = Quantised()
    trained(torch.zeros(1, 3, 2, 2))
    assert trained.state_dict()["weight_quant.scale"].shape == (8,)
    adapters.fill(Quantised(), trained.state_dict(), tmp_path)


def test_outputs_of_a_dictionary_are_taken_by_name() -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"boxes": x, "scores": 2 * x}

    found = adapters.as_model(Named(), ["x"], ["scores", "boxes"])({"x": np.ones((1, 1), np.float32)})
    assert (found["scores"].item(), found["boxes"].item()) == (2.0, 1.0)


def test_the_loader_of_an_old_torch_calls_nothing_either(tmp_path: Path) -> None:
    """It reads what is no zip file with `pickle_module.load`, outside of any Unpickler of torch's."""
    import io
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    for read in (lambda data: adapters._Restricted.load(io.BytesIO(data)), adapters._Restricted.loads):
        with pytest.raises(pickle.UnpicklingError, match="mkdir"):
            read(pickle.dumps(Evil()))
    assert not (tmp_path / "executed").exists()


def test_a_submodule_called_module_keeps_its_name(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("module", nn.Linear(1, 1))
    net.add_module("head", nn.Linear(1, 1))
    torch.save(net.state_dict(), tmp_path / "x.pt")
    adapters.fill(nn.Sequential(*()), {}, tmp_path)
    adapters.fill(net, adapters.read_weights(tmp_path / "x.pt"), tmp_path)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", b"<!DOCTYPE html><html>"])
def test_what_is_no_checkpoint_is_not_called_pickled_code(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        adapters.read_weights(tmp_path / "x.pt")
    assert ("Git LFS" in caught.value.where["found"]) == content.startswith(b"version")
