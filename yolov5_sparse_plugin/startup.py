"""Notice when YOLOv5 is imported and attach the plugin to it, at no cost to any other Python program.

`yolov5_sparse_plugin.pth` calls `install()` in every Python process of the environment. It puts one finder on
`sys.meta_path` that compares names and does nothing else until one of YOLOv5's own modules is imported.
Standard library only; `YOLOV5_SPARSE_AUTOLOAD=0` switches it off.
"""

import os
import sys

WATCHED = frozenset(
    "yolov5." + name
    for name in ("train", "export", "val", "detect", "segment.train", "helpers", "models.experimental", "models.common")
)


class AttachingLoader:
    """Stand in for a module's own loader until the module has executed, then attach and step aside."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def get_code(self, fullname):
        """Only `python -m` asks: as `__main__` the script would run without us, so it is run as a module."""
        if fullname not in ("yolov5.train", "yolov5.export", "yolov5.val", "yolov5.detect"):
            return self._loader.get_code(fullname)
        serve = "from yolov5_sparse_plugin.hosts.pip_package import serve"
        text = f"if __name__ == '__main__':\n {serve}; serve({fullname!r})"
        return compile(text, self._loader.get_filename(fullname), "exec")

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        from yolov5_sparse_plugin.hosts import attach_module

        attach_module(module)


class AttachingFinder:
    """Find YOLOv5's modules where every other finder finds them, with an AttachingLoader around the loader."""

    _busy = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in WATCHED or self._busy:
            return None
        self._busy = True
        try:
            for finder in sys.meta_path:
                find_spec = getattr(finder, "find_spec", None)
                spec = find_spec(fullname, path, target) if find_spec and finder is not self else None
                if spec is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = AttachingLoader(spec.loader)
                    return spec
            return None
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
        # SparseML's own scripts import sparseml first, which sends analytics while it is imported
        os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")
        os.environ.setdefault("NM_VERSION_CHECK", "false")
    sys.meta_path.insert(0, AttachingFinder())
