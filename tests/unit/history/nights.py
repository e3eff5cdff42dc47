"""Simulated nights of a model zoo: what the rungs would have left, judged by the product's own code.

A model answers each of its samples rightly or wrongly. A retraining of equal quality answers some samples differently, as many better as
worse in expectation; a planted regression or progression changes some in one direction; boards measure latencies that scatter. All else
(pairing with the baseline, tests, verdicts, baselines, history, missing ladders) is the product's.
"""

from __future__ import annotations

import datetime
import json
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.evidence import Store
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.ladder.checks import checks_of
from qatladder.runner import evaluate
from qatladder.validation.context import rung_file
from qatladder.validation.pairing import with_pairs
from qatladder.validation.run import finish_run

START = datetime.datetime(2026, 9, 1, 1, tzinfo=datetime.UTC)

MIOU = """
import numpy as np
from qatladder.runner.adapter import Adapter

class Overlap(Adapter):
    \"\"\"Three classes of pixels; a prediction is the class of 16 pixels. The metric is the mean of the classes' overlaps, of no sample alone.\"\"\"
    metric = "mIoU"
    def samples(self, split, limit=None): return iter(())
    def preprocess(self, inputs): return inputs
    def load(self, rung, artifact): return None
    def postprocess(self, outputs): return None
    def score(self, predictions, targets):
        p, t = np.array(predictions), np.array(targets)
        return {"mIoU": float(np.mean([((p == c) & (t == c)).sum() / max(1, ((p == c) | (t == c)).sum()) for c in range(3)]))}
"""


@dataclass
class Model:
    """One simulated model.

    Attributes:
        right: by rung, which samples it answers rightly.
        latency: true latency on the board, ms; `scatter` of a measurement, relative.
        weights: identity of what was trained.
        absent: not in the zoo tonight.
        version: of the entry.
    """

    name: str
    overlap: bool
    right: np.ndarray
    latency: float = 5.0
    scatter: float = 0.004
    weights: int = 0
    absent: bool = False
    version: str = "1"
    nondeterministic: bool = False
    answered: dict[bytes, Any] = field(default_factory=dict)


