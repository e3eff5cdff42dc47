"""Promises: one picture gives every rung's input for every pair of types the vendor knows, and two statements of one input are held
against each other field by field."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour
from qatladder.numerics.contract import (
    INTERMEDIATE_TYPES,
    RUNTIME_TYPES,
    SOURCE_TYPES,
    InputContract,
    diff,
    explain_difference,
    from_features,
    merge,
    nv12_tensor,
)
from qatladder.numerics.tensor import TensorContract


def contract(type_rt: str, type_train: str = "rgb", layout: str = "NCHW") -> InputContract:
    return InputContract("image", type_rt, type_train, layout, (123.675, 116.28, 103.53), (0.017, 0.0175, 0.0174))


@pytest.mark.parametrize(
    ("type_rt", "runtime_shape"),
    [("nv12", (2, 6, 8)), ("yuv444", (2, 4, 8, 3)), ("rgb", (2, 4, 8, 3)), ("bgr", (2, 4, 8, 3)), ("gray", (2, 4, 8, 1))],
)
def test_every_runtime_type_leads_to_its_intermediate_type(rng: np.random.Generator, type_rt: str, runtime_shape: tuple[int, ...]) -> None:
    pictures = rng.integers(0, 256, (2, 4, 8, 3)).astype(np.uint8)
    subject = contract(type_rt)
    runtime = subject.runtime(pictures)
    assert runtime.dtype == np.uint8
    assert runtime.shape == runtime_shape
    fed = subject.intermediate(runtime)
    assert fed.dtype == np.int8
    assert fed.shape == (2, 4, 8, 1 if type_rt == "gray" else 3)
    assert subject.intermediate_type == INTERMEDIATE_TYPES[type_rt]


@pytest.mark.parametrize("type_rt", ["rgb", "bgr"])
@pytest.mark.parametrize("type_train", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_without_chroma_loss_the_training_tensor_is_exact(rng: np.random.Generator, type_rt: str, type_train: str, layout: str) -> None:
    pictures = rng.integers(0, 256, (2, 4, 8, 3)).astype(np.uint8)
    subject = contract(type_rt, type_train, layout)
    through_the_board = subject.training_tensor(subject.intermediate(subject.runtime(pictures)))
    np.testing.assert_array_equal(through_the_board, subject.training_tensor_of_pictures(pictures))
    values = pictures[..., ::-1] if type_train == "bgr" else pictures
    expected = (values - np.array([123.675, 116.28, 103.53])) * np.array([0.017, 0.0175, 0.0174])
    np.testing.assert_allclose(through_the_board, expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected, rtol=1e-6)


def test_a_picture_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ArtifactError, match="uint8 RGB"):
        contract("nv12").runtime(np.zeros((1, 4, 4, 3), np.float32))


# --- every pair of the vendor's table, against the formulas written out pixel by pixel -----------------------------------------------

PAIRS = [(type_rt, type_train) for type_rt, trained in RUNTIME_TYPES.items() for type_train in trained if type_rt != "featuremap"]
COEFFICIENTS = {  # luma, V of red, U and V of green, U of blue; black
    ("hmct", "full"): (1.0, 1.4017, 0.3437, 0.7142, 1.7722, 128),
    ("hmct", "studio"): (1.164, 1.596, 0.391, 0.813, 2.018, 112),
    ("openexplorer", "full"): (1.0, 1.402, 0.3441, 0.7141, 1.772, 128),
    ("openexplorer", "studio"): (1.164, 1.596, 0.392, 0.812, 2.016, 112),
}


def half_up(value: float) -> int:
    return max(0, min(255, math.floor(value + 0.5)))


def yuv_of(pixel: np.ndarray, swing: str) -> list[float]:
    red, green, blue = (float(value) for value in pixel)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (blue - luma) / 1.772, (red - luma) / 1.402
    return [luma, 128 + u, 128 + v] if swing == "full" else [16 + luma * 219 / 255, 128 + u * 224 / 255, 128 + v * 224 / 255]


def scalar_chain(picture: np.ndarray, subject: InputContract) -> tuple[np.ndarray, np.ndarray]:
    """(intermediate NHWC, training NHWC) of one picture [H, W, 3]."""
    height, width, _ = picture.shape
    channels = 1 if subject.type_rt == "gray" else 3
    fed = np.zeros((height, width, channels), np.int64)
    trained = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            pixel = picture[y, x]
            if subject.type_rt == "nv12":
                cell = [yuv_of(picture[a, b], subject.swing) for a in (y // 2 * 2, y // 2 * 2 + 1) for b in (x // 2 * 2, x // 2 * 2 + 1)]
                levels = [half_up(yuv_of(pixel, subject.swing)[0]), *[half_up(sum(item[c] for item in cell) / 4) for c in (1, 2)]]
            elif subject.type_rt == "yuv444":
                levels = [half_up(value) for value in yuv_of(pixel, subject.swing)]
            elif subject.type_rt == "gray":
                levels = [half_up(yuv_of(pixel, "full")[0])]
            else:
                levels = [int(value) for value in (pixel if subject.type_rt == "rgb" else pixel[::-1])]
            fed[y, x] = [level - 128 for level in levels]
            values = [float(level) for level in levels]
            if subject.intermediate_type == "yuv444_128" and subject.type_train != "yuv444":
                luma, rv, gu, gv, bu, black = COEFFICIENTS[subject.toolchain, subject.swing]
                a, u, v = luma * (levels[0] - 128 + black), levels[1] - 128, levels[2] - 128
                values = [a + rv * v, a - gu * u - gv * v, a + bu * u]
                values = values[::-1] if subject.type_train == "bgr" else values
            elif subject.type_rt in ("rgb", "bgr") and subject.type_rt != subject.type_train:
                values = values[::-1]
            for c, value in enumerate(values):
                mean, scale = (
                    numbers[c % len(numbers)] if numbers else default for numbers, default in ((subject.mean, 0), (subject.scale, 1))
                )
                trained[y, x, c] = (value - mean) * scale
    return fed, trained


@pytest.mark.parametrize(("type_rt", "type_train"), PAIRS)
@pytest.mark.parametrize("swing", colour.SWINGS)
@pytest.mark.parametrize("toolchain", ["hmct", "openexplorer"])
@pytest.mark.parametrize(("layout", "layout_rt"), [("NCHW", "NHWC"), ("NHWC", "NCHW")])
def test_every_pair_is_the_written_out_formula(
    rng: np.random.Generator, type_rt: str, type_train: str, swing: str, toolchain: str, layout: str, layout_rt: str
) -> None:
    pictures = rng.integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    pictures[0, 0, :3] = [[0, 0, 255], [255, 0, 0], [255, 255, 255]]
    numbers = ((110.0,), (0.02,)) if type_train == "gray" else ((110.0, 120.0, 130.0), (0.02, 0.03, 0.01))
    subject = InputContract("image", type_rt, type_train, layout, *numbers, swing=swing, toolchain=toolchain, layout_rt=layout_rt)
    runtime = subject.runtime(pictures)
    assert runtime.dtype == np.uint8
    fed = subject.intermediate(runtime)
    assert fed.dtype == np.int8
    trained = subject.training_tensor(fed)
    assert trained.dtype == np.float32
    fed = fed.transpose(0, 2, 3, 1) if layout_rt == "NCHW" else fed
    trained = trained.transpose(0, 2, 3, 1) if layout == "NCHW" else trained
    for index, picture in enumerate(pictures):
        expected_fed, expected_trained = scalar_chain(picture, subject)
        np.testing.assert_array_equal(fed[index], expected_fed)
        np.testing.assert_allclose(trained[index], expected_trained, atol=1e-5)


@pytest.mark.parametrize(("type_rt", "type_train"), PAIRS)
def test_a_batch_is_its_pictures_one_by_one(rng: np.random.Generator, type_rt: str, type_train: str) -> None:
    pictures = rng.integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    subject = InputContract("image", type_rt, type_train, "NHWC", shape=(1, 4, 6, 1 if type_rt == "gray" else 3))
    whole = subject.intermediate(subject.runtime(pictures))
    for index in range(3):
        np.testing.assert_array_equal(subject.intermediate(subject.runtime(pictures[index : index + 1])), whole[index : index + 1])


def test_a_model_trained_on_the_plugins_yuv_is_fed_whole_numbers(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (1, 4, 6, 3)).astype(np.uint8)
    subject = InputContract("image", "nv12", "yuv444", "NCHW", (128.0,), (1 / 128,), toolchain="openexplorer")
    expected = colour.rgb2centered_yuv(pictures.transpose(0, 3, 1, 2), "full") / 128
    np.testing.assert_array_equal(subject.training_tensor_of_pictures(pictures), expected.astype(np.float32))
    gray = replace(subject, type_rt="gray", type_train="gray")
    np.testing.assert_array_equal(gray.training_tensor_of_pictures(pictures), expected[:, :1].astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message", "expected"),
    [
        ({"type_rt": "gray"}, "cannot be converted", "gray"),
        ({"type_train": "gray"}, "cannot be converted", "rgb | bgr | yuv444"),
        ({"type_rt": "nv21"}, "no such runtime type", "nv12 | yuv444"),
        ({"type_rt": ""}, "no such runtime type", "nv12"),
        ({"source": "ddr"}, "does not deliver", "yuv444 | rgb"),
        ({"source": "camera"}, "does not deliver", "pyramid | resizer | ddr"),
        ({"swing": "video"}, "no such swing", "full | studio"),
        ({"swing": "studio", "type_train": "yuv444"}, "studio swing", ""),
        ({"roi": (0, 0, 7, 3), "source": "pyramid"}, "only the source resizer", ""),
        ({"roi": (0, 0, 7, 3), "source": "resizer", "shape": (1, 3, 8, 8)}, "has to be scaled", "8x8"),
        ({"type_rt": "featuremap", "type_train": "featuremap", "bits": 4}, "integers of this width", "8 | 16"),
    ],
)
def test_what_the_tools_do_not_support_is_refused_with_what_goes(changes: dict[str, Any], message: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        replace(contract("nv12"), **changes).check()
    assert expected in caught.value.where.get("expected", "")


@pytest.mark.parametrize("source", list(SOURCE_TYPES))
def test_every_supported_combination_passes_the_check(source: str) -> None:
    for type_rt in SOURCE_TYPES[source]:
        for type_train in RUNTIME_TYPES[type_rt]:
            subject = InputContract("x", type_rt, type_train, "NCHW", source=source)
            assert subject.check() is subject


# --- region of interest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_rt", ["nv12", "gray"])
@pytest.mark.parametrize("layout_rt", ["NHWC", "NCHW"])
def test_the_resizer_is_fed_whole_frames_and_sees_the_region(rng: np.random.Generator, type_rt: str, layout_rt: str) -> None:
    frames = rng.integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
    train = "rgb" if type_rt == "nv12" else "gray"
    sizes = (1, 3 if type_rt == "nv12" else 1, 4, 6)
    subject = InputContract("x", type_rt, train, "NCHW", shape=sizes, source="resizer", layout_rt=layout_rt, roi=(2, 4, 7, 7)).check()
    plain = replace(subject, roi=None, source="pyramid")
    runtime = subject.runtime(frames)
    assert runtime.shape[:1] == (2,)
    assert runtime[0].size == frames[0, ..., 0].size * (1.5 if type_rt == "nv12" else 1)
    cropped = np.ascontiguousarray(frames[:, 4:8, 2:8])
    np.testing.assert_array_equal(subject.intermediate(runtime), plain.intermediate(plain.runtime(cropped)))
    np.testing.assert_array_equal(subject.training_tensor_of_pictures(frames), plain.training_tensor_of_pictures(cropped))


# --- featuremaps ---------------------------------------------------------------------------------------------------------------


def featuremap(**changes: Any) -> InputContract:
    tensor = TensorContract("x", "int8", (1, 5, 4, 3), (1, 5, 4, 16), (320, 64, 16, 1), 320, "ddr", "NHWC", (0.5, 0.25, 2.0), axis=3)
    return replace(InputContract("x", "featuremap", "featuremap", "NCHW", shape=(1, 3, 5, 4), source="ddr", tensor=tensor), **changes)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["half_up", "half_even", "half_away"]), st.sampled_from([8, 16]))
def test_a_featuremap_is_quantised_per_channel_by_the_named_rounding(seed: int, rounding: str, bits: int) -> None:
    values = np.random.default_rng(seed).integers(-400, 400, (2, 3, 5, 4)).astype(np.float32) / 8  # many ties
    found = featuremap(rounding=rounding, bits=bits).quantise(values)
    assert found.dtype == "int{}".format(bits)
    for index in np.ndindex(*values.shape):
        exact = float(values[index]) / (0.5, 0.25, 2.0)[index[1]]
        whole = {
            "half_up": math.floor(exact + 0.5),
            "half_even": round(exact),
            "half_away": int(math.copysign(math.floor(abs(exact) + 0.5), exact)),
        }
        assert found[index] == max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, whole[rounding]))


def test_each_toolchain_has_its_rounding() -> None:
    tie = np.full((1, 3, 5, 4), 0.25, np.float32)
    assert featuremap().quantise(tie)[0, 0, 0, 0] == 0  # 0.25 / 0.5 to even
    assert featuremap(toolchain="openexplorer").quantise(tie)[0, 0, 0, 0] == 1  # floor(0.5 + 0.5)
    with pytest.raises(ConfigError, match="no rounding is stated"):
        featuremap(toolchain="nash").quantise(tie)
    with pytest.raises(ConfigError, match="no source states the scale"):
        featuremap(tensor=None).quantise(tie)


def test_dequantising_is_the_integers_times_their_channels_scale(rng: np.random.Generator) -> None:
    integers = rng.integers(-128, 128, (2, 3, 5, 4)).astype(np.int8)
    values = featuremap().dequantise(integers)
    np.testing.assert_array_equal(values[:, 2], integers[:, 2].astype(np.float32) * 2)
    np.testing.assert_array_equal(featuremap().quantise(values), integers)


# --- bytes ---------------------------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_featuremap_lie_where_the_compiler_says(rng: np.random.Generator) -> None:
    integers = rng.integers(-128, 128, (2, 3, 5, 4)).astype(np.int8)
    packed = featuremap().pack(integers)
    assert packed.shape == (2, 320)
    for n, c, y, x in np.ndindex(*integers.shape):
        assert packed[n, 64 * y + 16 * x + c].view(np.int8) == integers[n, c, y, x]
    assert not packed.reshape(2, 5, 4, 16)[..., 3:].any()
    np.testing.assert_array_equal(featuremap().unpack(packed, integers), integers)
    np.testing.assert_array_equal(featuremap().unpack([bytes(item) for item in packed], integers[:1]), integers)


def test_a_model_of_batch_2_takes_two_samples_per_inference(rng: np.random.Generator) -> None:
    tensor = TensorContract("x", "int16", (2, 3), (2, 8), (16, 2), 32, "ddr", scale=(0.5,))
    subject = InputContract("x", "featuremap", "featuremap", "none", shape=(2, 3), source="ddr", bits=16, tensor=tensor)
    integers = rng.integers(-9, 9, (4, 3)).astype(np.int16)
    packed = subject.pack(integers)
    assert packed.shape == (2, 32)
    np.testing.assert_array_equal(subject.unpack(packed, integers), integers)
    with pytest.raises(ConfigError, match="cannot hold"):
        subject.pack(integers[:3])


@pytest.mark.parametrize("row_stride", [0, 16, 32])
def test_nv12_rows_lie_one_stride_apart(rng: np.random.Generator, row_stride: int) -> None:
    pictures = rng.integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    subject = replace(contract("nv12"), shape=(1, 3, 4, 6), source="pyramid", tensor=nv12_tensor("image", 4, 6, row_stride))
    frames = subject.runtime(pictures)
    packed = subject.pack(frames)
    step = row_stride or 6
    assert packed.shape == (2, 6 * step)
    np.testing.assert_array_equal(packed.reshape(2, 6, step)[..., :6], frames)
    np.testing.assert_array_equal(subject.unpack(packed, frames), frames)


@pytest.mark.parametrize(("width", "stride"), [(6, 8), (32, 16), (6, 24)])
def test_no_other_row_stride_is_taken(width: int, stride: int) -> None:
    with pytest.raises(ConfigError, match="row stride"):
        nv12_tensor("image", 4, width, stride)
    with pytest.raises(ConfigError, match="even height"):
        nv12_tensor("image", 3, width)


def test_frames_the_compiler_describes_as_a_picture_are_dense(rng: np.random.Generator) -> None:
    """What hbdk-disas states of a pyramid input is what the BPU makes of the frame, not the frame's bytes."""
    inside = TensorContract("image", "int8", (1, 4, 6, 3), (1, 4, 32, 4), (512, 128, 4, 1), 512, "pyramid", "NHWC")
    subject = replace(contract("nv12"), shape=(1, 3, 4, 6), source="pyramid", tensor=inside)
    frames = subject.runtime(rng.integers(0, 256, (2, 4, 6, 3)).astype(np.uint8))
    np.testing.assert_array_equal(subject.pack(frames), frames.reshape(2, 36))
    board = TensorContract("image", "", (1, 3, 4, 6), (1, 3, 4, 6), (), 96, "pyramid", "NCHW")
    with pytest.raises(ConfigError, match="another number of bytes") as caught:
        replace(subject, tensor=board).pack(frames)
    assert (caught.value.where["expected"], caught.value.where["found"]) == ("36 bytes", "96 bytes")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("layout_rt", ["NHWC", "NCHW"])
