"""Store biases as the 32-bit integers that 8-bit convolutions add."""

from __future__ import annotations

import numpy as np

from yolov5_sparse_plugin.export.graph import DEQUANTIZE, Graph, constant, dequantizer, store_weight, values
from yolov5_sparse_plugin.export.passes import Pass

ROOM = 2.0**30  # half of what int32 holds: the other half is for the sum of products


class QuantizeBias(Pass):
    """Round biases to multiples of (input scale * weight scale), the unit in which the products are added up.

        Conv(DQ(x), DQ(W), b)    ->    Conv(DQ(x), DQ(W), DQ(int32 b))

    The scale of a channel that is wholly pruned is chosen for its bias. A weight scale so small that the bias would not
    fit (its channel contributes next to nothing) is made larger, and its weights rounded anew.
    """

    name = "quantize_bias"

    def apply(self, graph: Graph) -> int:
        changed = 0
        for conv in graph.nodes("Conv"):
            data, weight = dequantizer(conv.inputs[0]), dequantizer(conv.inputs[1])
            bias = values(conv.inputs[2]) if len(conv.inputs) > 2 else None
            if bias is None or data is None or weight is None:
                continue
            if values(data.inputs[1]) is None or data.inputs[1].values.ndim:
                continue
            x_scale, w_scale = np.float64(data.inputs[1].values), weight.inputs[1].values.astype(np.float64)
            least = np.abs(bias) / (x_scale * ROOM)
            dead = ~weight.inputs[0].values.reshape(len(bias), -1).any(axis=1)  # any scale does for nothing but zeros
            wanted = np.where(dead, np.maximum(least * 2, 1e-8), np.maximum(w_scale, least))
            if (wanted != w_scale).any():
                ratio = (weight.inputs[1].values / wanted).reshape(-1, 1, 1, 1)
                store_weight(weight, np.round(weight.inputs[0].values * ratio), wanted)
                w_scale = weight.inputs[1].values.astype(np.float64)
            scale = (x_scale * w_scale).astype(np.float32)
            q = np.round(bias.astype(np.float64) / scale).astype(np.int32)
            name = conv.inputs[2].name
            inputs = [constant(f"{name}_q", q), constant(f"{name}_s", scale)]
            conv.inputs[2] = graph.add(DEQUANTIZE, f"{name}_dq", inputs, np.float32, q.shape, axis=0)
            changed += 1
        return changed
