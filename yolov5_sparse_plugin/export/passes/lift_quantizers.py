"""Take the activations' quantizers out of the graph and note their grids, to be placed anew for an engine."""

from __future__ import annotations

import numpy as np

from yolov5_sparse_plugin.export.graph import QUANTIZE, Graph, Grid, bypass, values
from yolov5_sparse_plugin.export.passes import Pass


class LiftQuantizers(Pass):
    """Remove every quantizer of an activation; its tensor has a grid from now on.

        x -> QuantizeLinear(int8) -> DequantizeLinear -> Conv           x -> Conv        grids[x] = uint8 grid
          -> QuantizeLinear(int8) -> DequantizeLinear -> Conv    ->       -> Conv

    Training observed int8; uint8 holds the same values (zero point + 128) and is what x86 multiplies fast. Quantizers
    that saw the same tensor have the same range and become one; where ranges differ, the grid covers all.
    """

    name = "lift_quantizers"

    def apply(self, graph: Graph) -> int:
        lifted = 0
        for quantize in graph.nodes(QUANTIZE):
            tensor = quantize.inputs[0]
            scale, zero_point = values(quantize.inputs[1]), values(quantize.inputs[2])
            if values(tensor) is not None or scale is None or zero_point is None:
                continue
            offset = 128 if zero_point.dtype == np.int8 else 0
            grid = Grid(
                np.asarray(scale, np.float32).reshape(()),
                (zero_point.astype(np.int16) + offset).astype(np.uint8).reshape(()),
            )
            graph.grids[tensor.name] = graph.grids[tensor.name].union(grid) if tensor.name in graph.grids else grid
            for dequantize in list(quantize.outputs[0].outputs):
                bypass(dequantize, tensor)
            lifted += 1
        graph.tidy()
        return lifted
