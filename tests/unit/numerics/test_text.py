"""Numbers in text: every form the field writes, exactly; every damage, named; and what the digits can prove."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics import accelerated, text
from qatladder.numerics.text import TextFormat, agrees, parse_numbers, provable

try:
    import numba  # noqa: F401

    WAYS = ["0", "1"]
except ImportError:
    WAYS = ["0"]


@pytest.fixture(params=WAYS, ids=["numpy", "kernels"][: len(WAYS)], autouse=True)
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QATLADDER_ACCELERATE", request.param)
    return str(request.param)


def outcome(data: bytes, way: str) -> Any:
    """Everything `parse_numbers` says of a text, in comparable form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QATLADDER_ACCELERATE", way)
        try:
            found = parse_numbers(data, "dump.txt")
        except ArtifactError as error:
            return str(error)
    return found.values.dtype, found.values.tobytes(), found.format


# --- what is read ---


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"1 2 3\n", [1, 2, 3]),
        (b"1\n2\n3\n", [1, 2, 3]),
        (b"1\r\n2\r\n3\r\n", [1, 2, 3]),
        (b"1,2,3,\n", [1, 2, 3]),
        (b"1, 2; 3 ;\n", [1, 2, 3]),
        (b"1,2,\n3,4,\n", [1, 2, 3, 4]),
        (b"\n\t 1\t2  \n\n 3 \v\f\n", [1, 2, 3]),
        (b"7", [7]),
        (b"+5 -5 007 -0012 ", [5, -5, 7, -12]),
        (b"9007199254740993 -9223372036854775808 9223372036854775807\n", [2**53 + 1, -(2**63), 2**63 - 1]),
        (b"18446744073709551615 0\n", [2**64 - 1, 0]),
        (b"0000000000000000000000000000012 5\n", [12, 5]),
        (b"#a\n# b,c 3\n1 2\n", [1, 2]),
        (b"1 2\n  # between\n3\n# end", [1, 2, 3]),
    ],
)
def test_integers_of_any_separator(data: bytes, expected: list[int]) -> None:
    found = parse_numbers(data)
    assert found.format.integer
    assert found.values.dtype == (np.uint64 if max(expected) >= 2**63 else np.int64)
    assert found.values.tolist() == expected


@pytest.mark.parametrize(
    "token",
    [
        "0.1",
        "-0.1",
        "1.5",
        ".5",
        "5.",
        "1e5",
        "1E-05",
        "-1.25e+10",
        "3.14159274",
        "123456789.123456789",
        "0.12345678901234567",
        "9007199254740993.0",
        "1e22",
        "1e23",
        "1e-23",
        "2.2250738585072011e-308",
        "1e-400",
        "-1e-400",
        "179769313486231570000000000000000000000.5",
        "8.5e307",
        "1.0000000000000002",
        "0.000000",
        "-0",
        "-0.0",
        "1.34980000000000000000e+04",
        "7.2057594037927933e16",
        "12345678.25",
        "0000000000000000000001.5",
        "0.00000000000000000000000015",
    ],
)
def test_floats_are_those_of_python(token: str) -> None:
    for data in (token + "\n", "1 " + token + " 2\n", "0.25," + token + ",\n"):
        values = parse_numbers(data.encode()).values
        expected = [float(item) for item in data.replace(",", " ").split()]
        assert values.dtype == np.float64
        assert values.tobytes() == np.array(expected).tobytes()


