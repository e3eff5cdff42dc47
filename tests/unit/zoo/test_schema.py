"""Promises: an entry that validates can be climbed; every mistake is named with its field and what to write instead."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from qatladder.errors import ConfigError
from qatladder.settings import load_settings
from qatladder.zoo import load_entry, load_zoo
from qatladder.zoo.schema import RUNTIME_TYPES, Entry


def entry(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "model": "toy",
        "version": "1",
        "adapter": "toy.py:Toy",
        "inputs": [
            {
                "name": "image",
                "shape": [1, 3, 64, 64],
                "type_train": "rgb",
                "type_rt": "nv12",
                "source": "pyramid",
                "mean": [1, 2, 3],
                "scale": [1],
            }
        ],
        "artifacts": {"float": "toy/float.pt"},
        "metric": "top1",
        "gates": {"float": {"min": 0.9}},
        "targets": [{"march": "bayes-e"}],
    }
    data.update(changes)
    return data


def with_input(**changes: Any) -> dict[str, Any]:
    data = entry()
    data["inputs"][0].update(changes)
    return data


def expecting(**fields: Any) -> dict[str, Any]:
    return entry(expectations=[{"output": "y", "statistic": "max", **fields}])


def write(folder: Path, data: Any, name: str = "toy.yaml") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_a_minimal_entry_validates_with_the_documented_defaults(tmp_path: Path) -> None:
    found = load_entry(write(tmp_path, entry()))
    assert found.targets[0].id == "bayes-e"
    assert found.gates.board.max_drop == 0.0
    assert found.inputs[0].height_width == (64, 64)


@pytest.mark.parametrize(
    ("data", "field", "hint"),
    [
        (with_input(shape=[1, 3, 63, 64]), "inputs.0", "even height and width"),
        (with_input(shape=[4, 3, 64, 64]), "inputs.0", "batch 4"),
        (with_input(shape=[1, 3, 0, 64]), "inputs.0", "size below 1"),
        (with_input(shape=[1, 64, 64, 3]), "inputs.0", "has 64"),
        (with_input(type_train="gray"), "inputs.0", "goes with rgb, bgr, yuv444"),
        (with_input(type_train="featuremap", type_rt="featuremap", source="ddr"), "inputs.0", "mean and scale belong to images"),
        (with_input(type_rt="rgb"), "inputs.0", "pyramid, which delivers nv12 or gray"),
        (with_input(source="ddr"), "inputs.0", "nv12 does not come through ddr"),
        (with_input(type_train="yuv444", swing="studio"), "inputs.0", "studio swing goes with nv12 of a model trained on rgb or bgr"),
        (with_input(mean=[1, 2]), "inputs.0", "mean needs 1 or 3"),
        (with_input(tpye="x"), "inputs.0.tpye", "Extra inputs"),
        (entry(adapter="toy.Toy"), "adapter", "file.py:ClassName"),
        (entry(gates={"float": {}}), "gates.float", "min, max_drop or both"),
        (entry(gates={"float": {"min": float("nan")}}), "gates.float.min", "finite number"),
        (entry(gates={"float": {"min": float("-inf")}}), "gates.float.min", "finite number"),
        (entry(targets=[{"march": "bayes", "perf": {"max_latency_ms": float("inf")}}]), "targets.0.perf.max_latency_ms", "finite number"),
        (with_input(mean=[1, float("nan"), 3]), "inputs.0.mean.1", "finite number"),
        (entry(targets=[{"march": "bayes-e"}, {"march": "bayes-e"}]), "(file)", "share a name"),
        (entry(targets=[{"march": "nash"}]), "targets.0.march", "bayes"),
        (expecting(), "expectations.0", "needs min, max or both"),
        (expecting(min=2, max=1), "expectations.0", "min 2 is above max 1"),
        (expecting(max=float("nan")), "expectations.0.max", "finite number"),
        (expecting(statistic="mode", max=1), "expectations.0.statistic", "'min', 'max', 'mean', 'std'"),
        (expecting(statistic="zero_share", max=20), "expectations.0", "0 to 1, not [20.0]"),
        (expecting(statistic="entropy", max=-1), "expectations.0", "never below 0"),
        (expecting(statistic="drift", min=0.1, max=0.2), "expectations.0", "no min and no mostly"),
        (expecting(max=1, mostly=0), "expectations.0.mostly", "greater than 0"),
        (expecting(max=1, maximum=2), "expectations.0.maximum", "Extra inputs"),
        (expecting(max=1, target="bayes"), "(file)", "name target bayes; the entry's are bayes-e"),
        (
            entry(outputs=["y"], expectations=[{"output": "z", "statistic": "max", "max": 1}]),
            "(file)",
            "name the output z; the entry's are y",
        ),
        (entry(expectations=[{"output": "y", "statistic": "max", "max": 1}] * 2), "(file)", "ask twice for max of y on bayes-e"),
        (entry(model="../evil"), "model", "pattern"),
        (entry(version=1), "version", "string"),
        ([1, 2], "(file)", "dictionary"),
        ("a: [", "", "YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, data: Any, field: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_entry(write(tmp_path, data))
    text = str(caught.value)
    assert field in text
    assert hint in text
    assert "toy.yaml" in text


def test_expectations_of_several_targets_and_statistics_are_read() -> None:
    items = [
        {"output": "y", "statistic": "max", "max": 100, "target": "bayes-e"},
        {"output": "y", "statistic": "max", "max": 120, "target": "old"},
        {"output": "y", "statistic": "min", "min": 0, "mostly": 0.9},
        {"output": "y", "statistic": "drift", "max": 1},
    ]
    found = Entry.model_validate(entry(targets=[{"march": "bayes-e"}, {"march": "bayes", "name": "old"}], expectations=items))
    assert [(item.min, item.max, item.mostly) for item in found.expectations] == [
        (None, 100, 1),
        (None, 120, 1),
        (0, None, 0.9),
        (None, 1, 1),
    ]


@pytest.mark.parametrize("type_rt", list(RUNTIME_TYPES))
def test_every_runtime_type_has_a_valid_pairing(type_rt: str) -> None:
    type_train = RUNTIME_TYPES[type_rt][0]
    channels = 1 if type_train == "gray" else 3
    source = "pyramid" if type_rt in ("nv12", "gray") else "ddr"
    image = {} if type_rt == "featuremap" else {"mean": [0.0], "scale": [1.0]}
    item = {"name": "x", "shape": [1, channels, 8, 8], "type_train": type_train, "type_rt": type_rt, "source": source, **image}
    assert Entry.model_validate(entry(inputs=[item])).inputs[0].type_rt == type_rt


def test_an_input_states_a_contract_and_leaves_to_the_int_model_what_is_its_own() -> None:
    (spec,) = Entry.model_validate(with_input(swing="studio")).inputs
    found = spec.contract()
    assert (found.name, found.type_rt, found.type_train, found.layout, found.source, found.swing) == (
        "image",
        "nv12",
        "rgb",
        "NCHW",
        "pyramid",
        "studio",
    )
    assert (found.mean, found.scale, found.shape, found.toolchain) == ((1, 2, 3), (1,), (1, 3, 64, 64), "hmct")
    assert (found.layout_rt, found.bits, found.tensor) == ("", 0, None)
    assert found.check() is found
    assert spec.contract("openexplorer").toolchain == "openexplorer"


def test_one_bad_entry_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, entry())
    write(tmp_path, entry(model="other", metric=None), "other.yaml")
    write(tmp_path, entry(), "copy.yaml")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    zoo = load_zoo(load_settings())
    assert [item.model for item in zoo.entries.values()] == ["toy"]
    assert {Path(problem.where["file"]).name for problem in zoo.problems} == {"other.yaml", "toy.yaml"}
    assert any("two files declare the same model" in str(problem) for problem in zoo.problems)


def test_an_environment_that_is_not_defined_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, entry(environment="j5-sdk"))
    write(tmp_path, {"environments": {"other": {"python": "/opt/python"}}, "artifacts": "$QATLADDER_HOME/zoo"}, "zoo.yaml")
    monkeypatch.setenv("QATLADDER_ZOO", str(tmp_path))
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path / "home"))
    zoo = load_zoo(load_settings())
    (found,) = zoo.entries.values()
    assert zoo.artifact(found, "float") == tmp_path / "home" / "zoo" / "toy" / "float.pt"
    with pytest.raises(ConfigError, match="does not define") as caught:
        zoo.environment(found)
    assert caught.value.where["expected"] == "product | other"
