"""Read a checkpoint, whichever kind it is: ours, the fork's, or plain YOLOv5's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, Callable

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.checkpoints import archive, legacy, unpickling
from yolov5_sparse_plugin.checkpoints.formats import FORMAT, check_parts, is_quantized
from yolov5_sparse_plugin.checkpoints.quantizers import quantized_model
from yolov5_sparse_plugin.errors import CheckpointError

# the format as a pickle has it: a whole string (opcode, length, text, then it is remembered), not a part of some path
OWN = re.compile(rb"X.\0\0\0yolov5-sparse-plugin/\d+[qr]", re.DOTALL)


TRUST = options.ENV_PREFIX + "TRUST_PICKLE"


_guarding: list[bool] = []


def is_sparse(file: Any) -> bool:
    """Return whether this plugin reads `file`: its own format, or the fork's. Nothing is unpickled to find out."""
    return is_own(file) or legacy.is_legacy(file)


def is_own(file: Any) -> bool:
    """Return whether `file` is a checkpoint with a sparse part."""
    pickled = archive.pickle_of(file)
    return pickled is not None and OWN.search(pickled) is not None


def read(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a sparse checkpoint as it was written; one of the fork's comes out in this format.

    Raises:
        CheckpointError: the file is damaged, wants to run code, or is of a newer format than this plugin knows.
    """
    if not is_own(file):
        return legacy.read(file, map_location)
    ckpt = unpickling.load(file, map_location)
    with archive.reading(file):
        return checked(ckpt, file)


def checked(ckpt: dict[str, Any], file: Any) -> dict[str, Any]:
    """Return a checkpoint of this plugin's own, brought up to date, if it is of today's format and whole."""
    part = ckpt.get("sparse")
    found = part.get("format") if isinstance(part, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{file}: written in format {found!r}, this plugin reads {FORMAT!r}. "
            "Install the version of yolov5-sparse-plugin that wrote it, or a newer one."
        )
    check_parts(legacy.of_today(ckpt, file), file)
    return ckpt


def loader(original: Callable[..., Any], quantized: bool = True) -> Callable[..., Any]:
    """Return a `torch.load` for a host's namespace that understands sparse checkpoints.

    Args:
        original: what reads every other file.
        quantized: hand back a quantized model with its quantizers, as upstream's `model`; False: its float twin,
            from which upstream builds a model of its own when it trains.
    """

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_sparse(file):
            return original(file, *args, **kwargs)
        ckpt = read(file, kwargs.get("map_location", args[0] if args else "cpu"))
        if quantized and is_quantized(ckpt["sparse"]):
            ckpt["model"], ckpt["ema"] = quantized_model(ckpt), None
        return ckpt

    return load


@contextlib.contextmanager
def whole_pickles(trust: bool = False) -> Iterator[None]:
    """Let torch >= 2.6 read whole pickled models, which it refuses unless asked.

    YOLOv5 7.0 pickles its models and does not ask, not even where it reads back what it has just written. In force
    while a sparse run or an export lasts. What torch would have refused, `unpickling.load` looks at instead: it is put
    before every `torch.load` of the host's that reads a file of the user's choice.

    Args:
        trust: the run's `--sparse-trust-pickle`, for whatever reads a checkpoint while it lasts.
    """
    wanted = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", **({TRUST: "1"} if trust else {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    _guarding.append(True)
    try:
        yield
    finally:
        _guarding.pop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def guarding() -> bool:
    """Return whether `whole_pickles` is in force, so that a plain checkpoint, too, is ours to look at."""
    return bool(_guarding)
