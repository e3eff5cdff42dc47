"""Stand-in of `check_model`, `compile_model` and `perf_model`: they have the vendor's own programs work on the network's hbir.

A traced int model of this stand-in (see `int_model`) carries the hbir of its network in the buffer `hbir`.
"""

import os
import shutil
import subprocess
import tempfile

from horizon_plugin_pytorch.march import get_march


def _hbir(module, folder):
    path = os.path.join(folder, "model.hbir")
    with open(path, "wb") as file:
        file.write(bytes(bytearray(module.hbir.tolist())))
    return path


def _sources(input_source, example_inputs):
    if isinstance(input_source, str):
        input_source = [input_source] * len(example_inputs)
    return ",".join(input_source)


def check_model(module, example_inputs, march=None):
    """0 when the BPU supports the model; what it does not is said on the console."""
    with tempfile.TemporaryDirectory() as folder:
        sources = bytes(bytearray(module.sources.tolist())).decode()
        done = subprocess.run(
            ["hbdk-model-check", "-f", "hbir", "-m", _hbir(module, folder), "--march", march or get_march(), "-i", sources],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        print(done.stdout.decode())
        return 0 if done.returncode == 0 else 1


def compile_model(
    module,
    example_inputs,
    hbm,
    march=None,
    name=None,
    input_source="ddr",
    input_layout=None,
    output_layout="NCHW",
    opt="O2",
    balance_factor=2,
    progress_bar=True,
    jobs=0,
    debug=True,
    extra_args=None,
):
    """Write an hbm; returns the compiler's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["hbdk-cc", "-f", "hbir", "-m", _hbir(module, folder), "-o", hbm, "--march", march or get_march(), "--" + opt]
        command += ["--input-layout", "NHWC", "--output-layout", "NHWC", "-i", _sources(input_source, example_inputs), "-j", "2"]
        command += ["-n", name or "model"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        print(done.stdout.decode())
        return done.returncode


def perf_model(
    module, example_inputs, march=None, out_dir=".", name=None, hbm=None, input_source="ddr", opt="O2", layer_details=False, **_
):
    """Write <name>.html and <name>.json to out_dir."""
    os.makedirs(out_dir, exist_ok=True)
    hbm = hbm or os.path.join(out_dir, "model.hbm")
    if compile_model(module, example_inputs, hbm, march, name, input_source, opt=opt):
        return None
    subprocess.run(["hbdk-perf", hbm, "-o", out_dir], check=True, stdout=subprocess.DEVNULL)
    return {"hbm": shutil.which("hbdk-perf")}


class FakeQuantState:
    CALIBRATION, QAT, VALIDATION = "calibration", "qat", "validation"


def set_fake_quantize(model, state):
    """Tell every fake-quantised module to observe (calibration, qat) or to quantise with what it knows (validation)."""
    for module in model.modules():
        if hasattr(module, "state"):
            module.state = "validate" if state == FakeQuantState.VALIDATION else "observe"
