"""Read a checkpoint, whichever kind it is: ours, the fork's, or plain YOLOv5's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Callable

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.checkpoints.file import look
from yolov5_sparse_plugin.checkpoints.formats import is_quantized
from yolov5_sparse_plugin.checkpoints.quantizers import quantized_model

TRUST = options.ENV_PREFIX + "TRUST_PICKLE"
_guarding: list[bool] = []


def is_sparse(file: Any) -> bool:
    """Return whether this plugin reads `file`, see `CheckpointFile.sparse`."""
    return look(file).sparse


def read(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a sparse checkpoint that the caller may change, see `CheckpointFile.ckpt`."""
    return look(file).take(map_location)


def loader(original: Callable[..., Any], quantized: bool = True) -> Callable[..., Any]:
    """Return a `torch.load` for a host's namespace that understands sparse checkpoints.

    Args:
        original: what reads every other file.
        quantized: hand back a quantized model with its quantizers, as upstream's `model`; False: its float twin,
            from which upstream builds a model of its own when it trains.
    """

    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        found = look(file)
        if not found.sparse:
            return original(file, *args, **kwargs)
        ckpt = found.take(kwargs.get("map_location", args[0] if args else "cpu"))
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
