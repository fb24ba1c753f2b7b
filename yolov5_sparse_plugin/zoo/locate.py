"""Turn a stub into the path of a file on this machine, or say in one error where it was looked for."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from yolov5_sparse_plugin import stubs as stubs
from yolov5_sparse_plugin.errors import ZooError
from yolov5_sparse_plugin.options import ZOO_SOURCES, SparseOptions
from yolov5_sparse_plugin.stubs import Stub
from yolov5_sparse_plugin.zoo import files
from yolov5_sparse_plugin.zoo.files import Unusable
from yolov5_sparse_plugin.zoo.sources import Found, Settings


def locate(address: str, kind: str, options: SparseOptions, asked: str) -> str:
    """Return the path of the file that a stub means, fetched if it was not at hand.

    Args:
        kind: one of `layout.KINDS`.
        asked: what the user wrote, for messages: `--weights zoo:…`.

    Raises:
        ZooError: the stub is none, or no source has it; lists each source that was tried, and why it failed.
    """
    try:
        stub = stubs.parse(address)
    except ZooError as error:
        raise ZooError(asked.replace(address, str(error)) if address in asked else f"{asked}: {error}") from error
    found = find(stub, kind, Settings.of(options), asked)
    if os.environ.get("RANK", "-1") in ("-1", "0"):
        print(f"sparse: {address} from {found.source}: {found.path}", file=sys.stderr)
    return str(found.path)


def find(stub: Stub, kind: str, settings: Settings, asked: str) -> Found:
    """Ask the sources in order; the first that answers wins."""
    tried: list[str] = []
    known: set[str] = set()
    for source in settings.in_order():
        try:
            return source.find(stub, kind)
        except Unusable as error:
            tried.append(f"  {source.where}: {error}")
        with contextlib.suppress(Unusable):  # stands in `tried` already
            known.update(source.index())
    off = [name for name in ZOO_SOURCES if name not in settings.sources]
    lines = [f"{asked}: no source has the {kind} of this stub.", *tried]
    if off:
        lines.append(f"  not tried, as --sparse-zoo-sources says: {', '.join(off)}")
    lines.append(advice(stub, known))
    raise ZooError("\n".join(line for line in lines if line))


def bring(path: str, address: str, folder: Path) -> Path:
    """Copy a model out of its zoo into a folder, under its short name, for a command that writes beside it.

    Raises:
        ZooError: another file has that name there.
    """
    target = folder / f"{stubs.parse(address).short}.pt"
    if not target.exists():
        files.write(target, Path(path).read_bytes())
    elif files.sha256(target) != files.sha256(Path(path)):
        raise ZooError(f"{address} would be written as {target}, which is another file. Move that away first.")
    return target


def advice(stub: Stub, known: set[str]) -> str:
    """Say which stubs are near, and what to do."""
    own = set(stub.places)
    here = stubs.suggestion(stub.path, known - own)
    vendors = stubs.suggestion(stub.path, set(stubs.PUBLISHED) - own - known, " that the vendor published until 2025")
    listed = "The vendor published this one until 2025." if own & set(stubs.PUBLISHED) else ""
    what = "Check the name ('yolov5-sparse zoo list'), or put the model into a zoo folder: --sparse-zoo DIR."
    return "\n".join(part for part in (here, vendors, listed, what) if part)
