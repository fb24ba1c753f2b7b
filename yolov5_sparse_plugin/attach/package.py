"""Attach to the PyPI package `yolov5`: what it alone has, and `python -m yolov5.train`."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, Callable

from yolov5_sparse_plugin.attach import doorways
from yolov5_sparse_plugin.attach.command_line import PARSED, TYPED, exit_plainly
from yolov5_sparse_plugin.hosts import pip_package


def attach_module(module: ModuleType) -> None:
    """Wrap the doorways that `module` holds. Twice is a no-op."""
    tail = module.__name__[len(pip_package.PREFIX) :]
    host = pip_package.installed()
    assert host is not None, "one of its modules has just been imported"
    doorways.attach(host, module, tail)
    if tail == "export":
        provide(module, "export_run", export_run)
    elif tail == "val":
        provide(module, "val_run", lambda run: lambda **kwargs: exit_plainly(lambda: run(**kwargs)))


def provide(module: ModuleType, name: str, make: Callable[[Callable], Callable]) -> None:
    """Give a module the function `name` that only the predecessor's had, made from its `run`; SparseML imports it."""
    if not hasattr(module, name):
        setattr(module, name, make(module.run))


def export_run(run: Callable) -> Callable:
    """Export as the predecessor did: several weights one after the other, as ONNX unless told otherwise."""

    def each(**kwargs: Any) -> list[Any]:
        typed = set(TYPED) if kwargs == PARSED else set(kwargs)
        weights = kwargs.pop("weights", [])
        files = []
        for file in weights if isinstance(weights, (list, tuple)) else [weights]:
            given = {name: value for name, value in kwargs.items() if name in typed}
            files += exit_plainly(functools.partial(run, **{"include": ["onnx"], **given, "weights": file}))
        return files

    return each


def serve(name: str) -> None:
    """Run one of YOLOv5's scripts for `python -m`, as a module that the doorways are attached to."""
    script = importlib.import_module(name)
    exit_plainly(lambda: script.main(script.parse_opt()) if name == "yolov5.train" else script.main())
