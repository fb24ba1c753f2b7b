"""The host's optimizer with a recipe around it, and the recipe's clock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import torch

from yolov5_sparse_plugin.engine import contract
from yolov5_sparse_plugin.engine.native.base import Modifier, Moment
from yolov5_sparse_plugin.engine.native.distillation import Distillation
from yolov5_sparse_plugin.engine.native.pruning import Pruning
from yolov5_sparse_plugin.engine.native.quantization import Quantization

EVENTS = ("before_quantization", "after_quantization", "stepped")
OWN = (
    *("wrapped", "model", "modifiers", "owns_learning_rate", "epoch", "rates", "momenta", "step"),
    *("_steps", "_steps_per_epoch", *EVENTS),
)


class Optimizer(contract.Optimizer):
    """An optimizer whose every `step` is one of the recipe's too; everything else is the wrapped one's.

    A step: the recipe's learning rates are put back where upstream's warm-up changed them, modifiers that are due are
    advanced, the wrapped optimizer steps, masks are applied again, and the clock moves on by one batch.

    Attributes:
        wrapped: upstream's optimizer.
        epoch: the recipe's clock: epochs completed, fractional.
        rates: the learning rates of the groups after the last step, None before the first.
        momenta: those that the groups began with, None where one has none.
        before_quantization, after_quantization, stepped: functions that are called when that happens.
    """

    def __init__(  # torch's own would make groups and state of our own
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        modifiers: list[Modifier],
        owns_learning_rate: Callable[[float], bool],
        teacher: torch.nn.Module | None = None,
    ):
        self.wrapped, self.model = optimizer, model
        self.modifiers, self.owns_learning_rate = modifiers, owns_learning_rate
        self.momenta = [group.get("momentum") for group in optimizer.param_groups]  # Adam has none
        self.rates: list[float] | None = None
        for event in EVENTS:
            setattr(self, event, lambda: None)
        for modifier in modifiers:
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

    def step(self, closure: Any = None) -> Any:
        """Count a batch that ends in an optimizer step."""
        self._count(lambda: self.wrapped.step(closure) if closure else self.wrapped.step())
        self.stepped()

    def emulated_step(self) -> None:
        """Count a batch whose gradients are only accumulated, or whose step mixed precision skipped."""
        self._count(lambda: None)

    def _count(self, step: Callable[[], Any]) -> None:
        moment = self._moment(self.epoch)
        with self._following_quantization(m for m in self.modifiers if m.start_epoch <= self.epoch):
            self.reassert()
            self._advance(self.modifiers, moment)
            step()
            for modifier in self.modifiers:
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
    def _following_quantization(self, begun: Iterable[Modifier]) -> Iterator[None]:
        starting = [each for each in begun if isinstance(each, Quantization) and not each.quantized]
        if starting:
            self.before_quantization()
        yield
        if starting:
            self.after_quantization()

    def reassert(self) -> None:
        """Put back the recipe's learning rates, and the momentum, where upstream's warm-up changed them."""
        if not self.owns_learning_rate(self.epoch):
            return
        groups = self.wrapped.param_groups
        rates: list[Any] = self.rates or [None] * len(groups)
        for group, rate, kept in zip(groups, rates, self.momenta):
            if rate is not None:  # before the first batch the recipe has set none
                group["lr"] = rate
            if kept is not None:
                group["momentum"] = kept

    def loss_update(self, loss: torch.Tensor, **batch: Any) -> torch.Tensor:
        """Return a batch's loss with what the recipe's distillation adds to it.

        Args:
            batch: `student_inputs`, the images, and `student_outputs`, what the model made of them.
        """
        for modifier in self.modifiers:
            if isinstance(modifier, Distillation):
                loss = modifier.loss(loss, self.epoch, **batch)
        return loss

    # ---- ends, and runs that go on

    def tick(self, epoch: float) -> None:
        """Deliver the modifiers that end at `epoch`, between two steps: the last step of N epochs comes before N."""
        for modifier in self.modifiers:
            if modifier.ends(epoch):
                modifier.advance(self._moment(epoch))
                modifier.after_step()
        self._remember()

    def seek(self, epoch: float) -> None:
        """Bring the model to where the recipe has it at `epoch`: masks from the zeros in the weights, quantizers.

        What starts at `epoch` itself starts with the next batch, as it does in a run that was not interrupted.
        """
        begun = [modifier for modifier in self.modifiers if modifier.start_epoch < epoch]
        with self._following_quantization(begun):
            self._advance(begun, self._moment(epoch))

    def _pruning(self) -> list[Pruning]:
        return [modifier for modifier in self.modifiers if isinstance(modifier, Pruning)]

    def pruned_at(self) -> list[float]:
        """Return the epoch (fractional) at which each pruning modifier last computed its masks; -1: not yet."""
        return [modifier.updated for modifier in self._pruning()]

    def recall(self, pruned_at: list[float]) -> None:
        """Take masks from the zeros in the weights, and compute the next ones when an uninterrupted run would.

        `seek` has computed masks of its own, from weights that are not those of the checkpoint yet.
        """
        for modifier, epoch in zip(self._pruning(), pruned_at):
            modifier.recall(epoch)
