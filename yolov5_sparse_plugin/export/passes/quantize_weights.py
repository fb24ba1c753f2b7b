"""Store the weights that training rounded as the 8-bit numbers that they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    Graph,
    constant,
    dequantizer,
    numbers,
    producer,
    values,
)
from yolov5_sparse_plugin.export.passes import Pass


class QuantizeWeights(Pass):
    """Replace a float weight and its quantizer by int8 values and one scale a channel.

        float W -> QuantizeLinear -> DequantizeLinear -> Conv    ->    int8 W -> DequantizeLinear(axis 0) -> Conv

    A single scale is repeated for every output channel, so that batch norm can be folded into the scales.
    """

    name = "quantize_weights"

    def _found(self, graph: Graph) -> Iterator[tuple[gs.Node, gs.Node]]:
        for conv in graph.nodes("Conv"):
            dequantize = dequantizer(conv.inputs[1])
            quantize = producer(dequantize.inputs[0]) if dequantize is not None else None
            if quantize is not None and quantize.op == QUANTIZE and values(quantize.inputs[0]) is not None:
                yield conv, quantize

    def apply(self, graph: Graph) -> int:
        found = list(self._found(graph))
        for conv, quantize in found:
            q, scale = rounded(quantize)
            name = f"{conv.name}_w"
            conv.inputs[1] = graph.add(
                DEQUANTIZE,
                f"{name}_dq",
                [constant(f"{name}_q", q), constant(f"{name}_s", scale)],
                np.float32,
                q.shape,
                axis=0,
            )
        return len(found)


def rounded(quantize: gs.Node) -> tuple[np.ndarray, np.ndarray]:
    """Return (steps, scale) of a quantized weight: int8 of the weight's shape, float32 [output channels].

    Engines want a zero point of 0. torch's fused quantizer chooses another one where a channel has no negative (or no
    positive) weight left, and then uses up to 255 steps on one side of zero: such a channel gets steps that are larger
    by the factor that makes them fit into 127.
    """
    weight, scale, zero_point = (numbers(tensor) for tensor in quantize.inputs)
    count = weight.shape[0]
    scale = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), (count,)).copy()
    low, high = (0, 255) if zero_point.dtype == np.uint8 else (-128, 127)
    zero_point = np.broadcast_to(zero_point.astype(np.float64).reshape(-1), (count,)).reshape(-1, 1, 1, 1)
    q = np.clip(np.round(weight / scale.reshape(-1, 1, 1, 1)) + zero_point, low, high) - zero_point
    most = np.abs(q).reshape(count, -1).max(axis=1)
    factor = np.where(most > 128, most / 127, 1.0)
    q = np.clip(np.round(q / factor.reshape(-1, 1, 1, 1)), -128, 127).astype(np.int8)
    return q, np.where(most == 0, 1.0, scale * factor).astype(np.float32)  # nothing is left of a pruned channel
