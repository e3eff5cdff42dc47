"""Kernels of `qatladder.numerics.text`: numbers out of bytes in one pass.

A block of text is first marked, 64 bytes to a word of bits, and the places where numbers end are collected. Then each number is read
from its last byte backwards, eight digits at a time, without a branch that depends on how long it is: numbers do not wait for each
other. What does not fit this way (exponents, more than 16 decimals) is read byte by byte; what cannot be rounded correctly with one
multiplication or division is left to the caller.

Both kernels read up to 8 bytes beyond `stop`, and need a text whose last byte is a separator. `state` goes from call to call; its items
are the constants below.
"""

# mypy: disable-error-code="call-arg,assignment,unreachable"

from __future__ import annotations

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

AT, COUNT, COMMA, LEADING, LARGEST, DIGITS, FEWEST, MOST, LAST, REAL, EXPONENTS, LAST_EXPONENT, SPANS, SIZE = range(14)
"""Position behind what is read; numbers so far; a comma waits for its number; a comma came before the first number; the largest mantissa
of numbers with up to 18 digits; most significant digits of longer ones; fewest and most decimals of all numbers but the last; decimals
of the last; numbers that are no integers; numbers with an exponent; the last has one; spans in use."""

DONE, OTHER, FULL = 0, 1, 2
"""All is read; the number behind AT is none this kernel reads; there is no room for another span."""

BLOCK = 1 << 12

MARGIN = 64
"""Bytes of text there must be behind `stop`."""

_POWERS = np.array([float("1e{}".format(power)) for power in range(23)])
"""Powers of ten that float64 holds exactly."""

_TENS = np.array([10**power for power in range(19)], np.int64)
_TOP = np.array([(2**64 - 1) ^ (2 ** (64 - 8 * count) - 1) for count in range(9)], np.uint64)
"""Masks of the last `count` of eight bytes."""

_ZEROS, _ABOVE_9, _HIGH = np.uint64(0x3030303030303030), np.uint64(0x7676767676767676), np.uint64(0x8080808080808080)
_PAIRS, _FOURS, _EIGHT = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF)
_U0, _U1, _U3, _U8, _U10, _U16, _U32, _U56 = (np.uint64(number) for number in (0, 1, 3, 8, 10, 16, 32, 56))
_U63, _U100, _U10000 = np.uint64(63), np.uint64(100), np.uint64(10000)
_GATHER = np.uint64(0x0102040810204080)


@intrinsic
def _trailing_zeros(typing_context, word):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), generate


_index = np.uint64
"""An index that is never negative: numba then does not look for one that counts from the end."""


@numba.njit(nogil=True, cache=True)
def _mark(data, marks):  # type: ignore[no-untyped-def]
    """1 where a number goes on, 0 at a separator."""
    for i in range(data.size):
        c = data[i]
        blank = (c == 32) | ((c >= 9) & (c <= 13))
        marks[i] = np.uint8(not (blank | (c == 44) | (c == 59)))


@numba.njit(nogil=True, cache=True)
def _ends(words, count, start, carry, ends):  # type: ignore[no-untyped-def]
    """Places of separators that follow a number: words uint64 [8 * count], marks of one byte each; ends int64 [enough]."""
    found = 0
    for block in range(count):
        bits = _U0
        for k in range(8):
            bits |= ((words[8 * block + k] * _GATHER) >> _U56) << np.uint64(8 * k)
        edges = ~bits & ((bits << _U1) | carry)
        carry = bits >> _U63
        base = start + 64 * block
        while edges != _U0:
            ends[found] = base + np.int64(_trailing_zeros(edges))
            found += 1
            edges &= edges - _U1
    return found, carry


@numba.njit(nogil=True, cache=True)
def count(data, start, stop, marks, marked, ends):  # type: ignore[no-untyped-def]
    """How many numbers there are between two places."""
    carry, total = _U0, 0
    for place in range(start, stop, BLOCK):
        size = min(BLOCK, stop - place)
        blocks = (size + 63) // 64
        marks[size : 64 * blocks] = 0
        _mark(data[place : place + size], marks)
        found, carry = _ends(marked, blocks, place, carry, ends)
        total += found
    return total


@numba.njit(nogil=True, cache=True, inline="always")
def _wrong(digits):  # type: ignore[no-untyped-def]
    """Not 0 when one of eight bytes is above 9."""
    return ((digits + _ABOVE_9) | digits) & _HIGH


