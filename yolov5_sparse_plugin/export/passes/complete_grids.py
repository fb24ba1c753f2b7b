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
                graph.grids.setdefault(x.name, input_grid(function, grid))
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


def input_grid(function: Callable[[np.ndarray], np.ndarray], output: Grid) -> Grid:
    """Return the grid of an activation's input, given that of its output.

    The output is observed; of the input nothing is needed that the output does not show. It ends above where the
    function reaches the output's largest value, and below where what is cut off moves the output by less than a
    quarter of a step: SiLU of -8 is -0.003. A narrow grid is a fine one.
    """
    x = np.linspace(-32, max(float(output.high) + 1, 8), 65536)
    y = np.clip(function(x), float(output.low), float(output.high))
    high = x[np.searchsorted(np.maximum.accumulate(y), float(output.high)).clip(max=len(x) - 1)]
    low = lowest(x, y, float(output.scale) / 4)
    return Grid.covering(low, high)


def lowest(x: np.ndarray, y: np.ndarray, tolerance: float) -> float:
    """Return the largest x, at most 0, below which y stays within `tolerance` of its value there."""
    negative = int(np.searchsorted(x, 0.0))
    low, high = np.minimum.accumulate(y[: negative + 1]), np.maximum.accumulate(y[: negative + 1])
    fits = np.maximum(high - y[: negative + 1], y[: negative + 1] - low) <= tolerance
    return float(x[np.nonzero(fits)[0][-1]]) if fits.any() else float(x[0])
