"""Promises: the tests say what they say: exact where they can be, their false alarms as rare as they claim, no evidence made of nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qatladder.history.significance import change_point, holm, paired_bootstrap, paired_scores


@pytest.mark.parametrize(("worse", "better"), [(1, 0), (6, 1), (14, 2), (3, 9), (40, 20), (7, 7)])
def test_flipped_samples_are_judged_by_the_exact_binomial_test(worse: int, better: int) -> None:
    before = [1.0] * worse + [0.0] * better + [1.0] * 30
    now = [0.0] * worse + [1.0] * better + [1.0] * 30
    found = paired_scores(before, now)
    assert (found.worse, found.better) == (worse, better)
    total = worse + better
    assert found.p_worse == pytest.approx(sum(math.comb(total, k) for k in range(worse, total + 1)) / 2**total)
    assert found.p_better == pytest.approx(sum(math.comb(total, k) for k in range(better, total + 1)) / 2**total)
    assert found.delta == pytest.approx((better - worse) / (total + 30))


def test_scores_that_are_no_hits_are_permuted_exactly() -> None:
    rng = np.random.default_rng(1)
    before, now = rng.random(9), rng.random(9)
    found = paired_scores(before, now)
    expected = stats.permutation_test(
        (now, before),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        alternative="less",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert found.p_worse == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.worse + found.better == 9  # type: ignore[operator]


def test_equal_answers_and_unequal_lists() -> None:
    assert paired_scores([1.0, 0.5], [1.0, 0.5]).p_worse == 1.0
    with pytest.raises(ValueError, match="one length"):
        paired_scores([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="one length"):
        paired_scores([], [])


@pytest.mark.parametrize("kind", ["hits", "scores"])
def test_as_many_false_alarms_as_the_probability_says(kind: str) -> None:
    """Equal models: p <= q in at most a share q of the cases, up to the scatter of so many cases."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(600):
        before = rng.random(200)
        now = np.where(rng.random(200) < 0.15, rng.random(200), before)
        if kind == "hits":
            before, now = (before > 0.3).astype(float), (now > 0.3).astype(float)
        found.append(paired_scores(before, now).p_worse)
    for q in (0.01, 0.05, 0.2):
        allowed = stats.binom.ppf(0.999, len(found), q)
        assert sum(p <= q for p in found) <= allowed


def test_the_bootstrap_is_no_surer_than_the_differing_samples_allow() -> None:
    """Three samples in one direction are 1 in 8, whatever the resamples look like."""
    found = paired_bootstrap(-0.01, [-0.011, -0.010, -0.009] * 50, differing=3)
    assert found.p_worse == 0.125
    assert found.interval is not None and found.interval[0] < found.interval[1] < 0
    assert paired_bootstrap(0.0, [], differing=0).p_worse == 1.0


def test_many_tests_are_adjusted_together() -> None:
    """As statsmodels' multipletests(method='holm') has them."""
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}
    assert holm({"a": 0.9, "b": 0.8})["b"] == 1.0


def test_a_change_of_level_is_found_where_it_is_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(3)
    false = sum(change_point(5 + 0.05 * rng.standard_normal(40)) is not None for _ in range(200))
    assert false <= 6
    series = np.concatenate([5 + 0.05 * rng.standard_normal(30), 5.3 + 0.05 * rng.standard_normal(6)])
    found = change_point(series)
    assert found is not None
    at, before, since = found
    assert at == 30
    assert before == pytest.approx(5, abs=0.05)
    assert since == pytest.approx(5.3, abs=0.05)
    assert change_point([5.0] * 40) is None
    assert change_point([5.0, 6.0]) is None
