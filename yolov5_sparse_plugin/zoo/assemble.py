"""Make a zoo model's files from a run: weights, what a transfer starts from, recipes, ONNX file, card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from yolov5_sparse_plugin.checkpoints import formats, reading, unpickling, writing
from yolov5_sparse_plugin.checkpoints.file import look
from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.recipes_io import shipped
from yolov5_sparse_plugin.stubs import Stub
from yolov5_sparse_plugin.zoo import files, layout
from yolov5_sparse_plugin.zoo.card import model_card

# the shipped recipe that carries a model of a phase over to other data
CARRY_OVER = {
    "pruned": "transfer_pruned",
    "quantized": "quantized",
    "pruned_quantized": "transfer_pruned_quantized",
}


def assemble(folder: Path, weights: Path, stub: Stub) -> None:
    """Write the files of a model, from a run's `weights` folder, into a new folder.

    Raises:
        CheckpointError: best.pt is no checkpoint.
    """
    for name in ("training", "recipe"):
        (folder / name).mkdir(parents=True)
    best = weights / "best.pt"
    part = look(best).part
    _copy_stripped(best, folder / layout.MODEL)
    _write_start(weights, part, folder / layout.CHECKPOINT)
    if part is None:
        (folder / "recipe").rmdir()
    else:
        title = f"How {stub.short} was made"
        files.write(folder / layout.ORIGINAL, as_markdown(part["recipe"], title, "All variables are resolved."))
        carry = CARRY_OVER.get(part["phase"])
        if carry:
            text = f"The shipped recipe `{carry}` of yolov5-sparse-plugin."
            title = f"Carry {stub.short} over to other data"
            files.write(folder / layout.TRANSFER, as_markdown(shipped()[carry].read_text(), title, text))
    onnx = weights / "best.onnx"
    if onnx.is_file() and onnx.stat().st_mtime >= best.stat().st_mtime:
        (folder / "deployment").mkdir()
        shutil.copyfile(onnx, folder / layout.ONNX)
    files.write(folder / layout.CARD, model_card(stub, folder, part, _names(best)).encode())


def _copy_stripped(source: Path, target: Path) -> None:
    """Copy a checkpoint, without the optimizer that one of an unfinished run holds."""
    shutil.copyfile(source, target)
    copy = look(target)
    if copy.sparse and copy.ckpt.get("optimizer") is not None:
        writing.strip(target)


def _write_start(weights: Path, part: dict[str, Any] | None, target: Path) -> None:
    """Write what a transfer starts from: the best model before it was quantized, whose zeros a recipe can hold."""
    if part is None or not formats.is_quantized(part):
        return _copy_stripped(weights / "best.pt", target)
    before = weights / ("best_pruned.pt" if "pruned" in part["phase"] else "best_dense.pt")
    if before.is_file():
        return _copy_stripped(before, target)
    twin = reading.read(weights / "best.pt")  # its float twin has the same zeros
    del twin["sparse"]
    writing.save_atomically(torch.save, twin, target)
    return None


def _names(best: Path) -> list[str]:
    """Return the classes that a checkpoint knows."""
    ckpt = unpickling.load(best)
    try:
        names = (ckpt.get("ema") or ckpt["model"]).names
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"zoo add: {best} is not a checkpoint of yolov5 train: it lacks {error}.") from error
    return list(names.values()) if isinstance(names, dict) else list(names)


def as_markdown(recipe: str, title: str, text: str) -> bytes:
    """Return a recipe as Markdown with the YAML as front matter, the form in which a zoo keeps it."""
    return f"---\n{recipe.strip()}\n---\n\n# {title}\n\n{text}\n".encode()
