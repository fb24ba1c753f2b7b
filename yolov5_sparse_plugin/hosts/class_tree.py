"""This YOLOv5's own classes, by the names that checkpoints give them.

The same class is `models.common.Conv` in a checkpoint that a git checkout pickled and `yolov5.models.common.Conv` in
one of the PyPI package.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from yolov5_sparse_plugin.hosts.current import host

MODULES = ("models.common", "models.yolo", "models.experimental", "utils.activations")
# modules whose constructors read other files
NOT_LAYERS = ("DetectMultiBackend", "AutoShape")
HOW = "Only a file that was damaged, or made to harm you, has this."


def own_class(module: str, name: str) -> type[nn.Module] | None:
    """Return this host's own class for `module.name` of either class tree, None where there is none."""
    tail = module[len("yolov5.") :] if module.startswith("yolov5.") else module
    if tail not in MODULES or not name.isidentifier() or name in NOT_LAYERS:
        return None
    owner = host().module(tail)
    found = getattr(owner, name, None)
    is_own = isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == owner.__name__
    return found if is_own and not is_program(found) else None


def is_program(cls: type) -> bool:
    """Return whether a class of modules executes text of its own state, as torch.fx and TorchScript do."""
    return any(base.__module__.startswith(("torch.fx", "torch.jit", "torch._dynamo")) for base in cls.__mro__)


def layer_class(name: Any) -> type[nn.Module] | None:
    """Return the class that `name` means in a model's YAML: `C3`, `nn.Upsample`; None where it means none."""
    if not isinstance(name, str):
        return None
    if name.startswith("nn."):
        found = getattr(nn, name[len("nn.") :], None)
        return found if isinstance(found, type) and issubclass(found, nn.Module) else None
    return next((c for c in (own_class(m, name) for m in MODULES[:3]) if c is not None), None)
