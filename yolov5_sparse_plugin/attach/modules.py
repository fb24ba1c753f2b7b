"""Attach to YOLOv5's modules: those that are imported already, and those that will be."""

from __future__ import annotations

import sys

from yolov5_sparse_plugin import startup
from yolov5_sparse_plugin.attach import doorways, package, scripts
from yolov5_sparse_plugin.hosts import pip_package


def attach_module(module) -> None:
    """Attach to one of the watched modules, right after it has executed. Twice is a no-op."""
    host = package if module.__name__.startswith(pip_package.PREFIX) else scripts
    host.attach_module(module)


def attach() -> None:
    """Attach to the YOLOv5 in this process: what is imported already, and what will be."""
    if not startup.installed():
        sys.meta_path.insert(0, startup.AttachingFinder())
    for name in startup.WATCHED:
        if name in sys.modules:
            attach_module(sys.modules[name])


def detach() -> None:
    """Undo `attach()`: restore every doorway that is still ours, and stop watching imports."""
    finder = startup.installed()
    if finder:
        sys.meta_path.remove(finder)
    doorways.detach()
