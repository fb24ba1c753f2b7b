"""SparseML's ScheduledOptimizer around upstream's optimizer, and the recipe's clock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Callable

import torch

from yolov5_sparse_plugin.engine import contract
from yolov5_sparse_plugin.engine.sparseml import compat  # noqa: F401  first: shims, and no analytics

from sparseml.pytorch.optim import ScheduledModifierManager, ScheduledOptimizer  # isort: skip
from yolov5_sparse_plugin.engine.sparseml.modifiers import is_pruning, is_quantization  # isort: skip


class Optimizer(ScheduledOptimizer, contract.Optimizer):
    """SparseML's ScheduledOptimizer, made fit for upstream's loop.

    - `state_dict` and `load_state_dict` reach the wrapped optimizer; SparseML's fill the wrapper's own fields, so
      that a resumed run loses its momentum and later learning rates reach nobody;
    - the clock is bound late (`bind`), because upstream builds the optimizer before it knows its batches per epoch,
      and can be set (`seek`), which SparseML switched off;
    - a recipe that owns the learning rate keeps it through upstream's warm-up, which writes learning rate and
      momentum into every group for the first max(3 epochs, 100 batches), after the batch has started;
    - it tells of events (assign functions): a step was taken; a step is about to quantize the model, or has done so,
      so that parameters can be followed to their new names.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        manager: ScheduledModifierManager,
        owns_learning_rate: Callable[[float], bool],
        loggers: Any,
        teacher: torch.nn.Module | None = None,
    ):
        lesson = {"distillation_teacher": teacher or "disable"}
        super().__init__(optimizer, model, manager, 1, loggers, initialize_kwargs=lesson)
        own = self.__dict__  # __setattr__ forwards to the wrapped optimizer
        own["manager"] = manager
        own["modifiers"] = list(manager.iter_modifiers())
        own["owns_learning_rate"] = owns_learning_rate
        own["momenta"] = [group.get("momentum") for group in optimizer.param_groups]  # Adam has none
        own["rates"] = None
        for event in self.EVENTS:
            own[event] = lambda: None

    EVENTS = ("before_quantization", "after_quantization", "stepped")

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "rates" or key in self.EVENTS:
            self.__dict__[key] = value
        else:
            super().__setattr__(key, value)

    @property
    def wrapped(self) -> torch.optim.Optimizer:
        """Upstream's optimizer."""
        return self._wrapper.wrapped_optimizer

    @property
    def epoch(self) -> float:
        """The recipe's clock: epochs completed, fractional."""
        return self._wrapper.wrapped_epoch

    def state_dict(self) -> dict[str, Any]:
        return self.wrapped.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wrapped.load_state_dict(state)
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.wrapped.zero_grad(*args, **kwargs)

    def bind(self, steps_per_epoch: int, epoch: int = 0) -> None:
        """Set the clock: `steps_per_epoch` batches make an epoch, `epoch` of them are over."""
        self._wrapper._wrapped_steps_per_epoch = steps_per_epoch
        self._wrapper._wrapped_steps = epoch * steps_per_epoch
        self._wrapper._wrapped_epoch = float(epoch)

    def step(self, closure: Any = None) -> None:
        """Count a batch that ends in an optimizer step."""
        self._counted(lambda: self._wrapper.step(closure) if closure else self._wrapper.step())
        self.stepped()

    def loss_update(self, loss: torch.Tensor, **batch: Any) -> torch.Tensor:
        """Return the batch's loss with what the recipe's distillation adds to it.

        Args:
            batch: `student_inputs`, `student_outputs`, as SparseML's modifiers take them.
        """
        return self.manager.loss_update(loss, *self._moment(self.epoch), **batch)

    def _moment(self, epoch: float) -> tuple[torch.nn.Module, torch.optim.Optimizer, float, int]:
        """Return what SparseML's modifiers are called with: module, optimizer, epoch, steps in an epoch."""
        wrapper = self._wrapper
        return wrapper.wrapped_module, self.wrapped, epoch, wrapper.wrapped_steps_per_epoch

    def emulated_step(self) -> None:
        """Count a batch whose gradients are only accumulated, or whose step mixed precision skipped."""
        self._counted(self._wrapper.emulated_step)

    def _counted(self, step: Callable[[], Any]) -> None:
        with self._following_quantization(
            m for m in self.modifiers if is_quantization(m) and m.start_epoch <= self.epoch
        ):
            self.reassert()
            step()
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def reassert(self) -> None:
        """Put back the recipe's learning rates, and the momentum, where upstream's warm-up changed them."""
        if not self.owns_learning_rate(self.epoch):
            return
        groups = self.wrapped.param_groups
        for group, rate, kept in zip(groups, self.rates or [None] * len(groups), self.momenta):
            if rate is not None:  # before the first batch the recipe has set none
                group["lr"] = rate
            if kept is not None:
                group["momentum"] = kept

    @contextlib.contextmanager
    def _following_quantization(self, begun: Iterable[Any]) -> Iterator[None]:
        starting = [modifier for modifier in begun if not modifier._qat_enabled]
        if starting:
            self.before_quantization()
        yield
        if starting:
            self.after_quantization()

    def tick(self, epoch: float) -> None:
        """Deliver the modifiers that end at `epoch`, between two steps.

        SparseML ends a modifier on the first call with `epoch >= end_epoch`, but the last step of N epochs is
        counted at N - 1/batches: without this, a run's last validation sees a sparsity of 0.599 instead of 0.600.
        """
        moment = self._moment(epoch)
        for modifier in self.modifiers:
            if modifier.enabled and modifier.end_pending(*moment[2:]):
                modifier.scheduled_update(*moment)
                if is_pruning(modifier):
                    modifier.optimizer_post_step(*moment)
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def seek(self, epoch: float) -> None:
        """Bring the model to where the recipe has it at `epoch`: masks from the zeros in the weights, quantizers.

        What starts at `epoch` itself starts with the next batch, as it does in a run that was not interrupted.
        """
        moment = self._moment(epoch)
        begun = [m for m in self.modifiers if m.enabled and m.start_epoch < epoch]
        with self._following_quantization(filter(is_quantization, begun)):
            for modifier in begun:
                if modifier.update_ready(*moment[2:]):
                    modifier.scheduled_update(*moment)

    def pruned_at(self) -> list[float]:
        """Return the epoch (fractional) at which each pruning modifier last computed its masks; -1: not yet."""
        return [modifier._last_update_epoch for modifier in filter(is_pruning, self.modifiers)]

    def recall(self, pruned_at: list[float]) -> None:
        """Take masks from the zeros in the weights, and compute the next ones when an uninterrupted run would.

        `seek` has computed masks of its own, from weights that are not those of the checkpoint yet.
        """
        for modifier, epoch in zip(filter(is_pruning, self.modifiers), pruned_at):
            masks = modifier.module_masks
            if masks is not None and masks.enabled:
                masks.set_param_masks([(weight != 0).to(weight.dtype) for weight in masks.params_data])
                modifier._last_update_epoch = epoch
