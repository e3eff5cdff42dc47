"""What hb_compile is told, what of it is believed, and how a picture becomes planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import nash_user
from qatladder.toolchains.hmct_tools import ToolRun

PICTURE = {
    "name": "image",
    "shape": [1, 3, 32, 64],
    "layout": "NCHW",
    "type_train": "rgb",
    "type_rt": "nv12",
    "source": "pyramid",
    "mean": [123.675, 116.28, 103.53],
    "scale": [0.0625],
}
VECTOR = {
    "name": "state",
    "shape": [1, 8],
    "layout": "none",
    "type_train": "featuremap",
    "type_rt": "featuremap",
    "source": "ddr",
    "mean": [],
    "scale": [],
}
TARGET: dict[str, Any] = {
    "march": "nash-m",
    "optimize_level": "O1",
    "core_num": 2,
    "compile_mode": "balance",
    "balance_factor": 40,
    "max_time_per_fc": 2000,
    "ptq": None,
}


def test_the_configuration_says_what_the_target_says() -> None:
    document = yaml.safe_load(nash_user.configuration("net", [PICTURE, VECTOR], TARGET))
    assert document["model_parameters"]["march"] == "nash-m"
    assert document["compiler_parameters"] == {
        "compile_mode": "balance",
        "optimize_level": "O1",
        "core_num": 2,
        "debug": True,
        "jobs": 2,
        "input_source": {"image": "pyramid", "state": "ddr"},
        "balance_factor": 40,
        "max_time_per_fc": 2000,
    }
    inputs = document["input_parameters"]
    assert (inputs["input_name"], inputs["input_type_rt"]) == ("image;state;", "nv12;featuremap;")
    assert (inputs["mean_value"], inputs["scale_value"]) == ("123.675 116.28 103.53;None;", "0.0625;None;")
    assert document["calibration_parameters"] == {"calibration_type": "load"}


def test_ptq_is_told_where_its_samples_are() -> None:
    ptq = {"method": "max", "per_channel": True, "max_percentile": 0.999}
    document = yaml.safe_load(nash_user.configuration("net", [PICTURE, VECTOR], {**TARGET, "ptq": ptq}))
    assert document["calibration_parameters"] == {
        "calibration_type": "max",
        "cal_data_dir": "calibration/0;calibration/1;",
        "per_channel": True,
        "max_percentile": 0.999,
    }


def test_calibration_samples_are_written_with_their_batch_axis(tmp_path: Path) -> None:
    samples = np.arange(24, dtype=np.float32).reshape(3, 8)
    np.save(tmp_path / "state.npy", samples)
    nash_user.write_calibration({"state": str(tmp_path / "state.npy")}, [VECTOR], tmp_path / "calibration")
    files = sorted((tmp_path / "calibration" / "0").iterdir())
    assert [file.name for file in files] == ["00000.npy", "00001.npy", "00002.npy"]
    np.testing.assert_array_equal(np.load(files[1]), samples[1:2])


@pytest.mark.parametrize("samples", [np.zeros((3, 9), np.float32), np.zeros((0, 8), np.float32)])
def test_calibration_samples_of_another_shape_are_refused(samples: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "state.npy", samples)
    with pytest.raises(ArtifactError, match="another shape"):
        nash_user.write_calibration({"state": str(tmp_path / "state.npy")}, [VECTOR], tmp_path / "calibration")


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_tensor_goes_back_to_the_planes_it_came_from(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 256, (2 * rows, 2 * columns, 1), np.uint8)
    uv = rng.integers(0, 256, (rows, columns, 2), np.uint8)
    tensor = (np.concatenate([y, uv.repeat(2, 0).repeat(2, 1)], 2).astype(np.int16) - 128).astype(np.int8)
    planes = nash_user.split(tensor)
    np.testing.assert_array_equal(planes[0], y[None])
    np.testing.assert_array_equal(planes[1], uv[None])


def test_the_planes_of_a_picture_are_its_bytes_in_order() -> None:
    frame = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)
    luma, chroma = nash_user.nv12_planes(frame)
    assert (luma.shape, chroma.shape) == ((1, 4, 4, 1), (1, 2, 2, 2))
    assert luma.tobytes() + chroma.tobytes() == frame.tobytes()


def test_a_tensor_of_no_picture_is_refused() -> None:
    tensor = np.zeros((2, 2, 3), np.int8)
    tensor[0, 1, 2] = 1
    with pytest.raises(ArtifactError, match="no nv12 picture"):
        nash_user.split(tensor)


class TestProducts:
    CLEAN = "2026-09-24 19:23:31,325 INFO Start hb_compile\n"

    @pytest.fixture
    def build(self, tmp_path: Path) -> Path:
        for name in ("net_quantized_model.bc", "net.hbm", "net_calibrated_model.onnx", "net.json"):
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    def test_what_is_there_by_its_role(self, build: Path) -> None:
        found = nash_user.found_products(build, "net", True, ToolRun("hb_compile", 0, self.CLEAN), "net")
        assert {role: file.name for role, file in found.items()} == {
            "int": "net_quantized_model.bc",
            "hbm": "net.hbm",
            "reference": "net_calibrated_model.onnx",
            "perf_json": "net.json",
        }

    def test_an_empty_file_is_no_product(self, build: Path) -> None:
        (build / "net.hbm").write_bytes(b"")
        with pytest.raises(ToolchainError) as caught:
            nash_user.found_products(build, "net", False, ToolRun("hb_compile", 0, self.CLEAN), "net")
        assert caught.value.where["missing"] == "net.hbm"

    def test_an_error_line_is_an_error_with_all_products_and_exit_code_0(self, build: Path) -> None:
        console = self.CLEAN + "2026-09-24 19:23:32,000 ERROR cal_data_dir is empty\n2026-09-24 19:23:33,000 INFO done\n"
        with pytest.raises(ToolchainError) as caught:
            nash_user.found_products(build, "net", False, ToolRun("hb_compile", 0, console), "net")
        assert caught.value.where["found"] == "cal_data_dir is empty"

    def test_no_memory_is_no_fault_of_the_model(self, build: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            nash_user.found_products(build, "net", False, ToolRun("hb_compile", 134, "terminate called: std::bad_alloc\n"), "net")
        assert caught.value.kind == "memory"


@pytest.mark.parametrize(("stated", "march"), [("nash-e", "nash-e"), ("March.nash_m", "nash-m"), ("NASH-P", "nash-p"), ("b30g", "b30g")])
def test_a_march_in_the_words_of_the_zoo(stated: str, march: str) -> None:
    assert nash_user.march_of(type("Hbm", (), {"march_name": stated})) == march
