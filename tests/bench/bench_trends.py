"""How often a simulated night cries wolf, and how often it misses a wolf. Prints; `make bench`.

Models of 1,000 samples at 90 % are trained anew to equal quality (5 % of the samples flip, both ways alike) or to a planted loss. Verdicts are the
product's: pairing, tests, one adjustment a night. Compared in one run with what is usually done: an alert when the accuracy falls by more
than a threshold.
"""

from __future__ import annotations

import numpy as np

from qatladder.history.baselines import Baseline
from qatladder.history.significance import paired_scores
from qatladder.history.trends import Past, Policy, judge_night
from qatladder.ladder import LadderResult, Rung, RungResult

SAMPLES, CHURN, PER_NIGHT, NIGHTS = 1000, 0.05, 20, 300
LOSSES = (0.005, 0.01, 0.02, 0.03, 0.05)
THRESHOLDS = (0.005, 0.01, 0.02)


def retrained(rng: np.random.Generator, loss: float) -> tuple[np.ndarray, np.ndarray]:
    before = rng.random(SAMPLES) < 0.9
    chance = np.where(before, CHURN / 2 / 0.9, CHURN / 2 / 0.1)
    now = before ^ (rng.random(SAMPLES) < chance)
    fallen = rng.choice(np.flatnonzero(now), round(loss * SAMPLES), replace=False)
    now[fallen] = False
    return before, now


def night(rng: np.random.Generator, losses: list[float]) -> tuple[list[str], list[float]]:
    """Verdicts and measured falls of a night's ladders."""
    baseline = Baseline("m", "1", "t", "before", "2026-11-01T00:00:00+00:00")
    ladders, falls = [], []
    for loss in losses:
        before, now = retrained(rng, loss)
        found = paired_scores(before.astype(float), now.astype(float))
        paired = {"metric": "top1", "value": float(now.mean()), "baseline": float(before.mean()), "count": SAMPLES, "identical": False}
        paired.update(p_worse=found.p_worse, p_better=found.p_better, method=found.method)
        rung = RungResult(Rung.FLOAT, (), facts={"artifacts": {"float": "new"}, "paired": paired})
        old = RungResult(Rung.FLOAT, (), facts={"artifacts": {"float": "old"}})
        ladders.append((LadderResult("m", "1", "t", (rung,)), Past(baseline, {Rung.FLOAT: old})))
        falls.append(-found.delta)
    return [trend["verdict"] for trend in judge_night(ladders, Policy())], falls


def test_false_alarms_and_misses() -> None:
    rng = np.random.default_rng(1)
    quiet = [night(rng, [0.0] * PER_NIGHT) for _ in range(NIGHTS)]
    verdicts = [verdict for found, _ in quiet for verdict in found]
    falls = np.array([fall for _, found in quiet for fall in found])
    print(f"\n{NIGHTS} quiet nights, {PER_NIGHT} models trained anew to equal quality each ({SAMPLES} samples, {CHURN:.0%} flip)")
    nights = sum("regression" in found for found, _ in quiet)
    print(f"  nights with a false alarm  {nights} of {NIGHTS} ({nights / NIGHTS:.2%}; alpha {Policy().alpha:.2%})")
    print(f"  false `suspicious`         {verdicts.count('suspicious') / len(verdicts):.2%} of the models")
    for threshold in THRESHOLDS:
        print(f"  a threshold of {threshold:.1%} alerts  {(falls > threshold).mean():.2%} of the models")
    print(f"one planted loss a night among {PER_NIGHT}, 60 nights each")
    print(f"  {'loss':>6} {'regression':>12} {'or suspicious':>14} " + " ".join(f"{f'fall > {value:.1%}':>12}" for value in THRESHOLDS))
    for loss in LOSSES:
        found = [night(rng, [loss] + [0.0] * (PER_NIGHT - 1)) for _ in range(60)]
        regression = np.mean([item[0][0] == "regression" for item in found])
        either = np.mean([item[0][0] in ("regression", "suspicious") for item in found])
        simple = [np.mean([item[1][0] > threshold for item in found]) for threshold in THRESHOLDS]
        print(f"  {loss:>6.1%} {regression:>12.0%} {either:>14.0%} " + " ".join(f"{value:>12.0%}" for value in simple))
