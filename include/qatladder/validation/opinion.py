"""The vendor's own comparison of int model and hbm, beside ours: its numbers are judged by our numerics, its verdict is not read.

A tool that dumps no integers speaks by the rows of its table, every one of them: see `SecondOpinion.rows`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from qatladder.errors import QATLadderError
from qatladder.ladder import RungResult
from qatladder.numerics.judgement import judge
from qatladder.toolchains.base import IntInput, IntModel, IntOutput
from qatladder.validation.ask import Answer
from qatladder.validation.context import Context

SAMPLES = 2
"""The vendor's tools take one sample per call, and seconds for it."""


def with_second_opinion(context: Context, answer: Answer, built: RungResult, hbm: Path) -> Answer:
    """`hbm.bit_exact` with what the vendor's verifier computed; the answer as it is where the environment has none.

    The verifier cannot mend a difference ours found, but one that it finds fails the check. What it could not compute is said in `measured`.
    """
    described = built.facts["int_model"]
    model = IntModel(
        tuple(IntInput(**_tuples(item)) for item in described["inputs"]), tuple(IntOutput(**_tuples(item)) for item in described["outputs"])
    )
    folder = context.folder / "second_opinion"
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Path] = {}
    frames: dict[str, Path] = {}
    for spec, fed in zip(context.entry.inputs, model.inputs, strict=True):
        picture = spec.source != "ddr"
        given = np.load(context.fetch(built, f"runtime/{spec.name}" if picture else f"raw/{fed.raw_name}"), mmap_mode="r")
        path = folder / f"{len(tensors) + len(frames)}.npy"
        np.save(path, given[:SAMPLES])
        (frames if picture else tensors)[spec.name] = path
    try:
        opinion = context.toolchain.second_opinion(context.fetch(built, "int"), hbm, model, tensors, frames, folder, context.log)
    except QATLadderError as error:
        context.log(str(error))
        for line in getattr(error, "console", "").splitlines():
            context.log(line)
        return dataclasses.replace(answer, measured=f"{answer.measured}; no second opinion: {error.message}")
    if opinion is None:
        return answer
    evidence = [*answer.evidence, context.keep("verifier_log", opinion.log)]
    problems, texts = [], []
    values: dict[str, Any] = {"tool": opinion.tool, "said": list(opinion.said[:20]), "skew": opinion.skew, "outputs": {}}
    for where, dumps in opinion.dumps.items():
        for item in model.outputs:
            found = np.load(dumps[item.raw_name])
            expected = np.load(context.fetch(built, f"raw/{item.raw_name}"))[: len(found)]
            judged = judge(expected, found, item.raw_name)
            texts.append(f"{item.name}: {judged.differing}")
            values["outputs"][f"{where} {item.name}"] = judged.to_json()
            if not judged:
                problems.append(f"{opinion.tool} ({where}) computes another {item.name}: {judged.reason}; looks like: {judged.fingerprint}")
            evidence.append(context.keep(f"verifier/{where}/{item.raw_name}", dumps[item.raw_name], "verifier.npy"))
    for output, difference in opinion.rows:
        texts.append(f"{output}: {difference or 'consistent'}")
        values["outputs"][output] = difference
        if difference:
            problems.append(f"{opinion.tool} computes another {output}: {difference}")
    if opinion.skew:
        problems.append(f"version skew: {opinion.skew}")
    if opinion.said and not problems:
        context.log(f"{opinion.tool} speaks of a failure, but its integers are the int model's: {opinion.said[0]}")
    values["agrees"] = not problems
    return Answer(
        answer.passed and not problems,
        f"{answer.measured}; {opinion.tool}: {', '.join(texts)}",
        answer.expected,
        "; ".join(part for part in (answer.reason, *problems) if part),
        {**answer.values, "verifier": values, **({} if not problems else {"verifier_agrees": False})},
        evidence,
    )


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
