"""Promises: each colour conversion is the documented formula of its toolchain and swing, NV12 loses chroma resolution only, a region is
cut and never scaled, and the fast kernels change no byte."""

from __future__ import annotations

import math
import multiprocessing
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import accelerated, colour

LEVELS = st.integers(0, 255)

# The slow scalar references: the formulas as the standard and the documents write them, in exact numbers.


def exact_encode(red: int, green: int, blue: int, swing: str) -> tuple[float, float, float]:
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (blue - luma) / 1.772, (red - luma) / 1.402
    if swing == "full":
        return luma, u + 128, v + 128
    return 16 + luma * 219 / 255, 128 + u * 224 / 255, 128 + v * 224 / 255


def plugin_encode(red: int, green: int, blue: int, swing: str) -> list[int]:
    if swing == "studio":
        return [
            ((66 * red + 129 * green + 25 * blue + 128) >> 8) + 16 - 128,
            (-38 * red - 74 * green + 112 * blue + 128) >> 8,
            (112 * red - 94 * green - 18 * blue + 128) >> 8,
        ]
    return [
        ((77 * red + 150 * green + 29 * blue + 128) >> 8) - 128,
        (-43 * red - 84 * green + 127 * blue + 128) >> 8,
        (127 * red - 106 * green - 21 * blue + 128) >> 8,
    ]


def plugin_decode(y: int, u: int, v: int, swing: str) -> list[Fraction]:
    """RGB of centred YUV."""
    if swing == "full":
        luma, coefficients = Fraction(y + 128), ("1.402", "0.3441", "0.7141", "1.772")
    else:
        luma, coefficients = Fraction("1.164") * (y + 112), ("1.596", "0.392", "0.812", "2.016")
    rv, gu, gv, bu = (Fraction(item) for item in coefficients)
    return [luma + rv * v, luma - gu * u - gv * v, luma + bu * u]


def hmct_decode(y: int, u: int, v: int, swing: str) -> list[float]:
    if swing == "full":
        luma = y + 128.0
        return [luma + 1.4017 * v, luma - 0.3437 * u - 0.7142 * v, luma + 1.7722 * u]
    luma = 1.164 * (y + 112)
    return [luma + 1.596 * v, luma - 0.391 * u - 0.813 * v, luma + 2.018 * u]


@given(LEVELS, LEVELS, LEVELS, st.sampled_from(colour.SWINGS))
def test_yuv_is_the_standards_both_ways(red: int, green: int, blue: int, swing: str) -> None:
    pixel = np.array([[[[red, green, blue]]]], np.uint8)
    yuv = colour.rgb_to_yuv444(pixel, swing)
    np.testing.assert_allclose(yuv.ravel(), exact_encode(red, green, blue, swing), atol=1e-10)
    np.testing.assert_allclose(colour.yuv444_to_rgb(yuv, swing), pixel, atol=1e-9)


