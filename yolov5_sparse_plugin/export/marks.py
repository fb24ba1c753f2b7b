"""Where the model's quantizers stand in its graph: the exporter writes marks, the grids come from the modules.

A mark is an operator of our own, which both of torch's exporters write as one node and none of their optimizations
touches; what stands in the file in the end is ONNX's own QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import ast
import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from yolov5_sparse_plugin.engine.native.structure import Grid, quantizers
from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export.graph import DEQUANTIZE, QUANTIZE

DOMAIN, MARK = "yolov5_sparse_plugin", "Quantizer"
LIBRARY = torch.library.Library(DOMAIN, "DEF")
LIBRARY.define("quantizer(Tensor values, str place) -> Tensor")
LIBRARY.impl("quantizer", lambda values, place: values.clone(), "CompositeExplicitAutograd")
LIBRARY.impl("quantizer", lambda values, place: torch.empty_like(values), "Meta")
SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the layers that it is in, and its own name
INTEGERS = {(-128, 127): np.int8, (0, 255): np.uint8}  # limits of a grid -> what ONNX stores it as


@contextlib.contextmanager
def marked(model: torch.nn.Module) -> Iterator[dict[str, Grid]]:
    """Let the quantizers of a model be marks, by their places in `structure.grids`.

    Yields:
        Those places' grids. A quantizer that has not seen a value yet rounds nothing and leaves no mark.

    Raises:
        ExportError: a grid is not one of 8 bits.
    """
    found = {place: quantizer for place, quantizer in quantizers(model).items() if quantizer.rounds}
    grids = {place: quantizer.grid for place, quantizer in found.items()}
    for place, grid in grids.items():
        if (grid.quant_min, grid.quant_max) not in INTEGERS:
            raise ExportError(f"{place} is rounded to {grid.quant_min}..{grid.quant_max}; ONNX has 8 bits.")
    torch.onnx.register_custom_op_symbolic(f"{DOMAIN}::quantizer", symbolic, 13)
    for place, quantizer in found.items():
        vars(quantizer)["forward"] = functools.partial(torch.ops.yolov5_sparse_plugin.quantizer, place=place)
    try:
        yield grids
    finally:
        for quantizer in found.values():
            del vars(quantizer)["forward"]


def symbolic(graph: Any, values: Any, place: Any) -> Any:
    """Write a mark for the exporter that traces."""
    return graph.op(f"{DOMAIN}::{MARK}", values, place_s=place.node().s("value")).setType(values.type())


def translation() -> dict[Callable, Callable]:
    """Return how a mark is written, as `custom_translation_table` of the newer exporter (`dynamo=True`, opset 18)."""
    operator = described()
    mark = torch.ops.yolov5_sparse_plugin.quantizer.default
    return {mark: lambda values, place: operator(values, place=place)}


def described() -> Callable:
    """Return the mark as onnxscript's operator, which the newer exporter takes."""
    from onnxscript import values

    schema = onnx.defs.OpSchema
    description = schema(
        MARK,
        DOMAIN,
        1,
        inputs=[schema.FormalParameter("x", "T")],
        outputs=[schema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[schema.Attribute("place", schema.AttrType.STRING, "")],
    )
    return values.Op(values.Opset(DOMAIN, 1), MARK, description)


def with_quantizers(model: onnx.ModelProto, grids: Mapping[str, Grid]) -> onnx.ModelProto:
    """Put ONNX's quantizers where the marks are, in place.

        x -> Quantizer(place) -> Conv    ->    x -> QuantizeLinear -> DequantizeLinear -> Conv

    Args:
        model: as an exporter wrote it. grids: from `marked`.
    """
    nodes = []
    for node in model.graph.node:
        scopes = next((each.value for each in getattr(node, "metadata_props", ()) if each.key == SCOPES), None)
        if scopes is not None:  # the newer exporter's; tracing names nodes after their layers itself
            node.name = f"/{ast.literal_eval(scopes)[-2]}/{node.name}"
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        place = next(helper.get_attribute_value(each) for each in node.attribute if each.name == "place").decode()
        grid = grids[place]
        constants = [f"{node.name}_scale", f"{node.name}_zero_point"]
        shape = (-1,) if grid.scale.numel() > 1 else ()
        dtype = INTEGERS[grid.quant_min, grid.quant_max]
        arrays = grid.scale.cpu().numpy().reshape(shape), grid.zero_point.cpu().numpy().astype(dtype).reshape(shape)
        for name, values in zip(constants, arrays):
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        axis: dict[str, Any] = {"axis": 0} if shape else {}
        steps = [f"{node.output[0]}_steps"]
        nodes.append(helper.make_node(QUANTIZE, [node.input[0], *constants], steps, f"{node.name}_q", **axis))
        nodes.append(helper.make_node(DEQUANTIZE, [*steps, *constants], node.output, f"{node.name}_dq", **axis))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
