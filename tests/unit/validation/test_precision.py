"""When calib or qat misses its gate, the ladder hands over the layer and the cause, not only the number."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.toy import ToyZoo

from qatladder.evidence import open_store
from qatladder.ladder import CheckResult, Status
from qatladder.settings import load_settings
from qatladder.validation import plan, run_rung

ADAPTER = """
import json
import numpy as np
import torch
from torch import nn
from qatladder.runner.adapter import Adapter, Sample


class Quant(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", torch.tensor([float(scale)]))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))

    def forward(self, x):
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, -128, 127)


def network(scales):
    torch.manual_seed(4)
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    quant = [Quant(scale) for scale in scales] if scales else [nn.Identity(), nn.Identity()]
    return nn.Sequential(layers[0], layers[1], quant[0], layers[2], layers[3], quant[1], layers[4]).eval()


class Small(Adapter):
    metric = "accuracy"
    batch = 4

    def samples(self, split, limit=None):
        float_net, rng = network(None), np.random.default_rng(3)
        for index in range(40 if limit is None else limit):
            x = rng.normal(0, 1, 6).astype("float32")
            with torch.no_grad():
                yield Sample({"x": x}, int(float_net(torch.from_numpy(x[None])).argmax()))

    def preprocess(self, inputs):
        return {"x": inputs["x"][None]}

    def load(self, rung, artifact):
        net = network(json.loads(artifact.read_text()).get("scales"))

        def run(tensors):
            with torch.no_grad():
                return {"y": net(torch.from_numpy(np.ascontiguousarray(tensors["x"]))).numpy()}

        return run

    def postprocess(self, outputs):
        return int(outputs["y"].argmax())

    def score(self, predictions, targets):
        return {"accuracy": float(np.mean(np.array(predictions) == np.array(targets)))}
"""


@pytest.fixture
def climb(toy_zoo: ToyZoo, in_process: None) -> Any:
    (toy_zoo.folder / "zoo" / "small.py").write_text(ADAPTER)
    toy_zoo.entry(
        adapter="small.py:Small",
        inputs=[{"name": "x", "shape": [1, 6], "layout": "none", "type_train": "featuremap", "type_rt": "featuremap", "source": "ddr"}],
        gates={"float": {"min": 0.9}, "calib": {"max_drop": 0.05}, "qat": {"max_drop": 0.05}},
    )

    def run(scales: list[float]) -> tuple[CheckResult, list[str]]:
        (toy_zoo.artifacts / "float.json").write_text("{}")
        (toy_zoo.artifacts / "calib.json").write_text(json.dumps({"scales": scales}))
        (ladder,) = plan(rungs=["float", "calib"])
        lines: list[str] = []
        run_rung(ladder, "float", "run", print)
        check = run_rung(ladder, "calib", "run", lines.append).check("calib.accuracy")
        assert check is not None
        return check, lines

    return run


def evidence(check: CheckResult, name: str) -> str:
    (item,) = [item for item in check.evidence if item.name == name]
    return open_store(load_settings()).fetch(item, Path(load_settings().home) / name).read_text()


def test_a_clamped_layer_is_handed_over(climb: Any) -> None:
    check, lines = climb([0.03, 0.0008])
    assert check.status is Status.FAILED
    assert re.search(r"accuracy misses its gate; precision: 5 clamps its values \(range .* clamped", check.reason), check.reason
    assert check.cause.startswith("5 clamps: its range is too narrow")
    assert "calibrate this layer again" in check.next_steps[0]
    assert any(line.startswith("5 ") and line.endswith("clamp") for line in lines), lines
    found = json.loads(evidence(check, "precision.json"))
    assert (found["cause"], found["layer"]) == ("clamp", "5")
    page = evidence(check, "precision.html")
    assert "5: clamps its values" in page and "http" not in page
    assert evidence(check, "precision_layers.csv").splitlines()[0] == "name,type,cosine,relative_l1,db,max_abs"


def test_a_coarse_layer_is_handed_over(climb: Any) -> None:
    check, _ = climb([2.0, 0.03])
    assert check.status is Status.FAILED
    assert check.cause.startswith("2 rounds too coarsely")


def test_a_good_calibration_costs_no_look_at_its_layers(climb: Any) -> None:
    check, lines = climb([0.03, 0.03])
    assert check.status is Status.PASSED
    assert "precision" not in check.values
    assert not any("fake-quantisation" in line for line in lines)


def test_an_adapter_without_torch_fails_as_before(toy_zoo: ToyZoo, in_process: None) -> None:
    toy_zoo.artifact("calib", 5)
    (ladder,) = plan(rungs=["float", "calib"])
    lines: list[str] = []
    run_rung(ladder, "float", "run", print)
    check = run_rung(ladder, "calib", "run", lines.append).check("calib.accuracy")
    assert check is not None
    assert check.status is Status.FAILED
    assert check.reason == "accuracy misses its gate"
    assert check.values["precision_problem"].startswith("no torch module ran")
    assert any("the layers cannot be compared" in line for line in lines)
    assert check.cause


@pytest.mark.parametrize("dies", [False, True])
def test_what_the_vendors_tool_writes_is_further_evidence(climb: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dies: bool) -> None:
    """A stand-in of horizon_plugin_profiler in the environment; the verdict is ours with it, without it, and when it dies."""

    class QuantAnalysis:
        def __init__(self, plain: Any, quantised: Any, kind: str, out_dir: str) -> None:
            self.out = Path(out_dir)

        def set_bad_case(self, sample: Any) -> None: ...

        def run(self) -> None: ...

        def compare_per_layer(self) -> None:
            (self.out / "compare_per_layer_out.txt").write_text("layers")

        def sensitivity(self) -> None:
            if dies:
                raise RuntimeError("no such op")

    monkeypatch.setitem(sys.modules, "horizon_plugin_profiler", SimpleNamespace(QuantAnalysis=QuantAnalysis))
    check, lines = climb([0.03, 0.0008])
    assert check.cause.startswith("5 clamps")
    (item,) = [item for item in check.evidence if item.name == "QuantAnalysis.tar"]
    with tarfile.open(open_store(load_settings()).fetch(item, tmp_path / "x.tar")) as tar:
        assert tar.getnames() == ["QuantAnalysis/compare_per_layer_out.txt"]
    assert any("did not finish: RuntimeError: no such op" in line for line in lines) == dies
