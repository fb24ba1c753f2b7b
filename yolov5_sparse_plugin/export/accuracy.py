"""mAP of ONNX files on a data set, as `yolov5 val` measures it, in ONNX Runtime.

Images and labels are read here: YOLOv5's own loader acts on a `download:` line, unpickles `labels.cache`, and writes
beside the images. What is arithmetic is YOLOv5's own: non-maximum suppression, matching, average precision.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from tqdm import tqdm

from yolov5_sparse_plugin.errors import SparsePluginError
from yolov5_sparse_plugin.export import images, labels, verify
from yolov5_sparse_plugin.hosts.current import host

CONFIDENCE, OVERLAP, MOST = 0.001, 0.6, 300  # of `yolov5 val`: of a detection, of two for one object; an image's
LEVELS = torch.linspace(0.5, 0.95, 10)  # of overlap with a label, over which mAP50-95 is the mean


class Unmeasured(SparsePluginError):
    """A data set has no mAP for a model; the export goes on without."""


@dataclass(frozen=True)
class Scores:
    """Of one model; 0..1, mean over the classes that are in the data set."""

    map50: float
    map50_95: float


@dataclass(frozen=True)
class Accuracy:
    """What was measured.

    Attributes:
        images: how many; labels: how many boxes there are on them.
        left_out: images that YOLOv5 leaves out, too: they cannot be read, or their labels can't.
        scores: of each file, in their order.
    """

    images: int
    labels: int
    left_out: list[Path]
    scores: list[Scores]


@dataclass(frozen=True)
class Labelled:
    """An image, and what is on it: float32 [N, 5], class, x1, y1, x2, y2 in the file's pixels."""

    placed: images.Placed
    objects: torch.Tensor


