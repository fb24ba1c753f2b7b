"""Files that are complete or not there: checksums, locks, atomic writes."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from yolov5_sparse_plugin import atomic


class Unusable(Exception):
    """Why one source cannot answer; becomes a line of the one error that the user sees."""


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(path: Path, sums: dict[str, Any]) -> None:
    """Compare a file with its `size` in bytes and `sha256`.

    Raises:
        Unusable: they differ.
    """
    size = path.stat().st_size
    if size != sums["size"]:
        raise Unusable(f"{path.name} has {size} bytes instead of {sums['size']}: truncated or changed")
    found = sha256(path)
    if found != sums["sha256"]:
        raise Unusable(f"{path.name} is corrupt: sha256 {found[:12]}… instead of {sums['sha256'][:12]}…")


def write(path: Path, data: bytes) -> None:
    with atomic.replacing(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a lock between processes; yields whether another one held it before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path))
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waited = True
        print(f"sparse: another process is at {path.stem}, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield waited
    finally:
        lock.release()
