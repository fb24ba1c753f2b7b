"""Export: what was exported, measured beside what the user had, as numbers for programs, a page and pictures."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from yolov5_sparse_plugin import hookimpl

_prepared: WeakKeyDictionary = WeakKeyDictionary()


@hookimpl
def sparse_export_start(export):
    """Let the engines get ready while the graph is being made: importing one takes about a second."""
    from yolov5_sparse_plugin.export import report

    if report.wanted(export):
        _prepared[export] = report.prepare(export)


@hookimpl
def sparse_export_done(export, file):
    from yolov5_sparse_plugin.export import report

    if export in _prepared:
        report.write(export, _prepared[export], file)
