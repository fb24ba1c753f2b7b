"""Move what the model says of a box as one row of numbers, not number by number."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, constant, shape_of
from yolov5_sparse_plugin.export.passes import Pass


class TransposeRows(Pass):
    """Transpose the Detect layer's logits by way of the order that engines keep convolutions in: channels last.

        y [B, A * R, H, W] -> Reshape [B, A, R, H, W] -> Transpose [B, A, H, W, R] -> Sigmoid

        y -> Sigmoid -> Transpose [B, H, W, A * R] -> Reshape [B, H, W, A, R] -> Transpose [B, A, H, W, R]

    The first Transpose is none then, the second one moves R numbers at a time, and Sigmoid is fused into the
    convolution. A are the anchors, R the 5 + classes numbers of a box. The values are the same.
    """

    name = "transpose_rows"

    def check(self, graph: Graph) -> str | None:
        return None if self._heads(graph) else "nothing is reshaped and transposed as the Detect layer does it"

    def _heads(self, graph: Graph) -> list[tuple[gs.Node, gs.Node, gs.Node]]:
        """Return Reshape, Transpose and Sigmoid of each scale."""
        found = []
        for reshape in graph.nodes("Reshape"):
            transpose = sole_reader(reshape, "Transpose")
            if transpose is None or transpose.attrs.get("perm") != [0, 1, 3, 4, 2]:
                continue
            sigmoid = sole_reader(transpose, "Sigmoid")
            known = len(reshape.inputs[0].shape or ()) == 4 and all((size or 0) > 0 for size in shape_of(reshape)[1:3])
            if sigmoid is not None and known:
                found.append((reshape, transpose, sigmoid))
        return found

    def apply(self, graph: Graph) -> int:
        heads = self._heads(graph)
        for reshape, transpose, sigmoid in heads:
            logits, rows = reshape.inputs[0], sigmoid.outputs[0]
            batch, channels, height, width = logits.shape
            anchors, numbers = shape_of(reshape)[1:3]
            name, dtype = transpose.name, rows.dtype
            last = graph.add("Sigmoid", f"{sigmoid.name}_first", [logits], dtype, logits.shape)
            turned = (batch, height, width, channels)
            last = graph.add("Transpose", f"{name}_last", [last], dtype, turned, perm=[0, 2, 3, 1])
            split = constant(f"{reshape.name}_rows", np.array([0, 0, 0, anchors, numbers]))  # 0: as it is
            shape = (batch, height, width, anchors, numbers)
            reshape.inputs, transpose.inputs = [last, split], [reshape.outputs[0]]
            reshape.outputs[0].shape, transpose.attrs["perm"] = shape, [0, 3, 1, 2, 4]
            sigmoid.outputs.clear()
            transpose.outputs = [rows]
        graph.tidy()
        return len(heads)


def sole_reader(node: gs.Node, op: str) -> gs.Node | None:
    """Return the one node that reads what `node` computes, None unless it is an `op`."""
    readers = node.outputs[0].outputs
    return readers[0] if len(readers) == 1 and readers[0].op == op else None
