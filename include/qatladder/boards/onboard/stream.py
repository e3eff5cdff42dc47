"""Runs on the board, in the job folder: loads model.hbm or model.bin once and streams every sample through it.

    python3 stream.py FIRST

Reads `samples` (per line the input files of a sample, separated by commas, seen from out/<i>/) and `inputs.json` (per input:
image, dtype, shape, stride, bytes). Writes out/<i>/stream_<k>.raw, one per output, and at the end out/stream.json: which
binding, and per output its name, dtype and shape. Exit code 69: this board has no usable binding; anything else than 0: it failed.

Whether what it wrote can be trusted is not decided here: the first sample also went through the board's own tool.
"""

import json
import os
import sys
import time


class HobotDnn:
    """`hobot_dnn.pyeasy_dnn`: X3, J5, X5."""

    name = "hobot_dnn"

    def __init__(self, path):
        from hobot_dnn import pyeasy_dnn

        models = pyeasy_dnn.load(path)
        if len(models) != 1:
            raise ImportError("%d models in one file" % len(models))
        self.model = models[0]

    def run(self, arrays):
        outputs = self.model.forward(arrays if len(arrays) > 1 else arrays[0])
        return [(getattr(output, "name", ""), output.buffer) for output in outputs]


class HbmRuntime:
    """`hbm_runtime.HB_HBMRuntime`: S100, and newer images of the others."""

    name = "hbm_runtime"

    def __init__(self, path):
        from hbm_runtime import HB_HBMRuntime

        self.runtime = HB_HBMRuntime(path)
        if len(self.runtime.model_names) != 1:
            raise ImportError("%d models in one file" % len(self.runtime.model_names))
        self.model = self.runtime.model_names[0]

    def run(self, arrays):
        feed = dict(zip(self.runtime.input_names[self.model], arrays))
        outputs = self.runtime.run({self.model: feed})[self.model]
        return [(name, outputs[name]) for name in self.runtime.output_names[self.model]]


def load(path):
    """The first binding this board has; None without one."""
    for binding in (HobotDnn, HbmRuntime):
        try:
            return binding(path)
        except ImportError as error:
            print("%s: %s" % (binding.name, error))
    return None


def main(first):
    path = "model.bin" if os.path.exists("model.bin") else "model.hbm"
    model = load(path)
    if model is None:
        return 69
    import numpy

    with open("inputs.json") as stream:
        inputs = json.load(stream)
    described = []
    with open("samples") as stream:
        samples = stream.read().splitlines()
    for offset, line in enumerate(samples):
        arrays = []
        for spec, name in zip(inputs, line.split(",")):
            with open(os.path.join("out", str(first), name), "rb") as stream:
                data = stream.read()
            if len(data) != spec["bytes"]:
                print("%s has %d bytes, not %d" % (name, len(data), spec["bytes"]))
                return 1
            if spec["image"]:
                arrays.append(numpy.frombuffer(data, numpy.uint8))
            else:
                # The bindings take the valid elements; the file holds them padded.
                view = numpy.ndarray(spec["shape"], spec["dtype"], data, 0, spec["stride"])
                arrays.append(numpy.ascontiguousarray(view))
        started = time.time()
        outputs = model.run(arrays)
        elapsed = (time.time() - started) * 1e3
        folder = os.path.join("out", str(first + offset))
        if not os.path.isdir(folder):
            os.mkdir(folder)
        described = []
        for index, (name, array) in enumerate(outputs):
            array = numpy.ascontiguousarray(array)
            described.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
            with open(os.path.join(folder, "stream_%d.raw" % index), "wb") as sink:
                sink.write(array.tobytes())
        if offset:
            print("done %d 0" % (first + offset))
        print("Infer time: %.3f ms" % elapsed)
        sys.stdout.flush()
    with open("out/stream.json", "w") as stream:
        json.dump({"binding": model.name, "outputs": described}, stream)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
