"""Stand-in of `hbdk-model-verifier`: the documented command line and files, on the vendor's own simulator and a traced int model.

As documented it takes one sample, writes a folder of its own under --local-work-path, and its exit code says nothing: 0 whatever it found.
With --ip and without --skip-bpu the simulator stands in for the board, too. Python 3.8, torch, numpy, pillow.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import numpy as np


def version():
    console = subprocess.run(["hbdk-cc", "--version"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return os.environ.get("STANDIN_VERIFIER_VERSION") or re.search(r"^version: *(\S+)", console, re.MULTILINE).group(1)


def nv12_of(path, shape):
    """[H*3/2, W] uint8 of a yuv file, or of a decoded picture: BT.601 full swing, chroma of 2x2 pixels averaged."""
    if path.endswith(".yuv"):
        height, width = shape
        return np.fromfile(path, np.uint8).reshape(height * 3 // 2, width)
    from PIL import Image

    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), np.float64), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [0.564 * (blue - luma) + 128, 0.713 * (red - luma) + 128]
    height, width = luma.shape
    small = [plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for plane in chroma]
    rows = np.stack(small, -1).reshape(height // 2, width)
    return np.clip(np.rint(np.concatenate([luma, rows])), 0, 255).astype(np.uint8)


def yuv444(nv12):
    height = nv12.shape[0] * 2 // 3
    chroma = nv12[height:].reshape(height // 2, -1, 2).repeat(2, 0).repeat(2, 1)
    return (np.concatenate([nv12[:height, :, None], chroma], -1).astype(np.int16) - 128).astype(np.int8)


def numbers(node, index):
    return np.asarray(node.inputsAt(index).toIValue().detach().cpu()).reshape(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", action="version", version=version())
    for name in ("hbm", "model-pt", "model-input"):
        parser.add_argument("--" + name, required=True)
    for name in ("ip", "model-name", "yuv-shape"):
        parser.add_argument("--" + name, default="")
    parser.add_argument("--image-stride", type=int, default=0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--skip-bpu", action="store_true")
    parser.add_argument("--local-work-path", default=".")
    given = parser.parse_args()

    import horizon_plugin_pytorch.operators  # noqa: F401
    import torch

    script = torch.jit.load(given.model_pt).eval()
    nodes = list(torch.jit.freeze(script).graph.nodes())
    quantise = [node for node in nodes if node.kind().endswith("scale_quantization")]
    dequantise = [node for node in nodes if node.kind().endswith("dequantization")]
    place = os.path.join(given.local_work_path, "verifier_" + time.strftime("%Y%m%d%H%M%S"))
    os.makedirs(place)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["hbdk-disas", given.hbm, "--json", "-o", scratch + "/d.json"], check=True, stdout=subprocess.DEVNULL)
        model = json.load(open(scratch + "/d.json"))[0]
        features = model["input features"]
        feed, files, sizes = [], [], []
        for index, (path, node) in enumerate(zip(given.model_input.split(","), quantise)):
            scale = float(numbers(node, 1)[0])
            dims = [int(size) for size in re.findall(r"\d+", str(features[index]["valid dim"]))]
            if path.endswith((".jpg", ".jpeg", ".png", ".yuv")):
                shape = [int(size) for size in given.yuv_shape.split("x")] if given.yuv_shape else None
                nv12 = nv12_of(path, shape)
                integers = yuv444(nv12)[None]
                files.append(f"{scratch}/{index}.yuv")
                nv12.tofile(files[-1])
                sizes.append(f"{integers.shape[1]}x{integers.shape[2]}")
            else:
                raw = np.fromfile(path, np.int8) if path.endswith(".bin") else np.loadtxt(path).astype(np.int8)
                integers = raw.reshape(dims)
                files.append(f"{scratch}/{index}.bin")
                integers.tofile(files[-1])
                sizes.append("")
            feed.append(torch.from_numpy(integers.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(scale)))
        with torch.no_grad():
            answers = script(*feed)
        answers = list(answers) if isinstance(answers, (tuple, list)) else [answers]
        kinds = ["simulator_output"] + ([] if given.skip_bpu or not given.ip else ["bpu_output"])
        passed = True
        for kind in kinds:
            folder = os.path.join(place, kind)
            os.makedirs(folder)
            command = ["hbdk-sim", "-f", given.hbm, "-n", given.model_name or model["model name"], "-i", ",".join(files), "-o", folder]
            command += ["--yuv-size", ",".join(sizes)] if any(sizes) else []
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for index, (answer, node) in enumerate(zip(answers, dequantise)):
                (text,) = [
                    name for name in os.listdir(folder) if name.startswith(f"hbdk_output{index}_") and name.endswith("_elem_int.txt")
                ]
                values = np.loadtxt(os.path.join(folder, text), comments="#").reshape(-1)
                dims = [int(size) for size in re.findall(r"\d+", str(model["output features"][index]["valid dim"]))]
                native = values.reshape(dims)
                native = native if dims == list(answer.shape) else np.moveaxis(native, -1, 1).reshape(tuple(answer.shape))
                native = native * numbers(node, 1).reshape(1, -1, *[1] * (answer.dim() - 2))
                native = native.astype(np.float32)
                same = np.array_equal(native, answer.numpy())
                passed = passed and same
                out = text.replace("_elem_int.txt", "_torch_native_elem_float.txt")
                with open(os.path.join(folder, out), "w") as file:
                    file.write(f"feature {index}\nshape {list(answer.shape)}\ntype float\n")
                    file.writelines("%f\n" % value for value in native.ravel())
                print("output {} of {}: {}".format(index, kind, "consistent" if same else "mismatched"))
    print("verification " + ("passed" if passed else "failed"))


if __name__ == "__main__":
    sys.exit(main())
