"""Planted faults in a small fake-quantised network are found where they are, and called what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder.errors import RunnerError
from qatladder.runner.debug import precision

ADAPTER = """
import json
import numpy as np
import torch
from torch import nn
from qatladder.runner.adapter import Adapter


class Quant(nn.Module):
    def __init__(self, scale, channels=1):
        super().__init__()
        self.register_buffer("scale", torch.full((channels,), float(scale)))
        self.register_buffer("zero_point", torch.zeros(channels, dtype=torch.int32))

    def forward(self, x):
        if self.scale.numel() == 1:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, -128, 127)
        return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 0, -128, 127)


class Layer(nn.Module):
    def __init__(self, quantised, spec):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.weight_quant = Quant(spec.get("weight", 0.005), 4) if quantised else nn.Identity()
        self.out = Quant(spec.get("out", 0.03)) if quantised else nn.Identity()

    def forward(self, x):
        return self.out(torch.relu(nn.functional.conv2d(x, self.weight_quant(self.conv.weight), self.conv.bias, padding=1)))


class Net(nn.Module):
    def __init__(self, quantised, specs):
        super().__init__()
        torch.manual_seed(1)
        self.input = Quant(specs["input"].get("out", 0.04)) if quantised else nn.Identity()
        self.layers = nn.ModuleList([Layer(quantised, specs.get(str(index), {})) for index in range(4)])
        for layer in self.layers:
            nn.init.normal_(layer.conv.weight, 0, 0.15 if "shift" not in specs or not quantised else 0.18)

    def forward(self, x):
        x = self.input(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Planted(Adapter):
    batch = 4

    def __init__(self, specs=None):
        self.specs = {"input": {}, **(specs or {})}

    def load(self, rung, artifact):
        if "numpy" in self.specs:
            return lambda tensors: {"y": tensors["x"] * 2}
        net = Net(rung != "float" and "float" not in self.specs, self.specs).eval()

        def run(tensors):
            with torch.no_grad():
                return {"y": net(torch.from_numpy(tensors["x"])).numpy()}

        return run
"""


@pytest.fixture
def ask(tmp_path: Path) -> Any:
    (tmp_path / "planted.py").write_text(ADAPTER)
    x = np.random.default_rng(2).normal(0, 1.2, (6, 4, 12, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)

    def run(seconds: float = 60.0, **specs: Any) -> dict[str, Any]:
        options = {"specs": {name.strip("_"): value for name, value in specs.items()}}
        return precision(
            f"{tmp_path / 'planted.py'}:Planted", options, "qat", "qat.pt", "float.pt", {"x": str(tmp_path / "x.npy")}, seconds=seconds
        )

    return run


def row(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in found["losses"] if item["name"] == name)


def test_a_sound_network_has_no_root(ask: Any) -> None:
    found = ask()
    assert found["cause"] == "spread"
    assert found["bypassed_db"] > 100, "the same weights"
    assert 20 < found["output_db"] < 60
    names = [item["name"] for item in found["losses"]]
    assert names[:3] == ["input", "layers.0.weight_quant", "layers.0.out"]
    assert len(names) == 9
    assert [item["name"] for item in found["losses"] if item["weight"]] == [f"layers.{index}.weight_quant" for index in range(4)]
    assert all(item["cause"] == "" and item["clamped"] < 0.02 for item in found["losses"])
    assert found["unasked"] == []
    worst = min(found["losses"], key=lambda item: item["alone_db"])
    assert found["layer"] == worst["name"]
    assert worst["alone_db"] >= found["output_db"] - 0.5, "all of them together lose more than the worst one alone"


def test_a_range_that_is_too_narrow_clamps(ask: Any) -> None:
    found = ask(_1={"out": 0.002})
    assert (found["cause"], found["layer"]) == ("clamp", "layers.1.out")
    assert row(found, "layers.1.out")["clamp_share"] > 0.95
    assert row(found, "layers.1.out")["range"] == pytest.approx([-0.256, 0.254])
    assert "clamped" in found["detail"]
    assert [item["cause"] for item in found["losses"]].count("clamp") == 1


def test_steps_that_are_too_large_round(ask: Any) -> None:
    found = ask(_2={"out": 1.5})
    assert (found["cause"], found["layer"]) == ("rounding", "layers.2.out")
    assert row(found, "layers.2.out")["clamped"] == 0.0
    assert row(found, "layers.2.out")["alone_db"] == min(item["alone_db"] for item in found["losses"])


def test_a_weight_can_be_the_root(ask: Any) -> None:
    found = ask(_0={"weight": 0.0005})
    assert (found["cause"], found["layer"]) == ("clamp", "layers.0.weight_quant")
    assert row(found, "layers.0.weight_quant")["weight"]


def test_the_first_one_is_the_root_and_not_the_worst_one(ask: Any) -> None:
    found = ask(_0={"out": 0.004}, _3={"out": 3.0})
    assert found["layer"] == "layers.0.out"
    assert row(found, "layers.3.out")["db"] < row(found, "layers.0.out")["db"]
    assert row(found, "layers.3.out")["cause"] == "rounding"


def test_similarity_is_in_the_order_of_execution_and_names_no_weight_and_no_container_twice(ask: Any) -> None:
    found = ask(_1={"out": 0.002})
    names = [item["name"] for item in found["layers"]]
    assert names == ["input", "layers.0.out", "layers.1.out", "layers.2.out", "layers.3.out"]
    before, behind = found["layers"][1]["db"], found["layers"][2]["db"]
    assert before > 25 > behind
    for item in found["layers"]:
        assert math.isfinite(item["db"]) and 0 < item["cosine"] <= 1.0000001


def test_other_weights_are_not_blamed_on_quantisation(ask: Any) -> None:
    found = ask(shift={})
    assert found["cause"] == "weights"
    assert found["bypassed_db"] < 10


def test_the_third_look_ends_in_time(ask: Any) -> None:
    found = ask(seconds=0.0)
    assert len(found["unasked"]) == 9
    assert "alone_db" not in row(found, found["unasked"][0])


def test_nothing_of_torch_ran(ask: Any) -> None:
    with pytest.raises(RunnerError, match="no torch module ran"):
        ask(numpy={})


def test_nothing_is_quantised(ask: Any) -> None:
    with pytest.raises(RunnerError, match="no fake-quantisation"):
        ask(float={})


def test_torch_ao_is_understood(ask: Any, tmp_path: Path) -> None:
    """PyTorch's own fake-quantisation: unsigned activations with a zero point, observers in the way."""
    (tmp_path / "planted.py").write_text(
        ADAPTER
        + """

from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver


class Ao(nn.Module):
    def __init__(self, quantised, narrow):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(4, 4, 3)
        self.fake = FakeQuantize(MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8) if quantised else nn.Identity()
        if quantised:
            self.fake.scale.fill_(0.001 if narrow else 0.03)
            self.fake.zero_point.fill_(128)
            self.fake.disable_observer()

    def forward(self, x):
        return self.fake(self.conv(x))


class Planted(Adapter):
    batch = 4

    def __init__(self, specs):
        self.narrow = "narrow" in specs

    def load(self, rung, artifact):
        net = Ao(rung != "float", self.narrow).eval()
        return lambda tensors: {"y": net(torch.from_numpy(tensors["x"])).detach().numpy()}
"""
    )
    assert ask()["cause"] == "spread"
    found = ask(narrow={})
    assert (found["cause"], found["layer"]) == ("clamp", "fake")
    assert found["losses"][0]["range"] == pytest.approx([-0.128, 0.127])
