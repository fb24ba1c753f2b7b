"""Take images as cameras deliver them."""

from __future__ import annotations

import numpy as np

from yolov5_sparse_plugin.export.graph import QUANTIZE, Graph, replace_uses
from yolov5_sparse_plugin.export.passes import Pass


class Uint8Input(Pass):
    """Drop the first quantizer and let its result be the input.

    images: float32 0..1 -> QuantizeLinear(1/255) -> x    ->    images: uint8 0..255 = x
    """

    name = "uint8_input"
    required = True

    def check(self, graph: Graph) -> str | None:
        readers = [node.op for node in graph.onnx.inputs[0].outputs]
        return None if readers == [QUANTIZE] else f"its images are read by {', '.join(readers)}, not by one quantizer"

    def apply(self, graph: Graph) -> int:
        images = graph.onnx.inputs[0]
        quantize = images.outputs[0]
        q = quantize.outputs[0]
        quantize.inputs.clear()
        images.dtype = np.uint8
        replace_uses(q, images)
        graph.tidy()
        return 1
