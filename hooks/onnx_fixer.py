"""Export: the ONNX graph of a quantized model, made right and fast for the engine that it is meant for."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl


@hookimpl
def sparse_export_graph(export, model):
    """Run the target's passes. A model without quantizers keeps upstream's own graph."""
    if not export.quantized:
        return None
    from yolov5_sparse_plugin.export.fixup import fix

    return fix(model, export.target, export.options.uint8_input)
