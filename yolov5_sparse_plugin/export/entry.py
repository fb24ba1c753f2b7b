"""The doorway of export: what was asked for, whether it can be had, and the run that makes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

from yolov5_sparse_plugin import manager, options
from yolov5_sparse_plugin.errors import CheckpointError, ExportError, OptionError, nearest
from yolov5_sparse_plugin.hosts import datasets
from yolov5_sparse_plugin.stubs import is_stub
from yolov5_sparse_plugin.zoo.locate import bring


def export(upstream: Callable, arguments: dict[str, Any], own: dict[str, Any], typed: set[str]) -> list[str]:
    """Call the host's `export.run()`, with its graph made fit for an engine where the model is quantized.

    Args:
        upstream: the host's function.
        arguments: its arguments by name, all of them.
        own: the plugin's options and whatever else was typed that upstream does not know.
        typed: names of the arguments that the user gave; the others are defaults.

    Returns:
        The files that were written, as upstream does.

    Raises:
        ExportError: a format that was asked for does not exist afterwards.
    """
    from yolov5_sparse_plugin.checkpoints import reading
    from yolov5_sparse_plugin.export.run import ExportRun, uncollected

    chosen = options.resolve(own, command="export")
    arguments = {**arguments, **coerced(arguments)}
    hooks = manager.create(chosen.hooks, options.disabled_hooks())
    weights = str(arguments["weights"])
    arguments["weights"] = manager.resolve(hooks, "weights", weights, chosen)
    if is_stub(weights):  # upstream writes beside the checkpoint, and a zoo is no place for that
        arguments["weights"] = str(bring(arguments["weights"], weights, Path.cwd()))
    check_weights(arguments["weights"])
    with (
        reading.whole_pickles(chosen.trust_pickle),
        datasets.relocated(arguments["data"], chosen.data_path) as arguments["data"],
    ):
        with uncollected():
            run = ExportRun(upstream, chosen, arguments, typed, hooks)
        run.check()
        return run.execute()


def coerced(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that upstream takes in one form only, in that form.

    `--include onnx` arrives as a string, which 7.0.14 iterates letter by letter; `--imgsz 320` as a number, of which it
    takes the length.
    """
    found: dict[str, Any] = {}
    include = arguments["include"]
    if not isinstance(include, (str, list, tuple)):
        raise OptionError(f"--include {include}: needs a format, for example --include onnx.")
    words = [include] if isinstance(include, str) else include
    found["include"] = [w.strip().lower() for word in words for w in str(word).split(",") if w.strip()]
    for name in ("imgsz", "img"):
        size = arguments.get(name)
        if isinstance(size, str):
            size = [word for word in size.replace("x", ",").replace(" ", ",").split(",") if word]
        if size is not None:
            size = [size] if isinstance(size, (int, float)) else list(size)
            if not 1 <= len(size) <= 2 or not all(str(s).isdigit() and int(s) > 0 for s in size):
                raise OptionError(f"--{name} {arguments[name]}: expected one size in pixels, or height and width.")
            found[name] = [int(s) for s in size]
    if not isinstance(arguments["data"], (str, os.PathLike)):  # `--imgsz 320 640`: fire gives the next argument the 640
        raise OptionError(
            f"--data {arguments['data']}: not a file. If you meant two sizes, write --imgsz 320,640 (height, width)."
        )
    if not str(arguments["opset"]).isdigit():
        raise OptionError(f"--opset {arguments['opset']}: expected a whole number, for example 17.")
    weights = arguments["weights"]
    if isinstance(weights, (list, tuple)):
        if len(weights) != 1:
            raise OptionError(f"--weights {weights}: export takes one checkpoint at a time.")
        found["weights"] = weights[0]
    return found


def check_weights(weights: str) -> None:
    """Refuse weights that cannot be exported; URLs and the names that upstream downloads are upstream's business."""
    path = Path(weights)
    if path.suffix == ".onnx":
        raise ExportError(f"--weights {weights}: this is an exported model already. Name the checkpoint, a .pt file.")
    if path.is_dir():
        raise CheckpointError(f"--weights {weights}: this is a directory. Name the checkpoint in it, best.pt.")
    if not path.is_file() and (path.parent != Path(".") or not path.stem.startswith("yolov5")) and "://" not in weights:
        near = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
        raise CheckpointError(
            f"--weights {weights}: there is no such file. " + (nearest(path.name, near) if near else "Check the path.")
        )
