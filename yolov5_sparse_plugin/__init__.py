"""Sparsification for an unmodified Ultralytics YOLOv5.

Imported when Python starts (see startup.py), so nothing is imported here: `hookimpl` loads what it needs when it is
first used.
"""

__version__ = "0.1.0"
__all__ = ["hookimpl", "__version__"]


def __getattr__(name):
    if name == "hookimpl":
        from importlib import import_module

        return import_module("yolov5_sparse_plugin.hookspecs").hookimpl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
