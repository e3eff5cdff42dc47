"""What a run says in a terminal or a task log: aligned plain text, no dependency, no colour needed to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import east_asian_width

from qatladder.ladder.results import CheckResult, Evidence, LadderResult, Status, Verdict
from qatladder.numerics.judgement import Judgement

SYMBOLS: dict[Status, str] = {
    Status.PASSED: "✔",
    Status.FAILED: "✖",
    Status.SKIPPED: "–",
    Status.UNPROVABLE: "?",
    Status.BROKEN: "!",
}
"""One sign per status; always printed beside a name or a word, never alone."""

_LABEL = 10
"""Width of `measured`, `expected` ... in an expanded check."""


def verdict_table(ladders: Sequence[LadderResult]) -> str:
    """One line per ladder: model, version, target, verdict, the first failed check, why; and a line with the totals."""
    rows = [("MODEL", "VERSION", "TARGET", "VERDICT", "FIRST FAILED CHECK", "WHY")]
    for ladder in ladders:
        carried = sum(len(rungs) for _, _, rungs in ladder.carried)
        if carried == len(ladder.rungs) > 0:
            why = f"{ladder.why}; unchanged since {ladder.carried[0][1]}"
        else:
            why = f"{ladder.why}; {carried} of {len(ladder.rungs)} rungs unchanged" if carried else ladder.why
        rows.append((ladder.model, ladder.version, ladder.target, str(ladder.verdict), ladder.first_failed_check or "-", _one_line(why)))
    widths = [max(_width(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*(_pad(row[column], widths[column]) for column in range(5)), row[5]]).rstrip() for row in rows]
    lines.append("")
    lines.append(totals(ladders))
    return "\n".join(lines)


def trend_text(report: Mapping[str, Any]) -> str:
    """What has moved since the baselines, worst first, and which ladders are missing; empty when nothing has.

    Args:
        report: as `qatladder.reports.report.report_json` made it.
    """
    order = ("regression", "suspicious", "progression")
    lines: list[str] = []
    moved = [item for item in report["ladders"] if (item.get("trend") or {}).get("verdict") in order]
    for ladder in sorted(moved, key=lambda item: order.index(item["trend"]["verdict"])):
        trend = ladder["trend"]
        lines.append(
            f"{trend['verdict']:<12} {ladder['model']} {ladder['version']} on {ladder['target']}, against {trend['baseline']['run_id']}"
        )
        for move in trend["movements"]:
            if move["verdict"] in order:
                lines.append(f"  {move['check_id']}: {_one_line(move['why'])}")
        for number, item in enumerate(trend["suspects"][:5], 1):
            change = f"{item['was'][:16] or 'nothing'} -> {item['now'][:16] or 'nothing'}"
            lines.append(f"  {'suspects' if number == 1 else '':<{_LABEL}}{number}. {item['what']} ({change}): {item['why']}")
    for item in report.get("missing") or ():
        lines.append(f"{'missing':<12} {item['model']} {item['version']} on {item['target']}: not in this run; last in {item['last_run']}")
    return "\n".join(lines)


def totals(ladders: Sequence[LadderResult]) -> str:
    """`12 ladders: 10 ship, 1 no-ship, 1 undecided`."""
    counts = ", ".join(f"{sum(ladder.verdict is verdict for ladder in ladders)} {verdict}" for verdict in Verdict)
    return f"{len(ladders)} ladder{'' if len(ladders) == 1 else 's'}: {counts}"


def ladder_text(ladder: LadderResult) -> str:
    """A ladder as a block: a title, one line per check, failed and open checks expanded, the verdict."""
    target = ladder.target + (f" ({ladder.toolchain})" if ladder.toolchain else "")
    lines = [f"{ladder.model} {ladder.version} on {target}"]
    lines += [f"  = unchanged since {run} ({when}), carried over: {' '.join(rungs)}" for run, when, rungs in ladder.carried]
    width = max((len(check.id) for check in ladder.checks), default=0)
    for check in ladder.checks:
        lines.append(f"  {SYMBOLS[check.status]} {check.id:<{width}}   {_answer(check)}".rstrip())
        if check.status in (Status.FAILED, Status.BROKEN, Status.UNPROVABLE):
            lines += [f"      {line}" for line in _expanded(check)]
    lines.append(f"  verdict: {ladder.verdict}" + (f" ({_one_line(ladder.why)})" if ladder.why else ""))
    return "\n".join(lines)


def check_log(check: CheckResult) -> list[str]:
    """A check as the lines of a task log: question, measured, expected, what follows from a failure, evidence, answer."""
    lines = [f"{check.id}: {check.question}" if check.question else check.id]
    lines += [f"  {line}" for line in _expanded(check)]
    lines.append(f"  {SYMBOLS[check.status]} {check.id} {check.status}" + (f" after {check.seconds:.1f} s" if check.seconds else ""))
    return lines


def file_size(size: float) -> str:
    """Bytes for people: `512 B`, `1.2 kB`, `3.4 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def _answer(check: CheckResult) -> str:
    """The answer on one line: what was measured and what it was held against; the word alone where the expansion follows."""
    if check.status is Status.SKIPPED:
        return _one_line(f"skipped: {check.reason}" if check.reason else "skipped")
    held = f" (gate {check.expected})" if check.expected and check.measured else ""
    if check.status is not Status.PASSED:
        return str(check.status)
    return _one_line((check.measured or check.reason) + held)


def _expanded(check: CheckResult) -> list[str]:
    """The lines of a check in full; empty ones are left out."""
    lines = []
    for label, text in (("measured", check.measured), ("expected", check.expected), ("reason", check.reason), ("cause", check.cause)):
        if text:
            first, *rest = text.splitlines()
            lines += [f"{label:<{_LABEL}}{first}", *(" " * _LABEL + line for line in rest)]
    for number, step in enumerate(check.next_steps, 1):
        lines.append(f"{'next' if number == 1 else '':<{_LABEL}}{number}. {_one_line(step)}")
    for number, item in enumerate(check.evidence):
        lines.append(f"{'evidence' if number == 0 else '':<{_LABEL}}{evidence_text(item)}")
    return lines


def evidence_text(item: Evidence) -> str:
    """`name (1.2 kB, sha256 0123456789ab) uri`."""
    return f"{item.name} ({file_size(item.size)}, sha256 {item.sha256[:12]}) {item.uri}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _width(text: str) -> int:
    """Columns a terminal needs."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def judgement_text(name: str, judged: Judgement, sides: Sequence[tuple[str, str]]) -> str:
    """Two tensors compared, on one screen.

    Args:
        name: the tensor; empty where there is one only.
        sides: (what, description) of the expected and the found tensor.
    """
    sign = SYMBOLS[Status(judged.status)]
    title = "identical, bit for bit" if judged else judged.reason
    lines = [f"{sign} {judged.status}  {name + ': ' if name else ''}{title}"]
    lines += [f"  {what:<{_LABEL}} {text}" for what, text in sides]
    if not judged:
        lines.append(f"  {'looks like':<{_LABEL}} {judged.fingerprint}, confidence {judged.fingerprint.confidence:.2f}")
    found = judged.comparison
    if found is None:
        return "\n".join(lines)
    lines.append(f"  {'elements':<{_LABEL}} {found.count}, {found.mismatches} differ ({found.mismatch_rate:.3%})")
    if found.mismatches:
        snr = f", SNR {found.snr_db:.1f} dB" if found.snr_db is not None else ""
        lines += [
            f"  {'error':<{_LABEL}} max {found.max_abs:.6g}, mean {found.mean_abs:.6g}, bias {found.bias:+.6g}, max rel {found.max_rel:.3g}",
            f"  {'':<{_LABEL}} MSE {found.mse:.6g}, cosine {found.cosine:.9f}{snr}" + (f", {found.max_ulp} ULP" if found.max_ulp else ""),
        ]
    limits = "" if found.saturation_share is None else f", at the limits {found.saturation_share:.2%} / {found.saturation_share_found:.2%}"
    lines.append(
        f"  {'range':<{_LABEL}} peak {found.peak:.6g} / {found.peak_found:.6g}, "
        f"zero {found.zero_share:.2%} / {found.zero_share_found:.2%}{limits} (expected / found)"
    )
    if found.mismatches and found.histogram:
        bins = [f"{low}: {count}" for low, count in found.histogram if count]
        lines.append(f"  {'LSB apart':<{_LABEL}} {', '.join(bins)}  (lower bound: elements)")
    for axis, profile in found.profile.items():
        size = len(profile.mismatches)
        if size > 1:
            worst = sorted(range(size), key=lambda index: (-profile.mismatches[index], index))[:3]
            hit = sum(1 for count in profile.mismatches if count)
            shown = ", ".join(f"{index} ({profile.mismatches[index]})" for index in worst if profile.mismatches[index])
            lines.append(f"  {f'axis {axis}':<{_LABEL}} {hit} of {size} indices differ, most: {shown}")
    return "\n".join(lines)
