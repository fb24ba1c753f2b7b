"""What a checkpoint says of its model beside the weights is plain: numbers and strings, in lists and dicts.

YOLOv5 evaluates some of it. Strings of `yaml` are run when a model is built from them, and the text of `names` goes
into an exported file, where `val` and `detect` evaluate it: an object with a text of its own choice would be run there.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.hosts import class_tree

# keys of a checkpoint, and attributes of its models and of their last layers
DESCRIPTIONS = ("names", "nc", "stride", "anchors", "hyp", "yaml")
PARTS = 1_000_000  # of all of it, with what stands in several places written out
SCALARS = (str, int, float, bool, type(None))


def check(ckpt: dict[str, Any], file: Any) -> None:
    """Make what a checkpoint says of its models plain, in place: NumPy's numbers become Python's, the rest is checked.

    Raises:
        CheckpointError: something in it is neither a number nor a string.
    """
    plain = Plain(file)
    try:
        _check(ckpt, plain)
    except RecursionError:
        raise plain.endless() from None


def _check(ckpt: dict[str, Any], plain: Plain) -> None:
    for name in DESCRIPTIONS:
        if name in ckpt:
            ckpt[name] = plain.described(ckpt[name], name)
    models = [ckpt[key] for key in ("model", "ema") if isinstance(ckpt.get(key), nn.Module)]
    for module in (module for model in models for module in model.modules()):
        for name in DESCRIPTIONS:
            if hasattr(module, name):  # an attribute, or a part that goes by the name
                value = plain.described(getattr(module, name), name)
                if name in vars(module):
                    setattr(module, name, value)


class Plain:
    """Make copies of what the checkpoint `file` says of its models, with nothing in them but numbers and strings."""

    def __init__(self, file: Any):
        self.file, self.left = file, PARTS

    def endless(self) -> CheckpointError:
        return CheckpointError(f"{self.file}: what it says of its model has no end. {class_tree.HOW}")

    def described(self, value: Any, name: str) -> Any:
        """Return the description `name` as plain values; those of classes are names, and nothing else."""
        found = self(value, name)
        if name == "names" and found is not None:
            self.check_names(found)
        return found

    def check_names(self, names: Any) -> None:
        """Refuse names of classes whose text would be another expression, or that lead out of a folder.

        `val` and `detect` evaluate what an export writes of them; `detect --save-crop` makes folders of them.
        """
        listed = isinstance(names, (list, tuple))
        pairs = enumerate(names) if listed else names.items() if isinstance(names, dict) else [(None, names)]
        for key, word in pairs:
            is_name = type(word) in SCALARS and word not in (math.inf, -math.inf) and word == word
            if type(key) is not int or not is_name:
                raise CheckpointError(
                    f"{self.file}: names in the checkpoint are to be one text for each class, found {word!r} for "
                    f"{key!r}. {class_tree.HOW}"
                )
            path = PurePath(str(word))
            if path.drive or path.root or ".." in path.parts:
                raise CheckpointError(
                    f"{self.file}: names in the checkpoint has {word!r} for class {key}, a path that leads somewhere "
                    f"else. {class_tree.HOW}"
                )

    def __call__(self, value: Any, name: str) -> Any:
        """Return `value`, plain; tensors of numbers stay what they are. `name`: what it is in the checkpoint."""
        self.left -= 1
        if self.left < 0:
            raise self.endless()
        if type(value) in SCALARS or type(value) in (torch.Tensor, nn.Parameter):
            return value
        if isinstance(value, (np.number, np.bool_, np.str_)):
            return value.item()
        if type(value) in (list, tuple):
            return type(value)(self(inner, name) for inner in value)
        if isinstance(value, dict):
            return {self(key, name): self(inner, name) for key, inner in value.items()}
        raise CheckpointError(
            f"{self.file}: {name} in the checkpoint holds a {type(value).__name__}, where only numbers and strings "
            f"belong. {class_tree.HOW}"
        )
