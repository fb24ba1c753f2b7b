"""Notice when YOLOv5 is imported and attach the plugin to it, at no cost to any other Python program.

`yolov5_sparse_plugin.pth` calls `install()` in every Python process of the environment: one finder on `sys.meta_path`,
which compares names. Standard library only; `YOLOV5_SPARSE_AUTOLOAD=0` switches it off.
"""

import os
import sys

NAMES = ("train", "export", "val", "detect", "segment.train", "models.experimental", "models.common")
WATCHED = frozenset("yolov5." + name for name in (*NAMES, "helpers")).union(NAMES)  # a checkout's have no prefix
MARKS = ("hubconf.py", "models/yolo.py", "utils/general.py", "__init__.py")  # the last is the PyPI package's


def checkout_of(name, file):
    """Return the root of the YOLOv5 checkout in which `file` (an absolute path) is the module `name`, or None."""
    root = file[: -len(name) - 4] if file.endswith(os.sep + name.replace(".", os.sep) + ".py") else os.devnull
    has = [os.path.isfile(os.path.join(root, mark)) for mark in MARKS]
    return root if has == [True, True, True, False] else None


class AttachingLoader:
    """Stand in for a module's own loader until the module has executed, then attach and step aside."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def get_code(self, name):
        """Only `python -m` asks: as `__main__` the script would run without us, so it is run as a module."""
        if name not in ("yolov5.train", "yolov5.export", "yolov5.val", "yolov5.detect"):
            return self._loader.get_code(name)
        serve = f"from yolov5_sparse_plugin.attach.package import serve; serve({name!r})"
        return compile(f"if __name__ == '__main__':\n {serve}", self._loader.get_filename(name), "exec")

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        __import__("yolov5_sparse_plugin.quiet").quiet.down()
        self._loader.exec_module(module)
        __import__("yolov5_sparse_plugin.attach.modules").attach.modules.attach_module(module)


class AttachingFinder:
    """Find YOLOv5's modules where every other finder finds them, with an AttachingLoader around the loader."""

    _busy = False

    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED or self._busy:
            return None
        self._busy = True
        try:
            others = (f for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
            spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
            ours = "yolov5." in name or checkout_of(name, os.path.abspath(getattr(spec, "origin", None) or ""))
            if ours and hasattr(getattr(spec, "loader", None), "exec_module"):
                spec.loader = AttachingLoader(spec.loader)
                return spec
        finally:
            self._busy = False


def installed():
    """Return the finder on `sys.meta_path`, or None."""
    return next((f for f in sys.meta_path if type(f).__name__ == "AttachingFinder"), None)


def install():
    """Put the finder on `sys.meta_path`, once; a virtual environment runs a .pth line twice."""
    if os.environ.get("YOLOV5_SPARSE_AUTOLOAD") == "0" or installed():
        return
    if "sparseml.yolov5" in os.path.basename(sys.argv[0] if getattr(sys, "argv", None) else ""):
        __import__("yolov5_sparse_plugin.telemetry").telemetry.switch_off()  # these scripts import SparseML first
    sys.meta_path.insert(0, AttachingFinder())