def test_an_image_from_ddr_is_centred_where_the_hbm_takes_int8(rng: np.random.Generator, dtype: str, layout_rt: str) -> None:
    pictures = rng.integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    tensor = TensorContract("image", dtype, (1, 4, 6, 3), (1, 4, 32, 3), (384, 96, 3, 1), 384, "ddr", "NHWC")
    subject = replace(contract("bgr"), source="ddr", layout_rt=layout_rt, tensor=tensor)
    values = subject.runtime(pictures)
    packed = subject.pack(values)
    inside = packed.reshape(2, 4, 32, 3)[:, :, :6]
    expected = pictures[..., ::-1]
    np.testing.assert_array_equal(inside, expected if dtype == "uint8" else (expected.astype(int) - 128).astype(np.int8).view(np.uint8))
    np.testing.assert_array_equal(subject.unpack(packed, values), values)


def test_bytes_of_another_size_are_never_read(rng: np.random.Generator) -> None:
    integers = np.zeros((1, 3, 5, 4), np.int8)
    with pytest.raises(ArtifactError, match="wrong size"):
        featuremap().unpack([bytes(319)], integers)
    with pytest.raises(ConfigError, match="cannot hold"):
        featuremap().pack(np.zeros((1, 3, 4, 5), np.int8))
    with pytest.raises(ConfigError, match="cannot hold"):
        featuremap().pack(integers.astype(np.int16))


