"""The YAML of a data set, as YOLOv5 reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from yolov5_sparse_plugin import atomic, yaml_text
from yolov5_sparse_plugin.errors import OptionError
from yolov5_sparse_plugin.hosts.current import host


@contextmanager
def relocated(data: Any, root: str | None) -> Iterator[Any]:
    """Yield `data`, or where there is a `root` a copy that says so, for as long as the context lasts; see `moved`."""
    if root is None:
        yield data
        return
    with TemporaryDirectory() as folder:
        yield str(moved(data, root, Path(folder)))


def read(data: Path) -> dict[str, Any]:
    """Return what a data set's YAML says.

    Raises:
        OptionError: there is no such file, or it is another kind of file.
    """
    try:
        content = yaml_text.load(data.read_text(errors="ignore"))
    except (OSError, yaml.YAMLError) as error:
        raise OptionError(f"--data {data}: cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise OptionError(f"--data {data}: expected 'train:' and 'val:' lines, found {type(content).__name__}.")
    return content


def shipped(name: str) -> list[Path]:
    """Return YOLOv5's own YAML files of that name."""
    return list((host().root / "data").rglob(name))


def moved(data: Path | str, root: str, folder: Path) -> Path:
    """Write a copy of a data set's YAML into `folder`, with the images in `root`; return its path.

    Args:
        data: a file, or the name of one that YOLOv5 ships (`VOC.yaml`).

    Raises:
        OptionError: `root` is no folder, or `data` no such file.
    """
    if not Path(root).is_dir():
        raise OptionError(f"--data-path {root}: there is no such folder.")
    data = Path(data)
    if not data.is_file():
        data = next(iter(shipped(data.name)), data)
    content = read(data)
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / data.name
    if copy.resolve() == data.resolve():
        copy = folder / f"{data.stem}-moved.yaml"
    with atomic.replacing(copy) as stream:  # of several processes, each writes it
        stream.write(yaml.safe_dump({**content, "path": str(Path(root).resolve())}, sort_keys=False).encode())
    return copy.resolve()
