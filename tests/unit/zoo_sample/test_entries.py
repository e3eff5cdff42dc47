"""The entries: valid, named by their file, and the bad one differs from the good one in the colour order alone."""

import json

import jsonschema
import pytest
import yaml
from train import ARTIFACTS, DATA

from qatladder.zoo.load import load_entry
from qatladder.zoo.schema import ZooFile, json_schema

NAMES = ["digits_cnn", "digits_cnn_bad", "digits_det", "wdbc_mlp"]


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_valid_for_the_library_and_for_an_editor(zoo, name):
    text = (zoo / f"{name}.yaml").read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=zoo.schema.json"
    assert load_entry(zoo / f"{name}.yaml").model == name
    jsonschema.Draft202012Validator(json.loads((zoo / "zoo.schema.json").read_text())).validate(yaml.safe_load(text))


@pytest.mark.parametrize("name", NAMES)
def test_training_makes_every_artifact_an_entry_names(zoo, name):
    artifacts = load_entry(zoo / f"{name}.yaml").artifacts
    for path in (artifacts.float, artifacts.calib, artifacts.qat, artifacts.onnx):
        model, _, file = path.partition("/")
        assert model in DATA
        assert file in ARTIFACTS


def test_the_schema_file_is_up_to_date(zoo):
    found = json.loads((zoo / "zoo.schema.json").read_text())
    assert found == json_schema(), "write json.dumps(qatladder.zoo.schema.json_schema(), indent=2) to include/zoo/zoo.schema.json"


def test_the_shared_file_is_valid(zoo):
    assert ZooFile.model_validate(yaml.safe_load((zoo / "zoo.yaml").read_text())).artifacts == "$QATLADDER_HOME/zoo"


def test_the_bad_entry_differs_in_the_declared_colour_order_alone(zoo):
    good, bad = (load_entry(zoo / f"{name}.yaml").model_dump() for name in ("digits_cnn", "digits_cnn_bad"))
    for entry in (good, bad):
        for key in ("model", "description", "owner"):
            del entry[key]
    types = [entry["inputs"][0].pop("type_train") for entry in (good, bad)]
    assert types == ["rgb", "bgr"]
    assert good == bad
