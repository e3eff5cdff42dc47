"""The tables of the vendor's J6/S100 `hb_verifier`, every row of them: which outputs of two models agree, and how well?

It compares ONNX, HBIR and hbm models and logs one of two tables, cosine similarities or consistency. It exits with 0 on a mismatch, and
an older build lets the last output decide its verdict; so no verdict of the tool is read here, only its rows. A log does not say how many
rows its table has: the caller says which outputs must be in it, and a table without one of them was cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from qatladder.errors import BrokenError


@dataclass(frozen=True)
class Cosine:
    """Similarity of one tensor of two models, -1 to 1."""

    node: str
    tensor: str
    cosine: float


@dataclass(frozen=True)
class Consistency:
    """How one output of two models differs.

    Attributes:
        mismatched: elements that differ.
        max_abs, max_rel: largest absolute and relative difference.
    """

    output: str
    consistent: bool
    mismatched: int
    max_abs: float
    max_rel: float

    def __bool__(self) -> bool:
        return self.consistent


_COSINE = ("NodeName", "TensorName", "CosineSimilarity")
_CONSISTENCY = ("OutputName", "Consistency", "Mismatched Elements", "Max Abs Diff", "Max Rel Diff")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \S+ [A-Z]+ +")


def parse_cosine_table(log: str, outputs: Sequence[str]) -> tuple[Cosine, ...]:
    """The rows of a cosine table, inner tensors included.

    Args:
        outputs: tensor names that must be in it.
    Raises:
        BrokenError: kind `console`: no table, a row that is cut or no number, or an output without a row.
    """
    rows = tuple(Cosine(node, tensor, _number(cosine, "CosineSimilarity", tensor, log)) for node, tensor, cosine in _rows(log, _COSINE))
    for row in rows:
        if not -1.0001 <= row.cosine <= 1.0001:
            raise _broken(f"a CosineSimilarity of {row.tensor} between -1 and 1", log)
    _check_outputs([row.tensor for row in rows], outputs, log)
    return rows


def parse_consistency_table(log: str, outputs: Sequence[str]) -> tuple[Consistency, ...]:
    """The rows of a consistency table.

    Args:
        outputs: output names that must be in it.
    Raises:
        BrokenError: kind `console`: no table, a row that is cut, not understood or contradicts itself, or an output without a row.
    """
    rows = []
    for output, consistency, mismatched, max_abs, max_rel in _rows(log, _CONSISTENCY):
        verdict = {"true": True, "false": False}.get(consistency.lower())
        count = re.match(r"(\d+)(?:\s*/\s*\d+)?(?:\s*\(.*\))?$", mismatched)
        if verdict is None or count is None:
            raise _broken(f"`{'Consistency' if verdict is None else 'Mismatched Elements'}` of {output}", log)
        differences = (_number(max_abs, "Max Abs Diff", output, log), _number(max_rel, "Max Rel Diff", output, log))
        row = Consistency(output, verdict, int(count.group(1)), *differences)
        if row.consistent and row.mismatched:
            raise _broken(f"whether {output} is consistent: it says so and counts {row.mismatched} mismatched elements", log)
        rows.append(row)
    _check_outputs([row.output for row in rows], outputs, log)
    return tuple(rows)


def _rows(log: str, header: tuple[str, ...]) -> list[list[str]]:
    """The cells of all rows below a header. A log line may have time and level before its first bar."""
    rows: list[list[str]] = []
    inside = False
    for line in map(str.strip, _ANSI.sub("", log).replace("\r", "").splitlines()):
        text = _PREFIX.sub("", line)
        if re.fullmatch(r"[|+=: -]*", text) or not (text.startswith("|") or text.endswith("|")):
            continue
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if tuple(cells) in (_COSINE, _CONSISTENCY):
            inside = tuple(cells) == header
        elif inside:
            if not (text.startswith("|") and text.endswith("|")) or len(cells) != len(header) or not all(cells):
                raise _broken(f"a whole row, with {len(header)} cells as the header has: {line!r}", log)
            rows.append(cells)
    if not rows:
        raise _broken(f"a table with the columns {', '.join(header)}", log)
    return rows


def _number(text: str, column: str, row: str, log: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise _broken(f"`{column}` of {row} in numbers, found {text!r}", log)
    return value


def _check_outputs(found: Sequence[str], outputs: Sequence[str], log: str) -> None:
    missing = [name for name in outputs if name not in found]
    if missing:
        raise _broken(f"rows for {', '.join(missing)}", log)


def _broken(missing: str, log: str) -> BrokenError:
    return BrokenError(
        f"the log of hb_verifier does not state {missing}",
        kind="console",
        console=log,
        field=missing,
        next_step="look at the log: it was cut, the tool failed, or its build prints another format",
    )
