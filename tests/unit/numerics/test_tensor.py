"""Promises: padding goes in and out by the stated strides, a buffer of the wrong size is never read, and each rounding is the named one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics.tensor import dequantize, pad, quantize, unpad


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from(["int8", "int16", "int32", "float32"]),
    st.data(),
)
def test_what_is_padded_comes_back(shape: list[int], gap: int, dtype: str, data: st.DataObject) -> None:
    item = np.dtype(dtype).itemsize
    strides, step = [], item
    for size in reversed(shape):
        strides.insert(0, step)
        step = size * step + gap * item
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    buffer = pad(array, strides, step)
    assert len(buffer) == step
    np.testing.assert_array_equal(unpad(buffer, dtype, shape, strides, step), array)


def test_logical_nchw_with_physical_nhwc_strides() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int32).reshape(1, 2, 3, 4)
    strides = (3 * 4 * 16 * 4, 4, 4 * 16 * 4, 16 * 4)  # channels innermost, padded to 16
    buffer = pad(array, strides, 3 * 4 * 16 * 4)
    raw = np.frombuffer(buffer, np.int32).reshape(3, 4, 16)
    np.testing.assert_array_equal(raw[..., :2], array[0].transpose(1, 2, 0))
    assert not raw[..., 2:].any()
    np.testing.assert_array_equal(unpad(buffer, "int32", array.shape, strides, len(buffer)), array)


@pytest.mark.parametrize("missing", [1, 4, 64])
def test_a_truncated_dump_is_refused_with_both_sizes(missing: int) -> None:
    with pytest.raises(ArtifactError, match="wrong size") as caught:
        unpad(bytes(256 - missing), "int8", (1, 16), (16, 1), 256, "logits")
    assert caught.value.where["expected"] == "256 bytes"
    assert caught.value.where["found"] == f"{256 - missing} bytes"


def test_strides_that_reach_beyond_the_tensor_are_refused() -> None:
    with pytest.raises(ArtifactError, match="reach beyond"):
        unpad(bytes(16), "int32", (2, 4), (16, 4), 16)
    with pytest.raises(ArtifactError, match="does not fit"):
        pad(np.zeros((2, 4), np.int32), (16, 4), 16)


def test_the_roundings_differ_on_ties_only() -> None:
    ties = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
    assert quantize(ties, [1.0], "half_up").tolist() == [-2, -1, 0, 1, 2, 3]
    assert quantize(ties, [1.0], "half_even").tolist() == [-2, -2, 0, 0, 2, 2]
    assert quantize(ties, [1.0], "half_away").tolist() == [-3, -2, -1, 1, 2, 3]


@given(st.floats(-200, 200, width=32).filter(lambda x: abs(abs(x) % 1 - 0.5) > 1e-3))
def test_away_from_ties_they_agree(value: float) -> None:
    array = np.array([value], np.float32)
    answers = {int(quantize(array, [1.0], rounding)[0]) for rounding in ("half_up", "half_even", "half_away")}
    assert len(answers) == 1


def test_quantised_values_are_clamped_to_the_type() -> None:
    values = np.array([-1e6, 1e6], np.float32)
    assert quantize(values, [0.5], "half_up").tolist() == [-128, 127]
    assert quantize(values, [0.5], "half_up", bits=16).tolist() == [-32768, 32767]


def test_a_scale_per_channel_follows_its_axis(rng: np.random.Generator) -> None:
    integers = rng.integers(-128, 128, (2, 3, 4, 5)).astype(np.int8)
    scale = [0.5, 0.25, 2.0]
    values = dequantize(integers, scale, axis=1)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values[:, 2], integers[:, 2].astype(np.float32) * 2)
    np.testing.assert_array_equal(quantize(values, scale, "half_even", axis=1), integers)


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such rounding"):
        quantize(np.zeros(1, np.float32), [1.0], "nearest")
