"""Numbers in text: what are they, and what can their digits prove?

Text dumps separate numbers by blanks, new lines, commas or semicolons, and may have `#` lines. Reading is exact: integers stay
integers, other numbers become the float64 nearest to the text, as Python's float() has it. A text stands for a number only to within
half a unit of its last digit, so `provable` tells whether the digits pin down one value of the tensor's type each, and `agrees`
whether a value can have been printed like that.

numpy does the work; where numba is installed and the text is long, its kernels do, with the same results.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, List, NoReturn, Optional, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, InternalError
from qatladder.numerics import accelerated

BLANKS = b" \t\n\r\v\f"
MARKS = b",;"

HALVES_FROM = 1 << 20
"""Bytes of text from which two threads share the work."""

_SPACES = bytes.maketrans(BLANKS + MARKS, b" " * 8)
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BEGUN = re.compile(rb"[+-]|[+-]?\.|[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?")
_ITEM = re.compile(rb"[^ \t\n\r\v\f,;]+|[,;]")
_EMPTY_FIELD = re.compile(rb"[,;]\s*[,;]")
_WINDOW = 1 << 16


@dataclass(frozen=True)
class TextFormat:
    """How the numbers of a text are written.

    Attributes:
        integer: every number is an integer ("-0" is none: only a float is written like that).
        decimals: digits behind the point where all numbers have equally many and no exponent, as `%.6f` writes; None otherwise.
        digits: most significant digits of any number: what `%.9g` and `%.8e` were asked for, as `%g` drops zeros at the end.
        exponent: a number has an exponent.
        header: `#` lines, as they are, wherever they stand.
        terminated: a separator follows the last number. Where none does, the last number may have lost digits.
        mixed: zeros at the end of some numbers, but not equally many decimals: neither `%.6f` nor `%.9g` wrote it, so each number is
            taken to have no more digits than it needs.
    """

    integer: bool
    decimals: Optional[int]
    digits: int
    exponent: bool = False
    header: Tuple[str, ...] = ()
    terminated: bool = True
    mixed: bool = False

    @property
    def complete(self) -> bool:
        """The last number lost nothing: a separator follows it, or it has the decimals all others have."""
        return self.terminated or (self.decimals or 0) > 0


@dataclass(frozen=True)
class Parsed:
    """The numbers of a text, in order: int64 (uint64 where one needs it) [n] of integers, else float64 [n]."""

    values: np.ndarray
    format: TextFormat


@dataclass(frozen=True)
class Proof:
    """Can a text carry a bit-exact claim? True when each of its numbers stands for exactly one value.

    Attributes:
        proven: the answer.
        reason: one sentence that says why.
        undetermined: share of numbers that stand for several values of the type, or for none.
    """

    proven: bool
    reason: str
    undetermined: float

    def __bool__(self) -> bool:
        return self.proven


@dataclass
class _Part:
    """What was read of a stretch of text; see the items of `state` in `accelerated.text`. None of `values` when it did not go well."""

    values: np.ndarray
    digits: int
    fewest: int
    most: int
    last: int
    real: int
    exponents: int
    last_exponent: int
    comma: bool = False
    leading: bool = False


def parse_numbers(data: bytes, what: str = "") -> Parsed:
    """Read all numbers of a text.

    Args:
        data: the text; blanks, commas and semicolons separate numbers, lines that begin with `#` are the header.
        what: the file, named in errors.
    Raises:
        ArtifactError: no numbers, binary data, NaN or infinity, something that is no number, an empty field between two commas, an
            integer of more than 64 bits, or a last number that was visibly cut.
    """
    data = bytes(data)
    comments = _comments(data, what)
    header = tuple(_decoded(data, first, last, what) for first, last in comments)
    kernels = accelerated.load("text", len(data))
    part = _read_plain(data, comments, what) if kernels is None else _read_fast(kernels, data, comments, what)
    if part.values.size == 0:
        raise ArtifactError(
            "the text holds no numbers",
            "the tool wrote nothing, or its disk was full: look at its console and run it again",
            file=what,
            expected="numbers",
            found="{} bytes, {} header lines".format(len(data), len(header)),
        )
    terminated = data[-1] in BLANKS + MARKS or bool(comments and comments[-1][1] == len(data))
    _check_last(part, data, terminated, what)
    same = min(part.fewest, part.last) == max(part.most, part.last)
    mixed = not same and part.exponents == 0 and _has_zero_at_end(data)
    return Parsed(
        part.values,
        TextFormat(
            integer=part.real == 0,
            decimals=part.last if same and part.exponents == 0 else None,
            digits=part.digits,
            exponent=part.exponents > 0,
            header=header,
            terminated=terminated,
            mixed=mixed,
        ),
    )


def _has_zero_at_end(data: bytes) -> bool:
    """Whether a number's last decimal is a 0, which `%g` never writes."""
    text = data.translate(_SPACES)
    return b"0 " in text and re.search(rb"\.[0-9]*0(?: |$)", text) is not None


