"""Make modules and plain values of what `inert.py` read.

A module gets what a pickle says of it only where that is what a module of YOLOv5 has: parameters, buffers, parts and
attributes, none of which takes the place of a method, and no hooks.
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

from yolov5_sparse_plugin.training.inert import Array, Leftover, Name, Ordered, Part, Refusal

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device, torch.layout)
TENSORS = (torch.Tensor, nn.Parameter)
KEY = re.compile(r"[\w.\-]+")  # of a part, a parameter, a buffer: `repr` of a module shows the first


class Assembly:
    """One checkpoint's; what stands in several places stays one object."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # an id is another object's once its owner is gone

    def __call__(self, value: Any) -> Any:
        """Return what `value` is made into; lists, dicts and sets stay the same objects.

        Raises:
            Refusal: there is something in it that no checkpoint needs.
        """
        kind = type(value)
        if kind in PLAIN or kind in TENSORS or isinstance(value, (np.number, np.bool_, np.str_, pathlib.PurePath)):
            return value
        if kind is Leftover:
            return None
        if id(value) not in self._made:
            self._kept.append(value)
            self.make(value)
        return self._made[id(value)]

    def make(self, value: Any) -> None:
        kind, place = type(value), id(value)
        if kind is list:
            self._made[place] = value
            value[:] = [self(inner) for inner in value]
        elif kind in (dict, Ordered, OrderedDict):
            target = self._made[place] = value if kind is dict else OrderedDict()
            items = [(self(k), self(v)) for k, v in list(value.items()) if type(v) is not Leftover]
            target.clear()
            target.update(items)
        elif kind in (tuple, set, frozenset):
            self._made[place] = kind(self(inner) for inner in value)
        elif kind is Array and value.array is not None:
            self._made[place] = value.array
        elif kind is Part:
            self.module(value)
        elif kind is Name and value.cls is not None:  # torchvision keeps a class of layers as an attribute
            self._made[place] = value.cls
        else:
            what = value.name if kind is Name else kind.__name__
            raise Refusal(f"keeps {what}, which is no number, no text and no layer")

    def module(self, part: Part) -> None:
        module = self._made[id(part)] = part.cls.__new__(part.cls)
        if part.state is None:
            raise Refusal(f"has a {part.cls.__name__} without anything in it")
        state = self(part.state)
        check(part.cls, state)
        module.__setstate__(state)


def check(cls: type[nn.Module], state: dict[Any, Any]) -> None:
    """Refuse the state of a module that has more in it than parameters, buffers, parts and attributes.

    Raises:
        Refusal: naming what.
    """
    kinds = {"_parameters": TENSORS, "_buffers": TENSORS, "_modules": (nn.Module,)}
    for key, value in state.items():
        if type(key) is not str or key.startswith("__") or not key.isidentifier():
            raise Refusal(f"gives a {cls.__name__} an attribute {key!r}")
        if key in kinds:
            entries = value.items() if type(value) in (dict, OrderedDict) else [(None, None)]
            for name, inner in entries:
                if type(name) is not str or not KEY.fullmatch(name):
                    raise Refusal(f"has {name!r} among the {key[1:]} of a {cls.__name__}")
                if inner is not None and not isinstance(inner, kinds[key]):
                    raise Refusal(f"has a {type(inner).__name__} among the {key[1:]} of a {cls.__name__}")
        elif "_hook" in key:
            if value is not None and type(value) is not bool and not (isinstance(value, dict) and not value):
                raise Refusal(f"hangs something into a {cls.__name__}")
        elif shadows(cls, key) and (key != "type" or type(value) is not str):  # YOLOv5's name of a layer's class
            raise Refusal(f"puts something in the place of {cls.__name__}.{key}")


def shadows(cls: type, key: str) -> bool:
    """Return whether an attribute `key` would take the place of a method or a property of `cls`."""
    found = inspect.getattr_static(cls, key, None)
    return callable(found) or hasattr(type(found), "__get__")
