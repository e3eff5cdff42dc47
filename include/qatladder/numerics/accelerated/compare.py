"""Kernels of `qatladder.numerics.compare`: `span` and `span_pairs` do what `compare._Numpy` does, with the same results to the last bit.

Float sums are taken in the order numpy takes them: row by row in LANES interleaved lanes, which become vector registers. Loops are kept
short and simple, as that is what the compiler turns into vector instructions.
"""

# mypy: disable-error-code="assignment,no-untyped-def,no-untyped-call"

from __future__ import annotations

import numba
import numpy as np

LANES = 64
SIGN = 0x7FFFFFFFFFFFFFFF


@numba.njit(nogil=True, cache=True)
def _float_sums(x, y, lanes):
    whole = x.size - x.size % LANES
    four = whole - whole % (4 * LANES)
    for base in range(0, four, 4 * LANES):  # four rows at a time: the lanes are loaded and stored once for all
        for lane in range(LANES):
            at = base + lane
            d0, d1 = y[at] - x[at], y[at + LANES] - x[at + LANES]
            d2, d3 = y[at + 2 * LANES] - x[at + 2 * LANES], y[at + 3 * LANES] - x[at + 3 * LANES]
            lanes[lane] = (((lanes[lane] + d0) + d1) + d2) + d3
            lanes[LANES + lane] = (((lanes[LANES + lane] + abs(d0)) + abs(d1)) + abs(d2)) + abs(d3)
            lanes[2 * LANES + lane] = (((lanes[2 * LANES + lane] + d0 * d0) + d1 * d1) + d2 * d2) + d3 * d3
        for lane in range(LANES):
            at = base + lane
            a0, a1, a2, a3 = x[at], x[at + LANES], x[at + 2 * LANES], x[at + 3 * LANES]
            b0, b1, b2, b3 = y[at], y[at + LANES], y[at + 2 * LANES], y[at + 3 * LANES]
            lanes[3 * LANES + lane] = (((lanes[3 * LANES + lane] + a0 * b0) + a1 * b1) + a2 * b2) + a3 * b3
            lanes[4 * LANES + lane] = (((lanes[4 * LANES + lane] + a0 * a0) + a1 * a1) + a2 * a2) + a3 * a3
            lanes[5 * LANES + lane] = (((lanes[5 * LANES + lane] + b0 * b0) + b1 * b1) + b2 * b2) + b3 * b3
    for at in range(four, x.size):
        a, b = x[at], y[at]
        d, lane = b - a, at % LANES
        lanes[lane] += d
        lanes[LANES + lane] += abs(d)
        lanes[2 * LANES + lane] += d * d
        lanes[3 * LANES + lane] += a * b
        lanes[4 * LANES + lane] += a * a
        lanes[5 * LANES + lane] += b * b


@numba.njit(nogil=True, cache=True)
def _integer_errors(a, b, size):
    """Sums of the differences (wrong when they overflow: the caller looks at the peak) and the largest one; writes size float64 [n]."""
    total = absolute = square = top = 0
    for i in range(a.size):
        d = np.int64(b[i]) - np.int64(a[i])
        size[i] = np.float64(abs(d))
        total += d
        absolute += abs(d)
        square += d * d
        top = max(top, abs(d))
    return total, absolute, square, top


@numba.njit(nogil=True, cache=True)
def _integer_products(a, b):
    dot = left = right = top_a = top_b = 0
    for i in range(a.size):
        x, y = np.int64(a[i]), np.int64(b[i])
        dot += x * y
        left += x * x
        right += y * y
        top_a = max(top_a, abs(x))
        top_b = max(top_b, abs(y))
    return dot, left, right, top_a, top_b


@numba.njit(nogil=True, cache=True)
def _bits(value, scratch):
    """The bits of a float64; scratch: float64 [1]."""
    scratch[0] = value
    return scratch.view(np.int64)[0]


@numba.njit(nogil=True, cache=True)
def _widen(a, x):
    for i in range(a.size):
        x[i] = np.float64(a[i])


@numba.njit(nogil=True, cache=True)
def _sizes(x, y, size):
    for i in range(x.size):
        size[i] = abs(y[i] - x[i])


@numba.njit(nogil=True, cache=True)
def _top(bits):
    """The bits of the largest absolute value, as bits of floats order like the floats do; bits int64 [n]."""
    most = 0
    for i in range(bits.size):
        most = max(most, bits[i] & SIGN)
    return most


@numba.njit(nogil=True, cache=True)
def _zeros(a):
    zero = 0
    for i in range(a.size):
        zero += a[i] == 0
    return zero


@numba.njit(nogil=True, cache=True)
def _at_limits(a, low, high):
    full = 0
    for i in range(a.size):
        full += (a[i] <= low) | (a[i] >= high)
    return full


@numba.njit(nogil=True, cache=True)
def _unequal(a, b, wrong):
    count = 0
    for i in range(a.size):
        wrong[i] = a[i] != b[i]
    for i in range(a.size):
        count += wrong[i]
    return count


@numba.njit(nogil=True, cache=True)
def _quotients(x, size, out):
    for i in range(x.size):
        out[i] = size[i] / (abs(x[i]) if x[i] != 0.0 else np.inf)


@numba.njit(nogil=True, cache=True)
def _ulps(a, b, lowest):
    most = 0
    for i in range(a.size):
        x, y = np.int64(a[i]), np.int64(b[i])
        x = lowest - x if x < 0 else x
        y = lowest - y if y < 0 else y
        d = y - x
        overflow = ((x < 0) != (y < 0)) & ((d < 0) != (y < 0))
        most = max(most, SIGN if overflow else abs(d))
    return most


