"""Which digit is the warm one? The program that runs on the board: a camera frame in, a digit out. Python 3, standard library only.

    python3 digits_app.py MODEL FRAMES OUT

MODEL is the compiled model; the scales of its output are in the .json beside it. FRAMES holds image_<n>.ppm. Of every frame, OUT gets
what was given to the BPU (input_<n>.yuv), the output's integers (raw_<n>.bin), the logits (logits_<n>.bin) and the digit (digit_<n>.txt).
"""

import array
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SIZE = 64


def read_ppm(path):
    """The RGB bytes of a binary .ppm."""
    data = path.read_bytes()
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    if not head or (int(head.group(1)), int(head.group(2))) != (SIZE, SIZE):
        sys.exit(f"{path}: not a {SIZE}x{SIZE} P6 picture")
    return data[head.end() :]


def nv12(rgb):
    """BT.601, full swing, in whole numbers: Y per pixel, U and V of 2x2 pixels."""
    red, green, blue = rgb[0::3], rgb[1::3], rgb[2::3]
    luma = [299 * red[i] + 587 * green[i] + 114 * blue[i] for i in range(SIZE * SIZE)]  # in thousandths
    frame = bytearray((y + 500) // 1000 for y in luma)
    for top in range(0, SIZE, 2):
        for left in range(0, SIZE, 2):
            four = [(top + y) * SIZE + left + x for y in (0, 1) for x in (0, 1)]
            u = half_up(sum(1000 * blue[i] - luma[i] for i in four), 4 * 1772) + 128
            v = half_up(sum(1000 * red[i] - luma[i] for i in four), 4 * 1402) + 128
            frame += bytes([clamp(u), clamp(v)])
    return bytes(frame)


def half_up(value, divisor):
    return (2 * value + divisor) // (2 * divisor)


def clamp(value):
    return min(max(value, 0), 255)


def infer(model, frame):
    """The output buffer as the BPU left it, padding included."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        Path(folder, "frame.bin").write_bytes(frame)
        command = ["hrt_model_exec", "infer", f"--model_file={model.resolve()}", "--input_file=frame.bin", "--enable_dump=true"]
        done = subprocess.run([*command, "--dump_format=bin"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        dumps = list(Path(folder).glob("model_infer_output_0*.bin"))
        if done.returncode or len(dumps) != 1:
            sys.exit(f"hrt_model_exec infer failed:\n{done.stdout.decode(errors='replace')}")
        return array.array("i", dumps[0].read_bytes())


def main(model, frames, out):
    described = json.loads(model.with_suffix(".json").read_text())["outputs"][0]
    scales = described["scale"]
    count = len(scales)
    out.mkdir(exist_ok=True)
    for path in sorted(frames.glob("image_*.ppm")):
        number = path.stem.rpartition("_")[2]
        frame = nv12(read_ppm(path))
        (out / f"input_{number}.yuv").write_bytes(frame)
        buffer = infer(model, frame)
        step = len(buffer) // count  # each channel is a row of its own, padded to the alignment of the BPU
        raw = buffer[::step]
        (out / f"raw_{number}.bin").write_bytes(raw.tobytes())
        logits = array.array("f", [raw[i] * scales[i] for i in range(count)])
        (out / f"logits_{number}.bin").write_bytes(logits.tobytes())
        digit = max(range(count), key=lambda i: logits[i])
        (out / f"digit_{number}.txt").write_text(f"{digit}\n")
        print(f"frame {number}: {digit}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
