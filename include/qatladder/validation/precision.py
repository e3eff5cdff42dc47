"""The hand-over to whoever has to debug the precision of a calib or qat model: which layer, and why."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from qatladder.errors import QATLadderError
from qatladder.ladder import Evidence, Rung
from qatladder.reports.precision import precision_html
from qatladder.validation.ask import Answer
from qatladder.validation.context import Context

WORDS = {
    "clamp": "clamps its values",
    "rounding": "rounds too coarsely",
    "weights": "the weights are not the float model's any more",
    "spread": "no layer alone",
}


def hand_over(context: Context, answer: Answer) -> Answer:
    """A missed accuracy with the layers behind it; when they cannot be had, the answer alone, and the log says why."""
    try:
        found = compare_precision(context)
    except QATLadderError as error:
        context.log(f"the layers cannot be compared: {error}")
        return replace(answer, values={**answer.values, "precision_problem": error.message})
    context.facts["precision"] = {key: found[key] for key in ("cause", "layer", "detail", "bypassed_db", "output_db")}
    where = f" {found['layer']}" if found["layer"] else ""
    text = f"precision:{where} {WORDS[found['cause']]} ({found['detail']})"
    for line in [text, *_lines(found)]:
        context.log(line)
    title = f"{context.entry.model} {context.entry.version} {context.rung}"
    evidence = [
        context.store.put_bytes(precision_html(title, found, WORDS[found["cause"]]).encode(), "precision.html"),
        context.store.put_bytes(_json(found), "precision.json"),
        context.store.put_bytes(_csv(found["layers"]), "precision_layers.csv"),
    ]
    evidence += _vendors_own(context)
    return replace(
        answer,
        reason=f"{answer.reason}; {text}",
        values={**answer.values, "precision": found["cause"], "precision_layer": found["layer"], "precision_detail": found["detail"]},
        evidence=[*answer.evidence, *evidence],
    )


def _vendors_own(context: Context) -> list[Evidence]:
    """What the vendor's precision tool writes about the same models, as one archive; empty where the environment has none."""
    folder = context.folder / "precision"
    try:
        found = context.model_job("analyse", {**_models(context), "out": str(folder / "vendor")}, "precision_vendor", module="plugin_debug")
    except QATLadderError as error:
        context.log(f"the vendor's precision tool cannot be run: {error}")
        return []
    if found is None:
        return []
    context.facts["precision_tool"] = {"tool": found["tool"], "files": len(found["files"]), "problem": found["problem"]}
    if found["problem"]:
        context.log(f"{found['tool']} of the environment's plugin did not finish: {found['problem']}")
    if not found["files"]:
        return []
    archive = folder / "vendor.tar"
    with tarfile.open(archive, "w") as tar:
        for file in found["files"]:
            tar.add(file, str(Path(found["tool"]) / Path(file).relative_to(folder / "vendor")))
    return [context.store.put(archive, f"{found['tool']}.tar")]


def _models(context: Context) -> dict[str, Any]:
    """The two models and the tensors to compare them on, as `compare_precision` left them."""
    tensors = json.loads((context.folder / "precision" / "tensors.json").read_text(encoding="utf-8"))
    return {
        "rung": str(context.rung),
        "artifact": str(context.artifact(str(context.rung))),
        "float_artifact": str(context.artifact(str(Rung.FLOAT))),
        "tensors": tensors,
    }


def compare_precision(context: Context) -> dict[str, Any]:
    """`qatladder.runner.debug.precision` on the probe samples."""
    folder = context.folder / "precision"
    exported = context.model_job(
        "export_samples",
        {"split": "evaluation", "limit": max(2, context.entry.samples.probe), "out": str(folder / "raw")},
        "precision_samples",
    )
    made = context.model_job("preprocess", {"inputs": exported["inputs"], "out": str(folder / "tensors")}, "precision_preprocess")
    (folder / "tensors.json").write_text(json.dumps(made["tensors"]), encoding="utf-8")
    found: dict[str, Any] = context.model_job("precision", _models(context), "precision_job", module="debug")
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    """For the task log: what each of the worst fake-quantisations loses."""
    lines = [f"{'fake-quantisation':<40} {'alone':>9} {'itself':>9} {'clamped':>9}  cause"]
    for row in sorted(found["losses"], key=lambda row: row["db"])[:8]:
        lines.append(f"{row['name']:<40} {_db(row.get('alone_db')):>9} {_db(row['db']):>9} {row['clamped']:>9.2%}  {row['cause']}".rstrip())
    return lines


def _db(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1f} dB"


def _json(found: dict[str, Any]) -> bytes:
    return json.dumps(found, indent=1).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("name", "type", "cosine", "relative_l1", "db", "max_abs")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row[column] for column in columns])
    return text.getvalue().encode()
