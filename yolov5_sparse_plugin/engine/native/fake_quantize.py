"""Fake quantization: values are rounded to a grid of 8 bits and stay float; the grid follows the range that was seen.

The numbers are those of torch's moving-average observers and fake-quantize modules, as SparseML 1.8 sets them up.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn

from yolov5_sparse_plugin.engine.native.rounding import rounded

SMALLEST = torch.finfo(torch.float32).eps  # scale of a symmetric grid on which everything is zero
SIZED = ("scale", "zero_point", "min_val", "max_val")


class Grid(NamedTuple):
    """What a quantizer rounds to: scale (float32) and zero point (int32), [1] or [channels], and its integers."""

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int


class FakeQuantizer(nn.Module):
    """Observes a moving average of minima and maxima, and rounds to the grid that they span.

    - Ranges are observed in training only; `eval()` rounds with the grid that is stored.
    - A cast (`.half()`, `.double()`) leaves grid and range in float32: FP16 keeps 11 bits of a scale.
    - A symmetric grid has zero point 0, whatever signs the weights of a channel have left.
    - Before the first observation values pass unchanged.

    Args:
        quant_min, quant_max: the integers of the grid. symmetric: whether it is, around 0.
        channels: size of the first axis, for a grid of each channel's own; 0: one for all values.

    Attributes:
        scale, zero_point: float32 and int32, [1] or [channels]. min_val, max_val: float32, of no axis or [channels].
        averaging_constant: weight of the newest minimum and maximum.
    """

    scale: Tensor
    zero_point: Tensor
    min_val: Tensor
    max_val: Tensor
    observer_enabled: Tensor
    fake_quant_enabled: Tensor
    _ready: bool

    def __init__(self, quant_min: int, quant_max: int, symmetric: bool, channels: int = 0):
        super().__init__()
        self.quant_min, self.quant_max, self.symmetric = quant_min, quant_max, symmetric
        self.per_channel = channels > 0
        self.averaging_constant = 0.01
        self.register_buffer("scale", torch.ones(channels or 1))
        self.register_buffer("zero_point", torch.zeros(channels or 1, dtype=torch.int32))
        self.register_buffer("min_val", torch.full((channels,) if channels else (), torch.inf))
        self.register_buffer("max_val", torch.full((channels,) if channels else (), -torch.inf))
        self.register_buffer("observer_enabled", torch.ones(1, dtype=torch.uint8))
        self.register_buffer("fake_quant_enabled", torch.ones(1, dtype=torch.uint8))
        self._recall()

    @property
    def grid(self) -> Grid:
        return Grid(self.scale, self.zero_point, self.quant_min, self.quant_max)

    @property
    def rounds(self) -> bool:
        """Whether values change here: it is switched on, and knows a range."""
        if not self._ready:
            self._ready = bool(torch.isfinite(self.min_val).all())
        return self._rounding and self._ready

    def _recall(self) -> None:
        """Take from the buffers what every forward pass asks for: to ask a GPU is to wait for it."""
        self._observing, self._rounding = bool(self.observer_enabled), bool(self.fake_quant_enabled)
        self._ready = bool(torch.isfinite(self.min_val).all())
        self._history: Any = self._beginning()

    def enable_observer(self, enabled: bool = True) -> None:
        self.observer_enabled.fill_(enabled)
        self._observing = enabled

    def enable_fake_quant(self, enabled: bool = True) -> None:
        self.fake_quant_enabled.fill_(enabled)
        self._rounding = enabled

    def forget(self) -> None:
        """Forget the range that was observed."""
        self.min_val.fill_(torch.inf)
        self.max_val.fill_(-torch.inf)
        self._ready, self._history = False, self._beginning()

    def forward(self, values: Tensor) -> Tensor:
        # parameters and images outlive a pass: nothing is hung on them
        alone = values.grad_fn is None or self.per_channel or not torch.is_grad_enabled() or torch.jit.is_tracing()
        observing = self.training and self._observing and not torch.onnx.is_in_onnx_export()
        done = None if alone else getattr(values, "_rounded", None)
        if done is not None and done.serves(self, values, observing):
            self._follow(done.by)
            return done.result
        before = self._history
        if observing and values.numel():
            self.observe(values.detach())
            self._ready, self._history = True, object()
        if not self.rounds:
            return values
        limits = self.quant_min, self.quant_max
        result = rounded(values, self.scale, self.zero_point, *limits, self.per_channel)
        if not alone:
            vars(values)["_rounded"] = Rounded(before, self._history, values._version, self, result)
        return result

    def _beginning(self) -> Any:
        """Return what quantizers have in common that have the same grid, range and limits."""
        if self.per_channel:
            return object()
        state = tuple(getattr(self, name).item() for name in SIZED)
        return (self.quant_min, self.quant_max, self.symmetric, *state)

    def _follow(self, other: FakeQuantizer) -> None:
        """Take over the state of a quantizer that had this one's, and has seen what this one is to see."""
        if self._history is not other._history:
            for name in SIZED:
                getattr(self, name).copy_(getattr(other, name))
            self._ready, self._history = True, other._history

    def observe(self, values: Tensor) -> None:
        """Move the range towards that of `values`, and the grid with it."""
        values = values.to(self.min_val.dtype)
        low, high = torch.aminmax(values.flatten(1), dim=1) if self.per_channel else torch.aminmax(values)
        if not self.symmetric:  # torch's own operator decides the numbers; two values have the range of all
            on = _one(values.device)
            state = self.min_val, self.max_val, self.scale, self.zero_point, self.averaging_constant
            limits = self.quant_min, self.quant_max, 0 if self.per_channel else -1, self.per_channel, False
            rounding = on if self._rounding else on - 1
            torch.fused_moving_avg_obs_fake_quant(torch.stack((low, high), -1), on, rounding, *state, *limits)
            return
        for kept, now in ((self.min_val, low), (self.max_val, high)):
            kept.copy_(torch.where(torch.isinf(kept), now, kept + self.averaging_constant * (now - kept)))
        reach = torch.maximum(-self.min_val, self.max_val).clamp_min(0.0)
        self.scale.copy_((reach / ((self.quant_max - self.quant_min) / 2)).clamp_min(SMALLEST))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FakeQuantizer:
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in SIZED:
            value = state.get(prefix + name)
            if value is not None and value.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(value, device=self.scale.device))
        super()._load_from_state_dict(state, prefix, *args)
        self._recall()


