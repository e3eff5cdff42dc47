"""Are the dumps sane data? A Great Expectations suite over the statistics of the raw outputs.

Its expectations come from three places: `fixed` ones hold for every model (complete, finite, representable, not constant, not saturated),
`learnt` ones from the last good nights (`qatladder.quality.learning`), and `written` ones from the zoo entry. What is written of a statistic
of an output takes the place of what was learnt of it.

Runs as a job in a process of its own (`qatladder.runner.client.run_job(environment, "qatladder.quality.expectations:judge", ...)`):
importing great_expectations costs about 3 to 7 s and 280 MB, which no other process should pay.
"""

from __future__ import annotations

import html
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qatladder.errors import BrokenError, ConfigError
from qatladder.numerics.statistics import representable_limits
from qatladder.quality.data_docs import make_offline
from qatladder.quality.learning import drift, mostly
from qatladder.quality.statistics import Row, Table, read_table

SUITE = "suite.json"

MAX_NAMED_SAMPLES = 20
"""Unexpected samples listed per expectation; their number is always given."""

_OUTPUT_RULES = {"count", "dtype", "range", "max_saturation_share", "may_be_constant"}

WORDS = {
    "min": "the minimum",
    "max": "the maximum",
    "mean": "the mean",
    "std": "the standard deviation",
    "zero_share": "the share of zeros",
    "saturation_share": "the share of values at the representable limits",
    "entropy": "the entropy in bits",
    "drift": "the share of values that lie elsewhere than on the learnt nights",
}
"""The statistics an expectation can be learnt or written about."""


@dataclass(frozen=True)
class Question:
    """One expectation about one output (or, with an empty output, about the table).

    Attributes:
        output: the output it is about.
        column: column of the statistics table it looks at.
        title: what it asks, in words.
        expected: what it is held against, in words.
        type: the great_expectations class.
        arguments: its arguments.
        shows: what the observation is taken from: a column, `non_finite` (count minus finite_count) or `sample`; empty: the outputs.
        source: `fixed`, `learnt` or `written`.
        advisory: its failure is said and fails nothing.
    """

    output: str
    column: str
    title: str
    expected: str
    type: str
    arguments: dict[str, Any]
    shows: str = ""
    source: str = "fixed"
    advisory: bool = False


