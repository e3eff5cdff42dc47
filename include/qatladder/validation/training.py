"""The float, calib and qat rungs: one evaluation code, each drop held against its gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qatladder.errors import ConfigError
from qatladder.ladder import CheckResult, Rung, RungResult, Status
from qatladder.validation.ask import Answer, Skip, ask
from qatladder.validation.context import Context
from qatladder.validation.precision import hand_over
from qatladder.zoo.schema import Gate


def validate(context: Context) -> list[CheckResult]:
    return [ask(context, f"{context.rung}.accuracy", lambda: _accuracy(context))]


def _accuracy(context: Context) -> Answer:
    rung, entry = context.rung, context.entry
    if context.zoo.artifact(entry, str(rung)) is None:
        _without_artifact(context)
    artifact = context.artifact(str(rung))
    value = context.model_job(
        "evaluate",
        {
            "rung": str(rung),
            "artifact": str(artifact),
            "split": "evaluation",
            "limit": entry.samples.evaluation,
            "out": str(context.folder / "evaluate"),
        },
        "evaluate",
    )
    reference = None if rung is Rung.FLOAT else Rung.FLOAT
    answer = judge_metric(context, value, getattr(entry.gates, str(rung)), reference)
    return answer if answer.passed or rung is Rung.FLOAT else hand_over(context, answer)


def _without_artifact(context: Context) -> None:
    """Say why a rung without an artifact is skipped; an error when the ladder needs it."""
    if context.target.ptq is not None:
        raise Skip("the toolchain quantises this target (ptq), so there is nothing trained between float and int", required=False)
    if context.rung is Rung.CALIB:
        raise Skip("the entry declares no calib artifact", required=False)
    calib = context.earlier(Rung.CALIB)
    check = calib.check("calib.accuracy") if calib else None
    if check is None or check.status not in (Status.PASSED, Status.FAILED):
        raise Skip(f"the entry declares no qat artifact, and whether calib is good enough is not known (calib.accuracy {_told(check)})")
    if check.status is Status.PASSED:
        raise Skip("calib already meets its gate and the entry declares no qat artifact", required=False)
    raise ConfigError(
        "the entry declares no qat artifact, and calib does not meet its gate",
        model=context.entry.model,
        rung=context.rung,
        expected="a qat artifact, or a calib model within its gate",
        found=f"calib.accuracy {_told(check)}",
        next_step="train QAT from the calibrated model and add it under `artifacts`",
    )


def _told(check: CheckResult | None) -> str:
    return "was not run" if check is None else f"{check.status}: {check.measured or check.reason}"


def judge_metric(
    context: Context, value: dict[str, Any], gate: Gate, reference: Rung | None, reference_value: float | None = None
) -> Answer:
    """Hold the primary metric of `value` (what the runner's evaluate or score returned) against a gate.

    Args:
        reference: rung whose metric a drop is measured from; its value is read from that rung's facts unless given.
    """
    entry = context.entry
    metric, number, count = value["metric"], value["metrics"][value["metric"]], value["count"]
    if metric != entry.metric:
        raise ConfigError(
            "the adapter's primary metric is not the entry's",
            model=entry.model,
            expected=entry.metric,
            found=metric,
            next_step="make `metric` equal in the zoo entry and the adapter",
        )
    if reference is not None and reference_value is None:
        earlier = context.earlier(reference)
        reference_value = earlier.facts.get("metrics", {}).get(metric) if earlier else None
        if earlier is not None and reference_value is not None:
            _same_samples(context, value, earlier)
    context.facts.update(
        metric=metric,
        metrics=value["metrics"],
        count=count,
        samples_sha256=value.get("samples_sha256"),
        gate=gate.model_dump(exclude_none=True),
        reference={"rung": str(reference), "value": reference_value} if reference else None,
    )
    expectations, passed = [], True
    if gate.min is not None:
        expectations.append(f"{metric} >= {gate.min:g}")
        passed &= number >= gate.min
    if gate.max_drop is not None and reference is not None:
        if reference_value is None and passed:
            raise Skip(f"the drop is measured from {reference}, which has no {metric} in this run")
        if reference_value is not None:
            expectations.append(f"drop from {reference} ({reference_value:.4f}) <= {gate.max_drop:g}")
            # Metrics are ratios of counts: 1e-9 only absorbs the last bit of the subtraction.
            passed &= reference_value - number <= gate.max_drop + 1e-9
    if not expectations:
        raise ConfigError(
            "the gate has nothing to hold the metric against",
            model=entry.model,
            rung=context.rung,
            expected="min, or max_drop with a reference rung",
            found=gate.model_dump(exclude_none=True),
            next_step=f"give `gates.{context.rung}` a min",
        )
    measured = f"{metric} {number:.4f} on {count} samples"
    if reference_value is not None:
        measured += f" ({number - reference_value:+.4f} from {reference})"
    predictions = context.keep("predictions", Path(value["predictions"]), f"{context.rung}_predictions.json")
    context.keep("truth", Path(value["targets"]), "truth.json")
    if value.get("scores"):
        context.keep("scores", Path(value["scores"]), f"{context.rung}_scores.json")
    return Answer(
        passed,
        measured,
        " and ".join(expectations),
        reason="" if passed else f"{metric} misses its gate",
        values={"metric": metric, "value": number, "count": count, "reference": reference_value, "metrics": value["metrics"]},
        evidence=[predictions],
    )


def _same_samples(context: Context, value: dict[str, Any], earlier: RungResult) -> None:
    """A drop is a drop of the model only when both rungs were judged on the same samples."""
    if value.get("samples_sha256") == earlier.facts.get("samples_sha256"):
        return
    raise ConfigError(
        "the adapter does not yield the same samples at every rung, so their metrics cannot be compared",
        model=context.entry.model,
        rung=context.rung,
        expected=f"the {earlier.facts.get('count')} samples of {earlier.rung} (sha256 {str(earlier.facts.get('samples_sha256'))[:12]})",
        found=f"{value['count']} samples (sha256 {str(value.get('samples_sha256'))[:12]})",
        next_step="make `samples` of the adapter deterministic: fixed order, fixed seed",
    )
