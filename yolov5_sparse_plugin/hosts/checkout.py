"""Git checkouts of ultralytics/yolov5: their scripts run as `__main__`, their modules have everyday names.

`models.common` may be anybody's. It is ours to touch only where its file lies in a folder that has what a checkout has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

from yolov5_sparse_plugin import startup
from yolov5_sparse_plugin.hosts import doorways
from yolov5_sparse_plugin.hosts.current import Host

_running: list[Host] = []


def at(root: str | Path) -> Host:
    """Return the checkout in the folder `root`."""
    return Host("", Path(root), f"the checkout in {root}")


def running() -> Host | None:
    """Return the checkout whose script is this process's main program, under the runner."""
    return _running[-1] if _running else None


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


def attach_module(module: ModuleType) -> None:
    """Wrap the doorways that `module` holds if it is a checkout's. Twice is a no-op."""
    file = getattr(module, "__file__", None)
    root = file and startup.checkout_of(module.__name__, os.path.abspath(file))
    if root:
        doorways.attach(at(root), module, module.__name__)


def script_name(file: str) -> tuple[Host, str] | None:
    """Return the checkout that a script belongs to, and its name there: `train`, `segment.train`."""
    for name in startup.NAMES:
        root = startup.checkout_of(name, file)
        if root:
            return at(root), name
    return None


def attach_script(host: Host, module: ModuleType, name: str) -> None:
    """Wrap the doorways of a script that is about to call its own `main()`."""
    _running.append(host)
    doorways.attach(host, module, name)
    general = sys.modules.get("utils.general")
    if general is not None and hasattr(general, "imread"):
        # upstream replaces these only where the outermost frame is a script of its own; here that is the runner
        cv2 = general.cv2
        cv2.imread, cv2.imwrite, cv2.imshow = general.imread, general.imwrite, general.imshow
