"""Whole networks through the toolchain, against the vendor's command alone; and a second night, against the first. All in one run: `make bench`.

The ratio that matters: what our proofs cost on top of the conversion a user runs in any case. Prints; asserts that int and hbm agree.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tests.integration.boards.conftest import vendor_run
from tests.integration.toolchains import nets, networks
from tests.integration.toolchains.conftest import Converted

from qatladder.settings import load_settings
from qatladder.toolchains.hmct import Hmct
from qatladder.validation import plan, run_rung

SAMPLES = 4


@pytest.fixture(scope="module")
def hmct() -> Hmct:
    toolchain = Hmct(load_settings())
    if reason := toolchain.unavailable():
        pytest.skip(reason)
    return toolchain


@pytest.mark.parametrize(("network", "size"), [(networks.MobileNetV2, 224), (networks.ResNet18, 224), (networks.Detector, 416)])
def test_a_network(hmct: Hmct, network: type, size: int, tmp_path: Path) -> None:
    pictures = nets.nv12_pictures(np.random.default_rng(3), SAMPLES, size, size)
    tensors = nets.training_tensor(pictures)
    outputs = list(getattr(network, "OUTPUTS", ("logits",)))
    entry = nets.entry(network.__name__.lower(), [nets.nv12_input(size, size)], "bayes-e")
    net = nets.build(network(), [(tensor[None],) for tensor in tensors])
    onnx = nets.export(net, (tensors[:1],), tmp_path / "exported.onnx", ["data"], outputs)
    log: list[str] = []

    started = time.perf_counter()
    conversion = hmct.convert(entry, entry.targets[0], onnx, tmp_path / "convert", log.append)
    ours = time.perf_counter() - started
    shutil.rmtree(tmp_path / "convert" / "build")
    started = time.perf_counter()
    alone = vendor_run(
        ["hb_mapper", "makertbin", "--model-type", "onnx", "--config", str(conversion.products["config"])], tmp_path / "convert"
    )
    theirs = time.perf_counter() - started
    assert alone.returncode == 0, alone.stdout[-500:]

    job = Converted(hmct, entry, net, onnx, tmp_path, conversion, log)
    started = time.perf_counter()
    given = job.run_int({"data": nets.yuv444_128(pictures)})
    int_seconds = (time.perf_counter() - started) / SAMPLES
    started = time.perf_counter()
    simulated = job.simulate({"data": pictures})
    sim_seconds = (time.perf_counter() - started) / SAMPLES
    assert all(np.array_equal(simulated[name], given[name]) for name in simulated)
    print(
        f"\n{network.__name__:<12} {size}x{size}: convert with proofs {ours:5.1f} s, hb_mapper alone {theirs:5.1f} s (ratio {ours / theirs:.2f}); "
        f"per sample int {int_seconds:.2f} s, simulator {sim_seconds:.2f} s (ratio {sim_seconds / int_seconds:.2f})"
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trained = load_settings().home / "zoo"
    if not (trained / "digits_cnn").is_dir():
        pytest.skip("make zoo")
    (tmp_path / "zoo").symlink_to(trained)
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    monkeypatch.delenv("QATLADDER_STORE", raising=False)
    return tmp_path


def test_the_second_night(hmct: Hmct, home: Path) -> None:
    spent: dict[tuple[str, str], float] = {}
    for night in ("first", "second"):
        (ladder,) = plan(["digits_cnn"], rungs=["float", "calib", "qat", "int", "hbm"])
        for rung in ladder["rungs"]:
            started = time.perf_counter()
            result = run_rung(ladder, rung, night, lambda _line: None)
            spent[night, rung] = time.perf_counter() - started
            assert all(check.status != "broken" for check in result.checks), rung
    print("\nunchanged digits_cnn, seconds:", end="")
    for rung in ladder["rungs"]:
        first, second = spent["first", rung], spent["second", rung]
        print(f"  {rung} {first:.1f} -> {second:.1f} (ratio {first / second:.1f})", end="")
    total = [sum(seconds for (night, _), seconds in spent.items() if night == wanted) for wanted in ("first", "second")]
    print(f"; in all {total[0]:.1f} -> {total[1]:.1f} (ratio {total[0] / total[1]:.1f})")
