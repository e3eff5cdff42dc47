"""Which layer costs a calib or qat model its precision, and why? Runs in the model's environment, on any PyTorch from 1.8 on.

The adapter's own `load` builds both models; forward hooks on every module see what passes through, so an adapter needs nothing for it.
Three looks, cheapest first:

    similarity   float against quantised, module by module in the order of execution: how the difference grows
    loss         what each fake-quantisation does to its own input: values clamped, values rounded
    sensitivity  the outputs with one single fake-quantisation switched on, all others bypassed

The layer that differs most is not the one to blame: it inherits. The root is the first fake-quantisation, in the order of execution,
that loses too much by itself.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from qatladder.errors import RunnerError
from qatladder.runner.adapter import Model, Tensors, load_adapter

ENOUGH_DB = 20.0
"""Signal to quantisation noise below which a layer loses too much: int8 over a well-chosen range keeps 30 to 45 dB."""

SAME_DB = 30.0
"""Above this the quantised network with every fake-quantisation bypassed still is the float network."""

Row = Dict[str, Any]


def precision(
    adapter: str,
    options: Dict[str, Any],
    rung: str,
    artifact: str,
    float_artifact: str,
    tensors: Dict[str, str],
    seconds: float = 60.0,
) -> Dict[str, Any]:
    """Compare a calib or qat model with its float model, layer by layer.

    Args:
        tensors: float32 [N, ...] .npy per input; N few samples.
        seconds: time for the third look; the layers that lose most come first.
    Returns:
        {"layers": similarity rows, "losses": loss rows with "alone_db" where there was time, "bypassed_db", "output_db", "cause", "layer",
        "detail", "unasked": fake-quantisations the third look had no time for}.
    Raises:
        RunnerError: the adapter's models are no torch modules, or hold no fake-quantisation.
    """
    adapted = load_adapter(adapter, options)
    feed = {name: np.array(np.load(path, allow_pickle=False)) for name, path in tensors.items()}
    count = len(next(iter(feed.values())))
    batch = adapted.batch if count > adapted.batch else max(1, count // 2)  # two batches at least tell weights from activations
    wanted, plain = _Watch.of(adapted.load("float", Path(float_artifact)), feed, batch)
    model = adapted.load(rung, Path(artifact))
    got, watch = _Watch.of(model, feed, batch)
    if not watch.order:
        raise RunnerError(
            "no torch module ran, so there are no layers to compare",
            rung=rung,
            next_step="precision debugging needs an adapter whose `load` runs a torch.nn.Module",
        )
    losses = [watch.loss(key) for key in watch.order if key in watch.before]
    if not losses:
        raise RunnerError(
            "the model holds no fake-quantisation that has a scale",
            rung=rung,
            next_step="a fake-quant module has the attributes `scale` and `zero_point`; is the checkpoint a float one?",
        )
    bypassed = _sqnr(wanted, _Watch.run(model, feed, batch, lambda name: False))
    unasked = _alone(model, feed, batch, losses, seconds)
    answer: Dict[str, Any] = {
        "layers": _similarity(plain, watch),
        "losses": losses,
        "bypassed_db": _finite(bypassed),
        "output_db": _finite(_sqnr(wanted, got)),
        "unasked": unasked,
    }
    answer.update(_verdict(losses, bypassed))
    return answer


class _Watch:
    """What passed through the modules of one model, by name; `name#2` is a module's second call.

    Attributes:
        order: in the order of execution.
        outputs: float32 arrays, all samples.
        before: inputs of fake-quantisations.
        quants: their scale, zero point and limits.
        types: class names.
    """

    def __init__(self) -> None:
        self.order: List[str] = []
        self.outputs: Dict[str, List[np.ndarray]] = {}
        self.before: Dict[str, List[np.ndarray]] = {}
        self.quants: Dict[str, Tuple[np.ndarray, np.ndarray, float, float]] = {}
        self.types: Dict[str, str] = {}

    @classmethod
    def of(cls, model: Model, feed: Tensors, batch: int) -> Tuple[Tensors, _Watch]:
        watch = cls()
        return cls.run(model, feed, batch, None, watch), watch

    @staticmethod
    def run(
        model: Model, feed: Tensors, batch: int, keep: Optional[Callable[[str], bool]] = None, watch: Optional[_Watch] = None
    ) -> Tensors:
        """Run all samples. `keep(name)` says whether a fake-quantisation shall work; all do when it is None."""
        from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

        names: Dict[int, str] = {}
        depth = [0]
        calls: Dict[str, int] = {}

        def enter(module: Any, _inputs: Any) -> None:
            if depth[0] == 0:
                names.clear()
                calls.clear()
                names.update({id(child): name for name, child in module.named_modules()})
            depth[0] += 1

        def leave(module: Any, inputs: Any, output: Any) -> Any:
            depth[0] -= 1
            name = names.get(id(module), "") or type(module).__name__
            calls[name] = calls.get(name, 0) + 1
            key = name if calls[name] == 1 else "{}#{}".format(name, calls[name])
            quant = _quant(module)
            if watch is not None:
                watch.see(key, module, inputs, output, quant)
            if keep is not None and quant is not None and not keep(key):
                return inputs[0]
            return None

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            count = len(next(iter(feed.values())))
            parts = []
            for start in range(0, count, batch):
                depth[0] = 0
                answer = model({name: np.array(array[start : start + batch]) for name, array in feed.items()})
                parts.append({name: np.asarray(array, np.float32) for name, array in answer.items()})
        finally:
            for handle in handles:
                handle.remove()
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def see(self, key: str, module: Any, inputs: Any, output: Any, quant: Optional[Tuple[np.ndarray, np.ndarray, float, float]]) -> None:
        if not hasattr(output, "detach"):
            return
        if key not in self.outputs:
            self.order.append(key)
            self.outputs[key] = []
            self.types[key] = type(module).__name__
        self.outputs[key].append(_array(output))
        if quant is not None and inputs and hasattr(inputs[0], "detach"):
            self.before.setdefault(key, []).append(_array(inputs[0]))
            self.quants[key] = quant

    def loss(self, key: str) -> Row:
        """What a fake-quantisation does to its own input."""
        before, after = (np.concatenate([item.ravel() for item in arrays[key]]) for arrays in (self.before, self.outputs))
        scale, zero, low, high = self.quants[key]
        first, last = float(((low - zero) * scale).min()), float(((high - zero) * scale).max())
        shape = self.before[key][0].shape
        floor, ceiling = _limits(scale, zero, low, high, shape)
        each = [np.concatenate([np.broadcast_to(limit, shape).ravel() for _ in self.before[key]]) for limit in (floor, ceiling)]
        if len(each[0]) != len(before):  # a last batch that is smaller
            each = [np.concatenate([np.broadcast_to(limit, item.shape).ravel() for item in self.before[key]]) for limit in (floor, ceiling)]
        outside = (before < each[0]) | (before > each[1])
        error = (before.astype(np.float64) - after) ** 2
        clamped, whole = float(error[outside].sum()), float(error.sum())
        signal = float((before.astype(np.float64) ** 2).sum())
        ratio = _db(signal, whole)
        cause = "" if ratio >= ENOUGH_DB else "clamp" if clamped > whole / 2 else "rounding"
        return {
            "name": key,
            "type": self.types[key],
            "weight": len(self.before[key]) > 1 and all(np.array_equal(self.before[key][0], item) for item in self.before[key][1:]),
            "scale": float(np.median(scale)),
            "range": [first, last],
            "found": [float(before.min()), float(before.max())],
            "p999": float(np.quantile(np.abs(before), 0.999)),
            "clamped": float(outside.mean()),
            "clamp_share": clamped / whole if whole else 0.0,
            "db": _finite(ratio),
            "cause": cause,
        }


def _quant(module: Any) -> Optional[Tuple[np.ndarray, np.ndarray, float, float]]:
    """(scale, zero point, lowest, highest integer) of a fake-quantisation; None for any other module.

    torch.ao's and horizon_plugin_pytorch's have quant_min and quant_max; without them it is int8.
    """
    scale, zero = getattr(module, "scale", None), getattr(module, "zero_point", None)
    if scale is None or zero is None or not (hasattr(scale, "detach") and hasattr(zero, "detach")):
        return None
    low, high = getattr(module, "quant_min", None), getattr(module, "quant_max", None)
    if low is None or high is None:
        low, high = -128, 127
    return _array(scale).ravel(), _array(zero).ravel(), float(low), float(high)


def _limits(scale: np.ndarray, zero: np.ndarray, low: float, high: float, shape: Tuple[int, ...]) -> Tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value a fake-quantisation lets through, half a step beyond its grid, broadcast to the channels of `shape`."""
    floor, ceiling = (low - zero - 0.5) * scale, (high - zero + 0.5) * scale
    if scale.size == 1:
        return floor.reshape(()), ceiling.reshape(())
    axis = next((axis for axis, size in enumerate(shape) if size == scale.size), 0)
    place = [1] * len(shape)
    place[axis] = scale.size
    return floor.reshape(place), ceiling.reshape(place)


