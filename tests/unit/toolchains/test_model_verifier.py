"""Promises: hbdk-model-verifier is called as documented, its files are read whole, and neither its verdict nor its exit code is believed.

Stand-in: a program that leaves the documented files. The one that runs models is in tests/standins/openexplorer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder.errors import ArtifactError, BrokenError
from qatladder.toolchains import hmct_tools, model_verifier

OUTPUT = {"raw_name": "out", "raw_dtype": "int32", "shape": [1, 2, 3], "scale": [0.5, 0.001], "axis": 1}
INTEGERS = np.array([[[1, -2, 3], [40000, -5, 0]]], np.int32)
VALUES = INTEGERS * np.array([0.5, 0.001]).reshape(1, 2, 1)

PROGRAM = """#!{python}
import sys, pathlib
if "--version" in sys.argv:
    print("hbdk-model-verifier version 3.49.15"); sys.exit(0)
work = pathlib.Path(sys.argv[sys.argv.index("--local-work-path") + 1])
(work / "argv").write_text("\\n".join(sys.argv[1:]))
for folder, files in {tree!r}.items():
    (work / "run" / folder).mkdir(parents=True)
    for name, text in files.items():
        (work / "run" / folder / name).write_text(text)
print({said!r})
sys.exit({code})
"""
NAME = "hbdk_output0_feature_out_torch_native_elem_float.txt"


def text(values: np.ndarray, form: str = "%f", header: str = "name out\nshape 1x2x3\ntype float\n") -> str:
    return header + "".join(form % value + "\n" for value in values.ravel())


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """verify(tree of result folders, what the tool prints, its exit code, options)."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    for name in ("m.hbm", "m.pt", "a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"x")

    def run(tree: dict[str, dict[str, str]], said: str = "", code: int = 0, **options: Any) -> Any:
        program = tmp_path / "bin" / "hbdk-model-verifier"
        program.write_text(PROGRAM.format(python=sys.executable, tree=tree, said=said, code=code))
        program.chmod(0o755)
        samples = [[str(tmp_path / "a.bin"), str(tmp_path / "b.bin")]]
        return model_verifier.verify(str(tmp_path / "m.hbm"), str(tmp_path / "m.pt"), samples, [OUTPUT], str(tmp_path), options)

    return run


def test_the_command_line_is_the_documented_one(tmp_path: Path) -> None:
    files = [tmp_path / "a.bin", tmp_path / "b.txt"]
    simple = model_verifier.arguments(Path("m.hbm"), Path("m.pt"), files, tmp_path)
    assert simple[:7] == ["hbdk-model-verifier", "--hbm", "m.hbm", "--model-pt", "m.pt", "--model-input", f"{files[0]},{files[1]}"]
    assert "--skip-bpu" in simple and "--ip" not in simple
    options: dict[str, Any] = {"ip": "10.0.0.2", "model_name": "n", "yuv_shape": (32, 64), "image_stride": 80, "times": 3}
    full = model_verifier.arguments(Path("m.hbm"), Path("m.pt"), [tmp_path / "a.yuv"], tmp_path, **options)
    assert "--skip-bpu" not in full
    for flag, value in (("--ip", "10.0.0.2"), ("--model-name", "n"), ("--yuv-shape", "32x64"), ("--image-stride", "80"), ("--times", "3")):
        assert full[full.index(flag) + 1] == value


@pytest.mark.parametrize("name", ["a.yuv", "a.npy", "a,b.bin"])
def test_a_file_the_tool_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError):
        model_verifier.arguments(Path("m.hbm"), Path("m.pt"), [tmp_path / name], tmp_path)


@pytest.mark.parametrize("header", ["name out\nshape 1x2x3\ntype float\n", "# name out\n# 1x2x3\n# float\n# native\n"])
@pytest.mark.parametrize("form", ["%f", "%.9g", "%.4f"])
def test_the_integers_come_back(verify: Any, header: str, form: str) -> None:
    value = verify({"simulator_output": {NAME: text(VALUES, form, header)}})
    np.testing.assert_array_equal(np.load(value["dumps"]["simulator_output"]["out"]), INTEGERS)
    assert value["version"] == "3.49.15"


def test_neither_words_nor_exit_code_decide(verify: Any) -> None:
    value = verify({"simulator_output": {NAME: text(VALUES)}}, "verification failed", 3)
    np.testing.assert_array_equal(np.load(value["dumps"]["simulator_output"]["out"]), INTEGERS)
    assert (value["said"], value["codes"]) == (["verification failed"], [3])


def test_a_boards_dump_is_read_beside_the_simulators(verify: Any) -> None:
    both = {kind: {NAME: text(VALUES + shift)} for kind, shift in (("simulator_output", 0), ("bpu_output", 0.5))}
    dumps = verify(both, ip="10.0.0.2")["dumps"]
    assert np.load(dumps["bpu_output"]["out"])[0, 0].tolist() == [2, -1, 4]
    with pytest.raises(BrokenError, match="left no result") as caught:
        verify({"simulator_output": {NAME: text(VALUES)}}, ip="10.0.0.2")
    assert caught.value.kind == "dump_missing"


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({}, "no dump of an output"),
        ({NAME: text(VALUES)[:-12]}, "does not hold the output"),
        ({NAME: text(VALUES).replace("-", "x")}, "no text of numbers"),
        ({NAME: text(VALUES * np.nan)}, "does not hold the output"),
        ({NAME: text(VALUES, "%.2f")}, "too coarse"),
        ({NAME: text(VALUES * 1e9)}, "exceeds the output's type"),
    ],
)
def test_a_result_that_is_not_whole_is_broken(verify: Any, files: dict[str, str], match: str) -> None:
    with pytest.raises(BrokenError, match=match):
        verify({"simulator_output": files})


def test_no_result_at_all_is_broken_though_it_says_passed(verify: Any) -> None:
    with pytest.raises(BrokenError, match="left no result"):
        verify({}, "verification passed")


def test_an_environment_without_the_tool_has_no_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert model_verifier.verify("m.hbm", "m.pt", [["a.bin"]], [OUTPUT], str(tmp_path)) is None


@pytest.mark.parametrize("blank", ["\n", ",\n", "  \n"])
def test_a_blank_line_hides_no_coarse_text(verify: Any, blank: str) -> None:
    with pytest.raises(BrokenError, match="too coarse"):
        verify({"simulator_output": {NAME: text(VALUES, "%.2f") + blank}})


@pytest.mark.parametrize(
    ("code", "console", "version"),
    [
        (0, "3.49.15", "3.49.15"),
        (0, "version: 3.49.15", "3.49.15"),
        (0, "hbdk-model-verifier version 3.49.15", "3.49.15"),
        (0, "UserWarning: torch 1.13.0 is old\n3.49.15\n", "3.49.15"),
        (2, "usage: ... --ip 192.168.1.10", ""),
        (0, "usage: ... --ip 192.168.1.10", ""),
        (2, "3.49.15", ""),
    ],
)
def test_only_a_version_is_taken_for_one(code: int, console: str, version: str) -> None:
    assert model_verifier._version(hmct_tools.ToolRun("x", code, console)) == version