# --- statements of several sources ---------------------------------------------------------------------------------------------


def entry() -> InputContract:
    return replace(contract("nv12"), shape=(1, 3, 4, 6), source="pyramid", layout_rt="", bits=0)


def feature(**changes: Any) -> TensorContract:
    return replace(TensorContract("image", "int8", (1, 4, 6, 3), (1, 4, 32, 4), (512, 128, 4, 1), 512, "pyramid"), **changes)


def test_statements_that_agree_do_not_differ() -> None:
    (found,) = from_features([feature()])
    assert found.tensor is not None
    assert found.tensor.layout == "NHWC"
    assert diff(entry(), found) == {}
    assert diff(entry(), entry()) == {}


DRIFT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type_rt": "yuv444"}, {"type_rt": ("nv12", "yuv444")}),
    ({"type_rt": "rgb_128"}, {"intermediate_type": ("yuv444_128", "rgb_128")}),
    ({"type_rt": "yuv444_128"}, {}),
    ({"type_rt": ""}, {}),
    ({"type_train": "bgr"}, {"type_train": ("rgb", "bgr")}),
    ({"source": "ddr"}, {"source": ("pyramid", "ddr")}),
    ({"source": ""}, {}),
    ({"swing": "studio"}, {"swing": ("full", "studio")}),
    ({"toolchain": "openexplorer"}, {"toolchain": ("hmct", "openexplorer")}),
    ({"layout": "NHWC", "shape": (1, 4, 6, 3)}, {"layout": ("NCHW", "NHWC")}),
    ({"shape": (1, 3, 6, 4)}, {"shape": ((1, 3, 4, 6), (1, 3, 6, 4))}),
    ({"shape": (3, 4, 6)}, {}),
    ({"mean": (123.6750001, 116.28, 103.53)}, {}),
    ({"mean": (103.53, 116.28, 123.675)}, {"mean": ((123.675, 116.28, 103.53), (103.53, 116.28, 123.675))}),
    ({"scale": (0.017, 0.0175)}, {"scale": ((0.017, 0.0175, 0.0174), (0.017, 0.0175))}),
    ({"name": "data"}, {"name": ("image", "data")}),
]


