"""Real conversions, made once per session: seconds each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.integration.toolchains import nets

from qatladder.settings import Settings, load_settings
from qatladder.toolchains.base import CompileReport, Conversion, IntModel
from qatladder.toolchains.hmct import Hmct
from qatladder.zoo.schema import Entry


@pytest.fixture(scope="session")
def hmct() -> Hmct:
    toolchain = Hmct(load_settings())
    reason = toolchain.unavailable()
    if reason:
        pytest.skip(reason)
    return toolchain


@dataclass
class Converted:
    """A converted network with everything a test asks of it."""

    hmct: Hmct
    entry: Entry
    net: object
    onnx: Path
    folder: Path
    conversion: Conversion
    log: list[str] = field(default_factory=list)
    _jobs: int = 0

    def job(self) -> Path:
        self._jobs += 1
        return self.folder / f"job_{self._jobs}"

    def described(self) -> IntModel:
        return self.hmct.describe_int(self.conversion.products["int"], self.job())

    def report(self) -> CompileReport:
        products = self.conversion.products
        report = self.hmct.compile_report(products["int"], products["hbm"], products.get("hbir"), self.job(), self.log.append)
        assert report.contradiction == "", "the hbm of this conversion comes from this int model"
        return report

    def run_int(self, tensors: dict[str, np.ndarray], raw: bool = True, int_model: Path | None = None) -> dict[str, np.ndarray]:
        folder = self.job()
        folder.mkdir()
        files = {}
        for index, (name, array) in enumerate(tensors.items()):
            files[name] = folder / f"input_{index}.npy"
            np.save(files[name], array)
        written = self.hmct.run_int(int_model or self.conversion.products["int"], files, folder, raw, self.log.append)
        return {name: np.load(path) for name, path in written.items()}

    def simulate(self, inputs: dict[str, np.ndarray], hmct: Hmct | None = None, hbm: Path | None = None) -> dict[str, np.ndarray]:
        folder = self.job()
        folder.mkdir()
        files: dict[str, list[Path]] = {}
        for index, (name, samples) in enumerate(inputs.items()):
            files[name] = [folder / f"input_{index}_{number}.raw" for number in range(len(samples))]
            for path, sample in zip(files[name], samples, strict=True):
                path.write_bytes(np.ascontiguousarray(sample).tobytes())
        written = (hmct or self.hmct).simulate(hbm or self.conversion.products["hbm"], files, folder, self.log.append)
        return {name: np.load(path) for name, path in written.items()}


Convert = Callable[..., Converted]


@pytest.fixture(scope="session")
def convert(hmct: Hmct, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """convert(net, entry, samples, outputs): calibrate on samples (one tuple of float32 arrays each), export, convert."""

    def run(net: object, entry: Entry, samples: list[tuple[np.ndarray, ...]], outputs: tuple[str, ...] = ("out",)) -> Converted:
        folder = tmp_path_factory.mktemp(entry.model)
        built = nets.build(net, samples)
        names = [spec.name for spec in entry.inputs]
        onnx = nets.export(built, samples[0], folder / "exported.onnx", names, list(outputs))
        log: list[str] = []
        conversion = hmct.convert(entry, entry.targets[0], onnx, folder / "convert", log.append)
        return Converted(hmct, entry, built, onnx, folder, conversion, log)

    return run


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """[4, 48, 64] uint8 nv12 pictures of 32 x 64."""
    return nets.nv12_pictures(np.random.default_rng(7), 4, 32, 64)


@pytest.fixture(scope="session")
def image(convert: Convert, pictures: np.ndarray) -> Converted:
    """nv12 pyramid on bayes-e (RDK X5)."""
    tensors = nets.training_tensor(pictures)
    entry = nets.entry("image", [nets.nv12_input(32, 64)], "bayes-e")
    return convert(nets.Residual(3), entry, [(tensor[None],) for tensor in tensors], ("logits", "map"))


@pytest.fixture(scope="session")
def features() -> np.ndarray:
    """[4, 8, 16, 50] float32 featuremaps; the width is no multiple of anything the BPU aligns to."""
    return np.random.default_rng(8).normal(0, 1, (4, 8, 16, 50)).astype(np.float32)


@pytest.fixture(scope="session")
def featuremap(convert: Convert, features: np.ndarray) -> Converted:
    """featuremap ddr on bayes (J5)."""
    entry = nets.entry("featuremap", [nets.featuremap_input(1, 8, 16, 50)], "bayes")
    return convert(nets.Residual(8), entry, [(tensor[None],) for tensor in features], ("logits", "map"))


@pytest.fixture
def shadowed(hmct: Hmct, tmp_path: Path) -> Callable[[str, str], Hmct]:
    """shadowed(tool, script): a toolchain whose environment finds this shell script in place of one vendor tool."""

    def make(tool: str, script: str) -> Hmct:
        settings = load_settings()
        real = settings.vendor_python
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in (("python", f'PATH="$PATH:{real.parent}" exec "{real}" "$@"'), (tool, script)):
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        # a tool of this machine's PATH must not win over the vendor's
        assert not shutil.which(tool, path=os.defpath)
        return Hmct(Settings(**{**vars(settings), "vendor_python": folder / "python"}))

    return make
