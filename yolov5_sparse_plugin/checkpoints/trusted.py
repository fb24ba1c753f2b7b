"""Unpickle a file that the user trusts, as Python does: whatever it names is looked up, and called."""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

from torch import nn

from yolov5_sparse_plugin.checkpoints.inert import pickle_module


class Absent:
    """Stands where a checkpoint has an object that is not wanted; takes whatever is done to it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any): ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...


def machine(own: Callable[[str, str], type | None], absent: Callable[[str, str], bool]) -> types.ModuleType:
    """Return what `torch.load` takes for the module `pickle`.

    Args:
        own: module and name -> this host's class for it, if it has one.
        absent: module and name -> whether it is left out.
    """

    def attribute(owner: Any, name: str) -> Any:
        return Absent() if isinstance(owner, Absent) else getattr(owner, name)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if absent(module, name):
                return Absent
            if (module, name) in (("builtins", "getattr"), ("__builtin__", "getattr")):
                return attribute
            return own(module, name) or super().find_class(module, name)

    return pickle_module("trusting_pickle", Unpickler)


def without_absent(ckpt: dict[str, Any]) -> dict[str, Any]:
    """Take out of a checkpoint's models, in place, what stands for something absent."""
    modules = [value for value in ckpt.values() if isinstance(value, nn.Module)]
    seen = set()
    while modules:
        module = modules.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in list(vars(module).items()):
            if isinstance(value, Absent):
                del vars(module)[name]
            elif isinstance(value, dict):
                for key in [key for key, inner in value.items() if isinstance(inner, Absent)]:
                    del value[key]
        modules.extend(child for child in module._modules.values() if child is not None)
    return ckpt
