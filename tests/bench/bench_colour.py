"""NV12 to the int model's input against OpenCV's NV12 to RGB, both in one run: `make bench`. Prints; asserts nothing about time.

Both write the same number of bytes, on two threads. OpenCV computes colours, ours only moves bytes: the ratio says whether the int model's
input costs more than what everybody does with a frame anyway.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.bench.timing import best

from qatladder.numerics.colour import nv12_to_intermediate, nv12_to_yuv444
from qatladder.numerics.contract import InputContract

SIZES = ((1, 1080, 1920), (1, 2160, 3840), (8, 720, 1280), (64, 224, 224))
"""(N, H, W): small frames come in batches, as kernels are not loaded for less than 4 MB."""


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("count", "height", "width"), SIZES)
def test_nv12_to_intermediate_against_opencv(count: int, height: int, width: int, layout: str) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.setNumThreads(2)
    frames = np.random.default_rng(0).integers(0, 256, (count, height * 3 // 2, width), dtype=np.uint8)
    rgb, out = np.empty((count, height, width, 3), np.uint8), nv12_to_intermediate(frames, layout=layout)
    expected = (nv12_to_yuv444(frames) ^ 128).view(np.int8)
    np.testing.assert_array_equal(out, expected if layout == "NHWC" else expected.transpose(0, 3, 1, 2))
    contract = InputContract("image", "nv12", "rgb", "NCHW", layout_rt=layout)
    ours = best(lambda: nv12_to_intermediate(frames, out, layout))
    theirs = best(lambda: [cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12, dst=to) for frame, to in zip(frames, rgb, strict=True)])
    ours_new = best(lambda: contract.intermediate(frames))
    theirs_new = best(lambda: [cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12) for frame in frames])
    print(
        f"\n{count} NV12 of {height}x{width} to yuv444_128 {layout}: {ours * 1e3:.3f} ms; OpenCV / ours = {theirs / ours:.2f} into given "
        f"memory, {theirs_new / ours_new:.2f} into new (InputContract.intermediate)"
    )
