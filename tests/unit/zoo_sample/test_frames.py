"""The sample frames: repeatable, no digit in two splits, and colour decides the label."""

import itertools

import frames
import numpy as np
import pytest

from qatladder.errors import ConfigError


@pytest.mark.parametrize("render", [frames.coloured_digit, frames.many_digits])
def test_a_frame_depends_on_its_split_and_index_only(render):
    first = render("evaluation", 5)
    render("evaluation", 6)
    again = render("evaluation", 5)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.pixels, render("calibration", 5).pixels)


def test_the_stream_of_random_numbers_is_the_one_numpy_has_frozen():
    assert frames._random("evaluation", 0, 1).randint(0, 2**31, 3).tolist() == STREAM


STREAM = [2004381577, 1866128609, 1858007222]


def test_no_scan_is_in_two_splits_and_none_is_lost():
    splits = {name: set(frames.sources(name).tolist()) for name in frames.SPLITS}
    assert {name: len(owned) for name, owned in splits.items()} == frames.SPLITS
    for first, second in itertools.combinations(splits.values(), 2):
        assert not first & second
    assert set().union(*splits.values()) == set(range(1797))


@pytest.mark.parametrize("render", [frames.coloured_digit, frames.many_digits])
@pytest.mark.parametrize("split", frames.SPLITS)
def test_a_frame_shows_scans_of_its_own_split_only(render, split):
    owned = set(frames.sources(split).tolist())
    for index in range(0, frames.SPLITS[split], 17):
        assert set(render(split, index).sources.tolist()) <= owned


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="no such split"):
        frames.sources("test")


def test_each_evaluation_scan_is_the_warm_digit_once():
    warm = [int(frames.coloured_digit("evaluation", index).sources[0]) for index in range(frames.SPLITS["evaluation"])]
    assert sorted(warm) == sorted(frames.sources("evaluation").tolist())


def test_the_warm_ink_is_the_labelled_digit_and_swapping_red_and_blue_makes_it_another():
    for index in range(0, 360, 9):
        frame = frames.coloured_digit("evaluation", index)
        assert frame.labels[0] not in frame.labels[1:]
        assert _most_reddish(frame.pixels, frame.boxes) == 0
        assert _most_reddish(frame.pixels[:, :, ::-1], frame.boxes) != 0


def test_the_warm_ink_resembles_the_labelled_scan_more_than_any_distractor():
    images, labels = frames.scans()
    for index in range(0, 360, 9):
        frame = frames.coloured_digit("evaluation", index)
        x0, y0, x1, y1 = frame.boxes[0].astype(int)
        warmth = np.clip(frame.pixels[y0:y1, x0:x1, 0].astype(float) - frame.pixels[y0:y1, x0:x1, 2], 0, None)
        similarity = [np.corrcoef(warmth.ravel(), _fit_to(images[source], warmth.shape).ravel())[0, 1] for source in frame.sources]
        assert int(np.argmax(similarity)) == 0
        assert labels[frame.sources[0]] == frame.labels[0]


def test_boxes_lie_in_the_frame_and_do_not_overlap():
    for index in range(120):
        frame = frames.many_digits("calibration", index)
        assert 2 <= len(frame.boxes) <= 5
        assert (frame.boxes >= 0).all()
        assert (frame.boxes <= 96).all()
        assert (frame.boxes[:, 2:] - frame.boxes[:, :2] >= 3).all()
        overlap = np.triu(_intersections(frame.boxes), 1)
        assert overlap.max() == 0


def test_chroma_is_constant_over_2x2_pixels_as_from_a_camera():
    pixels = frames.many_digits("evaluation", 3).pixels.astype(float)
    inside = ((pixels > 0) & (pixels < 255)).all(axis=2)
    chroma = pixels[:, :, 0] - pixels[:, :, 2]
    blocks = chroma.reshape(48, 2, 48, 2).transpose(0, 2, 1, 3).reshape(48, 48, 4)
    whole = inside.reshape(48, 2, 48, 2).all(axis=(1, 3))
    assert whole.mean() > 0.8
    assert np.ptp(blocks, axis=2)[whole].max() <= 2  # red and blue are rounded separately


def _most_reddish(pixels: np.ndarray, boxes: np.ndarray) -> int:
    red = pixels[:, :, 0].astype(int) - pixels[:, :, 2]
    return int(np.argmax([red[int(y0) : int(y1), int(x0) : int(x1)].max() for x0, y0, x1, y1 in boxes]))


def _fit_to(scan: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = np.flatnonzero(scan.max(axis=1) > 0.3), np.flatnonzero(scan.max(axis=0) > 0.3)
    tight = scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pick = [np.minimum((np.arange(size) + 0.5) * old / size, old - 1).astype(int) for size, old in zip(shape, tight.shape, strict=True)]
    return tight[np.ix_(*pick)]


def _intersections(boxes: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)
