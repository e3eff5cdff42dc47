"""Virtual boards on free ports and two small models from the vendor's toolchain."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qatladder.boards.device import Board
from qatladder.boards.fleet import BoardSpec
from qatladder.boards.session import BoardSession, connect
from qatladder.boards.virtual import control
from qatladder.settings import Settings, load_settings
from qatladder.toolchains.hmct import STANDIN

X5 = BoardSpec(name="virtual-x5", march="bayes-e", dialect="x5", host="127.0.0.1", port=2205, virtual=True)
J5 = BoardSpec(name="virtual-j5", march="bayes", dialect="j5", host="127.0.0.1", port=2206, virtual=True)
SCRIPT = Path(__file__).with_name("vendor_models.py")


def vendor_run(argv: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of the vendor environment, output captured."""
    python = load_settings().vendor_python
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "PYTHONPATH": str(STANDIN)}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder of this module's own."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_HOME", str(folder))
        yield folder


@dataclass
class Bench:
    """Virtual boards of one module: started when first asked for, stopped at its end."""

    settings: Settings

    def start(self, spec: BoardSpec, **options: object) -> int:
        return control.start_background(spec, self.settings, fleet=self.fleet, **{"port": 0, **options})  # type: ignore[arg-type]

    def stop(self, spec: BoardSpec) -> None:
        control.stop(spec, self.settings)

    def board(self, spec: BoardSpec) -> Board:
        self.start(spec)
        return Board(spec)

    def root(self, spec: BoardSpec) -> Path:
        return self.settings.home / "boards" / spec.name / "root"

    @property
    def fleet(self) -> Path:
        path = self.settings.home / "fleet.yaml"
        if not path.is_file():
            boards = [
                f"  - {{name: {b.name}, march: {b.march}, dialect: {b.dialect}, host: 127.0.0.1, port: {b.port}, virtual: true}}"
                for b in (X5, J5)
            ]
            path.write_text("boards:\n" + "\n".join(boards) + "\n")
        return path


@pytest.fixture(scope="module")
def bench(home: Path) -> Iterator[Bench]:
    """Boards whose hrt_model_exec works (tests with the `vendor` marker)."""
    settings = replace(load_settings(), home=home)
    if not settings.vendor or not settings.vendor_python.is_file():
        pytest.skip("the vendor environment is not installed")
    bench = Bench(settings)
    yield bench
    for spec in (X5, J5):
        bench.stop(spec)


@pytest.fixture(scope="module")
def bare_bench(home: Path) -> Iterator[Bench]:
    """Boards for tests of the connection alone: nothing runs the simulator."""
    bench = Bench(replace(load_settings(), home=home, vendor=True, vendor_python=Path(sys.executable)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_VENDOR", "1")
        yield bench
    for spec in (X5, J5):
        bench.stop(spec)


@dataclass
class Reached:
    """A board one can look into from outside: `path` is where the board's absolute path is on this machine."""

    spec: BoardSpec
    root: Path

    def session(self, **options: float) -> BoardSession:
        return BoardSession(functools.partial(connect, self.spec), self.spec.name, self.spec.workdir, **options)

    def path(self, remote: object) -> Path:
        return self.root / str(remote).lstrip("/")


@pytest.fixture(params=["virtual", "openssh"])
def reached(request: pytest.FixtureRequest) -> Reached:
    """The same board twice: the virtual one, and OpenSSH's own server."""
    if request.param == "openssh":
        return Reached(request.getfixturevalue("openssh"), Path("/"))
    bench = request.getfixturevalue("bare_bench")
    bench.start(X5)
    return Reached(X5, bench.root(X5))


@pytest.fixture
def session(reached: Reached) -> Iterator[BoardSession]:
    with reached.session() as session:
        yield session


@dataclass
class Model:
    """One model: its files, and what the quantized ONNX says."""

    name: str
    folder: Path

    @property
    def hbm(self) -> Path:
        return self.folder / f"{self.name}.hbm"

    @property
    def bin(self) -> Path:
        return self.folder / self.name / f"{self.name}.bin"

    @property
    def onnx(self) -> Path:
        return self.folder / self.name / f"{self.name}_quantized_model.onnx"

    def reference(self, feed: npt.NDArray[np.generic], *names: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named tensors of the quantized ONNX for [N, ...] inputs."""
        with tempfile.TemporaryDirectory() as folder:  # of this call's own: several may run at once
            scratch = Path(folder)
            np.savez(scratch / "in.npz", data=feed)
            argv = ["python", str(SCRIPT), "reference", str(self.onnx), str(scratch / "in.npz"), str(scratch / "out.npz"), *names]
            done = vendor_run(argv, scratch)
            assert done.returncode == 0, done.stderr
            return dict(np.load(scratch / "out.npz"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """`nv12` (48x64, bayes-e) and `featuremap` (1x5x50x50, padded to 64, bayes); a few seconds."""
    settings = load_settings()
    if not settings.vendor or not settings.vendor_python.is_file():
        pytest.skip("the vendor environment is not installed")
    folder = tmp_path_factory.mktemp("models")
    done = vendor_run(["python", str(SCRIPT), "build", str(folder)], folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {name: Model(name, folder) for name in ("nv12", "featuremap")}


Pictures = Callable[[int], tuple[list[list[Path]], npt.NDArray[np.int8]]]


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Pictures:
    """n random 48x64 NV12 pictures: files for the board, and the same as int8 NHWC YUV444 - 128 for the quantized ONNX."""

    def make(count: int) -> tuple[list[list[Path]], npt.NDArray[np.int8]]:
        files, feeds = [], []
        for index in range(count):
            nv12 = rng.integers(0, 256, (72, 64), dtype=np.uint8)
            files.append([tmp_path / f"picture{index}.bin"])
            nv12.tofile(files[-1][0])
            chroma = nv12[48:].reshape(24, 32, 2).repeat(2, 0).repeat(2, 1)
            yuv444 = np.concatenate([nv12[:48, :, None], chroma], -1)[None]
            feeds.append((yuv444.astype(np.int16) - 128).astype(np.int8))
        return files, np.stack(feeds)

    return make
