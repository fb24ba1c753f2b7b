"""Weights and recipes by an address that YOLOv5 does not know: shipped recipes by name; `zoo:` stubs are refused."""

from __future__ import annotations

from yolov5_sparse_plugin import hookimpl
from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.recipes_io import shipped


@hookimpl
def sparse_resolve(kind, address):
    """Find shipped recipes by name. A stub that nobody resolved would train from random weights without a word."""
    if address.startswith("zoo:"):
        kinds = {"weights": (CheckpointError, "--weights"), "recipe": (RecipeError, "--sparse-recipe")}
        error, option = kinds[kind]
        raise error(
            f"{option} {address}: this version does not fetch from the SparseZoo, whose server is end-of-life. "
            f"Download the file where you still can and pass its path as {option}."
        )
    if kind == "recipe" and address in shipped():
        return str(shipped()[address])
    return None
