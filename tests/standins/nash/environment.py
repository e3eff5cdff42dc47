"""The environment of a J6 or S100 team, as far as it can be had: Python 3.10, stand-ins for hb_compile, hb_verifier and hbdk4, and under them
the vendor's published packages, borrowed from the vendor environment."""

from __future__ import annotations

import subprocess
from pathlib import Path

from qatladder.settings import Settings
from qatladder.toolchains.hmct import STANDIN as TORCH

STANDIN = Path(__file__).resolve().parent
VERSIONS = {"hbdk4-compiler": "4.0.0+standin", "horizon-tc-ui": "3.0.0+standin", "hmct": "2.0.0+standin"}


def prepare(settings: Settings) -> Path:
    """The environment's interpreter, made once (seconds, a few MB)."""
    folder = settings.home / "environments" / "nash"
    python, stamp = folder / "bin" / "python", folder / ".ready"
    wanted = f"{settings.vendor_python} {STANDIN} {VERSIONS}"
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([settings.vendor_python, "-m", "venv", "--clear", "--without-pip", folder], check=True)
        (packages,) = (folder / "lib").glob("python3*/site-packages")
        (borrowed,) = (settings.vendor_python.parent.parent / "lib").glob("python3*/site-packages")
        (packages / "vendor.pth").write_text(f"{STANDIN / 'packages'}\n{TORCH}\n{borrowed}\n")
        vendor = settings.vendor_python.parent
        for program in [*(STANDIN / "bin").iterdir(), vendor / "hb_mapper", *vendor.glob("hbdk-*")]:
            wrapper = python.with_name(program.name)
            path = f"PYTHONPATH={TORCH}:$PYTHONPATH " if program.name == "hb_mapper" else ""
            wrapper.write_text(f'#!/bin/sh\n{path}exec {program} "$@"\n')
            wrapper.chmod(0o755)
        for name, version in VERSIONS.items():
            info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        stamp.write_text(wanted)
    return python


def zoo_file(python: Path) -> dict[str, object]:
    """The environment as zoo.yaml has it."""
    return {"python": str(python), "path": [str(python.parent)]}
