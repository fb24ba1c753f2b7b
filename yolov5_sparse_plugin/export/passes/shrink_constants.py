"""Store a repeated number once."""

from __future__ import annotations

import numpy as np

from yolov5_sparse_plugin.export.graph import Graph, constant, values
from yolov5_sparse_plugin.export.passes import Pass


class ShrinkConstants(Pass):
    """Keep one slice of a constant along the axes that it does not change along, where its reader broadcasts.

        x [1, 3, 80, 80, 2] -> Mul(anchors [1, 3, 80, 80, 2])    ->    x -> Mul(anchors [1, 3, 1, 1, 2])

    The Detect layer's grids are 0.4 MB of a YOLOv5n that has 1.9 MB of weights.
    """

    name = "shrink_constants"

    def apply(self, graph: Graph) -> int:
        changed = 0
        for node in graph.nodes("Add", "Mul", "Sub", "Div"):
            for place, tensor in enumerate(node.inputs):
                whole, other = values(tensor), node.inputs[1 - place]
                if whole is None or values(other) is not None or whole.ndim != len(other.shape or ()):
                    continue  # without the other's rank, the result might lose an axis
                array = whole
                for axis in range(whole.ndim):
                    first = array.take([0], axis=axis)
                    if array.shape[axis] > 1 and other.shape[axis] == array.shape[axis] and (array == first).all():
                        array = first
                if array.size < whole.size:
                    node.inputs[place] = constant(f"{tensor.name}_shrunk_{node.name}", np.array(array))
                    changed += 1
        return changed
