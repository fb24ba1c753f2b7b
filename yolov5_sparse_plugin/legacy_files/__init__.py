"""Files that YOLOv5 once had, for `--cfg models_v5.0/yolov5s.yaml` and `--hyp data/hyps/hyp.finetune.yaml`."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

from yolov5_sparse_plugin.errors import OptionError, nearest

FOLDER = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """Return the files, by the path that commands name them by."""
    return {path.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}


def find(file: Any) -> str | None:
    """Return the path of the shipped file that `file` names, None for every other and for one that the user has.

    YOLOv5 looks for `hyp.finetune.yaml` wherever it stands, so that name alone is enough, too.

    Raises:
        OptionError: a name below models_v5.0/ that neither the user nor this plugin has.
    """
    if not isinstance(file, (str, os.PathLike)) or not str(file) or Path(file).is_file():
        return None
    known, name = shipped(), PurePath(file).as_posix()
    name = "data/hyps/hyp.finetune.yaml" if name == "hyp.finetune.yaml" else name
    if name not in known and PurePath(name).parent.name == "models_v5.0":
        raise OptionError(f"--cfg {file}: there is no such file, and none is shipped. {nearest(name, known)}")
    return str(known[name]) if name in known else None
