"""What a run found, as one JSON document and as one HTML page that needs nothing but itself.

`report.json` is the data (every ladder as `LadderResult.to_json`, nothing rounded); `report.html` is made from it alone, so an old
report can be rendered again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qatladder.ladder.results import LadderResult, Rung, Status, Verdict
from qatladder.reports.chart import chart
from qatladder.reports.text import SYMBOLS, file_size

SCHEMA = 1
MAX_LAYERS = 1000
"""Layers shown in the page; the JSON has them all."""

_SHOWN_FACTS = {"metric", "metrics", "count", "gate", "reference", "compile", "versions", "identity", "board", "health", "perf"}
_SEVERITY = (Status.FAILED, Status.BROKEN, Status.UNPROVABLE, Status.SKIPPED, Status.PASSED)
_VERDICT_ORDER = (Verdict.NO_SHIP, Verdict.UNDECIDED, Verdict.SHIP)


def report_json(
    ladders: Sequence[LadderResult],
    run: Mapping[str, Any],
    trends: Sequence[Mapping[str, Any] | None] = (),
    missing: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report of a run as plain JSON data.

    Args:
        ladders: in the order they should be kept.
        run: what is known of the run: `id`, `started` (ISO 8601 UTC), `seconds`, `store`, and anything else worth showing.
        trends: of each ladder, in order, as `qatladder.history.trends.judge_night` gives them; None where nothing is known.
        missing: ladders that should have run: `model`, `version`, `target`, `owner`, `last_run`, `last_time`.
    Returns:
        `schema`, `run`, `summary` (count per verdict and `total`), `ladders` (`LadderResult.to_json` plus `deciding_check`, an id or
        None). A number that is not finite becomes the string `nan`, `inf` or `-inf`: JSON has no other way to say it.
    """
    counts = Counter(str(ladder.verdict) for ladder in ladders)
    return {
        "schema": SCHEMA,
        "run": _plain(run),
        "summary": {**{str(verdict): counts[str(verdict)] for verdict in Verdict}, "total": len(ladders)},
        "ladders": [
            {**_plain(ladder.to_json()), "deciding_check": _deciding(ladder), **({"trend": _plain(trend)} if trend else {})}
            for ladder, trend in zip(ladders, trends or [None] * len(ladders), strict=True)
        ],
        **({"missing": _plain(list(missing))} if missing else {}),
    }


def report_html(report: Mapping[str, Any]) -> str:
    """The page of a report made by `report_json`: inline styles, no script, no request to anywhere, light and dark.

    What a ladder does not carry (metrics, compiler report, board facts) is left out; everything shown is escaped.
    """
    run = report["run"]
    ladders = [_ladder_view(ladder, index) for index, ladder in enumerate(report["ladders"])]
    ladders.sort(key=lambda view: [str(verdict) for verdict in _VERDICT_ORDER].index(view["verdict"]))
    extra = {key: value for key, value in run.items() if key not in ("id", "started", "finished", "seconds", "store")}
    page: str = template("report.html.j2").render(
        run=run,
        extra=extra,
        summary=report["summary"],
        verdicts=_VERDICT_ORDER,
        ladders=ladders,
        alerts=report.get("alerts") or {},
        missing=report.get("missing") or [],
    )
    return page


def _deciding(ladder: LadderResult) -> str | None:
    check = ladder.deciding_check
    return None if check is None else check.id  # a failed check is false in a boolean context


