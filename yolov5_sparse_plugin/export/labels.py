"""The labels of a data set, from its text files: YOLOv5's own loader unpickles a cache that anyone may have written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolov5_sparse_plugin.hosts.current import host


def files(images: Sequence[Path]) -> list[Path]:
    """Return where YOLOv5 looks for the labels of each image: `labels` for the last `images` of its path, `.txt`."""
    find = host().module("utils.dataloaders").img2label_paths
    return [Path(file) for file in find([str(image.absolute()) for image in images])]


def read(file: Path) -> np.ndarray | None:
    """Return the boxes of a label file: float32 [N, 5], class, x, y, width, height, the last four 0..1 of the image.

    A line of more than six numbers is a polygon; then all of them are. Equal lines count once. No file: no boxes.

    Returns:
        None where YOLOv5 leaves the image out of the data set (`verify_image_label`): the file is not what it reads.
    """
    try:
        rows = [line.split() for line in file.read_text().strip().splitlines() if line] if file.is_file() else []
        if any(len(row) > 6 for row in rows):
            outlines = [np.array(row[1:], np.float32).reshape(-1, 2) for row in rows]
            classes = np.array([[row[0]] for row in rows], np.float32)
            boxes = np.concatenate([classes, host().module("utils.general").segments2boxes(outlines)], 1)
        else:
            boxes = np.array(rows, np.float32).reshape(len(rows), -1 if rows else 5)
    except (OSError, ValueError):  # not text, not numbers, lines of different lengths
        return None
    if boxes.shape[1] != 5 or not (boxes >= 0).all() or not (boxes[:, 1:] <= 1).all():
        return None
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[first] if len(first) < len(boxes) else boxes.astype(np.float32)
