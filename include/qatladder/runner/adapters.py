"""Ready halves of an adapter: models as a state dict, TorchScript or ONNX. What is left to write is the data and the metric.

    class Lanes(TorchModule):
        metric, inputs, outputs = "iou", ("image",), ("mask",)

        def network(self, rung): ...        # the torch.nn.Module of a rung, fake-quantised for calib and qat
        def samples(self, split, limit=None): ...
        def preprocess(self, inputs): ...
        def postprocess(self, outputs): ...
        def score(self, predictions, targets): ...

Data sets: `qatladder.runner.datasets`; HAT: `qatladder.runner.hat`. Python 3.8 with numpy; torch, from 1.8 on, and onnxruntime are imported
where they are needed.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner.adapter import Adapter, Model, Tensors

NESTED = ("state_dict", "model_state_dict", "model", "net", "ema")
"""Where training code puts the weights inside a checkpoint, the likeliest first."""


class TorchModule(Adapter):
    """Checkpoints are state dicts of a network the adapter builds.

    Attributes:
        inputs, outputs: names of the network's arguments and results, in order.
    """

    inputs: Tuple[str, ...] = ()
    outputs: Tuple[str, ...] = ()

    def network(self, rung: str) -> Any:
        """The `torch.nn.Module` of the `float`, `calib` or `qat` rung, its weights not yet loaded."""
        raise NotImplementedError

    def load(self, rung: str, artifact: Path) -> Model:
        network = self.network(rung)
        fill(network, read_weights(artifact), artifact)
        network.eval()
        return as_model(network, self.inputs, self.outputs)


class TorchScript(Adapter):
    """Artifacts are TorchScript files (`torch.jit.save`).

    Attributes:
        inputs, outputs: names of the model's arguments and results, in order.
    """

    inputs: Tuple[str, ...] = ()
    outputs: Tuple[str, ...] = ()

    def load(self, rung: str, artifact: Path) -> Model:
        import torch

        try:
            import horizon_plugin_pytorch  # type: ignore[import-not-found]  # noqa: F401
        except ImportError:
            pass
        try:
            module = torch.jit.load(str(artifact), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            unknown = next((line.strip() for line in str(error).splitlines() if "Unknown builtin op" in line), "")
            if unknown:
                raise ArtifactError(
                    "the model uses an operator this environment does not have",
                    "run it in the environment it was traced in, with the plugin of that version",
                    file=artifact,
                    found=unknown,
                ) from None
            raise ArtifactError(
                "the file is no TorchScript model: truncated, or saved by torch.save",
                "save it with torch.jit.save(torch.jit.trace(model.eval(), example), file)",
                file=artifact,
                found=(str(error).strip().splitlines() or ["?"])[0],
            ) from None
        module.eval()
        return as_model(module, self.inputs, self.outputs)


class OnnxModel(Adapter):
    """Artifacts are ONNX files, run by ONNX Runtime on the CPU. Inputs and outputs are called as the file calls them."""

    def load(self, rung: str, artifact: Path) -> Model:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own per reason, none of them public
            raise ArtifactError(
                "the file is no ONNX model this environment's ONNX Runtime reads",
                "export it again; an operator or opset it does not know is named",
                file=artifact,
                size="{} bytes".format(Path(artifact).stat().st_size),
                found=(str(error).strip().splitlines() or [type(error).__name__])[0],
            ) from None
        taken, given = {item.name: item for item in session.get_inputs()}, [item.name for item in session.get_outputs()]

        def run(tensors: Tensors) -> Tensors:
            if sorted(tensors) != sorted(taken):
                raise ConfigError("the model takes other inputs", expected=sorted(taken), found=sorted(tensors))
            feed = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
            for name, array in feed.items():
                fixed = [size for size in taken[name].shape]
                if len(fixed) != array.ndim or any(isinstance(size, int) and size != have for size, have in zip(fixed, array.shape)):
                    raise ConfigError(
                        "the model takes another shape",
                        "export it with this shape, or set `batch` of the adapter to the exported batch",
                        input=name,
                        expected=fixed,
                        found=list(array.shape),
                    )
            return dict(zip(given, session.run(given, feed)))

        return run


def as_model(module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Model:
    """A torch module, its arguments and results named, as `Adapter.load` returns it.

    Args:
        outputs: empty for a module that returns a dictionary.
    """

    def run(tensors: Tensors) -> Tensors:
        import torch

        if missing := [name for name in inputs if name not in tensors]:
            raise ConfigError("the model takes other inputs", expected=list(inputs), found=sorted(tensors), missing=missing)
        with torch.no_grad():
            answer = module(*[torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in inputs])
        if isinstance(answer, dict) and not outputs:
            return {name: value.numpy() for name, value in answer.items()}
        if isinstance(answer, dict) and set(answer) == set(outputs):
            return {name: answer[name].numpy() for name in outputs}
        values = list(answer.values()) if isinstance(answer, dict) else list(answer) if isinstance(answer, (tuple, list)) else [answer]
        if len(values) != len(outputs):
            raise ConfigError(
                "the model returns another number of outputs than the adapter names",
                "correct `outputs` of the adapter",
                expected=list(outputs),
                found=len(values),
            )
        return {name: value.numpy() for name, value in zip(outputs, values)}

    return run


def read_weights(artifact: Path) -> Dict[str, Any]:
    """The state dict of a checkpoint; nothing in the file is ever executed.

    Raises:
        ArtifactError: it holds pickled code, is truncated, or holds no weights.
    """
    import torch

    try:
        if "weights_only" in torch.load.__code__.co_varnames:
            checkpoint = torch.load(str(artifact), map_location="cpu", weights_only=True)
        else:
            checkpoint = torch.load(str(artifact), map_location="cpu", pickle_module=_Restricted)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)", str(error))
        if named is None:
            raise _unreadable(artifact, error) from None
        raise ArtifactError(
            "the checkpoint holds more than weights: pickled code, which is never run here",
            "save the weights alone: torch.save(model.state_dict(), file)",
            file=artifact,
            found=named.group(1),
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise _unreadable(artifact, error) from None
    for key in NESTED:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    if not isinstance(checkpoint, dict) or not any(hasattr(value, "shape") for value in checkpoint.values()):
        found = sorted(map(str, checkpoint))[:8] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ArtifactError(
            "the checkpoint holds no state dict", expected="tensors by name, or below " + ", ".join(NESTED), file=artifact, found=found
        )
    return checkpoint


def _unreadable(artifact: Path, error: Exception) -> ArtifactError:
    start = Path(artifact).read_bytes()[:40]
    what = "a pointer of Git LFS: fetch the file itself (git lfs pull)" if start.startswith(b"version https://git-lfs") else ""
    return ArtifactError(
        "the checkpoint cannot be read: truncated, or no file of torch.save",
        "save it again",
        file=artifact,
        size="{} bytes".format(Path(artifact).stat().st_size),
        found=what or "{}: {}".format(type(error).__name__, (str(error).strip().splitlines() or ["?"])[0]),
    )


def fill(network: Any, weights: Dict[str, Any], artifact: Path) -> None:
    """Load weights into a network: all of them, and no others.

    Raises:
        ArtifactError: names what is missing, unexpected, or of another shape.
    """
    wanted = network.state_dict()
    prefix = "module."  # of DataParallel
    if all(name.startswith(prefix) for name in weights) and not any(name.startswith(prefix) for name in wanted):
        weights = {name[len(prefix) :]: value for name, value in weights.items()}
    problems: Dict[str, List[str]] = {
        "missing": sorted(wanted.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - wanted.keys()),
    }
    try:
        network.load_state_dict(weights, strict=False)
        problems["other shape"] = []
    except RuntimeError as error:  # which shapes fit is the modules' own business: observers take another than they have
        problems["other shape"] = [
            "{} {} instead of {}".format(name, list(weights[name].shape), list(wanted[name].shape))
            for name in sorted(wanted)
            if "size mismatch for {}:".format(name) in str(error)
        ] or [(str(error).strip().splitlines() or ["?"])[-1].strip()]
    if not any(problems.values()):
        return
    raise ArtifactError(
        "the checkpoint is not of this network",
        "is it the checkpoint of this rung and version? calib and qat networks have fake-quantisation, float ones have none",
        file=artifact,
        **{kind: _some(names) for kind, names in problems.items() if names},
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" and {} more".format(len(names) - 5) if len(names) > 5 else "")


class _Restricted:
    """What torch before 1.13 is given in place of `pickle`: it builds tensors, and calls nothing else."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == ("collections", "OrderedDict") or (
                module in ("torch", "torch._utils", "torch.storage") and (name.endswith("Storage") or name.startswith("_rebuild_"))
            ):
                return super().find_class(module, name)
            raise pickle.UnpicklingError("GLOBAL {}.{}".format(module, name))

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        return _Restricted.Unpickler(file, **options).load()

    @staticmethod
    def loads(data: bytes, **options: Any) -> Any:
        return _Restricted.Unpickler(io.BytesIO(data), **options).load()
