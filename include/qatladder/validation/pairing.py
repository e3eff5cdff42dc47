"""Pairs a rung's accuracy with the baseline's, sample by sample: the same samples, the old answer and the new one of each."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from qatladder.errors import BrokenError, QATLadderError
from qatladder.history.baselines import Baseline, baseline_of
from qatladder.history.significance import Paired, paired_bootstrap, paired_scores
from qatladder.ladder import RungResult
from qatladder.validation.context import Context, load_rung

RESAMPLES, SECONDS = 1000, 120.0
"""Of a paired bootstrap; it takes at most so long, but for the first 50."""

OTHER_SAMPLES = "the samples are not those of the baseline; if that is meant, accept this result: qatladder baseline accept"

MIN_SAMPLES = 20
"""Fewer samples say nothing about a model."""


def with_pairs(context: Context, result: RungResult) -> RungResult:
    """The rung's result with its metric against the baseline's (`facts["paired"]`) and its anchor's (`facts["paired_anchor"]`).

    Nothing that goes wrong here changes an answer.
    """
    if "metrics" not in result.facts or "predictions" not in result.products:
        return result
    try:
        baseline = baseline_of(context.store, context.entry.model, context.entry.version, context.target.id, context.run_id)
        if baseline is None:
            return _with(result, None)
        paired = _paired(context, result, baseline, result.facts.get("paired"))
        anchor = baseline.anchored
        return _with(result, paired, _paired(context, result, anchor, result.facts.get("paired_anchor")) if anchor else None)
    except (QATLadderError, ValueError, KeyError, OSError) as error:
        context.log(f"{context.rung}: not paired with the baseline: {error}")
        return _with(result, {"reason": f"not paired with the baseline: {' '.join(str(error).split())}"})


def _with(result: RungResult, paired: dict[str, Any] | None, anchor: dict[str, Any] | None = None) -> RungResult:
    return dataclasses.replace(result, facts={**result.facts, "paired": paired, "paired_anchor": anchor})


def _paired(context: Context, result: RungResult, baseline: Baseline, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """The pair with a baseline; `earlier` is what a carried-over result says of it."""
    before = load_rung(context.store, baseline.run_id, context.ladder | {"version": baseline.version}, context.rung)
    metric = result.facts["metric"]
    found: dict[str, Any] = {
        "metric": metric,
        "value": result.facts["metrics"][metric],
        "count": result.facts["count"],
        "baseline_run": baseline.run_id,
        "baseline_version": baseline.version,
        "baseline_time": baseline.time,
    }
    old = before.facts.get("metrics", {}).get(metric) if before else None
    if before is None or old is None or "predictions" not in before.products:
        return {**found, "reason": f"the baseline has no {metric} of {context.rung}"}
    found["baseline"] = old
    if before.products["truth"].sha256 != result.products["truth"].sha256 or before.facts["count"] != result.facts["count"]:
        return {**found, "reason": OTHER_SAMPLES}
    if before.products["predictions"].sha256 == result.products["predictions"].sha256:
        return {**found, "identical": True, **_told(Paired(0.0, 0, 0, 1.0, 1.0, None, "every sample is predicted as before"))}
    pair = [before.products["predictions"].sha256, result.products["predictions"].sha256]
    if earlier and earlier.get("pair") == pair:  # carried over: the same two sets of predictions
        return {**earlier, **found}
    if result.facts["count"] < MIN_SAMPLES:
        return {**found, "reason": f"{result.facts['count']} samples say nothing about a model; {MIN_SAMPLES} do"}
    return {**found, "identical": False, "pair": pair, **_told(_test(context, before, result))}


def _test(context: Context, before: RungResult, now: RungResult) -> Paired:
    if "scores" in before.products and "scores" in now.products:
        lists = [json.loads(_fetched(context, item, "scores").read_text()) for item in (before, now)]
        return paired_scores(*lists)
    value = context.model_job(
        "resample",
        {
            "before": str(_fetched(context, before, "predictions")),
            "now": str(_fetched(context, now, "predictions")),
            "targets": str(_fetched(context, now, "truth")),
            "resamples": RESAMPLES,
            "seconds": SECONDS,
        },
        "resample",
    )
    return paired_bootstrap(value["now"] - value["before"], value["deltas"], value["differing"])


def _fetched(context: Context, result: RungResult, name: str) -> Path:
    evidence = result.products.get(name)
    if evidence is None:
        raise BrokenError("a rung left no such product", kind="store", rung=result.rung, product=name)
    return context.store.fetch(evidence, context.folder / "pairs" / f"{evidence.sha256}.json")


def _told(paired: Paired) -> dict[str, Any]:
    return dataclasses.asdict(paired)
