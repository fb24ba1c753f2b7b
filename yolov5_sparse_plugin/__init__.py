"""Sparsification for an unmodified Ultralytics YOLOv5.

Imported when Python starts (see startup.py), so nothing is imported here: `hookimpl` and `attach` load what they
need when they are first used.
"""

__version__ = "0.1.0"
__all__ = ["attach", "detach", "hookimpl", "__version__"]


def __getattr__(name):
    if name == "hookimpl":
        from yolov5_sparse_plugin.hookspecs import hookimpl

        return hookimpl
    if name in ("attach", "detach"):
        from yolov5_sparse_plugin import hosts

        return getattr(hosts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
