"""Ready halves of an adapter: data sets in the two most common forms, with their preprocessing and their metric.

    class Birds(ImageFolder, TorchModule):          # adapter_options: {root: /data/birds, size: [224, 224], resize: 256}
        inputs, outputs = ("image",), ("logits",)

        def network(self, rung): ...

    class Cars(CocoDetection, OnnxModel):           # adapter_options: {images: /data/val, annotations: /data/val.json, size: [640, 640]}
        def decode(self, outputs): ...              # boxes, scores, classes of one picture

Pictures are read as they are stored (the EXIF orientation is not applied, as torchvision's loader does not). Python 3.8 with numpy and
pillow; the metric of `CocoDetection` is pycocotools'.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from qatladder.errors import ArtifactError, ConfigError
from qatladder.runner.adapter import Adapter, Sample, Tensors

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes, as torchvision's ImageFolder takes them."""
MEAN, SCALE = (123.675, 116.28, 103.53), (0.01712475, 0.017507, 0.01742919)
"""ImageNet's, for pixels 0..255."""


class Pictures(Adapter):
    """Pictures to one input tensor [1, 3, H, W].

    Args:
        size: (H, W) of the model's input.
        mean, scale: per channel in the order of `order`: (pixel - mean) * scale, as in training.
        order: `rgb` or `bgr`: what the network was trained on.
    """

    input = "image"
    """Name of the model's input."""

    def __init__(
        self,
        size: Sequence[int] = (224, 224),
        mean: Sequence[float] = MEAN,
        scale: Sequence[float] = SCALE,
        order: str = "rgb",
        **others: Any,
    ) -> None:
        super().__init__(**others)
        _check("size", size, 2)
        _check("mean", mean, 3)
        _check("scale", scale, 3)
        if order not in ("rgb", "bgr"):
            raise ConfigError("`order` of adapter_options is none of a picture", expected="rgb | bgr", found=order)
        self.size = (int(size[0]), int(size[1]))
        self.mean, self.scale = np.asarray(mean, np.float32), np.asarray(scale, np.float32)
        self.order = order

    def preprocess(self, inputs: Tensors) -> Tensors:
        if self.input not in inputs:
            raise ConfigError("the adapter's `input` is another one", "correct it", expected=sorted(inputs), found=self.input)
        pixels = inputs[self.input].astype(np.float32)
        values = ((pixels if self.order == "rgb" else pixels[..., ::-1]) - self.mean) * self.scale
        return {self.input: np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)}


class ImageFolder(Pictures):
    """Classification: `<root>/<split>/<class>/*.jpg`; classes are numbered in the order of their names.

    Pictures are taken in turn from each class, so that `limit` sees all of them. Metrics: top1, top5.

    Args:
        root: the data set.
        resize: the shorter side is resized to this (bilinear) before the centre is cut out; None: resized to `size` whatever its shape.
        splits: folder names by split, where they differ (such as `{"evaluation": "val"}`).
    """

    metric = "top1"
    output = "logits"
    """Name of the model's output."""

    def __init__(self, root: str, resize: Optional[int] = 256, splits: Optional[Dict[str, str]] = None, **pictures: Any) -> None:
        super().__init__(**pictures)
        if resize is not None and not isinstance(resize, int):
            raise ConfigError("`resize` of adapter_options is the length of the shorter side", expected="one number, or null", found=resize)
        self.root, self.resize, self.splits = Path(root).expanduser(), resize, dict(splits or {})

    def samples(self, split: str, limit: Optional[int] = None) -> Iterator[Sample]:
        folder = self.root / self.splits.get(split, split)
        names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not names:
            raise ConfigError(
                "the data set has no folder of classes for the split",
                "correct `root` or `splits` of adapter_options",
                folder=folder,
                split=split,
            )
        classes = [sorted(_pictures(folder / name)) for name in names]
        turns = max(map(len, classes))
        order = [(label, files[turn]) for turn in range(turns) for label, files in enumerate(classes) if turn < len(files)]
        for label, path in order[:limit]:
            yield Sample({self.input: fitted(read_picture(path), self.size, self.resize)}, label)

    def postprocess(self, outputs: Tensors) -> List[int]:
        """The five likeliest classes, the likeliest first."""
        if self.output not in outputs:
            raise ConfigError("the adapter's `output` is another one", "correct it", expected=sorted(outputs), found=self.output)
        return [int(index) for index in np.argsort(-outputs[self.output].reshape(-1), kind="stable")[:5]]

    def score(self, predictions: List[Any], targets: List[Any]) -> Dict[str, float]:
        hits = np.array([[index == target for index in (ranks + [-1] * 5)[:5]] for ranks, target in zip(predictions, targets)])
        return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}


