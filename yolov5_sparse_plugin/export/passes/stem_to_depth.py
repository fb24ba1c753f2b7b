"""Compute the first convolution on blocks of 2x2 pixels instead of single ones."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, constant, dequantizer
from yolov5_sparse_plugin.export.passes import Pass


class StemToDepth(Pass):
    """Move pixels into channels before the 6x6 convolution of stride 2 with which v6 and v7 models begin.

        [B, 3, H, W] -> Conv 6x6 / 2    ->    [B, 3, H, W] -> SpaceToDepth(2) -> [B, 12, H/2, W/2] -> Conv 3x3 / 1

    The same products in another order. Engines gather a convolution's inputs by channels: 3 at a time are slow.
    """

    name = "stem_to_depth"

    def _stem(self, graph: Graph) -> gs.Node | None:
        for conv in graph.nodes("Conv"):
            attributes = conv.attrs
            fits = (
                tuple(conv.inputs[1].shape[2:]) == (6, 6)
                and list(attributes.get("strides", ())) == [2, 2]
                and list(attributes.get("pads", ())) == [2, 2, 2, 2]
                and list(attributes.get("dilations", [1, 1])) == [1, 1]
                and attributes.get("group", 1) == 1
            )
            if fits and conv.inputs[0] in graph.onnx.inputs:
                return conv
        return None

    def check(self, graph: Graph) -> str | None:
        return None if self._stem(graph) else "the model does not begin with a 6x6 convolution of stride 2"

    def apply(self, graph: Graph) -> int:
        conv = self._stem(graph)
        if conv is None:
            return 0
        images = conv.inputs[0]
        dequantize = dequantizer(conv.inputs[1])
        holder, place = (dequantize, 0) if dequantize is not None else (conv, 1)
        weight = holder.inputs[place].values
        # SpaceToDepth puts pixel (row, column) of each block into channels (row * 2 + column) * C …
        blocks = [weight[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        holder.inputs[place] = constant(holder.inputs[place].name, np.concatenate(blocks, axis=1))
        n, c, h, w = images.shape
        shape = (n, c * 4, h // 2 if isinstance(h, int) else None, w // 2 if isinstance(w, int) else None)
        conv.inputs[0] = graph.add("SpaceToDepth", "stem_to_depth", [images], images.dtype, shape, blocksize=2)
        if place == 0:
            conv.inputs[1].shape = (weight.shape[0], c * 4, 3, 3)
        conv.attrs.update(kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        if images.name in graph.grids:
            graph.grids[conv.inputs[0].name] = graph.grids[images.name]
        return 1
