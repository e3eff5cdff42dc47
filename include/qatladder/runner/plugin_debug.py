"""The vendor's own precision tools on a float and a quantised model, where the environment has them: their files, as further evidence.

    horizon_plugin_profiler.QuantAnalysis                     (v2) compare_per_layer, sensitivity
    horizon_plugin_pytorch.utils.quant_profiler.model_profiler (v1)

Neither is published, and neither decides anything here: what fails in them is told, and costs nothing but their files.
Python 3.8; torch and the plugin are imported where they are needed.
"""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from qatladder.runner.adapter import Model, Tensors, load_adapter


def analyse(
    adapter: str, options: Dict[str, Any], rung: str, artifact: str, float_artifact: str, tensors: Dict[str, str], out: str
) -> Optional[Dict[str, Any]]:
    """Run the newest of the vendor's tools the environment has.

    Args:
        tensors: float32 [N, ...] .npy per input; the first sample is analysed.
        out: folder for what it writes.
    Returns:
        {"tool": name, "files": paths, "problem": what it died of, or ""}; None: the environment has none.
    """
    found = _tool()
    if found is None:
        return None
    name, run = found
    adapted = load_adapter(adapter, options)
    feed = {key: np.array(np.load(path, mmap_mode="r", allow_pickle=False)[: adapted.batch]) for key, path in tensors.items()}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    try:
        plain, arguments = _module_of(adapted.load("float", Path(float_artifact)), feed)
        quantised, _ = _module_of(adapted.load(rung, Path(artifact)), feed)
        run(plain, quantised, arguments, str(folder))
    except Exception as error:  # of the vendor's tool, whatever it is
        traceback.print_exc()
        problem = "{}: {}".format(type(error).__name__, error)
    return {"tool": name, "files": sorted(str(path) for path in folder.rglob("*") if path.is_file()), "problem": problem}


Run = Callable[[Any, Any, Tuple[Any, ...], str], None]


def _tool() -> Optional[Tuple[str, Run]]:
    try:
        analysis = importlib.import_module("horizon_plugin_profiler").QuantAnalysis
    except (ImportError, AttributeError):
        pass
    else:
        return "QuantAnalysis", lambda plain, quantised, arguments, out: _quant_analysis(analysis, plain, quantised, arguments, out)
    try:
        profiler = importlib.import_module("horizon_plugin_pytorch.utils.quant_profiler").model_profiler
    except (ImportError, AttributeError):
        return None
    return "model_profiler", lambda plain, quantised, arguments, out: profiler(plain, quantised, arguments, mode="FvsQ", out_dir=out)


def _quant_analysis(analysis: Any, plain: Any, quantised: Any, arguments: Tuple[Any, ...], out: str) -> None:
    session = analysis(plain, quantised, "fake_quant", out_dir=out)
    session.set_bad_case(arguments[0] if len(arguments) == 1 else arguments)
    session.run()
    session.compare_per_layer()
    session.sensitivity()


def _module_of(model: Model, feed: Tensors) -> Tuple[Any, Tuple[Any, ...]]:
    """The torch module an adapter's model calls first, and what it calls it with.

    Raises:
        LookupError: it calls none.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    seen: List[Tuple[Any, Tuple[Any, ...]]] = []

    def enter(module: Any, inputs: Tuple[Any, ...]) -> None:
        if not seen:
            seen.append((module, tuple(inputs)))

    handle = register_module_forward_pre_hook(enter)
    try:
        model(feed)
    finally:
        handle.remove()
    if not seen:
        raise LookupError("the adapter's model calls no torch module")
    return seen[0]
