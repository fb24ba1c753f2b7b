"""What YOLOv5 7.0.14 and v7.0 read from libraries that no longer have it: given back, to this YOLOv5 alone.

They are of 2022. Where an older release of the library still installs, `setup.cfg` bounds it; these are for where none
does. Only what is missing is added, in the module of YOLOv5 that reads it; numpy and Pillow stay as they are.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from yolov5_sparse_plugin.hosts.current import Host
from yolov5_sparse_plugin.hosts.patchset import View


@dataclass(frozen=True)
class Mend:
    """A name in one of the host's modules, and what is put in its place where the library behind it has moved on.

    Attributes:
        module: of the host: `utils.metrics`.
        name: in its namespace.
        make: what the name is now -> what it is to be, None where nothing is missing.
        reason: what is gone, and since when.
    """

    module: str
    name: str
    make: Callable[[Any], Any]
    reason: str


def with_trapz(numpy: Any) -> Any:
    """Return numpy with the integral that mean average precision is made of."""
    if hasattr(numpy, "trapz") or not hasattr(numpy, "trapezoid"):
        return None
    return View(numpy, trapz=numpy.trapezoid)  # the same function, renamed


def with_getsize(check_pil_font: Callable) -> Callable | None:
    """Return the host's own maker of fonts, whose fonts can tell how large a label will be."""
    from PIL import ImageFont

    if hasattr(ImageFont.FreeTypeFont, "getsize"):
        return None

    @functools.wraps(check_pil_font)
    def make(*args: Any, **kwargs: Any) -> Any:
        font = check_pil_font(*args, **kwargs)
        if font is not None and not hasattr(font, "getsize"):
            font.getsize = functools.partial(size_of, font)
        return font

    return make


def size_of(font: Any, text: str) -> tuple[int, int]:
    """Return width and height of a text, the height from the line that text is placed at, as Pillow 9 did."""
    left, _, right, bottom = font.getbbox(text)
    return right - left, bottom


MENDS = (
    Mend("utils.metrics", "np", with_trapz, "numpy.trapz, gone in numpy 2.4: validation ends in AttributeError"),
    Mend(
        "utils.plots",
        "check_pil_font",
        with_getsize,
        "ImageFont.getsize, gone in Pillow 10: plots of training and labels in other scripts than Latin fail",
    ),
)
_done: list[tuple[Mend, ModuleType, Any, Any]] = []


def mend(host: Host) -> None:
    """Put the mends into those modules of `host` that are imported. Twice is a no-op."""
    for each in MENDS:
        module = sys.modules.get(host.prefix + each.module)
        before = getattr(module, each.name, None)
        if module is None or before is None or any(before is made for *_, made in _done):
            continue
        made = each.make(before)
        if made is not None:
            setattr(module, each.name, made)
            _done.append((each, module, before, made))


def undo() -> None:
    """Take off the mends that are still ours."""
    while _done:
        each, module, before, made = _done.pop()
        if getattr(module, each.name, None) is made:
            setattr(module, each.name, before)


def done() -> list[str]:
    """Return what is mended: the name in the host, and why."""
    return [f"{module.__name__}.{each.name}: {each.reason}" for each, module, _, _ in _done]
