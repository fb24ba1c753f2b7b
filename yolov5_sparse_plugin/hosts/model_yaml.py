"""The description of a model in a checkpoint, its YAML: checked, and built from.

YOLOv5 runs strings of it as Python.
"""

from __future__ import annotations

import ast
import builtins
import keyword
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
from yolov5_sparse_plugin.hosts.host import HostModel

CLASSES = (1, 100_000)  # how many a model may know
LAYERS = 32  # of detections, and anchors in one
LARGEST = 10_000  # number among a layer's arguments
# what each number of a description is, and from where to where it goes
NUMBERS = {
    "nc": ((int,), *CLASSES),
    "ch": ((int,), 1, 64),
    "depth_multiple": ((int, float), 1e-3, 10),
    "width_multiple": ((int, float), 1e-3, 10),
}


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
    description = dict(description)
    if "act" in description:
        description["activation"] = f"nn.{str(description.pop('act')).split('.')[-1].rstrip('()')}()"
    if trust:
        return description
    if description.get("activation") is not None and not is_activation(description["activation"]):
        raise refuse(f"has {description['activation']!r} for an activation")
    for key, (kinds, least, most) in NUMBERS.items():
        value = description.get(key, 1)
        if type(value) not in kinds or not least <= value <= most:
            raise refuse(f"has {value!r} for {key}")
    if not are_anchors(description["anchors"]):
        raise refuse("has no numbers for anchors")
    for key in ("backbone", "head"):
        if not isinstance(description[key], (list, tuple)):
            raise refuse(f"has {description[key]!r} for a {key}")
        for row in description[key]:
            fault = fault_of(row)
            if fault:
                raise refuse(fault)
        # each row a list of its own: YOLOv5 evaluates arguments in place, and shared ones twice
        description[key] = [[origin, repeats, name, list(given)] for origin, repeats, name, given in description[key]]
    return description


def are_anchors(value: Any) -> bool:
    """Return whether this says how many anchors a layer has, or lists their widths and heights, layer by layer."""
    if type(value) is int:
        return 1 <= value <= LAYERS
    layers = value if isinstance(value, (list, tuple)) and 0 < len(value) <= LAYERS else [None]
    return all(
        isinstance(layer, (list, tuple)) and 0 < len(layer) <= 2 * LAYERS and set(map(type, layer)) <= {int, float}
        for layer in layers
    )


def checked_classes(number: Any, source: Any) -> int | None:
    """Return a checkpoint's own number of classes, None where it has none.

    Raises:
        CheckpointError: it is no such number.
    """
    if number is not None and (type(number) is not int or not CLASSES[0] <= number <= CLASSES[1]):
        raise CheckpointError(f"{source}: the checkpoint has {number!r} for nc. {HOW}")
    return number


def fault_of(row: Any) -> str | None:
    """Return what is wrong with a row of a model's YAML: from, number, layer, arguments."""
    if not isinstance(row, (list, tuple)) or len(row) != 4 or not isinstance(row[3], (list, tuple)):
        return f"has {row!r} for a layer"
    origin, repeats, name, arguments = row
    if layer_class(name) is None:
        return f"has {name!r} for a layer, which this YOLOv5 does not know"
    if not all(type(place) is int for place in (origin if isinstance(origin, (list, tuple)) else [origin])):
        return f"has {origin!r} for what goes into {name}"
    if type(repeats) is not int or not 1 <= repeats <= 100:
        return f"has {repeats!r} layers of {name}"
    wrong = [argument for argument in arguments if not is_argument(argument)]
    return f"has {wrong[0]!r} for an argument of {name}" if wrong else None


def is_argument(value: Any) -> bool:
    """Return whether `value` may be an argument of a layer; a string is evaluated where the names of YOLOv5 are known.

    What is `nc` or `anchors` there is meant; a string that means nothing stays a string, such as `nearest`.
    """
    if isinstance(value, (list, tuple)):
        return all(is_argument(inner) for inner in value)
    if not isinstance(value, str):
        return value is None or (type(value) in (bool, int, float) and abs(value) <= LARGEST)
    yolo = host().module("models.yolo")
    code = yolo.parse_model.__code__  # it is evaluated among its variables
    local = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
    known = {*vars(yolo), *local, *vars(builtins), *keyword.kwlist} - {"nc", "anchors"}
    # letters of other scripts may be, for Python, others of these
    return (value.isascii() and value.isidentifier() and value not in known) or is_literal(value)


def is_activation(text: Any) -> bool:
    """Return whether `text` is a call of one of torch's modules with plain arguments: `nn.LeakyReLU(0.1)`."""
    match = re.fullmatch(r"(nn\.\w+)\(([\w\s=.,+-]*)\)", text) if isinstance(text, str) else None
    if match is None or layer_class(match.group(1)) is None:
        return False
    call = ast.parse(text, mode="eval").body
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(is_literal(ast.unparse(argument)) for argument in arguments)


def is_literal(text: str) -> bool:
    """Return whether `text` is a number, true, false or None, or lists of these; strings of strings are none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return not isinstance(value, str) and is_argument(value)


def build(description: dict[str, Any], classes: int | None = None) -> HostModel:
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
