"""Promises of qatladder.reports.text: aligned, complete, readable without colour."""

from __future__ import annotations

from tests.unit.reports.ladders import no_ship, ship, undecided

from qatladder.ladder import CheckResult, LadderResult, RungResult, Status
from qatladder.ladder.results import Rung
from qatladder.reports.text import check_log, file_size, ladder_text, verdict_table


def test_the_table_is_aligned_and_says_why() -> None:
    lines = verdict_table([ship(), no_ship(), undecided()]).splitlines()
    columns = [lines[0].index(title) for title in ("VERSION", "TARGET", "VERDICT", "FIRST FAILED CHECK", "WHY")]
    for line, ladder in zip(lines[1:4], (ship(), no_ship(), undecided()), strict=True):
        cells = [line[start:end].strip() for start, end in zip([0, *columns], [*columns, None], strict=True)]
        assert cells == [
            ladder.model,
            ladder.version,
            ladder.target,
            str(ladder.verdict),
            ladder.first_failed_check or "-",
            ladder.why,
        ]
    assert lines[-1] == "3 ladders: 1 ship, 1 no-ship, 1 undecided"
    assert all(line == line.rstrip() for line in lines)


def test_wide_letters_keep_the_columns() -> None:
    rung = RungResult(Rung.FLOAT, (CheckResult("float.accuracy", Status.FAILED, reason="two\nlines"),))
    wide = LadderResult("车道线", "1", "x3", (rung,))
    lines = verdict_table([wide, LadderResult("lane12", "1", "x3", (rung,))]).splitlines()
    assert lines[1].index("1") + 3 == lines[2].index("1 ")  # three letters of two columns
    assert lines[1].endswith("float.accuracy failed: two lines")


def test_a_passed_check_is_one_line_with_its_gate() -> None:
    assert "  ✔ float.accuracy     top1 0.978 (gate >= 0.950)" in ladder_text(ship()).splitlines()


def test_every_check_is_printed_and_failures_are_expanded() -> None:
    text = ladder_text(no_ship())
    for check in no_ship().checks:
        assert check.id in text
    failed = no_ship().deciding_check
    assert failed is not None
    for part in (failed.measured, failed.expected, failed.reason, failed.cause, *failed.next_steps, failed.evidence[0].uri):
        assert part in text
    assert text.splitlines()[-1].startswith("  verdict: no-ship (int.input failed")
    assert "skipped: int.input failed" in text


def test_a_broken_check_is_expanded_too() -> None:
    assert "reason    rdkx5-01 did not answer on port 22 within 10 s" in ladder_text(undecided())


def test_an_empty_ladder_is_readable() -> None:
    text = ladder_text(LadderResult("m", "1", "t", ()))
    assert text.splitlines() == ["m 1 on t", "  verdict: undecided (some checks were not answered)"]


def test_a_check_log_holds_question_numbers_evidence_and_verdict() -> None:
    check = no_ship().deciding_check
    assert check is not None
    lines = check_log(check)
    assert lines[0] == f"int.input: {check.question}"
    assert f"  measured  {check.measured}" in lines
    assert f"  expected  {check.expected}" in lines
    assert any(check.evidence[1].uri in line for line in lines)
    assert lines[-1] == "  ✖ int.input failed after 0.4 s"
    assert check_log(CheckResult("hbm.input", Status.SKIPPED)) == ["hbm.input", "  – hbm.input skipped"]


def test_file_sizes() -> None:
    assert [file_size(size) for size in (0, 999, 1000, 12_800, 999_499, 999_500, 3.1e9, 4e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.8 kB",
        "999.5 kB",
        "1.0 MB",
        "3.1 GB",
        "4000.0 GB",
    ]
