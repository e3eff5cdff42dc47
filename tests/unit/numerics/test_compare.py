"""Promises: one flipped bit is found, statistics are those of plain numpy, and injected faults are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics import compare as module
from qatladder.numerics.compare import compare, fingerprint


@given(st.integers(0, 999), st.integers(0, 7))
def test_one_flipped_bit_is_found(index: int, bit: int) -> None:
    expected = np.random.default_rng(1).integers(-128, 128, (10, 100)).astype(np.int8)
    found = expected.copy()
    found.reshape(-1).view(np.uint8)[index] ^= 1 << bit
    result = compare(expected, found)
    assert not result
    assert result.mismatches == 1
    assert result.first == (index // 100, index % 100)


def test_equal_arrays_are_true_and_a_negative_zero_is_not_zero() -> None:
    zeros = np.zeros(4, np.float32)
    assert compare(zeros, zeros)
    assert not compare(zeros, -zeros)


def test_statistics_are_those_of_numpy_whatever_the_chunk(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a = rng.normal(size=(7, 131)).astype(np.float32)
    b = (a + rng.normal(scale=0.01, size=a.shape)).astype(np.float32)
    whole = compare(a, b)
    monkeypatch.setattr(module, "CHUNK", 17)
    chunked = compare(a, b)
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    for result in (whole, chunked):
        assert result.max_abs == np.abs(x - y).max()
        assert result.mean_abs == pytest.approx(np.abs(x - y).mean(), rel=1e-12)
        assert result.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
        assert result.mismatches == int((a != b).sum())
    assert whole.first == chunked.first


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


def test_nothing_and_nan_are_refused() -> None:
    with pytest.raises(ArtifactError, match="empty"):
        compare(np.zeros((0, 3), np.int8), np.zeros((0, 3), np.int8))
    with pytest.raises(ArtifactError, match="NaN"):
        compare(np.zeros(2, np.float32), np.array([0, np.nan], np.float32))


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(2, 12, 12, 3)).astype(np.float32)


FAULTS = {
    "channel_swap": lambda x: x[..., ::-1],
    "offset": lambda x: x + 0.5,
    "scale": lambda x: x * 255,
    "transposed": lambda x: x.swapaxes(1, 2),
    "shifted": lambda x: np.roll(x, 1, axis=2),
    "all_zero": lambda x: np.zeros_like(x),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_an_injected_fault_is_named(picture: np.ndarray, cause: str) -> None:
    mark = fingerprint(picture, np.ascontiguousarray(FAULTS[cause](picture)))
    assert mark.cause == cause
    assert mark.confidence >= 0.9


def test_integer_faults_are_named(rng: np.random.Generator) -> None:
    x = rng.integers(-100, 100, (2, 8, 9, 4)).astype(np.int32)
    off_by_one = x + rng.integers(0, 2, x.shape)
    assert fingerprint(x, off_by_one).cause == "rounding"
    one = x.copy()
    one[..., 2] = rng.integers(-100, 100, one.shape[:-1])
    assert fingerprint(x, one).cause == "single_channel"
    assert fingerprint(x, np.clip(x, -50, 50)).cause == "clamped"
    assert fingerprint(x, rng.integers(-100, 100, x.shape)).cause == "none"


def test_one_integer_off_by_one_is_no_shift_whatever_the_shape() -> None:
    for shape in ((4, 1, 2, 3), (4, 2, 2, 3), (1, 10), (2, 8, 8, 3)):
        a = np.random.default_rng(3).integers(-30000, 30000, shape).astype(np.int32)
        b = a.copy()
        b.reshape(-1)[1] += 1
        assert fingerprint(a, b).cause in ("rounding", "single_channel"), shape
