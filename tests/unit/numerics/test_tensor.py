"""Promises: padding goes in and out by the stated strides, and a buffer of the wrong size is never read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics.tensor import pad, unpad


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
