"""A new entry reads at once, is short, says what is missing, and never overwrites anything."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

from qatladder.cli import app
from qatladder.errors import ConfigError
from qatladder.runner.adapter import load_adapter
from qatladder.settings import load_settings
from qatladder.zoo import load_zoo
from qatladder.zoo.lint import lint_entry
from qatladder.zoo.scaffold import scaffold


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    return tmp_path / "zoo"


@pytest.mark.parametrize("data", ["own", "folder", "coco"])
@pytest.mark.parametrize("kind", ["torch", "torchscript", "onnx", "hat"])
@pytest.mark.parametrize(
    ("toolchain", "march", "ptq"),
    [("hmct", "bayes-e", False), ("hmct", "bernoulli2", True), ("openexplorer", "bayes", False), ("nash", "nash-m", False)],
)
def test_every_kind_reads_and_lint_says_what_is_missing(kind: str, data: str, toolchain: str, march: str, ptq: bool, folder: Path) -> None:
    arguments = [
        "zoo",
        "new",
        "lane-net.v2",
        "--kind",
        kind,
        "--data",
        data,
        "--toolchain",
        toolchain,
        "--march",
        march,
        *(["--ptq"] if ptq else []),
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "qatladder zoo lint lane-net.v2" in done.output
    zoo = load_zoo(load_settings())
    assert not zoo.problems
    (entry,) = zoo.entries.values()
    assert (entry.targets[0].toolchain, entry.targets[0].march, entry.targets[0].ptq is not None) == (toolchain, march, ptq)
    adapter = load_adapter(zoo.adapter(entry), entry.adapter_options)
    assert (type(adapter).__name__, adapter.metric) == ("LaneNetV2", entry.metric)
    lines = [line for line in Path(zoo.adapter(entry).rpartition(":")[0]).read_text().splitlines() if line.strip()]
    assert len(lines) <= 40
    problems = lint_entry(zoo, entry)
    source = "int" if toolchain == "openexplorer" else "onnx"
    assert any(problem.startswith(f"artifacts.{source}: ") and "does not exist" in problem for problem in problems)
    missing = {"own": "yield (picture, label) pairs", "folder": "no folder of classes", "coco": "cannot be read as COCO"}
    assert any(missing[data] in problem for problem in problems)
    rungs = {"float"} if ptq else {"float", "calib", "qat"}
    assert {problem.split(":")[0] for problem in problems} == {f"artifacts.{which}" for which in {*rungs, source}} | {"adapter.samples"}


def test_nothing_is_overwritten_and_nothing_half_written(folder: Path) -> None:
    scaffold(folder, "a", "torch", "hmct", "bayes", False, "")
    (folder / "adapters" / "a.py").write_text("mine")
    (folder / "a.yaml").unlink()
    with pytest.raises(ConfigError, match="nothing was written"):
        scaffold(folder, "a", "torch", "hmct", "bayes", False, "")
    assert (folder / "adapters" / "a.py").read_text() == "mine"
    assert not (folder / "a.yaml").exists()


def test_a_zoo_file_is_kept(folder: Path) -> None:
    folder.mkdir()
    (folder / "zoo.yaml").write_text("artifacts: /data\n")
    files = scaffold(folder, "a", "torch", "hmct", "bayes", False, "j5")
    assert (folder / "zoo.yaml").read_text() == "artifacts: /data\n"
    assert [path.name for path in files] == ["a.yaml", "a.py"]
    assert "environment: j5" in files[0].read_text()


def test_a_march_of_another_toolchain_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not compile for this march"):
        scaffold(folder, "a", "torch", "openexplorer", "bayes-e", False, "")
    assert not folder.exists()


def test_the_adapter_runs_on_python_3_8(folder: Path) -> None:
    (_, adapter, _) = scaffold(folder, "a", "torch", "hmct", "bayes", False, "")
    ast.parse(adapter.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("name", ["../evil", "3dnet", "2024", "lanes v2", "none", "sample", ""])
def test_a_name_that_makes_no_class_is_refused_before_anything_is_written(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="names its adapter's class"):
        scaffold(folder, name, "torch", "hmct", "bayes", False, "")
    assert not folder.exists()


def test_a_name_that_yaml_takes_for_something_else_stays_a_name(folder: Path) -> None:
    scaffold(folder, "yes", "torch", "hmct", "bayes", False, "")
    (entry,) = load_zoo(load_settings()).entries.values()
    assert entry.model == "yes"


def test_openexplorer_does_not_quantise(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not quantise"):
        scaffold(folder, "a", "torch", "openexplorer", "bayes", True, "")
    assert not folder.exists()
