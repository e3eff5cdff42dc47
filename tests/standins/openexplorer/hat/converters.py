"""Stand-in of HAT's converters: float to fake-quantised, checkpoints with the weights under `state_dict`."""

import torch
from torch import nn

from hat.registry import OBJECT_REGISTRY


class FakeQuantise(nn.Module):
    """Quantises what a module gives; an observer until it is told to validate, as the plugin's is."""

    def __init__(self, module):
        super().__init__()
        self.module, self.state = module, "observe"
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, x):
        y = self.module(x)
        if self.state == "observe":
            self.scale.fill_(float(y.abs().max()) / 127)
            return y
        return torch.clamp(torch.round(y / self.scale), -128, 127) * self.scale


@OBJECT_REGISTRY.register
class Float2QAT:
    def __call__(self, model):
        for name, child in list(model.named_children()):
            setattr(model, name, FakeQuantise(child))
        return model


@OBJECT_REGISTRY.register
class Float2Calibration(Float2QAT):
    pass


@OBJECT_REGISTRY.register
class LoadCheckpoint:
    def __init__(self, checkpoint_path, allow_miss=False, ignore_extra=False, verbose=False, check_hash=True):
        self.path, self.strict = checkpoint_path, not (allow_miss or ignore_extra)

    def __call__(self, model):
        model.load_state_dict(torch.load(self.path, map_location="cpu")["state_dict"], strict=self.strict)
        return model


@OBJECT_REGISTRY.register
class ModelConvertPipeline:
    def __init__(self, converters, qat_mode=None):
        self.converters = converters

    def __call__(self, model):
        for converter in self.converters:
            model = converter(model)
        return model
