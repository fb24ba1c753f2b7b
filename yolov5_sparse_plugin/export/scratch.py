"""A folder beside a file that is being made, for what is not finished."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from yolov5_sparse_plugin.errors import ExportError

# held as long as the folder is in use; the kernel lets go of it for a killed process
LOCK = "yolov5-sparse-export.lock"


@contextlib.contextmanager
def scratch_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` that is gone afterwards, whatever happened.

    What a process that was killed left there is gone, too; folders of living ones are left alone.

    Raises:
        ExportError: the disk is full or the folder read-only; nothing was left behind.
    """
    folder = lock = None
    try:
        sweep(final.parent)
        folder, lock = _make(final)
        yield folder
    except OSError as error:
        raise ExportError(
            f"{final}: could not be written ({error.strerror or error}). Free some space, or copy the checkpoint into "
            "a folder that you may write to: the model is written beside it."
        ) from error
    finally:
        if lock:
            lock.release()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the scratch folders in `parent` that no living process owns."""
    for file in parent.glob(f".*.onnx.*/{LOCK}"):
        # it is held, or another user's
        with contextlib.suppress(OSError, NotImplementedError), FileLock(str(file)).acquire(timeout=0):
            shutil.rmtree(file.parent, ignore_errors=True)


def _make(final: Path) -> tuple[Path, FileLock | None]:
    """Return a new folder and the lock on it, None where the file system knows no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        lock = FileLock(str(folder / LOCK))
        try:
            lock.acquire()
        except FileNotFoundError:
            continue
        except NotImplementedError:
            (folder / LOCK).unlink(missing_ok=True)
            return folder, None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if (folder / LOCK).exists():  # else another process swept it before the lock was held
            return folder, lock
        lock.release()
