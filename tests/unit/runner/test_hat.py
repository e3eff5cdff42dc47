"""Promises: the models of a HAT configuration are those tools/predict.py runs; a wrong checkpoint or configuration is named.

Stand-ins: HAT and horizon_plugin_pytorch (tests/standins/openexplorer). torch is real.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.standins.openexplorer.environment import STANDIN

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner.hat import HatConfig

CONFIG = """
import os
import torch
from torch import nn
from hat.registry import OBJECT_REGISTRY

training_step = os.environ.get("HAT_TRAINING_STEP", "float")
ckpt_dir = "./tmp_models/lanes"

@OBJECT_REGISTRY.register
class Lanes(nn.Module):
    def __init__(self, width, losses=None):
        super().__init__()
        self.body, self.head, self.losses = nn.Linear(4, width), nn.Linear(width, 2), losses

    def forward(self, data):
        y = self.head(self.body(data["img"]))
        return (y, {"loss": y.sum()}) if self.losses else [y]

model = dict(type="Lanes", width=5, losses=True)
deploy_model = dict(type="Lanes", width=5)

def predictor(*converters):
    return dict(type="Predictor", model=model, model_convert_pipeline=dict(type="ModelConvertPipeline", converters=list(converters)))

def load(stage):
    return dict(type="LoadCheckpoint", checkpoint_path=os.path.join(ckpt_dir, stage + "-checkpoint-best.pth.tar"))

float_predictor = predictor(load("float"))
calibration_predictor = predictor(dict(type="Float2Calibration"), load("calibration"))
qat_predictor = predictor(load("float"), dict(type="Float2QAT"), load("qat")) if training_step == "never" else predictor(dict(type="Float2QAT"), load("qat"))
"""


@pytest.fixture
def lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(adapter, its network by rung with checkpoints written)"""
    monkeypatch.syspath_prepend(str(STANDIN))
    monkeypatch.delenv("HAT_TRAINING_STEP", raising=False)
    import hat.converters as converters  # type: ignore[import-not-found]
    from hat.registry import build_from_registry
    from hat.utils.config import Config

    (tmp_path / "lanes.py").write_text(CONFIG)

    class Lanes(HatConfig):
        inputs, outputs = ("img",), ("y",)

    config = Config.fromfile(str(tmp_path / "lanes.py"))
    torch.manual_seed(0)
    floating = build_from_registry(config.deploy_model)
    torch.save({"epoch": 3, "state_dict": floating.state_dict()}, tmp_path / "float-checkpoint-best.pth.tar")
    for stage in ("calibration", "qat"):
        quantised = converters.Float2QAT()(copy.deepcopy(floating))
        quantised({"img": torch.randn(64, 4)})
        torch.save({"state_dict": quantised.state_dict()}, tmp_path / f"{stage}-checkpoint-best.pth.tar")
    return Lanes(str(tmp_path / "lanes.py")), floating


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(("rung", "stage"), [("float", "float"), ("calib", "calibration"), ("qat", "qat")])
def test_each_rung_is_the_model_of_its_stage(lanes: Any, tmp_path: Path, rung: str, stage: str) -> None:
    adapter, floating = lanes
    model = adapter.load(rung, tmp_path / f"{stage}-checkpoint-best.pth.tar")
    with torch.no_grad():
        (expected,) = floating({"img": torch.from_numpy(X)})
    found = model({"img": X})["y"]
    if rung == "float":
        np.testing.assert_array_equal(found, expected.numpy())
    else:
        assert 0 < np.abs(found - expected.numpy()).max() < 0.1, "quantised, and not by much"
        np.testing.assert_array_equal(model({"img": X})["y"], model({"img": 1 * X})["y"], "no observer learns from what it sees")


def test_an_observer_left_on_would_answer_as_float(lanes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the call of set_fake_quantize is for."""
    adapter, floating = lanes
    import horizon_plugin_pytorch.quantization as plugin  # type: ignore[import-not-found]

    monkeypatch.setattr(plugin, "set_fake_quantize", lambda *_: None)
    with torch.no_grad():
        (expected,) = floating({"img": torch.from_numpy(X)})
    found = adapter.load("qat", tmp_path / "qat-checkpoint-best.pth.tar")({"img": X})["y"]
    np.testing.assert_array_equal(found, expected.numpy())


def test_a_checkpoint_of_another_stage_is_named(lanes: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot load the checkpoint") as caught:
        lanes[0].load("qat", tmp_path / "float-checkpoint-best.pth.tar")
    assert caught.value.where["stage"] == "qat"
    assert "float-checkpoint-best" in caught.value.where["file"]


def test_what_a_configuration_lacks_is_named(lanes: Any, tmp_path: Path) -> None:
    adapter, _ = lanes
    file = tmp_path / "lanes.py"
    file.write_text(CONFIG.replace("calibration_predictor", "other_predictor"))
    with pytest.raises(ConfigError, match="no predictor of this stage") as caught:
        adapter.load("calib", tmp_path / "calibration-checkpoint-best.pth.tar")
    assert caught.value.where["expected"] == "calibration_predictor"
    file.write_text(CONFIG.replace('predictor(load("float"))', "predictor()"))
    with pytest.raises(ConfigError, match="loads no checkpoint"):
        adapter.load("float", tmp_path / "float-checkpoint-best.pth.tar")
    file.write_text(CONFIG.replace("deploy_model", "exported"))
    with pytest.raises(ConfigError, match="another number of tensors"):
        adapter.load("float", tmp_path / "float-checkpoint-best.pth.tar")({"img": X})
    file.unlink()
    with pytest.raises(ConfigError, match="configuration does not exist"):
        adapter.load("float", tmp_path / "float-checkpoint-best.pth.tar")
