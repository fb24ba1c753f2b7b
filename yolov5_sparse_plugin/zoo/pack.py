"""Pack a training run into a zoo folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from yolov5_sparse_plugin.errors import ZooError
from yolov5_sparse_plugin.stubs import Stub
from yolov5_sparse_plugin.zoo import layout


def add(run: Path, stub: Stub, zoo: Path, force: bool = False) -> Path:
    """Pack a finished run; return the model's folder, which appears complete or not at all.

    Args:
        run: a run's folder, or its `weights` folder.
        zoo: the zoo folder, made where it does not exist.
        force: replace a model that is there.

    Raises:
        ZooError, CheckpointError: nothing was changed.
    """
    weights = run / "weights" if (run / "weights").is_dir() else run
    if not (weights / "best.pt").is_file():
        raise ZooError(
            f"zoo add {run}: there is no weights/best.pt in it. Name the folder of a finished run, for example "
            "runs/train/exp."
        )
    target = zoo / stub.path
    if target.exists() and not force:
        raise ZooError(f"zoo add: {target} is there already. Choose another name, or replace it with --force.")
    try:
        zoo.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".adding-", dir=zoo))
    except OSError as error:
        raise ZooError(f"zoo add: {zoo} cannot be written ({error.strerror}). Name another --zoo DIR.") from error
    try:
        from yolov5_sparse_plugin.zoo.assemble import assemble  # needs torch, refusals don't

        assemble(scratch / "model", weights, stub)
        _put_in_place(scratch, target, zoo, stub)
    except OSError as error:
        found = error.strerror or error
        raise ZooError(f"zoo add: {zoo} cannot be written ({found}). Free some space there.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _put_in_place(scratch: Path, target: Path, zoo: Path, stub: Stub) -> None:
    """Move the finished model to its place and list it; where that fails, the model that was there is back."""
    entry = layout.describe(scratch / "model")
    target.parent.mkdir(parents=True, exist_ok=True)
    old = scratch / "old"
    try:
        if target.exists():
            os.replace(target, old)
        os.replace(scratch / "model", target)
        layout.write_index(zoo, {stub.path: entry})
    except BaseException:  # Ctrl-C too
        if not (scratch / "model").exists():
            os.replace(target, scratch / "model")
        if old.exists():
            os.replace(old, target)
        raise
