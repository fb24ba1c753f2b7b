"""The convolutions of an ONNX model: what is stored of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

WIDTHS = {"int8": 1, "float16": 2, "float32": 4}  # bytes


@dataclass(frozen=True)
class Layer:
    """A convolution as it is stored: `shape` of its weight, `sparsity` 0..1, `bytes` of the weight, `precision`."""

    name: str
    shape: tuple[int, ...]
    sparsity: float
    bytes: int
    precision: str

    @property
    def parameters(self) -> int:
        return self.bytes // WIDTHS[self.precision]


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """Return the convolutions of a model, in its order."""
    found = []
    for name, array in weights_of(model):
        precision = array.dtype.name if array.dtype.kind == "f" else "int8"
        short = module_of(name).removesuffix(".module").removesuffix(".conv")
        found.append(
            Layer(
                short,
                array.shape,
                float((array == 0).mean()),
                array.size * WIDTHS[precision],
                precision,
            )
        )
    return found


def weights_of(model: onnx.ModelProto) -> list[tuple[str, np.ndarray]]:
    """Return (name of the node, stored values) of every convolution's weight, in the graph's order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
            name = node.input[3 if node.op_type == "QLinearConv" else 1]
            while name not in constants and name in makers:  # through its quantizers
                name = makers[name].input[0]
            if name in constants:
                array = numpy_helper.to_array(constants[name])
                found.append((node.name, array.astype(np.int16) - 128 if array.dtype == np.uint8 else array))
    return found


def zeros_of(model: onnx.ModelProto) -> float:
    arrays = [array for _, array in weights_of(model)]
    return sum(int((a == 0).sum()) for a in arrays) / max(sum(a.size for a in arrays), 1)


def module_of(node: str) -> str:
    """Return the name of the torch module that the tracer named a node after.

    `/model.2/m/m.0/cv1/conv/module/Conv` is `model.2.m.0.cv1.conv.module`: a container that is called shows twice.
    """
    parts = node.strip("/").split("/")
    named = [part for part, following in zip(parts, parts[1:]) if not following.startswith(part + ".")]
    return ".".join(named)