@numba.njit(nogil=True, cache=True)
def _reached(steps, top, bounds, counts):
    for k in range(bounds.size):
        if bounds[k] > top:
            break
        count = 0
        for i in range(steps.size):
            count += steps[i] >= bounds[k]
        counts[k] += count


@numba.njit(nogil=True, cache=True)
def _profile(wrong, key, column, row, columns, column_peaks, rows, row_peaks):
    width, done = columns.size, 0
    while done < wrong.size:
        take = min(width - column, wrong.size - done)
        part, keys = wrong[done : done + take], key[done : done + take]
        below, peaks_below = columns[column : column + take], column_peaks[column : column + take]
        count = 0
        peak = keys[0]
        for i in range(take):
            below[i] += part[i]
        for i in range(take):
            peaks_below[i] = max(peaks_below[i], keys[i])
        for i in range(take):
            count += part[i]
        for i in range(take):
            peak = max(peak, keys[i])
        rows[row] += count
        row_peaks[row] = max(row_peaks[row], peak)
        done += take
        column = 0
        row += 1


@numba.njit(nogil=True, cache=True)
def span(a, b, bits_a, bits_b, lowest, whole, low, high, bounds, x, y, size, wrong, lanes, sums, tops, counts, reached, start, columns, column_peaks, rows, row_peaks):  # fmt: skip
    """See `compare._Numpy.span`."""
    block, width, scratch = x.size, columns.size, np.zeros(1)
    for index in range(lanes.shape[0]):
        first = index * block
        p, q = a[first : first + block], b[first : first + block]
        n = p.size
        u, v, s, w = x[:n], y[:n], size[:n], wrong[:n]
        exact = False
        if whole != 0:
            total, absolute, square, top = _integer_errors(p, q, s)
            dot, left, right, top_a, top_b = _integer_products(p, q)
            top_s, top_x, top_y = _bits(top, scratch), _bits(top_a, scratch), _bits(top_b, scratch)
            exact = max(top_x, top_y) < whole
            counts[2] += _zeros(p)
            counts[3] += _zeros(q)
            counts[4] += _at_limits(p, np.int64(low), np.int64(high))
            counts[5] += _at_limits(q, np.int64(low), np.int64(high))
        if exact:
            sums[0] += total
            sums[1] += absolute
            sums[2] += square
            sums[3] += dot
            sums[4] += left
            sums[5] += right
        else:
            _widen(p, u)
            _widen(q, v)
            _float_sums(u, v, lanes[index])
        if whole == 0:
            _sizes(u, v, s)
            top_s, top_x, top_y = _top(s.view(np.int64)), _top(u.view(np.int64)), _top(v.view(np.int64))
            counts[2] += _zeros(u)
            counts[3] += _zeros(v)
            if low < high:
                counts[4] += _at_limits(u, low, high)
                counts[5] += _at_limits(v, low, high)
        tops[0] = max(tops[0], top_s)
        tops[1] = max(tops[1], top_x)
        tops[2] = max(tops[2], top_y)
        wrongs = _unequal(bits_a[first : first + n], bits_b[first : first + n], w)
        if wrongs == 0:
            continue
        if counts[0] == 0:
            counts[1] = first + np.argmax(w)
        counts[0] += wrongs
        if lowest != 0:
            counts[6] = max(counts[6], _ulps(bits_a[first : first + n], bits_b[first : first + n], lowest))
        else:
            _reached(s, s.max(), bounds, reached)
        if width:
            at = start + first
            _profile(w, s.view(np.int64), at % width, at // width - start // width, columns, column_peaks, rows, row_peaks)
        if lowest == 0 and top_s <= tops[3]:  # no integer that is not 0 divides by less than 1
            continue
        if exact:
            _widen(p, u)
        _quotients(u, s, v)
        tops[3] = max(tops[3], _top(v.view(np.int64)))


@numba.njit(nogil=True, cache=True)
def span_pairs(a, b, signed, table, wrong, key, counts, block, start, columns, column_peaks, rows, row_peaks):
    """See `compare._Numpy.span_pairs`. Four tables, because one counter would wait for itself."""
    width = columns.size
    whole = a.size - a.size % 4
    for i in range(0, whole, 4):
        table[0, a[i], b[i]] += 1
        table[1, a[i + 1], b[i + 1]] += 1
        table[2, a[i + 2], b[i + 2]] += 1
        table[3, a[i + 3], b[i + 3]] += 1
    for i in range(whole, a.size):
        table[0, a[i], b[i]] += 1
    for first in range(0, a.size, block):
        p, q = a[first : first + block], b[first : first + block]
        w, k = wrong[: p.size], key[: p.size]
        wrongs = _unequal(p, q, w)
        if wrongs == 0:
            continue
        if counts[0] == 0:
            counts[1] = first + np.argmax(w)
        counts[0] += wrongs
        if width:
            if signed:
                _byte_sizes(p.view(np.int8), q.view(np.int8), k)
            else:
                _byte_sizes(p, q, k)
            at = start + first
            _profile(w, k, at % width, at // width - start // width, columns, column_peaks, rows, row_peaks)


@numba.njit(nogil=True, cache=True)
def _byte_sizes(a, b, size):
    for i in range(a.size):
        size[i] = abs(np.int16(b[i]) - np.int16(a[i]))
