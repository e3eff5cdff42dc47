"""Promises: folders of pictures and COCO's annotations become samples in a fixed order; what is wrong with a data set is named."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner.datasets import CocoDetection, ImageFolder, coco_scores, fitted, nms, placed


def save(path: Path, colour: Any, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(["ant", "bee", "cat"]):
        for number in range(3 if name != "cat" else 1):
            save(tmp_path / "val" / name / f"{number}.png", (10 * index, number, 0))
    (tmp_path / "val" / "notes.txt").write_text("no picture")
    return tmp_path


def test_classes_take_turns_so_that_a_limit_sees_all(folder: Path) -> None:
    data = ImageFolder(str(folder), size=(32, 32), resize=32, splits={"evaluation": "val"})
    assert [sample.target for sample in data.samples("evaluation")] == [0, 1, 2, 0, 1, 0, 1]
    first = list(data.samples("evaluation", 3))
    assert [tuple(sample.inputs["image"][0, 0]) for sample in first] == [(0, 0, 0), (10, 0, 0), (20, 0, 0)]
    assert first[0].inputs["image"].shape == (32, 32, 3)


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 20:40] = 200
    cut = fitted(picture, (40, 20), 40)
    assert (cut == 200).mean() > 0.85
    assert fitted(picture, (10, 30), None).shape == (10, 30, 3)
    with pytest.raises(ConfigError, match="smaller than the input"):
        fitted(picture, (40, 20), 30)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_preprocessing_is_pixel_minus_mean_times_scale(order: str) -> None:
    data = ImageFolder("nowhere", size=(2, 2), mean=[1, 2, 3], scale=[2, 1, 0.5], order=order)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (tensor,) = data.preprocess({"image": pixels})["image"]
    turned = pixels if order == "rgb" else pixels[..., ::-1]
    np.testing.assert_array_equal(tensor, ((turned.astype(np.float32) - [1, 2, 3]) * [2, 1, 0.5]).transpose(2, 0, 1).astype(np.float32))
    with pytest.raises(ConfigError, match="order"):
        ImageFolder("nowhere", order="yuv")


def test_top1_and_top5() -> None:
    data = ImageFolder("nowhere")
    logits = np.float32([[0, 9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4, 3]])
    ranks = [data.postprocess({"logits": row[None]}) for row in logits]
    assert ranks[0] == [1, 2, 3, 4, 5]
    assert data.score(ranks, [1, 4]) == {"top1": 0.5, "top5": 1.0}
    assert data.score(ranks, [6, 6]) == {"top1": 0.0, "top5": 0.0}


def test_what_is_wrong_with_a_folder_is_named(folder: Path) -> None:
    data = ImageFolder(str(folder), splits={"evaluation": "val"})
    with pytest.raises(ConfigError, match="no folder of classes") as caught:
        list(data.samples("calibration"))
    assert caught.value.where["folder"] == str(folder / "calibration")
    whole = (folder / "val" / "bee" / "0.png").read_bytes()
    (folder / "val" / "bee" / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="cannot be read") as damaged:
        list(data.samples("evaluation"))
    assert damaged.value.where["file"].endswith("val/bee/0.png")


class Cars(CocoDetection):
    def decode(self, outputs: Any) -> Any:
        rows = outputs["rows"][0]
        return rows[:, :4], rows[:, 4], rows[:, 5]


@pytest.fixture
def cars(tmp_path: Path) -> Cars:
    for number in (7, 3):
        save(tmp_path / f"{number}.png", (90, 90, 90), (100, 200))
    data = {
        "categories": [{"id": 44, "name": "b"}, {"id": 18, "name": "a"}],
        "images": [{"id": number, "file_name": f"{number}.png", "height": 100, "width": 200} for number in (7, 3)],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 44, "bbox": [20, 10, 80, 40], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [100, 50, 60, 30]},
        ],
    }
    (tmp_path / "val.json").write_text(json.dumps(data))
    return Cars(str(tmp_path), str(tmp_path / "val.json"), size=(64, 64))


def test_annotations_become_targets_in_the_order_of_ids(cars: Cars) -> None:
    first, second = cars.samples("evaluation")
    assert first.target == {"boxes": [[20, 10, 80, 40, 1, 0]], "place": [0.32, 0.32, 0.0, 16.0], "size": [100, 200]}
    assert second.target["boxes"] == [[100, 50, 60, 30, 0, 0]]
    pixels = first.inputs["image"]
    assert (pixels[:16] == 114).all() and (pixels[16:48] == 90).all() and (pixels[48:] == 114).all()


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ({"letterbox": True, "anchor": "corner"}, [0.32, 0.32, 0.0, 0.0]),
        ({"letterbox": False, "anchor": "centre"}, [0.32, 0.64, 0.0, 0.0]),
    ],
)
def test_where_the_picture_is(how: dict[str, Any], place: list[float]) -> None:
    assert placed(np.zeros((100, 200, 3), np.uint8), (64, 64), fill=0, **how)[1] == pytest.approx(place)


def test_perfect_boxes_score_one_and_worse_ones_less(cars: Cars) -> None:
    """Predictions are in pixels of the input; the metric counts in those of the picture."""
    samples = list(cars.samples("evaluation"))
    targets = [sample.target for sample in samples]

    def predicted(shift: float) -> list[Any]:
        found = []
        for target in targets:
            scale_x, scale_y, left, top = target["place"]
            rows = [
                [x * scale_x + left + shift, y * scale_y + top, (x + w) * scale_x + left + shift, (y + h) * scale_y + top, 0.9, kind]
                for x, y, w, h, kind, _ in target["boxes"]
            ]
            found.append(cars.postprocess({"rows": np.float32([rows])}))
        return found

    perfect = cars.score(predicted(0), targets)
    assert perfect["mAP"] == pytest.approx(1.0)
    moved = cars.score(predicted(3), targets)
    assert 0 < moved["mAP"] < 0.9
    assert moved["mAP50"] == pytest.approx(1.0)
    assert cars.score([[], []], targets) == {"mAP": 0.0, "mAP50": 0.0, "mAP75": 0.0}


def test_a_box_of_a_class_nobody_annotated_is_a_false_alarm(cars: Cars) -> None:
    targets = [sample.target for sample in cars.samples("evaluation")]
    assert coco_scores([[[0, 0, 9, 9, 0.9, 5]], []], targets)["mAP"] == 0.0


def test_suppression_keeps_the_best_of_each_class() -> None:
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [1, 1, 11, 11], [50, 50, 60, 60], [0, 0, 10, 10]]
    kept = nms(boxes, np.array([0.8, 0.9, 0.7, 0.6, 0.0]), np.array([0, 0, 1, 0, 1]), iou=0.5)
    assert kept.tolist() == [1, 2, 3]


@pytest.mark.parametrize("damage", ["truncated", "no annotations", "unknown picture"])
def test_annotations_that_are_not_whole_are_named(cars: Cars, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "val.json"
    data = json.loads(file.read_text())
    if damage == "truncated":
        file.write_text(file.read_text()[:-20])
    else:
        data.pop("annotations") if damage == "no annotations" else data["annotations"][0].update(image_id=99)
        file.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="cannot be read as COCO") as caught:
        list(islice(cars.samples("evaluation"), 1))
    assert caught.value.where["file"] == str(file)


def test_a_hundred_boxes_are_kept_of_every_class(cars: Cars) -> None:
    rows = np.float32([[[0, 0, 9, 9, 0.5, index % 2] for index in range(300)]])
    kept = cars.postprocess({"rows": rows})
    assert [sum(row[5] == kind for row in kept) for kind in (0, 1)] == [100, 100]


@pytest.mark.parametrize(("long", "left"), [(455, 116), (383, 80), (384, 80)])
def test_the_crop_is_torchvisions(long: int, left: int) -> None:
    """int(round((W - w) / 2)), half to even: 1280x720 at 256 is 455 wide, and (455 - 224) / 2 = 115.5."""
    picture = np.zeros((256, long, 3), np.uint8)
    picture[:, :, 0] = np.arange(long) % 256
    assert fitted(picture, (224, 224), 256)[0, 0, 0] == left


@pytest.mark.parametrize(
    ("options", "named"),
    [({"resise": 300}, "resise"), ({"size": 224}, "size"), ({"mean": [1, 2]}, "mean"), ({"resize": [36, 36]}, "resize")],
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ImageFolder("nowhere", **options)
    assert named in str(caught.value)


def test_another_input_or_output_is_named() -> None:
    data = ImageFolder("nowhere")
    with pytest.raises(ConfigError, match="`input` is another one"):
        data.preprocess({"img": np.zeros((2, 2, 3), np.uint8)})
    with pytest.raises(ConfigError, match="`output` is another one"):
        data.postprocess({"out": np.zeros((1, 10))})
