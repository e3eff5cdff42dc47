"""Why hmct cannot be used here, told without starting anything where nothing needs to be started."""

from __future__ import annotations

import platform
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qatladder.settings import Settings, load_settings
from qatladder.toolchains import hmct
from qatladder.toolchains.hmct import STANDIN, Hmct
from qatladder.toolchains.hmct_vendor import configuration
from qatladder.zoo.schema import Target


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(load_settings(), vendor=True, vendor_python=tmp_path / "bin" / "python")


def interpreter(settings: Settings, script: str) -> Path:
    settings.vendor_python.parent.mkdir(exist_ok=True)
    settings.vendor_python.write_text(f"#!/bin/sh\n{script}\n")
    settings.vendor_python.chmod(settings.vendor_python.stat().st_mode | stat.S_IXUSR)
    return settings.vendor_python


linux = pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="asks for what happens on Linux x86_64")


def test_opted_out(settings: Settings) -> None:
    assert "QATLADDER_VENDOR=0" in Hmct(replace(settings, vendor=False)).unavailable()


@linux
def test_not_installed(settings: Settings) -> None:
    assert "make setup" in Hmct(settings).unavailable()


def test_another_machine(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmct.platform, "machine", lambda: "aarch64")
    assert "aarch64" in Hmct(settings).unavailable()


@linux
def test_an_environment_that_does_not_import(settings: Settings) -> None:
    interpreter(settings, "exit 1")
    assert "does not work" in Hmct(settings).unavailable()


@linux
def test_it_is_asked_once(settings: Settings, tmp_path: Path) -> None:
    answer = '{"protocol": 1, "ok": true, "value": {"hbdk": "1"}, "seconds": 0, "environment": {"sha256": "e"}}'
    interpreter(settings, f'echo started >> "{tmp_path}/starts"; echo \'{answer}\' > "$(dirname "$3")/result.json"')
    toolchain = Hmct(settings)
    assert [toolchain.unavailable(), Hmct(settings).unavailable(), toolchain.versions()] == ["", "", {"hbdk": "1", "environment": "e"}]
    assert (tmp_path / "starts").read_text() == "started\n"


class TestStandIn:
    """The stand-in for torch: enough to import, loud where it is not enough."""

    def run(self, code: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(STANDIN)!r}); import torch\n{code}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_what_hmct_imports(self) -> None:
        code = (
            "from torch.onnx import register_custom_op_symbolic, symbolic_opset9\n"
            "from torch.onnx.symbolic_helper import parse_args\n"
            "register_custom_op_symbolic('a::b', None, 11)\n"
            "assert parse_args('v')(len) is len and not isinstance([], torch.Tensor) and {torch.int8: 1}[torch.int8] == 1\n"
            "assert not torch.cuda.is_available()"
        )
        done = self.run(code)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("code", ["torch.zeros(3)", "torch.from_numpy(None)", "torch.Tensor()", "torch.onnx.export()"])
    def test_anything_else_says_that_it_is_a_stand_in(self, code: str) -> None:
        done = self.run(code)
        assert done.returncode != 0
        assert "stand-in for PyTorch" in done.stderr


class TestConfiguration:
    TARGET = Target(march="bayes").model_dump(mode="json")
    IMAGE = {  # noqa: RUF012
        "name": "image",
        "shape": [1, 3, 32, 64],
        "layout": "NCHW",
        "type_train": "rgb",
        "type_rt": "nv12",
        "source": "pyramid",
        "mean": [123.675, 116.28, 103.53],
        "scale": [0.5],
    }
    MAP = {  # noqa: RUF012
        **IMAGE,
        "name": "map",
        "shape": [1, 8],
        "layout": "none",
        "type_train": "featuremap",
        "type_rt": "featuremap",
        "source": "ddr",
        "mean": [],
        "scale": [],
    }

    def parsed(self, *inputs: dict) -> dict:
        import yaml

        return yaml.safe_load(configuration("net", list(inputs), self.TARGET))

    def test_one_value_counts_for_every_channel(self) -> None:
        found = self.parsed(self.IMAGE)["input_parameters"]
        assert found["scale_value"] == "0.5 0.5 0.5;"
        assert found["norm_type"] == "data_mean_and_scale;"
        assert "input_layout_rt" not in found

    def test_several_inputs_keep_their_places(self) -> None:
        found = self.parsed(self.MAP, self.IMAGE)["input_parameters"]
        assert found["input_name"] == "map;image;"
        assert found["input_shape"] == "1x8;1x3x32x64;"
        assert found["norm_type"] == "no_preprocess;data_mean_and_scale;"
        assert found["mean_value"] == "None;123.675 116.28 103.53;"
        assert found["input_layout_rt"] == "NCHW;NHWC;"

    @pytest.mark.parametrize(("mean", "scale", "norm"), [([1.0], [], "data_mean;"), ([], [2.0], "data_scale;"), ([], [], "no_preprocess;")])
    def test_norm_type(self, mean: list, scale: list, norm: str) -> None:
        assert self.parsed({**self.IMAGE, "mean": mean, "scale": scale})["input_parameters"]["norm_type"] == norm

    def test_no_path_of_the_machine_and_no_layer_dump(self) -> None:
        text = configuration("net", [self.IMAGE], self.TARGET)
        assert "/" not in text
        assert self.parsed(self.IMAGE)["model_parameters"]["layer_out_dump"] is False

    def test_options_reach_the_tools(self) -> None:
        import yaml

        options = {"compile_mode": "balance", "balance_factor": 30, "max_time_per_fc": 2000, "optimize_level": "O3", "core_num": 2}
        target = Target(march="bayes", **options).model_dump(mode="json")
        found = yaml.safe_load(configuration("net", [self.IMAGE], target))["compiler_parameters"]
        assert {key: found[key] for key in options} == options

    def test_a_ptq_target_is_calibrated(self) -> None:
        import yaml

        ptq = {"method": "max", "max_percentile": 0.999, "per_channel": True, "run_on_cpu": ["/a", "/b"]}
        target = Target(march="bernoulli2", ptq=ptq).model_dump(mode="json")
        found = yaml.safe_load(configuration("net", [self.IMAGE, self.MAP], target))["calibration_parameters"]
        assert found == {
            "calibration_type": "max",
            "cal_data_dir": "calibration/0;calibration/1;",
            "cal_data_type": "float32;float32;",
            "preprocess_on": False,
            "per_channel": True,
            "max_percentile": 0.999,
            "run_on_cpu": "/a;/b;",
        }
