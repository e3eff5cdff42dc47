"""What the vendor's consoles and files say, and what they only seem to say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import hmct_tools
from qatladder.toolchains.hmct_tools import ToolRun

STAMP = "2026-11-23 12:27:39,031"


def feature(**changes: object) -> dict:
    """A ddr input as hbdk-disas 3.49.15 states it."""
    item = {
        "feature name": "/q0_quantized",
        "valid dim": [1, 8, 16, 50],
        "aligned dim": [1, 8, 16, 64],
        "real dim": [1, 8, 16, 50],
        "real stride": [8192, 1, 1024, 64],
        "element type name": "int8",
        "element type size": 1,
        "is model input": True,
        "input source": "DDR",
        "occupied memory size": 8192,
    }
    return {**item, **changes}


def model(**changes: object) -> dict:
    base = {
        "model name": "net_subgraph_0",
        "march": "BAYES",
        "core num": 1,
        "model file crc32": 123456789,
        "hbdk-cc version": "version: 3.49.15; runtime version: 3.15.55.0; release_type: public; ",
        "input features": [feature()],
        "output features": [],
    }
    return {**base, **changes}


class TestRunTool:
    def test_console_holds_both_streams_without_colours(self, tmp_path: Path) -> None:
        run = hmct_tools.run_tool(
            [sys.executable, "-c", "import sys; print('\\x1b[92mINFO\\x1b[0m'); print('e', file=sys.stderr); exit(3)"], tmp_path
        )
        assert (run.code, run.signal) == (3, "")
        assert sorted(run.console.split()) == ["INFO", "e"]

    def test_variables_reach_the_tool(self, tmp_path: Path) -> None:
        run = hmct_tools.run_tool([sys.executable, "-c", "import os; print(os.environ['A'])"], tmp_path, variables={"A": "b"})
        assert run.console == "b\n"

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "killed"),
            ("print('No space left on device'); exit(1)", "disk_full"),
            ("import time; time.sleep(60)", "timeout"),
        ],
    )
    def test_infrastructure_is_broken(self, tmp_path: Path, code: str, kind: str) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_tools.run_tool([sys.executable, "-c", code], tmp_path, timeout=2)
        assert caught.value.kind == kind

    def test_a_crash_is_returned_not_raised(self, tmp_path: Path) -> None:
        run = hmct_tools.run_tool([sys.executable, "-c", "import os; os.abort()"], tmp_path)
        assert run.signal == "SIGABRT"

    def test_a_missing_tool(self, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_tools.run_tool(["hbdk-does-not-exist"], tmp_path)
        assert caught.value.kind == "tool_missing"


class TestConsole:
    def test_warnings_and_errors(self) -> None:
        console = f"{STAMP} INFO start\n{STAMP} WARNING careful\n{STAMP} ERROR *** bad\nsecond line\n{STAMP} INFO went on\nloose line\n"
        assert hmct_tools.console_problems(console) == (["careful"], ["*** bad\nsecond line"])

    def test_the_word_error_in_an_info_line_is_none(self) -> None:
        console = f"{STAMP} INFO Chebyshev error of layer ERROR_1: 0.1\nFailed tests: 0\n"
        assert hmct_tools.console_problems(console) == ([], [])

    def test_the_step_and_message_of_an_error(self) -> None:
        console = (
            f"{STAMP} ERROR hbdk-cc compile hbir model failed with returncode 1.\n"
            f"{STAMP} ERROR *** ERROR-OCCUR-DURING {{hbdk.hbdk-cc}} ***, error message: unsupported model: too wide\nlayer /a/Conv\n"
        )
        error = hmct_tools.conversion_error(ToolRun("hb_mapper", 255, console), "net")
        assert isinstance(error, ToolchainError)
        assert error.where == {"model": "net", "step": "hbdk.hbdk-cc", "found": "unsupported model: too wide", "detail": "layer /a/Conv"}

    def test_a_compiler_that_was_killed_is_infrastructure(self) -> None:
        console = f"{STAMP} ERROR hbdk-cc compile hbir model failed with returncode -9.\n{STAMP} ERROR *** ERROR-OCCUR-DURING ...\n"
        error = hmct_tools.conversion_error(ToolRun("hb_mapper", 255, console), "net")
        assert isinstance(error, BrokenError)
        assert error.kind == "killed"

    def test_a_compiler_that_crashed_is_the_model(self) -> None:
        console = f"{STAMP} ERROR hbdk-cc compile hbir model failed with returncode -11.\n"
        assert isinstance(hmct_tools.conversion_error(ToolRun("hb_mapper", 255, console), "net"), ToolchainError)

    def test_no_error_line_at_all(self) -> None:
        error = hmct_tools.conversion_error(ToolRun("hb_mapper", 0, "all fine\n"), "net")
        assert error.where["found"] == "all fine"


class TestHbmErrors:
    @pytest.mark.parametrize(
        "line",
        [
            "hbrtErrorHBMCRC32VerifyFail 3.15.55 file=7b0c 4061",
            "hbrtErrorIllegalHBM 3.15.55 file=7b0c 1978",
            "hbrtErrorIncompatibleVersion 3.15.55 file=7b0c 1994",
            "file=5732:615, in <>, internal error: Recognize march from hbm failed. hbm file format invalid?",
        ],
    )
    def test_corrupt(self, line: str) -> None:
        error = hmct_tools.hbm_error(ToolRun("hbdk-sim", -6, line), "hbdk-sim", Path("a.hbm"))
        assert isinstance(error, ArtifactError)
        assert "corrupt" in error.message

    def test_another_model_name(self) -> None:
        line = '[HBRT] no model named "nope" in hbm[0], candidates are:  main_graph_subgraph_0'
        error = hmct_tools.hbm_error(ToolRun("hbdk-sim", 134, line), "hbdk-sim", Path("a.hbm"))
        assert isinstance(error, ArtifactError)
        assert (error.where["expected"], error.where["found"]) == ("nope", "main_graph_subgraph_0")

    def test_a_wrong_size(self) -> None:
        line = "Expect the file size of the image without stride to be 3072 for NV12 image, but 100\nhbrtErrorInvalidConfig"
        error = hmct_tools.hbm_error(ToolRun("hbdk-sim", 44, line), "hbdk-sim", Path("a.hbm"))
        assert isinstance(error, ArtifactError)
        assert "3072" in error.where["found"]

    def test_an_unknown_failure_is_broken(self) -> None:
        error = hmct_tools.hbm_error(ToolRun("hbdk-sim", 1, "hbrtErrorCannotOpenFile\nmore"), "hbdk-sim", Path("a.hbm"))
        assert isinstance(error, BrokenError)
        assert error.where["last_line"] == "hbrtErrorCannotOpenFile"

    def test_a_good_run(self) -> None:
        assert hmct_tools.hbm_error(ToolRun("hbdk-sim", 0, "[info] Simulation done."), "hbdk-sim", Path("a.hbm")) is None


class TestDescribeHbm:
    def test_march_and_versions(self) -> None:
        found = hmct_tools.describe_hbm([model()], Path("a.hbm"))
        assert (found["march"], found["versions"]) == ("bayes", {"hbdk": "3.49.15", "hbdk_runtime": "3.15.55.0"})

    @pytest.mark.parametrize(
        ("changes", "stride"),
        [
            ({}, [8192, 1024, 64, 1]),  # listed as N,C,H,W
            (  # a pyramid input, listed as N,H,W,C
                {"valid dim": [1, 32, 64, 3], "aligned dim": [1, 32, 64, 4], "real dim": [1, 32, 64, 3], "real stride": [8192, 256, 4, 1]},
                [8192, 256, 4, 1],
            ),
            (  # bernoulli2: NHWC dims of planar memory
                {
                    "valid dim": [1, 16, 32, 6],
                    "aligned dim": [1, 16, 32, 6],
                    "real dim": [1, 16, 32, 6],
                    "real stride": [12288, 128, 4, 2048],
                    "element type name": "int32",
                    "element type size": 4,
                    "occupied memory size": 12288,
                },
                [12288, 128, 4, 2048],
            ),
            (  # logits of a Gemm
                {
                    "valid dim": [1, 10, 1, 1],
                    "aligned dim": [1, 10, 1, 4],
                    "real dim": [1, 10, 1, 1],
                    "real stride": [160, 4, 16, 16],
                    "element type name": "int32",
                    "element type size": 4,
                    "occupied memory size": 160,
                },
                [160, 16, 16, 4],
            ),
        ],
    )
    def test_strides_are_of_the_valid_axes(self, changes: dict, stride: list[int]) -> None:
        (found,) = hmct_tools.describe_hbm([model(**{"input features": [feature(**changes)]})], Path("a.hbm"))["inputs"]
        assert found["stride"] == stride

    def test_a_tensor_of_two_axes(self) -> None:
        item = feature(
            **{
                "valid dim": [1, 1, 1, 10],
                "aligned dim": [1, 1, 1, 16],
                "real dim": [1, 10],
                "real stride": [16, 1],
                "occupied memory size": 16,
            }
        )
        (found,) = hmct_tools.describe_hbm([model(**{"input features": [item]})], Path("a.hbm"))["inputs"]
        assert (found["valid_shape"], found["aligned_shape"], found["stride"]) == ([1, 10], [1, 16], [16, 1])

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"march": "NASH"}, "march this library does not know"),
            ({"input features": [feature(**{"element type name": "int16"})]}, "cannot be compared"),
            ({"input features": [feature(**{"element type name": "float32"})]}, "cannot be compared"),
            ({"input features": [feature(**{"real stride": [8192, 2, 1024, 64]})]}, "neither order"),
            ({"input features": [feature(**{"real stride": [8192, 1, 512, 64]})]}, "neither order"),
        ],
    )
    def test_refused(self, changes: dict, match: str) -> None:
        with pytest.raises(ToolchainError, match=match):
            hmct_tools.describe_hbm([model(**changes)], Path("a.hbm"))

    def test_several_models_are_refused(self) -> None:
        with pytest.raises(ToolchainError, match="exactly one model") as caught:
            hmct_tools.describe_hbm([model(), model(**{"model name": "net_subgraph_1"})], Path("a.hbm"))
        assert caught.value.where["found"] == "net_subgraph_0, net_subgraph_1"


class TestPerformance:
    HEAD = (
        "layer",
        "ops",
        "original output shape",
        "aligned output shape",
        "computing cost (no DDR)",
        "load/store cost",
        "active period of time",
    )

    def test_per_frame_numbers_and_layers(self) -> None:
        rows = [list(self.HEAD), ["conv", "2,359,296", "[1,16,32,16]", "[1,16,32,16]", "<1 us", "3 us (20.7% of model)", "0 ~ 3 us (3)"]]
        summary = {"latency (us)": 12.1, "FPS": 82521.87, "DDR bytes per frame": 22176, "layer details": rows}
        found = hmct_tools.describe_performance(summary, 262144)
        assert (found["latency_ms"], found["fps"], found["ddr_mb"], found["size_mb"]) == (0.0121, 82521.87, 0.022176, 0.262144)
        (layer,) = found["layers"]
        assert (layer["ops"], layer["compute_us"], layer["load_store_us"]) == (2359296, 0.0, 2.505)

    @pytest.mark.parametrize(
        ("text", "us"), [("0", 0.0), ("<1 us", 0.0), ("7 us", 7.0), ("1 us (5.7% of model)", 0.57), ("1,234 us", 1234.0)]
    )
    def test_cost_cells(self, text: str, us: float) -> None:
        assert hmct_tools._cost(text, 10.0) == pytest.approx(us)


class TestReadSimulated:
    def write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        return path

    def test_values_in_shape_and_type(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(-(2**31), 2**31, (1, 3, 4, 5))
        lines = "\n".join(" ".join(map(str, row)) + " " for row in values.reshape(-1, 5))
        file = self.write(tmp_path / "a.txt", f"#operator: CONV\n#shift = 0 0 \n#valid_dim=1x3x4x5\n#dynamic_n=1\n{lines}\n")
        found = hmct_tools.read_simulated(file, [1, 3, 4, 5], "int32")
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, values)

    def test_two_axes_are_stated_as_four(self, tmp_path: Path) -> None:
        file = self.write(tmp_path / "a.txt", "#valid_dim=1x1x1x3\n1\n-2\n3\n")
        assert hmct_tools.read_simulated(file, [1, 3], "int8").tolist() == [[1, -2, 3]]

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_tools.read_simulated(tmp_path / "a.txt", [1, 3], "int8")
        assert caught.value.kind == "dump_missing"

    @pytest.mark.parametrize("body", ["1\n2\n", "1\n2\n3\n4\n", "1\n2\nx\n", ""])
    def test_incomplete(self, tmp_path: Path, body: str) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_tools.read_simulated(self.write(tmp_path / "a.txt", "#valid_dim=1x3\n" + body), [1, 3], "int8")
        assert caught.value.kind == "dump_truncated"

    def test_a_last_number_that_may_be_cut(self, tmp_path: Path) -> None:
        with pytest.raises(BrokenError, match="within a number") as caught:
            hmct_tools.read_simulated(self.write(tmp_path / "a.txt", "#valid_dim=1x3\n1 2 3"), [1, 3], "int8")
        assert caught.value.kind == "dump_truncated"

    @pytest.mark.parametrize("text", ["#valid_dim=1x4\n1 2 3", "1 2 3"])
    def test_another_shape(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ToolchainError, match="another shape"):
            hmct_tools.read_simulated(self.write(tmp_path / "a.txt", text), [1, 3], "int8")

    def test_a_value_that_does_not_fit(self, tmp_path: Path) -> None:
        with pytest.raises(ToolchainError, match="does not fit"):
            hmct_tools.read_simulated(self.write(tmp_path / "a.txt", "#valid_dim=1x3\n1 2 200"), [1, 3], "int8")
