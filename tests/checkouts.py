"""Git checkouts of YOLOv5 to test on: those that YOLOV5_CHECKOUT names, and one made of the PyPI package.

The PyPI package is a checkout of v7.0 whose imports got a prefix, whose commands go through python-fire, and which has
a model hub and more figures for each class. All this is taken back in a copy; every edit must find its place.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import Result, call, command

from yolov5_sparse_plugin.attach.doorways import MARK
from yolov5_sparse_plugin.hosts.patchset import undecorated

NAMED = {
    Path(folder).name: Path(folder) for folder in os.environ.get("YOLOV5_CHECKOUT", "").split(os.pathsep) if folder
}
NAMES = ("shaped", *NAMED)
# neither pip nor the network: a requirement that is not met is a line of warning
OFFLINE = {"YOLOv5_AUTOINSTALL": "false", "YOLO_AUTOINSTALL": "false"}
ONLY_IN_THE_PACKAGE = shutil.ignore_patterns("__pycache__", "cli.py", "helpers.py", "benchmarks.py")

EVERYWHERE = (
    (r"^(\s*)from yolov5\.(\S+) import", r"\1from \2 import"),
    (r"^import yolov5\.(\S+) as", r"import \1 as"),
    (r"^from yolov5 import __version__", "__version__ = 'of a checkout'"),
)
IN_FILES = {
    "train.py": (
        (r"^from helpers import \([^)]*\)\n", ""),
        (r"^    convert_coco_dataset_to_yolo\(opt, save_dir\)\n", ""),
        (r"results, maps, map50s, _ =", "results, maps, _ ="),
        (r"results, _, _, _ =", "results, _, _ ="),
        (r" \+ list\(maps\) \+ list\(map50s\)", ""),
        (r", class_names=list\(names\.values\(\)\)", ""),
        (r"^def run_cli(?s:.*?)(?=^if __name__)", "\n"),
    ),
    "val.py": (
        (r"maps, map50s, t$", "maps, t"),
        (r"^def main\(\):\n    opt = parse_opt\(\)\n", "def main(opt):\n"),
        (r"^    main\(\)$", "    main(parse_opt())"),
    ),
    "utils/loggers/__init__.py": (
        (r"^        self\.class_name_keys = .*\n", ""),
        (r"self\.keys \+ self\.class_name_keys", "self.keys"),
    ),
    "segment/train.py": ((r"^from utils\.roboflow.*\n", ""),),  # stands before the root is put on sys.path
    "classify/train.py": (
        (r"^from utils\.roboflow.*\n", ""),
        (r"^from utils\.downloads import attempt_download_from_hub\n", "attempt_download_from_hub = id\n"),
    ),
    "utils/downloads.py": ((r"\Z", "\n\ndef attempt_download_from_hub(*_, **__):\n    return None\n"),),
}
IN_FILES["detect.py"] = IN_FILES["export.py"] = IN_FILES["val.py"][1:]


@dataclass
class Checkout:
    """A checkout, and its scripts as a user runs them."""

    name: str
    root: Path

    def run(self, cwd: Path, script: str, *words: Any, status: int | None = 0, plugin: bool = True, **env) -> Result:
        """Run a script: through the runner in one of its two spellings or, without `plugin`, as Python does."""
        runner = [sys.executable]
        if plugin:
            by_module = [sys.executable, "-m", "yolov5_sparse_plugin"]
            runner = by_module if script == "train.py" else [command("yolov5-sparse"), "run"]
        return call([*runner, self.root / script, *words], cwd, status, **OFFLINE, **env)


def make(name: str, folder: Path) -> None:
    """Copy the checkout called `name`, in which nothing is to be written, into `folder`; `shaped`: make one."""
    if name != "shaped":
        shutil.copytree(NAMED[name], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
        return
    package = Path(importlib.util.find_spec("yolov5").origin).parent
    shutil.copytree(package, folder, dirs_exist_ok=True, ignore=ONLY_IN_THE_PACKAGE)
    for part in (".", "segment", "classify"):
        (folder / part / "__init__.py").unlink()
    for file in folder.rglob("*.py"):
        text = file.read_text()
        for pattern, replacement in EVERYWHERE:
            text = re.sub(pattern, replacement, text, flags=re.M)
        for pattern, replacement in IN_FILES.get(file.relative_to(folder).as_posix(), ()):
            text, count = re.subn(pattern, lambda _, new=replacement: new, text, flags=re.M)
            assert count, f"{file.name} has no {pattern!r}: YOLOv5's PyPI package has changed"
        assert not re.search(r"^\s*(from|import) yolov5", text, flags=re.M), file
        file.write_text(text)


def upstream(dotted: str, whole: bool = True):
    """Return the host's own function `train.train`, whatever is wrapped around it."""
    module, rest = dotted, []
    while True:
        try:
            value = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for name in rest:
        value = getattr(value, name)
    return undecorated(inspect.unwrap(getattr(value, MARK, value))) if whole else value
