"""Averaged weights that keep a recipe's masks, and give way to the live model once it is quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Run


def phase_ema(upstream: type, run: Run) -> type:
    """Return upstream's ModelEMA, extended for `run`.

    Until quantization it averages as upstream does, and zeroes what is masked: an average over the time before a
    weight was pruned is not zero. From then on `.ema` *is* the live model, so that validation and checkpoints see
    the quantizers: scales cannot be averaged, and a recipe's last epochs run at a learning rate near zero.
    """

    class PhaseEMA(upstream):
        def __init__(self, model: torch.nn.Module, *args: Any, **kwargs: Any):
            device = next(model.parameters()).device
            super().__init__(run.twin.copy_of(model).to(device), *args, **kwargs)  # plain: without hooks
            if run.quantized:  # a resumed run
                self.ema = model
            run.average_in(self)

        def update(self, model: torch.nn.Module) -> None:
            if run.quantized:
                self.updates += 1
                return
            super().update(model)
            self.mask()

        def mask(self) -> None:
            """Zero, in place, the averaged weights that are masked in the live model."""
            if self.ema is run.model:
                return
            masks = run.masks()
            with torch.no_grad():
                for name, parameter in self.ema.named_parameters():
                    if name in masks:
                        parameter.mul_(masks[name].to(parameter.device))

        def follow(self, model: torch.nn.Module) -> None:
            """Let `.ema` be the live model from now on."""
            self.ema = model

        def update_attr(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
            if self.ema is not run.model:
                super().update_attr(model, *args, **kwargs)

    PhaseEMA.__name__ = PhaseEMA.__qualname__ = "PhaseEMA"
    return PhaseEMA
