"""Git checkouts of ultralytics/yolov5: their scripts run as `__main__`, their modules have everyday names.

`models.common` may be anybody's. It is ours to touch only where its file lies in a folder that has what a checkout has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from yolov5_sparse_plugin import startup
from yolov5_sparse_plugin.hosts.host import Host

_running: Host | None = None


def at(root: str | Path) -> Host:
    """Return the checkout in the folder `root`."""
    return Host("", Path(root), f"the checkout in {root}")


def running() -> Host | None:
    """Return the checkout whose script is this process's main program, under the runner."""
    return _running


def imported() -> Host | None:
    """Return the checkout that `models.yolo` was imported from."""
    file = getattr(sys.modules.get("models.yolo"), "__file__", None)
    root = file and startup.checkout_of("models.yolo", os.path.abspath(file))
    return at(root) if root else None


def here() -> Host | None:
    """Return the checkout in the current directory, from now on importable."""
    root = startup.checkout_of("train", str(Path.cwd() / "train.py"))
    if root is None:
        return None
    if root not in sys.path:
        sys.path.insert(0, root)
    return at(root)


def script_name(file: str) -> tuple[Host, str] | None:
    """Return the checkout that a script belongs to, and its name there: `train`, `segment.train`."""
    for name in startup.NAMES:
        root = startup.checkout_of(name, file)
        if root:
            return at(root), name
    return None


def begin(host: Host) -> None:
    """Note that the runner is about to execute one of this checkout's scripts."""
    global _running
    _running = host
