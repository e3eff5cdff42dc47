"""The int model's tensors and the hbm's features: which is which, and in what order of axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qatladder.errors import ArtifactError
from qatladder.ladder import RungResult
from qatladder.numerics.tensor import TensorContract


def raw_names(built: RungResult) -> list[str]:
    """Names of the integer tensors behind the int model's outputs, in order."""
    return [item["raw_name"] for item in built.facts["int_model"]["outputs"]]


def feature_of(features: tuple[TensorContract, ...], raw_names: Sequence[str], index: int) -> TensorContract:
    """The hbm feature of the `index`-th int tensor: by name, or by position when the compiler renamed every one of them."""
    by_name, raw_name = {feature.name: feature for feature in features}, raw_names[index]
    if raw_name in by_name:
        return by_name[raw_name]
    if len(features) == len(raw_names) and not set(by_name) & set(raw_names):
        return features[index]
    raise ArtifactError(
        "the hbm has no feature for a tensor of the int model",
        tensor=raw_name,
        found=sorted(by_name),
        next_step="was the hbm compiled from this int model?",
    )


def arrange(integers: np.ndarray, feature: TensorContract) -> np.ndarray:
    """[N, ...] integers of the int model in the axis order of the hbm's feature: as they are, NCHW to NHWC, or with axes of 1 added."""
    return _reordered(integers, (len(integers), *feature.valid_shape[1:]), (0, 2, 3, 1), feature.name)


def restore(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[N, ...] integers of a feature back in the int model's axis order."""
    return _reordered(array, shape, (0, 3, 1, 2), "")


def _reordered(array: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...], name: str) -> np.ndarray:
    if array.shape == shape:
        return array
    if array.ndim == 4 and tuple(array.shape[axis] for axis in axes) == shape:
        return np.ascontiguousarray(array.transpose(axes))
    if [size for size in array.shape if size != 1] == [size for size in shape if size != 1]:
        return array.reshape(shape)
    raise ArtifactError(
        "a tensor of the hbm has another shape than the int model's",
        feature=name,
        expected=list(shape),
        found=list(array.shape),
        next_step="was the hbm compiled from this int model?",
    )
