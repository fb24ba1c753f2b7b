"""A folder beside a file that is being made, for what is not finished."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yolov5_sparse_plugin.errors import ExportError


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` that is gone afterwards, whatever happened.

    Raises:
        ExportError: the disk is full or the folder read-only; nothing was left behind.
    """
    folder: str | None = None
    try:
        folder = tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent)
        yield Path(folder)
    except OSError as error:
        raise ExportError(
            f"{final}: could not be written ({error.strerror or error}). Free some space, or copy the checkpoint into "
            "a folder that you may write to: the model is written beside it."
        ) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