# --- reading -----------------------------------------------------------------------------------------------------------------


def _comments(data: bytes, what: str) -> List[Tuple[int, int]]:
    """First and behind the last byte of each `#` line; a `#` elsewhere is no comment."""
    found: List[Tuple[int, int]] = []
    at = data.find(b"#")
    while at >= 0:
        line = max(data.rfind(b"\n", max(0, at - _WINDOW), at), -1) + 1
        if data[line:at].strip(BLANKS):
            _refuse(data, found, what)
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        found.append((at, end))
        at = data.find(b"#", end)
    return found


def _decoded(data: bytes, first: int, last: int, what: str) -> str:
    line = data[first:last]
    try:
        if b"\0" in line:
            raise ValueError("a zero byte")
        return line.decode("utf-8").rstrip("\r")
    except ValueError as error:
        raise ArtifactError(
            "the file is no text",
            "read it as binary, with dtype and shape",
            file=what,
            expected="text",
            found=error,
            line=_line(data, first),
        ) from None


def _line(data: bytes, at: int) -> int:
    return data.count(b"\n", 0, at) + 1


def _blanked(data: bytes, comments: Sequence[Tuple[int, int]]) -> bytes:
    """The text with blanks in place of its comments."""
    if not comments:
        return data
    pieces, at = [], 0
    for first, last in comments:
        pieces += [data[at:first], b" " * (last - first)]
        at = last
    return b"".join([*pieces, data[at:]])


def _read_plain(data: bytes, comments: Sequence[Tuple[int, int]], what: str) -> _Part:
    """What the kernels do, with numpy and Python's own int() and float()."""
    body = _blanked(data, comments)
    marked = b"," in body or b";" in body
    if body.translate(None, b"0123456789+-.eE" + BLANKS + MARKS) or (
        marked and (_EMPTY_FIELD.search(body) or body.lstrip(BLANKS)[:1] in (b",", b";"))
    ):
        _refuse(data, comments, what)
    text = body.translate(_SPACES) + b" "
    codes = np.frombuffer(text, np.uint8)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (codes != 32).astype(np.int8)))))
    first, last = edges[::2], edges[1::2]
    count = first.size
    if not count:
        return _Part(np.zeros(0), 0, 0, 0, 0, 0, 0, 0)
    marks = np.flatnonzero((codes | 32) == 101)
    owner = np.searchsorted(first, marks, "right") - 1
    end, exponent = last.copy(), np.zeros(count, bool)
    end[owner], exponent[owner] = marks, True
    points = np.flatnonzero(codes == 46)
    owner = np.searchsorted(first, points, "right") - 1
    point = np.full(count, len(text))
    point[owner] = points
    fraction = point < end
    decimals = np.where(fraction, end - point - 1, 0)
    nonzero = np.append(np.flatnonzero((codes >= 49) & (codes <= 57)), len(text))
    start = first + ((codes[first] == 45) | (codes[first] == 43))
    zeros = np.flatnonzero((codes[start] < 49) | (codes[start] > 57))
    start[zeros] = nonzero[np.searchsorted(nonzero, first[zeros])]
    digits = np.where(start < end, end - start - (fraction & (point > start)), 0)
    real = fraction | exponent | ((digits == 0) & (codes[first] == 45))
    try:
        if real.any():
            values = np.array(list(map(float, text.split())), np.float64)
        elif digits.max() <= 18 and _are_integers(codes, first, last):
            values = np.fromstring(text, np.int64, sep=" ")
        else:
            values = _wide_integers(text.split(), digits, data, comments, what)
    except ValueError:
        _refuse(data, comments, what)
    if not np.isfinite(values).all():
        _refuse_overflow(values, text.split(), what)
    before = decimals[:-1] if count > 1 else decimals
    return _Part(
        values=values,
        digits=int(digits.max()),
        fewest=int(before.min()),
        most=int(before.max()),
        last=int(decimals[-1]),
        real=int(np.count_nonzero(real)),
        exponents=int(np.count_nonzero(exponent)),
        last_exponent=int(exponent[-1]),
    )


