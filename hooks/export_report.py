"""Export: what was exported, measured, as numbers for programs, a page and a picture for people."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl


@hookimpl
def sparse_export_start(export):
    """Let the engines get ready while the graph is being made: importing one takes about a second."""
    if "onnx" in export.arguments["include"]:
        export.start_engines()


@hookimpl
def sparse_export_done(export, file):
    from yolov5_sparse_plugin.export import report

    report.write(export, file)
