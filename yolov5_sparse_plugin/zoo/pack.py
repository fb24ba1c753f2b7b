"""Pack a training run into a zoo folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from yolov5_sparse_plugin.errors import ZooError
from yolov5_sparse_plugin.zoo import layout
from yolov5_sparse_plugin.zoo.stub import Stub


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
        entry = layout.describe(scratch / "model")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.replace(target, scratch / "old")
        os.replace(scratch / "model", target)
        layout.write_index(zoo, {stub.path: entry})
    except OSError as error:
        if (scratch / "old").exists() and not target.exists():
            os.replace(scratch / "old", target)
        raise ZooError(
            f"zoo add: {zoo} cannot be written ({error.strerror or error}). Free some space there."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
