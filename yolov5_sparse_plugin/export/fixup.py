"""Run a target's passes over an exported model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from yolov5_sparse_plugin.errors import ExportError
from yolov5_sparse_plugin.export.graph import Graph
from yolov5_sparse_plugin.export.passes import Pass
from yolov5_sparse_plugin.export.passes.shorten_names import ShortenNames
from yolov5_sparse_plugin.export.passes.stem_to_depth import StemToDepth
from yolov5_sparse_plugin.export.passes.uint8_input import Uint8Input
from yolov5_sparse_plugin.export.targets import COMMON, TARGETS


def fix(model: onnx.ModelProto, target: str, uint8_input: bool = False) -> onnx.ModelProto:
    """Return `model`, as torch exports it with quantizers in it, as the target's engine runs it best.

    Args:
        model: opset 13 or newer, shapes inferred.
        target: a key of `TARGETS`.
        uint8_input: let it take uint8 images, 0..255.

    Raises:
        ExportError: a pass without which the target is impossible cannot run; the message has its reason.
    """
    graph = Graph.read(model)
    run(graph, COMMON, target)
    passes = TARGETS[target](graph)
    if uint8_input:
        passes = (*(step for step in passes if not isinstance(step, StemToDepth)), Uint8Input())
    run(graph, (*passes, ShortenNames()), target)  # last: the passes before it name tensors after those that they find
    return graph.write()


def run(graph: Graph, passes: Iterable[Pass], target: str) -> None:
    for step in passes:
        reason = step.check(graph)
        if reason and step.required:
            raise ExportError(f"--sparse-target {target}: the graph cannot be made fit for it: {reason}.")
        if not reason:
            step.apply(graph)
