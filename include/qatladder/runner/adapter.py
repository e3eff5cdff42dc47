"""What a user writes to bring a model in: one class, about forty lines.

    class DigitsCnn(Adapter):
        metric = "top1"

        def samples(self, split, limit=None): ...       # numpy
        def preprocess(self, inputs): ...               # numpy, exactly as in training
        def load(self, rung, artifact): ...             # import torch here, not at the top of the file
        def postprocess(self, outputs): ...             # numpy
        def score(self, predictions, targets): ...      # numpy

The same `postprocess` and `score` judge every rung, float to board, so an accuracy drop between two rungs
is a drop of the model, never of the evaluation code. Only `load` may need the training framework: keep its
import inside the method, and the other steps also run where the framework is absent.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Union

import numpy as np

from qatladder.errors import ConfigError

Tensors = Dict[str, np.ndarray]
"""Arrays by the name of the model's input or output."""

Model = Callable[[Tensors], Tensors]
"""A loaded rung: float32 input tensors (batch first, layout of training) to float32 output tensors."""


@dataclass(frozen=True)
class Sample:
    """One sample as the world delivers it, before any preprocessing.

    Attributes:
        inputs: by input name. An image is uint8 RGB, [H, W, 3], at the model's input size; a featuremap is float32 in
            the layout of training without the batch axis.
        target: the ground truth; anything JSON can hold.
    """

    inputs: Tensors
    target: Any


class Adapter:
    """Base class of all adapters. Python 3.8, numpy.

    Attributes:
        metric: name of the primary metric in what `score` returns; higher is better.
        batch: how many samples `load`'s model takes at once (1 for models exported with a fixed batch).
    """

    metric = "accuracy"
    batch = 1

    def __init__(self, **others: Any) -> None:
        if others:
            raise ConfigError(
                "the adapter takes no such option",
                found=", ".join(sorted(others)),
                next_step="correct `adapter_options` in the zoo entry",
                adapter=type(self).__name__,
            )

    def samples(self, split: str, limit: Optional[int] = None) -> Iterator[Sample]:
        """Yield the samples of a split (`evaluation`, `calibration`) in a fixed order, at most `limit` of them."""
        raise NotImplementedError

    def preprocess(self, inputs: Tensors) -> Tensors:
        """One sample's inputs (see `Sample`) to the float32 tensors of training, each with a leading batch axis of 1."""
        raise NotImplementedError

    def load(self, rung: str, artifact: Path) -> Model:
        """Load the `float`, `calib` or `qat` model from its artifact, in evaluation state."""
        raise NotImplementedError

    def postprocess(self, outputs: Tensors) -> Any:
        """One sample's float32 output tensors (leading batch axis of 1) to a prediction JSON can hold."""
        raise NotImplementedError

    def score(self, predictions: List[Any], targets: List[Any]) -> Dict[str, float]:
        """All predictions and targets, in order, to the metrics; must contain `metric`."""
        raise NotImplementedError


def load_adapter(reference: Union[str, Path], options: Optional[Dict[str, Any]] = None) -> Adapter:
    """Load an adapter.

    Args:
        reference: `/path/to/file.py:ClassName`; the file's folder goes on `sys.path` so that it can import its neighbours.
        options: keyword arguments of the class.
    Raises:
        ConfigError: no such file or class, or the class is no `Adapter`.
    """
    path_text, separator, name = str(reference).rpartition(":")
    path = Path(path_text)
    if not separator or not name.isidentifier():
        raise ConfigError("an adapter is written file.py:ClassName", found=reference, next_step="fix `adapter` in the zoo entry")
    if not path.is_file():
        raise ConfigError("the adapter file does not exist", file=path, next_step="fix `adapter` in the zoo entry")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("qatladder_adapter_" + path.stem, str(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, Adapter):
        raise ConfigError(
            "the adapter file has no class of that name that derives from qatladder.runner.adapter.Adapter",
            file=path,
            expected=name,
            found=", ".join(key for key, value in vars(module).items() if isinstance(value, type)),
            next_step="fix `adapter` in the zoo entry, or derive the class from Adapter",
        )
    try:
        return found(**(options or {}))
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None and "unexpected" not in str(error):
            raise  # of the constructor's own code
        raise ConfigError(
            "the adapter takes other options",
            file=path,
            expected="what the constructor of {} takes".format(name),
            found="{}: {}".format(", ".join(sorted(options or {})) or "none", error),
            next_step="correct `adapter_options` in the zoo entry",
        ) from None