def test_a_negative_zero_is_a_float() -> None:
    found = parse_numbers(b"1 -0 0\n")
    assert not found.format.integer
    assert np.signbit(found.values).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("data", "integer", "decimals", "digits", "exponent", "terminated"),
    [
        (b"1 22 -333\n", True, 0, 3, False, True),
        (b"0 0\n", True, 0, 0, False, True),
        (b"0.100000 12.345678\n", False, 6, 8, False, True),
        (b"0.100000,12.345678", False, 6, 8, False, False),
        (b"0.5 0.123456789 12\n", False, None, 9, False, True),
        (b"1.5e-05 2.5e-05\n", False, None, 2, True, True),
        (b"0.0012300 1\n", False, None, 5, False, True),
        (b"1.5 2.5 # 3\n".replace(b"# 3", b""), False, 1, 2, False, True),
        (b"1 2\n#end", True, 0, 1, False, True),
        (b"5. 6.\n", False, 0, 1, False, True),
    ],
)
def test_the_format(data: bytes, integer: bool, decimals: int | None, digits: int, exponent: bool, terminated: bool) -> None:
    found = parse_numbers(data).format
    assert (found.integer, found.decimals, found.digits, found.exponent, found.terminated) == (
        integer,
        decimals,
        digits,
        exponent,
        terminated,
    )


def test_the_header_is_kept() -> None:
    data = b"#operator: CONV\r\n#shift = 0 0 \n#valid_dim=1x3\n#dynamic_n=1\n1 2 3 \n# \xc3\xa4\n"
    assert parse_numbers(data).format.header == ("#operator: CONV", "#shift = 0 0 ", "#valid_dim=1x3", "#dynamic_n=1", "# \u00e4")


# --- what is refused ---


@pytest.mark.parametrize(
    ("data", "message", "found", "index", "line"),
    [
        (b"1\n2\nnan\n", "NaN or infinity", "nan", 2, 3),
        (b"1 -nan 2\n", "NaN or infinity", "-nan", 1, 1),
        (b"#h\n1.5 -Inf\n", "NaN or infinity", "-Inf", 1, 2),
        (b"infinity\n", "NaN or infinity", "infinity", 0, 1),
        (b"1.#QNAN 2\n", "NaN or infinity", "1.#QNAN", 0, 1),
        (b"1 2\n3 12a 4\n", "no number", "12a", 3, 2),
        (b"1.2.3\n", "no number", "1.2.3", 0, 1),
        (b"1 --5 2\n", "no number", "--5", 1, 1),
        (b"1-2 3\n", "no number", "1-2", 0, 1),
        (b"0x1F 2\n", "hexadecimal", "0x1F", 0, 1),
        (b"1_000\n", "no number", "1_000", 0, 1),
        (b"- 1\n", "no number", "-", 0, 1),
        (b"1 . 2\n", "no number", ".", 1, 1),
        (b"1 1e 2\n", "no number", "1e", 1, 1),
        (b"1 # 2\n", "no number", "#", 1, 1),
        (b"1,,2\n", "empty", ",", 1, 1),
        (b"1,\n;2\n", "empty", ";", 1, 2),
        (b" ,1\n", "empty", ",", 0, 1),
        (b"1 2 \x00\x01 3\n", "no text", "\\x00\\x01", 2, 1),
        (b"1 \xff\xfe\n", "no text", "\\xff\\xfe", 1, 1),
        (b"1 1e400\n", "too large", "1e400", 1, None),
        (b"1 18446744073709551616\n", "64 bits", "18446744073709551616", 1, None),
        (b"-1 18446744073709551615\n", "64 bits", "-1", 0, None),
        (b"1 2 -", "truncated", "-", 2, 1),
        (b"1.5\n2.5\n-.", "truncated", "-.", 2, 3),
        (b"1.5e-05 1.5e", "truncated", "1.5e", 1, 1),
        (b"1.5e-05 1.5e-", "truncated", "1.5e-", 1, 1),
        (b"1.500000 2.500000 3.50", "truncated", "3.50", 2, 1),
        (b"1.500000 2.500000 3", "truncated", "3", 2, 1),
        (b"1.25 0.5 3.", "truncated", "3.", 2, 1),
        (b"1.500000e+00 2.500000e+00 3.50", "truncated", "3.50", 2, 1),
    ],
)
def test_what_is_no_number_is_named(data: bytes, message: str, found: str, index: int, line: int | None) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        parse_numbers(data, "dump.txt")
    where = caught.value.where
    assert (where["file"], where["found"], where["index"]) == ("dump.txt", found, str(index))
    assert line is None or where["line"] == str(line)
    assert caught.value.next_step
    assert where["expected"]


