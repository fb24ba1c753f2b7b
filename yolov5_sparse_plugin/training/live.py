"""The model that is being trained: its float twin, its prunable weights, how many of them are zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from yolov5_sparse_plugin.engine.fitting import prunable
from yolov5_sparse_plugin.training.twin import FloatTwin


class LiveModel:
    """A model of the host's classes, from the moment the host has built it.

    Attributes:
        model: quantized once the recipe has done so. twin: its float twin.
        prunable: its prunable weights by their float names.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.twin = FloatTwin(model)
        self.prunable = prunable(model)

    def by_name(self, masks: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return masks, given by the parameters' ids, by the parameters' float names."""
        return {name: masks[id(weight)] for name, weight in self.prunable.items() if id(weight) in masks}

    def share(self, zeros: float) -> float:
        """Return what share of all prunable weights that many are, 0..1."""
        return zeros / max(sum(weight.numel() for weight in self.prunable.values()), 1)

    def layers(self) -> dict[str, float]:
        """Return the sparsity of every prunable weight, by float name, 0..1."""
        return {name: (weight == 0).sum().item() / weight.numel() for name, weight in self.prunable.items()}

    def sparsity(self) -> float:
        """Return zeros among all prunable weights, 0..1."""
        return self.share(sum((weight == 0).sum().item() for weight in self.prunable.values()))
