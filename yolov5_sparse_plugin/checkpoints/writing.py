"""Write checkpoints so that a file is at every moment whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

import torch

from yolov5_sparse_plugin import atomic
from yolov5_sparse_plugin.checkpoints.formats import is_quantized
from yolov5_sparse_plugin.checkpoints.reading import read
from yolov5_sparse_plugin.errors import CheckpointError


def save_atomically(save: Callable[..., Any], ckpt: Any, file: Any) -> None:
    """Write a checkpoint so that `file` is at every moment either the old one or the new one, complete.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; `file` is what it was.
    """
    try:
        with atomic.replacing(Path(file)) as stream:
            save(ckpt, stream)
    except OSError as error:
        kept = "the previous one is still there" if Path(file).exists() else "there is no earlier one"
        raise CheckpointError(
            f"{file}: the checkpoint could not be written ({error.strerror}); {kept}. Free some space or choose "
            "another --project."
        ) from error


def copy_atomically(source: Any, target: Any) -> None:
    """Copy a checkpoint; `target` is never half a file."""
    data = Path(source).read_bytes()
    save_atomically(lambda _, stream: stream.write(data), None, target)


def strip(file: Any) -> float:
    """Finish a checkpoint as upstream's `strip_optimizer` does, its sparse part included; return its size in MB."""
    ckpt = read(file)
    if ckpt.get("ema"):
        ckpt["model"] = ckpt["ema"]
    for key in ("optimizer", "best_fitness", "ema", "updates"):
        ckpt[key] = None
    ckpt["epoch"] = -1
    ckpt["model"].half()
    for parameter in ckpt["model"].parameters():
        parameter.requires_grad = False
    ckpt["sparse"].pop("ema", None)
    for key in ("random", "pruned_at"):
        ckpt["sparse"].pop(key, None)
    if not is_quantized(ckpt["sparse"]):
        ckpt["sparse"].pop("state", None)
    save_atomically(torch.save, ckpt, file)
    return os.path.getsize(file) / 1e6