@pytest.mark.parametrize("data", [b"", b" \n ", b"#valid_dim=1\n", b"# only"])
def test_a_text_without_numbers(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no numbers"):
        parse_numbers(data)


@pytest.mark.parametrize("data", [b"#\xff\n1\n", b"1\n#a\0b\n"])
def test_a_header_that_is_no_text(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no text"):
        parse_numbers(data)


def test_a_digit_is_never_lost_unseen_at_the_end_of_fixed_decimals() -> None:
    whole = b"\n".join(b"%.6f" % value for value in (0.5, -12.25, 3.0, 0.000001)) + b"\n"
    expected = parse_numbers(whole).values
    for size in range(len(whole)):
        try:
            values = parse_numbers(whole[:size]).values
        except ArtifactError:
            continue
        if values.size > 1:  # one number alone shows no form
            np.testing.assert_array_equal(values, expected[: values.size])


# --- kernels, numpy and Python agree ---


TOKENS = [
    "0",
    "-0",
    "1",
    "-12",
    "+3",
    "007",
    "1.5",
    "-0.25",
    ".5",
    "5.",
    "1e5",
    "1e-05",
    "1.25E+10",
    "123456789012345678",
    "1234567890123456789",
    "0.1234567890123456789",
    "1e-400",
    "9007199254740993",
    "0.000000",
    "-0.000000",
    "12345678.25",
    "123456789.123456789",
    "3.14159274",
    "1.34980000000000000000e+04",
]
BAD = [
    "nan",
    "-inf",
    "12a",
    "1.2.3",
    "--5",
    "0x1F",
    "-",
    ".",
    "1e",
    "1e+",
    "1_0",
    "#",
    "1#2",
    "1e400",
    "18446744073709551615",
    "18446744073709551616",
]
SEPARATORS = ["\n", " ", ",", "; ", "\r\n", "\t", ",\n", "  ", "\v\f"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TOKENS * 4 + BAD), st.sampled_from([*SEPARATORS, ",,", "\n#x 1\n"])), max_size=60),
    st.integers(0, 6),
    st.booleans(),
)
def test_kernels_and_numpy_agree(items: list[tuple[str, str]], cut: int, header: bool) -> None:
    data = ("#h\n" * header + "".join(token + separator for token, separator in items)).encode()
    data = data[: len(data) - cut]
    assert len({str(outcome(data, way)) for way in WAYS}) == 1


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text("0123456789+-.eE ,;\n#nax", max_size=80).map(str.encode)))
def test_any_bytes_are_numbers_or_an_error_and_agree_with_python(data: bytes) -> None:
    found = [outcome(data, way) for way in WAYS]
    assert len({str(item) for item in found}) == 1
    if not isinstance(found[0], str):
        body = re.sub(rb"(?m)^[ \t\r\v\f]*#[^\n]*", b"", data)
        tokens = body.translate(bytes.maketrans(b",;", b"  ")).split()
        dtype = found[0][0]
        expected = np.array([int(token) if dtype.kind in "iu" else float(token) for token in tokens], dtype)
        assert found[0][1] == expected.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50),
    st.sampled_from(["{!r}", "{:.17g}", "{:.9g}", "{:.6f}", "{:.8e}", "{:.20e}"]),
    st.sampled_from(SEPARATORS),
)
def test_floats_come_back(values: list[float], form: str, separator: str) -> None:
    texts = [form.format(value) for value in values]
    found = parse_numbers((separator.join(texts) + separator).encode())
    expected = np.array([float(item) for item in texts])
    assert found.values.astype(np.float64).tobytes() == expected.tobytes()
    if form in ("{!r}", "{:.17g}"):
        assert found.values.astype(np.float64).tolist() == values


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50), st.sampled_from(SEPARATORS))
def test_integers_come_back(values: list[int], separator: str) -> None:
    found = parse_numbers((separator.join(map(str, values)) + separator).encode())
    assert found.values.dtype == np.int64 and found.values.tolist() == values


