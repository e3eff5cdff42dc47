"""A STAND-IN for hbdk4.compiler of J6 and S100, which the vendor does not publish: `load`, `Hbm`, `feed` and `hbm_perf` as documented.

The BPU behind it is another one, but a real one: a `.bc` of the stand-in holds a quantized ONNX of the vendor's published toolchain for
bayes-e, an `.hbm` holds what its compiler made of it. `feed` runs the one in the vendor's ONNX Runtime, the other on the vendor's
instruction-level simulator; so both are computed by different programs, and agree only when the compiler is right.
"""

import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx

from qatladder.toolchains import hbdk, hmct_graph, hmct_tools

TOOLKIT = "4.0.0+standin"


class Type:
    def __init__(self, shape, np_dtype):
        self.shape, self.np_dtype = tuple(shape), np.dtype(np_dtype).type


class Value:
    def __init__(self, name, shape, np_dtype):
        self.name, self.type = name, Type(shape, np_dtype)


class Graph:
    """What .bc and .hbm have in common: names, shapes, and planes instead of a picture."""

    def __init__(self, description):
        self.name = description["name"]
        self._inputs = description["inputs"]
        self.flatten_inputs = []
        for item in self._inputs:
            if item["type_rt"] == "nv12":
                _, height, width, _ = item["shape"]
                self.flatten_inputs.append(Value(item["name"] + "_y", [1, height, width, 1], "uint8"))
                self.flatten_inputs.append(Value(item["name"] + "_uv", [1, height // 2, width // 2, 2], "uint8"))
            else:
                self.flatten_inputs.append(Value(item["name"], item["shape"], "float32"))
        self.flatten_outputs = [Value(item["name"], item["shape"], "float32") for item in description["outputs"]]

    def feed(self, feed_dict):
        for value in self.flatten_inputs:
            array = feed_dict[value.name]
            if tuple(array.shape) != value.type.shape or array.dtype != value.type.np_dtype:
                raise ValueError(f"input {value.name} is {value.type.np_dtype} {value.type.shape}, not {array.dtype} {array.shape}")
        return self._run(feed_dict)


class BcGraph(Graph):
    def __init__(self, description, model):
        super().__init__(description)
        self._session = _session(model)

    def _run(self, feed_dict):
        feed = {}
        for item in self._inputs:
            if item["type_rt"] == "nv12":
                chroma = feed_dict[item["name"] + "_uv"].repeat(2, 1).repeat(2, 2)
                picture = np.concatenate([feed_dict[item["name"] + "_y"], chroma], 3)
                feed[item["name"]] = (picture.astype(np.int16) - 128).astype(np.int8)
            else:
                feed[item["name"]] = feed_dict[item["name"]]
        return _onnx(self._session, feed, [value.name for value in self.flatten_outputs])


class HbmGraph(Graph):
    def __init__(self, description, model, hbm):
        super().__init__(description)
        self._model, self._hbm = model, hbm

    def _run(self, feed_dict):
        rim = hmct_graph.describe(self._model)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            file = place / "model.hbm"
            file.write_bytes(self._hbm)
            described = hmct_tools.describe_hbm(hbdk.disassemble(file, place), file)
            files = {}
            for item, stated in zip(self._inputs, rim["inputs"], strict=True):
                if item["type_rt"] == "nv12":
                    data = np.concatenate([feed_dict[item["name"] + plane].reshape(-1) for plane in ("_y", "_uv")])
                else:
                    data = np.clip(np.rint(feed_dict[item["name"]] / np.float32(stated["scale"][0])), -128, 127).astype(np.int8)
                files[stated["raw_name"]] = place / f"{len(files)}.in"
                files[stated["raw_name"]].write_bytes(np.ascontiguousarray(data).tobytes())
            answers = hbdk.simulate_one(file, described, [str(files[item["name"]]) for item in described["inputs"]], place)
        integers = {}
        shapes = {item["raw_name"]: item["raw_shape"] for item in rim["outputs"]}
        for item, array in zip(described["outputs"], answers, strict=True):
            shape = tuple(shapes[item["name"]])
            integers[item["name"]] = array if array.shape == shape else array.transpose(0, 3, 1, 2).reshape(shape)
        end = hmct_graph.end_of(self._model, list(integers))
        return _onnx(_session(end), integers, [value.name for value in self.flatten_outputs])


class _File:
    def __init__(self, graph):
        self.functions = self.graphs = [graph]

    def __getitem__(self, key):
        return self.graphs[0] if key in (0, self.graphs[0].name) else self.graphs[key]


class Hbm(_File):
    """A compiled model."""

    def __init__(self, file_name):
        content = _read(file_name, "hbm")
        super().__init__(HbmGraph(content["description"], content["model"], content["hbm"]))
        self.file_name, self.march_name, self.toolkit_version = file_name, content["description"]["march"], TOOLKIT


def load(path):
    """A .bc."""
    content = _read(path, "bc")
    return _File(BcGraph(content["description"], content["model"]))


def save(path, kind, description, model, hbm=b""):
    """How the stand-in's hb_compile writes both kinds of file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("kind", kind)
        file.writestr("description.json", json.dumps(description))
        file.writestr("model.onnx", model)
        file.writestr("model.hbm", hbm)


def hbm_perf(model, output_dir="."):
    """Write <graph>.json and <graph>.html."""
    content = _read(model, "hbm")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        file = place / "model.hbm"
        file.write_bytes(content["hbm"])
        print(hmct_tools.run_tool(["hbdk-perf", file, "-o", place], place).console)
        for suffix in (".json", ".html"):
            (written,) = place.glob("*" + suffix)
            (Path(output_dir) / (content["description"]["name"] + suffix)).write_bytes(written.read_bytes())


def _read(path, kind):
    try:
        with zipfile.ZipFile(io.BytesIO(Path(path).read_bytes())) as file:
            assert file.read("kind").decode() == kind
            description = json.loads(file.read("description.json"))
            return {"description": description, "model": onnx.load_from_string(file.read("model.onnx")), "hbm": file.read("model.hbm")}
    except (zipfile.BadZipFile, KeyError, AssertionError):
        raise RuntimeError(f"failed to parse {kind} file {path}") from None


def _session(model):
    from hmct.api import ORTExecutor

    return ORTExecutor(model).to("cpu").create_session()


def _onnx(session, feed, names):
    answers = session.forward({name: np.ascontiguousarray(array) for name, array in feed.items()}, names)
    return {name: answers[name] for name in names}
