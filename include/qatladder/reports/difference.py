"""The picture of a difference between two tensors: where it lies, in which channels, and how large it is. One self-contained page."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qatladder.numerics.compare import AxisProfile, Comparison
from qatladder.numerics.fingerprint import guess_channel_axis
from qatladder.numerics.judgement import Judgement
from qatladder.reports.report import template

MAX_MAPS = 12
MAX_BARS = 64
MAX_SIDE = 512
"""Longest side of an error map in elements; larger planes are shown as the largest difference per cell."""
MAX_ROWS = 12

Array = NDArray[Any]


def difference_html(judged: Judgement, expected: Array, found: Array, names: tuple[str, str], channel_axis: int | None = None) -> str:
    """A page for people: verdict, likely cause, statistics, error maps, bars per channel, histogram, first mismatches.

    Args:
        judged: what `judge` said of the two tensors.
        expected, found: the tensors; only the sample with most mismatches is read.
        names: what to call them.
        channel_axis: where the channels are; guessed from the shape when not given.
    """
    comparison = judged.comparison
    view: dict[str, Any] = {
        "judged": judged,
        "names": names,
        "tensors": [f"{array.dtype} {list(array.shape)}" for array in (expected, found)],
        "statistics": _statistics(comparison) if comparison is not None else {},
        "maps": [],
        "axes": [],
        "histogram": [],
        "first": [],
    }
    if comparison is not None and comparison.mismatches:
        view["maps"], view["sample"] = _maps(comparison, expected, found, channel_axis)
        view["axes"] = [_bars(axis, profile) for axis, profile in comparison.profile.items() if len(profile.mismatches) > 1]
        view["histogram"] = _histogram(comparison, expected, found)
        view["first"] = _first(expected, found)
    return str(template("difference.html.j2").render(**view))


def _statistics(found: Comparison) -> dict[str, Any]:
    values: dict[str, Any] = {
        "elements": found.count,
        "differing": f"{found.mismatches} ({found.mismatch_rate:.3%})",
        "max abs": found.max_abs,
        "mean abs": found.mean_abs,
        "bias": found.bias,
        "max rel": found.max_rel,
        "MSE": found.mse,
        "cosine": f"{found.cosine:.9f}",
        "SNR": f"{found.snr_db:.1f} dB" if found.snr_db is not None else None,
        "peak, expected / found": f"{found.peak:.6g} / {found.peak_found:.6g}",
        "zeros, expected / found": f"{found.zero_share:.2%} / {found.zero_share_found:.2%}",
    }
    if found.saturation_share is not None:
        values["at the type's limits"] = f"{found.saturation_share:.2%} / {found.saturation_share_found:.2%}"
    if found.max_ulp is not None:
        values["max ULP"] = found.max_ulp
    return values


def _maps(comparison: Comparison, expected: Array, found: Array, channel_axis: int | None) -> tuple[list[dict[str, Any]], str]:
    """Pictures of |found - expected| of the sample with most mismatches, its worst channels first."""
    sampled = expected.ndim >= 2 and not (expected.ndim == 3 and expected.shape[0] in (1, 3, 4))
    left, right, sample = expected, found, ""
    if sampled:
        index = int(np.argmax(comparison.profile[0].mismatches)) if 0 in comparison.profile else 0
        left, right, sample = expected[index], found[index], f"sample {index}" if len(expected) > 1 else ""
    difference = np.abs(np.asarray(right, dtype=np.float64) - np.asarray(left, dtype=np.float64))
    if sum(size > 1 for size in difference.shape) >= 3:
        axis = channel_axis if channel_axis is not None and sampled else guess_channel_axis((1, *difference.shape))
        planes = np.moveaxis(difference, axis - 1, 0)
        planes = planes.reshape(len(planes), planes.shape[1], -1)
        labels = [f"channel {index}" for index in range(len(planes))]
    else:
        planes = difference.reshape([size for size in difference.shape if size > 1] or [1])
        planes, labels = planes.reshape(1, *(1, *planes.shape)[-2:]), ["all elements"]
    top = float(difference.max()) or 1.0
    order = np.argsort([-np.count_nonzero(plane) for plane in planes], kind="stable")[:MAX_MAPS]
    return [
        {
            "label": labels[index],
            "size": f"{planes[index].shape[0]} x {planes[index].shape[1]}",
            "mismatches": int(np.count_nonzero(planes[index])),
            "max": float(planes[index].max()),
            "picture": _png(_shrunk(planes[index]) / top),
        }
        for index in order
        if planes[index].any()
    ], sample


def _shrunk(plane: Array) -> Array:
    """At most MAX_SIDE cells a side, each with the largest value in it: a single wrong element stays visible."""
    for axis in (0, 1):
        size = plane.shape[axis]
        if size > MAX_SIDE:
            starts = np.linspace(0, size, MAX_SIDE, endpoint=False).astype(int)
            plane = np.maximum.reduceat(plane, starts, axis=axis)
    return plane


def _png(values: Array) -> str:
    """Values 0 to 1 as a PNG data URI: transparent where 0, from amber to dark red elsewhere."""
    level = np.clip(values, 0.0, 1.0)[..., None] ** 0.5  # small differences shall be seen beside large ones
    colour = np.array([250, 190, 80]) * (1 - level) + np.array([120, 10, 20]) * level
    pixels = np.concatenate([colour, np.where(values[..., None] > 0, 255.0, 0.0)], axis=-1).astype(np.uint8)
    height, width = values.shape
    rows = b"".join(b"\x00" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 6)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _bars(axis: int, profile: AxisProfile) -> dict[str, Any]:
    """Mismatches along an axis; long axes in groups of neighbours."""
    count = len(profile.mismatches)
    group = -(-count // MAX_BARS)
    bars: list[dict[str, Any]] = []
    for start in range(0, count, group):
        stop = min(start + group, count)
        bars.append(
            {
                "label": str(start) if group == 1 else f"{start}-{stop - 1}",
                "mismatches": sum(profile.mismatches[start:stop]),
                "max_abs": max(profile.max_abs[start:stop]),
            }
        )
    most = max(bar["mismatches"] for bar in bars) or 1
    for bar in bars:
        bar["share"] = 100.0 * bar["mismatches"] / most
    return {"axis": axis, "size": count, "bars": bars, "most": most}


def _histogram(comparison: Comparison, expected: Array, found: Array) -> list[dict[str, Any]]:
    """How many elements are how far apart: in LSB for integers, relative to the peak for floats (first million elements)."""
    bars: list[tuple[str, int]]
    if comparison.histogram:
        uppers = [low for low, _ in comparison.histogram[1:]] + [0]
        bars = [
            (f"{low}" if high == low + 1 else f"{low}-{high - 1}" if high else f">= {low}", count)
            for (low, count), high in zip(comparison.histogram, uppers, strict=True)
        ]
        bars = [(label + " LSB", count) for label, count in bars]
    else:
        left, right = (np.asarray(array.reshape(-1)[: 1 << 20], dtype=np.float64) for array in (expected, found))
        size = np.abs(right - left) / (comparison.peak or 1.0)
        edges = [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
        counts = [int(np.count_nonzero(size == 0))]
        counts += [int(np.count_nonzero((size > low) & (size <= high))) for low, high in pairwise(edges)]
        counts.append(int(np.count_nonzero(size > 1.0)))
        labels = ["0", *(f"<= {edge:.0e} of peak" for edge in edges[1:-1]), "<= peak", "> peak"]
        bars = list(zip(labels, counts, strict=True))
    most = max(count for _, count in bars[1:]) or 1
    return [{"label": label, "count": count, "share": min(100.0, 100.0 * count / most)} for label, count in bars]


def _first(expected: Array, found: Array) -> list[dict[str, Any]]:
    """The first mismatches, in C order, of the first elements that hold any."""
    rows: list[dict[str, Any]] = []
    left, right = expected.reshape(-1), found.reshape(-1)
    step = 1 << 20
    for start in range(0, left.size, step):
        for index in np.flatnonzero(left[start : start + step] != right[start : start + step])[: MAX_ROWS - len(rows)]:
            place = start + int(index)
            a, b = float(left[place]), float(right[place])
            where: Sequence[int] = [int(item) for item in np.unravel_index(place, expected.shape)]
            rows.append({"index": list(where), "expected": a, "found": b, "difference": b - a})
        if len(rows) >= MAX_ROWS:
            break
    return rows
