"""Pruning: masks that are computed from time to time, and hold until the modifier ends."""

from __future__ import annotations

import math
from typing import Any

import torch

from yolov5_sparse_plugin.engine import schema, timeline
from yolov5_sparse_plugin.engine.native.base import Modifier, Moment, interpolated, share_of
from yolov5_sparse_plugin.engine.native.masks import masks_of
from yolov5_sparse_plugin.engine.schema.values import FROM_PARAM
from yolov5_sparse_plugin.errors import RecipeError


class Pruning(Modifier):
    """Holds weights at zero: after every step, and in their gradients, which clipping and momentum see.

    Attributes:
        names: of the parameters, without those that `--freeze` keeps. masks: one for each, of its shape and dtype.
        enabled: whether the masks are in force.
    """

    leave_enabled = False

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.names: list[str] = []
        self.masks: list[torch.Tensor] = []
        self.enabled = False
        self._parameters: list[torch.nn.Parameter] = []
        self._hooks: list[Any] = []

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        found = dict(model.named_parameters())
        self.names = [name for name in self.fit.parameters if found[name].requires_grad]
        self._parameters = [found[name] for name in self.names]
        self.masks = [torch.ones_like(parameter.data) for parameter in self._parameters]

    def update(self, moment: Moment) -> None:
        over = moment.epoch >= self.end_epoch >= 0
        if self.starts(moment.epoch):
            self._enable(not over or self.leave_enabled)
        self.set_masks(self.computed(moment.epoch))
        if over and not self.leave_enabled:
            self._enable(False)

    def computed(self, epoch: float) -> list[torch.Tensor]:
        """Return the masks that are due at `epoch`."""
        raise NotImplementedError

    def set_masks(self, masks: list[torch.Tensor]) -> None:
        self.masks = masks
        self.after_step()

    def after_step(self) -> None:
        if self.enabled:
            self.zero()

    def prune_at_once(self) -> None:
        """Zero what the modifier ends without."""
        self.masks = self.computed(math.inf)
        self.zero()

    def zero(self) -> None:
        for parameter, mask in zip(self._parameters, self.masks):
            parameter.data.mul_(mask)

    def finalize(self) -> None:
        self.after_step()
        self._enable(False)

    def in_force(self) -> dict[int, torch.Tensor]:
        """Return id of the parameter -> its mask; nothing while they are not enabled."""
        return {id(p): mask for p, mask in zip(self._parameters, self.masks)} if self.enabled else {}

    def recall(self, epoch: float) -> None:
        """Take the masks from the zeros in the weights, as computed at `epoch`."""
        if self.enabled:
            self.set_masks([(each.data != 0).to(each.dtype) for each in self._parameters])
            self.updated = epoch

    def _enable(self, enabled: bool) -> None:
        if enabled and not self.enabled:
            self._hooks = [each.register_hook(self._masking(place)) for place, each in enumerate(self._parameters)]
        elif not enabled:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
        self.enabled = enabled

    def _masking(self, place: int) -> Any:
        return lambda gradient: gradient * self.masks[place]


class ConstantPruning(Pruning):
    """Holds what is zero; what becomes zero while it does is held as well."""

    frequency = -1.0

    def computed(self, epoch: float) -> list[torch.Tensor]:
        return [torch.ne(each.data, 0.0).to(each.dtype) for each in self._parameters]


class GradualPruning(Pruning):
    """Prunes the smallest weights, more and more of them: of each layer, or of all together."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.frequency, self.leave_enabled = self.spec.update_frequency, self.spec.leave_enabled
        by_tag = isinstance(self.spec, schema.GlobalMagnitudePruningModifier)
        self.together = by_tag or getattr(self.spec, "global_sparsity", False)

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        super().initialize(model)
        finals, first, last = timeline.finals(self.fit), self.spec.init_sparsity, self.spec.final_sparsities[0]
        self._last = [last if finals[name] is None else finals[name] for name in self.names]
        self._first = [zeros(p.data) if first == FROM_PARAM else first for p in self._parameters]
        if self.together and len(set(zip(self._first, self._last))) > 1:
            words = "ranks the weights of all layers as one: give one number for init_sparsity and for final_sparsity"
            raise RecipeError(f"{self.entry.where(self.source)} {words}.")

    def shares(self, epoch: float) -> list[float]:
        """Return the share of zeros that each layer is to have at `epoch`."""
        share = share_of(epoch, self.start_epoch, self.end_epoch) if epoch < self.end_epoch else 1.0
        ends = zip(self._first, self._last)
        return [interpolated(share, first, last, self.spec.inter_func) for first, last in ends]

    def computed(self, epoch: float) -> list[torch.Tensor]:
        scores = [each.data.abs() for each in self._parameters]
        return masks_of(scores, self.shares(epoch), self.spec.mask_type, self.together)


def zeros(weight: torch.Tensor) -> float:
    return ((weight == 0).sum().float() / float(weight.numel())).item()
