"""Measure an export beside its baseline: size, speed, accuracy, and what both find on some images."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from yolov5_sparse_plugin.bench.measure import Processes, Row
from yolov5_sparse_plugin.export import baseline, images, pictures
from yolov5_sparse_plugin.export.accuracy import Accuracy, Evaluation, Unmeasured, measure
from yolov5_sparse_plugin.export.comparison import Figures
from yolov5_sparse_plugin.export.detections import Detections, detect
from yolov5_sparse_plugin.export.layers import Layer, layers_of, macs
from yolov5_sparse_plugin.hosts import datasets
from yolov5_sparse_plugin.hosts.current import host

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Export

# of a model in an engine: inferences at least, and before them; seconds that an engine may take for more of them
ROUNDS, WARMUP, SECONDS = 5, 1, 0.5
SHOWN, TRIED = 4, 8  # images in the picture of detections; among how many those with something on them are looked for


@dataclass(frozen=True)
class Prepared:
    """What was made ready before the export began.

    Attributes:
        choice: what it is to be compared with; None: nothing. engines: processes that are starting, one a model.
    """

    choice: baseline.Choice | None
    engines: Processes


@dataclass
class Measured:
    """What was found out about an export.

    Attributes:
        file: the export. ours, theirs: of the export, and of its baseline. missing: why there is no baseline.
        layers: of the export. gzipped: its bytes when packed.
        rows: latency of both, engine by engine, the baseline first.
        accuracy: how mAP was measured, None where it was not.
        notes: what should be known to read the figures.
        pictures: name after the model's -> PNG.
    """

    file: Path
    ours: Figures
    layers: list[Layer]
    gzipped: int
    theirs: Figures | None = None
    missing: str | None = None
    rows: list[Row] = field(default_factory=list)
    accuracy: Accuracy | None = None
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)


def measured(export: Export, prepared: Prepared, file: Path, folder: Path) -> Measured:
    """Measure the export in `file`, and its baseline, which is made in `folder`."""
    other, missing = _made(export, prepared.choice, folder)
    files = [other.timed, file] if other else [file]
    shape = (int(export.arguments["batch_size"]), 3, *export.size)
    prepared.engines.load(files, shape[0], img=export.size)
    raw, layers = file.read_bytes(), layers_of(export.graph)
    with ThreadPoolExecutor(1) as beside:  # while the engines load
        gzipped = beside.submit(gzip.compress, raw, 6)
        picture = pictures.sparsity(layers, file.name)
    ours = Figures(file.name, len(raw), macs(export.graph, shape))
    found = Measured(file, ours, layers, len(gzipped.result()))
    found.pictures["sparsity.png"] = picture
    found.missing = missing
    if other:
        found.theirs = Figures(other.name, other.file.stat().st_size, _macs_of(other.file, shape))
        found.notes += other.remarks
    found.rows = prepared.engines.time(ROUNDS, WARMUP, seconds=SECONDS)
    for row in found.rows:
        figures = found.ours if row.model == file else found.theirs
        if figures is not None and row.milliseconds:
            figures.milliseconds[row.engine] = row.milliseconds
    if export.options.report == "full":
        try:
            _look(export, file, other, found)
        except Exception as error:  # of YOLOv5's functions, on anybody's data; all else is measured already
            found.notes.append(f"mAP was not measured: {type(error).__name__}: {error}.")
    return found


def _made(export: Export, choice: baseline.Choice | None, folder: Path) -> tuple[baseline.Baseline | None, str | None]:
    """Return the baseline, or why there is none."""
    if choice is None:
        return None, "it is a float model; --sparse-baseline names one to compare it with"
    try:
        return baseline.made(choice, export, folder), None
    except baseline.NoBaseline as error:
        return None, str(error)


def _macs_of(file: Path, shape: tuple[int, int, int, int]) -> tuple[int, int] | None:
    try:
        return macs(onnx.load(str(file)), shape)
    except Exception:  # anybody's file: what ONNX cannot make out of it, engines may run all the same
        return None


def _look(export: Export, file: Path, other: baseline.Baseline | None, found: Measured) -> None:
    """Measure mAP on the validation images of --data, and draw what is detected on some of them."""
    if "data" not in export.typed:
        found.notes.append("For mAP, and a picture of what is detected, name a data set with --data.")
        return
    data, names = Path(str(export.arguments["data"])), baseline.classes_of(export.model)
    paths = images.files(data, "val")
    compared = [(found.ours, file)]
    if found.theirs is not None and other is not None:
        compared.insert(0, (found.theirs, other.file))
    evaluations: list[tuple[Figures, Evaluation]] = []
    for figures, path in compared:
        try:
            evaluations.append((figures, Evaluation(path, export.size, len(names))))
        except Unmeasured as error:
            found.notes.append(f"The mAP of {figures.name} was not measured: {error}.")
    if not evaluations:
        return
    try:
        _check_names(data, len(names))
        found.accuracy = measure([each for _, each in evaluations], paths, export.size, len(names), export.say)
        for (figures, _), scores in zip(evaluations, found.accuracy.scores):
            figures.scores = scores
        if found.accuracy.left_out:
            count, first = len(found.accuracy.left_out), found.accuracy.left_out[0]
            found.notes.append(f"{count} of the images, or their labels, cannot be read; the first is {first.name}.")
    except Unmeasured as error:
        found.notes.append(f"mAP was not measured: {error}.")
    shown = _shown(paths, evaluations, export.size)
    if shown:
        titles = [figures.name for figures, _ in evaluations]
        found.pictures["detections.png"] = pictures.detections(shown, titles, names)


def _check_names(data: Path, classes: int) -> None:
    """Refuse a data set of another number of classes than the model's; a folder of images names none."""
    if data.suffix.lower() in (".yaml", ".yml"):
        content = datasets.read(data)
        theirs = len(content["names"]) if isinstance(content.get("names"), (list, dict)) else content.get("nc", classes)
        if theirs != classes:
            raise Unmeasured(f"{data} has {theirs} classes, the model {classes}")


def _shown(
    paths: list[Path], evaluations: list[tuple[Figures, Evaluation]], size: tuple[int, int]
) -> list[pictures.Shown]:
    """Return a few images, spread over the data set, on which a model detects something."""
    general = host().module("utils.general")
    shown: list[pictures.Shown] = []
    for path in images.spread(paths, TRIED):
        image = images.read(path)
        if image is None:
            continue
        placed = images.place(image, size)
        by_model: list[Detections] = []
        for _, evaluation in evaluations:
            found = detect(evaluation.predict([images.as_input(placed.image)])[0])
            boxes = general.scale_boxes(size, found.boxes.clone(), placed.shape, placed.ratio_pad)
            by_model.append(Detections(boxes, found.scores, found.classes))
        if any(len(each) for each in by_model):
            shown.append(pictures.Shown(path.name, image[:, :, ::-1], by_model))
    return images.spread(shown, SHOWN)
