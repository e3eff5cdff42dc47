"""Promises: the picture of a difference shows where it is, is one file, and never hides a single wrong element."""

from __future__ import annotations

import base64
import re
import struct
import zlib

import numpy as np
import pytest

from qatladder.numerics.judgement import judge
from qatladder.reports.difference import difference_html
from qatladder.reports.text import judgement_text


def page(a: np.ndarray, b: np.ndarray) -> str:
    return difference_html(judge(a, b), a, b, ("int", "board"))


def pixels(uri: str) -> np.ndarray:
    """The RGBA pixels of a PNG data URI."""
    data = base64.b64decode(uri.partition(",")[2])
    width, height = struct.unpack(">II", data[16:24])
    size = struct.unpack(">I", data[33:37])[0]
    rows = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(height, 1 + 4 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 4)


def test_the_map_shows_the_wrong_elements_and_no_others(rng: np.random.Generator) -> None:
    a = rng.integers(-100, 100, (3, 4, 20, 30)).astype(np.int8)
    b = a.copy()
    b[1, 2, 5:9, 7] += 3
    html = page(a, b)
    pictures = re.findall(r'src="(data:image/png;base64,[^"]+)"', html)
    assert len(pictures) == 1
    wrong = np.zeros((20, 30), bool)
    wrong[5:9, 7] = True
    np.testing.assert_array_equal(pixels(pictures[0])[..., 3] > 0, wrong)
    assert "sample 1" in html and "channel 2, 20 x 30: 4 differ, max 3" in html
    assert "4 of 7200 integers differ, first at [1, 2, 5, 7]" in html


@pytest.mark.parametrize("shape", [(2, 15, 12, 12), (2, 12, 12, 15), (3, 12, 20), (1, 12, 20, 3)])
def test_maps_are_of_channels_whatever_the_layout(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    a = rng.integers(-100, 100, shape).astype(np.int8)
    b = a.copy()
    axis = {15: shape.index(15) if 15 in shape else 0, 3: shape.index(3) if 3 in shape else 0}[15 if 15 in shape else 3]
    np.moveaxis(b, axis, 0)[2][...] ^= 1
    html = page(a, b)
    assert html.count("data:image/png") == 1
    assert "channel 2, 12 x " in html


def test_one_wrong_element_of_a_huge_plane_stays_visible() -> None:
    a = np.zeros((1, 1, 1500, 2500), np.int8)
    b = a.copy()
    b[0, 0, 1499, 2499] = 1
    picture = pixels(re.findall(r'src="(data:[^"]+)"', page(a, b))[0])
    assert picture.shape[:2] == (512, 512)
    assert picture[-1, -1, 3] == 255 and np.count_nonzero(picture[..., 3]) == 1


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), "Identical, bit for bit"),
        (np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), "expected float32 [2, 3], found float32 [2, 4]"),
        (np.ones(5, np.int32), np.arange(5, dtype=np.int32), "4 of 5 integers differ"),
        (np.ones((3, 8, 8), np.float32), np.full((3, 8, 8), np.nan, np.float32), "NaN"),
        (np.linspace(-1, 1, 600, dtype=np.float32).reshape(1, 600), np.linspace(-1, 1, 600, dtype=np.float32).reshape(1, 600) * 2, "scale"),
    ],
)
def test_every_kind_of_answer_has_a_page_and_a_screen(a: np.ndarray, b: np.ndarray, says: str) -> None:
    judged = judge(a, b)
    html = difference_html(judged, a, b, ("<int>", "board & co"))
    assert says in html
    assert "<int>" not in html and "&lt;int&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    screen = judgement_text("", judged, [("expected", "x"), ("found", "y")])
    assert len(screen.splitlines()) <= 24
    assert screen.splitlines()[0].split()[1] == judged.status
