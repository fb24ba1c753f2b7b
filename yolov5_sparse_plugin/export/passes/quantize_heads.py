"""Let the last convolutions write 8 bits, every channel on a grid of its own."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, Grid, constant, dequantizer, numbers, shape_of, store_weight
from yolov5_sparse_plugin.export.passes import Pass

# logits beyond these change next to nothing, and a narrow grid is a fine one. Confidence: sigmoid(-8) is 0.0003, below
# any threshold. Boxes: centres move by 2 * sigmoid(x), sizes are (2 * sigmoid(x)) ** 2 anchors; at 5 that is 3.95 of 4.
BOX_LIMIT, CONFIDENCE_LIMIT = 5.0, 8.0


class QuantizeHeads(Pass):
    """Quantize the logits that the Detect layer decodes; the decode itself stays float.

        x -> Conv(W, b) -> y       ->       x -> Conv(a * W, a * b + c) -> y, to be quantized with one scale
                                                 and dequantized by channel

    Engines convolve into 8 bits only with one output scale for all channels, but box and class logits have different
    ranges. So channel k is multiplied by a_k, which costs nothing (it goes into the weight's scale), and divided by it
    in DequantizeLinear, which has a scale a channel.
    """

    name = "quantize_heads"

    def apply(self, graph: Graph) -> int:
        heads = [conv for conv in graph.nodes("Conv") if conv.outputs[0].name not in graph.grids and is_head(conv)]
        weights = [(conv, dequantizer(conv.inputs[1])) for conv in heads if len(conv.inputs) > 2]
        quantized = [(conv, dequantize) for conv, dequantize in weights if dequantize is not None]
        for conv, dequantize in quantized:
            output = conv.outputs[0]
            limit = logit_limits(conv)
            grid = Grid.covering(-limit, limit)
            common = Grid(np.median(grid.scale).astype(np.float32).reshape(()), np.uint8(128).reshape(()))
            factor = common.scale.astype(np.float64) / grid.scale
            shift = (grid.zero_point.astype(np.float64) - 128) * common.scale
            store_weight(dequantize, scale=dequantize.inputs[1].values * factor)
            bias = numbers(conv.inputs[2]) * factor + shift
            conv.inputs[2] = constant(conv.inputs[2].name, bias.astype(np.float32))
            graph.grids[output.name] = Grid(grid.scale, grid.zero_point, common)
        return len(quantized)


def logit_limits(conv: gs.Node) -> np.ndarray:
    """Return the largest logit that matters, by channel, float64 [anchors * (5 + classes)].

    Channels are grouped by anchor as x, y, w, h, objectness, classes; the Reshape behind the convolution shows how many
    groups there are.
    """
    count = conv.inputs[1].shape[0]
    shapes = [shape_of(node) for node in conv.outputs[0].outputs if node.op == "Reshape"]
    outputs = next((shape[2] for shape in shapes if len(shape) == 5 and shape[2] and count % shape[2] == 0), count)
    limit = np.full((count // outputs, outputs), CONFIDENCE_LIMIT)
    if outputs < count:
        limit[:, :4] = BOX_LIMIT
    return limit.reshape(-1)


def is_head(conv: gs.Node) -> bool:
    """Return whether no other convolution reads what `conv` computes."""
    stack, seen = list(conv.outputs[0].outputs), set()
    while stack:
        node = stack.pop()
        if node.op == "Conv":
            return False
        if id(node) not in seen:
            seen.add(id(node))
            stack.extend(reader for output in node.outputs for reader in output.outputs)
    return True
