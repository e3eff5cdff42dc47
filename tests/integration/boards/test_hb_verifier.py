"""The vendor's own hb_verifier, unmodified, takes the virtual board for a board: the proof that the stand-in stands in.

hb_verifier has port 22 built in, logs in by password, and exits 0 whatever it finds: only its text counts.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from qatladder.boards.hrt import plain
from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.zoo.load import NOT_ENTRIES, load_entry

from .conftest import J5, X5, Bench, Model, vendor_run  # type: ignore[import-not-found]

pytestmark = pytest.mark.vendor

PROJECT_HOME = load_settings().home
"""Where the sample zoo was trained; the boards of these tests have data folders of their own."""

PASSED = "Quanti.onnx and Arm result Strict check PASSED"
FAILED = "Quanti.onnx and Arm result Strict check FAILED"


@pytest.fixture
def password(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Password of boards served on port 22, where that port can be had."""
    try:
        with socket.create_server(("127.0.0.1", 22)):
            pass
    except OSError as error:
        pytest.skip(f"hb_verifier has port 22 built in, and 127.0.0.1:22 cannot be used here: {error.strerror}")
    monkeypatch.setenv("QATLADDER_BOARD_PASSWORD", "a password; of the test")
    for spec in (X5, J5):
        bench.stop(spec)
    yield "a password; of the test"
    for spec in (X5, J5):
        bench.stop(spec)


def verify(model: Model, password: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setenv("HOME", str(folder))  # it also reads known_hosts and keys from ~/.ssh
    argv = ["hb_verifier", "-m", f"{model.onnx},{model.bin}", "-b", "127.0.0.1", "-u", "root", "-p", password, "-c", "5"]
    done = vendor_run(argv, folder)
    return done.returncode, plain(done.stdout + done.stderr)


@pytest.mark.parametrize(("name", "spec"), [("nv12", X5), ("featuremap", J5)], ids=["nv12-x5", "featuremap-j5"])
def test_hb_verifier_passes_and_notices_one_changed_digit(
    name: str, spec: object, bench: Bench, models: dict[str, Model], password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start(spec, port=22, password=True)
    code, text = verify(models[name], password, tmp_path, monkeypatch)
    assert code == 0
    assert PASSED in text, text[-3000:]
    assert FAILED not in text

    # The same again, with one digit of one dumped value changed on the board.
    tool = bench.root(spec) / "usr" / "bin" / "hrt_model_exec"
    real = tool.with_suffix(".real")
    tool.rename(real)
    tool.write_text(
        f'#!/bin/sh\n{real} "$@" || exit\n'
        'for f in model_infer_output_*.txt; do test -e "$f" && sed -i \'7s/[0-4]$/9/;7s/[5-8]$/0/;7t;7s/9$/1/\' "$f"; done; exit 0\n'
    )
    tool.chmod(0o755)
    try:
        code, text = verify(models[name], password, tmp_path, monkeypatch)
    finally:
        real.rename(tool)
    assert FAILED in text, text[-3000:]
    assert "mismatch result num: 1\n" in text
    assert PASSED not in text
    assert code == 0, "hb_verifier now reports a failure in its exit code: use it"


def test_hb_verifier_needs_the_right_password(
    bench: Bench, models: dict[str, Model], password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start(X5, port=22, password=True)
    _, text = verify(models["nv12"], "wrong", tmp_path, monkeypatch)
    assert "Strict check" not in text
    assert "with username root and password wrong failed" in text


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["digits_cnn", "digits_det", "digits_cnn_bad"])
def test_hb_verifier_passes_for_every_image_entry_of_the_sample_zoo(
    name: str, bench: Bench, password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classifier and the detector, as the toolchain module converts them from the trained QAT models."""
    trained = load_settings()
    entry = load_entry(trained.zoo / f"{name}.yaml")
    assert entry.artifacts.onnx is not None
    onnx = PROJECT_HOME / "zoo" / entry.artifacts.onnx
    products = Hmct(trained).convert(entry, entry.targets[0], onnx, tmp_path / "convert", print).products
    bench.start(X5, port=22, password=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = ["hb_verifier", "-m", f"{products['int']},{products['bin']}", "-b", "127.0.0.1", "-u", "root", "-p", password, "-c", "5"]
    done = vendor_run(argv, tmp_path)
    text = plain(done.stdout + done.stderr)
    assert PASSED in text, text[-3000:]
    assert FAILED not in text


def test_the_sample_zoos_image_entries_are_all_verified(project: Path) -> None:
    images = set()
    for path in (project / "include" / "zoo").glob("*.yaml"):
        if path.name not in NOT_ENTRIES and any(spec.is_image for spec in load_entry(path).inputs):
            images.add(load_entry(path).model)
    assert images == {"digits_cnn", "digits_det", "digits_cnn_bad"}, "add the new entry to the test above"
