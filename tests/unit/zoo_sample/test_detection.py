"""mAP, IoU and non-maximum suppression on cases worked out by hand."""

import numpy as np
import pytest
from detection import iou, mean_average_precision, nms

TRUTH = [{"boxes": [[0, 0, 10, 10], [20, 20, 40, 40]], "labels": [3, 7]}, {"boxes": [[5, 5, 15, 15]], "labels": [3]}]


def found(boxes, scores, labels):
    return {"boxes": boxes, "scores": scores, "labels": labels}


PERFECT = [found([[0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.8], [3, 7]), found([[5, 5, 15, 15]], [0.7], [3])]


def test_iou_of_known_pairs():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 2, 2]], float)
    assert iou(boxes, boxes)[0] == pytest.approx([1.0, 50 / 150, 0.0, 0.0])
    assert iou(boxes, boxes)[3, 3] == 0.0  # an empty box matches nothing, not even itself


def test_perfect_detections_score_one():
    assert mean_average_precision(PERFECT, TRUTH) == 1.0


def test_no_detection_scores_zero():
    assert mean_average_precision([found([], [], [])] * 2, TRUTH) == 0.0


@pytest.mark.parametrize(("shift", "expected"), [(3, 1.0), (4, 0.0)])
def test_a_shifted_box_counts_until_iou_falls_below_a_half(shift, expected):
    truth = [{"boxes": [[0, 0, 10, 10]], "labels": [1]}]  # IoU 7/13 at 3 pixels, 6/14 at 4
    assert mean_average_precision([found([[shift, 0, 10 + shift, 10]], [0.9], [1])], truth) == expected


def test_the_right_box_with_the_wrong_label_is_no_hit():
    wrong = [found([[0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.8], [7, 3]), PERFECT[1]]
    # class 3: a false positive at 0.8 ranks above the hit at 0.7, one of two found: 1/2 * 1/2; class 7: nothing found
    assert mean_average_precision(wrong, TRUTH) == pytest.approx((0.25 + 0.0) / 2)


def test_a_duplicate_is_a_false_positive():
    # Both truths of class 3 are found, but the duplicate ranks between them: precision 1 at recall 1/2, 2/3 at recall 1.
    doubled = [found([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.8, 0.8], [3, 3, 7]), PERFECT[1]]
    assert mean_average_precision(doubled, TRUTH) == pytest.approx(((0.5 + 0.5 * 2 / 3) + 1.0) / 2)


def test_a_duplicate_ranked_after_every_hit_costs_nothing():
    doubled = [found([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.1, 0.8], [3, 3, 7]), PERFECT[1]]
    assert mean_average_precision(doubled, TRUTH) == 1.0


def test_a_detection_in_the_wrong_frame_is_no_hit():
    assert mean_average_precision(PERFECT[::-1], TRUTH) == 0.0


def test_precision_is_made_monotone():
    # Ranked: miss, hit, hit. Raw precision 1/2 then 2/3; the envelope lifts the first to 2/3.
    truth = [{"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [1, 1]}]
    prediction = [found([[50, 50, 60, 60], [0, 0, 10, 10], [20, 20, 30, 30]], [0.9, 0.8, 0.7], [1, 1, 1])]
    assert mean_average_precision(prediction, truth) == pytest.approx(2 / 3)


def test_nms_keeps_the_best_of_a_cluster_and_everything_apart():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]], float)
    assert nms(boxes, np.array([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
    assert nms(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