def _are_integers(codes: np.ndarray, first: np.ndarray, last: np.ndarray) -> bool:
    """Whether all tokens of digits and signs have at most a sign in front, and at least one digit."""
    signed = (codes[first] == 43) | (codes[first] == 45)
    signs = np.count_nonzero((codes == 43) | (codes == 45))
    return bool(signs == np.count_nonzero(signed) and ((last - first) > signed).all())


def _wide_integers(tokens: List[bytes], digits: np.ndarray, data: bytes, comments: Sequence[Tuple[int, int]], what: str) -> np.ndarray:
    if any(_NUMBER.fullmatch(token) is None for token in tokens):
        _refuse(data, comments, what)
    numbers = [int(token.lstrip(b"+-0") or b"0") if size <= 20 else 10**20 for token, size in zip(tokens, digits.tolist())]
    numbers = [-number if token.startswith(b"-") else number for token, number in zip(tokens, numbers)]
    dtype = np.int64 if max(numbers) < 2**63 else np.uint64
    limits = np.iinfo(dtype)
    for index, number in enumerate(numbers):
        if not limits.min <= number <= limits.max:
            raise ArtifactError(
                "an integer of the text has more than 64 bits",
                "no tensor type holds it: the text is damaged, or was written as %.0f; dump binary instead",
                file=what,
                expected="int64 or uint64 for all numbers",
                found=tokens[index][:40].decode(),
                index=index,
            )
    return np.array(numbers, dtype)


def _refuse_overflow(values: np.ndarray, tokens: Sequence[bytes], what: str) -> NoReturn:
    index = int(np.argmin(np.isfinite(values)))
    raise ArtifactError(
        "a number of the text is too large for float64",
        "the text is damaged; run the tool again",
        file=what,
        expected="at most 1.8e308",
        found=tokens[index][:40].decode(),
        index=index,
    )


