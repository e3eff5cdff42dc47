"""Kernels of `qatladder.numerics.colour`: NV12 to the intermediate type, four pixels of a row at a time.

Four luma bytes and the four chroma bytes of the same columns are one 32-bit word each, and so is what they become: the kernels only shift
and mask words, which the compiler turns into vector instructions (byte by byte it does not: 4.6 times slower). Little endian.
"""

from __future__ import annotations

import numba
import numpy as np

_B0, _B1, _B2, _B3 = np.uint32(0xFF), np.uint32(0xFF00), np.uint32(0xFF0000), np.uint32(0xFF000000)
_LOW = np.uint32(0xFFFF)
_8, _16, _24 = np.uint32(8), np.uint32(16), np.uint32(24)
_CENTRE = np.uint32(0x80808080)


@numba.njit(nogil=True, cache=True)
def nhwc(luma, chroma, out):  # type: ignore[no-untyped-def]
    """luma [N, H, W / 4], chroma [N, H / 2, W / 4], out [N, H, 3 * W / 4], all uint32."""
    for n in range(luma.shape[0]):
        for row in range(luma.shape[1]):
            ys, cs, target = luma[n, row], chroma[n, row >> 1], out[n, row]
            for i in range(ys.size):
                y, c = ys[i] ^ _CENTRE, cs[i] ^ _CENTRE  # y3 y2 y1 y0, v1 u1 v0 u0
                left, right = c & _LOW, c >> _16
                target[3 * i] = (y & _B0) | (left << _8) | ((y << _16) & _B3)  # y1 v0 u0 y0
                target[3 * i + 1] = left | (y & _B2) | (right << _24)  # u1 y2 v0 u0
                target[3 * i + 2] = (right >> _8) | ((y >> _16) & _B1) | (right << _16)  # v1 u1 y3 v1


@numba.njit(nogil=True, cache=True)
def nchw(luma, chroma, out):  # type: ignore[no-untyped-def]
    """luma [N, H, W / 4], chroma [N, H / 2, W / 4], out [N, 3, H, W / 4], all uint32."""
    for n in range(luma.shape[0]):
        for row in range(luma.shape[1]):
            ys, target = luma[n, row], out[n, 0, row]
            for i in range(ys.size):
                target[i] = ys[i] ^ _CENTRE
        for row in range(luma.shape[1]):
            cs, us, vs = chroma[n, row >> 1], out[n, 1, row], out[n, 2, row]
            for i in range(cs.size):
                c = cs[i] ^ _CENTRE
                u, v = c & np.uint32(0x00FF00FF), (c >> _8) & np.uint32(0x00FF00FF)
                us[i] = u | (u << _8)
                vs[i] = v | (v << _8)
