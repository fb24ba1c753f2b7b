"""Make modules and plain values of what `inert.py` read.

A module gets what a pickle says of it only where that is what a module of YOLOv5 has: parameters, buffers, parts, and
attributes that are data. A part stands among the parts, and nowhere else: what is hidden in an attribute nobody would
look at before it is called. No hooks, nothing in the place of a method. What a module keeps these in is made anew, so
that nothing can be put in once it was looked at.
"""

from __future__ import annotations

import inspect
import pathlib
import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import nn

from yolov5_sparse_plugin.checkpoints.inert import Array, Leftover, Method, Name, Ordered, Part, Refusal
from yolov5_sparse_plugin.hosts.host import HostModel

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device, torch.layout)
TENSORS = (torch.Tensor, nn.Parameter)
CONTENTS = ("_parameters", "_buffers", "_modules")
KEY = re.compile(r"(?!__)[\w.\-]+")  # of a part, a parameter, a buffer: `repr` shows it, and `copy` asks for `__…__`
# what constructors and converters read: torchvision's class of norms, SparseML's and torch's plans for quantizers
UNUSED = ("_norm_layer", "quantization_scheme", "qconfig", "wrap_qat", "qat_wrapper_kwargs")
ABSENT = object()


class Assembly:
    """One checkpoint's; what stands in several places stays one object."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # an id is another object's once its owner is gone

    def checkpoint(self, value: Any) -> Any:
        """Return what a whole checkpoint is made into: models stand in its dict, everything else is data.

        Raises:
            Refusal: there is something in it that no checkpoint needs.
        """
        if type(value) not in (dict, Ordered):
            return self.module(value) if type(value) is Part else self.data(value)
        kept = {key: inner for key, inner in value.items() if type(inner) is not Leftover}
        return {key: self.module(i) if type(i) is Part else self.data(i) for key, i in kept.items()}

    def data(self, value: Any) -> Any:
        """Return `value` as numbers, texts, tensors, arrays and collections of them; these stay the same objects."""
        kind = type(value)
        if kind in PLAIN or kind in TENSORS or isinstance(value, (np.number, np.bool_, np.str_, pathlib.PurePath)):
            return value
        if kind is Leftover:
            return None
        if id(value) not in self._made:
            self._kept.append(value)
            self._collect(value)
        return self._made[id(value)]

    def _collect(self, value: Any) -> None:
        kind, place = type(value), id(value)
        if kind is list:
            self._made[place] = value
            value[:] = [self.data(inner) for inner in value]
        elif kind in (dict, Ordered):
            target = self._made[place] = value if kind is dict else OrderedDict()
            items = [(self.data(k), self.data(v)) for k, v in list(value.items()) if type(v) is not Leftover]
            target.clear()
            target.update(items)
        elif kind in (tuple, set, frozenset):
            self._made[place] = kind(self.data(inner) for inner in value)
        elif kind is Array and value.array is not None:
            self._made[place] = value.array
        else:
            what = {Name: "name", Part: "cls", Method: "name"}.get(kind)
            shown = kind.__name__ if what is None else getattr(value, what)
            raise Refusal(f"keeps {getattr(shown, '__name__', shown)} where only numbers and texts belong")

    def module(self, part: Part) -> nn.Module:
        """Return the module that `part` is; the same for the same part."""
        if id(part) not in self._made:
            self._kept.append(part)
            self._made[id(part)] = None  # until it is whole
            self._made[id(part)] = self._module(part)
        if self._made[id(part)] is None:
            raise Refusal(f"has a {part.cls.__name__} that contains itself")
        return self._made[id(part)]

    def _module(self, part: Part) -> nn.Module:
        cls, state = part.cls, part.state
        if state is None or not all(type(state.get(key)) in (dict, Ordered) for key in CONTENTS):
            raise Refusal(f"has a {cls.__name__} without anything in it")
        own: dict[str, Any] = {}
        fused = False
        for key, value in state.items():
            if type(key) is not str or key.startswith("__") or not key.isidentifier():
                raise Refusal(f"gives a {cls.__name__} an attribute {key!r}")
            if key in CONTENTS:
                own[key] = self._contents(cls, key, value)
            elif "_hook" in key:
                own[key] = no_hooks(cls, value)
            elif key == "forward" and type(value) is Method and value.owner is part:
                fused = hasattr(cls, value.name)
            elif key in UNUSED or type(value) is Leftover:
                continue
            elif shadows(cls, key) and (key != "type" or type(value) is not str):  # YOLOv5's name of a layer's class
                raise Refusal(f"puts something in the place of {cls.__name__}.{key}")
            else:
                own[key] = self.data(value)
        module: HostModel = cls.__new__(cls)
        nn.Module.__init__(module)  # what older and newer torch keep in one, where the state lacks it
        module.__setstate__(own)
        if fused:  # its batch norm is part of its convolution
            module.forward = module.forward_fuse
        return module

    def _contents(self, cls: type, key: str, entries: dict[Any, Any]) -> OrderedDict[str, Any]:
        """Return the parameters, the buffers or the parts of a module."""
        found: OrderedDict[str, Any] = OrderedDict()
        for name, value in entries.items():
            if type(name) is not str or not KEY.fullmatch(name):
                raise Refusal(f"has {name!r} among the {key[1:]} of a {cls.__name__}")
            if type(value) is Leftover:
                continue
            wanted = (Part,) if key == "_modules" else TENSORS
            if value is not None and type(value) not in wanted:
                raise Refusal(f"has a {type(value).__name__} among the {key[1:]} of a {cls.__name__}")
            found[name] = self.module(value) if type(value) is Part else value
        return found


def no_hooks(cls: type, value: Any) -> Any:
    """Return what a module keeps where its hooks would be."""
    if value is None or type(value) is bool:
        return value
    if type(value) not in (dict, Ordered) or any(type(hook) is not Leftover for hook in value.values()):
        raise Refusal(f"hangs something into a {cls.__name__}")
    return OrderedDict()


def shadows(cls: type, key: str) -> bool:
    """Return whether an attribute `key` would take the place of a method or a property of `cls`."""
    found = inspect.getattr_static(cls, key, ABSENT)
    return callable(found) or hasattr(type(found), "__get__")
