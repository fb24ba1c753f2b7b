"""The description of a model in a checkpoint, its YAML: checked, and built from.

YOLOv5 runs strings of it as Python.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from yolov5_sparse_plugin.errors import CheckpointError
from yolov5_sparse_plugin.hosts.class_tree import HOW, layer_class
from yolov5_sparse_plugin.hosts.current import host


def checked_description(description: Any, source: Any, trust: bool = False) -> dict[str, Any]:
    """Return a copy of the model's YAML in a checkpoint, fit for this host, which runs strings of it as Python.

    The fork wrote `act: Hardswish` where YOLOv5 since 7.0 reads `activation: nn.Hardswish()`; it would build SiLU.

    Args:
        source: the checkpoint, for messages.
        trust: check no more than that it is one.

    Raises:
        CheckpointError: something in it is no layer, no number and no name of an activation.
    """

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{source}: the model's description in the checkpoint {what}. {HOW}")

    if not isinstance(description, dict) or not {"nc", "backbone", "head", "anchors"} <= set(description):
        raise refuse("is missing or incomplete")
    description = deepcopy(description)
    if "act" in description:
        description["activation"] = f"nn.{str(description.pop('act')).split('.')[-1].rstrip('()')}()"
    if trust:
        return description
    if description.get("activation") is not None and not is_activation(description["activation"]):
        raise refuse(f"has {description['activation']!r} for an activation")
    for key, least, most in (("nc", 1, 1e5), ("depth_multiple", 1e-3, 10), ("width_multiple", 1e-3, 10)):
        value = description.get(key, 1)
        if not isinstance(value, (int, float)) or not least <= value <= most:
            raise refuse(f"has {value!r} for {key}")
    for row in [*description["backbone"], *description["head"]]:
        if not isinstance(row, (list, tuple)) or len(row) != 4 or not isinstance(row[3], (list, tuple)):
            raise refuse(f"has {row!r} for a layer")
        _, repeats, name, arguments = row
        if layer_class(name) is None:
            raise refuse(f"has {name!r} for a layer, which this YOLOv5 does not know")
        if not isinstance(repeats, int) or not 1 <= repeats <= 100:
            raise refuse(f"has {repeats!r} layers of {name}")
        for argument in arguments:
            if isinstance(argument, str) and not (argument.isidentifier() or is_literal(argument)):
                raise refuse(f"has {argument!r} for an argument of {name}")
    return description


def is_activation(text: Any) -> bool:
    """Return whether `text` is a call of one of torch's modules with plain arguments: `nn.LeakyReLU(0.1)`."""
    match = re.fullmatch(r"(nn\.\w+)\(([\w\s=.,+-]*)\)", text) if isinstance(text, str) else None
    if match is None or layer_class(match.group(1)) is None:
        return False
    call = ast.parse(text, mode="eval").body
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(is_literal(ast.unparse(argument)) for argument in arguments)


def is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def build(description: dict[str, Any], classes: int | None = None) -> nn.Module:
    """Build a float model of this host from its YAML, in silence, with no trace in the process.

    Every convolution gets an activation of its own, as pickled models of YOLOv5 before 7.0 have it: where the fork
    quantized activations, each had its own quantizer. The generator of random numbers stays where it is.
    """
    yolo = host().module("models.yolo")
    last = description["head"][-1][2]
    kind = yolo.SegmentationModel if last == "Segment" else yolo.DetectionModel
    with torch.random.fork_rng(devices=[]), _quiet(yolo.LOGGER), own_activation():
        model = kind(deepcopy(description), ch=description.get("ch", 3), nc=classes)
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.Module):
            module.act = deepcopy(module.act)
    return model


@contextmanager
def own_activation() -> Iterator[None]:
    """Keep the activation of one model from the next: `activation:` in a YAML changes 7.0's default for good."""
    convolution = host().module("models.common").Conv
    default = convolution.default_act
    try:
        yield
    finally:
        convolution.default_act = default


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
