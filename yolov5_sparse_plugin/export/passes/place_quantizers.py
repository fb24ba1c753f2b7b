"""Put quantizers where an engine computes in 8 bits."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, replace_uses, values
from yolov5_sparse_plugin.export.passes import Pass


class PlaceQuantizers(Pass):
    """Insert QuantizeLinear and DequantizeLinear around the operators that are to run in 8 bits.

        everywhere:      x -> Q -> DQ -> Conv -> Q -> DQ -> Sigmoid -> Q -> DQ -> Mul -> Q -> DQ -> Conv
        at convolutions: x -> Q -> DQ -> Conv ---------> Sigmoid ---------> Mul -> Q -> DQ -> Conv

    A tensor is quantized once, for all that read it. Where an operator's input or output has no grid it stays float.

    Args:
        ops: operators to run in 8 bits.
        outputs: whether their outputs are quantized as well; False: inputs only.
    """

    name = "place_quantizers"

    def __init__(self, ops: tuple[str, ...], outputs: bool):
        self.ops, self.outputs = ops, outputs

    def _inputs(self, node: gs.Node) -> list[gs.Tensor]:
        data = node.inputs if node.op in ("Concat", "Add", "Mul") else node.inputs[:1]
        return [tensor for tensor in data if values(tensor) is None]

    def _runs_in_8_bits(self, graph: Graph, node: gs.Node) -> bool:
        tensors = self._inputs(node) + (list(node.outputs) if self.outputs else [])
        return node.op in self.ops and all(tensor.name in graph.grids for tensor in tensors)

    def apply(self, graph: Graph) -> int:
        inside = [node for node in graph.onnx.nodes if self._runs_in_8_bits(graph, node)]
        readers: dict[str, tuple[gs.Tensor, list[gs.Node]]] = {}
        for node in inside:
            for tensor in self._inputs(node):
                readers.setdefault(tensor.name, (tensor, []))[1].append(node)
            if self.outputs:
                # an engine fuses an operator only if nothing but its quantizer reads it
                readers[node.outputs[0].name] = (node.outputs[0], list(node.outputs[0].outputs))
        for tensor, nodes in readers.values():
            replace_uses(tensor, graph.quantize(tensor), nodes)
        graph.tidy()
        return len(readers)
