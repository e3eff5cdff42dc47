"""What do the sample models look at? Camera-like frames of real handwritten digits, rendered the same way every time.

A frame has passed a 4:2:0 camera, as every picture on the board has: its chroma is constant over 2x2 pixels. Rendered with full
chroma, the detector lost 0.017 mAP to the first conversion to NV12, and that loss looked like one of quantisation.

The digits are scikit-learn's bundled 8x8 scans (1797 of them). Each scan belongs to exactly one split, so no model is
judged on handwriting it was trained or calibrated on. Random numbers come from `numpy.random.RandomState`, whose stream
numpy has frozen: a frame depends on its split and index only, not on the numpy version or on the frames before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from qatladder.errors import ConfigError

SEED = 20240611
SPLITS = {"evaluation": 360, "calibration": 120, "train": 1317}
"""How many source digits each split owns; together all 1797."""

WARM = ((195, 255), (20, 110), (10, 60))
"""Red to orange: range of R, G, B."""

COOL = ((10, 60), (20, 110), (195, 255))
"""Blue: a warm colour with R and B swapped, so that a network that reads the channels in the wrong order takes one for the other."""


@dataclass(frozen=True)
class Frame:
    """One rendered frame.

    Attributes:
        pixels: uint8 RGB, [size, size, 3].
        boxes: float32 [n, 4], tight pixel boxes x0, y0, x1, y1 of the digits (right and bottom exclusive).
        labels: int64 [n], the digits.
        sources: int64 [n], index of each digit's scan in scikit-learn's set.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    sources: np.ndarray


@lru_cache(maxsize=1)
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans: float64 [1797, 8, 8] of ink from 0 to 1, and their digits, int64 [1797]."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return bundle.images / 16.0, bundle.target.astype(np.int64)


@cache
def sources(split: str) -> np.ndarray:
    """Indices of the scans a split owns."""
    if split not in SPLITS:
        raise ConfigError("the sample zoo has no such split", expected=", ".join(SPLITS), found=split)
    order = np.random.RandomState(SEED).permutation(sum(SPLITS.values()))
    end = sum(list(SPLITS.values())[: list(SPLITS).index(split) + 1])
    return order[end - SPLITS[split] : end]


def coloured_digit(split: str, index: int, size: int = 64) -> Frame:
    """One warm digit among one or two cool ones of other values; the warm one is digit 0 of the frame.

    Frame `index` shows scan `index` of the split (modulo its number of scans) as the warm digit.
    """
    rng = _random(split, index, 1)
    labels = scans()[1]
    pool = sources(split)
    warm = pool[index % len(pool)]
    others = pool[labels[pool] != labels[warm]]
    chosen = [warm, *rng.choice(others, rng.randint(1, 3), replace=False)]
    places = _places(rng, size, [rng.randint(21, 29) for _ in chosen])
    colours = [[rng.uniform(*span) for span in (COOL if position else WARM)] for position in range(len(chosen))]
    return _render(rng, size, chosen, places, colours)


def many_digits(split: str, index: int, size: int = 96) -> Frame:
    """Two to five digits of any colour and of 18 to 44 pixels."""
    rng = _random(split, index, 2)
    pool = sources(split)
    chosen = [pool[index % len(pool)], *rng.choice(pool, rng.randint(1, 5), replace=False)]
    places = _places(rng, size, [int(np.exp(rng.uniform(np.log(18), np.log(44)))) for _ in chosen])
    colours = []
    for _ in chosen:
        colour = rng.permutation([rng.uniform(195, 255), rng.uniform(10, 200), rng.uniform(10, 60)])
        colours.append(list(colour))
    return _render(rng, size, chosen, places, colours)


def _random(split: str, index: int, kind: int) -> np.random.RandomState:
    return np.random.RandomState([SEED, list(SPLITS).index(split), index, kind])


def _places(rng: np.random.RandomState, size: int, sides: list[int]) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width per digit, none overlapping another; all shrink by a tenth when they find no room."""
    while True:
        places: list[tuple[int, int, int, int]] = []
        for side in sorted(sides, reverse=True):
            width = round(side * rng.uniform(0.8, 1.0))
            for _ in range(40):
                top, left = rng.randint(0, size - side + 1), rng.randint(0, size - width + 1)
                if all(top >= t + h or t >= top + side or left >= x + w or x >= left + width for t, x, h, w in places):
                    places.append((top, left, side, width))
                    break
        if len(places) == len(sides):
            return [places[position] for position in rng.permutation(len(places))]
        sides = [side * 9 // 10 for side in sides]


def _render(
    rng: np.random.RandomState, size: int, chosen: list[int], places: list[tuple[int, int, int, int]], colours: list[list[float]]
) -> Frame:
    images, labels = scans()
    canvas = _background(rng, size)
    boxes = []
    for source, (top, left, height, width), colour in zip(chosen, places, colours, strict=True):
        ink = np.clip(1.4 * _stretch(height) @ images[source] @ _stretch(width).T, 0.0, 1.0)
        patch = canvas[top : top + height, left : left + width]
        patch += ink[:, :, None] * (np.asarray(colour) - patch)
        rows, columns = np.flatnonzero(ink.max(axis=1) > 0.4), np.flatnonzero(ink.max(axis=0) > 0.4)
        boxes.append([left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1])
    canvas += rng.normal(0.0, rng.uniform(2.0, 7.0), canvas.shape)
    return Frame(_through_camera(canvas), np.array(boxes, np.float32), labels[chosen], np.array(chosen))


def _through_camera(canvas: np.ndarray) -> np.ndarray:
    """Float RGB [H, W, 3] to the uint8 RGB of a 4:2:0 camera: full-range BT.601, one chroma value per 2x2 pixels."""
    red, green, blue = (canvas[:, :, channel] for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (_per_block((colour - luma) / range_) for colour, range_ in ((blue, 1.772), (red, 1.402)))
    luma = np.clip(np.rint(luma), 0, 255)
    rgb = np.stack([luma + 1.402 * v, luma - (0.202008 * u + 0.419198 * v) / 0.587, luma + 1.772 * u], axis=2)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _per_block(chroma: np.ndarray) -> np.ndarray:
    height, width = chroma.shape
    mean = chroma.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    return np.clip(np.rint(mean), -128, 127).repeat(2, axis=0).repeat(2, axis=1)


def _background(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Float64 [size, size, 3]: a nearly grey wall under uneven light."""
    corners = rng.uniform(70, 185) + rng.uniform(-35, 35, (2, 2, 1)) + rng.uniform(-12, 12, (2, 2, 3))
    ramp = np.linspace(0.0, 1.0, size)
    top, bottom = (left + (right - left) * ramp[:, None] for left, right in corners)
    return top + (bottom - top) * ramp[:, None, None]


@cache
def _stretch(length: int) -> np.ndarray:
    """Float64 [length, 8]: linear interpolation of 8 samples to `length`, fading to 0 beyond the first and the last."""
    position = (np.arange(length) + 0.5) * 8 / length - 0.5
    return np.clip(1.0 - np.abs(position[:, None] - np.arange(8)[None, :]), 0.0, None)