class Evaluation:
    """The mAP of one ONNX file, image by image.

    Args:
        file: takes images of `size`, height and width.
        classes: that it must know.

    Raises:
        Unmeasured: ONNX Runtime cannot run it, or it computes something else than boxes of so many classes.
    """

    def __init__(self, file: Path, size: tuple[int, int], classes: int):
        # of each image: which detections are right at which level, their scores, their classes; the labels' classes
        self._found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        try:
            self.session = verify.load_session(file)
            found = self.predict([images.as_input(np.full((*size, 3), images.GREY, np.uint8))]).shape
        except Exception as error:  # the engine's own classes
            raise Unmeasured(f"{file.name} does not run in ONNX Runtime: {error}") from error
        if len(found) != 3 or found[2] != 5 + classes:
            raise Unmeasured(f"{file.name} computes {list(found)}, not boxes of {classes} classes")

    def predict(self, given: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [images, boxes, 5 + classes]; images as from `images.as_input`."""
        return verify.run(self.session, list(given))

    def detections(self, given: Sequence[Labelled]) -> Iterator[torch.Tensor]:
        """Yield for each image float32 [N, 6]: x1, y1, x2, y2 in pixels of the input, score, class."""
        suppress = host().module("utils.general").non_max_suppression
        for prediction in self.predict([images.as_input(each.placed.image) for each in given]):
            limits = {"conf_thres": CONFIDENCE, "iou_thres": OVERLAP, "max_det": MOST}
            yield from suppress(torch.from_numpy(prediction[None]), multi_label=True, **limits)

    def add(self, given: Sequence[Labelled]) -> None:
        """Detect what is on some images, and compare it with their labels."""
        general, process_batch = host().module("utils.general"), host().module("val").process_batch
        for each, found in zip(given, self.detections(given)):
            right = torch.zeros(len(found), len(LEVELS), dtype=torch.bool)
            if len(found) and len(each.objects):
                placed, boxes = each.placed, found.clone()
                general.scale_boxes(placed.image.shape[:2], boxes[:, :4], placed.shape, placed.ratio_pad)
                right = process_batch(boxes, each.objects, LEVELS)
            self._found.append((right, found[:, 4], found[:, 5], each.objects[:, 0]))

    def scores(self) -> Scores:
        right, *others = (torch.cat(column).numpy() for column in zip(*self._found))
        if not right.any():
            return Scores(0.0, 0.0)
        average_precision = host().module("utils.metrics").ap_per_class(right, *others, names={})[5]
        return Scores(float(average_precision[:, 0].mean()), float(average_precision.mean()))


def measure(
    evaluations: Sequence[Evaluation],
    paths: Sequence[Path],
    size: tuple[int, int],
    classes: int,
    say: Callable[[str], None],
) -> Accuracy:
    """Measure several ONNX files on the same images; say beforehand how long it is going to take.

    Args:
        evaluations: new ones, of models that take images of `size` and know as many `classes`.
        paths: the images.

    Raises:
        Unmeasured: there are no labels, or they are of other classes.
    """
    boxes = dict(zip(paths, map(labels.read, labels.files(paths))))
    check(boxes, classes)
    left_out: list[Path] = []
    given = together(
        labelled(boxes, size, left_out), max(verify.batch_of(evaluation.session) for evaluation in evaluations)
    )
    first = next(given, None)
    if first is None:
        raise Unmeasured(f"none of the {len(boxes)} images can be read")
    announce(evaluations, first, len(boxes), say)
    count = objects = 0
    with tqdm(total=len(boxes), desc="mAP", unit="image") as bar:
        for some in itertools.chain([first], given):
            for evaluation in evaluations:
                evaluation.add(some)
            count, objects = count + len(some), objects + sum(len(each.objects) for each in some)
            bar.update(count + len(left_out) - bar.n)
    return Accuracy(count, objects, left_out, [evaluation.scores() for evaluation in evaluations])


def check(boxes: dict[Path, np.ndarray | None], classes: int) -> None:
    """Refuse labels that say nothing about models of `classes` classes; see `measure`."""
    found = [rows for rows in boxes.values() if rows is not None and len(rows)]
    first = next(iter(boxes))
    if not found:
        raise Unmeasured(f"there are no labels for the images; the first was looked for at {labels.files([first])[0]}")
    highest = int(max(rows[:, 0].max() for rows in found))
    if highest >= classes:
        raise Unmeasured(f"the labels have a class {highest}, and the model knows 0 to {classes - 1}")


def labelled(boxes: dict[Path, np.ndarray | None], size: tuple[int, int], left_out: list[Path]) -> Iterator[Labelled]:
    """Yield the images with their objects; those that YOLOv5 leaves out go to `left_out`."""
    for path, rows in boxes.items():
        image = None if rows is None else images.read(path)
        if rows is None or image is None:
            left_out.append(path)
            continue
        placed = images.place(image, size)
        yield Labelled(placed, in_pixels(rows, placed))


def in_pixels(rows: np.ndarray, placed: images.Placed) -> torch.Tensor:
    """Return labels as `Labelled.objects`, by the way that `yolov5 val` takes: into the letterbox, and back out.

    Args:
        rows: as from `labels.read`.
    """
    general = host().module("utils.general")
    height, width = placed.image.shape[:2]
    left, top = placed.pad
    # inside the grey; not `scaled`, which may be a pixel more than fits
    inner_width, inner_height = width - 2 * left, height - 2 * top
    boxes = general.xywhn2xyxy(rows[:, 1:], w=inner_width, h=inner_height, padw=left, padh=top)
    boxes = torch.from_numpy(general.xyxy2xywhn(boxes, w=width, h=height, clip=True, eps=1e-3).astype(np.float32))
    boxes = general.xywh2xyxy(boxes * torch.tensor([width, height, width, height], dtype=torch.float32))
    general.scale_boxes((height, width), boxes, placed.shape, placed.ratio_pad)
    return torch.cat([torch.from_numpy(rows[:, :1]), boxes], 1)


def together(given: Iterator[Any], count: int) -> Iterator[list[Any]]:
    """Yield lists of `count` in their order; the last one may be shorter."""
    some: list[Any] = []
    for each in given:
        some.append(each)
        if len(some) == count:
            yield some
            some = []
    if some:
        yield some


def announce(evaluations: Sequence[Evaluation], some: Sequence[Labelled], total: int, say: Callable) -> None:
    """Say how long it is going to take, from the time that the first images take."""
    started = time.perf_counter()
    for evaluation in evaluations:
        list(evaluation.detections(some))
    seconds = (time.perf_counter() - started) * total / len(some)
    words = f"{max(seconds, 1):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    models = f"{len(evaluations)} models" if len(evaluations) > 1 else "the model"
    say(f"measuring the mAP of {models} on {total} images: about {words}; --sparse-report fast leaves it out")