def _alone(model: Model, feed: Tensors, batch: int, losses: List[Row], seconds: float) -> List[str]:
    """Fill in `alone_db`: the outputs' signal to noise with only this fake-quantisation. Names those there was no time for."""
    reference = _Watch.run(model, feed, batch, lambda name: False)
    started = time.monotonic()
    unasked = []
    for row in sorted(losses, key=lambda row: row["db"]):
        if time.monotonic() - started > seconds:
            unasked.append(row["name"])
            continue
        only = row["name"]
        row["alone_db"] = _finite(_sqnr(reference, _Watch.run(model, feed, batch, lambda name: name == only)))  # noqa: B023
    return unasked


def _similarity(plain: _Watch, watch: _Watch) -> List[Row]:
    """Modules of the same name whose outputs have the same shape, in the order in which the quantised model runs them."""
    rows = []
    last: Optional[np.ndarray] = None
    for key in watch.order:
        if key not in plain.outputs or [item.shape for item in plain.outputs[key]] != [item.shape for item in watch.outputs[key]]:
            continue
        if key in watch.before and len(watch.before[key]) > 1 and np.array_equal(watch.before[key][0], watch.before[key][1]):
            continue  # a weight: training may change it
        wanted = np.concatenate([item.ravel() for item in plain.outputs[key]]).astype(np.float64)
        found = np.concatenate([item.ravel() for item in watch.outputs[key]]).astype(np.float64)
        if last is not None and np.array_equal(last, found):  # a container returns what its last child did
            continue
        last = found
        error = found - wanted
        norm = math.sqrt(float((wanted**2).sum()) * float((found**2).sum()))
        rows.append(
            {
                "name": key,
                "type": watch.types[key],
                "cosine": float(wanted @ found) / norm if norm else 1.0,
                "relative_l1": float(np.abs(error).sum() / max(np.abs(wanted).sum(), 1e-30)),
                "db": _finite(_db(float((wanted**2).sum()), float((error**2).sum()))),
                "max_abs": float(np.abs(error).max()),
                "float": [float(wanted.min()), float(wanted.max())],
                "quantised": [float(found.min()), float(found.max())],
            }
        )
    return rows