@pytest.mark.parametrize("bad", ["", "x", ",", "nan", "1.", "-0", "12345678901234567890"])
def test_a_text_read_by_two_threads(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "HALVES_FROM", 1)
    rng = random.Random(bad)
    for count in (1, 50, 700):
        for form in ("%d", "%.6f", "%.9g", "%.17g"):
            items = [form % rng.gauss(0, 1000) for _ in range(count)]
            if bad:
                items.insert(rng.randrange(count + 1), bad)
            separator = rng.choice(SEPARATORS[:5])
            for data in (
                separator.join(items) + "\n",
                "#h 1,2\n" + separator.join(items),
                separator.join(items[: count // 2]) + "\n# c\n1 2",
            ):
                assert len({str(outcome(data.encode(), way)) for way in WAYS}) == 1


def test_numbers_across_blocks_and_more_of_them_than_room(way: str) -> None:
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e30):
        values = rng.standard_normal(150000) * scale
        data = " ".join(map(repr, values.tolist())).encode() + b"\n"
        assert parse_numbers(data).values.tobytes() == values.tobytes()
    integers = rng.integers(-(10**9), 10**9, 100000)
    assert parse_numbers(b",".join(b"%d" % number for number in integers.tolist()) + b"\n").values.tobytes() == integers.tobytes()
    floats = integers.astype(np.float64)
    floats[-1] = 0.5
    assert parse_numbers("\n".join(f"{number:.9g}" for number in floats.tolist()).encode() + b"\n").values.tolist() == [
        float(f"{number:.9g}") for number in floats.tolist()
    ]


# --- what the digits prove ---


def sample(count: int = 200_000) -> np.ndarray:
    return (3 * np.random.default_rng(0).standard_normal(count)).astype(np.float32)


def written(values: np.ndarray, form: str) -> text.Parsed:
    return parse_numbers("\n".join(form % value for value in values.tolist()).encode() + b"\n")


@pytest.mark.parametrize(("form", "lost"), [("%.6f", 0.796), ("%.7g", 0.69), ("%.8g", 0.0019), ("%.9g", 0.0)])
def test_a_float32_needs_nine_digits(form: str, lost: float) -> None:
    values = sample()
    parsed = written(values, form)
    changed = parsed.values.astype(np.float32) != values
    assert changed.mean() == pytest.approx(lost, rel=0.05)
    proof = provable(parsed.values, parsed.format, "float32")
    assert bool(proof) is (lost == 0.0)
    assert proof.undetermined >= changed.mean()
    assert ("9 significant digits" in proof.reason) if proof else ("%" in proof.reason)
    # What was written agrees with its text, whatever the digits prove.
    assert agrees(parsed.values, parsed.format, values).all()


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 5), ("float32", 9), ("float64", 17)])
def test_digits_a_type_needs(dtype: str, digits: int) -> None:
    values = (np.random.default_rng(1).standard_normal(20000) * 100).astype(dtype)
    for more, proven in ((0, True), (-2, False)):
        parsed = written(values.astype(np.float64), f"%.{digits + more}g")
        proof = provable(parsed.values, parsed.format, dtype)
        assert bool(proof) is proven, proof
        if proven:
            assert parsed.values.astype(dtype).tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=20),
    st.sampled_from(["%.3f", "%.6f", "%.7g", "%.9g", "%.8e"]),
)
def test_a_proof_is_never_wrong(values: list[float], form: str) -> None:
    expected = np.array(values, np.float32)
    parsed = written(expected, form)
    assert agrees(parsed.values, parsed.format, expected).all()
    if provable(parsed.values, parsed.format, "float32"):
        assert parsed.values.astype(np.float32).tobytes() == expected.tobytes()


def test_integers_prove_integers_only() -> None:
    parsed = parse_numbers(b"1 -2 3\n")
    assert provable(parsed.values, parsed.format, "int8")
    assert not provable(parsed.values, parsed.format, "float32")
    decimals = parse_numbers(b"1.00 -2.00 3.00\n")
    assert provable(decimals.values, decimals.format, "int8")
    assert not provable(parse_numbers(b"1.00 2.50\n").values, decimals.format, "int8")


