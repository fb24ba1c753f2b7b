"""The classes of layers: this YOLOv5's own, torch's and torchvision's, by the names that checkpoints give them.

The same class is `models.common.Conv` in a checkpoint that a git checkout pickled and `yolov5.models.common.Conv` in
one of the PyPI package.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from yolov5_sparse_plugin.hosts.current import host


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODULES = ("models.common", "models.yolo", "models.experimental", "utils.activations")
# modules whose constructors read other files
NOT_LAYERS = ("DetectMultiBackend", "AutoShape")
# torch's layers that models of YOLOv5 and of its forks are made of
LAYERS = words("""
Module Sequential ModuleList ModuleDict ParameterList ParameterDict Identity Flatten Unflatten
Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear Embedding
NonDynamicallyQuantizableLinear
BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d LocalResponseNorm
MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d LPPool2d Fold Unfold
SiLU Hardswish Hardsigmoid Hardtanh ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU Mish Sigmoid LogSigmoid Tanh
Tanhshrink Softplus Softshrink Hardshrink Softsign Threshold GLU Softmax Softmax2d LogSoftmax
Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle
ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ReflectionPad1d ReflectionPad2d ReplicationPad1d
ReplicationPad2d MultiheadAttention TransformerEncoder TransformerEncoderLayer
BCELoss BCEWithLogitsLoss CrossEntropyLoss MSELoss L1Loss SmoothL1Loss KLDivLoss NLLLoss
""")
# of torchvision's: the classifiers that YOLOv5 trains as well
CLASSIFIERS = words("""
torchvision.models.resnet.ResNet torchvision.models.resnet.BasicBlock torchvision.models.resnet.Bottleneck
torchvision.models.efficientnet.EfficientNet torchvision.models.efficientnet.MBConv
torchvision.models.efficientnet.FusedMBConv torchvision.models.mobilenetv2.MobileNetV2
torchvision.models.mobilenetv2.InvertedResidual torchvision.models.mobilenetv3.MobileNetV3
torchvision.models.mobilenetv3.InvertedResidual torchvision.ops.misc.ConvNormActivation
torchvision.ops.misc.Conv2dNormActivation torchvision.ops.misc.SqueezeExcitation torchvision.ops.misc.FrozenBatchNorm2d
torchvision.ops.stochastic_depth.StochasticDepth
""")
HOW = "Only a file that was damaged, or made to harm you, has this."


def own_class(module: str, name: str) -> type[nn.Module] | None:
    """Return this host's own class for `module.name` of either class tree, None where there is none."""
    tail = module[len("yolov5.") :] if module.startswith("yolov5.") else module
    if tail not in MODULES or not name.isidentifier() or name in NOT_LAYERS:
        return None
    owner = host().module(tail)
    return layer_of(owner.__name__, getattr(owner, name, None))


def library_class(module: str, name: str) -> type[nn.Module] | None:
    """Return the layer of torch or torchvision that `module.name` is, None where it is none of those listed."""
    listed = f"{module}.{name}" in CLASSIFIERS or (module.startswith("torch.nn.modules.") and name in LAYERS)
    return layer_of(module, getattr(importlib.import_module(module), name, None)) if listed else None


def layer_of(module: str, found: Any) -> type[nn.Module] | None:
    """Return `found` where it is a class of layers that `module` itself defines, and no program; else None."""
    if not isinstance(found, type) or not issubclass(found, nn.Module) or found.__module__ != module:
        return None
    return None if is_program(found) else found


def is_program(cls: type) -> bool:
    """Return whether a class of modules executes text of its own state, as torch.fx and TorchScript do."""
    return any(base.__module__.startswith(("torch.fx", "torch.jit", "torch._dynamo")) for base in cls.__mro__)


def is_whole(cls: type) -> bool:
    """Return whether a class is of whole models: those are built from a YAML of their own, or load files."""
    return "cfg" in inspect.signature(cls).parameters or cls.__name__ == "Ensemble"


def layer_class(name: Any) -> type[nn.Module] | None:
    """Return the class that `name` means in a model's YAML: `C3`, `nn.Upsample`; None where it means no layer."""
    if not isinstance(name, str):
        return None
    if name.startswith("nn."):
        return getattr(nn, name[len("nn.") :]) if name[len("nn.") :] in LAYERS else None
    found = next((c for c in (own_class(m, name) for m in MODULES[:3]) if c is not None), None)
    return None if found is None or is_whole(found) else found
