"""Give a grid to the activations that training did not observe but that an engine wants in 8 bits."""

from __future__ import annotations

from typing import Callable

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, Grid, producer, values
from yolov5_sparse_plugin.export.passes import Pass

MOVING = ("Concat", "MaxPool", "Resize", "Slice")  # what comes out was there before
# activation -> its float function; SiLU, which is two nodes, by a name of its own
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Relu": lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda x: np.where(x > 0, x, 0.1 * x),
}


class CompleteGrids(Pass):
    """Derive grids from those that training observed. No operator changes.

    images                               0..1 in steps of 1/255: exact for 8-bit images
    a, b -> Concat -> y (grid)           a and b, where nobody observed them, take the grid of y: the values that
    x -> MaxPool | Resize -> y (grid)    come out are the same, only rounded earlier
    x -> SiLU -> y (grid)                x: see `input_grid`; the Sigmoid in it: 0..1

    No images are needed: what training did not observe follows from what it did, and from batch norm's parameters.
    """

    name = "complete_grids"

    def apply(self, graph: Graph) -> int:
        before = len(graph.grids)
        for tensor in graph.onnx.inputs:
            graph.grids[tensor.name] = Grid(np.float32(1 / 255).reshape(()), np.uint8(0).reshape(()))
        graph.tidy()
        for node in reversed(graph.onnx.nodes):
            output = node.outputs[0] if node.outputs else None
            grid = graph.grids.get(output.name) if output is not None else None
            if grid is None:
                continue
            if node.op in MOVING:
                inputs = node.inputs if node.op == "Concat" else node.inputs[:1]
                for tensor in inputs:
                    if values(tensor) is None:
                        graph.grids.setdefault(tensor.name, grid)
                continue
            found = activation_of(node)
            if found is not None:
                function, x, sigmoid = found
                graph.grids.setdefault(x.name, input_grid(function, grid, graph.spreads.get(x.name)))
                if sigmoid is not None:
                    graph.grids.setdefault(sigmoid.name, Grid.covering(0.0, 1.0))
        return len(graph.grids) - before


def activation_of(node: gs.Node) -> tuple[Callable[[np.ndarray], np.ndarray], gs.Tensor, gs.Tensor | None] | None:
    """Return (function, its input, its Sigmoid's output or None) if `node` ends an activation, else None."""
    if node.op in ACTIVATIONS:
        slope = node.attrs.get("alpha", 0.01)
        leaky = node.op == "LeakyRelu"
        return (lambda x: np.where(x > 0, x, slope * x)) if leaky else ACTIVATIONS[node.op], node.inputs[0], None
    if node.op == "Mul" and len(node.inputs) == 2:
        for x, other in (node.inputs, reversed(node.inputs)):
            gate = producer(other)
            if gate is not None and gate.inputs[0] is x and gate.op in ("Sigmoid", "HardSigmoid"):
                silu = gate.op == "Sigmoid"
                return ACTIVATIONS["SiLU" if silu else "HardSwish"], x, other
    return None


def input_grid(
    function: Callable[[np.ndarray], np.ndarray], output: Grid, spread: tuple[np.ndarray, np.ndarray] | None = None
) -> Grid:
    """Return the grid of an activation's input, given that of its output.

    The output is observed, and the grid ends above where the function reaches the output's largest value. Below, the
    output shows little: SiLU of -4 is -0.07, of -8 -0.003. A low end costs precision everywhere, a high one cuts values
    off; with `spread` the end is chosen where the output is expected to err least, see `least_error`, without it where
    what is cut off moves the output by less than a quarter of a step.

    Args:
        function: the activation, elementwise.
        spread: mean and standard deviation of the input's channels, float64 [C] both.
    """
    x = np.linspace(-32, max(float(output.high) + 1, 8), 65536)
    y = np.clip(function(x), float(output.low), float(output.high))
    high = x[np.searchsorted(np.maximum.accumulate(y), float(output.high)).clip(max=len(x) - 1)]
    low = lowest(x, y, float(output.scale) / 4)
    return Grid.covering(low, high) if spread is None else least_error(function, output, low, high, *spread)


def lowest(x: np.ndarray, y: np.ndarray, tolerance: float) -> float:
    """Return the largest x, at most 0, below which y stays within `tolerance` of its value there."""
    negative = int(np.searchsorted(x, 0.0))
    low, high = np.minimum.accumulate(y[: negative + 1]), np.maximum.accumulate(y[: negative + 1])
    fits = np.maximum(high - y[: negative + 1], y[: negative + 1] - low) <= tolerance
    return float(x[np.nonzero(fits)[0][-1]]) if fits.any() else float(x[0])


def least_error(
    function: Callable[[np.ndarray], np.ndarray],
    output: Grid,
    low: float,
    high: float,
    mean: np.ndarray,
    deviation: np.ndarray,
) -> Grid:
    """Return the grid over end..high, low <= end <= 0, with the least mean squared error of the activation's output.

    The expectation is over channels of which each follows a Laplace distribution with batch norm's mean and deviation
    (data-free, as in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, who
    take a normal one; the tails that were measured are heavier). Rounding by steps of s errs by s^2 / 12.
    """
    x = np.linspace(2 * low, high, 512)
    scale = np.maximum(deviation, 1e-3) / np.sqrt(2)
    weight = (np.exp(-np.abs(x[:, None] - mean) / scale) / scale).mean(axis=1)
    y = function(x)
    slope = np.gradient(y, x)

    ends = np.linspace(low, low / 8, 57)
    grids = Grid.covering(ends, high)
    first = grids.low[:, None]
    cut = output.rounded(function(first)) - y
    error = np.where(x < first, cut**2, (slope * grids.scale[:, None]) ** 2 / 12) @ weight
    return Grid.covering(ends[error.argmin()], high)
