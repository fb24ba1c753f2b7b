"""The float twin: the model as an unmodified YOLOv5 would have it, whatever the live model has become.

Checkpoints are written from it, so that they unpickle without this plugin, without SparseML and without hooks.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's parameters and persistent buffers by name, as the objects themselves."""
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if torch.is_tensor(value)}


class FloatTwin:
    """A plain module of the host's classes, and the names under which its tensors live in another model.

    SparseML's conversion keeps every parameter and buffer object and changes its name only
    (`model.0.conv.weight` becomes `model.0.conv.module.weight`), so tensors are followed by identity: `before()`
    the conversion, `after()` it.
    """

    def __init__(self, model: nn.Module):
        """Copy `model`, which must still be plain: without hooks, quantizers or replaced classes."""
        self.module = deepcopy(model).cpu()
        self.names = {name: name for name in tensors(model)}
        self._by_identity: dict[int, str] = {}

    def before(self, model: nn.Module) -> None:
        found = tensors(model)
        self._by_identity = {id(found[theirs]): ours for ours, theirs in self.names.items()}

    def after(self, model: nn.Module) -> None:
        names = {
            self._by_identity[id(value)]: name
            for name, value in tensors(model).items()
            if id(value) in self._by_identity
        }
        missing = set(self.names) - set(names)
        if missing:
            raise RuntimeError(f"quantization lost {len(missing)} tensors of the model, among them {min(missing)!r}")
        self.names = names

    def state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return the plain state dict of `model`: float names, tensors shared with it."""
        found = tensors(model)
        return {ours: found[theirs].detach() for ours, theirs in self.names.items()}

    def copy_of(self, model: nn.Module) -> nn.Module:
        """Return a new plain module, on the CPU, with the values and the attributes of `model`."""
        copy = deepcopy(self.module)
        copy.load_state_dict(self.state(model))
        for name in ("yaml", "nc", "hyp", "names", "stride", "class_weights"):  # what upstream attaches while training
            if hasattr(model, name):
                setattr(copy, name, deepcopy(getattr(model, name)))
        copy.train(model.training)
        return copy