@pytest.mark.parametrize(("changes", "expected"), DRIFT)
def test_drift_names_the_field_and_both_values(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert diff(entry(), replace(entry(), **changes)) == expected
    assert diff(entry(), replace(entry(), **changes), ignore=list(expected)) == {}


def test_drift_of_the_runtime_tensor_is_drift_of_the_input() -> None:
    ours = featuremap()
    assert ours.tensor is not None
    theirs = replace(
        ours, bits=16, tensor=replace(ours.tensor, dtype="int16", scale=(0.5, 0.25, 1.0), stride=(640, 128, 32, 2), byte_size=640)
    )
    assert set(diff(ours, theirs)) == {"bits", "tensor.dtype", "tensor.scale", "tensor.stride", "tensor.byte_size"}
    moved = replace(ours, tensor=TensorContract("x", "int8", (1, 3, 5, 4), layout="NCHW", scale=(0.5, 0.25, 2.0), axis=1))
    assert diff(ours, moved) == {}, "another layout is no contradiction"


def test_a_float_shape_is_held_against_the_hbms_whatever_their_layouts() -> None:
    (found,) = from_features([feature(valid_shape=(1, 6, 4, 3))])
    assert diff(entry(), found) == {"shape": ((1, 3, 4, 6), (1, 3, 6, 4))}


def test_an_entry_an_int_model_and_an_hbm_make_one_contract() -> None:
    declared = InputContract("x", "featuremap", "featuremap", "NCHW", shape=(1, 3, 5, 4), source="ddr", bits=0)
    integer = InputContract("x", "featuremap", "", "", swing="", toolchain="", layout_rt="", bits=16, tensor=TensorContract("x", "int16", (1, 3, 5, 4), layout="NCHW", scale=(1.0, 2.0, 3.0), axis=1))  # fmt: skip
    (compiled,) = from_features([TensorContract("x_q", "int16", (1, 5, 4, 3), (1, 5, 4, 16), (640, 128, 32, 2), 640, "ddr")])
    for order in ((integer, compiled), (compiled, integer)):
        whole = merge(declared, *order)
        assert whole.tensor is not None
        assert (whole.bits, whole.toolchain, whole.tensor.stride, whole.tensor.axis) == (16, "hmct", (640, 128, 32, 2), 3)
        assert whole.quantisation == ((1.0, 2.0, 3.0), 1)
        values = np.arange(60, dtype=np.float32).reshape(1, 3, 5, 4)
        integers = whole.quantise(values)
        np.testing.assert_array_equal(integers[0, 2], np.rint(values[0, 2] / np.float32(3)))
        np.testing.assert_array_equal(whole.unpack(whole.pack(integers), integers), integers)


def test_a_tensor_from_ddr_keeps_the_int_models_order_of_axes() -> None:
    """hbdk-disas lists the axes of a featuremap as the int model has them, and does not say which they are."""
    declared = InputContract("x", "featuremap", "featuremap", "NCHW", shape=(1, 3, 5, 4), source="ddr")
    listed = TensorContract("x", "int8", (1, 3, 5, 4), (1, 3, 5, 16), (256, 80, 16, 1), 256, "ddr", scale=(0.5,))
    (compiled,) = from_features([listed])
    assert diff(declared, compiled) == {}
    whole = merge(declared, compiled)
    assert whole.tensor is not None
    assert whole.tensor.layout == "NCHW"
    integers = np.arange(60).astype(np.int8).reshape(1, 3, 5, 4)
    assert whole.pack(integers)[0, 80 + 2 * 16 + 3] == integers[0, 1, 2, 3]
    (moved,) = from_features([replace(listed, valid_shape=(1, 5, 4, 3), stride=(320, 64, 16, 1), byte_size=320, aligned_shape=())])
    assert diff(declared, moved) == {}
    for subject in (merge(declared, moved), replace(declared, tensor=moved.tensor)):
        assert subject.pack(integers)[0, 2 * 64 + 3 * 16 + 1] == integers[0, 1, 2, 3]
    (other,) = from_features([replace(listed, valid_shape=(1, 4, 5, 3))])
    assert diff(declared, other) == {"shape": ((1, 3, 5, 4), (1, 4, 5, 3))}


def test_the_first_that_states_a_field_decides() -> None:
    first, second = replace(entry(), mean=()), replace(entry(), mean=(1.0,), source="ddr")
    found = merge(first, second)
    assert (found.mean, found.source) == ((1.0,), "pyramid")
    assert merge(entry()) == entry()


# --- mistakes teams make -------------------------------------------------------------------------------------------------------


MISTAKES = {
    "rgb declared bgr": (contract("nv12", "bgr"), "channel_swap", "feeds rgb"),
    "other numbers": (replace(contract("nv12"), mean=(1.0, 2.0, 3.0)), "none", ""),
    "std for 1/std": (replace(contract("nv12"), scale=(1 / 0.017, 1 / 0.0175, 1 / 0.0174)), "scale", "1 / std"),
    "torchvision numbers": (
        replace(
            contract("nv12"), mean=(123.675 / 255, 116.28 / 255, 103.53 / 255), scale=(1 / 0.017 / 255, 1 / 0.0175 / 255, 1 / 0.0174 / 255)
        ),
        "scale",
        "255 * mean",
    ),
    "mean for 0 to 1": (replace(contract("nv12"), mean=(123.675 / 255, 116.28 / 255, 103.53 / 255)), "offset", "values 0 to 1"),
    "mean in bgr order": (
        replace(contract("nv12"), mean=(103.53, 116.28, 123.675), scale=(0.0174, 0.0175, 0.017)),
        "channel_swap",
        "listed in bgr order",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_one_mistake_in_a_contract_is_named(rng: np.random.Generator, name: str) -> None:
    declared, cause, words = MISTAKES[name]
    pictures = rng.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    trained = contract("nv12").training_tensor_of_pictures(pictures)
    found = explain_difference(declared, pictures, trained, 1e-4)
    if cause == "none":
        assert found.confidence < 1.0
    else:
        assert (found.cause, found.confidence) == (cause, 1.0)
        assert words in found.detail


def test_the_other_swing_of_a_model_trained_on_yuv_is_named(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (2, 6, 8, 3)).astype(np.uint8)
    declared = InputContract("image", "nv12", "yuv444", "NCHW", (128.0,), (1 / 128,))
    trained = replace(declared, swing="studio").training_tensor_of_pictures(pictures)
    found = explain_difference(declared, pictures, trained, declared.tolerance)
    assert (found.cause, found.confidence) == ("swing", 1.0)
