"""Promises of qatladder.quality.expectations: sane dumps pass, each kind of damage fails its own expectation and names its samples."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qatladder.errors import ArtifactError, BrokenError, ConfigError
from qatladder.quality.expectations import plan
from qatladder.quality.statistics import write_table
from qatladder.runner.client import Environment, run_job

SAMPLES = 6
RULES = {
    "samples": SAMPLES,
    "max_saturation_share": 0.05,
    "outputs": {"head/box:'0\"": {"count": 40, "dtype": "int8"}, "prob": {"count": 10, "range": [0.0, 1.0]}, "index": {"count": 1}},
}


def dumps() -> dict[str, np.ndarray]:
    random = np.random.default_rng(11)
    return {
        "head/box:'0\"": random.integers(-100, 101, (SAMPLES, 4, 10), dtype=np.int32),
        "prob": random.uniform(0.01, 0.99, (SAMPLES, 10)).astype(np.float32),
        "index": np.full((SAMPLES, 1), 3, dtype=np.int32),
    }


def job(folder: Path, arrays: dict[str, np.ndarray], rules: dict[str, Any] = RULES, log: Callable[[str], None] | None = None) -> Any:
    files = {}
    for index, (name, array) in enumerate(arrays.items()):
        files[name] = folder / f"{index}.npy"
        np.save(files[name], array)
    write_table(files, folder / "table.json", {"head/box:'0\"": (-128, 127)})
    args = {"tables": [str(folder / "table.json")], "rules": rules, "out_dir": str(folder / "out")}
    environment = Environment("product", Path(sys.executable))
    return run_job(environment, "qatladder.quality.expectations:judge", args, folder / "job", timeout=300, log=log)


def damaged() -> dict[str, np.ndarray]:
    """One damage per sample or output, so that one run shows them all."""
    arrays = dumps()
    box, prob = arrays["head/box:'0\""], arrays["prob"]
    box[1] = 5  # constant
    box[2, 0, 0] = 300  # not representable in int8
    box[4, 0, :5] = 127  # 12.5 % saturated
    prob[3, 2] = np.nan
    prob[0, 1] = -0.25
    arrays["prob"] = prob[:5]  # sample 5 is missing
    arrays["index"] = np.full((SAMPLES, 2), [1, 2], dtype=np.int32)  # two elements where one is declared
    return arrays


def test_sane_dumps_meet_every_expectation(tmp_path: Path) -> None:
    lines: list[str] = []
    answer = job(tmp_path, dumps(), log=lines.append)
    value = answer.value
    assert value["success"] is True
    assert value["failed"] == 0
    assert value["evaluated"] == len(value["expectations"]) == len(list(plan(RULES)))
    assert lines == []  # quiet: no progress bar, no analytics, no warnings
    assert answer.environment["great_expectations"] == value["version"]
    assert value["peak_rss_mb"] > 100
    asked = {(item["output"], item["column"]) for item in value["expectations"]}
    assert ("index", "distinct") not in asked  # a single element is always constant
    assert ("index", "min") not in asked  # no range given


def test_each_damage_fails_its_own_expectation(tmp_path: Path) -> None:
    value = job(tmp_path, damaged()).value
    failed = {(item["output"], item["column"], item["title"]): item for item in value["expectations"] if not item["success"]}
    box = "head/box:'0\""
    assert {key[:2]: item["unexpected_samples"] for key, item in failed.items()} == {
        (box, "distinct"): [1],
        (box, "max"): [2],
        (box, "saturation_share"): [4],
        ("prob", "sample"): [5],
        ("prob", "finite_count"): [3],
        ("prob", "min"): [0],
        ("index", "count"): list(range(SAMPLES)),
    }
    assert value["success"] is False
    assert value["failed"] == 7
    saturated = next(item for item in failed.values() if item["column"] == "saturation_share")
    assert saturated["expected"] == "share <= 0.05"
    assert "0.125" in saturated["observed"]


def test_a_missing_output_fails_and_passes_nothing_by_emptiness(tmp_path: Path) -> None:
    arrays = dumps()
    del arrays["prob"]
    arrays["surprise"] = np.array([[1, 2]], dtype=np.int8)
    items = job(tmp_path, arrays).value["expectations"]
    names = next(item for item in items if item["column"] == "output")
    assert not names["success"]
    assert "surprise" in names["observed"]
    about = [item for item in items if item["output"] == "prob"]
    assert {item["title"] for item in about} == {"every sample is there", "no sample is there twice"}
    assert about[0]["success"] is False
    assert about[0]["unexpected_count"] == SAMPLES


def test_an_all_nan_output_does_not_pass_its_range(tmp_path: Path) -> None:
    arrays = dumps()
    arrays["prob"][:] = np.nan
    items = [item for item in job(tmp_path, arrays).value["expectations"] if item["output"] == "prob"]
    assert not any(item["column"] in ("min", "max", "distinct") for item in items)
    assert not next(item for item in items if item["column"] == "finite_count")["success"]


def test_repeated_samples_are_named(tmp_path: Path) -> None:
    arrays = dumps()
    files = {name: tmp_path / f"x{index}.npy" for index, name in enumerate(arrays)}
    for name, array in arrays.items():
        np.save(files[name], array)
    write_table(files, tmp_path / "one.json", {"head/box:'0\"": (-128, 127)})
    np.save(tmp_path / "again.npy", arrays["prob"][:2])
    write_table({"prob": tmp_path / "again.npy"}, tmp_path / "two.json")
    args = {"tables": [str(tmp_path / "one.json"), str(tmp_path / "two.json")], "rules": RULES, "out_dir": str(tmp_path / "out")}
    value = run_job(Environment("product", Path(sys.executable)), "qatladder.quality.expectations:judge", args, tmp_path / "job").value
    (failed,) = [item for item in value["expectations"] if not item["success"]]
    assert (failed["output"], failed["title"], failed["unexpected_samples"]) == ("prob", "no sample is there twice", [0, 1])


def test_data_docs_need_no_network_and_say_what_failed(tmp_path: Path) -> None:
    value = job(tmp_path, damaged()).value
    pages = list((tmp_path / "out" / "data_docs").rglob("*.html"))
    assert {Path(value["data_docs"]), Path(value["page"])} <= set(pages)
    assert "validations" in value["page"]
    for page in pages:
        text = page.read_text()
        assert not re.search(r"<(script|link|img|iframe)\b[^>]*(?:src|href)\s*=\s*[\"'](?:https?:)?//", text)
        assert "fa-times::before" in text  # the words that stand in for the icon font
    text = Path(value["page"]).read_text()
    assert "saturation_share" in text
    assert text.count("fa-times ") >= 7 or text.count("fa-times") >= 8
    size = sum(item.stat().st_size for item in (tmp_path / "out" / "data_docs").rglob("*") if item.is_file())
    assert size < 500_000


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"max_saturation_share": None}, "incomplete"),
        ({"outputs": {}}, "incomplete"),
        ({"outputs": {"a": {}}}, "element count"),
        ({"outputs": {"a": {"count": 1, "limit": 2}}}, "unknown key"),
        ({"outputs": {"a": {"count": 1, "max_saturation_share": 1.5}}}, "share"),
        ({"outputs": {"a": {"count": 1, "dtype": "int4"}}}, "dtype"),
    ],
)
def test_incomplete_rules_are_refused(change: dict[str, Any], match: str) -> None:
    rules = {key: value for key, value in {**RULES, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=match):
        list(plan(rules))


def test_a_missing_table_is_an_artifact_error(tmp_path: Path) -> None:
    args = {"tables": [str(tmp_path / "none.json")], "rules": RULES, "out_dir": str(tmp_path / "out")}
    with pytest.raises(ArtifactError, match="table cannot be read"):
        run_job(Environment("product", Path(sys.executable)), "qatladder.quality.expectations:judge", args, tmp_path / "job")


def test_a_failure_of_the_tool_is_broken_not_failed(tmp_path: Path) -> None:
    """A great_expectations that cannot be imported says nothing about the dumps."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "great_expectations.py").write_text("raise RuntimeError('no such context')\n")
    np.save(tmp_path / "a.npy", dumps()["prob"])
    write_table({"prob": tmp_path / "a.npy"}, tmp_path / "table.json")
    args = {"tables": [str(tmp_path / "table.json")], "rules": RULES, "out_dir": str(tmp_path / "out")}
    environment = Environment("product", Path(sys.executable), paths=[tmp_path / "broken"])
    with pytest.raises(BrokenError, match="no such context") as caught:
        run_job(environment, "qatladder.quality.expectations:judge", args, tmp_path / "job", check="board.quality")
    assert caught.value.kind == "quality_tool"
    assert caught.value.where["check"] == "board.quality"


def test_importing_the_module_does_not_import_the_tool() -> None:
    """The runner resolves the call in the job's process; anything else that imports the module must stay light."""
    code = "import sys, qatladder.quality.expectations; print(sorted({'great_expectations', 'pandas'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "include"})
    assert result.stdout.strip() == "[]"