@numba.njit(nogil=True, cache=True, inline="always")
def _eight(digits):  # type: ignore[no-untyped-def]
    """The number of eight decimal digits, the first in the lowest byte."""
    pairs = (digits * _U10 + (digits >> _U8)) & _PAIRS
    fours = (pairs * _U100 + (pairs >> _U16)) & _FOURS
    return np.int64((fours * _U10000 + (fours >> _U32)) & _EIGHT)


@numba.njit(nogil=True, cache=True)
def _skip(data, at, end, comma):  # type: ignore[no-untyped-def]
    """The first byte of the number that ends at `end`, and the commas before it; `at` is behind the number before it."""
    while at < end:
        c = data[at]
        if c == 44 or c == 59:
            comma += 1
        elif not (c == 32 or (9 <= c <= 13)):
            break
        at += 1
    return at, comma


@numba.njit(nogil=True, cache=True)
def integers(data, words, stop, out, marks, marked, ends, state):  # type: ignore[no-untyped-def]
    """Read integers of up to 16 digits; stops at anything else.

    Args:
        data: uint8 [n]; words: uint64 [n - 7], word i is bytes i to i + 7.
        out: int64 [enough].
        marks, marked: room for BLOCK + 64 bytes, and the same as uint64; ends: int64 [BLOCK].
    """
    at, n, comma, leading, largest = state[AT], state[COUNT], state[COMMA], state[LEADING], state[LARGEST]
    carry, place, code = _U0, at, DONE
    while place < stop and code == DONE:
        size = min(BLOCK, stop - place)
        blocks = (size + 63) // 64
        marks[size : 64 * blocks] = 0
        _mark(data[place : place + size], marks)
        found, carry = _ends(marked, blocks, place, carry, ends)
        for k in range(found):
            end = ends[_index(k)]
            first, commas = at + 1, 0
            if n == 0 or data[_index(first)] < 45 or data[_index(first)] == 59:  # not just one separator
                first, commas = _skip(data, at, end, comma)
            negative = np.int64(data[_index(first)] == 45)
            begin = first + negative
            length = end - begin
            if length <= 0 or length > 16 or commas > 1:
                code = OTHER
                break
            digits = words[_index(begin)] ^ _ZEROS
            zero = (digits & np.uint64(255)) == _U0
            if length <= 8:
                digits <<= np.uint64(64 - 8 * length)
                value = _eight(digits)
                wrong = _wrong(digits)
            else:
                tail = words[_index(end - 8)] ^ _ZEROS
                digits <<= np.uint64(128 - 8 * length)
                value = _eight(digits) * 100000000 + _eight(tail)
                wrong = _wrong(digits) | _wrong(tail)
            if wrong != _U0 or (zero and length + negative > 1):
                code = OTHER
                break
            if commas and n == 0:
                leading = 1
            largest = max(largest, value)
            out[_index(n)] = (value ^ -negative) + negative
            n += 1
            at = end
            comma = 0
        place += size
    if code == DONE:
        at, comma = _skip(data, at, stop, comma)
        code = DONE if comma < 2 else OTHER
        leading = leading if n else min(comma, 1)
    state[AT], state[COUNT], state[COMMA], state[LEADING], state[LARGEST] = at, n, comma, leading, largest
    return code