def _verdict(losses: List[Row], bypassed: float) -> Dict[str, str]:
    """The root: what to look at first."""
    root = next((row for row in losses if row["cause"]), None)
    if root is not None:
        low, high = root["range"]
        detail = "range {:.4g} .. {:.4g} for values {:.4g} .. {:.4g}; {:.2%} of them clamped; {:.1f} dB by itself".format(
            low, high, root["found"][0], root["found"][1], root["clamped"], root["db"]
        )
        return {"cause": root["cause"], "layer": root["name"], "detail": detail}
    if bypassed < SAME_DB:
        detail = "with every fake-quantisation bypassed the outputs are {:.1f} dB from the float model's".format(bypassed)
        return {"cause": "weights", "layer": "", "detail": detail}
    asked = [row for row in losses if "alone_db" in row]
    worst = min(asked, key=lambda row: row["alone_db"]) if asked else None
    detail = "no layer loses much by itself" + (
        "; the outputs suffer most from {} ({:.1f} dB alone)".format(worst["name"], worst["alone_db"]) if worst else ""
    )
    return {"cause": "spread", "layer": worst["name"] if worst else "", "detail": detail}


def _sqnr(wanted: Tensors, found: Tensors) -> float:
    """Of the worst output."""
    ratios = [
        _db(float((wanted[name].astype(np.float64) ** 2).sum()), float(((wanted[name].astype(np.float64) - found[name]) ** 2).sum()))
        for name in wanted
    ]
    return min(ratios)


def _db(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _finite(ratio: float) -> float:
    """JSON has no infinity: 300 dB is beyond what float32 can hold."""
    return max(-300.0, min(300.0, ratio))


def _array(tensor: Any) -> np.ndarray:
    return np.array(tensor.detach().cpu().float().numpy())
