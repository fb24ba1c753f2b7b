"""Files that are at every moment either the old one or the new one, complete."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Yield a stream whose contents take the place of `file` when the block is left; if it fails, nothing has changed.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder that no other process is writing to."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
