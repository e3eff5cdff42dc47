"""A ready half of an adapter: the models of a HAT configuration, as `tools/predict.py --stage ... --config ...` builds them.

    class Lanes(HatConfig):                         # adapter_options: {config: /work/configs/lanes.py}
        inputs, outputs = ("img",), ("mask",)

        def samples(self, split, limit=None): ...

A configuration states per stage a predictor: its model and the pipeline that converts it and loads its checkpoint. The rung's artifact takes the
place of that checkpoint (HAT writes `tmp_models/<task>/<stage>-checkpoint-best.pth.tar`; the entry names those files). The model itself is
the configuration's `deploy_model` where it has one: without losses and targets. Python 3.8; HAT and torch are imported where they are needed.

HAT is not published. What is used of it is what configurations show: `Config.fromfile`, `build_from_registry`, `<stage>_predictor` with
`model_convert_pipeline`, converters with `type` and `checkpoint_path`, and the variable HAT_TRAINING_STEP.
"""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner.adapter import Adapter, Model, Tensors

STAGES = {"float": "float", "calib": "calibration", "qat": "qat"}
"""HAT's word for a rung."""


class HatConfig(Adapter):
    """Models of a HAT configuration.

    Args:
        config: the configuration, a Python file. It is code of yours, and runs.
        model: the model's name in it; empty for `deploy_model`, or for the predictor's own where there is none.

    Attributes:
        inputs: keys of the dictionary the model takes.
        outputs: names of the tensors it returns, in order, nested lists and dictionaries flattened.
    """

    inputs: Tuple[str, ...] = ("img",)
    outputs: Tuple[str, ...] = ()

    def __init__(self, config: str, model: str = "", **others: Any) -> None:
        super().__init__(**others)
        self.config, self.model = Path(config).expanduser(), model

    def load(self, rung: str, artifact: Path) -> Model:
        import torch

        network = self._build(STAGES[rung], artifact)
        network.eval()
        if rung != "float":
            from horizon_plugin_pytorch.quantization import FakeQuantState, set_fake_quantize  # type: ignore[import-not-found]

            set_fake_quantize(network, FakeQuantState.VALIDATION)  # eval() alone leaves observers as training left them

        def run(tensors: Tensors) -> Tensors:
            missing = [name for name in self.inputs if name not in tensors]
            if missing:
                raise ConfigError(
                    "the model takes other inputs", "correct `inputs` of the adapter", expected=sorted(tensors), found=missing
                )
            with torch.no_grad():
                answer = network({name: torch.from_numpy(np.ascontiguousarray(tensors[name])) for name in self.inputs})
            values = flat(answer)
            if len(values) != len(self.outputs):
                raise ConfigError(
                    "the model returns another number of tensors than the adapter names",
                    "correct `outputs` of the adapter, or name the model without losses: adapter_options.model",
                    expected=list(self.outputs),
                    found=len(values),
                )
            return {name: value.numpy() for name, value in zip(self.outputs, values)}

        return run

    def _build(self, stage: str, artifact: Path) -> Any:
        from hat.registry import RegistryContext, build_from_registry  # type: ignore[import-not-found]
        from hat.utils.config import Config  # type: ignore[import-not-found]

        if not self.config.is_file():
            raise ConfigError("the HAT configuration does not exist", "correct `config` of adapter_options", file=self.config)
        os.environ["HAT_TRAINING_STEP"] = stage
        config = Config.fromfile(str(self.config))
        predictor = getattr(config, stage + "_predictor", None)
        if predictor is None:
            raise ConfigError(
                "the HAT configuration has no predictor of this stage",
                "add it: tools/predict.py --stage {} needs it, too".format(stage),
                file=self.config,
                expected=stage + "_predictor",
            )
        name = self.model or ("deploy_model" if getattr(config, "deploy_model", None) is not None else "")
        described = getattr(config, name, None) if name else predictor.get("model")
        if described is None:
            raise ConfigError("the HAT configuration has no such model", file=self.config, expected=name or stage + "_predictor.model")
        pipeline = copy.deepcopy(predictor.get("model_convert_pipeline"))
        loaders = [item for item in converters_of(pipeline) if item.get("type") == "LoadCheckpoint" or "checkpoint_path" in item]
        if not loaders:
            raise ConfigError(
                "the predictor's pipeline loads no checkpoint",
                "give its model_convert_pipeline a LoadCheckpoint",
                file=self.config,
                found=stage + "_predictor",
            )
        loaders[-1]["checkpoint_path"] = str(artifact)
        with RegistryContext():
            network = build_from_registry(copy.deepcopy(described))
            try:
                return build_from_registry(pipeline)(network)
            except (RuntimeError, LookupError, EOFError, TypeError, ValueError, OSError, pickle.UnpicklingError) as error:
                raise ArtifactError(
                    "HAT cannot load the checkpoint into the model of this stage",
                    "is it the checkpoint of this stage and configuration?",
                    file=artifact,
                    stage=stage,
                    found="{}: {}".format(type(error).__name__, (str(error).strip().splitlines() or ["?"])[0]),
                ) from None


def converters_of(pipeline: Any) -> List[Dict[str, Any]]:
    """The converters of a `model_convert_pipeline`: of HAT's ModelConvertPipeline, or a plain list."""
    found = pipeline.get("converters", []) if isinstance(pipeline, dict) else pipeline or []
    return [item for item in found if isinstance(item, dict)]


def flat(answer: Any) -> List[Any]:
    """The tensors a model returned, in order."""
    if hasattr(answer, "detach"):
        return [answer.detach().cpu()]
    if isinstance(answer, dict):
        answer = list(answer.values())
    return [leaf for item in answer for leaf in flat(item)] if isinstance(answer, (list, tuple)) else []