@numba.njit(nogil=True, cache=True)
def floats(data, words, stop, out, marks, marked, ends, spans, state):  # type: ignore[no-untyped-def]
    """Read numbers of any form; arguments as of `integers`, out float64 [enough].

    A mantissa below 2**53 times or divided by a power of ten that float64 holds exactly is correctly rounded. Others are left to the
    caller: spans int64 [m, 3] takes (index, first byte, behind last byte).
    """
    at, n, comma, leading, largest = state[AT], state[COUNT], state[COMMA], state[LEADING], state[LARGEST]
    most_digits, fewest, most, last = state[DIGITS], state[FEWEST], state[MOST], state[LAST]
    real, exponents, last_exponent, used = state[REAL], state[EXPONENTS], state[LAST_EXPONENT], state[SPANS]
    carry, place, code = _U0, at, DONE
    while place < stop and code == DONE:
        size = min(BLOCK, stop - place)
        blocks = (size + 63) // 64
        marks[size : 64 * blocks] = 0
        _mark(data[place : place + size], marks)
        found, carry = _ends(marked, blocks, place, carry, ends)
        for k in range(found):
            end = ends[_index(k)]
            first, commas = at + 1, 0
            if n == 0 or data[_index(first)] < 45 or data[_index(first)] == 59:  # not just one separator
                first, commas = _skip(data, at, end, comma)
            if commas > 1:
                code = OTHER
                break
            negative = np.int64(data[_index(first)] == 45)
            begin = first + negative
            head = words[_index(begin)] ^ _ZEROS
            wrong = _wrong(head)
            whole = np.int64(_trailing_zeros(wrong) >> _U3)  # digits before the point; 8 when there is none in the first 8 bytes
            decimals = end - begin - whole - 1
            done = False
            if 0 < whole <= 4 and data[_index(begin + whole)] == 46 and 0 < decimals <= 12 and end >= 16:
                # All digits but the last eight share one word: up to four before the point, then up to four behind it.
                low = (words[_index(end - 8)] ^ _ZEROS) & _TOP[_index(min(decimals, 8))]
                high = (words[_index(end - 16)] ^ _ZEROS) & _TOP[_index(max(decimals - 8, 0))]
                high |= (head << np.uint64(32 - 8 * whole)) & _EIGHT
                pairs = (high * _U10 + (high >> _U8)) & _PAIRS
                fours = (pairs * _U100 + (pairs >> _U16)) & _FOURS
                mantissa = np.int64(fours & _EIGHT) * _TENS[_index(decimals)] + np.int64(fours >> _U32) * 100000000 + _eight(low)
                if (_wrong(low) | _wrong(high)) == _U0 and mantissa < 9007199254740992:
                    done = True
                    out[_index(n)] = np.float64(mantissa) / (_POWERS[_index(decimals)] * (1 - 2 * negative))
                    largest = max(largest, mantissa)
                    real += 1
                    exponent = 0
            if not done:
                kind, digits, mantissa, decimals, power = _slow(data, first, end)
                if kind < 0:
                    code = OTHER
                    break
                if digits <= 18:
                    largest = max(largest, mantissa)
                else:
                    most_digits = max(most_digits, digits)
                if digits <= 18 and mantissa < 9007199254740992 and (mantissa == 0 or -22 <= power <= 22):
                    value = np.float64(mantissa)
                    if mantissa == 0:
                        pass
                    elif power < 0:
                        value /= _POWERS[-power]
                    else:
                        value *= _POWERS[power]
                    out[_index(n)] = -value if negative else value
                else:
                    if used == spans.shape[0]:
                        code = FULL
                        break
                    spans[used, 0] = n
                    spans[used, 1] = first
                    spans[used, 2] = end
                    used += 1
                exponent = kind >> 1
                real += 1 if kind or (negative and digits == 0) else 0
            if n > 0:
                fewest = min(fewest, last)
                most = max(most, last)
            elif commas:
                leading = 1
            last = decimals
            last_exponent = exponent
            exponents += exponent
            n += 1
            at = end
            comma = 0
        place += size
    if code == DONE:
        at, comma = _skip(data, at, stop, comma)
        code = DONE if comma < 2 else OTHER
        leading = leading if n else min(comma, 1)
    state[AT], state[COUNT], state[COMMA], state[LEADING], state[LARGEST] = at, n, comma, leading, largest
    state[DIGITS], state[FEWEST], state[MOST], state[LAST] = most_digits, fewest, most, last
    state[REAL], state[EXPONENTS], state[LAST_EXPONENT], state[SPANS] = real, exponents, last_exponent, used
    return code


@numba.njit(nogil=True, cache=True)
def _slow(data, first, end):  # type: ignore[no-untyped-def]
    """A number byte by byte.

    Returns:
        (-1 no number, 0 integer, 1 with a point, 2 with an exponent, 3 both; significant digits; mantissa, which wraps beyond 18 digits;
        decimals; power of ten of the mantissa's last digit)
    """
    j = first
    if data[j] == 45 or data[j] == 43:
        j += 1
    kind, digits, mantissa, decimals, power, size = 0, 0, 0, 0, 0, 0
    while j < end:
        c = np.int64(data[j])
        if 48 <= c <= 57:
            mantissa = mantissa * 10 + (c - 48)
            size += 1
            digits += 1 if digits or c != 48 else 0
            decimals += kind
        elif c == 46 and kind == 0:
            kind = 1
        else:
            break
        j += 1
    if size == 0:
        return -1, 0, 0, 0, 0
    if j < end:
        if data[j] != 101 and data[j] != 69:
            return -1, 0, 0, 0, 0
        j += 1
        kind |= 2
        down = j < end and data[j] == 45
        if j < end and (down or data[j] == 43):
            j += 1
        if j == end:
            return -1, 0, 0, 0, 0
        while j < end:
            c = np.int64(data[j])
            if not 48 <= c <= 57:
                return -1, 0, 0, 0, 0
            power = min(power * 10 + (c - 48), 100000)
            j += 1
        power = -power if down else power
    return kind, digits, mantissa, decimals, power - decimals
