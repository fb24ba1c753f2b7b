"""One YOLOv5: where it is, and how its modules are called."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HostModel = Any  # a model of the host's classes: of a module's attributes torch says no more than Tensor | Module


@dataclass(frozen=True)
class Host:
    """One YOLOv5.

    Attributes:
        prefix: what its modules' names begin with: `yolov5.` or, in a checkout, nothing.
        root: the folder that holds train.py.
        title: what messages call it.
    """

    prefix: str
    root: Path
    title: str

    def module(self, tail: str) -> ModuleType:
        """Import one of its modules: `models.yolo`."""
        return importlib.import_module(self.prefix + tail)
