"""Promises: one flipped bit is found, statistics are those of plain numpy, states merge exactly, kernels and numpy agree to the last bit."""

from __future__ import annotations

import json
import os
import random
from contextlib import contextmanager
from typing import Any, Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics import accelerated
from qatladder.numerics import compare as module
from qatladder.numerics.compare import Comparison, Differences, compare, identical
from qatladder.numerics.tensor import pad, valid_view

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
EXACT = ("bool", "int8", "uint8", "int16", "uint16")


@contextmanager
def small_blocks(block: int = 128, spans: int = 4, kernels: str = "0") -> Iterator[None]:
    with mock.patch.object(module, "BLOCK", block), mock.patch.object(module, "SPAN", spans * block):
        with mock.patch.dict(os.environ, {"QATLADDER_ACCELERATE": kernels}):
            yield


def pair(dtype: str, shape: Any, seed: int = 0, equal: float = 0.5) -> Any:
    """Two tensors that differ in about half of their elements, small differences and large ones."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        a = rng.integers(0, 2, shape).astype(bool)
        return a, np.where(rng.random(shape) < equal, a, ~a)
    if kind.kind == "f":
        a = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)
        a[rng.random(shape) < 0.1] = 0
        b = (a * (1 + rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 0, shape))).astype(dtype)
    else:
        limits = np.iinfo(kind)
        low, high = max(int(limits.min), -(2**40)), min(int(limits.max), 2**40)
        a = rng.integers(low, high, shape, endpoint=True).astype(dtype)
        step = rng.integers(-3, 4, shape) * rng.choice([1, 1, 1, 40], shape)
        b = np.clip(a.astype(np.float64) + step, low, high).astype(dtype)
    return a, np.where(rng.random(shape) < equal, a, b)


def shown(found: Comparison) -> str:
    return json.dumps(found.to_json(profile=True), sort_keys=True)


@given(st.integers(0, 999), st.integers(0, 7))
def test_one_flipped_bit_is_found(index: int, bit: int) -> None:
    expected = np.random.default_rng(1).integers(-128, 128, (10, 100)).astype(np.int8)
    found = expected.copy()
    found.reshape(-1).view(np.uint8)[index] ^= 1 << bit
    result = compare(expected, found)
    assert not result
    assert not identical(expected, found)
    assert result.mismatches == 1
    assert result.first == (index // 100, index % 100)
    assert result.profile[1].mismatches[index % 100] == 1


def test_equal_arrays_are_true_and_a_negative_zero_is_not_zero() -> None:
    zeros = np.zeros(4, np.float32)
    assert compare(zeros, zeros)
    assert identical(zeros, zeros)
    assert not compare(zeros, -zeros)
    assert not identical(zeros, -zeros)


@pytest.mark.parametrize("kernels", ["0", "1"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_numpy(dtype: str, kernels: str) -> None:
    if kernels == "1" and not installed():
        pytest.skip("numba is not installed here")
    a, b = pair(dtype, (5, 7, 131))
    with small_blocks(kernels=kernels):
        found = compare(a, b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    error = y - x
    size = np.abs(error)
    assert found.count == a.size
    assert found.mismatches == np.count_nonzero(a != b)
    assert found.max_abs == size.max()
    assert found.mean_abs == pytest.approx(size.mean(), rel=1e-12)
    assert found.bias == pytest.approx(error.mean(), rel=1e-9, abs=1e-12 * size.max())
    assert found.mse == pytest.approx((error**2).mean(), rel=1e-12)
    assert found.cosine == pytest.approx((x * y).sum() / np.sqrt((x * x).sum()) / np.sqrt((y * y).sum()), rel=1e-12)
    assert found.snr_db == pytest.approx(10 * np.log10((x * x).sum() / (error**2).sum()), rel=1e-9)
    assert found.max_rel == np.max(size[x != 0] / np.abs(x[x != 0]))
    assert (found.peak, found.peak_found) == (np.abs(x).max(), np.abs(y).max())
    assert (found.zero_share, found.zero_share_found) == (np.mean(x == 0), np.mean(y == 0))
    assert found.first == tuple(np.argwhere(a != b)[0])
    if np.dtype(dtype).kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        assert found.saturation_share == np.mean((a == low) | (a == high))
        assert found.saturation_share_found == np.mean((b == low) | (b == high))
    if np.dtype(dtype).kind != "f":
        assert dict(found.histogram)[0] == np.count_nonzero(size == 0)
        assert dict(found.histogram)[4] == np.count_nonzero((size >= 4) & (size < 8))
        assert sum(count for _, count in found.histogram) == a.size
    for axis in range(3):
        others = tuple(index for index in range(3) if index != axis)
        assert found.profile[axis].mismatches == tuple((a != b).sum(axis=others))
        assert found.profile[axis].max_abs == tuple(size.max(axis=others))


def installed() -> bool:
    with mock.patch.dict(os.environ, {"QATLADDER_ACCELERATE": "1"}):
        return accelerated.load("compare", 0) is not None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (63,), (64,), (3, 1, 1), (2, 3, 65), (4, 128), (5, 2, 3, 129), (1, 4, 300), (2, 0x401)])
def test_kernels_and_numpy_agree_to_the_last_bit(dtype: str, shape: Any) -> None:
    if not installed():
        pytest.skip("numba is not installed here")
    for equal in (0.0, 0.9, 1.0):
        a, b = pair(dtype, shape, seed=3, equal=equal)
        with small_blocks():
            plain = shown(compare(a, b))
        with small_blocks(kernels="1"):
            fast = shown(compare(a, b))
        assert plain == fast


@pytest.mark.parametrize("kernels", ["0", "1"])
@settings(deadline=None, max_examples=40)
@given(
    dtype=st.sampled_from(DTYPES),
    blocks=st.integers(1, 9),
    rest=st.integers(0, 127),
    cuts=st.lists(st.integers(0, 9 * 128 + 127), max_size=6),
    seed=st.integers(0, 99),
)
def test_chunks_in_any_order_make_the_whole(kernels: str, dtype: str, blocks: int, rest: int, cuts: Any, seed: int) -> None:
    """Cut anywhere where sums are integers, at blocks where they are floats; merged in any order, through JSON."""
    a, b = pair(dtype, (blocks * 128 + rest,), seed)
    with small_blocks(kernels=kernels):
        whole = shown(compare(a, b))
        places = {cut if dtype in EXACT else cut // 128 * 128 for cut in cuts}
        edges = sorted({0, a.size} | {cut for cut in places if cut < a.size})
        chunks = []
        for start, stop in zip(edges, edges[1:]):
            state = Differences(dtype, a.shape)
            state.update(a[start:stop], b[start:stop], start)
            chunks.append(Differences.from_json(json.loads(json.dumps(state.to_json()))))
        random.Random(seed).shuffle(chunks)
        merged = chunks[0]
        for chunk in chunks[1:]:
            merged.merge(chunk)
        assert shown(merged.result(a.shape)) == whole


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "float64"])
def test_the_layout_in_memory_does_not_matter(dtype: str) -> None:
    a, b = pair(dtype, (6, 5, 9, 14))
    with small_blocks():
        whole = shown(compare(a, b))
        swapped = np.dtype(dtype).newbyteorder(">")
        views = [
            (np.asfortranarray(a), np.asfortranarray(b)),
            (a, np.asfortranarray(b)),
            (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), b),
            (np.repeat(a, 2, axis=3)[..., ::2], b),
            (a.astype(swapped), b.astype(swapped)),
        ]
        for left, right in views:
            assert shown(compare(left, right)) == whole
            assert not identical(left, right)
            assert identical(left, left.copy())


def test_padding_is_masked_by_the_strides() -> None:
    rng = np.random.default_rng(0)
    valid = rng.integers(-100, 100, (1, 5, 50, 3)).astype(np.int8)
    stride, size = (960, 192, 3, 1), 960
    left = bytearray(pad(valid, stride, size))
    right = bytearray(left)
    for row in range(5):
        right[row * 192 + 150 : (row + 1) * 192] = rng.bytes(42)
    views = [valid_view(bytes(buffer), "int8", valid.shape, stride, size) for buffer in (left, right)]
    assert left != right
    assert identical(*views)
    assert compare(*views)
    right[192] ^= 1
    views[1] = valid_view(bytes(right), "int8", valid.shape, stride, size)
    assert compare(*views).first == (0, 1, 0, 0)


@pytest.mark.parametrize(("dtype", "up"), [("float16", 3), ("float32", 3), ("float64", 3)])
def test_differences_of_floats_are_counted_in_ulp(dtype: str, up: int) -> None:
    a = np.array([1.5, -2.25, 0.0, 1e-3], dtype)
    b = a.copy()
    for _ in range(up):
        b[1] = np.nextafter(b[1], np.array(-np.inf, dtype))
    assert compare(a, b).max_ulp == up
    tiny = np.nextafter(np.array(0, dtype), np.array(1, dtype))
    assert compare(np.array([tiny]), np.array([-tiny])).max_ulp == 2
    assert compare(np.array([0.0], dtype), np.array([-0.0], dtype)).max_ulp == 0


def test_a_difference_of_all_of_float64_does_not_overflow() -> None:
    a, b = np.array([1e150]), np.array([-1e150])
    assert compare(a, b).max_ulp == 2**63 - 1


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (np.zeros((2, 3), np.int8), "shape or dtype"),
        (np.zeros((3, 2), np.int32), "shape or dtype"),
    ],
)
def test_unlike_arrays_are_refused(other: np.ndarray, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        compare(np.zeros((3, 2), np.int8), other)
    assert not identical(np.zeros((3, 2), np.int8), other)


def test_nothing_is_refused() -> None:
    with pytest.raises(ArtifactError, match="empty"):
        compare(np.zeros((0, 3), np.int8), np.zeros((0, 3), np.int8))
    with pytest.raises(ArtifactError, match="no chunk"):
        Differences("int8").result()
    with pytest.raises(ArtifactError, match="cannot be compared"):
        compare(np.zeros(2, np.complex64), np.zeros(2, np.complex64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("side", ["expected", "found"])
@pytest.mark.parametrize("kernels", ["0", "1"])
def test_a_number_that_is_none_is_refused_with_side_and_place(value: float, dtype: str, side: str, kernels: str) -> None:
    arrays = {name: np.ones(1000, dtype) for name in ("expected", "found")}
    arrays[side][700] = value
    with small_blocks(kernels=kernels):
        with pytest.raises(ArtifactError, match="NaN or infinity") as caught:
            compare(arrays["expected"], arrays["found"], "head")
    assert caught.value.where["side"] == side
    assert "first at 700" in caught.value.where["found"]


def test_sums_do_not_round_away_what_is_small() -> None:
    """A million differences of 1e-9 beside one of 1e9: a sum in one running float64 loses them."""
    a = np.zeros(1 << 20)
    b = np.full(1 << 20, 1e-9)
    b[0] = 1e9
    assert compare(a, b).mean_abs * a.size == pytest.approx(1e9 + (a.size - 1) * 1e-9, rel=1e-14)


def test_the_limits_of_a_narrower_type_can_be_given() -> None:
    a = np.array([-128, -5, 127, 3], np.int32)
    assert compare(a, a).saturation_share == 0
    assert compare(a, a, limits=(-128, 127)).saturation_share == 0.5


def test_json_holds_everything() -> None:
    a, b = pair("float32", (3, 70))
    data = compare(a, b).to_json(profile=True)
    assert json.loads(json.dumps(data, allow_nan=False))["profile"]
