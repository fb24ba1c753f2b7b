"""The PyPI package `yolov5`: its names, what it alone has, and `python -m yolov5.train`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from yolov5_sparse_plugin.hosts import doorways
from yolov5_sparse_plugin.hosts.command_line import PARSED, TYPED, exit_plainly
from yolov5_sparse_plugin.hosts.current import Host

PREFIX = "yolov5."


def installed() -> Host | None:
    """Return the package that `import yolov5` would find, None where there is none."""
    spec = importlib.util.find_spec("yolov5")
    if spec is None or not spec.submodule_search_locations:
        return None
    version = getattr(sys.modules.get("yolov5"), "__version__", None)
    return Host(PREFIX, Path(next(iter(spec.submodule_search_locations))), version or metadata_version())


def metadata_version() -> str:
    try:
        return metadata.version("yolov5")
    except metadata.PackageNotFoundError:
        return "?"


def imported() -> Host | None:
    return installed() if "yolov5" in sys.modules else None


def attach_module(module: ModuleType) -> None:
    """Wrap the doorways that `module` holds. Twice is a no-op."""
    tail = module.__name__[len(PREFIX) :]
    doorways.attach(installed(), module, tail)
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
            files += exit_plainly(lambda given=given, file=file: run(**{"include": ["onnx"], **given, "weights": file}))
        return files

    return each


def serve(name: str) -> None:
    """Run one of YOLOv5's scripts for `python -m`, as a module that the doorways are attached to."""
    script = importlib.import_module(name)
    exit_plainly(lambda: script.main(script.parse_opt()) if name == "yolov5.train" else script.main())
