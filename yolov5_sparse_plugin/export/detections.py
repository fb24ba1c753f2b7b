"""What a model finds on an image, and which of it another model finds, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torchvision

CONFIDENCE, OVERLAP = 0.25, 0.45  # of a detection; of two for one object: what `yolov5 detect` takes
SAME = 0.5  # overlap of two detections of one object by two models


@dataclass(frozen=True)
class Detections:
    """Of one image.

    Attributes:
        boxes: float32 [N, 4], x1, y1, x2, y2 in pixels of the input. scores: float32 [N]. classes: int64 [N].
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return len(self.boxes)


def detect(prediction: np.ndarray) -> Detections:
    """Return what is left of a prediction after non-maximum suppression, the surest first.

    Args:
        prediction: float32 [boxes, 5 + classes]: x, y, width, height, objectness, class scores.
    """
    rows = torch.from_numpy(prediction)
    scores, classes = (rows[:, 4:5] * rows[:, 5:]).max(1)
    kept = scores > CONFIDENCE
    rows, scores, classes = rows[kept], scores[kept], classes[kept]
    boxes = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    order = torchvision.ops.batched_nms(boxes, scores, classes, OVERLAP)
    return Detections(boxes[order], scores[order], classes[order])


def matched(one: Detections, other: Detections) -> list[tuple[int, int]]:
    """Return the pairs that mean the same object: of one class, each in one pair, those that overlap most first."""
    if not len(one) or not len(other):
        return []
    overlap = torchvision.ops.box_iou(one.boxes, other.boxes)
    overlap[one.classes[:, None] != other.classes[None]] = 0
    places = (overlap >= SAME).nonzero()
    pairs: list[tuple[int, int]] = []
    for place in overlap[places[:, 0], places[:, 1]].argsort(descending=True):
        i, j = places[place].tolist()
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs
