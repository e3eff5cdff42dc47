"""The jobs a model's environment runs: export samples, preprocess, infer, evaluate, score, predict.

All arrays are .npy, samples along axis 0, in the order of `Adapter.samples`. Every function is called through
`qatladder.runner.client.run_job` and returns plain JSON data.
"""

from __future__ import annotations

import hashlib
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from qatladder.errors import ArtifactError, RunnerError
from qatladder.runner.__main__ import write_json
from qatladder.runner.adapter import Adapter, Sample, Tensors, load_adapter


def export_samples(adapter: str, options: Dict[str, Any], split: str, limit: Optional[int], out: str) -> Dict[str, Any]:
    """Write the raw samples of a split: `<input>.npy` ([N, ...], dtype as delivered) and `targets.json`."""
    model = load_adapter(adapter, options)
    inputs: Dict[str, List[np.ndarray]] = {}
    targets: List[Any] = []
    seen = _Seen()
    for sample in islice(model.samples(split, limit), limit):
        seen.add(sample)
        for name, array in sample.inputs.items():
            inputs.setdefault(name, []).append(np.asarray(array))
        targets.append(sample.target)
    if not targets:
        raise RunnerError("the adapter yielded no sample", split=split, next_step="check `samples` of the adapter")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, arrays in inputs.items():
        shapes = {array.shape for array in arrays}
        if len(shapes) != 1:
            raise RunnerError(
                "samples of one input differ in shape",
                input=name,
                found=sorted(shapes),
                next_step="resize to the model's input size in `samples`: no later rung resizes",
            )
        np.save(str(folder / (name + ".npy")), np.stack(arrays))
    write_json(folder / "targets.json", targets)
    return {
        "samples_sha256": seen.sha256,
        "count": len(targets),
        "inputs": {name: str(folder / (name + ".npy")) for name in inputs},
        "targets": str(folder / "targets.json"),
    }


def preprocess(adapter: str, options: Dict[str, Any], inputs: Dict[str, str], out: str) -> Dict[str, Any]:
    """Apply the adapter's own preprocessing to raw inputs: [N, ...] .npy in, float32 [N, ...] .npy out."""
    model = load_adapter(adapter, options)
    raw = _open(inputs)
    count = _count(raw)
    progress, outputs = Progress("preprocessed", count), []
    for index in range(count):
        outputs.append(model.preprocess({name: array[index] for name, array in raw.items()}))
        progress.at(index + 1)
    return {"tensors": _save(_concatenate(outputs), Path(out))}


def infer(adapter: str, options: Dict[str, Any], rung: str, artifact: str, tensors: Dict[str, str], out: str) -> Dict[str, Any]:
    """Run a float, calib or qat model on ready float32 tensors ([N, ...] .npy): [N, ...] .npy out per model output."""
    adapted = load_adapter(adapter, options)
    model = _load(adapted, rung, artifact)
    ready = _open(tensors)
    count = _count(ready)
    progress, outputs = Progress("ran", count), []
    for start in range(0, count, adapted.batch):
        outputs.append(_float32(model({name: np.array(array[start : start + adapted.batch]) for name, array in ready.items()})))
        progress.at(min(start + adapted.batch, count))
    return {"tensors": _save(_concatenate(outputs), Path(out))}


def evaluate(adapter: str, options: Dict[str, Any], rung: str, artifact: str, split: str, limit: Optional[int], out: str) -> Dict[str, Any]:
    """Samples to metric in one process: the float, calib and qat rungs.

    Writes `predictions.json`. Returns `metrics`, `metric` (the primary one's name), `count`, output ranges and timing.
    """
    adapted = load_adapter(adapter, options)
    model = _load(adapted, rung, artifact)
    predictions: List[Any] = []
    targets: List[Any] = []
    ranges: Dict[str, List[float]] = {}
    pending: List[Tensors] = []
    spent = 0.0

    def flush() -> None:
        nonlocal spent
        if not pending:
            return
        started = time.perf_counter()
        outputs = _float32(model(_concatenate(pending)))
        spent += time.perf_counter() - started
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise RunnerError(
                    "the model's output is not finite",
                    rung=rung,
                    output=name,
                    next_step="evaluate the checkpoint on its own; look for overflow in training",
                )
            low, high = ranges.get(name, [np.inf, -np.inf])
            ranges[name] = [min(low, float(array.min())), max(high, float(array.max()))]
        for index in range(len(pending)):
            predictions.append(adapted.postprocess({name: array[index : index + 1] for name, array in outputs.items()}))
        pending.clear()
        progress.at(len(predictions))

    progress = Progress("evaluated", limit)
    seen = _Seen()
    for sample in islice(adapted.samples(split, limit), limit):
        seen.add(sample)
        pending.append(adapted.preprocess(sample.inputs))
        targets.append(sample.target)
        if len(pending) == adapted.batch:
            flush()
    flush()
    return _scored(
        adapted,
        predictions,
        targets,
        Path(out),
        {"output_ranges": ranges, "inference_seconds": round(spent, 3), "samples_sha256": seen.sha256},
    )


