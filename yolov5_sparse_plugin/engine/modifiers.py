"""SparseML's modifiers: which there are, what each takes in YAML, and of what kind it is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import yaml

from yolov5_sparse_plugin.engine import compat  # noqa: F401  first: shims, and no analytics

from sparseml.pytorch.sparsification import modifier as sparseml_modifier  # isort: skip
from sparseml.pytorch.sparsification.quantization.legacy_modifier_quantization import (  # isort: skip
    QuantizationModifier as LegacyQuantizationModifier,
)

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


def modifier_keys(cls: type) -> set[str]:
    """Return the keys that a modifier takes in YAML: its constructor's arguments, the legacy class's included."""
    keys: set[str] = set()
    for owner in (cls, LegacyQuantizationModifier) if cls.__name__ == "QuantizationModifier" else (cls,):
        keys |= {n for n, p in inspect.signature(owner.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD}
    return keys - {"self"}


def is_pruning(modifier: Any) -> bool:
    return hasattr(modifier, "params") and hasattr(modifier, "mask_creator")


def is_quantization(modifier: Any) -> bool:
    return type(modifier).__name__ == "QuantizationModifier"


def is_learning_rate(modifier: Any) -> bool:
    return "LearningRate" in type(modifier).__name__


def is_distillation(modifier: Any) -> bool:
    return hasattr(modifier, "compute_distillation_loss")
