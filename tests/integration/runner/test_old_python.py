"""Promises: the runner and the numerics work where a J5 team's models live: Python 3.8 with numpy alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.integration.conftest import TRAINED
from tests.unit.toy import ADAPTER

from qatladder.numerics.contract import InputContract
from qatladder.runner.client import LIBRARY, Environment, run_job

PACKAGES = ("numpy==1.24.4", "pytest==8.3.5", "hypothesis==6.113.0")
"""The last of their kind for Python 3.8; the model side needs numpy alone."""


def find_python38() -> str | None:
    """python3.8 on PATH that really runs, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [shutil.which("python3.8"), *map(str, sorted(root.glob("3.8.*/bin/python")))]:
        if candidate and subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="session")
def python38() -> Environment:
    folder = TRAINED.parent / "environments" / "python3.8"
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
        found = find_python38()
        if found is None:
            pytest.skip("no Python 3.8 with venv on this machine")
        subprocess.run([found, "-m", "venv", "--clear", str(folder)], check=True)
        done = subprocess.run([str(python), "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the packages for Python 3.8 cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        stamp.write_text(" ".join(PACKAGES))
    return Environment("old", python)


def test_an_evaluation_runs_in_a_python_3_8_environment(python38: Environment, tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(ADAPTER)
    (tmp_path / "float.json").write_text('{"wrong": 3}')
    args = {
        "adapter": f"{tmp_path / 'toy.py'}:Toy",
        "options": {},
        "rung": "float",
        "artifact": str(tmp_path / "float.json"),
        "split": "evaluation",
        "limit": None,
        "out": str(tmp_path / "out"),
    }
    answer = run_job(python38, "qatladder.runner.evaluate:evaluate", args, tmp_path / "job")
    assert answer.environment["python"].startswith("3.8.")
    assert answer.value["metrics"] == {"accuracy": 0.7}


def test_the_numerics_give_the_same_integers_there(python38: Environment, tmp_path: Path, rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    script = (
        "import sys, numpy as np\n"
        "from qatladder.numerics import colour, compare, contract, tensor\n"
        "c = contract.InputContract('image', 'nv12', 'rgb', 'NCHW', (1.0, 2.0, 3.0), (0.5,))\n"
        "x = c.intermediate(c.runtime(np.load(sys.argv[1])))\n"
        "assert compare.compare(x, x)\n"
        "np.save(sys.argv[2], x)\n"
        "np.save(sys.argv[3], c.training_tensor(x))\n"
    )
    files = [str(tmp_path / name) for name in ("pictures.npy", "int.npy", "float.npy")]
    subprocess.run([str(python38.python), "-c", script, *files], check=True, env={**os.environ, "PYTHONPATH": str(LIBRARY)})
    contract = InputContract("image", "nv12", "rgb", "NCHW", (1.0, 2.0, 3.0), (0.5,))
    fed = contract.intermediate(contract.runtime(pictures))
    np.testing.assert_array_equal(np.load(files[1]), fed)
    np.testing.assert_array_equal(np.load(files[2]), contract.training_tensor(fed))


def test_the_whole_engine_passes_its_tests_there(python38: Environment) -> None:
    """The unit tests of qatladder.numerics, as they are."""
    root = LIBRARY.parent
    command = [str(python38.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull]
    tests = root / "tests" / "unit" / "numerics"
    command += ["--rootdir", str(root), "--confcutdir", str(tests), str(tests)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(root)]), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed.group(1)) > 300, done.stdout[-500:]
    print(done.stdout.splitlines()[-1])
