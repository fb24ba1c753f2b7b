"""Make the `+` of a Bottleneck a module, so that quantization can reach it; float results do not change."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from yolov5_sparse_plugin.hosts.host import HostModel


class ResidualAdd(nn.Module):
    """Add two float tensors of one shape. SparseML puts a quantizer before each of the two when it quantizes."""

    wrap_qat = True
    qat_wrapper_kwargs = {"num_inputs": 2, "num_outputs": 0}

    def forward(self, shortcut: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return torch.add(shortcut, branch)


@functools.cache
def with_module_add(bottleneck: Any) -> type:
    """Return a subclass of a host's Bottleneck that adds through `self.residual`."""

    class QuantizableBottleneck(bottleneck):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            branch = self.cv2(self.cv1(x))
            return self.residual(x, branch) if self.add else branch

        def __reduce__(self) -> tuple[Any, ...]:  # a pickle names the host's class, which has a module to be found in
            return _unpickled, (bottleneck,), vars(self)

    return QuantizableBottleneck


def _unpickled(bottleneck: type) -> nn.Module:
    return object.__new__(with_module_add(bottleneck))


def make_adds_quantizable(model: nn.Module) -> int:
    """Change, in place, every Bottleneck of `model` that adds; return how many there were.

    The host's class is replaced by a subclass of it on the instance. Checkpoints never see it: they are written from
    the float twin.
    """
    names = adding_bottlenecks(model)
    for name in names:
        module: HostModel = model.get_submodule(name)
        module.__class__ = with_module_add(module.__class__)
        module.residual = ResidualAdd()
    return len(names)


def adding_bottlenecks(model: nn.Module) -> list[str]:
    """Return the names of the modules whose `+` can be made quantizable."""
    return [n for n, m in model.named_modules() if type(m).__name__ == "Bottleneck" and getattr(m, "add", False)]