class Rounded(NamedTuple):
    """What a quantizer made of a tensor; stays with the tensor, for another that is in the same state.

    The two branches of a C3 block see the same values, and so do a bottleneck and its shortcut: to round them once
    saves time, and the memory of the second copy. `before` and `after` are histories of the quantizer.
    """

    before: Any
    after: Any
    version: int
    by: FakeQuantizer
    result: Tensor

    def serves(self, other: FakeQuantizer, values: Tensor, observing: bool) -> bool:
        """Return whether `other` would make the same of `values`, and of itself."""
        return (
            other._history == self.before
            and self.by._history is self.after
            and observing == (self.before is not self.after)
            and other._rounding
            and other.averaging_constant == self.by.averaging_constant
            and self.version == values._version
        )


_ones: dict[torch.device, Tensor] = {}


def _one(device: torch.device) -> Tensor:
    """Return the flag that torch's operator reads on its own device."""
    if device not in _ones:
        _ones[device] = torch.ones(1, dtype=torch.long, device=device)
    return _ones[device]


def quantizers_of(model: nn.Module) -> list[FakeQuantizer]:
    return [module for module in model.modules() if isinstance(module, FakeQuantizer)]


def enable_observers(model: nn.Module, enabled: bool = True) -> None:
    for quantizer in quantizers_of(model):
        quantizer.enable_observer(enabled)


def disable_observers(model: nn.Module) -> None:
    enable_observers(model, False)


def enable_fake_quant(model: nn.Module, enabled: bool = True) -> None:
    for quantizer in quantizers_of(model):
        quantizer.enable_fake_quant(enabled)


def disable_fake_quant(model: nn.Module) -> None:
    enable_fake_quant(model, False)
