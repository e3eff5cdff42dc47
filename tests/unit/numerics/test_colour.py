"""Promises: NV12 and back loses chroma resolution only, and the conversion is the BPU's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError
from qatladder.numerics import colour


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_a_flat_colour_survives_nv12_within_rounding(red: int, green: int, blue: int) -> None:
    picture = np.full((1, 4, 4, 3), (red, green, blue), np.uint8)
    tensor = (colour.nv12_to_yuv444(colour.rgb_to_nv12(picture)).astype(np.int16) - 128).astype(np.int8)
    back = colour.centered_yuv_to_rgb(tensor)
    # Y, U, V are rounded (0.5 each), times the largest coefficient sum 1 + 1.7722, plus clipping of chroma at 255.
    assert np.abs(back - picture).max() <= 0.5 * (1 + 1.7722) + 1.0


def test_luma_is_exact_to_rounding_whatever_the_chroma(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (3, 6, 8, 3)).astype(np.uint8)
    frames = colour.rgb_to_nv12(pictures)
    assert frames.shape == (3, 9, 8)
    expected = np.floor(pictures @ np.array([0.299, 0.587, 0.114]) + 0.5)
    np.testing.assert_array_equal(frames[:, :6], expected)


def test_chroma_is_averaged_down_and_replicated_up() -> None:
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, 0, 0] = (255, 0, 0)
    yuv = colour.rgb_to_yuv444(picture)[0, ..., 1:].reshape(4, 2)
    frame = colour.rgb_to_nv12(picture)
    np.testing.assert_array_equal(frame[0, 2], np.floor(yuv.mean(axis=0) + 0.5))
    full = colour.nv12_to_yuv444(frame)
    assert (full[0, ..., 1:] == full[0, 0, 0, 1:]).all()


@pytest.mark.parametrize("shape", [(1, 3, 4, 3), (1, 4, 3, 3), (1, 4, 4, 4), (4, 4, 3)])
def test_odd_or_wrong_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match="even height and width"):
        colour.rgb_to_nv12(np.zeros(shape, np.uint8))


def test_a_frame_that_is_no_nv12_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not an NV12 frame"):
        colour.nv12_to_yuv444(np.zeros((1, 7, 4), np.uint8))
