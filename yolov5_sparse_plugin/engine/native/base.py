"""What every modifier of the native engine has: when it is due, and what it is told."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch

from yolov5_sparse_plugin.engine.fitting import Fit
from yolov5_sparse_plugin.engine.recipe import Entry


class Moment(NamedTuple):
    """What a modifier is updated with: the model, the host's optimizer, the epoch (fractional), steps in an epoch."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    epoch: float
    steps: int


class Modifier:
    """One entry of a recipe at work.

    Its life, in the order of the calls:

        initialize   once, with the float model, before the first step
        advance      before each optimizer step at which it is `due`, in the order of `Schedule.modifiers`;
                     what it does stands in `update`
        after_step   after each optimizer step, and after each batch that only accumulates
        finalize     once: hooks are taken off the model

    SparseML's rules: it is due when it starts, when it ends, and between the two every `frequency` epochs (-1: with
    every step; None: not at all). A start and an end at the same moment are one update.

    Attributes:
        entry, spec: what the recipe says. fit: what that means in the model, set by `Schedule.check_model`.
        start_epoch, end_epoch: fractional; -1: from the beginning, never.
        updated: epoch of the last update, -1 before the first.
    """

    frequency: float | None = None

    def __init__(self, entry: Entry, source: str):
        self.entry, self.spec, self.source = entry, entry.spec, source
        self.fit = Fit(entry)  # of no model yet
        self.fitted = False
        self.start_epoch: float = entry.spec.start_epoch
        self.end_epoch: float = getattr(entry.spec, "end_epoch", -1.0)
        self.started = self.ended = False
        self.updated = -1.0

    def starts(self, epoch: float) -> bool:
        return not (self.started or self.ended) and epoch >= self.start_epoch

    def ends(self, epoch: float) -> bool:
        return self.started and not self.ended and epoch >= self.end_epoch >= 0

    def due(self, epoch: float) -> bool:
        if self.starts(epoch) or self.ends(epoch):
            return True
        if self.frequency is None or not self.started or self.ended or epoch <= self.start_epoch:
            return False
        return self.frequency == -1 or epoch >= self.updated + self.frequency

    def advance(self, moment: Moment) -> None:
        self.updated = moment.epoch
        self.update(moment)
        if self.starts(moment.epoch):
            self.started = True
        if self.ends(moment.epoch):
            self.ended = True

    def suit(self, fit: Fit) -> None:
        self.fit, self.fitted = fit, True

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        pass

    def update(self, moment: Moment) -> None:
        pass

    def after_step(self) -> None:
        pass

    def finalize(self) -> None:
        pass

    def parameters(self, model: torch.nn.Module) -> list[torch.nn.Parameter]:
        """Return the parameters that the entry is about, in the model's order."""
        found = dict(model.named_parameters())
        return [found[name] for name in self.fit.parameters]


def interpolated(share: float, first: Any, last: Any, inter_func: str) -> Any:
    """Return the value `share` (0..1) of the way from `first` to `last`, as sparseml.utils.interpolate rounds it."""
    share = min(share, 1.0)
    if inter_func == "cubic":
        share = 1 - (1 - share) ** 3
    elif inter_func == "inverse_cubic":
        share = 1 - (1 - share) ** (1 / 3)
    if share <= sys.float_info.epsilon:
        return first
    if share >= 1.0 - sys.float_info.epsilon:
        return last
    return share * (last - first) + first


def share_of(epoch: float, start: float, end: float) -> float:
    """Return how much of the time from `start` to `end` is over at `epoch`, which may be infinite."""
    return (epoch - start) / (end - start)
