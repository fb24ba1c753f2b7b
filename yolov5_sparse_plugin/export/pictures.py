"""The pictures of an export's report. Names in them are text: of files, of layers, of classes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yolov5_sparse_plugin.export.detections import Detections
from yolov5_sparse_plugin.export.layers import Layer

COLOURS = {"int8": "#2a78b5", "float16": "#7fb3a6", "float32": "#b8bec4"}
WIDTH = 12.0  # inches


@dataclass(frozen=True)
class Shown:
    """An image, uint8 [H, W, 3], RGB, and what each model detects on it, in its pixels."""

    name: str
    image: np.ndarray
    by_model: list[Detections]


def detections(shown: Sequence[Shown], models: Sequence[str], names: Sequence[str]) -> bytes:
    """Return the picture, a PNG: a row for each image, a column for each model, in which the surest stand on top.

    Args:
        models: what the columns are called.
        names: of the classes.
    """
    from matplotlib.figure import Figure

    column = WIDTH / 2
    heights = [min(column * each.image.shape[0] / each.image.shape[1], 1.5 * column) for each in shown]
    size = (column * len(models), sum(heights) + 0.24 * len(shown) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(shown), len(models), squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, each in zip(axes, shown):
        for place, found in zip(row, each.by_model):
            place.imshow(each.image, aspect="equal")
            place.set_axis_off()
            rows = list(zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist()))
            for box, score, label in reversed(rows):
                draw_box(place, box, f"{names[label]} {score:.2f}", f"C{label % 10}")
        row[0].set_title(each.name, loc="left", fontsize=8, color="#68727a", parse_math=False)
    for place, title in zip(axes[0], models):
        place.set_title(title, fontsize=11, parse_math=False)
    return as_png(figure, dpi=100)


def draw_box(axes: Any, box: Sequence[float], text: str, colour: str) -> None:
    """Draw a box and its text: above it, or inside where the image ends, and not beyond the image's right end."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.3))
    right_end, bottom_end = axes.get_xlim()[1], axes.get_ylim()[0]
    inside, leftwards = top < 0.04 * bottom_end, left > 0.8 * right_end
    axes.text(
        right if leftwards else left,
        top,
        text,
        fontsize=6.5,
        color="white",
        verticalalignment="top" if inside else "bottom",
        horizontalalignment="right" if leftwards else "left",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
        clip_on=True,
        parse_math=False,
    )


def as_png(figure: Any, dpi: int) -> bytes:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        figure.savefig(picture, format="png", dpi=dpi)
    return picture.getvalue()


def sparsity(layers: list[Layer], title: str) -> bytes:
    """Return the picture, a PNG: sparsity and stored bytes of every convolution, coloured by precision."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = range(len(layers))
    colours = [COLOURS[layer.precision] for layer in layers]
    upper.bar(places, [100 * layer.sparsity for layer in layers], color=colours, width=0.8)
    upper.set_ylim(0, 100)
    upper.set_ylabel("weights that are zero, %")
    lower.bar(places, [layer.bytes / 1e3 for layer in layers], color=colours, width=0.8)
    lower.set_ylabel("weights as stored, kB")
    lower.set_xticks(list(places), [layer.name for layer in layers], rotation=90, fontsize=7, parse_math=False)
    lower.set_xlim(-0.8, len(layers) - 0.2)
    for axes in (upper, lower):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    present = [name for name in COLOURS if any(layer.precision == name for layer in layers)]
    upper.legend(handles=[Patch(color=COLOURS[name], label=name) for name in present], loc="upper left", ncols=2)
    total = sum(layer.bytes for layer in layers)
    parameters = sum(layer.parameters for layer in layers)
    zeros = sum(layer.sparsity * layer.parameters for layer in layers)
    figure.suptitle(
        f"{title}: {parameters / 1e6:.2f} million weights in {len(layers)} convolutions, "
        f"{zeros / max(parameters, 1):.1%} zero, {total / 1e6:.1f} MB",
        fontsize=12,
        parse_math=False,
    )
    return as_png(figure, dpi=150)
