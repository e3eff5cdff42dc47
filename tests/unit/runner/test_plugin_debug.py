"""Promises: the vendor's precision tool runs on the adapter's own modules where there is one, and its death costs nothing but its files.

Stand-ins: packages that record how they are called, as documented.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder.runner.plugin_debug import analyse

ADAPTER = """
import numpy as np
import torch
from qatladder.runner.adapter import Adapter
from qatladder.runner.adapters import as_model

class Net(torch.nn.Module):
    def __init__(self, rung):
        super().__init__()
        self.rung, self.inner = rung, torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x)

class Toy(Adapter):
    batch = 2

    def load(self, rung, artifact):
        return as_model(Net(rung), ["x"], ["y"])
"""
V2 = """
from pathlib import Path
calls = []

class QuantAnalysis:
    def __init__(self, baseline_model, analysis_model, analysis_model_type, post_process=None, out_dir=None):
        self.out = Path(out_dir)
        calls.append((type(baseline_model).__name__, baseline_model.rung, analysis_model.rung, analysis_model_type))

    def set_bad_case(self, data):
        calls.append(tuple(data.shape))

    def run(self):
        calls.append("run")

    def compare_per_layer(self):
        (self.out / "compare_per_layer_out.txt").write_text("layers")
        {death}

    def sensitivity(self):
        (self.out / "qat_sensitive_ops.txt").write_text("ops")
"""
V1 = """
from pathlib import Path
calls = []

def model_profiler(model1, model2, example_inputs, mode, out_dir=None, kwargs_dict=None):
    calls.append((model1.rung, model2.rung, [tuple(item.shape) for item in example_inputs], mode))
    (Path(out_dir) / "profiler.html").write_text("page")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "toy.py").write_text(ADAPTER)
    np.save(tmp_path / "x.npy", np.ones((5, 3), np.float32))
    names = (
        "horizon_plugin_profiler",
        "horizon_plugin_pytorch",
        "horizon_plugin_pytorch.utils",
        "horizon_plugin_pytorch.utils.quant_profiler",
    )

    def go(**packages: str) -> Any:
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "site").mkdir()
        for name, text in packages.items():
            path = tmp_path / "site" / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
            for parent in path.relative_to(tmp_path / "site").parents[:-1]:
                (tmp_path / "site" / parent / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        args = {
            "rung": "qat",
            "artifact": "q",
            "float_artifact": "f",
            "tensors": {"x": str(tmp_path / "x.npy")},
            "out": str(tmp_path / "out"),
        }
        return analyse(f"{tmp_path}/toy.py:Toy", {}, **args)  # type: ignore[arg-type]

    yield go
    for name in names:
        sys.modules.pop(name, None)


def test_the_newer_tool_is_called_as_documented(run: Any, tmp_path: Path) -> None:
    found = run(horizon_plugin_profiler=V2.replace("{death}", "pass"), horizon_plugin_pytorch__utils__quant_profiler=V1)
    assert (found["tool"], found["problem"]) == ("QuantAnalysis", "")
    assert [Path(file).name for file in found["files"]] == ["compare_per_layer_out.txt", "qat_sensitive_ops.txt"]
    assert sys.modules["horizon_plugin_profiler"].calls == [("Net", "float", "qat", "fake_quant"), (2, 3), "run"]


def test_the_older_tool_where_there_is_no_newer_one(run: Any) -> None:
    found = run(horizon_plugin_pytorch__utils__quant_profiler=V1)
    assert (found["tool"], [Path(file).name for file in found["files"]]) == ("model_profiler", ["profiler.html"])
    assert sys.modules["horizon_plugin_pytorch.utils.quant_profiler"].calls == [("float", "qat", [(2, 3)], "FvsQ")]


def test_a_tool_that_dies_is_named_and_what_it_wrote_is_kept(run: Any) -> None:
    found = run(horizon_plugin_profiler=V2.replace("{death}", "raise RuntimeError('no such op')"))
    assert found["problem"] == "RuntimeError: no such op"
    assert [Path(file).name for file in found["files"]] == ["compare_per_layer_out.txt"]


def test_an_environment_without_them(run: Any) -> None:
    assert run() is None
