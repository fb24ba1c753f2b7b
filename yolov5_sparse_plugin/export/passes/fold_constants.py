"""Compute at export what does not depend on the image."""

from __future__ import annotations

from yolov5_sparse_plugin.export.graph import DEQUANTIZE, QUANTIZE, Graph
from yolov5_sparse_plugin.export.passes import Pass


class FoldConstants(Pass):
    """Evaluate nodes whose inputs are all constants.

        Constant -> Identity -> DequantizeLinear         Constant -> DequantizeLinear
        Constant, Constant -> Mul -> Conv          ->    Constant -> Conv

    Quantizers stay, later passes read them. Expand stays: it makes the grids of the Detect layer out of a few numbers,
    and the engines compute it when they load the model; folded, it would add 0.4 MB to a model of 2 MB.
    """

    name = "fold_constants"

    def apply(self, graph: Graph) -> int:
        kept = {QUANTIZE, DEQUANTIZE, "Expand"}
        before = len(graph.onnx.nodes)
        graph.onnx.fold_constants(should_exclude_node=lambda node: node.op in kept)
        graph.tidy()
        return before - len(graph.onnx.nodes)
