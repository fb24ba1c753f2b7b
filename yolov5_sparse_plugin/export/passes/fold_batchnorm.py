"""Multiply batch norm into the convolution before it."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from yolov5_sparse_plugin.export.graph import Graph, constant, dequantizer, numbers, store_weight, values
from yolov5_sparse_plugin.export.passes import Pass


class FoldBatchNorm(Pass):
    """Fold what scales and shifts a convolution's channels into its weights and bias.

        x -> Conv [-> Div | Mul | Add of a constant] -> BatchNormalization -> y    ->    x -> Conv(W', b') -> y

    The division is what quantization-aware training of a fused convolution leaves behind. Of an 8-bit weight only the
    scales change, the rounded values stay: W' = q * (s * gamma / sigma). Where a channel's factor is negative, q is
    negated (-128, which has no counterpart, becomes 127). What batch norm knew of y, its mean beta and its deviation
    gamma by channel, is kept in the graph's `spreads`.
    """

    name = "fold_batchnorm"

    def apply(self, graph: Graph) -> int:
        changed = 0
        for conv in graph.nodes("Conv"):
            if values(conv.inputs[1]) is None and dequantizer(conv.inputs[1]) is None:
                continue
            count = conv.inputs[1].shape[0]
            factor, shift = np.ones(count), np.zeros(count)
            if len(conv.inputs) > 2:
                shift = numbers(conv.inputs[2]).astype(np.float64)
            last = None
            while len(conv.outputs[0].outputs) == 1:
                node = conv.outputs[0].outputs[0]
                step = affine(node, conv.outputs[0], count)
                if step is None:
                    break
                factor, shift = factor * step[0], shift * step[0] + step[1]
                last, output = node, node.outputs[0]
                if node.op == "BatchNormalization":
                    gamma, beta = (numbers(t).astype(np.float64) for t in node.inputs[1:3])
                    graph.spreads[output.name] = beta, np.abs(gamma)
                node.outputs.clear()
                conv.outputs[0].outputs.clear()
                conv.outputs = [output]
                changed += 1
            if last is not None:
                self._rescale(conv, factor)
                conv.inputs = [*conv.inputs[:2], constant(f"{conv.name}_b", shift.astype(np.float32))]
        graph.tidy()
        return changed

    def _rescale(self, conv: gs.Node, factor: np.ndarray) -> None:
        dequantize = dequantizer(conv.inputs[1])
        if dequantize is None:
            weight = numbers(conv.inputs[1]) * factor.reshape(-1, 1, 1, 1)
            conv.inputs[1] = constant(f"{conv.name}_w", weight.astype(np.float32))
            return
        q, scale = dequantize.inputs[0].values.astype(np.int16), dequantize.inputs[1].values
        q[factor < 0] *= -1
        dead = factor == 0  # pruned by its batch norm
        q[dead] = 0
        store_weight(dequantize, np.clip(q, -128, 127), np.where(dead, scale, scale * np.abs(factor)))


def affine(node: gs.Node, data: gs.Tensor, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (factor, shift), float64 [count] each, of a node that computes factor * x + shift by channel."""
    if node.op == "BatchNormalization" and len(node.outputs) == 1:
        gamma, beta, mean, variance = (numbers(t).astype(np.float64) for t in node.inputs[1:5])
        factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return factor, beta - mean * factor
    if node.op not in ("Mul", "Div", "Add") or node.inputs[0] is not data and node.op == "Div":
        return None
    other = values(node.inputs[1] if node.inputs[0] is data else node.inputs[0])
    if other is None or other.size not in (1, count) or other.size == count and other.shape[-3:] != (count, 1, 1):
        return None
    other = np.broadcast_to(other.reshape(-1).astype(np.float64), (count,))
    ones, zeros = np.ones(count), np.zeros(count)
    return {"Mul": (other, zeros), "Div": (1 / other, zeros), "Add": (ones, other)}[node.op]
