"""Promises: all forms of one picture are derived from one contract; a mistake is found once, at the transform, channel and pixel that
made it, and by its name; what the runtime type loses is a number of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics import colour
from qatladder.numerics.contract import RUNTIME_TYPES, InputContract, nv12_tensor
from qatladder.numerics.forms import Forms, derive, prove
from qatladder.numerics.tensor import TensorContract, pad, quantize

HEIGHT, WIDTH = 6, 8
NUMBERS = ((123.675, 116.28, 103.53), (0.017, 0.0175, 0.0174))


def image(type_rt: str = "nv12", type_train: str = "rgb", **changes: Any) -> InputContract:
    numbers = ((110.0,), (0.02,)) if type_train == "gray" else NUMBERS
    channels = 1 if type_train == "gray" else 3
    source = "pyramid" if type_rt in ("nv12", "gray") else "ddr"
    subject = InputContract("image", type_rt, type_train, "NCHW", *numbers, shape=(1, channels, HEIGHT, WIDTH), source=source)
    return replace(subject, **changes)


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)


def padded_ddr(type_rt: str) -> TensorContract:
    channels = 1 if type_rt == "gray" else 3
    return TensorContract("image", "int8", (1, HEIGHT, WIDTH, channels), (), (HEIGHT * 96, 96, channels, 1), HEIGHT * 96, "ddr", "NHWC")


PAIRS = [(type_rt, type_train) for type_rt, trained in RUNTIME_TYPES.items() for type_train in trained if type_rt != "featuremap"]


@pytest.mark.parametrize(("type_rt", "type_train"), PAIRS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("toolchain", ["hmct", "openexplorer"])
def test_what_was_derived_is_proven(pictures: np.ndarray, type_rt: str, type_train: str, padded: bool, toolchain: str) -> None:
    tensor = None
    if padded:
        tensor = nv12_tensor("image", HEIGHT, WIDTH, 16) if type_rt == "nv12" else padded_ddr(type_rt)
    subject = image(type_rt, type_train, tensor=tensor, toolchain=toolchain)
    if padded and type_rt == "gray":
        subject = replace(subject, source="ddr")
    forms = derive(subject, pictures)
    assert isinstance(forms, Forms)
    assert (forms.runtime.dtype, forms.intermediate.dtype, forms.training.dtype) == (np.uint8, np.int8, np.float32)
    proof = prove(subject, pictures, forms.runtime, forms.intermediate, forms.training)
    assert proof, str(proof)
    assert proof.parted is None
    assert [step.form for step in proof.steps] == ["runtime", "intermediate", "training"]
    assert [step.tolerance for step in proof.steps[:2]] == [0.0, 0.0]
    assert "identical" in str(proof)
    straight = prove(subject, pictures, training=subject.training_tensor_of_pictures(pictures))
    assert straight, str(straight)
    assert "picture -> training" in straight.steps[0].transform
    json.dumps(proof.to_json())


def test_each_given_form_is_one_step(pictures: np.ndarray) -> None:
    forms = derive(image(), pictures)
    assert [step.form for step in prove(image(), pictures, intermediate=forms.intermediate).steps] == ["intermediate"]
    assert [step.form for step in prove(image(), pictures, [bytes(item) for item in forms.runtime]).steps] == ["runtime"]
    with pytest.raises(ConfigError, match="nothing to prove"):
        prove(image(), pictures)


def test_a_contract_no_tool_supports_is_refused(pictures: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="cannot be converted"):
        derive(image("nv12", "gray"), pictures)
    with pytest.raises(ConfigError, match="does not deliver"):
        prove(image(source="ddr"), pictures, training=np.zeros(1, np.float32))


# --- one wrong byte ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2), st.integers(0, HEIGHT * 3 // 2 - 1), st.integers(0, WIDTH - 1), st.integers(1, 255), st.booleans())
def test_one_wrong_byte_of_nv12_is_found_at_its_channel_and_pixel(sample: int, row: int, column: int, delta: int, padded: bool) -> None:
    pictures = np.random.default_rng(5).integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
    subject = image(tensor=nv12_tensor("image", HEIGHT, WIDTH, 32)) if padded else image()
    forms = derive(subject, pictures)
    runtime = forms.runtime.copy()
    at = row * (32 if padded else WIDTH) + column
    runtime[sample, at] ^= np.uint8(delta)
    parted = prove(subject, pictures, runtime, training=subject.training_tensor_of_pictures(pictures)).parted
    assert parted is not None
    assert parted.place is not None
    channel = "Y" if row < HEIGHT else "UV"[column % 2]
    pixel = (row, column) if row < HEIGHT else ((row - HEIGHT) * 2, column // 2 * 2)
    assert (parted.form, parted.place.sample, parted.place.channel, parted.place.pixel) == ("runtime", sample, channel, pixel)
    assert parted.channels == (channel,)
    assert (parted.place.expected, parted.place.found) == (forms.runtime[sample, at], runtime[sample, at])
    assert parted.comparison is not None
    assert parted.comparison.mismatches == 1
    assert "{}, pixel ({}, {})".format(channel, *pixel) in str(parted)


@pytest.mark.parametrize(("type_rt", "type_train"), PAIRS)
@pytest.mark.parametrize("layout_rt", ["NHWC", "NCHW"])
def test_one_wrong_value_above_is_found_at_its_own_transform(pictures: np.ndarray, type_rt: str, type_train: str, layout_rt: str) -> None:
    subject = image(type_rt, type_train, layout_rt=layout_rt)
    forms = derive(subject, pictures)
    names = {"nv12": "YUV", "yuv444": "YUV", "rgb": "RGB", "bgr": "BGR", "gray": "Y"}
    last = len(names[type_rt]) - 1
    fed = forms.intermediate.copy()
    fed[(1, 3, 5, last) if layout_rt == "NHWC" else (1, last, 3, 5)] ^= 1
    proof = prove(subject, pictures, forms.runtime, fed, subject.training_tensor(fed))
    assert [bool(step) for step in proof.steps] == [True, False, True], "the mistake is counted once"
    step = proof.steps[1]
    assert step.place is not None
    assert (step.place.sample, step.place.channel, step.place.pixel) == (1, names[type_rt][last], (3, 5))
    training = forms.training.copy()
    training[2, 0, 4, 1] += np.float32(3 * subject.tolerance)
    parted = prove(subject, pictures, forms.runtime, forms.intermediate, training).parted
    assert parted is not None
    assert parted.place is not None
    expected = ("training", 2, names[type_train][0], (4, 1))
    assert (parted.form, parted.place.sample, parted.place.channel, parted.place.pixel) == expected


def test_a_hundredth_of_a_gray_level_is_the_only_tolerance(pictures: np.ndarray) -> None:
    subject = image()
    training = derive(subject, pictures).training
    assert prove(subject, pictures, training=training + np.float32(0.9 * subject.tolerance))
    assert not prove(subject, pictures, training=training + np.float32(1.2 * subject.tolerance))


# --- mistakes by name ----------------------------------------------------------------------------------------------------------


def swapped_uv(frames: np.ndarray) -> np.ndarray:
    result = frames.copy()
    result[:, HEIGHT:] = frames[:, HEIGHT:].reshape(len(frames), -1, WIDTH // 2, 2)[..., ::-1].reshape(frames[:, HEIGHT:].shape)
    return result


RUNTIME_MISTAKES = {
    "studio": (lambda p: colour.rgb_to_nv12(p, "studio"), "swing", "studio swing", "YUV"),
    "bgr": (lambda p: colour.rgb_to_nv12(p[..., ::-1]), "channel_swap", "taken for BGR", "YUV"),
    "nv21": (lambda p: swapped_uv(colour.rgb_to_nv12(p)), "channel_swap", "NV21", "UV"),
    "top left": (lambda p: colour.rgb_to_nv12(p, chroma="top_left"), "chroma", "top left", "UV"),
    "studio of bgr": (lambda p: colour.rgb_to_nv12(p[..., ::-1], "studio"), "swing", "and the picture is taken for BGR", "YUV"),
    "nearly studio": (lambda p: colour.rgb_to_nv12(p, "studio") ^ 1, "swing", "within 2 levels", "YUV"),
    "another rounding": (lambda p: colour.rgb_to_nv12(p) ^ 1, "rounding", "at most 2 levels", "YUV"),
}


@pytest.mark.parametrize("name", RUNTIME_MISTAKES)
def test_a_wrong_way_to_nv12_is_named(pictures: np.ndarray, name: str) -> None:
    make, cause, words, channels = RUNTIME_MISTAKES[name]
    frames = make(pictures)
    proof = prove(image(), pictures, frames.reshape(3, -1), image().intermediate(frames))
    assert [bool(step) for step in proof.steps] == [False, True], "the int model's input was made from those bytes"
    step = proof.steps[0]
    assert step.cause is not None
    assert step.cause.cause == cause
    assert words in step.cause.detail
    assert set(step.channels) == set(channels)


@pytest.mark.parametrize(
    ("type_rt", "make", "cause", "words"),
    [
        ("rgb", lambda p: p[..., ::-1], "channel_swap", "is bgr, declared is rgb"),
        ("bgr", lambda p: p, "channel_swap", "is rgb, declared is bgr"),
        ("rgb", lambda p: p ^ 128, "offset", "128"),
        ("yuv444", lambda p: colour.to_uint8(colour.rgb_to_yuv444(p))[..., [0, 2, 1]], "channel_swap", "U and V are exchanged"),
        ("yuv444", lambda p: colour.to_uint8(colour.rgb_to_yuv444(p, "studio")), "swing", "studio"),
        ("gray", lambda p: colour.to_uint8(colour.rgb_to_yuv444(p, "studio"))[..., :1], "swing", "studio"),
        ("gray", lambda p: colour.to_uint8(colour.rgb_to_yuv444(p[..., ::-1]))[..., :1], "channel_swap", "BGR"),
    ],
)
def test_a_wrong_way_to_the_other_types_is_named(pictures: np.ndarray, type_rt: str, make: Any, cause: str, words: str) -> None:
    subject = image(type_rt, RUNTIME_TYPES[type_rt][0])
    parted = prove(subject, pictures, np.ascontiguousarray(make(pictures))).parted
    assert parted is not None
    assert parted.cause is not None
    assert (parted.form, parted.cause.cause) == ("runtime", cause)
    assert words in parted.cause.detail


@pytest.mark.parametrize(
    ("make", "cause", "words"),
    [
        (lambda fed: fed ^ np.int8(-128), "offset", "128 is not subtracted"),
        (lambda fed: fed[..., [0, 2, 1]], "channel_swap", "U and V"),
        (lambda fed: (fed.astype(int) + 128).astype(np.uint8), "offset", "128 is not subtracted"),
        (lambda fed: fed.transpose(0, 3, 1, 2), "transposed", "is NCHW, declared is NHWC"),
    ],
)
def test_a_wrong_intermediate_tensor_is_named(pictures: np.ndarray, make: Any, cause: str, words: str) -> None:
    forms = derive(image(), pictures)
    proof = prove(image(), pictures, forms.runtime, np.ascontiguousarray(make(forms.intermediate)), forms.training)
    assert proof.parted is proof.steps[1]
    step = proof.steps[1]
    assert step.cause is not None
    assert step.cause.cause == cause
    assert words in step.cause.detail
    assert step.transform == "nv12 -> yuv444_128"


@pytest.mark.parametrize("through_the_board", [False, True])
@pytest.mark.parametrize(
    ("declared", "cause", "words"),
    [
        ({"type_train": "bgr"}, "channel_swap", "declared bgr, the training code feeds rgb"),
        ({"mean": tuple(value / 255 for value in NUMBERS[0])}, "offset", "values 0 to 1"),
        ({"scale": tuple(1 / value for value in NUMBERS[1])}, "scale", "1 / std"),
    ],
)
def test_a_wrong_declaration_is_named(
    pictures: np.ndarray, through_the_board: bool, declared: dict[str, Any], cause: str, words: str
) -> None:
    trained = derive(image(), pictures).training if through_the_board else image().training_tensor_of_pictures(pictures)
    subject = image(**declared)
    forms = derive(subject, pictures)
    proof = prove(subject, pictures, forms.runtime, forms.intermediate, trained)
    assert [bool(step) for step in proof.steps] == [True, True, False]
    step = proof.steps[2]
    assert step.cause is not None
    assert (step.cause.cause, step.cause.confidence) == (cause, 1.0)
    assert words in step.cause.detail


def test_yuv_read_in_the_wrong_swing_is_named(pictures: np.ndarray) -> None:
    forms = derive(image(), pictures)
    trained = replace(image(), swing="studio").training_tensor(forms.intermediate)
    parted = prove(image(), pictures, forms.runtime, forms.intermediate, trained).parted
    assert parted is not None
    assert parted.cause is not None
    assert parted.cause.cause == "swing"


def test_a_tensor_of_nan_is_no_proof(pictures: np.ndarray) -> None:
    training = derive(image(), pictures).training
    training[0, 0, 0, 0] = np.nan
    parted = prove(image(), pictures, training=training).parted
    assert parted is not None
    assert "NaN" in parted.problem


@pytest.mark.parametrize(("count", "size"), [(3, 71), (2, 72), (3, 96)])
def test_buffers_of_the_wrong_size_or_number_are_a_finding(pictures: np.ndarray, count: int, size: int) -> None:
    proof = prove(image(), pictures, [bytes(size)] * count, derive(image(), pictures).intermediate)
    assert [bool(step) for step in proof.steps] == [False, True]
    assert "expected 3 buffer(s) of 72 bytes, found {} of {} bytes".format(count, size) in str(proof)


# --- the resizer ---------------------------------------------------------------------------------------------------------------


def test_the_region_of_the_resizer_is_proven_from_the_whole_frame(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (2, 16, 20, 3)).astype(np.uint8)
    subject = image(source="resizer", roi=(4, 2, 11, 7), tensor=nv12_tensor("image", 16, 20, 32))
    forms = derive(subject, frames)
    assert forms.runtime.shape == (2, 24 * 32)
    assert forms.intermediate.shape == (2, HEIGHT, WIDTH, 3)
    assert prove(subject, frames, forms.runtime, forms.intermediate, forms.training)
    other = replace(subject, roi=(6, 2, 13, 7))
    proof = prove(subject, frames, forms.runtime, derive(other, frames).intermediate)
    assert [bool(step) for step in proof.steps] == [True, False]
    with pytest.raises(ConfigError, match="has to be scaled"):
        derive(replace(subject, roi=(0, 0, 19, 15)), frames)


# --- losses --------------------------------------------------------------------------------------------------------------------


def test_what_subsampling_loses_is_a_number_of_its_own(pictures: np.ndarray) -> None:
    subject = image()
    proof = prove(subject, pictures, training=subject.training_tensor_of_pictures(pictures))
    assert proof
    assert proof.loss.chroma_max > 50, "random pixels lose nearly all their colour"
    assert 0 < proof.loss.conversion_max < 2
    smooth = np.full((1, HEIGHT, WIDTH, 3), (200, 90, 30), np.uint8)
    flat = prove(subject, smooth, training=subject.training_tensor_of_pictures(smooth)).loss
    assert flat.chroma_max == 0
    assert 0 < flat.conversion_max < 2


@pytest.mark.parametrize("type_rt", ["rgb", "bgr"])
def test_rgb_loses_nothing(pictures: np.ndarray, type_rt: str) -> None:
    forms = derive(image(type_rt), pictures)
    loss = prove(image(type_rt), pictures, forms.runtime).loss
    assert loss.to_json() == {"conversion_max": 0.0, "conversion_mean": 0.0, "chroma_max": 0.0, "chroma_mean": 0.0, "clamped": 0.0}


def test_yuv444_keeps_the_chroma(pictures: np.ndarray) -> None:
    loss = prove(image("yuv444"), pictures, derive(image("yuv444"), pictures).runtime).loss
    assert loss.chroma_max == 0
    assert 0 < loss.conversion_max < 2


# --- featuremaps ---------------------------------------------------------------------------------------------------------------

SCALES = (0.5, 0.25, 2.0)


def featuremap(bits: int = 8, **changes: Any) -> InputContract:
    size = bits // 8
    strides = (5 * 4 * 16 * size, 4 * 16 * size, 16 * size, size)
    tensor = TensorContract("x", "int{}".format(bits), (1, 5, 4, 3), (1, 5, 4, 16), strides, strides[0], "ddr", "NHWC", SCALES, axis=3)
    subject = InputContract("x", "featuremap", "featuremap", "NCHW", shape=(1, 3, 5, 4), source="ddr", bits=bits, tensor=tensor)
    return replace(subject, **changes)


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return (rng.integers(-300, 300, (2, 3, 5, 4)) / 8).astype(np.float32)  # many ties, some beyond the range


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("toolchain", ["hmct", "openexplorer"])
def test_a_featuremap_comes_back_from_its_bytes(values: np.ndarray, bits: int, toolchain: str) -> None:
    subject = featuremap(bits, toolchain=toolchain)
    forms = derive(subject, values)
    assert forms.intermediate.dtype.name == "int{}".format(bits)
    np.testing.assert_array_equal(subject.unpack(forms.runtime, forms.intermediate), forms.intermediate)
    proof = prove(subject, values, forms.runtime, forms.intermediate, forms.training)
    assert proof, str(proof)
    assert [step.form for step in proof.steps] == ["training", "intermediate", "runtime"]
    inside = np.abs(forms.intermediate[:, :2]).max() < 2 ** (bits - 1) - 1
    if inside:
        assert proof.loss.conversion_max <= max(SCALES) / 2
    assert (proof.loss.clamped > 0) == (bits == 8)


def test_one_wrong_integer_is_found_in_the_bytes(values: np.ndarray) -> None:
    forms = derive(featuremap(), values)
    runtime = forms.runtime.copy()
    runtime[1, 3 * 64 + 2 * 16 + 1] ^= 1
    runtime[1, 3 * 64 + 2 * 16 + 5] = 77  # padding, which nobody reads
    parted = prove(featuremap(), values, runtime, forms.intermediate).parted
    assert parted is not None
    assert parted.place is not None
    assert (parted.form, parted.place.sample, parted.place.channel, parted.place.pixel) == ("runtime", 1, "channel 1", (3, 2))


FEATUREMAP_MISTAKES = {
    "rounding": (lambda v: quantize(v, SCALES, "half_up", 8, 1), "rounding", "half_up, declared is half_even"),
    "no scale": (lambda v: quantize(v, [1.0], "half_even"), "scale", "not divided"),
    "inverse": (lambda v: quantize(v, [2.0, 4.0, 0.5], "half_even", 8, 1), "scale", "multiplied"),
    "per tensor": (lambda v: quantize(v, [0.5], "half_even"), "scale", "first channel's"),
    "wrapped": (lambda v: np.rint(v / np.array(SCALES).reshape(3, 1, 1)).astype(np.int64).astype(np.int8), "clamped", "wrap around"),
}


@pytest.mark.parametrize("name", FEATUREMAP_MISTAKES)
def test_a_wrong_quantisation_is_named(values: np.ndarray, name: str) -> None:
    make, cause, words = FEATUREMAP_MISTAKES[name]
    fed = make(values)
    if name == "wrapped":
        values = np.trunc(values * 8)  # no ties
        fed = make(values)
    proof = prove(featuremap(), values, featuremap().pack(fed), fed)
    assert [bool(step) for step in proof.steps] == [False, True]
    step = proof.steps[0]
    assert step.cause is not None
    assert step.cause.cause == cause
    assert words in step.cause.detail


def test_bytes_without_padding_or_in_another_layout_are_named(values: np.ndarray) -> None:
    subject = featuremap()
    forms = derive(subject, values)
    nhwc = forms.intermediate.transpose(0, 2, 3, 1)
    tensor = subject.tensor
    assert tensor is not None
    made = {
        "they hold no padding": [item.tobytes() for item in nhwc],
        "written without padding": [item.tobytes() + bytes(320 - 60) for item in nhwc],
        "written in NCHW, the BPU reads NHWC": [pad(item.reshape(1, 5, 4, 3), tensor.stride, 320) for item in forms.intermediate],
        "written in NCHW, the BPU reads NHWC, and without padding": [item.tobytes() + bytes(260) for item in forms.intermediate],
    }
    for words, runtime in made.items():
        parted = prove(subject, values, runtime, forms.intermediate).parted
        assert parted is not None
        assert parted.cause is not None
        assert parted.form == "runtime"
        assert parted.cause.detail.endswith(words)


def test_an_adapter_that_feeds_other_values_is_found(values: np.ndarray) -> None:
    other = values.copy()
    other[0, 2, 1, 0] += 1e-3
    step = prove(featuremap(), values, training=other).steps[0]
    assert step.place is not None
    assert (step.place.channel, step.place.pixel) == ("channel 2", (1, 0))


def test_a_vector_has_neither_channel_nor_pixel(rng: np.random.Generator) -> None:
    tensor = TensorContract("x", "int8", (1, 5), (1, 16), (16, 1), 16, "ddr", scale=(0.1,))
    subject = InputContract("x", "featuremap", "featuremap", "none", shape=(1, 5), source="ddr", tensor=tensor)
    values = rng.normal(0, 4, (3, 5)).astype(np.float32)
    forms = derive(subject, values)
    assert prove(subject, values, forms.runtime, forms.intermediate)
    wrong = forms.intermediate.copy()
    wrong[2, 4] ^= 4
    step = prove(subject, values, intermediate=wrong).steps[0]
    assert step.place is not None
    assert (step.place.index, step.place.channel, step.place.pixel, step.channels) == ((2, 4), "", None, ())
    assert "index [2, 4]" in str(step)


@pytest.mark.parametrize("bad", [np.full((1, 3, 5, 4), np.nan, np.float32), np.zeros((1, 3, 5, 4), np.int8)])
def test_a_featuremap_must_be_finite_floats(bad: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match="finite float"):
        derive(featuremap(), bad)
