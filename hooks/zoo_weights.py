"""Weights and recipes by an address that YOLOv5 does not know: `zoo:` stubs, and shipped recipes by name."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.recipes_io import shipped
from yolov5_sparse_plugin.stubs import is_stub


@hookimpl
def sparse_resolve(kind, address, options):
    """Find a stub in the zoo's sources and a shipped recipe by its name."""
    if is_stub(address):
        from yolov5_sparse_plugin.zoo.locate import locate

        flag = "--sparse-teacher" if options.teacher == address else "--weights"
        if kind == "recipe":
            flag = "--sparse-one-shot" if options.one_shot == address else "--sparse-recipe"
        return locate(address, kind, options, f"{flag} {address}")
    if kind == "recipe" and address in shipped():
        return str(shipped()[address])
    return None
