"""Give tensors short names: a small model spends a tenth of its file on those that torch gives."""

from __future__ import annotations

from itertools import count

from yolov5_sparse_plugin.export.graph import Graph
from yolov5_sparse_plugin.export.passes import Pass


class ShortenNames(Pass):
    """Number the tensors inside the graph. Its inputs, its outputs and the nodes keep their names.

        /model.2/m/m.0/cv1/conv/module/Conv_output_0_q_dq_out    ->    t57

    The name of a tensor stands at its producer, at each reader and beside its shape; the node that computes it still
    says which of the model's layers it is.
    """

    name = "shorten_names"

    def apply(self, graph: Graph) -> int:
        kept = {tensor.name for tensor in (*graph.onnx.inputs, *graph.onnx.outputs)}
        fresh = (name for name in map("t{}".format, count()) if name not in kept)
        renamed: set[int] = set()
        for node in graph.onnx.nodes:
            for tensor in (*node.inputs, *node.outputs):
                if id(tensor) not in renamed and not tensor.is_empty() and tensor.name not in kept:
                    renamed.add(id(tensor))
                    tensor.name = next(fresh)
        return len(renamed)
