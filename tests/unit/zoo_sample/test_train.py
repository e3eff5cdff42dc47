"""When the sample zoo is trained again, and when it is left alone. Nothing here trains."""

import hashlib
import json
import subprocess
import sys

import pytest
import train


@pytest.fixture
def trained(tmp_path):
    """A home with digits_cnn as a finished training leaves it, except that the artifacts' content is made up."""
    folder = tmp_path / "zoo" / "digits_cnn"
    folder.mkdir(parents=True)
    files = {}
    for name in train.ARTIFACTS:
        (folder / name).write_bytes(name.encode())
        files[name] = hashlib.sha256(name.encode()).hexdigest()
    key = hashlib.sha256(json.dumps(train.determinants("digits_cnn"), sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"key": key, "files": files}))
    return folder, key


def test_a_whole_set_with_the_right_key_holds(trained):
    assert train.stale(*trained) == ""


def test_another_key_makes_it_stale(trained):
    assert "changed" in train.stale(trained[0], "0" * 64)


def test_a_missing_file_makes_it_stale(trained):
    (trained[0] / "qat.pt").unlink()
    assert train.stale(*trained) == "qat.pt is missing"


def test_a_damaged_file_makes_it_stale(trained):
    with (trained[0] / "float.pt").open("ab") as file:
        file.write(b"x")
    assert train.stale(*trained) == "float.pt is damaged"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 3}'])
def test_an_unreadable_manifest_makes_it_stale(trained, text):
    (trained[0] / "manifest.json").write_text(text)
    assert train.stale(*trained) == "the manifest cannot be read"


def test_no_manifest_means_not_trained(tmp_path):
    assert train.stale(tmp_path, "") == "not trained yet"


def test_a_models_key_covers_its_sources_its_data_and_the_libraries_but_no_other_model(zoo):
    found = train.determinants("digits_cnn")
    assert {"adapters/digits_cnn.py", "adapters/frames.py", "training/digits_cnn.py", "training/quant.py", "training/fit.py"} <= set(
        found["sources"]
    )
    assert not any("digits_det" in name or "wdbc" in name for name in found["sources"])
    assert set(found["libraries"]) == {"numpy", "onnx", "scikit-learn", "torch"}
    assert list(found["data"]) == ["digits.csv.gz"]
    for model in train.DATA:
        assert f"training/{model}.py" in train.determinants(model)["sources"]


def test_an_up_to_date_model_costs_no_torch(trained, zoo):
    code = "import sys; sys.modules['torch'] = None; sys.path.insert(0, sys.argv[1]); import train; sys.exit(train.main(['digits_cnn']))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(zoo)],
        env={"QATLADDER_HOME": str(trained[0].parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("digits_cnn: up to date")


def test_an_unknown_model_is_named(capsys):
    with pytest.raises(SystemExit):
        train.main(["digits_cmn"])
    assert "no sample model digits_cmn; there are digits_cnn, digits_det, wdbc_mlp" in capsys.readouterr().err


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    target = tmp_path / "qat.pt"
    target.write_bytes(b"old")
    monkeypatch.setattr(train.Path, "replace", lambda self, other: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        train._replace(target, b"new content")
    assert target.read_bytes() == b"old"
