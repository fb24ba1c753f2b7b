"""The PyPI package `yolov5`: its names, what it alone has, and `python -m yolov5.train`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from pathlib import Path

from yolov5_sparse_plugin.hosts.host import Host

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
