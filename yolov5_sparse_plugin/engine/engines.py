"""The engines: which there are, which one executes a recipe, and why another one cannot."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from yolov5_sparse_plugin.engine.contract import Schedule
from yolov5_sparse_plugin.errors import OptionError, RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText

SPARSEML, NATIVE = "sparseml", "native"
NEWEST = (3, 11)  # Python that SparseML's last release installs on


def installed() -> bool:
    """Return whether SparseML is there; it is not imported to find out."""
    return importlib.util.find_spec("sparseml") is not None


def chosen(asked: str | None, how: str = "--sparse-engine sparseml") -> str:
    """Return the name of the engine to use: the one that was asked for, else SparseML where it is installed.

    Args:
        how: how the user asked, for the message.

    Raises:
        OptionError: it is SparseML, which is not there.
    """
    if asked != SPARSEML or installed():
        return asked or (SPARSEML if installed() else NATIVE)
    here = ".".join(map(str, sys.version_info[:2]))
    why = "Its last release installs on Python 3.9 to 3.11 only, this is " + here
    if sys.version_info[:2] <= NEWEST:
        why = "Install it with: pip install 'sparseml>=1.8,<1.9' 'sparsezoo>=1.8.1,<1.9'"
    raise OptionError(
        f"{how}: SparseML is not installed. {why}. Or leave the option out: the engine 'native' executes the same "
        "recipes, here as well."
    )


def schedules(name: str) -> type[Schedule]:
    """Return the schedule of an engine; SparseML's is imported only here, which takes seconds."""
    return importlib.import_module(f"yolov5_sparse_plugin.engine.{name}.schedule").Schedule


def load(recipe: RecipeText, variables: dict[str, Any] | None = None, engine: str | None = None) -> Schedule:
    """Read a recipe for the engine of that name, for the default one without; see `recipe.parse` for the errors."""
    return schedules(chosen(engine)).load(recipe, variables)


def look_into(recipe: RecipeText, variables: dict[str, Any] | None = None, engine: str | None = None) -> Schedule:
    """Read a recipe that nobody is going to execute: where no engine is named, without SparseML's import if possible.

    Both read the same, but for what native has not got; see `load`.
    """
    if engine is None:
        try:
            return load(recipe, variables, NATIVE)
        except RecipeError:
            return load(recipe, variables)
    return load(recipe, variables, engine)