@dataclass
class Zoo:
    """A zoo and its nights.

    Attributes:
        store, folder: where everything goes.
        retrained: chance of a model to be retrained in a night, to equal quality.
        churn: share of the samples that such a retraining answers differently.
    """

    store: Store
    folder: Path
    seed: int = 1
    models: int = 12
    samples: int = 1500
    retrained: float = 0.08
    churn: float = 0.04
    night: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        (self.folder / "overlap.py").write_text(MIOU)
        self.zoo = [self._model(f"m{index:02d}", index % 6 == 5) for index in range(self.models)]
        self.truth = self.rng.integers(0, 3, (self.samples // 4, 16))

    def _model(self, name: str, overlap: bool) -> Model:
        count = self.samples // 4 * 16 if overlap else self.samples
        return Model(name, overlap, self.rng.random(count) < 0.9)

    def add(self, name: str) -> Model:
        self.zoo.append(self._model(name, False))
        return self.zoo[-1]

    def retrain(self, model: Model, change: float = 0.0) -> None:
        """Train anew: `churn` of the samples flip both ways alike, then `change` of all go one way."""
        model.weights += 1
        right = model.right
        share = right.mean()
        for value, number in ((True, self.churn / 2 / share), (False, self.churn / 2 / (1 - share))):
            where = np.flatnonzero(right == value)
            flipped = where[self.rng.random(where.size) < number]
            model.right = model.right.copy()
            model.right[flipped] = not value
        if change:
            where = np.flatnonzero(model.right == (change < 0))
            model.right[self.rng.choice(where, round(abs(change) * model.right.size), replace=False)] = change > 0

    def sweep(self) -> dict[str, Any]:
        """One night; the report."""
        run_id = f"nightly_sweep@{self.night:03d}"
        started = (START + datetime.timedelta(days=self.night)).isoformat()
        ladders = []
        for model in self.zoo:
            if self.rng.random() < self.retrained:
                self.retrain(model)
            if model.absent:
                continue
            ladder = {
                "label": model.name,
                "model": model.name,
                "version": model.version,
                "target": "bayes-e",
                "march": "bayes-e",
                "toolchain": "hmct",
                "owner": "lab",
                "rungs": [str(rung) for rung in Rung],
                "whole_zoo": True,
            }
            ladders.append(ladder)
            for rung in Rung:
                self._climb(model, ladder, rung, run_id, started)
        finish_run(ladders, run_id)
        self.night += 1
        report: dict[str, Any] = json.loads(self.store.read_run_file(run_id, "report.json"))
        return report

    def _climb(self, model: Model, ladder: dict[str, Any], rung: Rung, run_id: str, started: str) -> None:
        checks = [CheckResult(check.id, Status.PASSED) for check in checks_of(rung)]
        facts: dict[str, Any] = {"artifacts": {"float": f"{model.name}-{model.weights}"}, "determinants": {"entry": model.name}}
        products = {}
        if rung in (Rung.FLOAT, Rung.INT):
            right = model.right
            if model.nondeterministic:
                right = right.copy()
                right[self.rng.integers(right.size)] ^= True
            products, found = self._answers(model, right)
            facts.update(found)
        if rung is Rung.BOARD:
            latency = model.latency * (1 + model.scatter * self.rng.standard_normal())
            facts["perf"] = {"estimated": False}
            facts["health"] = {"versions": {"hrt": "1.24"}}
            checks = [
                CheckResult(check.id, Status.PASSED, values={"latency_ms": latency} if check.id == "board.perf" else {}) for check in checks
            ]
        result = RungResult(rung, tuple(checks), products, facts, started=started)
        result = with_pairs(self._context(model, ladder, rung, run_id), result)
        self.store.write_run_file(run_id, rung_file(ladder, rung), json.dumps(result.to_json()).encode())

    def _answers(self, model: Model, right: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        """(products, facts) of a rung; kept, because most nights nothing has changed."""
        if right.tobytes() not in model.answered:
            model.answered = {right.tobytes(): self._stored(model, right)}
        found: tuple[dict[str, Any], dict[str, Any]] = model.answered[right.tobytes()]
        return dict(found[0]), dict(found[1])

    def _stored(self, model: Model, right: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
        if model.overlap:
            truth = self.truth
            predictions = np.where(right.reshape(truth.shape), truth, (truth + 1) % 3).tolist()
            value = float(np.mean([self._overlap(np.array(predictions), truth, kind) for kind in range(3)]))
            kept = {"predictions": predictions, "truth": truth.tolist()}
        else:
            value = float(right.mean())
            kept = {"predictions": right.astype(int).tolist(), "truth": [1] * right.size, "scores": right.astype(float).tolist()}
        products = {name: self.store.put_json(data, f"{name}.json") for name, data in kept.items()}
        metric = "mIoU" if model.overlap else "top1"
        return products, {"metric": metric, "metrics": {metric: value}, "count": len(kept["predictions"])}

    @staticmethod
    def _overlap(predictions: np.ndarray, truth: np.ndarray, kind: int) -> float:
        both, any_ = (predictions == kind) & (truth == kind), (predictions == kind) | (truth == kind)
        return float(both.sum() / any_.sum())

    def _context(self, model: Model, ladder: dict[str, Any], rung: Rung, run_id: str) -> Any:
        def job(function: str, args: dict[str, Any], name: str) -> Any:
            return getattr(evaluate, function)(f"{self.folder}/overlap.py:Overlap", {}, **{**args, "resamples": 200})

        return types.SimpleNamespace(
            store=self.store,
            ladder=ladder,
            entry=types.SimpleNamespace(model=model.name, version=model.version),
            target=types.SimpleNamespace(id=ladder["target"]),
            rung=rung,
            run_id=run_id,
            folder=self.folder,
            log=print,
            model_job=job,
        )


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {ladder["model"]: ladder["trend"]["verdict"] for ladder in report["ladders"]}
