"""Trains the sample zoo: `python include/zoo/train.py [MODEL ...] [--force]`.

Artifacts go to $QATLADDER_HOME/zoo/<model>/ with a manifest.json: what determined them (a key over the training sources, the
data files and the library versions), the sha256 of each file and the measured metrics. When key and files still
hold, nothing is done and torch is not even imported.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ZOO = Path(__file__).resolve().parent
sys.path[:0] = [str(ZOO.parent), str(ZOO), str(ZOO / "adapters")]

from qatladder.errors import ConfigError, QATLadderError  # noqa: E402
from qatladder.settings import load_settings  # noqa: E402

DATA = {"digits_cnn": "digits.csv.gz", "digits_det": "digits.csv.gz", "wdbc_mlp": "breast_cancer.csv"}
"""The sample models, and the file of scikit-learn's bundled data each one learns from."""

ARTIFACTS = ("float.pt", "calib.pt", "qat.pt", "calib_qdq.onnx", "qat_qdq.onnx")
LIBRARIES = ("numpy", "onnx", "scikit-learn", "torch")


def determinants(model: str) -> dict[str, Any]:
    """All that decides what the artifacts of a model are: library versions and sha256 of sources and data."""
    others = {f"{other}.py" for other in DATA if other != model}
    sources = [path for folder in ("adapters", "training") for path in sorted((ZOO / folder).glob("*.py")) if path.name not in others]
    sklearn = importlib.util.find_spec("sklearn")
    if sklearn is None or not sklearn.submodule_search_locations:
        raise ConfigError("scikit-learn is not installed; its bundled data are what the sample zoo learns from")
    data = Path(sklearn.submodule_search_locations[0]) / "datasets" / "data" / DATA[model]
    return {
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "sources": {str(path.relative_to(ZOO)): _sha256(path) for path in sources},
        "data": {data.name: _sha256(data)},
    }


def stale(folder: Path, key: str) -> str:
    """Why the artifacts in a folder must be made again; empty when they hold."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files: dict[str, str] = dict(manifest["files"])
    except FileNotFoundError:
        return "not trained yet"
    except (ValueError, KeyError, TypeError):
        return "the manifest cannot be read"
    if manifest.get("key") != key:
        return "sources, data or libraries changed"
    if set(files) != set(ARTIFACTS):
        return "the manifest lists other files"
    for name, digest in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _sha256(folder / name) != digest:
            return f"{name} is damaged"
    return ""


def ensure(model: str, root: Path, force: bool) -> None:
    """Train a model unless its artifacts hold."""
    folder = root / model
    determined = determinants(model)
    key = hashlib.sha256(json.dumps(determined, sort_keys=True).encode()).hexdigest()
    reason = "forced" if force else stale(folder, key)
    if not reason:
        print(f"{model}: up to date, {len(ARTIFACTS)} artifacts verified in {folder}")
        return
    print(f"{model}: {reason}; training", flush=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads yield to others; read when torch is imported
    from training.build import build

    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    files: dict[str, str] = {}

    def write(name: str, content: bytes) -> None:
        _replace(folder / name, content)
        files[name] = hashlib.sha256(content).hexdigest()

    metrics = build(model, ZOO / "adapters", write, lambda line: print(f"{model}: {line}", flush=True))
    seconds = round(time.perf_counter() - started, 1)
    manifest = {"model": model, "key": key, "determined_by": determined, "files": files, "metrics": metrics, "seconds": seconds}
    _replace(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    print(f"{model}: done in {seconds} s, {folder}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Train the sample zoo; does nothing when it is up to date.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"any of {', '.join(DATA)}; default: all")
    parser.add_argument("--force", action="store_true", help="train even when up to date")
    options = parser.parse_args(arguments)
    unknown = [model for model in options.models if model not in DATA]
    if unknown:
        parser.error(f"no sample model {', '.join(unknown)}; there are {', '.join(DATA)}")
    try:
        for model in options.models or DATA:
            ensure(model, load_settings().home / "zoo", options.force)
    except QATLadderError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _replace(path: Path, content: bytes) -> None:
    """Write so that a reader sees the old file or the new one, whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
