"""Post-training quantisation with the real tools: every march, every kind of input, operators behind the BPU part, several outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.integration.toolchains import nets
from tests.integration.toolchains.conftest import Converted
from torch import nn

from qatladder.errors import ArtifactError, ToolchainError
from qatladder.numerics.contract import InputContract
from qatladder.toolchains.hmct import Hmct
from qatladder.zoo.schema import Entry, Target

pytestmark = pytest.mark.vendor

HEIGHT, WIDTH = 32, 64


class Net(nn.Module):
    """Two outputs of one stem: a map, and logits through a softmax that stays on the CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.map, self.fc = nn.Conv2d(16, 6, 1), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        return torch.softmax(self.fc(x.mean((2, 3))), 1), self.map(x)


def picture(train: str, rt: str, source: str) -> dict[str, Any]:
    channels = 1 if train == "gray" else 3
    return {
        "name": "data",
        "shape": [1, channels, HEIGHT, WIDTH],
        "type_train": train,
        "type_rt": rt,
        "source": source,
        "mean": [128.0],
        "scale": [1 / 64],
    }


FEATUREMAP = {
    "name": "data",
    "shape": [1, 5, 16, 24],
    "layout": "NCHW",
    "type_train": "featuremap",
    "type_rt": "featuremap",
    "source": "ddr",
}

CASES = {
    "nv12 of rgb": (picture("rgb", "nv12", "pyramid"), "bayes-e", {"method": "max"}),
    "nv12 of bgr on X3": (picture("bgr", "nv12", "pyramid"), "bernoulli2", {"method": "kl"}),
    "resizer": (picture("yuv444", "nv12", "resizer"), "bayes", {"method": "default"}),
    "gray": (picture("gray", "gray", "pyramid"), "bayes", {"method": "max", "max_percentile": 0.999}),
    "rgb through ddr": (picture("rgb", "rgb", "ddr"), "bayes-e", {"method": "mix"}),
    "featuremap": (FEATUREMAP, "bayes", {"method": "max", "per_channel": True}),
}


