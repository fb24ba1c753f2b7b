"""SparseML's modifiers: made from a recipe's entries, and of what kind each is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import yaml

from yolov5_sparse_plugin.engine.sparseml import compat  # noqa: F401  first: shims, and no analytics

from sparseml.pytorch.sparsification import modifier as sparseml_modifier  # isort: skip
from sparseml.pytorch.sparsification.quantization.legacy_modifier_quantization import (  # isort: skip
    QuantizationModifier as LegacyQuantizationModifier,
)
from yolov5_sparse_plugin.engine import schema  # isort: skip
from yolov5_sparse_plugin.engine.recipe import Entry  # isort: skip
from yolov5_sparse_plugin.errors import RecipeError

TAG_PREFIX = "!pytorch."


def modifier_classes() -> dict[str, type]:
    """Return every modifier that SparseML knows, class name -> class."""

    def below(cls: type) -> Iterable[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    known = {name[len(TAG_PREFIX) :] for name in yaml.SafeLoader.yaml_constructors if str(name).startswith(TAG_PREFIX)}
    classes = {cls.__name__: cls for cls in below(sparseml_modifier.Modifier) if cls is not LegacyQuantizationModifier}
    return {name: cls for name, cls in classes.items() if name in known}


def of_hooks() -> dict[str, set[str]]:
    """Return the modifiers that neither SparseML nor this plugin brings, with the keys of each.

    A hook file makes one known with `@PyTorchModifierYAML()`, as SparseML does.
    """
    return {
        name: {key for key, p in inspect.signature(cls.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD}
        for name, cls in modifier_classes().items()
        if name not in schema.MODIFIERS and not cls.__module__.startswith("sparseml.")
    }


def build(entry: Entry, source: str) -> Any:
    """Return SparseML's modifier for an entry of a recipe.

    It is made from plain values: SparseML itself would read a text, and look for modifiers in every string of it.

    Raises:
        RecipeError: SparseML refuses the values.
    """
    legacy = isinstance(entry.spec, schema.LegacyQuantizationModifier)
    cls = LegacyQuantizationModifier if legacy else modifier_classes()[entry.tag]
    try:
        return cls(**deepcopy(entry.fields))
    except Exception as error:  # of SparseML's many kinds, or of a hook file's
        raise RecipeError(f"{entry.where(source)}: {str(error).splitlines()[0]}") from error


def is_pruning(modifier: Any) -> bool:
    return hasattr(modifier, "params") and hasattr(modifier, "mask_creator")


def is_quantization(modifier: Any) -> bool:
    return type(modifier).__name__ == "QuantizationModifier"


def is_learning_rate(modifier: Any) -> bool:
    return "LearningRate" in type(modifier).__name__


def is_distillation(modifier: Any) -> bool:
    return hasattr(modifier, "compute_distillation_loss")