@pytest.mark.parametrize(("swing", "luma", "chroma"), [("full", (0, 255), (0, 255)), ("studio", (16, 235), (16, 240))])
def test_each_swing_spans_its_documented_range(swing: str, luma: tuple[int, int], chroma: tuple[int, int]) -> None:
    corners = np.array([[[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]], np.uint8)[None]
    yuv = colour.to_uint8(colour.rgb_to_yuv444(corners, swing))
    assert (yuv[..., 0].min(), yuv[..., 0].max()) == luma
    assert chroma[0] <= yuv[..., 1:].min() <= chroma[0] + 1  # of full swing 0.5 above the lowest, which is rounded up
    assert yuv[..., 1:].max() == chroma[1]
    centred = colour.rgb2centered_yuv(corners, swing, axis=-1)
    assert centred[..., 0].min() == luma[0] - 128
    # The plugin's 8-bit coefficients end one level inside the standard's range.
    assert luma[1] - 129 <= centred[..., 0].max() <= luma[1] - 128
    assert chroma[0] - 128 <= centred[..., 1:].min() <= chroma[0] - 127
    assert chroma[1] - 129 <= centred[..., 1:].max() <= chroma[1] - 128


@given(LEVELS, LEVELS, LEVELS, st.sampled_from(colour.SWINGS))
def test_rgb2centered_yuv_is_the_8_bit_formula(red: int, green: int, blue: int, swing: str) -> None:
    pixel = np.array([red, green, blue], np.uint8).reshape(1, 3, 1, 1)
    found = colour.rgb2centered_yuv(pixel, swing)
    assert found.dtype == np.int32
    assert found.ravel().tolist() == plugin_encode(red, green, blue, swing)
    np.testing.assert_array_equal(colour.bgr2centered_yuv(pixel[:, ::-1], swing), found)
    np.testing.assert_array_equal(colour.rgb2centered_yuv(pixel.transpose(0, 2, 3, 1), swing, axis=-1), found.transpose(0, 2, 3, 1))


def expected_int8(values: list[Fraction], mean: list[str], std: list[str], q_scale: str) -> list[int]:
    """Steps 2 and 3 of the documents: normalise, then floor(x / q_scale + 0.5), clamped."""
    normalised = [(values[i] - Fraction(mean[i])) / Fraction(std[i]) / Fraction(q_scale) for i in range(3)]
    return [max(-128, min(127, math.floor(value + Fraction(1, 2)))) for value in normalised]


CENTRED = st.integers(-128, 127)


@settings(max_examples=300)
@given(CENTRED, CENTRED, CENTRED, st.sampled_from(colour.SWINGS))
def test_centered_yuv2rgb_follows_the_documented_steps_ties_included(y: int, u: int, v: int, swing: str) -> None:
    tensor = np.array([y, u, v], np.int8).reshape(1, 3, 1, 1)
    expected = expected_int8(plugin_decode(y, u, v, swing), ["128"] * 3, ["128"] * 3, "1/128")
    found = colour.centered_yuv2rgb(tensor, swing)
    assert found.dtype == np.int8
    assert found.shape == tensor.shape
    assert found.ravel().tolist() == expected
    assert colour.centered_yuv2bgr(tensor, swing).ravel().tolist() == expected[::-1]


def test_a_tie_is_rounded_up() -> None:
    ties = [
        (u, v)
        for u in range(-128, 128)
        for v in range(-128, 128)
        if (Fraction("0.3441") * u + Fraction("0.7141") * v) % 1 == Fraction(1, 2)
    ]
    assert ties
    for u, v in ties[:20]:
        tensor = np.array([0, u, v], np.int8).reshape(1, 3, 1, 1)
        green = plugin_decode(0, u, v, "full")[1] - 128
        assert colour.centered_yuv2rgb(tensor, "full")[0, 1, 0, 0] == max(-128, min(127, math.floor(green + Fraction(1, 2))))


def test_mean_and_std_are_in_the_order_of_the_result() -> None:
    tensor = np.array([[40, -30, 20], [-100, 90, -80]], np.int8).T.reshape(1, 3, 1, 2)
    mean, std = (120.0, 110.0, 100.0), (64.0, 32.0, 128.0)
    rgb = colour.centered_yuv2rgb(tensor, "full", mean, std, 0.25)
    bgr = colour.centered_yuv2bgr(tensor, "full", mean[::-1], std[::-1], 0.25)
    np.testing.assert_array_equal(bgr, rgb[:, ::-1])
    expected = [
        expected_int8(plugin_decode(*pixel, swing="full"), ["120", "110", "100"], ["64", "32", "128"], "1/4")
        for pixel in tensor[0, :, 0].T.tolist()
    ]
    assert rgb[0, :, 0].T.tolist() == expected


def test_the_documented_defaults_are_studio_and_one_over_128() -> None:
    tensor = np.arange(-60, 60, dtype=np.int8).reshape(1, 3, 5, 8)
    np.testing.assert_array_equal(colour.centered_yuv2rgb(tensor), colour.centered_yuv2rgb(tensor, "studio", (128.0,), (128.0,), 1 / 128))
    assert not np.array_equal(colour.centered_yuv2rgb(tensor), colour.centered_yuv2rgb(tensor, "full"))
    np.testing.assert_array_equal(colour.rgb2centered_yuv(tensor + 60), colour.rgb2centered_yuv(tensor + 60, "studio"))


def test_a_gray_picture_survives_the_plugins_way_there_and_back() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    for swing, worst in (("full", 0), ("studio", 1)):
        back = colour.centered_yuv2rgb(colour.rgb2centered_yuv(gray, swing).astype(np.int8), swing).astype(int) + 128
        assert np.abs(back - gray).max() <= worst


@given(CENTRED, CENTRED, CENTRED, st.sampled_from(colour.SWINGS))
def test_each_toolchain_decodes_with_its_own_coefficients(y: int, u: int, v: int, swing: str) -> None:
    tensor = np.array([[[[y, u, v]]]], np.int8)
    np.testing.assert_allclose(colour.centered_yuv_to_rgb(tensor, swing).ravel(), hmct_decode(y, u, v, swing), atol=1e-9)
    plugin = [float(value) for value in plugin_decode(y, u, v, swing)]
    np.testing.assert_allclose(colour.centered_yuv_to_rgb(tensor, swing, "openexplorer").ravel(), plugin, atol=1e-9)


@pytest.mark.parametrize("toolchain", list(colour.DECODERS))
@pytest.mark.parametrize("swing", colour.SWINGS)
def test_every_set_of_coefficients_is_the_standard_to_its_digits(toolchain: str, swing: str) -> None:
    tensor = np.stack(np.meshgrid(*[np.arange(-112, 112, 16)] * 3, indexing="ij"), -1).astype(np.int8)
    standard = colour.yuv444_to_rgb(tensor.astype(np.float64) + 128, swing)
    worst = float(np.abs(colour.centered_yuv_to_rgb(tensor, swing, toolchain) - standard).max())
    assert worst < 0.35


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: colour.rgb_to_yuv444(x, "half"), "no such swing"),
        (lambda x: colour.centered_yuv_to_rgb(x, "full", "nash"), "no colour coefficients"),
        (lambda x: colour.rgb_to_nv12(x, chroma="nearest"), "no such chroma rule"),
        (lambda x: colour.rgb_to_nv12(x, rounding="nearest"), "no such rounding"),
        (lambda x: colour.centered_yuv2rgb(x, mean=(1.0, 2.0), axis=-1), "mean is neither"),
        (lambda x: colour.nv12_to_intermediate(colour.rgb_to_nv12(x), layout="CHW"), "no such layout"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message) as caught:
        call(np.zeros((1, 4, 4, 3), np.uint8))
    assert caught.value.where["expected"]