def judge(tables: Sequence[str], rules: Mapping[str, Any], out_dir: str, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hold the statistics of raw outputs against expectations, and build their Data Docs.

    Args:
        tables: files written by `qatladder.quality.statistics.write_table`.
        rules: `samples`: how many samples every output must have (indices 0 .. samples-1);
            `max_saturation_share`: highest share of values at the representable limits in any sample, 0 to 1;
            `outputs`: by output name: `count` (elements per sample, required), `dtype` (numpy name: the values must be representable
            in it) or `range` ([low, high], inclusive, raw units), `max_saturation_share` (overrides), `may_be_constant` (a sample may
            hold one single value; single-element outputs always may).
            Without `dtype` and `range` no range is asked: whatever is stored lies within its own dtype.
            Values are asked about only where there are any: an output without rows fails its completeness, one without finite values
            its finiteness.
            `learnt` (may be absent or None): `outputs` (of `learning.learn`), `source` (where from, in words), `advisory` (its failures
            fail nothing).
            `written` (may be absent): [{`output`, `statistic`, `min`, `max` (None: no bound), `mostly`}], see `zoo.schema.Expectation`.
        out_dir: receives `suite.json` (the suite as great_expectations serialises it; what is run is read from it) and `data_docs/`
            (static HTML without external requests); older ones are replaced.
        record: kept in the suite's meta under `qatladder`.
    Returns:
        `success`; `expectations`: [{`expectation` (great_expectations' name), `title`, `column`, `output`, `expected`, `observed`,
        `success`, `unexpected_samples` (at most 20), `unexpected_count`, `source`, `advisory`}]; `evaluated`, `failed`, `warned` (advisory
        ones that do not hold); `suite`, `data_docs` (index page), `page` (this validation); `version` of great_expectations; `seconds`
        by stage; `peak_rss_mb` (MB = 10**6 bytes) of this process.
    Raises:
        ConfigError: the rules are incomplete.
        ArtifactError: a table cannot be read.
        BrokenError: kind `quality_tool`: great_expectations itself failed, so nothing is known about the data.
    """
    rows = _with_drift(read_table(tables), rules)
    questions = [question for question in plan(rules) if _answerable(question, rows)]
    started = time.perf_counter()
    try:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        for name in ("great_expectations", "posthog", "py.warnings"):
            logging.getLogger(name).setLevel(logging.ERROR)
        import great_expectations

        imported = time.perf_counter()
        results, index, page, validated = _run(rows, questions, Path(out_dir), {"qatladder": dict(record or {})})
        answers = [_answer(question, result, rows, rules) for question, result in zip(questions, results, strict=True)]
    except BrokenError:
        raise
    except Exception as error:
        raise BrokenError(
            f"great_expectations failed: {type(error).__name__}: {error}",
            kind="quality_tool",
            next_step="run the job again; if it repeats, see the traceback in the task log and the package versions of the environment",
        ) from error
    failed = sum(not answer["success"] and not answer["advisory"] for answer in answers)
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "success": failed == 0,
        "expectations": answers,
        "evaluated": len(answers),
        "failed": failed,
        "warned": sum(not answer["success"] and answer["advisory"] for answer in answers),
        "suite": str(Path(out_dir) / SUITE),
        "data_docs": str(index),
        "page": str(page),
        "version": str(great_expectations.__version__),
        "seconds": {
            "import": round(imported - started, 3),
            "validate": round(validated - imported, 3),
            "data_docs": round(time.perf_counter() - validated, 3),
        },
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6, 1),
    }


def plan(rules: Mapping[str, Any]) -> Iterator[Question]:
    """The questions of a set of rules (see `judge`), in order.

    Raises:
        ConfigError: the rules are incomplete or hold an unknown key.
    """
    samples, outputs, saturation = _checked(rules)
    yield Question(
        "",
        "output",
        "exactly the declared outputs were dumped",
        ", ".join(outputs),
        "ExpectColumnDistinctValuesToEqualSet",
        {"column": "output", "value_set": list(outputs)},
    )
    for name, rule in outputs.items():
        yield Question(
            name,
            "sample",
            "every sample is there",
            f"samples 0 to {samples - 1}",
            "ExpectColumnDistinctValuesToEqualSet",
            {"column": "sample", "value_set": list(range(samples))},
            shows="sample",
        )
        yield Question(
            name,
            "sample",
            "no sample is there twice",
            "every sample once",
            "ExpectColumnValuesToBeUnique",
            {"column": "sample"},
            shows="sample",
        )
        yield Question(
            name,
            "count",
            "every sample has the declared number of elements",
            f"{rule['count']} elements",
            "ExpectColumnValuesToBeInSet",
            {"column": "count", "value_set": [rule["count"]]},
            shows="count",
        )
        yield Question(
            name,
            "finite_count",
            "every value is finite",
            "no NaN, no infinity",
            "ExpectColumnPairValuesToBeEqual",
            {"column_A": "finite_count", "column_B": "count"},
            shows="non_finite",
        )
        limits = tuple(rule["range"]) if rule.get("range") else representable_limits(rule["dtype"]) if rule.get("dtype") else None
        if limits is not None:
            source = "the given range" if rule.get("range") else str(rule["dtype"])
            for column, argument, sign, limit in (("min", "min_value", ">=", limits[0]), ("max", "max_value", "<=", limits[1])):
                yield Question(
                    name,
                    column,
                    f"the {column}imum is representable",
                    f"{column} {sign} {limit:g} ({source})",
                    "ExpectColumnValuesToBeBetween",
                    {"column": column, argument: limit},
                    shows=column,
                )
        if not rule.get("may_be_constant") and rule["count"] > 1:
            yield Question(
                name,
                "distinct",
                "no sample is constant",
                "more than one value per sample",
                "ExpectColumnValuesToBeInSet",
                {"column": "distinct", "value_set": [True]},
                shows="std",
            )
        limit = rule.get("max_saturation_share", saturation)
        yield Question(
            name,
            "saturation_share",
            "few values sit at the representable limits",
            f"share <= {limit:g}",
            "ExpectColumnValuesToBeBetween",
            {"column": "saturation_share", "max_value": limit},
            shows="saturation_share",
        )
        yield from _learnt(name, rules, samples)
    yield from _written(rules)


def _learnt(output: str, rules: Mapping[str, Any], samples: int) -> Iterator[Question]:
    """What the last good nights taught about an output, but for what is written of it."""
    learnt = rules.get("learnt") or {}
    known = learnt.get("outputs", {}).get(output)
    if known is None:
        return
    written = {(item["output"], item["statistic"]) for item in rules.get("written") or ()}
    most = mostly(samples)
    for statistic, limit in {**known["limits"], "drift": {"low": None, **known["drift"]}}.items():
        if (output, statistic) in written or limit["low"] is limit["high"] is None:
            continue
        seen = limit["seen"] if isinstance(limit["seen"], list) else [0.0, limit["seen"]]
        yield _between(
            output,
            statistic,
            limit["low"],
            limit["high"],
            most,
            f"{learnt['source']}: {seen[0]:.6g} to {seen[1]:.6g}",
            "learnt",
            bool(learnt.get("advisory")),
        )


def _written(rules: Mapping[str, Any]) -> Iterator[Question]:
    """What the zoo entry says.

    Raises:
        ConfigError: of an output that is not declared, or a statistic nobody knows.
    """
    for item in rules.get("written") or ():
        if item["output"] not in rules["outputs"] or item["statistic"] not in WORDS:
            raise ConfigError(
                "an expectation of the zoo entry is about something the dumps do not have",
                found=f"{item['statistic']} of {item['output']}",
                expected=f"{' | '.join(WORDS)} of {' | '.join(rules['outputs'])}",
                next_step="correct `expectations` in the zoo entry",
            )
        yield _between(item["output"], item["statistic"], item["min"], item["max"], item["mostly"], "the zoo entry", "written")


def _between(
    output: str, statistic: str, low: float | None, high: float | None, most: float, why: str, source: str, advisory: bool = False
) -> Question:
    """That a statistic of an output is within limits, in most samples; the drift is of the whole output."""
    bounds = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
    text = f"{statistic} {f'>= {low:.6g}' if high is None else f'<= {high:.6g}' if low is None else f'in {low:.6g} .. {high:.6g}'}"
    whole = statistic == "drift"
    share = f" in {100 * most:.3g}% of the samples" if most < 1 and not whole else ""
    return Question(
        output,
        statistic,
        f"{WORDS[statistic]} is {'as learnt' if source == 'learnt' else 'what the zoo entry says'}",
        f"{text}{share} ({why})",
        "ExpectColumnMaxToBeBetween" if whole else "ExpectColumnValuesToBeBetween",
        {"column": statistic, **bounds, **({} if whole else {"mostly": most})},
        shows=statistic,
        source=source,
        advisory=advisory,
    )


def _with_drift(table: Table, rules: Mapping[str, Any]) -> list[Row]:
    """The table's rows with the column `drift`: of the whole output, in each of its rows; None where nothing is learnt."""
    known = (rules.get("learnt") or {}).get("outputs", {})
    drifts = {output: drift(known[output], histogram) for output, histogram in table.histograms.items() if output in known}
    return [{**row, "drift": drifts.get(row["output"])} for row in table.rows]


def _checked(rules: Mapping[str, Any]) -> tuple[int, Mapping[str, Mapping[str, Any]], float]:
    """(samples, outputs, max_saturation_share), complete and of the right kind."""
    missing = [key for key in ("samples", "outputs", "max_saturation_share") if key not in rules]
    if missing or not rules["outputs"]:
        raise ConfigError(
            "the quality rules are incomplete",
            expected="samples, outputs (not empty), max_saturation_share",
            found=", ".join(rules) or "nothing",
        )
    outputs: Mapping[str, Mapping[str, Any]] = rules["outputs"]
    for name, rule in outputs.items():
        unknown = sorted(set(rule) - _OUTPUT_RULES)
        if unknown or "count" not in rule or rule["count"] < 1:
            raise ConfigError(
                "the quality rules of an output need its element count and no unknown key",
                output=name,
                found=dict(rule),
                expected=", ".join(sorted(_OUTPUT_RULES)),
            )
    for share in [rules["max_saturation_share"], *[rule.get("max_saturation_share", 0.0) for rule in outputs.values()]]:
        if not 0 <= share <= 1:
            raise ConfigError("max_saturation_share is a share", expected="0 to 1", found=share)
    return int(rules["samples"]), outputs, float(rules["max_saturation_share"])


def _run(rows: Sequence[Row], questions: Sequence[Question], out_dir: Path, meta: dict[str, Any]) -> tuple[list[Any], Path, Path, float]:
    """Write the suite, validate and build Data Docs: (results in the order of the questions, index page, validation page, time of validation)."""
    import great_expectations as gx
    import great_expectations.expectations as gxe
    import pandas  # type: ignore[import-untyped]
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.row_conditions import Column

    docs = out_dir / "data_docs"
    shutil.rmtree(docs, ignore_errors=True)
    docs.mkdir(parents=True)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name in context.get_site_names():
        context.delete_data_docs_site(name)  # the default site lives in a temporary folder
    context.add_data_docs_site(
        site_name="data_docs",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    composed = gx.ExpectationSuite(name="dump_quality", meta=meta)
    for index, question in enumerate(questions):
        about: dict[str, Any] = {"question": index, "output": question.output, "source": question.source, "expected": question.expected}
        arguments: dict[str, Any] = dict(question.arguments, meta=about, notes=f"{question.title}: {question.expected}")
        # Data Docs show it in place of their own sentence, as HTML.
        arguments["description"] = html.escape(f"{question.output or 'all outputs'}: {question.title}: {question.expected}", quote=False)
        arguments["severity"] = "warning" if question.advisory else "critical"
        if question.output:
            arguments["row_condition"] = Column("output") == question.output
        composed.add_expectation(getattr(gxe, question.type)(**arguments))
    (out_dir / SUITE).write_text(json.dumps(composed.to_json_dict(), indent=1, sort_keys=True), encoding="utf-8")
    suite = context.suites.add(gx.ExpectationSuite(**json.loads((out_dir / SUITE).read_text(encoding="utf-8"))))
    frame = pandas.DataFrame(rows, columns=list(rows[0]) if rows else ["output", "sample", "count", "finite_count"])
    if "drift" in frame:
        frame["drift"] = frame["drift"].astype(float)  # a column of None has no type
    batch = context.data_sources.add_pandas("statistics").add_dataframe_asset("outputs").add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="dump_quality", data=batch, suite=suite))
    summary = definition.run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["sample"]},
    )
    validated = time.perf_counter()
    context.build_data_docs(site_names=["data_docs"])
    make_offline(docs)
    found: dict[int, Any] = {}
    for result in summary.results:
        asked = result.expectation_config.meta if result.expectation_config else None
        if asked and "question" in asked:
            found[asked["question"]] = result
        problem = _exception(result.exception_info)
        if problem:
            raise BrokenError(
                f"great_expectations could not evaluate an expectation: {problem}",
                kind="quality_tool",
                expectation=result.expectation_config,
                next_step="see the traceback in the task log and the package versions of the environment",
            )
    if set(found) != set(range(len(questions))):
        raise BrokenError(
            "great_expectations answered other questions than were asked",
            kind="quality_tool",
            expected=len(questions),
            found=len(found),
        )
    page = next(iter(sorted((docs / "validations").rglob("*.html"))), docs / "index.html")
    return [found[index] for index in range(len(questions))], docs / "index.html", page, validated


