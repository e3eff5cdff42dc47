"""Kernels of `qatladder.numerics.colour`: NV12 to the intermediate type, four pixels of a row at a time.

Four luma bytes and the four chroma bytes of the same columns are one 32-bit word each, and so is what they become: the kernels only shift
and mask words, which the compiler turns into vector instructions (byte by byte it does not: 4.6 times slower). Little endian. Arrays must
be C-contiguous: rows of unknown stride take twice the time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

_B0, _B1, _B2, _B3 = np.uint32(0xFF), np.uint32(0xFF00), np.uint32(0xFF0000), np.uint32(0xFF000000)
_LOW, _EVEN = np.uint32(0xFFFF), np.uint32(0x00FF00FF)
_8, _16, _24 = np.uint32(8), np.uint32(16), np.uint32(24)
_CENTRE = np.uint32(0x80808080)

_threads = ThreadPoolExecutor(1)
"""The second thread. It stays: starting one for each call costs more than it gains (0.43 ms, one thread 0.32 ms, this 0.24 ms a frame of
1920x1080)."""


def _after_fork() -> None:
    global _threads
    _threads = ThreadPoolExecutor(1)


os.register_at_fork(after_in_child=_after_fork)


def nhwc(frames: np.ndarray, out: np.ndarray) -> None:
    """frames uint32 [N, H * 3 / 2, W / 4], out uint32 [N, H, 3 * W / 4]."""
    _in_halves(_nhwc, frames, out, out.shape[1])


def nchw(frames: np.ndarray, out: np.ndarray) -> None:
    """frames uint32 [N, H * 3 / 2, W / 4], out uint32 [N, 3, H, W / 4]."""
    _in_halves(_nchw, frames, out, out.shape[2])


def _in_halves(kernel: Any, frames: np.ndarray, out: np.ndarray, height: int) -> None:
    lower = _threads.submit(kernel, frames, out, height // 2, height)
    kernel(frames, out, 0, height // 2)
    lower.result()


@numba.njit(nogil=True, cache=True)
def _nhwc(frames, out, first, last):  # type: ignore[no-untyped-def]
    """Rows first to last: frames uint32 [N, H * 3 / 2, W / 4], out uint32 [N, H, 3 * W / 4]."""
    height = out.shape[1]
    for n in range(frames.shape[0]):
        for row in range(first, last):
            ys, cs, target = frames[n, row], frames[n, height + (row >> 1)], out[n, row]
            for i in range(ys.size):
                y, c = ys[i] ^ _CENTRE, cs[i] ^ _CENTRE  # y3 y2 y1 y0, v1 u1 v0 u0
                left, right = c & _LOW, c >> _16
                target[3 * i] = (y & _B0) | (left << _8) | ((y << _16) & _B3)  # y1 v0 u0 y0
                target[3 * i + 1] = left | (y & _B2) | (right << _24)  # u1 y2 v0 u0
                target[3 * i + 2] = (right >> _8) | ((y >> _16) & _B1) | (right << _16)  # v1 u1 y3 v1


@numba.njit(nogil=True, cache=True)
def _nchw(frames, out, first, last):  # type: ignore[no-untyped-def]
    """Rows first to last: frames uint32 [N, H * 3 / 2, W / 4], out uint32 [N, 3, H, W / 4]."""
    height = out.shape[2]
    for n in range(frames.shape[0]):
        for row in range(first, last):
            ys, cs = frames[n, row], frames[n, height + (row >> 1)]
            luma, us, vs = out[n, 0, row], out[n, 1, row], out[n, 2, row]
            for i in range(ys.size):
                luma[i] = ys[i] ^ _CENTRE
            for i in range(cs.size):
                c = cs[i] ^ _CENTRE
                u, v = c & _EVEN, (c >> _8) & _EVEN
                us[i] = u | (u << _8)
                vs[i] = v | (v << _8)
