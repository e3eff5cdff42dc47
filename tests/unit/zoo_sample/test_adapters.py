"""The adapters: tensors as in training, predictions JSON can hold, and no torch where none is needed."""

import json
import subprocess
import sys

import digits_cnn
import digits_det
import numpy as np
import pytest
import wdbc_mlp

from qatladder.errors import ConfigError
from qatladder.runner.adapter import load_adapter
from qatladder.zoo.load import load_entry

ENTRIES = ["digits_cnn", "digits_cnn_bad", "digits_det", "wdbc_mlp"]


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("split", ["evaluation", "calibration"])
def test_preprocess_gives_the_tensor_the_entry_declares(zoo, name, split):
    entry = load_entry(zoo / f"{name}.yaml")
    path, _, cls = entry.adapter.rpartition(":")
    adapter = load_adapter(f"{zoo / path}:{cls}", entry.adapter_options)
    samples = list(adapter.samples(split, 3))
    assert len(samples) == 3
    for sample in samples:
        tensors = adapter.preprocess(sample.inputs)
        assert {spec.name: spec.shape for spec in entry.inputs} == {key: array.shape for key, array in tensors.items()}
        assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in tensors.values())
        json.dumps(sample.target)


@pytest.mark.parametrize(
    "adapter", [digits_cnn.DigitsCnn(), digits_det.DigitsDet(), wdbc_mlp.WdbcMlp()], ids=lambda item: type(item).__name__
)
def test_samples_repeat_and_a_limit_only_shortens(adapter):
    long, short = list(adapter.samples("evaluation", 6)), list(adapter.samples("evaluation", 4))
    for first, second in zip(long, short, strict=False):
        assert first.target == second.target
        assert all(np.array_equal(first.inputs[key], second.inputs[key]) for key in first.inputs)
    assert len({json.dumps(sample.target) + str([array.sum() for array in sample.inputs.values()]) for sample in long}) == 6


@pytest.mark.parametrize("name", ["digits_cnn", "digits_det"])
def test_the_entry_declares_the_mean_and_scale_the_adapter_applies(zoo, name):
    entry = load_entry(zoo / f"{name}.yaml")
    spec = entry.inputs[0]
    path, _, cls = entry.adapter.rpartition(":")
    adapter = load_adapter(f"{zoo / path}:{cls}")
    picture = np.random.RandomState(0).randint(0, 256, (*spec.height_width, 3)).astype(np.uint8)
    expected = (picture.astype(np.float64) - np.array(spec.mean)) * np.array(spec.scale)
    np.testing.assert_allclose(adapter.preprocess({"image": picture})["image"][0], expected.transpose(2, 0, 1), atol=1e-5)


def test_top1_counts_the_right_ones():
    adapter = digits_cnn.DigitsCnn()
    logits = np.zeros((1, 10, 1, 1), np.float32)
    logits[0, 4] = 1
    assert adapter.postprocess({"logits": logits}) == 4
    assert adapter.score([4, 1, 2, 3], [4, 1, 2, 0]) == {"top1": 0.75}


def test_the_detector_decodes_a_cell_to_its_box():
    heads = {"head8": np.full((1, 15, 12, 12), -9, np.float32), "head16": np.full((1, 15, 6, 6), -9, np.float32)}
    cell = heads["head16"][0, :, 2, 3]  # centre x 56, y 40
    cell[0] = 9
    cell[1:5] = np.log([1.0, 0.5, 0.25, 2.0])  # left, top, right, bottom in strides of 16
    cell[5 + 7] = 9
    heads["head16"][0, :, 2, 3] = cell
    prediction = digits_det.DigitsDet().postprocess(heads)
    assert prediction["labels"] == [7]
    assert prediction["boxes"][0] == pytest.approx([40, 32, 60, 72], abs=1e-4)
    assert prediction["scores"][0] == pytest.approx(1 / (1 + np.exp(-9)), abs=1e-4)
    json.dumps(prediction)


def test_no_patient_is_in_two_splits():
    owned = [set(wdbc_mlp.rows(split).tolist()) for split in wdbc_mlp.SPLITS]
    assert sum(len(part) for part in owned) == len(set().union(*owned)) == 569
    with pytest.raises(ConfigError, match="no such split"):
        wdbc_mlp.rows("test")


def test_the_features_are_normalised_by_the_training_split_alone():
    features = wdbc_mlp.table()[0][wdbc_mlp.rows("train")]
    np.testing.assert_allclose(wdbc_mlp.MEAN, features.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(wdbc_mlp.DEVIATION, features.std(axis=0), rtol=1e-4)


def test_everything_but_load_works_without_torch(zoo):
    code = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from qatladder.runner.adapter import load_adapter
for file, cls, outputs in (
    ("digits_cnn", "DigitsCnn", {"logits": (1, 10, 1, 1)}),
    ("digits_det", "DigitsDet", {"head8": (1, 15, 12, 12), "head16": (1, 15, 6, 6)}),
    ("wdbc_mlp", "WdbcMlp", {"logits": (1, 2, 1, 1)}),
):
    adapter = load_adapter(f"{sys.argv[1]}/adapters/{file}.py:{cls}")
    assert "sklearn" not in sys.modules or file != "digits_cnn", "sklearn belongs inside samples()"
    sample = next(adapter.samples("evaluation"))
    adapter.preprocess(sample.inputs)
    import numpy as np
    prediction = adapter.postprocess({name: np.zeros(shape, np.float32) for name, shape in outputs.items()})
    assert adapter.metric in adapter.score([prediction], [sample.target])
"""
    subprocess.run([sys.executable, "-c", code, str(zoo)], check=True, env={"PYTHONPATH": str(zoo.parent), "PATH": ""}, timeout=120)