def test_zero_is_exact_where_zeros_are_dropped_and_unknown_where_they_are_not() -> None:
    general, fixed = parse_numbers(b"0 0.123456791\n"), parse_numbers(b"0.000000 0.500000\n")
    assert provable(general.values, general.format, "float32")
    assert provable(fixed.values, fixed.format, "float32").undetermined == 1.0


def test_a_step_needs_fewer_digits() -> None:
    integers = np.arange(-128, 128)
    step = np.float32(0.0123)
    values = integers.astype(np.float32) * step
    parsed = written(values, "%.5f")
    assert not provable(parsed.values, parsed.format, "float32")
    assert provable(parsed.values, parsed.format, "float32", step)
    assert not provable(parsed.values, parsed.format, "float32", 4e-6)
    assert provable(parsed.values, parsed.format, "float32", 0.0124).undetermined > 0.5  # no multiples of it
    steps = np.linspace(0.01, 0.02, integers.size).astype(np.float32)
    parsed = written(integers.astype(np.float32) * steps, "%.6f")
    assert provable(parsed.values, parsed.format, "float32", steps)
    shaped = provable(parsed.values.reshape(1, 16, 16), parsed.format, "float32", steps.reshape(1, 16, 16))
    assert shaped and shaped.undetermined == 0.0


def test_a_text_that_proves_nothing_can_disprove() -> None:
    parsed = parse_numbers(b"0.12 0.50 1.00\n")
    assert not provable(parsed.values, parsed.format, "float32")
    found = agrees(parsed.values, parsed.format, np.array([0.1249, 0.4951, 1.0051], np.float32))
    assert found.tolist() == [True, True, False]
    integers = parse_numbers(b"1 2 9007199254740993\n")
    assert agrees(integers.values, integers.format, np.array([1, 3, 2**53 + 1])).tolist() == [True, False, True]


@pytest.mark.parametrize("power", range(-30, 30, 7))
def test_half_a_unit_of_the_last_digit(power: int) -> None:
    form = TextFormat(integer=False, decimals=None, digits=4)
    values = np.array([float(f"1.000e{power}"), float(f"9.999e{power}")])
    half = float(f"0.0005e{power}")
    inside = agrees(
        np.repeat(values, 2), form, np.array([values[0] - half * 0.999, values[0] + half * 0.999] * 1 + [values[1] - half * 0.999] * 2)
    )
    assert inside.all()
    assert not agrees(values, form, values + 1.01 * half).any()
    assert math.isfinite(half)


def test_kernels_are_used_when_asked(way: str) -> None:
    assert (accelerated.load("text", 1) is not None) is (way == "1")


def test_a_float_printed_in_its_shortest_form_agrees_and_is_proven() -> None:
    """repr() and tolist() print as few digits as bring the float back: up to nine for a float32, and 0.1 for the one next to 0.1."""
    values = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    parsed = parse_numbers("\n".join(str(value) for value in values).encode() + b"\n")
    assert agrees(parsed.values, parsed.format, values).all()
    assert provable(parsed.values, parsed.format, "float32")
    assert (parsed.values.astype(np.float32) == values).all()


def test_a_text_of_mixed_decimals_proves_no_more_than_its_shortest_numbers() -> None:
    parsed = parse_numbers(b"0.500000\n1234.567890\n3\n")
    assert parsed.format.mixed
    assert not provable(parsed.values, parsed.format, "float32")
    expected = np.array([0.5000004, 1234.56789, 3], np.float32)
    assert agrees(parsed.values, parsed.format, expected).all()
    assert list(agrees(parsed.values, parsed.format, np.array([0.9, 1234.5, 3], np.float32))) == [False, False, True]
    assert not parse_numbers(b"0.5 10 20\n").format.mixed
    assert not parse_numbers(b"0.50 1.20\n").format.mixed
