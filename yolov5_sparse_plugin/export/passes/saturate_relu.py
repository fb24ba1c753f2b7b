"""Let a quantizer cut off what a ReLU would."""

from __future__ import annotations

from yolov5_sparse_plugin.export.graph import Graph, bypass, producer
from yolov5_sparse_plugin.export.passes import Pass


class SaturateRelu(Pass):
    """Drop a ReLU whose result is quantized with a zero point of 0: uint8 has no place for negative values.

        x -> Conv -> Relu -> Q(zero point 0) -> DQ    ->    x -> Conv -> Q(zero point 0) -> DQ

    For models trained with `activation: nn.ReLU()`. The grid of the ReLU's output becomes the convolution's.
    """

    name = "saturate_relu"

    def apply(self, graph: Graph) -> int:
        changed = 0
        for relu in graph.nodes("Relu"):
            x, y = relu.inputs[0], relu.outputs[0]
            grid = graph.grids.get(y.name)
            conv = producer(x)
            if grid is None or grid.zero_point != 0 or conv is None or conv.op != "Conv" or len(x.outputs) != 1:
                continue
            graph.grids[x.name] = graph.grids.pop(y.name)
            bypass(relu, x)
            relu.inputs.clear()
            changed += 1
        graph.tidy()
        return changed
