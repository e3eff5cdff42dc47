"""The tables of the J6/S100 hb_verifier: every row counts, and a table that was cut is no pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import BrokenError
from qatladder.toolchains.hb_verifier import Consistency, Cosine, parse_consistency_table, parse_cosine_table

LOGS = Path(__file__).resolve().parents[4] / "shared" / "vendor-logs"
STAMP = "2026-09-24 19:23:35,883 INFO "
COSINE = f"""\
2026-09-24 19:23:31,325 INFO verifier tool version: 3.5.16
2026-09-24 19:23:35,485 INFO Start to inference onnx model net
{STAMP}+-----------------+--------------+------------------+
{STAMP}| NodeName        | TensorName   | CosineSimilarity |
{STAMP}+-----------------+--------------+------------------+
{STAMP}| /model/conv     | conv_out     | 0.848059         |
{STAMP}| /model/head     | logits       | 0.793460         |
{STAMP}| /model/sigmoid  | confidence   | 1.000000         |
"""
CONSISTENCY = """\
| OutputName | Consistency | Mismatched Elements | Max Abs Diff | Max Rel Diff |
|------------|-------------|---------------------|--------------|--------------|
| logits     | False       | 3 / 1000 (0.3%)     | 0.25         | 1.5e-2       |
| confidence | True        | 0                   | 0.0          | 0.0          |
"""


def test_every_row_of_a_cosine_table() -> None:
    rows = parse_cosine_table(COSINE, ["logits", "confidence"])
    assert rows == (
        Cosine("/model/conv", "conv_out", 0.848059),
        Cosine("/model/head", "logits", 0.79346),
        Cosine("/model/sigmoid", "confidence", 1.0),
    )


def test_the_last_row_does_not_decide_for_the_others() -> None:
    rows = parse_consistency_table(CONSISTENCY, ["logits"])
    assert rows == (Consistency("logits", False, 3, 0.25, 0.015), Consistency("confidence", True, 0, 0.0, 0.0))
    assert [bool(row) for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("parse", "log", "outputs", "field"),
    [
        (parse_cosine_table, "", [], "a table"),
        (parse_cosine_table, COSINE, ["logits", "lost"], "rows for lost"),
        (parse_cosine_table, COSINE.replace("0.793460         |", "0.79"), [], "a whole row"),
        (parse_cosine_table, COSINE.replace("| /model/head     | logits ", "logits "), [], "a whole row"),
        (parse_cosine_table, COSINE.replace("0.793460", "nan     "), [], "`CosineSimilarity` of logits"),
        (parse_cosine_table, COSINE.replace("0.793460", "7.93460 "), [], "between -1 and 1"),
        (parse_cosine_table, CONSISTENCY, [], "a table"),
        (parse_consistency_table, COSINE, [], "a table"),
        (parse_consistency_table, CONSISTENCY, ["scores"], "rows for scores"),
        (parse_consistency_table, CONSISTENCY.replace("False", "maybe"), [], "`Consistency` of logits"),
        (parse_consistency_table, CONSISTENCY.replace("3 / 1000 (0.3%)", "few            "), [], "`Mismatched Elements` of logits"),
        (parse_consistency_table, CONSISTENCY.replace("0.25", "-   "), [], "`Max Abs Diff` of logits"),
        (parse_consistency_table, CONSISTENCY.replace("False", "True "), [], "whether logits is consistent"),
        (parse_consistency_table, CONSISTENCY.partition("| logits")[0], [], "a table"),
    ],
)
def test_what_is_missing_is_named(parse: object, log: str, outputs: list[str], field: str) -> None:
    with pytest.raises(BrokenError) as caught:
        parse(log, outputs)  # type: ignore[operator]
    assert caught.value.kind == "console"
    assert field in caught.value.where["field"]


@given(st.integers(0, len(COSINE.rstrip()) - 1))
def test_a_table_cut_anywhere_is_an_error(end: int) -> None:
    with pytest.raises(BrokenError):
        parse_cosine_table(COSINE[:end], ["logits", "confidence"])


def test_two_tables_in_one_log() -> None:
    assert len(parse_cosine_table(COSINE + CONSISTENCY, [])) == 3
    assert len(parse_consistency_table(COSINE + CONSISTENCY, [])) == 2


def test_published_log_of_j6() -> None:
    if not LOGS.is_dir():
        pytest.skip("the published consoles are not beside this checkout")
    log = (LOGS / "j6p_hb_verifier_cosine.log").read_text()
    rows = parse_cosine_table(log, ["plan_length_logits", "target_speed_mps", "confidence"])
    assert [row.cosine for row in rows] == [0.848059, 0.79346, 0.99752, 1.0]
    with pytest.raises(BrokenError, match="rows for replan_condition_logits"):
        parse_cosine_table(log, ["confidence", "replan_condition_logits"])
