"""The YAML of a data set, as YOLOv5 reads it."""

from __future__ import annotations

from pathlib import Path

import yaml

from yolov5_sparse_plugin.errors import OptionError


def moved(data: Path, root: str, folder: Path) -> Path:
    """Write a copy of a data set's YAML into `folder`, with the images in `root`; return its path.

    Raises:
        OptionError: `root` is no folder, or `data` no such file.
    """
    if not Path(root).is_dir():
        raise OptionError(f"--data-path {root}: there is no such folder.")
    try:
        content = yaml.safe_load(data.read_text(errors="ignore"))
    except (OSError, yaml.YAMLError) as error:
        raise OptionError(f"--data {data}: cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise OptionError(f"--data {data}: not the YAML of a data set.")
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / data.name
    if copy.resolve() == data.resolve():
        copy = folder / f"{data.stem}-moved.yaml"
    copy.write_text(yaml.safe_dump({**content, "path": str(Path(root).resolve())}, sort_keys=False))
    return copy.resolve()
