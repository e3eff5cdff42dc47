"""Promises: `qatladder inputs` writes the three forms of one picture, shows that they agree, and never resizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qatladder import cli


@pytest.fixture
def inputs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["qatladder", "inputs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "frame.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    return path


def test_the_three_forms_are_written_and_agree(inputs: Any, picture: Path, tmp_path: Path) -> None:
    code, out, _ = inputs(picture, "--model", "digits_cnn", "--out", tmp_path / "forms", "--json")
    answer = json.loads(out)
    assert (code, answer["status"]) == (0, "passed")
    files = {form: Path(path) for form, path in answer["inputs"][0]["files"].items()}
    assert {path.name for path in (tmp_path / "forms").iterdir()} == {path.name for path in files.values()}
    frame = np.fromfile(files["hbm"], np.uint8).reshape(96, 64)
    fed = np.load(files["int"])
    assert fed.shape == (1, 64, 64, 3) and fed.dtype == np.int8
    np.testing.assert_array_equal(fed[0, :, :, 0], frame[:64].astype(np.int16) - 128)
    np.testing.assert_array_equal(fed[0, ::2, ::2, 1], frame[64:, ::2].astype(np.int16) - 128)
    np.testing.assert_array_equal(fed[0, 1::2, 1::2, 2], frame[64:, 1::2].astype(np.int16) - 128)
    assert np.load(files["float"]).shape == (1, 3, 64, 64)
    code, out, _ = inputs(picture, "--model", "digits_cnn", "--out", tmp_path / "forms")
    assert code == 0
    assert "picture -> nv12: identical" in out and "nv12 -> yuv444_128: identical" in out and "lost by the runtime type" in out


def test_a_picture_of_another_size_is_refused_not_resized(inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(path)
    code, out, err = inputs(path, "--model", "digits_cnn", "--out", tmp_path / "forms")
    assert code == 3 and not out
    for word in ("digits_cnn", "frame.png", "[64, 64, 3]", "[32, 64, 3]", "next:"):
        assert word in err
    assert not list((tmp_path / "forms").glob("*"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "no picture"])
def test_a_picture_that_cannot_be_read_is_named(inputs: Any, picture: Path, tmp_path: Path, damage: str) -> None:
    if damage == "missing":
        picture.unlink()
    elif damage == "truncated":
        picture.write_bytes(picture.read_bytes()[:2000])
    else:
        picture.write_text("hello")
    code, _, err = inputs(picture, "--model", "digits_cnn", "--out", tmp_path / "forms")
    assert code == 3 and "frame.png" in err and "Traceback" not in err


def test_an_unknown_model_is_answered_with_the_zoo(inputs: Any, picture: Path, tmp_path: Path) -> None:
    code, _, err = inputs(picture, "--model", "ghost", "--out", tmp_path / "forms")
    assert code == 3 and "zoo list" in err