def _read_fast(kernels: ModuleType, data: bytes, comments: Sequence[Tuple[int, int]], what: str) -> _Part:
    """The text in stretches, each through the kernels, into one array; two threads where that is worth it."""
    text = _blanked(data, comments)
    tail = _behind_separator(text, max(0, len(text) - 2 * kernels.MARGIN))
    cut = _behind_separator(text, tail // 2) if tail >= HALVES_FROM else 0
    end = text[tail:] + b"\n"
    out = np.empty(len(text) // 2 + len(end), np.int64)  # at least two bytes for each number; pages without numbers cost nothing
    if 0 < cut < tail:
        first = _count(kernels, text, cut)
        with ThreadPoolExecutor(2) as threads:
            halves = ((text, 0, cut, out[:first]), (text, cut, tail, out[first:]))
            parts = list(threads.map(lambda half: _stretch(kernels, *half), halves))
    else:
        parts = [_stretch(kernels, text, 0, tail, out)]
    done = sum(part.values.size for part in parts if part is not None)
    parts.append(_stretch(kernels, end + b" " * kernels.MARGIN, 0, len(end), out[done:]))
    if any(part is not None and part.values.dtype.kind == "f" for part in parts):
        for part in parts:
            if part is not None:
                part.values = _in_place(part.values)
        out = out.view(np.float64)
    whole = _Part(out[:0], 0, 0, 0, 0, 0, 0, 0)
    for part in parts:
        if part is None or (part.leading and (whole.comma or whole.values.size == 0)):
            _refuse(data, comments, what)
        whole = _joined(whole, part, out)
    if out.dtype.kind == "f" and (whole.real == 0 or not np.isfinite(whole.values).all()):
        return _read_plain(data, comments, what)  # integers the kernel did not take, or a number beyond float64
    return whole


def _count(kernels: ModuleType, text: bytes, stop: int) -> int:
    marks = np.empty(kernels.BLOCK + 64, np.uint8)
    ends = np.empty(kernels.BLOCK, np.int64)
    return int(kernels.count(np.frombuffer(text, np.uint8), 0, stop, marks, marks.view(np.uint64), ends))


def _in_place(values: np.ndarray) -> np.ndarray:
    """Integers as float64 in the same memory; float64 as it is."""
    if values.dtype.kind == "f":
        return values
    floats = values.view(np.float64)
    for first in range(0, values.size, _WINDOW):
        floats[first : first + _WINDOW] = values[first : first + _WINDOW].astype(np.float64)
    return floats


def _behind_separator(text: bytes, at: int) -> int:
    """The first place behind a separator from here on; the end of the text for none near."""
    return next((place + 1 for place in range(at, min(len(text), at + _WINDOW)) if text[place] in BLANKS + MARKS), 0) if at else 0


def _stretch(kernels: ModuleType, text: bytes, start: int, stop: int, out: np.ndarray) -> Optional[_Part]:
    """The numbers between two places behind separators, at the start of int64 `out`; None when something is none."""
    if start == stop:
        return _Part(out[:0], 0, 0, 0, 0, 0, 0, 0)
    codes = np.frombuffer(text, np.uint8)
    words: np.ndarray = np.ndarray((len(text) - 7,), np.uint64, text, strides=(1,))
    marks = np.empty(kernels.BLOCK + 64, np.uint8)
    ends = np.empty(kernels.BLOCK, np.int64)
    state = np.zeros(kernels.SIZE, np.int64)
    state[kernels.AT] = start
    values: Any = out
    code = kernels.integers(codes, words, stop, out, marks, marks.view(np.uint64), ends, state)
    if code != kernels.DONE:
        values = out.view(np.float64)
        done = int(state[kernels.COUNT])
        _in_place(out[:done])
        state[kernels.FEWEST] = 0 if done else np.iinfo(np.int64).max
        spans = np.empty((_WINDOW, 3), np.int64)
        while True:
            code = kernels.floats(codes, words, stop, values, marks, marks.view(np.uint64), ends, spans, state)
            for index, first, last in spans[: state[kernels.SPANS]].tolist():
                values[index] = float(text[first:last])
            state[kernels.SPANS] = 0
            if code != kernels.FULL:
                break
        if code == kernels.OTHER:
            return None
    item = state.tolist()
    single = item[kernels.COUNT] == 1
    return _Part(
        values=values[: item[kernels.COUNT]],
        digits=max(item[kernels.DIGITS], len(str(item[kernels.LARGEST])) if item[kernels.LARGEST] else 0),
        fewest=item[kernels.LAST] if single else item[kernels.FEWEST],
        most=item[kernels.LAST] if single else item[kernels.MOST],
        last=item[kernels.LAST],
        real=item[kernels.REAL],
        exponents=item[kernels.EXPONENTS],
        last_exponent=item[kernels.LAST_EXPONENT],
        comma=item[kernels.COMMA] > 0,
        leading=item[kernels.LEADING] > 0,
    )


def _joined(one: _Part, two: _Part, values: np.ndarray) -> _Part:
    """Two stretches that are neighbours in `values` as one."""
    if one.values.size == 0:
        return two
    if two.values.size == 0:
        return replace(one, comma=one.comma or two.comma)
    before = [one.fewest, one.most, one.last] + ([two.fewest, two.most] if two.values.size > 1 else [])
    return _Part(
        values=values[: one.values.size + two.values.size],
        digits=max(one.digits, two.digits),
        fewest=min(before),
        most=max(before),
        last=two.last,
        real=one.real + two.real,
        exponents=one.exponents + two.exponents,
        last_exponent=two.last_exponent,
        comma=two.comma,
    )


# --- what is wrong -----------------------------------------------------------------------------------------------------------


def _check_last(part: _Part, data: bytes, terminated: bool, what: str) -> None:
    """A last number that ends with the file and has fewer digits than all others show was cut."""
    count = part.values.size
    if terminated:
        return
    token = data[-min(len(data), 400) :].translate(_SPACES).split()[-1]
    fixed = part.exponents == 0 and count > 1 and part.fewest == part.most > part.last
    scientific = count > 1 and part.exponents == count - 1 and not part.last_exponent
    if token.endswith(b".") or fixed or scientific:
        expected = "{} decimals, as all others have".format(part.most) if fixed else "digits up to a separator"
        _refuse_cut(token, count - 1, _line(data, len(data)), expected, what)


def _refuse_cut(token: bytes, index: int, line: int, expected: str, what: str) -> NoReturn:
    raise ArtifactError(
        "the text is truncated: its last number was cut",
        "run the tool again and check the disk; if the file is complete, end it with a new line",
        file=what,
        expected=expected,
        found=_shown(token),
        index=index,
        line=line,
    )


def _shown(token: bytes) -> str:
    text = token[:40].decode("utf-8", "backslashreplace")
    return (text if text.isprintable() else repr(token[:40])[2:-1]) + ("..." if len(token) > 40 else "")


def _refuse(data: bytes, comments: Sequence[Tuple[int, int]], what: str) -> NoReturn:
    """Find the first thing in the text that is no number, and say what it is."""
    text = _blanked(data, comments)
    index, waiting = 0, True
    for match in _ITEM.finditer(text):
        token, at = match.group(), match.start()
        if token in (b",", b";"):
            if waiting:
                _refuse_token("a field of the text is empty", "a number between two separators", token, index, _line(data, at), what)
            waiting = True
            continue
        waiting = False
        if _NUMBER.fullmatch(token):
            index += 1
            continue
        line = _line(data, at)
        if match.end() == len(text) and _BEGUN.fullmatch(token):
            _refuse_cut(token, index, line, "a whole number", what)
        if any(code < 32 or code > 126 for code in token):
            message, expected = "the file is no text", "text; read binary data with dtype and shape"
        elif re.fullmatch(rb"[+-]?(?:nan|inf|infinity)(?:\([^)]*\))?|[+-]?1\.#\w+", token, re.IGNORECASE):
            message, expected = "the text holds NaN or infinity", "finite numbers; look at the operator that produced it"
        elif re.match(rb"[+-]?0[xX]", token):
            message, expected = "the text holds a hexadecimal number", "decimal numbers"
        else:
            message, expected = "the text holds something that is no number", "a decimal number"
        _refuse_token(message, expected, token, index, line, what)
    raise InternalError("a text was refused, but all of its {} numbers can be read".format(index))


def _refuse_token(message: str, expected: str, token: bytes, index: int, line: int, what: str) -> NoReturn:
    raise ArtifactError(
        message,
        "look at that line of the file; run the tool that wrote it again",
        file=what,
        expected=expected,
        found=_shown(token),
        index=index,
        line=line,
    )


# --- what the digits prove ---------------------------------------------------------------------------------------------------


_UNIQUE = {2: 5, 4: 9, 8: 17}
"""Significant digits from which every float of so many bytes comes back from text; also what printing the shortest form may need."""


def _half(values: np.ndarray, form: TextFormat) -> Any:
    """Half a unit of the last digit of each number, float64: how far the printed number may be from the text."""
    if form.decimals is not None:
        return np.float64(float("5e-{}".format(form.decimals + 1)))
    if form.mixed:
        half = np.full(values.shape, 0.5)
        for decimals in range(1, form.digits + 1):
            scaled = values * 10.0 ** (decimals - 1)
            half[np.abs(scaled - np.rint(scaled)) > 1e-9 * np.maximum(1.0, np.abs(scaled))] = 0.5 * 10.0**-decimals
        return half
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        power = np.floor(np.log10(np.where(size > 0, size, 1.0)))
    power += (size >= np.power(10.0, power + 1)).astype(np.float64)
    power -= ((size < np.power(10.0, power)) & (size > 0)).astype(np.float64)
    half = 5.0 * np.power(10.0, power - form.digits)
    return np.where(size > 0, half, 0.0)


def _interval(values: np.ndarray, form: TextFormat) -> Tuple[np.ndarray, np.ndarray]:
    """Lowest and highest number each text stands for, float64, widened by what float64 itself rounds."""
    numbers = values.astype(np.float64)
    half = _half(numbers, form)
    half = np.where(half > 0, half + np.spacing(np.maximum(np.abs(numbers), half)), 0.0)
    return numbers - half, numbers + half


def provable(values: np.ndarray, form: TextFormat, dtype: str, step: Any = None) -> Proof:
    """Can the digits of a text carry a bit-exact claim about a tensor of this type?

    They can when each text stands for exactly one value of the type: `%.9g` for float32, `%.5g` for float16, `%.17g` for float64,
    and all digits of an integer. With the step of a dequantised integer far fewer digits do.

    Args:
        values: numbers of the text, any shape.
        form: how they were written.
        dtype: numpy name of the tensor's elements.
        step: scale of a dequantised integer, one or one per element (broadcast against `values`): only its multiples are possible,
            computed as `tensor.dequantize` does, float32(integer) * float32(step).
    Returns:
        The proof; `undetermined` is the share of numbers that stand for several values of the type or for none.
    """
    item = np.dtype(dtype)
    if form.integer and item.kind in "iub" and step is None:
        return Proof(True, "the text holds all digits of integers", 0.0)
    numbers = values.astype(np.float64)
    low, high = _interval(values, form)
    if step is not None or item.kind in "iub":
        steps = np.asarray(1.0 if step is None else step, np.float64)
        work = np.float64 if item.kind != "f" or item.itemsize == 8 else np.float32
        steps = steps.astype(work)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            nearest = np.rint(numbers / steps)
            at, below, above = (np.multiply((nearest + shift).astype(work), steps) for shift in (0.0, -1.0, 1.0))
        inside = (at >= low) & (at <= high)
        alone = ~((below >= low) & (below <= high)) & ~((above >= low) & (above <= high))
        determined = inside & alone & (steps != 0)
        kind = "integer multiple of the step" if step is not None else item.name
    elif form.decimals is None and not form.mixed and form.digits >= _UNIQUE[item.itemsize]:
        return Proof(True, "{} significant digits tell every {} from the next".format(form.digits, item.name), 0.0)
    elif item == np.float64:
        half = _half(numbers, form)
        determined = np.broadcast_to(half < np.spacing(np.abs(numbers)) / 2, numbers.shape)
        kind = item.name
    else:
        with np.errstate(over="ignore"):
            at = numbers.astype(item)
            below, above = np.nextafter(at, item.type(-np.inf)), np.nextafter(at, item.type(np.inf))
        determined = (at >= low) & (at <= high) & ~(below >= low) & ~(above <= high)
        kind = item.name
    share = 1.0 - float(np.count_nonzero(determined)) / max(1, numbers.size)
    written = "{} decimals".format(form.decimals) if form.decimals is not None else "{} significant digits".format(form.digits)
    written = "so few digits" if form.mixed else written
    if share == 0.0:
        return Proof(True, "with {} each number stands for exactly one {}".format(written, kind), 0.0)
    return Proof(
        False,
        "with {} {:.3%} of the numbers stand for more than one {}, or for none".format(written, share, kind),
        share,
    )


def agrees(values: np.ndarray, form: TextFormat, expected: np.ndarray) -> np.ndarray:
    """Can each expected element have been written like this? So a text that cannot prove equality can still disprove it.

    Args:
        values: numbers of the text.
        form: how they were written.
        expected: integers or floats of the same shape.
    Returns:
        bool, same shape: the element lies within half a unit of the text's last digit, or is the value of its type nearest to the
        text, as programs that print the shortest form write it (integers: is equal).
    """
    if form.integer and expected.dtype.kind in "iub":
        equal: np.ndarray = values == expected
        return equal
    low, high = _interval(values, form)
    numbers = expected.astype(np.float64)
    inside: np.ndarray = (numbers >= low) & (numbers <= high)
    if expected.dtype.kind == "f":
        with np.errstate(over="ignore"):
            inside |= values.astype(expected.dtype) == expected
    return inside
