"""What SparseML 1.8 needs on today's torch; imported before anything else of SparseML.

SparseML is end-of-life: it will not change under us, so each shim names what it replaces and why.
"""

from __future__ import annotations

import warnings

from yolov5_sparse_plugin import telemetry

telemetry.switch_off()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pkg_resources, pydantic and torch.ao deprecations: nothing a user can act on
    import sparseml.pytorch.sparsification.pruning.mask_creator as mask_creator  # noqa: E402
    import sparseml.pytorch.sparsification.quantization.helpers as helpers  # noqa: E402
    import sparseml.pytorch.sparsification.quantization.quantization_scheme as scheme  # noqa: E402

import torch  # noqa: E402

from yolov5_sparse_plugin.engine.sparseml.fake_quantize import FakeQuantize  # noqa: E402


class QConfig(torch.ao.quantization.QConfig):
    """torch >= 2.2 gave QConfig `__slots__`; the QuantizationModifier stores its scheme on it as an attribute."""


class TorchQuantization:
    """`torch.quantization` as SparseML's scheme module sees it."""

    QConfig = QConfig
    FakeQuantize = FakeQuantize

    def __getattr__(self, name):
        return getattr(torch.ao.quantization, name)


class NMPruningMaskCreator(mask_creator.NMPruningMaskCreator):
    """N:M masks of convolutions, in the shape of their weights: SparseML leaves them [out, height, width, in]."""

    def create_sparsity_masks(self, tensors, target, global_sparsity=False):
        masks = super().create_sparsity_masks(tensors, target, global_sparsity)
        targets = target if isinstance(target, list) else [target]
        if not any(targets):  # nothing is pruned yet: ones, in the right shape
            return masks
        return [mask.permute(0, 3, 1, 2).contiguous() if mask.dim() == 4 else mask for mask in masks]


mask_creator.NMPruningMaskCreator = NMPruningMaskCreator
scheme.torch_quantization = TorchQuantization()
# QATWrapper and the legacy modifier build their qconfigs here
helpers.torch_quantization = TorchQuantization()
