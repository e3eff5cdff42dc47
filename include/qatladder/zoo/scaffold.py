"""Writes the first version of a zoo entry and its adapter: everything that can be known, and a comment where only the user knows."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Literal

from qatladder.errors import ConfigError
from qatladder.zoo.schema import MARCHES

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_TAKEN = {"Sample", "TorchModule", "TorchScript", "OnnxModel", "HatConfig", "ImageFolder", "CocoDetection"}
"""Classes a new adapter imports."""

Kind = Literal["torch", "torchscript", "onnx", "hat"]
"""What the checkpoints are."""

Data = Literal["own", "folder", "coco"]
"""What the data set is: something of the user's own, folders of pictures by class, or COCO's annotations."""

_LOADERS = {
    "torch": ("adapters", "TorchModule", "pt"),
    "torchscript": ("adapters", "TorchScript", "pt"),
    "onnx": ("adapters", "OnnxModel", "onnx"),
    "hat": ("hat", "HatConfig", "pth.tar"),
}
"""Module, class and the artifacts' suffix."""

_OPTIONS = {
    "folder": "  root: /data/{name}          # <root>/evaluation/<class>/*.jpg (other folder names: `splits`)\n"
    "  size: [224, 224]\n  resize: 256              # the shorter side, before the centre is cut out\n"
    "  mean: [123.675, 116.28, 103.53]\n  scale: [0.01712475, 0.017507, 0.01742919]\n",
    "coco": "  images: /data/{name}/val\n  annotations: /data/{name}/instances_val.json\n"
    "  size: [224, 224]\n  letterbox: true\n"
    "  mean: [123.675, 116.28, 103.53]\n  scale: [0.01712475, 0.017507, 0.01742919]\n",
}
_HAT_OPTION = "  config: /work/configs/{name}.py   # the HAT configuration\n"

_ZOO = """# What all entries share.
artifacts: $QATLADDER_HOME/zoo
# environments:            # where models' own code runs; `product` always exists
#   j5:
#     python: /opt/j5/bin/python
"""

_ENTRY = """# yaml-language-server: $schema=zoo.schema.json
model: "{name}"
version: "1"
owner: ""                    # who is told when the ladder breaks
adapter: adapters/{file}.py:{cls}
{options}{environment}inputs:
  - name: image              # as the exported model calls it
    shape: [1, 3, 224, 224]  # of the training tensor
    type_train: rgb          # what the float model was trained on: rgb, bgr, yuv444, gray, featuremap
    type_rt: nv12            # what the board feeds: nv12, yuv444, rgb, bgr, gray, featuremap
    source: pyramid          # pyramid (camera), resizer, or ddr
    mean: [123.675, 116.28, 103.53]   # exactly as in training, in the order of type_train
    scale: [0.01712475, 0.017507, 0.01742919]
{outputs}artifacts:                   # below the artifact root of zoo.yaml
{artifacts}metric: {metric}                 # the adapter's primary metric; higher is better
gates:
  float: {{min: 0.7}}          # the lowest acceptable value
{gates}samples: {{board: 24}}        # evaluated on the board
targets:
  - march: {march}
    toolchain: {toolchain}
{ptq}"""

_ADAPTER = '''"""Adapter of {name}: its data, its preprocessing, its model, its metric."""
{imports}

class {cls}({bases}):
{attributes}
{body}'''

_OWN = '''
    def samples(self, split, limit=None):
        """`evaluation`{splits}: in a fixed order; pictures as uint8 RGB [H, W, 3] at the model's input size."""
        for picture, label in islice(self.dataset(split), limit):
            yield Sample({{"{input}": picture}}, label)

    def dataset(self, split):
        raise NotImplementedError("yield (picture, label) pairs of your dataset")

    def preprocess(self, inputs):
        """Exactly what training does."""
        values = (inputs["{input}"].astype(np.float32) - [123.675, 116.28, 103.53]) * [0.01712475, 0.017507, 0.01742919]
        return {{"{input}": values.astype(np.float32).transpose(2, 0, 1)[None]}}
'''

_OWN_METRIC = """
    def postprocess(self, outputs):
        return int(outputs["logits"].argmax())

    def score(self, predictions, targets):
        return {"top1": float(np.mean(np.array(predictions) == np.array(targets)))}
"""

_DECODE = '''
    def decode(self, outputs):
        """One picture's outputs to boxes [N, 4] (x1 y1 x2 y2 in pixels of the input), scores [N], class numbers [N]."""
        raise NotImplementedError("decode the heads; qatladder.runner.datasets.nms suppresses what overlaps")
'''

_NETWORK = '''
    def network(self, rung):
        """The torch.nn.Module of a rung; of calib and qat with its fake-quantisation."""
        raise NotImplementedError("build the network; import torch here")
'''


