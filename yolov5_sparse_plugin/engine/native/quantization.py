"""Quantization-aware training: from an epoch on, weights and activations are rounded to 8 bits in every pass."""

from __future__ import annotations

from typing import Any

import torch

from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.native import fake_quantize, layers, placement
from yolov5_sparse_plugin.engine.native.base import Modifier, Moment
from yolov5_sparse_plugin.engine.schema.quantization import Scheme


class Quantization(Modifier):
    """Gives the model quantizers; later, where the recipe says so, stops observing and freezes batch norm.

    Attributes:
        quantized: whether the model has its quantizers.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.quantized = self._observed = self._frozen = False
        self._within: list[torch.nn.Module] = []

    def due(self, epoch: float) -> bool:
        return self.starts(epoch) or self._stops_observing(epoch) or self._freezes(epoch)

    def _stops_observing(self, epoch: float) -> bool:
        late = self.spec.disable_quantization_observer_epoch
        return late is not None and epoch >= late and not self._observed

    def _freezes(self, epoch: float) -> bool:
        late = self.spec.freeze_bn_stats_epoch
        return late is not None and epoch >= late and not self._frozen

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        self.apply(model, 0.0)

    def update(self, moment: Moment) -> None:
        self.apply(moment.model, moment.epoch)

    def apply(self, model: torch.nn.Module, epoch: float) -> None:
        """Bring `model` to where the recipe has it at `epoch`."""
        if self.starts(epoch) and not self.quantized:
            self._convert(model)
            self.quantized = True
        if self._stops_observing(epoch):
            self._observed = True
            for module in self._within:
                fake_quantize.disable_observers(module)
        if self._freezes(epoch):
            self._frozen = True
            for module in self._within:
                layers.freeze_batch_norm(module)

    def _convert(self, model: torch.nn.Module) -> None:
        names = [""] if self.fit.submodules is None else self.fit.submodules
        self._within = [model.get_submodule(name) for name in names]
        fuse = self.spec.model_fuse_fn_name != "no_fuse"
        if isinstance(self.spec, schema.LegacyQuantizationModifier):
            fuse = fuse and not (self.spec.tensorrt and self.spec.model_fuse_fn_name is None)
            placement.by_submodules(model, self.spec, names, self.fit.ignore, fuse)
            return
        scheme = self.spec.scheme or Scheme()
        every = (scheme, *(self.spec.scheme_overrides or {}).values())
        fuse = fuse and not any(each is not None and each.target_hardware == "tensorrt" for each in every)
        placement.by_scheme(model, self.spec, scheme, self.fit.ignore, fuse)
