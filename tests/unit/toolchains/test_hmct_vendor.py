"""A vendor tool that dies, or leaves a file out, says nothing about the model; a file that is none of what it should be does."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qatladder.errors import ArtifactError, BrokenError, ToolchainError
from qatladder.toolchains import hbdk, hmct_tools, hmct_vendor
from qatladder.toolchains.hmct_tools import ToolRun

STAMP = "2026-11-23 12:27:39,031"
BAD_ALLOC = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
DESCRIBED = {"march": "bayes", "core_num": 1, "inputs": [{"source": "ddr"}]}

Answers = Callable[..., None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """answers(tool=(exit code, console, text of its -o file)): what the vendor tools do; any other tool may not be started."""

    def set_up(**tools: tuple[int, str, str | None]) -> None:
        def run_tool(arguments: list, folder: Path, **_: object) -> ToolRun:
            code, console, written = tools[arguments[0].replace("-", "_")]
            if written is not None:
                Path(arguments[arguments.index("-o") + 1]).write_bytes(written.encode("utf-8", "surrogateescape"))
            return ToolRun(str(arguments[0]), code, console)

        monkeypatch.setattr(hmct_tools, "run_tool", run_tool)

    return set_up


@pytest.fixture
def hbm(tmp_path: Path) -> Path:
    path = tmp_path / "net.hbm"
    path.write_bytes(b"hbm")
    return path


@pytest.fixture
def hbir(tmp_path: Path) -> Path:
    path = tmp_path / "net.hbir"
    path.write_bytes(b"hbir")
    return path


class TestDisassemble:
    @pytest.mark.parametrize(
        ("code", "console", "kind"),
        [
            (-signal.SIGSEGV, "----Stack Trace----", "tool_crashed"),
            (128 + signal.SIGABRT, "", "tool_crashed"),
            (-signal.SIGABRT, BAD_ALLOC, "memory"),
            (1, BAD_ALLOC, "memory"),
            (3, "cannot open the output", "tool_failed"),
        ],
    )
    def test_a_tool_that_dies_on_a_sound_hbm_is_broken(self, answers, hbm, tmp_path: Path, code: int, console: str, kind: str) -> None:
        answers(hbdk_disas=(code, console, ""), hbdk_perf=(0, "FPS=1", None))
        with pytest.raises(BrokenError, match="hbdk-disas") as caught:
            hbdk.disassemble(hbm, tmp_path)
        assert caught.value.kind == kind
        assert caught.value.where["file"] == str(hbm)

    def test_a_tool_that_dies_on_a_damaged_hbm_is_the_files_fault(self, answers, hbm, tmp_path: Path) -> None:
        answers(hbdk_disas=(-11, "----Stack Trace----", ""), hbdk_perf=(2, "ERROR: hbinst crc32 = 3a07260d, should be c5f8d9f2", None))
        with pytest.raises(ArtifactError, match="corrupt") as caught:
            hbdk.disassemble(hbm, tmp_path)
        assert caught.value.where["found"] == "crc32 = 3a07260d, should be c5f8d9f2"

    @pytest.mark.parametrize(("written", "kind"), [(None, "dump_missing"), ('[{"model', "dump_truncated")])
    def test_exit_code_0_without_a_description(self, answers, hbm, tmp_path: Path, written: str | None, kind: str) -> None:
        answers(hbdk_disas=(0, "", written), hbdk_perf=(-11, "----Stack Trace----", None))
        with pytest.raises(BrokenError) as caught:
            hbdk.disassemble(hbm, tmp_path)
        assert caught.value.kind == kind
        answers(hbdk_disas=(0, "", written), hbdk_perf=(2, "ERROR: The version of model is not compatible with the hbrt version", None))
        with pytest.raises(ArtifactError, match="corrupt or of another toolchain version"):
            hbdk.disassemble(hbm, tmp_path)

    @pytest.mark.parametrize("written", ["null\n", '[{"model name": "H\udce9s"}]\n'])
    def test_a_description_of_a_truncated_hbm(self, answers, hbm, tmp_path: Path, written: str) -> None:
        answers(hbdk_disas=(0, "", written))
        with pytest.raises(ArtifactError, match="cannot be disassembled"):
            hbdk.disassemble(hbm, tmp_path)


class TestSupport:
    @pytest.mark.parametrize(
        ("code", "console", "kind"),
        [
            (-signal.SIGSEGV, "checking layer 3\n----Stack Trace----", "tool_crashed"),
            (128 + signal.SIGABRT, "checking layer 3", "tool_crashed"),
            (1, BAD_ALLOC, "memory"),
            (1, "", "tool_crashed"),
            (0, " \n", "tool_crashed"),
        ],
    )
    def test_a_checker_that_dies_or_says_nothing_is_broken(self, answers, hbir, tmp_path: Path, code: int, console: str, kind: str) -> None:
        answers(hbdk_model_check=(code, console, None))
        with pytest.raises(BrokenError, match="hbdk-model-check") as caught:
            hmct_vendor._check_support(hbir, DESCRIBED, tmp_path)
        assert caught.value.kind == kind

    def test_what_it_refuses_and_what_it_takes(self, answers, hbir, tmp_path: Path) -> None:
        answers(hbdk_model_check=(1, "\nlayer /a/Conv: too wide\n", None))
        assert hmct_vendor._check_support(hbir, DESCRIBED, tmp_path) == ["layer /a/Conv: too wide"]
        answers(hbdk_model_check=(0, "This model is supported!", None))
        assert hmct_vendor._check_support(hbir, DESCRIBED, tmp_path) == []

    @pytest.mark.parametrize("name", [None, "gone.hbir"])
    def test_without_an_hbir_the_question_stays_open(self, answers, tmp_path: Path, name: str | None) -> None:
        answers()
        with pytest.raises(BrokenError, match="left no hbir") as caught:
            hmct_vendor._check_support(tmp_path / name if name else None, DESCRIBED, tmp_path)
        assert caught.value.kind == "dump_missing"


class TestConversion:
    @pytest.mark.parametrize(
        ("code", "console", "kind"),
        [
            (-signal.SIGABRT, "", "tool_crashed"),
            (128 + signal.SIGABRT, "core dumped", "tool_crashed"),
            (-signal.SIGABRT, BAD_ALLOC, "memory"),
            (255, f"{STAMP} ERROR hbdk-cc compile hbir model failed with returncode -6.\n{BAD_ALLOC}", "memory"),
            (0, f"{STAMP} ERROR *** ERROR-OCCUR-DURING {{x}} ***, error message: MemoryError\n", "memory"),
            (255, "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB", "memory"),
        ],
    )
    def test_a_converter_that_was_starved_or_aborted_is_broken(self, code: int, console: str, kind: str) -> None:
        error = hmct_tools.conversion_error(ToolRun("hb_mapper", code, console), "net")
        assert isinstance(error, BrokenError)
        assert error.kind == kind
        assert error.where["model"] == "net"

    @pytest.mark.parametrize("text", ["OSError: [Errno 28] No space left on device", "write error: No space left", "Disk quota exceeded"])
    def test_a_full_disk(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_tools.run_tool(["sh", "-c", f"echo '{text}'; exit 255"], tmp_path)
        assert caught.value.kind == "disk_full"

    def test_a_crash_by_the_model_stays_the_models(self) -> None:
        error = hmct_tools.conversion_error(ToolRun("hb_mapper", -signal.SIGFPE, ""), "net")
        assert isinstance(error, ToolchainError)

    def test_whether_it_split_is_not_guessed_without_the_hybrid_model(self, tmp_path: Path) -> None:
        with pytest.raises(BrokenError) as caught:
            hmct_vendor._one_bpu_part(tmp_path / "net_hybrid_model.onnx", "")
        assert caught.value.kind == "dump_missing"
        assert caught.value.where["file"].endswith("net_hybrid_model.onnx")

    def test_a_file_the_converter_wrote_halfway_is_broken(self, tmp_path: Path) -> None:
        (tmp_path / "net_hybrid_model.onnx").write_bytes(b"\x08\x07\x3a\xff\x01")
        with pytest.raises(BrokenError) as caught:
            hmct_vendor._one_bpu_part(tmp_path / "net_hybrid_model.onnx", "")
        assert caught.value.kind == "dump_truncated"


class TestLoad:
    def model(self) -> bytes:
        tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", tensor[:1], tensor[1:])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="test").SerializeToString()

    def test_a_model(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").write_bytes(self.model())
        assert hmct_vendor._load(tmp_path / "a.onnx").graph.node[0].op_type == "Relu"

    def test_every_truncation_is_named_with_file_and_size(self, tmp_path: Path) -> None:
        content, path = self.model(), tmp_path / "a.onnx"
        silent = 0
        for size in range(len(content)):
            path.write_bytes(content[:size])
            try:
                onnx.load_model_from_string(content[:size])
                silent += 1
            except Exception:
                pass
            with pytest.raises(ArtifactError, match="is empty" if size == 0 else "cannot be read as ONNX") as caught:
                hmct_vendor._load(path)
            assert (caught.value.where["file"], caught.value.where["size"]) == (str(path), f"{size} bytes")
        assert silent >= 3  # cuts protobuf does not notice

    def test_a_machine_without_memory_is_not_the_files_fault(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.onnx").write_bytes(self.model())

        def starved(content: bytes) -> None:
            raise MemoryError

        monkeypatch.setattr(hmct_vendor.onnx, "load_model_from_string", starved)
        with pytest.raises(MemoryError):
            hmct_vendor._load(tmp_path / "a.onnx")
