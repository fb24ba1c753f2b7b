"""What SparseML 1.8 needs on today's torch; imported before anything else of SparseML.

SparseML is end-of-life: it will not change under us, so each shim names what it replaces and why.
"""

from __future__ import annotations

import os

# SparseML sends analytics and asks for newer versions over the network while it is imported
os.environ.setdefault("NM_DISABLE_ANALYTICS", "1")
os.environ.setdefault("NM_VERSION_CHECK", "false")

import warnings  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pkg_resources, pydantic and torch.ao deprecations: nothing a user can act on
    import sparseml.pytorch.sparsification.quantization.helpers as helpers  # noqa: E402
    import sparseml.pytorch.sparsification.quantization.quantization_scheme as scheme  # noqa: E402

import torch  # noqa: E402

from yolov5_sparse_plugin.engine.fake_quantize import FakeQuantize  # noqa: E402


class QConfig(torch.ao.quantization.QConfig):
    """torch >= 2.2 gave QConfig `__slots__`; the QuantizationModifier stores its scheme on it as an attribute."""


class TorchQuantization:
    """`torch.quantization` as SparseML's scheme module sees it."""

    QConfig = QConfig
    FakeQuantize = FakeQuantize

    def __getattr__(self, name):
        return getattr(torch.ao.quantization, name)


scheme.torch_quantization = TorchQuantization()
# QATWrapper and the legacy modifier build their qconfigs here
helpers.torch_quantization = TorchQuantization()
