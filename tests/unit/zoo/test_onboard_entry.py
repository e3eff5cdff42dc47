"""Promises: an on-board program that cannot be judged is refused when the entry is read or linted, and the guide's entries are valid."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.toy import ToyZoo

from qatladder.errors import ConfigError
from qatladder.settings import load_settings
from qatladder.zoo import load_entry, load_zoo
from qatladder.zoo.lint import lint_entry
from qatladder.zoo.schema import OnBoard, PerfGate

PROGRAM: dict[str, Any] = {
    "command": ["./app", "{model}", "{inputs}", "--out={out}"],
    "files": ["onboard/app"],
    "inputs": [{"name": "x", "pattern": "in/x_{sample}.bin"}],
    "outputs": [
        {"stage": "raw", "name": "y", "pattern": "y_{sample}.bin"},
        {"stage": "postprocessed", "name": "label", "pattern": "label_{sample}.txt"},
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """PROGRAM with one item changed; `outputs.0.name` is a path."""
    program = copy.deepcopy(PROGRAM)
    at: Any = program
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in way:
        at = at[part]
    at[last] = value
    return program


def lint(zoo: ToyZoo, program: dict[str, Any]) -> list[str]:
    zoo.entry(targets=[{"march": "bayes", "onboard": program}])
    found = load_zoo(load_settings())
    assert not found.problems
    (entry,) = found.entries.values()
    return [problem for problem in lint_entry(found, entry) if "onnx" not in problem]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("command", [], "either a command to run or the dump_dir"),
        ("dump_dir", "/userdata/dumps", "either a command to run or the dump_dir"),
        ("command.1", "{hbm}", "{hbm} of '{hbm}' is none of {model}, {inputs}, {out}, {sample}"),
        ("files", ["/bin/app"], "relative to the zoo folder"),
        ("files", ["../app"], "relative to the zoo folder"),
        ("files", ["a/app", "b/app"], "share one folder"),
        ("files", ["a/model.hbm"], "model.hbm cannot have that name"),
        ("inputs", [], "at least 1"),
        ("inputs.0.name", "image", "onboard dumps the inputs image; the entry's are x"),
        ("inputs.0.stride", 64, "stride of x: only a frame of NV12"),
        ("inputs.0.pattern", "x.bin", "write {sample} once"),
        ("inputs.0.pattern", "{sample}_{sample}.bin", "write {sample} once"),
        ("inputs.0.pattern", "{sample}_{index}.bin", "no other placeholder"),
        ("inputs.0.pattern", "/tmp/{sample}.bin", "relative to the dump folder"),
        ("inputs.0.pattern", "../{sample}.bin", "stays below it"),
        ("inputs.0.pattern", "y_{sample}.bin", "two dumps are the same"),
        ("outputs", [], "at least 1"),
        ("outputs.0.stage", "final", "'raw', 'dequantised' or 'postprocessed'"),
        ("outputs.0.tolerance", {"atol": 1}, "raw integers are equal or they are not"),
        ("outputs.0.fields", ["boxes"], "belong to stage postprocessed"),
        ("outputs.1.pattern", "label_{sample}.bin", "need a dtype"),
        ("outputs.1.shape", [1], "leave the shape out"),
        ("outputs.1.ordered", False, "rows made of `fields`"),
        ("max_age_hours", 0, "greater than 0"),
    ],
)
def test_a_program_that_cannot_be_judged_is_refused(toy_zoo: ToyZoo, path: str, value: Any, said: str) -> None:
    toy_zoo.entry(targets=[{"march": "bayes", "onboard": changed(path, value)}])
    with pytest.raises(ConfigError) as caught:
        load_entry(toy_zoo.folder / "zoo" / "toy.yaml")
    assert said in str(caught.value)


def test_files_belong_to_a_command() -> None:
    program = {**PROGRAM, "dump_dir": "/userdata/dumps"}
    del program["command"]
    with pytest.raises(ValueError, match="files are sent along with a command"):
        OnBoard.model_validate(program)


def test_a_baseline_needs_its_limit() -> None:
    with pytest.raises(ValueError, match="max_vs_baseline"):
        PerfGate(baseline_ms=1.0)
    assert PerfGate(baseline_ms=1.0, max_vs_baseline=1.1).repeats == 5


def test_lint_takes_a_sound_program(toy_zoo: ToyZoo) -> None:
    (toy_zoo.folder / "zoo" / "onboard").mkdir()
    (toy_zoo.folder / "zoo" / "onboard" / "app").write_text("")
    assert lint(toy_zoo, PROGRAM) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("files", ["onboard/other"], "targets.bayes.onboard.files: "),
        ("outputs.0.name", "z", "z raw: the model has no such output; it has y"),
        ("outputs.1.fields", ["boxes"], "label postprocessed: the adapter's prediction has no boxes; it has no fields"),
    ],
)
def test_lint_names_what_the_program_cannot_dump(toy_zoo: ToyZoo, path: str, value: Any, said: str) -> None:
    (toy_zoo.folder / "zoo" / "onboard").mkdir()
    (toy_zoo.folder / "zoo" / "onboard" / "app").write_text("")
    (problem,) = lint(toy_zoo, changed(path, value))
    assert said in problem


def test_lint_asks_for_the_fields_of_a_prediction_with_parts(toy_zoo: ToyZoo) -> None:
    adapter = toy_zoo.folder / "zoo" / "toy.py"
    adapter.write_text(adapter.read_text().replace('return int(outputs["y"][0, 0] > 0)', 'return {"boxes": [], "scores": []}'))
    adapter.write_text(adapter.read_text().replace("sum(p == t for p, t in zip(predictions, targets)) / len(targets)", "1.0"))
    program = {**PROGRAM, "command": ["/opt/app"], "files": []}
    (problem,) = lint(toy_zoo, program)
    assert "write fields: [boxes, scores], in the order of the dump" in problem
    program["outputs"] = changed("outputs.1.fields", ["scores"])["outputs"]
    assert lint(toy_zoo, program) == []


def blocks(project: Path) -> list[Any]:
    text = (project / "docs" / "on-board-program.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_guides_entries_are_valid(project: Path) -> None:
    for block in blocks(project):
        if "perf" in block:
            PerfGate.model_validate(block["perf"])
        else:
            OnBoard.model_validate(block.get("onboard") or {**PROGRAM, **block})
    assert len(blocks(project)) == 4


def test_the_guides_first_entry_is_the_sample_zoos(project: Path) -> None:
    entry = yaml.safe_load((project / "include" / "zoo" / "digits_cnn.yaml").read_text())
    assert blocks(project)[0]["onboard"] == entry["targets"][0]["onboard"]