class CocoDetection(Pictures):
    """Detection with annotations as COCO has them; the metric is pycocotools' bbox evaluation (`mAP` over IoU 0.50:0.95, `mAP50`).

    Classes are numbered in the order of the annotations' category ids. What is left to write is `decode`.

    Args:
        images: folder of the pictures.
        annotations: instances_*.json. For other splits than `evaluation` give `splits`: {split: [images, annotations]}.
        letterbox: keep the picture's shape and fill up to `size` with grey (`fill`), in the middle or to the right and below
            (`anchor`: centre | corner); otherwise it is stretched.
    """

    metric = "mAP"

    def __init__(
        self,
        images: str,
        annotations: str,
        letterbox: bool = True,
        anchor: str = "centre",
        fill: int = 114,
        splits: Optional[Dict[str, Sequence[str]]] = None,
        **pictures: Any,
    ) -> None:
        super().__init__(**pictures)
        if anchor not in ("centre", "corner"):
            raise ConfigError("`anchor` of adapter_options is none", expected="centre | corner", found=anchor)
        self.places = {"evaluation": (images, annotations), **(splits or {})}
        self.letterbox, self.anchor, self.fill = letterbox, anchor, fill

    def decode(self, outputs: Tensors) -> Tuple[Any, Any, Any]:
        """One picture's float32 outputs to (boxes [N, 4] as x1 y1 x2 y2 in pixels of the input, scores [N], class numbers [N])."""
        raise NotImplementedError

    def samples(self, split: str, limit: Optional[int] = None) -> Iterator[Sample]:
        if split not in self.places:
            raise ConfigError(
                "the adapter has no such split", "give `splits` in adapter_options", found=split, expected=" | ".join(self.places)
            )
        images, annotations = (Path(place).expanduser() for place in self.places[split])
        try:
            data = json.loads(annotations.read_text(encoding="utf-8"))
            ids = sorted(item["id"] for item in data["categories"])
            boxes: Dict[int, List[Any]] = {item["id"]: [] for item in data["images"]}
            files = {item["id"]: str(item["file_name"]) for item in data["images"]}
            for item in data["annotations"]:
                x, y, width, height = map(float, item["bbox"])
                row = [x, y, width, height, ids.index(item["category_id"]), int(item.get("iscrowd", 0))]
                boxes[item["image_id"]].append(row)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                "the annotations cannot be read as COCO's instances_*.json",
                "correct `annotations` of adapter_options",
                file=annotations,
                found="{}: {}".format(type(error).__name__, error),
            ) from None
        for item in sorted(data["images"], key=lambda item: item["id"])[:limit]:
            picture = read_picture(images / files[item["id"]])
            pixels, place = placed(picture, self.size, self.letterbox, self.anchor, self.fill)
            yield Sample({self.input: pixels}, {"boxes": boxes[item["id"]], "place": place, "size": list(picture.shape[:2])})

    def postprocess(self, outputs: Tensors) -> List[List[float]]:
        """[[x1, y1, x2, y2, score, class]...], the best first, at most 100 of a class as COCO counts."""
        boxes, scores, classes = (np.asarray(values, np.float64) for values in self.decode(outputs))
        order = np.argsort(-scores, kind="stable")
        counts: Dict[float, int] = {}
        best = []
        for index in order:
            counts[classes[index]] = counts.get(classes[index], 0) + 1
            if counts[classes[index]] <= 100:
                best.append(index)
        return [[*map(float, boxes[index]), float(scores[index]), float(classes[index])] for index in best]

    def score(self, predictions: List[Any], targets: List[Any]) -> Dict[str, float]:
        return coco_scores(predictions, targets)