def score(adapter: str, options: Dict[str, Any], outputs: Dict[str, str], targets: str, out: str) -> Dict[str, Any]:
    """Judge output tensors another rung produced ([N, ...] float32 .npy) with the same postprocess and metric."""
    adapted = load_adapter(adapter, options)
    truth = json.loads(Path(targets).read_text(encoding="utf-8"))
    predictions = _postprocessed(adapted, outputs)
    if len(predictions) > len(truth):
        raise RunnerError("more outputs than targets", expected=len(truth), found=len(predictions))
    return _scored(adapted, predictions, truth[: len(predictions)], Path(out), {})


def predict(adapter: str, options: Dict[str, Any], outputs: Dict[str, str], out: str) -> Dict[str, Any]:
    """The adapter's postprocess of output tensors another rung produced ([N, ...] float32 .npy): `predictions.json`, one item a sample."""
    predictions = _postprocessed(load_adapter(adapter, options), outputs)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "predictions.json", predictions)
    return {"predictions": str(folder / "predictions.json"), "count": len(predictions)}


def _postprocessed(adapter: Adapter, outputs: Dict[str, str]) -> List[Any]:
    arrays = _open(outputs)
    return [
        adapter.postprocess({name: np.array(array[index : index + 1]) for name, array in arrays.items()}) for index in range(_count(arrays))
    ]