def test_three_channels_are_needed() -> None:
    with pytest.raises(ArtifactError, match="three channels"):
        colour.rgb2centered_yuv(np.zeros((1, 4, 4, 3), np.uint8))


# --- NV12 --------------------------------------------------------------------------------------------------------------------


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


def scalar_round(value: Fraction, rounding: str) -> int:
    if rounding == "half_even":
        return round(value)
    if rounding == "half_away" and value < 0:
        return -math.floor(-value + Fraction(1, 2))
    return math.floor(value + Fraction(1, 2))


@pytest.mark.parametrize("rounding", ["half_up", "half_even", "half_away"])
@pytest.mark.parametrize("chroma", colour.CHROMA)
def test_chroma_goes_down_by_the_named_rule_and_up_by_replication(rng: np.random.Generator, chroma: str, rounding: str) -> None:
    yuv = rng.integers(0, 256, (2, 6, 4, 3)).astype(np.uint8)
    yuv[0, :2, :2, 1] = [[0, 1], [0, 1]]  # mean 0.5: a tie
    yuv[0, :2, :2, 2] = [[1, 2], [1, 2]]  # mean 1.5: another
    frames = colour.yuv444_to_nv12(yuv, chroma, rounding)
    full = colour.nv12_to_yuv444(frames)
    for n in range(2):
        for y in range(6):
            for x in range(4):
                assert full[n, y, x, 0] == yuv[n, y, x, 0]
                for channel in (1, 2):
                    cell = yuv[n, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2, channel]
                    value = Fraction(int(cell.sum()), 4) if chroma == "average" else Fraction(int(cell[0, 0]))
                    assert full[n, y, x, channel] == scalar_round(value, rounding)
                    assert frames[n, 6 + y // 2, x // 2 * 2 + channel - 1] == full[n, y, x, channel]


def test_what_was_subsampled_once_is_not_changed_again(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (2, 9, 8)).astype(np.uint8)
    for chroma in colour.CHROMA:
        np.testing.assert_array_equal(colour.yuv444_to_nv12(colour.nv12_to_yuv444(frames), chroma), frames)


def test_chroma_is_averaged_before_it_is_rounded() -> None:
    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, 0, 0] = (255, 0, 0)
    yuv = colour.rgb_to_yuv444(picture)[0, ..., 1:].reshape(4, 2)
    frame = colour.rgb_to_nv12(picture)
    np.testing.assert_array_equal(frame[0, 2], np.floor(yuv.mean(axis=0) + 0.5))


@pytest.mark.parametrize("shape", [(1, 3, 4, 3), (1, 4, 3, 3), (1, 4, 4, 4), (4, 4, 3)])
def test_odd_or_wrong_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match="even height and width"):
        colour.rgb_to_nv12(np.zeros(shape, np.uint8))
    with pytest.raises(ArtifactError, match="even height and width"):
        colour.yuv444_to_nv12(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "frames", [np.zeros((1, 7, 4), np.uint8), np.zeros((1, 6, 3), np.uint8), np.zeros((1, 6, 4), np.int8), np.zeros((6, 4))]
)
def test_a_frame_that_is_no_nv12_is_refused(frames: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="not an NV12 frame"):
        colour.nv12_to_yuv444(frames)


# --- region of interest --------------------------------------------------------------------------------------------------------


def test_a_region_holds_its_last_column_and_row_and_its_own_chroma(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (2, 18, 16)).astype(np.uint8)
    roi = (2, 4, 9, 7)  # as `--roi=2,4,9,7`: 8 columns, 4 rows
    found = colour.crop_nv12(frames, roi, (4, 8))
    assert found.shape == (2, 6, 8)
    np.testing.assert_array_equal(colour.nv12_to_yuv444(found), colour.nv12_to_yuv444(frames)[:, 4:8, 2:10])


