"""Is a difference more than chance? Tests of paired samples, of many tests at once, and of a trend's change points.

The same samples are evaluated every night, so the old and the new answer of each are a pair: only the samples on which they differ say
anything, and far smaller changes are found than by comparing two accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EXACT_PAIRS = 12
"""Up to so many differing samples every assignment of signs is tried; beyond, 20,000 random ones."""


@dataclass(frozen=True)
class Paired:
    """Two sets of answers to the same samples.

    Attributes:
        delta: the metric now minus before.
        worse, better: samples whose score fell, rose; None where a sample has no score of its own.
        p_worse, p_better: one-sided: how likely so large a fall (rise) is if old and new are equally good.
        interval: 95 % of the change, from a bootstrap; None where it was not resampled.
        method: in words.
    """

    delta: float
    worse: int | None
    better: int | None
    p_worse: float
    p_better: float
    interval: tuple[float, float] | None
    method: str


def paired_scores(before: Sequence[float], now: Sequence[float]) -> Paired:
    """Test scores of the same samples in the same order, higher is better.

    Scores of 0 and 1: McNemar's exact test (a binomial test of the flipped samples). Other scores: a sign-flip permutation test of the mean
    difference, exact up to `EXACT_PAIRS` differing samples; far out in the tail, where permutations cannot tell, the normal one.
    """
    from scipy import stats

    old, new = np.asarray(before, float), np.asarray(now, float)
    if old.shape != new.shape or old.ndim != 1 or not old.size:
        raise ValueError(f"pairs need two lists of one length, found {old.shape} and {new.shape}")
    difference = new - old
    worse, better = int((difference < 0).sum()), int((difference > 0).sum())
    delta, moved = float(difference.mean()), difference[difference != 0]
    if not moved.size:
        return Paired(0.0, 0, 0, 1.0, 1.0, None, "every sample scores as before")
    if np.isin(old, (0.0, 1.0)).all() and np.isin(new, (0.0, 1.0)).all():
        p_worse = float(stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue)
        p_better = float(stats.binomtest(better, worse + better, 0.5, alternative="greater").pvalue)
        return Paired(delta, worse, better, p_worse, p_better, None, f"exact McNemar on {worse + better} flipped samples")
    tie = 1e-9 * float(np.abs(moved).sum())  # sums in another order differ in their last bits
    if moved.size <= EXACT_PAIRS:
        signs = 1 - 2 * ((np.arange(2**moved.size)[:, None] >> np.arange(moved.size)) & 1)
        sums, method = signs @ np.abs(moved), f"exact sign-flip test on {moved.size} samples"
        p_worse = float((sums <= moved.sum() + tie).mean())
        p_better = float((sums >= moved.sum() - tie).mean())
        return Paired(delta, worse, better, p_worse, p_better, None, method)
    rng = np.random.default_rng(20261127)
    sums = np.concatenate([(rng.integers(0, 2, (1000, moved.size)) * 2 - 1) @ np.abs(moved) for _ in range(20)])
    p_worse, p_better = float(((sums <= moved.sum() + tie).sum() + 1) / 20001), float(((sums >= moved.sum() - tie).sum() + 1) / 20001)
    method = f"sign-flip test on {moved.size} samples"
    if min(p_worse, p_better) < 1e-3:  # beyond what the permutations resolve
        z = float(moved.sum() / math.sqrt(float((moved**2).sum())))
        p_worse, p_better = float(stats.norm.cdf(z)), float(stats.norm.sf(z))
        method += ", normal tail"
    return Paired(delta, worse, better, _possible(p_worse, moved.size), _possible(p_better, moved.size), None, method)


def paired_bootstrap(delta: float, deltas: Sequence[float], differing: int) -> Paired:
    """Judge a change of a metric that is no mean of samples (mAP, mIoU) from its paired bootstrap.

    The probability is the normal tail at the bootstrap's standard error: so small ones need no millions of resamples. It is never smaller
    than the signs of the differing samples allow.

    Args:
        delta: of all samples, now minus before.
        deltas: of the resamples.
        differing: samples that are predicted differently.
    """
    from scipy import stats

    if not differing:
        return Paired(0.0, None, None, 1.0, 1.0, None, "every sample is predicted as before")
    found = np.asarray(deltas, float)
    error = float(found.std(ddof=1)) if found.size > 1 else 0.0
    method = f"paired bootstrap of {found.size} resamples, {differing} samples predicted differently"
    if found.size < 2 or (error <= 1e-12 * abs(delta) and delta == 0.0):
        return Paired(delta, None, None, 1.0, 1.0, None, method)
    if error <= 1e-12 * abs(delta):  # the same change in every resample, such as all samples wrong that were all right
        p = _possible(0.0, differing)
        return Paired(delta, None, None, p if delta < 0 else 1.0, p if delta > 0 else 1.0, (delta, delta), method)
    low, high = (float(value) for value in np.quantile(found, (0.025, 0.975)))
    z = delta / error
    return Paired(
        delta,
        None,
        None,
        _possible(float(stats.t.cdf(z, found.size - 1)), differing),  # the error is an estimate of so many resamples
        _possible(float(stats.t.sf(z, found.size - 1)), differing),
        (low, high),
        method,
    )


def _possible(p: float, pairs: int) -> float:
    """Not smaller than the smallest that so many pairs can give: all of them in one direction."""
    return min(1.0, max(p, 0.5**pairs))


def holm(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Adjusted probabilities of many tests of one night (Holm 1979): below `alpha`, the chance of any false alarm in the night is below it."""
    adjusted, largest = {}, 0.0
    ordered = sorted(probabilities.items(), key=lambda item: item[1])
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - rank)))
        adjusted[name] = largest
    return adjusted


def change_point(values: Sequence[float], least: int = 3) -> tuple[int, float, float] | None:
    """Where the level of a noisy series last changed, by PELT (ruptures) with a penalty from the series' own noise.

    Args:
        values: oldest first.
        least: values a level must hold for.
    Returns:
        (index of the first value of the newest level, level before, level since: medians); None when there was no change.
    """
    series = np.asarray(values, float)
    if series.size < 2 * least + 2:
        return None
    import ruptures

    # the noise of neighbours knows nothing of changes of level; 1.4826 turns a median deviation into a standard one
    steps = np.diff(series)
    noise = 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)
    noise = max(noise, float(np.abs(series).max()) * 1e-9, 1e-12)
    penalty = 6.0 * noise**2 * math.log(series.size)
    ends = ruptures.Pelt(model="l2", min_size=least, jump=1).fit(series).predict(pen=penalty)
    if len(ends) < 2:
        return None
    last, before = ends[-2], ends[-3] if len(ends) > 2 else 0
    return last, float(np.median(series[before:last])), float(np.median(series[last:]))
