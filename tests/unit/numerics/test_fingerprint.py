"""Promises: each mistake teams make is named, two at once are told apart, and where there is none, none is named."""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.numerics.faults import FAULTS, PAIRS, header, shift_right

from qatladder.numerics.fingerprint import CAUSES, fingerprint

SHAPES: List[Tuple[Tuple[int, ...], int]] = [
    ((4, 3, 32, 48), 1),
    ((4, 32, 48, 3), 3),
    ((6, 16, 8, 8), 1),
    ((24, 10), 1),
    ((3, 20, 30, 7), 3),
    ((1, 3, 64, 64), 1),
    ((2, 8, 8, 72), 3),
]
KINDS = ("int8", "int16", "int32", "float32", "dequantised")


def tensor(kind: str, shape: Tuple[int, ...], axis: int, seed: int = 0) -> np.ndarray:
    """Smooth along the picture's axes, each channel with its own mean, as feature maps are."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape)
    for place in range(1, len(shape)):
        if place != axis and shape[place] > 4:
            values = values + np.roll(values, 1, place) + np.roll(values, -1, place)
    values = values + 2 * rng.standard_normal([size if place == axis else 1 for place, size in enumerate(shape)])
    if kind == "dequantised":
        return (np.rint(values * 25) * 0.0371).astype(np.float32)
    if kind == "float32":
        return values.astype(np.float32)
    factor = {"int8": 25, "int16": 2000, "int32": 3000}[kind]
    limits = np.iinfo(kind)
    return np.clip(np.rint(values * factor), limits.min, limits.max).astype(kind)


def injected(a: np.ndarray, axis: int, *names: str) -> Any:
    """The tensor with the faults one after the other; None where one of them does nothing."""
    b = a
    for name in names:
        after = {**FAULTS, "header": header, "shift_right": shift_right}[name](b, axis, np.random.default_rng(5))
        if after is None or np.array_equal(after, b):
            return None
        b = after
    return None if np.array_equal(a, b) else b


def cases(*names: str) -> Iterator[Tuple[str, Tuple[int, ...], np.ndarray, np.ndarray]]:
    for shape, axis in SHAPES:
        for kind in KINDS:
            a = tensor(kind, shape, axis)
            b = injected(a, axis, *names)
            if b is not None:
                yield kind, shape, a, b


@pytest.mark.parametrize("name", [*FAULTS, "header", "shift_right"])
def test_a_mistake_is_named(name: str) -> None:
    wanted = {"header": "shifted", "shift_right": "scale"}.get(name, name)
    seen = 0
    for kind, shape, a, b in cases(name):
        found = fingerprint(a, b)
        assert found.cause == wanted, (kind, shape, str(found))
        assert found.confidence >= 0.9
        assert not found.also
        seen += 1
    assert seen >= 10


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_two_mistakes_at_once_are_told_apart(names: Tuple[str, str]) -> None:
    """In most tensors; where one hides the other (8 columns of which 2 are lost, a cut of one step), less is said, and nothing wrong."""
    both = seen = 0
    for kind, shape, a, b in cases(*names):
        if a.size < 3000:
            continue
        found = fingerprint(a, b)
        said = {found.cause, found.also} - {""}
        assert said <= {*names, "none", "rounding"}, (kind, shape, str(found))
        both += said == set(names)
        seen += 1
    assert seen >= 4
    assert both >= 0.6 * seen


@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm(kind: str) -> None:
    for shape, axis in SHAPES:
        rng = np.random.default_rng(3)
        a = tensor(kind, shape, axis)
        assert fingerprint(a, a.copy()).cause == "none"
        assert fingerprint(a, a.copy()).confidence == 1.0
        mixed = rng.permutation(a.reshape(-1)).reshape(shape)
        assert fingerprint(a, mixed).cause == "none", (shape, str(fingerprint(a, mixed)))
        other = tensor(kind, shape, axis, seed=9)
        assert fingerprint(a, other).cause == "none", (shape, str(fingerprint(a, other)))
        noisy = a + rng.standard_normal(shape) * a.std()
        noisy = noisy.astype(a.dtype) if a.dtype.kind == "f" else np.clip(np.rint(noisy), np.iinfo(a.dtype).min, np.iinfo(a.dtype).max)
        assert fingerprint(a, noisy.astype(a.dtype)).cause == "none", (shape, str(fingerprint(a, noisy.astype(a.dtype))))


@pytest.mark.parametrize("shape", [(4, 1, 2, 3), (4, 2, 2, 3), (1, 10), (2, 8, 8, 3), (17,), (1,)])
def test_one_integer_off_by_one_is_rounding_whatever_the_shape(shape: Tuple[int, ...]) -> None:
    a = np.random.default_rng(3).integers(-30000, 30000, shape).astype(np.int32)
    b = a.copy()
    b.reshape(-1)[-1] += 1
    assert fingerprint(a, b).cause in ("rounding", "single_channel", "padding", "offset", "none")
    assert a.size < 5 or fingerprint(a, b).cause not in ("shifted", "offset", "scale")


def test_parameters_are_told() -> None:
    a = tensor("int8", (2, 3, 16, 24), 1).astype(np.int32)
    assert fingerprint(a, a + 128).detail == "constant offset 128"
    assert "by 3 along axis 3" in fingerprint(a, np.roll(a, 3, 3)).detail
    assert "RGB and BGR" in fingerprint(a, a[:, ::-1]).detail
    one = a.copy()
    one[:, 2] += 5
    assert fingerprint(a, one).detail == "only channel 2 differs: constant offset 5"
    cut = fingerprint(a, np.clip(a, -20, 30))
    assert (cut.cause, cut.detail) == ("clamped", "values are cut at -20 and 30")
    aligned = np.pad(a, ((0, 0), (0, 0), (0, 0), (0, 8))).reshape(2, -1)[:, : 3 * 16 * 24].reshape(a.shape)
    assert "rows of 24 were read from a tensor whose rows take 32" in fingerprint(a, aligned).detail


def test_a_missing_dequantisation_is_a_scale_per_channel() -> None:
    a = tensor("int32", (4, 6, 12, 12), 1)
    scales = np.array([0.5, 0.25, 0.125, 0.3, 0.7, 0.11], np.float32).reshape(1, 6, 1, 1)
    found = fingerprint((a * scales).astype(np.float32), a.astype(np.float32))
    assert found.cause == "scale"
    assert "per channel" in found.detail


def test_uint8_against_int8_is_an_offset_of_128() -> None:
    a = tensor("int8", (2, 3, 16, 16), 1)
    found = fingerprint(a, (a.astype(np.int16) + 128).astype(np.uint8))
    assert (found.cause, found.detail) == ("offset", "constant offset 128")
    assert fingerprint(a, (a.view(np.uint8) ^ 0x80).view(np.int8)).cause == "offset"


def test_tensors_of_two_shapes() -> None:
    a = tensor("int8", (1, 3, 16, 20), 1)
    nhwc = np.ascontiguousarray(a.transpose(0, 2, 3, 1))
    assert fingerprint(a, nhwc).cause == "transposed"
    assert fingerprint(a, np.pad(a, ((0, 0), (0, 0), (0, 0), (0, 12)))).cause == "padding"
    assert fingerprint(a, a.reshape(3, 16, 20)).cause == "none"
    assert fingerprint(a, a[..., :10]).cause == "none"
    both = fingerprint(a, np.pad(nhwc + 3, ((0, 0), (0, 0), (0, 0), (0, 1))).astype(np.int8))
    assert both.cause in ("none", "padding")


def test_bytes_of_floats_that_are_no_numbers_any_more() -> None:
    a = tensor("float32", (2, 3, 16, 16), 1)
    found = fingerprint(a, a.byteswap())
    assert (found.cause, found.confidence) == ("byte_order", 1.0)


def test_a_known_step_makes_rounding_of_it() -> None:
    a = tensor("float32", (2, 3, 16, 16), 1)
    b = (a + np.random.default_rng(0).integers(-1, 2, a.shape) * np.float32(0.05)).astype(np.float32)
    assert fingerprint(a, b, step=0.05).cause == "rounding"


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    dtype=st.sampled_from(["int8", "uint8", "int16", "int32", "float32", "float64", "float16", "bool"]),
    spread=st.sampled_from([0, 1, 3, 100]),
    seed=st.integers(0, 999),
)
def test_any_two_tensors_get_an_answer(shape: Any, dtype: str, spread: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lowest = 0 if dtype in ("uint8", "bool") else -spread
    a, b = (rng.integers(lowest, spread + 1, shape).astype(dtype) for _ in range(2))
    found = fingerprint(a, b)
    assert found.cause in CAUSES
    assert 0.0 <= found.confidence <= 1.0
    if found.cause != "none":
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_one_number_has_no_pattern(shape: tuple[int, ...]) -> None:
    assert fingerprint(np.full(shape, 3.0), np.full(shape, 4.0)).cause == "none"