def _ladder_view(ladder: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A ladder with what the template needs besides its data: links, the state of every rung, the chart, the side tables."""
    checks = [
        {
            **check,
            "evidence": [_evidence_view(item) for item in check.get("evidence", ())],
            "symbol": SYMBOLS[Status(check["status"])],
        }
        for check in ladder["checks"]
    ]
    rungs = {rung["rung"]: rung for rung in ladder["rungs"]}
    states = {str(rung): _state([check for check in checks if check["rung"] == str(rung)]) for rung in Rung}
    facts = {name: rung.get("facts") or {} for name, rung in rungs.items()}
    return {
        **ladder,
        "anchor": f"ladder-{index}",
        "carried": _carried(ladder["rungs"]),
        "trend": ladder.get("trend"),
        "checks": checks,
        "deciding": next((check for check in checks if check["id"] == ladder.get("deciding_check")), None),
        "strip": [{"rung": name, "state": state, "symbol": _symbol(state)} for name, state in states.items()],
        "chart": chart(facts, states, {check["rung"]: check["status"] for check in checks if check["id"].endswith(".accuracy")}),
        "metrics": _metrics(facts),
        "compile": _compile_view(facts.get("hbm", {}).get("compile")),
        "board": {key: facts.get("board", {}).get(key) for key in ("board", "perf", "health")},
        "versions": {name: found for name, fact in facts.items() if (found := _versions(fact))},
        "identities": {name: fact["identity"] for name, fact in facts.items() if fact.get("identity")},
        "products": [
            {"rung": name, "role": role, **_evidence_view(item)}
            for name, rung in rungs.items()
            for role, item in (rung.get("products") or {}).items()
        ],
        "further": {name: rest for name, fact in facts.items() if (rest := {key: fact[key] for key in fact if key not in _SHOWN_FACTS})},
    }


def _carried(rungs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Which rungs were carried over, by the run their answers are of."""
    found: dict[str, dict[str, Any]] = {}
    for rung in rungs:
        if carried := rung.get("carried"):
            found.setdefault(carried["run_id"], {**carried, "rungs": []})["rungs"].append(rung["rung"])
    return list(found.values())


def _state(checks: Sequence[Mapping[str, Any]]) -> str:
    """The state of a rung: its worst check, a skipped one counting only when it was required; `not run` without checks."""
    statuses = [check["status"] for check in checks if check["status"] != str(Status.SKIPPED) or check.get("required", True)]
    statuses = statuses or [check["status"] for check in checks]
    return next((str(status) for status in _SEVERITY if str(status) in statuses), "not run")


def _symbol(state: str) -> str:
    return "·" if state == "not run" else SYMBOLS[Status(state)]


def _versions(fact: Mapping[str, Any]) -> dict[str, Any]:
    """Tool versions a rung names, those inside the compiler's report included."""
    sources = [fact.get("versions"), (fact.get("compile") or {}).get("versions")]
    return {name: version for source in sources if isinstance(source, Mapping) for name, version in source.items()}


def _metrics(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Every metric at every rung, as rows by name; None when no rung carries any."""
    rungs = [name for name, fact in facts.items() if isinstance(fact.get("metrics"), Mapping) and fact["metrics"]]
    if not rungs:
        return None
    names = list(dict.fromkeys(name for rung in rungs for name in facts[rung]["metrics"]))
    primary = {facts[rung].get("metric") for rung in rungs}
    return {
        "rungs": rungs,
        "rows": [
            {"name": name, "primary": name in primary, "values": [facts[rung]["metrics"].get(name) for rung in rungs]} for name in names
        ],
        "counts": [facts[rung].get("count") for rung in rungs],
    }


def _compile_view(compiled: Any) -> dict[str, Any] | None:
    """The compiler's report with its layers as a table; None when there is none."""
    if not isinstance(compiled, Mapping) or not compiled:
        return None
    layers = [layer for layer in compiled.get("layers") or () if isinstance(layer, Mapping)]
    longest = max((layer["compute_us"] for layer in layers if _number(layer.get("compute_us"))), default=0)
    return {
        **compiled,
        "operators": compiled.get("operators") or {},
        "cpu_operators": compiled.get("cpu_operators") or (),
        "problems": compiled.get("problems") or (),
        "columns": list(dict.fromkeys(key for layer in layers for key in layer)),
        "layers": [
            {"cells": layer, "share": 100 * layer["compute_us"] / longest if longest and _number(layer.get("compute_us")) else 0}
            for layer in layers[:MAX_LAYERS]
        ],
        "layer_count": len(layers),
        "features": [
            {"direction": direction, **feature}
            for direction in ("inputs", "outputs")
            for feature in compiled.get(direction) or ()
            if isinstance(feature, Mapping)
        ],
    }


def _evidence_view(item: Mapping[str, Any]) -> dict[str, Any]:
    """An evidence with a link a browser can follow.

    The page lies in `runs/<run>/`, evidence in `objects/` of the same store, so the link is relative: it works from a folder, from a
    bucket and through the Airflow plugin alike. Evidence that is nowhere in a store is named without a link.
    """
    _, objects, key = str(item["uri"]).rpartition("/objects/")
    return {**item, "link": f"../../objects/{quote(key)}" if objects else ""}


@cache
def template(name: str) -> Any:
    """A page template of this folder, with the filters the pages share."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(value=show_value, duration=show_duration, moment=show_moment, size=file_size, symbol=_symbol)
    return environment.get_template(name)


def show_value(value: Any) -> str:
    """A value of the facts for people: up to 6 significant digits, yes/no, shapes as 1x3x64x64, anything nested as JSON."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        return "x".join(map(str, value))
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        return ", ".join(map(show_value, value)) or "–"
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def show_duration(seconds: Any) -> str:
    """`85 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if not _number(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_moment(text: Any) -> str:
    """An ISO 8601 time as `2026-11-23 02:00:05 UTC`; as it is when it is none."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text) or "–"
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """The value as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())  # numpy scalar or array
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)