class _Seen:
    """What was evaluated: a hash over every sample's inputs and target, in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, sample: Sample) -> None:
        for name in sorted(sample.inputs):
            array = np.ascontiguousarray(sample.inputs[name])
            self._digest.update("{} {} {}".format(name, array.dtype, array.shape).encode())
            self._digest.update(array.tobytes())
        self._digest.update(json.dumps(sample.target, sort_keys=True).encode())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _scored(adapter: Adapter, predictions: List[Any], targets: List[Any], out: Path, extra: Dict[str, Any]) -> Dict[str, Any]:
    if not predictions:
        raise RunnerError("no sample was evaluated", next_step="check `samples` of the adapter")
    metrics = {name: float(value) for name, value in adapter.score(predictions, targets).items()}
    if adapter.metric not in metrics:
        raise RunnerError("score() does not return the adapter's primary metric", expected=adapter.metric, found=sorted(metrics))
    if not np.isfinite(metrics[adapter.metric]):
        raise RunnerError("the primary metric is not finite", metric=adapter.metric, found=metrics[adapter.metric])
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "predictions.json", predictions)
    write_json(out / "targets.json", targets)
    result = {"metric": adapter.metric, "metrics": metrics, "count": len(predictions)}
    result.update(predictions=str(out / "predictions.json"), targets=str(out / "targets.json"), scores=None)
    scores = _score_of_each(adapter, predictions, targets, metrics[adapter.metric])
    if scores is not None:
        write_json(out / "scores.json", scores)
        result["scores"] = str(out / "scores.json")
    result.update(extra)
    return result


def _score_of_each(adapter: Adapter, predictions: List[Any], targets: List[Any], whole: float) -> Optional[List[float]]:
    """The primary metric of every sample on its own, where the metric of all is their mean; None where it is not (mAP, say).

    A handful of samples tells which of the two it is, so that a metric that is dear to compute is not computed for each in vain.
    """

    def of(indices: Any) -> float:
        return float(adapter.score([predictions[index] for index in indices], [targets[index] for index in indices])[adapter.metric])

    count = len(predictions)
    few = sorted({round(index * (count - 1) / max(1, min(count, 32) - 1)) for index in range(min(count, 32))})
    try:
        if not np.isclose(np.mean([of([index]) for index in few]), of(few), rtol=1e-9, atol=1e-12):
            return None
        scores = [of([index]) for index in range(count)]
        return scores if np.isclose(np.mean(scores), whole, rtol=1e-9, atol=1e-12) else None
    except Exception:  # a metric of one sample need not exist
        return None


def resample(adapter: str, options: Dict[str, Any], before: str, now: str, targets: str, resamples: int, seconds: float) -> Dict[str, Any]:
    """Paired bootstrap of the primary metric: both sets of predictions are scored on the same resampled samples, with replacement.

    Args:
        before, now: JSON lists of predictions of the same samples; `targets` their ground truth.
        resamples: how many; at most as many as `seconds` allow, but at least 50.
    Returns:
        {"before", "now": the metric on all samples, "deltas": now - before of every resample, "differing": samples predicted differently}
    """
    adapted = load_adapter(adapter, options)
    truth, old, new = (json.loads(Path(path).read_text(encoding="utf-8")) for path in (targets, before, now))
    if not len(truth) == len(old) == len(new):
        raise RunnerError(
            "predictions of different samples cannot be paired", expected=len(truth), found="{} and {}".format(len(old), len(new))
        )

    def of(predictions: List[Any], indices: Any) -> float:
        return float(adapted.score([predictions[index] for index in indices], [truth[index] for index in indices])[adapted.metric])

    rng = np.random.default_rng(20261127)
    everything = range(len(truth))
    deadline, progress = time.monotonic() + seconds, Progress("resampled", resamples)
    deltas: List[float] = []
    drawn = 0
    while len(deltas) < resamples and (drawn < 50 or time.monotonic() < deadline):
        drawn += 1
        chosen = rng.integers(0, len(truth), len(truth)).tolist()
        delta = of(new, chosen) - of(old, chosen)
        if np.isfinite(delta):
            deltas.append(delta)
        progress.at(len(deltas))
    if 2 * len(deltas) < drawn:
        raise RunnerError(
            "the metric does not exist on most resamples, so its change cannot be tested",
            expected="a finite metric on samples drawn with replacement",
            found="{} of {}".format(len(deltas), drawn),
            next_step="let `score` leave out what has no samples (a class, say) instead of dividing by zero",
        )
    differing = sum(one != other for one, other in zip(old, new))
    return {"before": of(old, everything), "now": of(new, everything), "deltas": deltas, "differing": differing}


class Progress:
    """Says in the log, every ten seconds, how far a job is."""

    def __init__(self, verb: str, total: Optional[int], seconds: float = 10.0) -> None:
        self.verb, self.total, self.seconds = verb, total, seconds
        self.started = self.said = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self.said < self.seconds:
            return
        self.said = now
        of = " of {}".format(self.total) if self.total else ""
        print("{} {}{} samples, {:.3g} per second".format(self.verb, done, of, done / (now - self.started)), flush=True)


def _load(adapter: Adapter, rung: str, artifact: str) -> Any:
    path = Path(artifact)
    if not path.exists():
        raise ArtifactError(
            "the artifact does not exist",
            rung=rung,
            file=path,
            next_step="train or export it (the sample zoo: make zoo), or correct `artifacts` in the zoo entry",
        )
    return adapter.load(rung, path)


def _open(files: Dict[str, str]) -> Tensors:
    return {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in files.items()}


def _count(arrays: Tensors) -> int:
    counts = {array.shape[0] for array in arrays.values()}
    if len(counts) != 1:
        raise RunnerError("the tensors hold different numbers of samples", found={name: array.shape for name, array in arrays.items()})
    return int(counts.pop())


def _float32(outputs: Tensors) -> Tensors:
    return {name: np.asarray(array, dtype=np.float32) for name, array in outputs.items()}


def _concatenate(batches: List[Tensors]) -> Tensors:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _save(arrays: Tensors, folder: Path) -> Dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for index, (name, array) in enumerate(arrays.items()):
        files[name] = str(folder / "{}.npy".format(index))
        np.save(files[name], array)
    return files