def scaffold(
    folder: Path, name: str, kind: Kind, toolchain: str, march: str, ptq: bool, environment: str, data: Data = "own"
) -> list[Path]:
    """Write `<name>.yaml`, `adapters/<name>.py` and, in a new zoo, `zoo.yaml`; never over a file that exists.

    Returns:
        the files written.
    Raises:
        ConfigError: a file exists, or the toolchain does not compile for the march.
    """
    if march not in MARCHES[toolchain]:
        raise ConfigError("the toolchain does not compile for this march", expected=" | ".join(MARCHES[toolchain]), found=march)
    if ptq and toolchain == "openexplorer":
        raise ConfigError("openexplorer does not quantise by itself", "leave --ptq out: its int model comes from QAT")
    file = name.replace("-", "_").replace(".", "_")
    cls = "".join(part[:1].upper() + part[1:] for part in file.split("_") if part)
    if not NAME.fullmatch(name) or not cls.isidentifier() or keyword.iskeyword(cls) or cls in _TAKEN:
        raise ConfigError(
            "a model's name also names its adapter's class, so it has letters, digits, - _ . and begins with a letter",
            "choose another name",
            found=name,
        )
    int_model = toolchain == "openexplorer"
    rungs = ["float"] if ptq else ["float", "calib", "qat"]
    module, base, suffix = _LOADERS[kind]
    options = _OPTIONS.get(data, "") + (_HAT_OPTION if kind == "hat" else "")
    artifacts = [f"  {rung}: {name}/{rung}.{suffix}\n" for rung in rungs]
    artifacts.append(
        f"  int: {name}/int.pt          # torch.jit.trace(convert_fx(qat_model), example)\n"
        if int_model
        else f"  onnx: {name}/{'float' if ptq else 'qat_qdq'}.onnx   # torch.onnx.export(..., opset_version=13, dynamo=False)\n"
    )
    gates = "" if ptq else "  calib: {max_drop: 0.01}\n  qat: {max_drop: 0.01}\n"
    files = {
        folder / f"{name}.yaml": _ENTRY.format(
            name=name,
            file=file,
            cls=cls,
            options=f"adapter_options:\n{options.format(name=name)}" if options else "",
            metric="mAP" if data == "coco" else "top1",
            environment=f"environment: {environment}\n" if environment else "",
            outputs="outputs: [logits]            # of the traced model, in order\n" if int_model else "",
            artifacts="".join(artifacts),
            gates=gates + "  int: {max_drop: 0.01}\n",
            march=march,
            toolchain=toolchain,
            ptq="    ptq: {method: default, samples: 32}\n" if ptq else "",
        ),
        folder / "adapters" / f"{file}.py": _adapter(name, cls, (module, base), kind, data, ptq),
    }
    taken = [path for path in files if path.exists()]
    if taken:
        raise ConfigError("the file exists; nothing was written", "choose another name", file=taken[0])
    if not (folder / "zoo.yaml").exists():
        files[folder / "zoo.yaml"] = _ZOO
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    return list(files)


def _adapter(name: str, cls: str, loader: tuple[str, str], kind: Kind, data: Data, ptq: bool) -> str:
    """The adapter: what the ready halves leave to write."""
    module, base = loader
    halves = {"folder": "ImageFolder", "coco": "CocoDetection"}
    imports = (
        ["\nfrom itertools import islice\n\nimport numpy as np\n", "\nfrom qatladder.runner.adapter import Sample"]
        if data == "own"
        else [""]
    )
    if module == "adapters":
        imports.append(f"\nfrom qatladder.runner.adapters import {base}")
    if data != "own":
        imports.append(f"\nfrom qatladder.runner.datasets import {halves[data]}")
    if module == "hat":
        imports.append(f"\nfrom qatladder.runner.hat import {base}")
    attributes = []
    if data == "own":
        attributes.append('    metric = "top1"')
    if kind == "onnx" and data != "own":
        attributes.append('    input = "image"  # as the ONNX file calls them')
        if data == "folder":
            attributes.append('    output = "logits"')
    if kind != "onnx":
        attributes.append('    inputs, outputs = ("image",), ("logits",)  # as the entry and this class call them, in order')
    attributes.append("    batch = 1  # how many samples the model takes at once")
    body = (_OWN.format(splits=" and `calibration`" if ptq else "", input="image") if data == "own" else "") + (
        _NETWORK if kind == "torch" else ""
    )
    body += _DECODE if data == "coco" else _OWN_METRIC if data == "own" else ""
    bases = base if data == "own" else f"{halves[data]}, {base}"
    return _ADAPTER.format(name=name, imports="".join(imports) + "\n", cls=cls, bases=bases, attributes="\n".join(attributes), body=body)
