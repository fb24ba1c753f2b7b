"""Write convolutions as the integer products that DeepSparse was built for."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, constant, dequantizer, numbers
from yolov5_sparse_plugin.export.passes import Pass
from yolov5_sparse_plugin.export.passes.quantize_bias import ROOM


class ConvolveIntegers(Pass):
    """Replace a dequantized convolution by ConvInteger, where its weights have a single scale.

        x -> Q -> DQ -> Conv(DQ(W), b) -> y    ->    x -> Q -> ConvInteger(W) -> Add(int32 b) -> Cast -> Mul(scale) -> y

    DeepSparse fuses this with the activation behind it. With a scale a channel it does not: there, quantizers
    everywhere are faster (docs/performance.md).
    """

    name = "convolve_integers"

    def apply(self, graph: Graph) -> int:
        changed = 0
        for conv in graph.nodes("Conv"):
            data, weight = dequantizer(conv.inputs[0]), dequantizer(conv.inputs[1])
            if data is None or weight is None:
                continue
            common = common_scale(weight)
            if common is None:
                continue
            name, output = conv.name, conv.outputs[0]
            scale = np.float64(data.inputs[1].values) * common
            if len(conv.inputs) > 2 and np.abs(numbers(conv.inputs[2])).max() > scale * ROOM:
                continue  # weights next to nothing: their bias would not fit
            q = constant(f"{name}_ci_w", (weight.inputs[0].values.astype(np.int16) + 128).astype(np.uint8))
            offset = constant(f"{name}_ci_z", np.uint8(128))
            inputs = [data.inputs[0], q, data.inputs[2], offset]
            summed = graph.add("ConvInteger", f"{name}_ci", inputs, np.int32, output.shape, **conv.attrs)
            if len(conv.inputs) > 2:
                bias = np.round(numbers(conv.inputs[2]).astype(np.float64) / scale)
                bias = constant(f"{name}_ci_b", bias.astype(np.int32).reshape(1, -1, 1, 1))
                summed = graph.add("Add", f"{name}_ci_add", [summed, bias], np.int32, output.shape)
            real = graph.add("Cast", f"{name}_ci_cast", [summed], np.float32, output.shape, to=1)
            conv.outputs.clear()
            factor = constant(f"{name}_ci_s", np.float32(scale))
            graph.add("Mul", f"{name}_ci_mul", [real, factor], np.float32).inputs[0].outputs = [output]
            changed += 1
        graph.tidy()
        return changed


def common_scale(weight: gs.Node) -> float | None:
    """Return the one scale of a dequantized weight, channels of zeros aside; None where there are several."""
    q, scale = weight.inputs[0].values, weight.inputs[1].values
    alive = scale[q.reshape(len(q), -1).any(axis=1)]
    if alive.size == 0:
        return float(scale[0])
    return float(alive[0]) if np.allclose(alive, alive[0], rtol=1e-5, atol=0) else None