def _answerable(question: Question, rows: Sequence[Row]) -> bool:
    """False when the question is about values and there is not one: great_expectations would call that a success."""
    if question.shows in ("", "sample"):
        return True
    return any(_value(row, question.shows) is not None for row in rows if row["output"] == question.output)


def _exception(info: Any) -> str:
    """The message in great_expectations' exception_info: flat, or keyed by metric; empty when nothing was raised."""
    if not isinstance(info, Mapping):
        return ""
    if info.get("raised_exception"):
        return str(info.get("exception_message") or "exception without a message")
    return next((message for message in map(_exception, info.values()) if message), "")


def _answer(question: Question, result: Any, rows: Sequence[Row], rules: Mapping[str, Any]) -> dict[str, Any]:
    """One result as plain JSON."""
    own = [row for row in rows if row["output"] == question.output] if question.output else list(rows)
    samples: list[int]
    if question.output == "":
        observed, samples = ", ".join(sorted({row["output"] for row in rows})) or "nothing", []
    elif question.shows == "sample":
        observed, samples = _completeness(question, [row["sample"] for row in own], int(rules["samples"]))
    elif question.shows == "drift":
        observed, samples = f"drift {own[0]['drift']:.3g}", []
    else:
        observed = f"{question.shows} {_spread([_value(row, question.shows) for row in own])}"
        found = result.result.get("unexpected_index_list") or []
        samples = sorted({int(item["sample"]) for item in found})
    return {
        "expectation": result.expectation_config.type,
        "title": question.title,
        "column": question.column,
        "output": question.output,
        "expected": question.expected,
        "observed": observed,
        "success": bool(result.success),
        "unexpected_samples": samples[:MAX_NAMED_SAMPLES],
        "unexpected_count": len(samples),
        "source": question.source,
        "advisory": question.advisory,
    }


def _completeness(question: Question, found: Sequence[int], samples: int) -> tuple[str, list[int]]:
    """What is there, and the samples that are repeated, or missing and beyond the expected ones."""
    repeated = {sample for sample, times in Counter(found).items() if times > 1}
    if question.type == "ExpectColumnValuesToBeUnique":
        return f"{len(repeated)} repeated", sorted(repeated)
    return f"{len(set(found))} of {samples} samples", sorted(set(range(samples)) ^ set(found))


def _value(row: Row, column: str) -> float | None:
    if column == "non_finite":
        return float(row["count"] - row["finite_count"])
    value = row.get(column)
    return None if value is None else float(value)


def _spread(values: Sequence[float | None]) -> str:
    """The range of an observation over the samples, in one phrase."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    return f"{low:g} in every sample" if low == high else f"{low:g} to {high:g} over {len(known)} samples"
