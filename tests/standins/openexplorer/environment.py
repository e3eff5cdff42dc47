"""The environment of a J5 team, as far as it can be had: Python 3.8, torch 1.12, the vendor's hbdk, and a stand-in for the plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from qatladder.settings import Settings

STANDIN = Path(__file__).resolve().parent
PACKAGES = ("torch==1.12.1", "numpy==1.24.4", "typing_extensions==4.12.2", "pillow==10.4.0")
"""torch 1.12 imports on a machine without CUDA; the teams' 1.13 does not without 1.5 GB of CUDA libraries."""


def find_python38() -> str | None:
    """python3.8 on PATH that really runs, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [shutil.which("python3.8"), *map(str, sorted(root.glob("3.8.*/bin/python")))]:
        if candidate and subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return candidate
    return None


def prepare(home: Path) -> Path:
    """The environment's interpreter, made once (about a minute, 1.7 GB).

    Raises:
        RuntimeError: there is no Python 3.8, or the packages cannot be installed.
    """
    folder = home / "environments" / "openexplorer"
    python, stamp = folder / "bin" / "python", folder / ".ready"
    if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
        found = find_python38()
        if found is None:
            raise RuntimeError("no Python 3.8 with venv on this machine")
        subprocess.run([found, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-cache-dir", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the packages for Python 3.8 cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        stamp.write_text(" ".join(PACKAGES))
    program = folder / "bin" / "hbdk-model-verifier"
    program.write_text(f"#!{python}\nimport runpy\nrunpy.run_path({str(STANDIN / 'model_verifier.py')!r}, run_name='__main__')\n")
    program.chmod(0o755)
    return python


def zoo_file(python: Path, settings: Settings) -> dict[str, object]:
    """The environment as zoo.yaml has it."""
    return {"python": str(python), "path": [str(python.parent), str(settings.vendor_python.parent)], "paths": [str(STANDIN)]}
