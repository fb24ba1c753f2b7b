"""A file that may be a checkpoint: looked at once, and asked by everybody what it is."""

from __future__ import annotations

import os
import re
from functools import cached_property
from typing import Any

from yolov5_sparse_plugin.checkpoints import archive, formats, legacy, phases, unpickling
from yolov5_sparse_plugin.engine.native.structure import state_from_sparseml
from yolov5_sparse_plugin.errors import CheckpointError

# the format as a pickle has it: a whole string (opcode, length, text, then it is remembered), not a part of some path
OWN = re.compile(rb"X.\0\0\0yolov5-sparse-plugin/\d+[qr]", re.DOTALL)

_latest: CheckpointFile | None = None


def look(file: Any) -> CheckpointFile:
    """Return what is known of `file`; of the one that was looked at last, unless it has changed since, all of it."""
    global _latest
    found = CheckpointFile(file)
    if _latest is None or found.identity is None or found.identity != _latest.identity:
        _latest = found
    return _latest


class CheckpointFile:
    """What a file is. Nothing is read before it is asked for.

    Attributes:
        file: a path, an address that YOLOv5 knows, or an open file.
        identity: the path and the state of the file there; None where there is none.
    """

    def __init__(self, file: Any):
        self.file = file
        self.identity: tuple[Any, ...] | None = None
        if archive.is_path(file):
            state = os.stat(file)
            self.identity = (os.path.abspath(file), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        self._ckpt: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse a file that is none by its first bytes, or has no end; see `archive.check_whole`."""
        archive.check_whole(self.file)

    @cached_property
    def own(self) -> bool:
        """Whether it is a checkpoint with a sparse part. Nothing is unpickled to find out."""
        pickled = archive.pickle_of(self.file)
        return pickled is not None and OWN.search(pickled) is not None

    @cached_property
    def sparse(self) -> bool:
        """Whether this plugin reads it: its own format, or the fork's. Nothing is unpickled to find out."""
        return self.own or legacy.is_legacy(self.file)

    @property
    def ckpt(self) -> dict[str, Any]:
        """The sparse checkpoint as it was written, one of the fork's in today's format. Look at it, change nothing.

        Raises:
            CheckpointError: the file is damaged, wants to run code, or is of a newer format than this plugin knows.
        """
        if self._ckpt is None:
            self._ckpt = self._read("cpu")
        return self._ckpt

    @property
    def part(self) -> dict[str, Any] | None:
        """`ckpt["sparse"]`, None of a checkpoint of plain YOLOv5."""
        return self.ckpt["sparse"] if self.sparse else None

    @property
    def quantized(self) -> bool:
        """Whether its model has quantizers."""
        return self.part is not None and formats.is_quantized(self.part)

    def take(self, map_location: Any = "cpu") -> dict[str, Any]:
        """Return `ckpt` to somebody who may change it."""
        taken, self._ckpt = self._ckpt, None
        return taken if taken is not None and map_location == "cpu" else self._read(map_location)

    def _read(self, map_location: Any) -> dict[str, Any]:
        if not self.own:
            return legacy.read(self.file, map_location)
        ckpt = unpickling.load(self.file, map_location)
        with archive.reading(self.file):
            return up_to_date(ckpt, self.file)


def up_to_date(ckpt: dict[str, Any], file: Any) -> dict[str, Any]:
    """Return a checkpoint of this plugin's own, brought up to date, if it is of today's format and whole."""
    part: dict[str, Any] = ckpt["sparse"] if isinstance(ckpt.get("sparse"), dict) else {}
    found = part.get("format")
    if found not in (formats.FORMAT, formats.OLD):
        raise CheckpointError(
            f"{file}: written in format {found!r}, this plugin reads {formats.FORMAT!r}. "
            "Install the version of yolov5-sparse-plugin that wrote it, or a newer one."
        )
    rank = part.pop("rank", None)
    named = type(rank) is int and 0 <= rank < len(phases.RANKED)
    part.setdefault("best_phase", phases.RANKED[rank] if named else part.get("phase"))
    formats.check_parts(legacy.of_today(ckpt, file), file)
    if found == formats.OLD:
        part.update(format=formats.FORMAT, engine="sparseml")
        if "state" in part:
            part["state"] = state_from_sparseml(part["state"], ckpt["model"])
    return ckpt
