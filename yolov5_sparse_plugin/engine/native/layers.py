"""Layers with quantizers: they keep their names, parameters and buffers, and get the quantizers as parts.

A layer's `input_quantizer` and `output_quantizer` (`input_quantizers`, of a layer with several inputs) are called by
hooks, its `weight_quantizer` by the class that takes the place of its own.
"""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import torch
from torch import Tensor, nn

from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer
from yolov5_sparse_plugin.hosts.host import HostModel

Own = TypeVar("Own", bound=nn.Module)


class QuantizedWeight(nn.Module):
    """What a layer with a quantized weight has: `norms`, the batch norm that follows and is fused into it, or none.

    Its factor is in the weight while that is rounded, as in torch's ConvBn2d (arXiv:1712.05877, section 3.2).
    """

    norms: tuple[HostModel, ...] = ()
    weight_quantizer: Callable[[Tensor], Tensor]


class _QuantizedConv(QuantizedWeight):
    weight: Tensor
    bias: Tensor | None
    out_channels: int
    _conv_forward: Callable[..., Tensor]

    def forward(self, values: Tensor) -> Tensor:
        if not self.norms:
            return self._conv_forward(values, self.weight_quantizer(self.weight), self.bias)
        norm, axes = self.norms[0], [1] * (self.weight.dim() - 2)
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = self.weight_quantizer(self.weight * factor.reshape(-1, 1, *axes))
        nothing = torch.zeros(self.out_channels, device=weight.device, dtype=values.dtype)
        found = self._conv_forward(values, weight, nothing) / factor.reshape(1, -1, *axes)
        return found if self.bias is None else found + self.bias.reshape(1, -1, *axes)


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):
    pass


class QuantizedConv3d(_QuantizedConv, nn.Conv3d):
    pass


class QuantizedLinear(QuantizedWeight, nn.Linear):
    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight_quantizer(self.weight), self.bias)


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.Linear: QuantizedLinear,
}


def quantize_weight(layer: HostModel, quantizer: nn.Module, norms: tuple[nn.Module, ...] = ()) -> None:
    layer.__class__ = QUANTIZED[type(layer)]
    layer.norms = norms
    layer.weight_quantizer = quantizer


def quantize_input(layer: HostModel, quantizer: FakeQuantizer) -> None:
    layer.input_quantizer = quantizer
    layer.register_forward_pre_hook(_round_input)


def quantize_inputs(layer: HostModel, quantizers: list[FakeQuantizer]) -> None:
    layer.input_quantizers = nn.ModuleList(quantizers)
    layer.register_forward_pre_hook(_round_inputs)


def quantize_output(layer: HostModel, quantizer: FakeQuantizer) -> None:
    layer.output_quantizer = quantizer
    handle = layer.register_forward_hook(_round_output)
    layer._forward_hooks.move_to_end(handle.id, last=False)  # before those that look at the output


def _round_input(layer: HostModel, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_rounded(layer.input_quantizer, given[0]), *given[1:])


def _round_inputs(layer: HostModel, given: tuple[Any, ...]) -> tuple[Any, ...]:
    count = len(layer.input_quantizers)
    return (*(_rounded(each, value) for each, value in zip(layer.input_quantizers, given)), *given[count:])


def _round_output(layer: HostModel, given: tuple[Any, ...], output: Any) -> Any:
    return _rounded(layer.output_quantizer, output)


def _rounded(quantizer: FakeQuantizer, value: Any) -> Any:
    return quantizer(value) if torch.is_tensor(value) and value.is_floating_point() else value


# ----------------------------------------------------------------------------------------------------------- batch norm


class Frozen(nn.Module):
    """A batch norm whose averages stand still, in training as well."""

    def train(self: Own, mode: bool = True) -> Own:
        super().train(mode)
        self.training = False
        return self


class FrozenBatchNorm1d(Frozen, nn.BatchNorm1d):
    pass


class FrozenBatchNorm2d(Frozen, nn.BatchNorm2d):
    pass


class FrozenBatchNorm3d(Frozen, nn.BatchNorm3d):
    pass


class FrozenSyncBatchNorm(Frozen, nn.SyncBatchNorm):
    pass


FROZEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
    nn.SyncBatchNorm: FrozenSyncBatchNorm,
}


def freeze_batch_norm(model: nn.Module) -> None:
    """Let the averages of every batch norm stand still, whatever `train()` says."""
    for module in model.modules():
        if type(module) in FROZEN:
            module.__class__ = FROZEN[type(module)]
            module.train()
