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


def stored_weights(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Return every convolution with the constant that holds its weight, in the graph's order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
            name = node.input[3 if node.op_type == "QLinearConv" else 1]
            while name not in constants and name in makers:  # through its quantizers
                name = makers[name].input[0]
            if name in constants:
                found.append((node, constants[name]))
    return found


def weights_of(model: onnx.ModelProto) -> list[tuple[str, np.ndarray]]:
    """Return (name of the node, stored values) of every convolution's weight, in the graph's order."""
    found = []
    for node, tensor in stored_weights(model):
        array = numpy_helper.to_array(tensor)
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


def macs(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> tuple[int, int] | None:
    """Return the multiply-accumulates of the convolutions for one image: all, and those whose weight is not zero.

    A weight [out, in / groups, height, width] is multiplied once for each pixel of the output.

    Args:
        shape: batch, channels, height and width of the input; a dynamic model has none of its own.

    Returns:
        None where the size of an output cannot be told from the graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for dim, size in zip(copy.graph.input[0].type.tensor_type.shape.dim, shape):
        dim.dim_value = size
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(copy)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info}
    total = nonzero = 0
    for (node, _), (_, weight) in zip(stored_weights(model), weights_of(model)):
        pixels = shapes.get(node.output[0], [])[2:]
        if len(pixels) != 2 or 0 in pixels:
            return None
        total += weight.size * pixels[0] * pixels[1]
        nonzero += int((weight != 0).sum()) * pixels[0] * pixels[1]
    return total, nonzero
