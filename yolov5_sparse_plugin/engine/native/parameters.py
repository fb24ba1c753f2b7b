"""Weight decay, and what is done to parameters by name."""

from __future__ import annotations

from typing import Any

import torch

from yolov5_sparse_plugin.engine.native.base import Modifier, Moment, interpolated, share_of


class SetWeightDecay(Modifier):
    """A weight decay from an epoch on."""

    def update(self, moment: Moment) -> None:
        groups = moment.optimizer.param_groups
        for place in self.spec.param_groups or range(len(groups)):
            groups[place]["weight_decay"] = self.spec.weight_decay


class Parameters(Modifier):
    """Does something to parameters by name."""

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        self._parameters = self.parameters(model)

    def write(self, value: Any) -> None:
        for parameter in self._parameters:
            parameter.data.copy_(torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device))


class TrainableParams(Parameters):
    """Parameters that learn, or do not, for a time; from the moment that the optimizer is wrapped, if it starts so."""

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        super().initialize(model)
        self._before: list[bool] = []
        if self.starts(0.0):
            self._begin()

    def update(self, moment: Moment) -> None:
        if self.starts(moment.epoch) and not self._before:
            self._begin()
        elif self.ends(moment.epoch):
            for parameter, trainable in zip(self._parameters, self._before):
                set_trainable(parameter, trainable)

    def _begin(self) -> None:
        for parameter in self._parameters:
            self._before.append(parameter.requires_grad)
            set_trainable(parameter, self.spec.trainable)


def set_trainable(parameter: torch.nn.Parameter, trainable: bool) -> None:
    parameter.requires_grad_(trainable)
    if not trainable:
        parameter.grad = None  # or the optimizer would still move it


class SetParam(Parameters):
    """A parameter's values at an epoch."""

    def update(self, moment: Moment) -> None:
        if self.starts(moment.epoch):
            self.write(self.spec.val)


class GradualParam(Parameters):
    """A parameter's values, from one to another; along a line, whatever its `inter_func`, as SparseML has it."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.frequency = self.spec.update_frequency

    def update(self, moment: Moment) -> None:
        first, last = torch.tensor(self.spec.init_val), torch.tensor(self.spec.final_val)
        share = share_of(moment.epoch, self.start_epoch, self.end_epoch)
        self.write(interpolated(share, first, last, "linear"))