def pictures(count: int) -> np.ndarray:
    """[N, H, W, 3] uint8 RGB: smooth gradients, so that 4:2:0 chroma loses little."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [
        np.sin(x[..., None] / rng.uniform(5, 20, 3) + y[..., None] / rng.uniform(5, 20, 3) + rng.uniform(0, 6, 3)) for _ in range(count)
    ]
    return np.stack([np.clip(128 + 100 * wave, 0, 255) for wave in waves]).astype(np.uint8)


def exported(channels: int, size: tuple[int, int], file: Path, opset: int = 13) -> nn.Module:
    torch.manual_seed(3)
    net = Net(channels).eval()
    torch.onnx.export(
        net,
        (torch.zeros(1, channels, *size),),
        str(file),
        input_names=["data"],
        output_names=["classes", "map"],
        opset_version=opset,
        dynamo=False,
    )
    return net


@pytest.mark.parametrize("case", CASES)
def test_int_follows_float_and_the_simulator_repeats_its_integers(case: str, hmct: Hmct, tmp_path: Path) -> None:
    spec, march, ptq = CASES[case]
    entry = nets.entry("ptq", [spec], "bayes")
    entry = entry.model_copy(update={"targets": (Target.model_validate({"march": march, "ptq": ptq}),)})
    contract: InputContract = entry.inputs[0].contract()
    net = exported(spec["shape"][1], tuple(spec["shape"][2:]), tmp_path / "float.onnx")
    if entry.inputs[0].is_image:
        frames = contract.runtime(pictures(4))
        fed = contract.intermediate(frames)
        trained = contract.training_tensor(fed)
        plain = entry.inputs[0].model_copy(update={"mean": (), "scale": ()}).contract()
        calibration = plain.training_tensor(fed).astype(np.float32)
    else:
        fed = trained = calibration = np.random.default_rng(6).normal(0, 1, (4, *spec["shape"][1:])).astype(np.float32)
        frames = fed
    np.save(tmp_path / "calibration.npy", calibration)
    log: list[str] = []
    conversion = hmct.convert(
        entry,
        entry.targets[0],
        tmp_path / "float.onnx",
        tmp_path / "convert",
        log.append,
        calibration={"data": tmp_path / "calibration.npy"},
    )
    converted = Converted(hmct, entry, net, tmp_path / "float.onnx", tmp_path, conversion, log)
    if entry.inputs[0].is_image and conversion.model.inputs[0].shape[1:] != fed.shape[1:]:
        fed = np.ascontiguousarray(fed.transpose(0, 3, 1, 2))
    found = converted.run_int({"data": fed})

    with torch.no_grad():
        expected = [output.numpy() for output in net(torch.from_numpy(np.ascontiguousarray(trained, np.float32)))]
    folder = converted.job()
    folder.mkdir()
    np.save(folder / "fed.npy", fed)
    reference = {
        name: np.load(path)
        for name, path in hmct.run_reference(conversion.products["reference"], {"data": folder / "fed.npy"}, folder, print).items()
    }
    for name, wanted in zip(("classes", "map"), expected, strict=True):
        assert found[name].shape == reference[name].shape == wanted.shape
        span = np.ptp(wanted)
        assert np.abs(found[name] - wanted).max() < 0.1 * span, "int is the float model to quantisation noise"
        assert np.abs(found[name] - reference[name]).max() < 0.03 * span, "int follows the model hmct calibrated"

    report = converted.report()
    assert report.march == march
    assert [item.split("(")[1] for item in report.cpu_operators] == ["Softmax)"], report.cpu_operators
    by_name = {item.name: item for item in conversion.model.outputs}
    assert "Softmax" in by_name["classes"].tail
    assert "Softmax" not in by_name["map"].tail
    raw = conversion.model.inputs[0].raw_name
    simulated = converted.simulate({raw: frames if entry.inputs[0].source != "ddr" else arranged(found[raw], report)})
    for item in conversion.model.outputs:
        same = simulated[item.raw_name].reshape(len(fed), -1)
        np.testing.assert_array_equal(np.sort(same, 1), np.sort(found[item.raw_name].reshape(len(fed), -1), 1))
        assert len(np.unique(same)) > 20
    finished = converted.job()
    finished.mkdir()
    files = {}
    for index, item in enumerate(conversion.model.outputs):
        files[item.raw_name] = finished / f"raw_{index}.npy"
        np.save(files[item.raw_name], found[item.raw_name])
    for name, path in hmct.finish(conversion.products["int"], files, finished, print).items():
        np.testing.assert_array_equal(np.load(path), found[name])


def arranged(integers: np.ndarray, report: Any) -> np.ndarray:
    """[N, ...] integers of the int model in the order the hbm takes them."""
    shape = report.inputs[0].valid_shape[1:]
    return integers if integers.shape[1:] == shape else np.ascontiguousarray(integers.transpose(0, 2, 3, 1))


class TestRefused:
    @pytest.fixture
    def entry(self) -> Entry:
        made = nets.entry("ptq", [CASES["nv12 of rgb"][0]], "bayes")
        return made.model_copy(update={"targets": (Target.model_validate({"march": "bayes", "ptq": {"method": "max"}}),)})

    @pytest.fixture
    def refuse(self, hmct: Hmct, entry: Entry, tmp_path: Path) -> Callable[..., None]:
        def run(change: Callable[[onnx.ModelProto], None] = lambda model: None, samples: tuple[int, ...] = (2, 3, HEIGHT, WIDTH)) -> None:
            exported(3, (HEIGHT, WIDTH), tmp_path / "float.onnx", opset=11)
            model = onnx.load(str(tmp_path / "float.onnx"))
            change(model)
            onnx.save(model, str(tmp_path / "changed.onnx"))
            np.save(tmp_path / "calibration.npy", np.zeros(samples, np.float32))
            hmct.convert(
                entry,
                entry.targets[0],
                tmp_path / "changed.onnx",
                tmp_path / "convert",
                print,
                calibration={"data": tmp_path / "calibration.npy"},
            )

        return run

    def test_a_model_with_scales_of_its_own(self, image: Converted, hmct: Hmct, entry: Entry, tmp_path: Path) -> None:
        with pytest.raises(ToolchainError, match="carries scales of its own"):
            hmct.convert(entry, entry.targets[0], image.onnx, tmp_path / "convert", print, calibration={})

    def test_another_shape(self, refuse: Callable[..., None]) -> None:
        def narrow(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 32

        with pytest.raises(ToolchainError, match="not the zoo entry's") as caught:
            refuse(narrow)
        assert "32, 32" in caught.value.where["found"]

    def test_a_dynamic_axis(self, refuse: Callable[..., None]) -> None:
        def dynamic(model: onnx.ModelProto) -> None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"

        with pytest.raises(ToolchainError, match="fixed axes") as caught:
            refuse(dynamic)
        assert "batch" in caught.value.where["found"]

    @pytest.mark.parametrize("samples", [(0, 3, HEIGHT, WIDTH), (2, 1, HEIGHT, WIDTH)])
    def test_calibration_samples_of_another_kind(self, samples: tuple[int, ...], refuse: Callable[..., None]) -> None:
        with pytest.raises(ArtifactError, match="calibration samples have another shape"):
            refuse(samples=samples)

    def test_an_operator_no_part_of_the_toolchain_knows(self, refuse: Callable[..., None]) -> None:
        def strange(model: onnx.ModelProto) -> None:
            node = next(node for node in model.graph.node if node.op_type == "Relu")
            node.op_type = "Unheard"

        with pytest.raises(ToolchainError) as caught:
            refuse(strange)
        assert "Unheard" in caught.value.where["found"]
