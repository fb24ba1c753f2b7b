"""Learning rates: a fixed one, one that follows a function of time, and one that follows a scheduler of torch's."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

from torch.optim import lr_scheduler

from yolov5_sparse_plugin.engine.native.base import Modifier, Moment
from yolov5_sparse_plugin.errors import RecipeError


class EpochRange(Modifier):
    """The length of a run; nothing is done."""


class Rate(Modifier):
    """Writes learning rates into groups of the optimizer."""

    def write(self, moment: Moment, rate: float) -> None:
        wanted = getattr(self.spec, "param_groups", None)
        for place, group in enumerate(moment.optimizer.param_groups):
            if not wanted or place in wanted:
                group["lr"] = rate


class SetLearningRate(Rate):
    """A learning rate from an epoch on."""

    def update(self, moment: Moment) -> None:
        if not self.started:
            self.write(moment, self.spec.learning_rate)


class LearningRateFunction(Rate):
    """A learning rate that moves with every step."""

    frequency = -1.0

    def update(self, moment: Moment) -> None:
        self.write(moment, getattr(self, self.spec.lr_func)(moment))

    def linear(self, moment: Moment) -> float:
        spec = self.spec
        return spec.init_lr + (moment.epoch - spec.start) / (spec.end_epoch - spec.start) * (
            spec.final_lr - spec.init_lr
        )

    def cosine(self, moment: Moment) -> float:
        """Half a wave between the lower and the higher rate, whichever comes first."""
        spec = self.spec
        low, high = sorted((spec.init_lr, spec.final_lr))
        shift = 0 if spec.final_lr < spec.init_lr else math.pi
        span = high - low
        share = (moment.epoch - spec.start) / (spec.end_epoch - spec.start)
        return math.cos(share * math.pi + shift) * span / 2 + span / 2 + low

    def cyclic_linear(self, moment: Moment) -> float:
        """A saw whose last step of a cycle has `final_lr`; a last, shorter cycle is steeper."""
        spec, steps = self.spec, moment.steps
        last, first, cycle = spec.end_epoch * steps, spec.start_epoch * steps, spec.cycle_epochs * steps
        now = (moment.epoch - spec.start_epoch) * steps
        if now > int((last - first) / cycle) * cycle:
            cycle = (last - first) % cycle
        return spec.init_lr - now % cycle / (cycle - 1) * (spec.init_lr - spec.final_lr)


class LearningRate(Rate):
    """A learning rate that one of torch's schedulers moves; its epochs are counted in steps."""

    frequency = -1.0

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._scheduler: Any = None
        self._steps = 0
        for milestone in self.spec.lr_kwargs.get("milestones", ()):
            if milestone <= self.spec.start or milestone >= self.end_epoch >= 0:
                where = self.entry.where(self.source, "lr_kwargs")
                raise RecipeError(f"{where}: the milestone {milestone:g} is not between start_epoch and end_epoch.")

    def update(self, moment: Moment) -> None:
        epoch = moment.epoch
        if self._scheduler is None and self.spec.init_lr:
            self.write(moment, self.spec.init_lr)
        if epoch <= sys.float_info.epsilon:  # before the first step of all nothing moves; it is made up for
            self._steps -= 1
            return
        if self.end_epoch >= 0 and abs(self.end_epoch - epoch) <= sys.float_info.epsilon:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of schedulers that step before the optimizer, or to a given epoch
            if self._scheduler is None:
                self._scheduler = self._build(moment)
                self._steps += round(epoch * moment.steps)
            if self.spec.lr_class == "CosineAnnealingWarmRestarts":
                self._scheduler.step(epoch - self.start_epoch)
                return
            target = round((min(epoch, self.end_epoch) if self.end_epoch >= 0 else epoch) * moment.steps)
            for _ in range(target - self._steps):
                self._scheduler.step()
            self._steps = max(self._steps, target)

    def _build(self, moment: Moment) -> Any:
        name, given = self.spec.lr_class, dict(self.spec.lr_kwargs)
        if name == "CosineAnnealingWarmRestarts":
            given = {"eta_min": given["lr_min"], "T_0": given["cycle_epochs"]}
        elif name == "MultiStepLR":
            given["milestones"] = [round((each - self.start_epoch) * moment.steps) for each in given["milestones"]]
        else:
            name, given["step_size"] = "StepLR", round(given.get("step_size", 1.0) * moment.steps)
        return getattr(lr_scheduler, name)(optimizer=moment.optimizer, **given)
