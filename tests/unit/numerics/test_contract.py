"""Promises: one picture gives every rung's input, and each rounding is the named one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qatladder.errors import ArtifactError, ConfigError
from qatladder.numerics.contract import INTERMEDIATE_TYPES, InputContract, explain_difference
from qatladder.numerics.tensor import dequantize, quantize


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
