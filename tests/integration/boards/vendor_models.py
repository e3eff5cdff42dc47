"""Runs in the vendor environment (PYTHONPATH: the stand-in for torch).

build FOLDER                              two small models through hb_mapper: nv12 (bayes-e) and a padded featuremap (bayes)
reference ONNX FEED.npz OUT.npz NAME...   the quantized ONNX on [N, ...] inputs; the named tensors, internal ones too
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

MODELS = {
    "nv12": {"march": "bayes-e", "shape": (1, 3, 48, 64), "rt": "nv12", "train": "rgb", "source": "pyramid"},
    "featuremap": {"march": "bayes", "shape": (1, 5, 50, 50), "rt": "featuremap", "train": "featuremap", "source": "ddr"},
}


def network(shape, rng):
    """Conv 3x3 /2, Relu, Conv 1x1 to 10 channels, NHWC output (padded to 16 channels in memory)."""
    channels, (height, width) = shape[1], ((size + 1) // 2 for size in shape[2:])
    weights = {
        "w1": rng.normal(0, 0.2, (8, channels, 3, 3)),
        "b1": rng.normal(0, 1, 8),
        "w2": rng.normal(0, 0.2, (10, 8, 1, 1)),
        "b2": rng.normal(0, 1, 10),
    }
    nodes = [
        helper.make_node("Conv", ["data", "w1", "b1"], ["c1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[1, 1]),
        helper.make_node("Transpose", ["c2"], ["y"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, height, width, 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 7
    return model


def build(folder: Path) -> None:
    for name, spec in MODELS.items():
        rng = np.random.default_rng(7)
        onnx.save(network(spec["shape"], rng), str(folder / f"{name}.onnx"))
        calibration = folder / f"{name}_calibration"
        calibration.mkdir()
        for index in range(3):
            low, high = (0, 255) if spec["rt"] == "nv12" else (-60, 60)
            rng.uniform(low, high, spec["shape"]).astype(np.float32).tofile(calibration / f"{index}.bin")
        inputs = {
            "input_name": "data",
            "input_type_rt": spec["rt"],
            "input_type_train": spec["train"],
            "input_layout_train": "NCHW",
            "input_shape": "x".join(map(str, spec["shape"])),
            "norm_type": "no_preprocess",
        }
        if spec["rt"] == "featuremap":
            inputs["input_layout_rt"] = "NCHW"
        config = {
            "model_parameters": {
                "onnx_model": str(folder / f"{name}.onnx"),
                "march": spec["march"],
                "working_dir": str(folder / name),
                "output_model_file_prefix": name,
            },
            "input_parameters": inputs,
            "calibration_parameters": {
                "calibration_type": "max",
                "cal_data_dir": str(calibration),
                "cal_data_type": "float32",
                "preprocess_on": False,
            },
            "compiler_parameters": {"compile_mode": "latency", "optimize_level": "O2", "jobs": 1, "input_source": {"data": spec["source"]}},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        subprocess.run(["hb_mapper", "makertbin", "--model-type", "onnx", "-c", f"{name}.yaml"], cwd=folder, check=True)
        subprocess.run(["hb_extract_hbm", f"{name}/{name}.bin"], cwd=folder, check=True)


def reference(model_file: str, feed_file: str, out_file: str, names) -> None:
    from hmct.api import ORTExecutor

    model = onnx.load(model_file)
    known = {item.name for item in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    session = ORTExecutor(model).to("cpu").create_session()
    feed = dict(np.load(feed_file))
    count = len(next(iter(feed.values())))
    runs = [session.forward({name: value[index] for name, value in feed.items()}) for index in range(count)]
    np.savez(out_file, **{name: np.stack([run[name] for run in runs]) for name in names})


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build(Path(sys.argv[2]))
    else:
        reference(sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