def coco_scores(predictions: Sequence[Sequence[Sequence[float]]], targets: Sequence[Dict[str, Any]]) -> Dict[str, float]:
    """pycocotools' bbox evaluation.

    Args:
        predictions: per picture [[x1, y1, x2, y2, score, class]...] in pixels of the model's input.
        targets: per picture {"boxes": [[x, y, w, h, class, crowd]...] in pixels of the picture, "place": see `placed`, "size": [H, W]}.
    Returns:
        {"mAP", "mAP50", "mAP75"}, 0..1.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ConfigError("the environment has no pycocotools", "pip install pycocotools in the environment of the entry") from None
    truth: Dict[str, List[Dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    found = []
    classes = {0}
    for number, (boxes, target) in enumerate(zip(predictions, targets), 1):
        height, width = target["size"]
        truth["images"].append({"id": number, "height": height, "width": width})
        for x, y, w, h, kind, crowd in target["boxes"]:
            row = {"id": len(truth["annotations"]) + 1, "image_id": number, "category_id": kind, "bbox": [x, y, w, h]}
            truth["annotations"].append({**row, "area": w * h, "iscrowd": crowd})
            classes.add(kind)
        scale_x, scale_y, left, top = target["place"]
        for x1, y1, x2, y2, score, kind in boxes:
            corners = [(x1 - left) / scale_x, (y1 - top) / scale_y, (x2 - left) / scale_x, (y2 - top) / scale_y]
            corners = [min(max(value, 0.0), float(limit)) for value, limit in zip(corners, (width, height, width, height))]
            box = [corners[0], corners[1], max(corners[2] - corners[0], 0.0), max(corners[3] - corners[1], 0.0)]
            found.append({"image_id": number, "category_id": int(kind), "bbox": box, "score": score})
            classes.add(int(kind))
    truth["categories"] = [{"id": kind, "name": str(kind)} for kind in sorted(classes)]
    if not found or not truth["annotations"]:
        return {"mAP": 0.0, "mAP50": 0.0, "mAP75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **truth}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: max(float(value), 0.0) for name, value in zip(("mAP", "mAP50", "mAP75"), evaluation.stats)}


def nms(boxes: Any, scores: Any, classes: Any, iou: float = 0.65, score: float = 0.001) -> Any:
    """Indices of the boxes that stay, the best first: non-maximum suppression per class.

    Args:
        boxes: [N, 4] x1 y1 x2 y2. scores, classes: [N].
        iou: a box that overlaps a better one of its class by more goes.
        score: a box below goes.
    """
    boxes, scores, classes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores), np.asarray(classes)
    area = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    kept: List[int] = []
    for kind in np.unique(classes):
        waiting = np.flatnonzero((classes == kind) & (scores >= score))
        waiting = waiting[np.argsort(-scores[waiting], kind="stable")]
        while waiting.size:
            best, waiting = waiting[0], waiting[1:]
            kept.append(int(best))
            low = np.maximum(boxes[waiting, :2], boxes[best, :2])
            high = np.minimum(boxes[waiting, 2:], boxes[best, 2:])
            shared = np.prod(np.maximum(high - low, 0), axis=1)
            waiting = waiting[shared <= iou * (area[waiting] + area[best] - shared)]
    return np.array(sorted(kept, key=lambda index: (-scores[index], index)), np.int64)


def _pictures(folder: Path) -> List[Path]:
    """Pictures below a folder, linked folders included."""
    return [
        Path(place) / name
        for place, _, names in os.walk(str(folder), followlinks=True)
        for name in names
        if Path(name).suffix.lower() in PICTURES
    ]


def _check(name: str, values: Any, count: int) -> None:
    if not isinstance(values, (list, tuple)) or len(values) != count or not all(isinstance(value, (int, float)) for value in values):
        raise ConfigError("`{}` of adapter_options is not {} numbers".format(name, count), "correct the zoo entry", found=values)


def read_picture(path: Path) -> Any:
    """[H, W, 3] uint8 RGB.

    Raises:
        ArtifactError: the file is missing, truncated, or no picture.
        ConfigError: the environment has no pillow.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("the environment has no pillow", "pip install pillow in the environment of the entry") from None
    try:
        with Image.open(str(path)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ArtifactError("a picture of the data set cannot be read", "restore it from the data set", file=path, found=error) from None


def resized(picture: Any, height: int, width: int) -> Any:
    """[height, width, 3] uint8, bilinear (pillow's: it averages where it shrinks)."""
    from PIL import Image

    bilinear = getattr(Image, "Resampling", Image).BILINEAR  # pillow before 9.1 has it on Image
    return np.asarray(Image.fromarray(picture).resize((width, height), bilinear))


def fitted(picture: Any, size: Tuple[int, int], resize: Optional[int]) -> Any:
    """The centre of a picture whose shorter side was resized to `resize`; without it the whole picture, stretched."""
    height, width = picture.shape[:2]
    if resize is None:
        return resized(picture, *size)
    if resize < max(size):
        raise ConfigError("`resize` is smaller than the input", "raise `resize` of adapter_options", expected=max(size), found=resize)
    short = min(height, width)
    picture = resized(picture, resize * height // short, resize * width // short)
    top, left = (round((whole - part) / 2) for whole, part in zip(picture.shape, size))
    return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])


def placed(picture: Any, size: Tuple[int, int], letterbox: bool, anchor: str, fill: int) -> Tuple[Any, List[float]]:
    """A picture in the model's input, and where: [scale of x, scale of y, left, top], so that x of the input is x * scale + left."""
    height, width = picture.shape[:2]
    if not letterbox:
        return resized(picture, *size), [size[1] / width, size[0] / height, 0.0, 0.0]
    ratio = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    top, left = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2) if anchor == "centre" else (0, 0)
    canvas = np.full((*size, 3), fill, np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = resized(picture, *inner)
    return canvas, [inner[1] / width, inner[0] / height, float(left), float(top)]
