"""Promises: what a review found to be told wrongly is told rightly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from qatladder.errors import RunnerError
from qatladder.evidence import open_store
from qatladder.history.baselines import Baseline, advance, baseline_of
from qatladder.history.significance import paired_bootstrap
from qatladder.history.trends import Past, Policy, judge_night
from qatladder.ladder import CheckResult, LadderResult, Rung, RungResult, Status
from qatladder.runner import evaluate
from qatladder.settings import load_settings


def _board(latency: float) -> RungResult:
    return RungResult(Rung.BOARD, (CheckResult("board.perf", Status.PASSED, values={"latency_ms": latency}),))


def _speed(latency: float, nights: list[float]) -> str:
    past = Past(Baseline("m", "1", "t", "r", "2026-01-01T00:00:00+00:00"), {Rung.BOARD: _board(5.0)}, None, {"board.perf": nights})
    (trend,) = judge_night([(LadderResult("m", "1", "t", (_board(latency),)), past)], Policy())
    verdict: str = trend["movements"][0]["verdict"]
    return verdict


def test_a_collapse_without_scatter_is_worse() -> None:
    found = paired_bootstrap(-1.0, [-1.0] * 200, 500)
    assert found.p_worse < 1e-9
    assert found.p_better == 1.0


@pytest.mark.parametrize("count", [8, 12, 40])
def test_a_latency_that_only_scatters_is_seldom_a_regression(count: int) -> None:
    rng = np.random.default_rng(1)
    nights = 5 * (1 + 0.02 * rng.standard_normal((3000, count + 1)))
    alarms = sum(_speed(float(row[-1]), row[:-1].tolist()) == "regression" for row in nights)
    assert alarms <= stats.binom.isf(1e-4, 3000, 0.001)


def test_a_metric_that_does_not_exist_on_resamples_ends(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    class Never:
        metric = "m"

        @staticmethod
        def score(predictions: list[int], targets: list[int]) -> dict[str, float]:
            return {"m": 1.0 if len(set(targets)) == len(targets) else float("nan")}

    monkeypatch.setattr(evaluate, "load_adapter", lambda *_: Never)
    for name in ("before", "now", "targets"):
        (tmp_path / name).write_text(str(list(range(60))))
    files = {name: str(tmp_path / name) for name in ("before", "now", "targets")}
    with pytest.raises(RunnerError, match="does not exist on most resamples"):
        evaluate.resample("a.py:A", {}, **files, resamples=1000, seconds=0.2)


def test_a_new_version_is_held_against_the_one_before_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("QATLADDER_HOME", str(tmp_path))
    store = open_store(load_settings())
    for version in ("1", "2", "10"):
        advance(store, "m", version, "t", "night", "2026-11-01T01:00:00+00:00")
    for version, before in (("11", "10"), ("3", "2"), ("0", "10")):
        found = baseline_of(store, "m", version, "t")
        assert found is not None
        assert found.version == before
