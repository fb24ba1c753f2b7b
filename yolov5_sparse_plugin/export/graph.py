"""The ONNX graph that passes rewrite, and the 8-bit grids of its activations beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Grid:
    """The 256 values that an activation may take: `scale * (q - zero_point)`, q uint8 0..255.

    Attributes:
        scale: float32, a scalar, or [C] where every channel has a grid of its own.
        zero_point: uint8, of the same shape.
        common: for a grid by channel, the one grid that the tensor's producer has been rescaled to, see
            `passes.quantize_heads`.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    common: Grid | None = None

    @classmethod
    def covering(cls, low: np.ndarray | float, high: np.ndarray | float) -> Grid:
        """Return the grid over low..high, widened to hold zero exactly (convolutions pad with it)."""
        low = np.minimum(np.asarray(low, np.float64), 0.0)
        high = np.maximum(np.asarray(high, np.float64), 0.0)
        scale = np.maximum((high - low) / 255, 1e-8)
        return cls(scale.astype(np.float32), np.clip(np.round(-low / scale), 0, 255).astype(np.uint8))

    @property
    def low(self) -> np.ndarray:
        return self.scale * (0.0 - self.zero_point)

    @property
    def high(self) -> np.ndarray:
        return self.scale * (255.0 - self.zero_point)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Return `x` as it reads after QuantizeLinear and DequantizeLinear; for one grid, not one by channel."""
        scale, zero = float(self.scale), float(self.zero_point)
        return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale

    def union(self, other: Grid) -> Grid:
        """Return `self` where the two are equal (to a millionth of a step), else a grid that covers both."""
        if np.array_equal(self.zero_point, other.zero_point) and np.allclose(
            self.scale, other.scale, rtol=1e-6, atol=0
        ):
            return self
        return Grid.covering(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


@dataclass
class Graph:
    """A graph under work.

    Attributes:
        onnx: onnx-graphsurgeon's graph, mutated by the passes.
        grids: name of an activation tensor -> its grid. Tensors without one stay float.
        spreads: name of a convolution's output -> (mean, standard deviation) of each channel, float64 [C] both, where
            batch norm says so.
        metadata: the model's metadata_props, carried through.
    """

    onnx: gs.Graph
    grids: dict[str, Grid] = field(default_factory=dict)
    spreads: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, model: onnx.ModelProto) -> Graph:
        return cls(gs.import_onnx(model), metadata={p.key: p.value for p in model.metadata_props})

    def write(self) -> onnx.ModelProto:
        """Return the model: sorted, without dead nodes, metadata kept.

        The shapes of the tensors inside are left out, as in upstream's files: engines infer them, and they are a
        fortieth of a small model's file.
        """
        self.tidy()
        ends = {tensor.name for tensor in (*self.onnx.inputs, *self.onnx.outputs)}
        for name, tensor in self.onnx.tensors().items():
            if isinstance(tensor, gs.Variable) and name not in ends:
                tensor.dtype = tensor.shape = None
        model = gs.export_onnx(self.onnx, do_type_check=False)
        model.ir_version = min(model.ir_version, 8)  # what opset 17 needs; older engines refuse newer ones
        model.producer_name = "yolov5-sparse-plugin"
        onnx.helper.set_model_props(model, self.metadata)
        return model

    def tidy(self) -> None:
        self.onnx.cleanup(remove_unused_graph_inputs=False).toposort()

    def nodes(self, *ops: str) -> list[gs.Node]:
        """Return the nodes of these operators, in the graph's order; safe to change the graph while iterating."""
        return [node for node in self.onnx.nodes if node.op in ops]

    def add(self, op: str, name: str, inputs: list[gs.Tensor], dtype: type, shape=None, **attributes) -> gs.Variable:
        """Append a node with one output, `<name>_out` of `dtype`; return that output."""
        output = gs.Variable(f"{name}_out", dtype, shape)
        self.onnx.nodes.append(gs.Node(op, name, attrs=attributes, inputs=inputs, outputs=[output]))
        return output

    def quantize(self, tensor: gs.Tensor) -> gs.Variable:
        """Append `tensor -> QuantizeLinear -> DequantizeLinear` on the tensor's grid; return the end of it."""
        grid, name = self.grids[tensor.name], tensor.name
        constants = grid_constants(grid.common or grid, f"{name}_q")
        q = self.add(QUANTIZE, f"{name}_q", [tensor, *constants], np.uint8, tensor.shape)
        if grid.common:
            constants = grid_constants(grid, f"{name}_dq")
        axis = {"axis": 1} if grid.scale.ndim else {}
        return self.add(DEQUANTIZE, f"{name}_dq", [q, *constants], np.float32, tensor.shape, **axis)


def grid_constants(grid: Grid, name: str) -> list[gs.Constant]:
    return [constant(f"{name}_s", grid.scale), constant(f"{name}_z", grid.zero_point)]


def constant(name: str, values: np.ndarray | np.generic) -> gs.Constant:
    return gs.Constant(name, np.array(values, order="C"))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that computes `tensor`; None for inputs and constants."""
    return tensor.inputs[0] if isinstance(tensor, gs.Variable) and tensor.inputs else None


def dequantizer(tensor: gs.Tensor) -> gs.Node | None:
    """Return the DequantizeLinear that computes `tensor`; None where something else, or nothing, does."""
    node = producer(tensor)
    return node if node is not None and node.op == DEQUANTIZE else None


def store_weight(dequantize: gs.Node, q: np.ndarray | None = None, scale: np.ndarray | None = None) -> None:
    """Replace what a weight's DequantizeLinear reads: its steps (as int8), its scales (as float32), or both."""
    for place, array, dtype in ((0, q, np.int8), (1, scale, np.float32)):
        if array is not None:
            dequantize.inputs[place] = constant(dequantize.inputs[place].name, array.astype(dtype))


def replace_uses(old: gs.Tensor, new: gs.Tensor, among: list[gs.Node] | None = None) -> None:
    """Let every consumer of `old` (or those of `among`) read `new` instead."""
    for node in list(old.outputs) if among is None else among:
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]


def bypass(node: gs.Node, by: gs.Tensor) -> None:
    """Take `node` out of the graph: what read its output reads `by`. Not for a node whose output is the graph's own."""
    replace_uses(node.outputs[0], by)
    node.outputs.clear()


def values(tensor: gs.Tensor | None) -> np.ndarray | None:
    """Return the values of a constant, None for anything else."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def numbers(tensor: gs.Constant) -> np.ndarray:
    """Return the values of what is known to be a constant.

    Raises:
        TypeError: it is none.
    """
    found = values(tensor)
    if found is None:
        raise TypeError(f"{tensor.name} is computed, not a constant")
    return found


def shape_of(reshape: gs.Node) -> list[int | None]:
    """Return the shape that a Reshape makes, None where it is computed (`--dynamic`)."""
    shape, maker = values(reshape.inputs[1]), producer(reshape.inputs[1])
    if shape is not None:
        return [int(size) for size in shape]
    parts = [values(tensor) for tensor in maker.inputs] if maker is not None and maker.op == "Concat" else []
    return [int(part.reshape(-1)[0]) if part is not None else None for part in parts]
