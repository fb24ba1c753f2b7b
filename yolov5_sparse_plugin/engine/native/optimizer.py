"""The host's optimizer with a recipe around it, and the recipe's clock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

import torch

from yolov5_sparse_plugin.engine.native.base import Modifier, Moment

if TYPE_CHECKING:
    from yolov5_sparse_plugin.engine.native.schedule import Schedule

EVENTS = ("before_quantization", "after_quantization", "stepped")
OWN = ("wrapped", "model", "schedule", "epoch", "rates", "momenta", "step", "_steps", "_steps_per_epoch", *EVENTS)


class Optimizer(torch.optim.Optimizer):
    """An optimizer whose every `step` is one of the recipe's too; everything else is the wrapped one's.

    A step: the recipe's learning rates are put back where upstream's warm-up changed them, modifiers that are due are
    advanced, the wrapped optimizer steps, masks are applied again, and the clock moves on by one batch.

    Attributes:
        epoch: the recipe's clock: epochs completed, fractional.
        rates: the groups' learning rates after the last step, None before the first. momenta: those at the beginning.
        before_quantization, after_quantization, stepped: functions that are called when that happens.
    """

    def __init__(  # torch's own would make groups and state of our own
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        schedule: Schedule,
        teacher: torch.nn.Module | None = None,
    ):
        self.wrapped, self.model, self.schedule = optimizer, model, schedule
        self.momenta = [group.get("momentum") for group in optimizer.param_groups]  # Adam has none
        self.rates: list[float] | None = None
        for event in EVENTS:
            setattr(self, event, lambda: None)
        for modifier in schedule.modifiers:
            modifier.initialize(model, teacher)
        self.bind(1)

    def __setattr__(self, key: str, value: Any) -> None:
        if key in OWN:
            self.__dict__[key] = value
        else:
            setattr(self.wrapped, key, value)

    def __getattr__(self, key: str) -> Any:
        if key == "wrapped":  # before there is one
            raise AttributeError(key)
        return getattr(self.wrapped, key)

    def state_dict(self) -> dict[str, Any]:
        return self.wrapped.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wrapped.load_state_dict(state)
        self._remember()

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.wrapped.zero_grad(*args, **kwargs)

    def add_param_group(self, group: dict[str, Any]) -> None:
        self.wrapped.add_param_group(group)

    # ---- the clock

    def bind(self, steps_per_epoch: int, epoch: int = 0) -> None:
        """Set the clock: `steps_per_epoch` batches make an epoch, `epoch` of them are over."""
        self._steps_per_epoch, self._steps, self.epoch = steps_per_epoch, epoch * steps_per_epoch, float(epoch)

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Count a batch that ends in an optimizer step."""
        self._count(lambda: self.wrapped.step(closure) if closure else self.wrapped.step())
        self.stepped()

    def emulated_step(self) -> None:
        """Count a batch whose gradients are only accumulated, or whose step mixed precision skipped."""
        self._count(lambda: None)

    def _count(self, step: Callable[[], Any]) -> None:
        moment = self._moment(self.epoch)
        with self._following_quantization(m for m in self.schedule.quantization if m.start_epoch <= self.epoch):
            self.reassert()
            self._advance(self.schedule.modifiers, moment)
            step()
            for modifier in self.schedule.modifiers:
                modifier.after_step()
            self._steps += 1
            whole, rest = divmod(self._steps, self._steps_per_epoch)
            self.epoch = float(whole) + float(rest) / float(self._steps_per_epoch)
        self._remember()

    def _advance(self, modifiers: Iterable[Modifier], moment: Moment) -> None:
        for modifier in modifiers:
            if modifier.due(moment.epoch):
                modifier.advance(moment)

    def _moment(self, epoch: float) -> Moment:
        return Moment(self.model, self.wrapped, epoch, self._steps_per_epoch)

    def _remember(self) -> None:
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    @contextlib.contextmanager
    def _following_quantization(self, begun: Iterable[Any]) -> Iterator[None]:
        starting = [modifier for modifier in begun if not modifier.quantized]
        if starting:
            self.before_quantization()
        yield
        if starting:
            self.after_quantization()

    def reassert(self) -> None:
        """Put back the recipe's learning rates, and the momentum, where upstream's warm-up changed them."""
        if not self.schedule.owns_learning_rate(self.epoch):
            return
        groups = self.wrapped.param_groups
        for group, rate, kept in zip(groups, self.rates or [None] * len(groups), self.momenta):
            if rate is not None:  # before the first batch the recipe has set none
                group["lr"] = rate
            if kept is not None:
                group["momentum"] = kept

    def loss_update(self, loss: torch.Tensor, **batch: Any) -> torch.Tensor:
        """Return a batch's loss with what distillation adds; `batch`: `student_inputs` (images), `student_outputs`."""
        for modifier in self.schedule.distillation:
            loss = modifier.loss(loss, self.epoch, **batch)
        return loss

    # ---- ends, and runs that go on

    def tick(self, epoch: float) -> None:
        """Deliver the modifiers that end at `epoch`, between two steps: the last step of N epochs comes before N."""
        for modifier in self.schedule.modifiers:
            if modifier.ends(epoch):
                modifier.advance(self._moment(epoch))
                modifier.after_step()
        self._remember()

    def seek(self, epoch: float) -> None:
        """Bring the model to where the recipe has it at `epoch`; what starts right then starts with the next batch."""
        begun = [modifier for modifier in self.schedule.modifiers if modifier.start_epoch < epoch]
        with self._following_quantization(m for m in begun if m in self.schedule.quantization):
            self._advance(begun, self._moment(epoch))

    def pruned_at(self) -> list[float]:
        """Return the epoch (fractional) at which each pruning modifier last computed its masks; -1: not yet."""
        return [modifier.updated for modifier in self.schedule.pruning]

    def recall(self, pruned_at: list[float]) -> None:
        """Take masks from the zeros in the weights, which are the checkpoint's now, and go on as if uninterrupted."""
        for modifier, epoch in zip(self.schedule.pruning, pruned_at):
            modifier.recall(epoch)