@pytest.mark.parametrize(
    ("roi", "size", "message"),
    [
        ((1, 0, 8, 3), None, "cuts chroma pairs"),
        ((0, 1, 7, 4), None, "cuts chroma pairs"),
        ((0, 0, 8, 3), None, "cuts chroma pairs"),
        ((0, 0, 7, 4), None, "cuts chroma pairs"),
        ((-2, 0, 7, 3), None, "cuts chroma pairs"),
        ((8, 0, 7, 3), None, "cuts chroma pairs"),
        ((0, 0, 17, 3), None, "not inside the frame"),
        ((0, 0, 7, 13), None, "not inside the frame"),
        ((0, 0, 7, 3), (8, 8), "has to be scaled"),
    ],
)
def test_a_region_that_would_be_guessed_is_refused(roi: colour.Region, size: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        colour.crop_nv12(np.zeros((1, 18, 16), np.uint8), roi, size)
    assert "roi {},{},{},{}".format(*roi) in caught.value.where["found"]


# --- the fast path -------------------------------------------------------------------------------------------------------------


def slow_intermediate(frames: np.ndarray) -> np.ndarray:
    return (colour.nv12_to_yuv444(frames).astype(np.int16) - 128).astype(np.int8)


@pytest.fixture(params=["0", "1"])
def accelerate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("QATLADDER_ACCELERATE", request.param)
    return str(request.param)


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 6, 4), (3, 9, 6), (1, 24, 32), (2, 12, 20), (0, 6, 4)])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_every_path_gives_the_same_bytes(rng: np.random.Generator, accelerate: str, shape: tuple[int, ...], layout: str) -> None:
    frames = rng.integers(0, 256, shape).astype(np.uint8)
    expected = slow_intermediate(frames)
    if layout == "NCHW":
        expected = expected.transpose(0, 3, 1, 2)
    found = colour.nv12_to_intermediate(frames, layout=layout)
    assert found.dtype == np.int8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    out = np.full(expected.shape, 77, np.int8)
    assert colour.nv12_to_intermediate(frames, out, layout) is out
    np.testing.assert_array_equal(out, expected)


def test_all_byte_values_are_centred(accelerate: str) -> None:
    frames = np.arange(24 * 16, dtype=np.uint32).astype(np.uint8).reshape(1, 24, 16)
    np.testing.assert_array_equal(colour.nv12_to_intermediate(frames), slow_intermediate(frames))


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_padded_and_unaligned_rows_are_read_by_their_stride(rng: np.random.Generator, accelerate: str, width: int, start: int) -> None:
    rows = rng.integers(0, 256, (2, 12, 16)).astype(np.uint8)
    view = rows[:, :, start : start + width]
    np.testing.assert_array_equal(colour.nv12_to_intermediate(view), slow_intermediate(np.ascontiguousarray(view)))
    reversed_rows = rows[:, :, ::-1][:, :, :width]
    np.testing.assert_array_equal(colour.nv12_to_intermediate(reversed_rows), slow_intermediate(np.ascontiguousarray(reversed_rows)))


def test_a_read_only_file_is_read(rng: np.random.Generator, accelerate: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    frames = rng.integers(0, 256, (2, 12, 16)).astype(np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    found = colour.nv12_to_intermediate(np.load(tmp_path / "frames.npy", mmap_mode="r"))
    np.testing.assert_array_equal(found, slow_intermediate(frames))


def test_the_kernels_are_really_asked(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("QATLADDER_ACCELERATE", "1")
    kernels = accelerated.load("colour", 0)
    assert kernels is not None
    called = []
    monkeypatch.setattr(kernels, "nhwc", lambda *arrays: called.append(arrays))
    colour.nv12_to_intermediate(rng.integers(0, 256, (1, 6, 8)).astype(np.uint8))
    assert bool(called) == (sys.byteorder == "little")


def test_a_forked_process_has_its_own_threads(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("QATLADDER_ACCELERATE", "1")
    frames = rng.integers(0, 256, (2, 12, 16)).astype(np.uint8)
    expected = slow_intermediate(frames)
    np.testing.assert_array_equal(colour.nv12_to_intermediate(frames), expected)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(colour.nv12_to_intermediate, (frames,)).get(timeout=30), expected)


@pytest.mark.parametrize(
    "out", [np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 3, 4, 4), np.int8), np.zeros((1, 4, 3, 4), np.int8).transpose(0, 1, 3, 2)]
)
def test_a_tensor_that_does_not_fit_is_not_written_into(out: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="write into"):
        colour.nv12_to_intermediate(np.zeros((1, 6, 4), np.uint8), out)
