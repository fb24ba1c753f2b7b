"""The pictures of an export's report."""

from __future__ import annotations

import io

from yolov5_sparse_plugin.export.layers import Layer

COLOURS = {"int8": "#2a78b5", "float16": "#7fb3a6", "float32": "#b8bec4"}


def draw(layers: list[Layer], title: str) -> bytes:
    """Return the picture, a PNG: sparsity and stored bytes of every convolution, coloured by precision."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(12, 6.4), layout="constrained")
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
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()
