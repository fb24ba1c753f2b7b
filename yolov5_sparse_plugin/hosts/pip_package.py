"""The doorways of the PyPI package `yolov5`: functions wrapped where they are defined, once, at import.

A doorway passes everything through while nothing sparse is in play.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from yolov5_sparse_plugin.hosts.command_line import PARSED, TYPED, exit_plainly, parse_opt, with_options
from yolov5_sparse_plugin.hosts.patchset import View

MARK = "__yolov5_sparse_original__"
_attached: list[tuple[Any, str, Any]] = []
SCRIPTS = "sparseml.yolov5.scripts"


def wrap(owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """Replace `owner.name` by `make(original)`, unless it is ours already."""
    original = owner.__dict__[name] if isinstance(owner, type) else getattr(owner, name, None)
    if original is None or hasattr(original, MARK):
        return
    made = make(original)
    signature = getattr(made, "__sparse_signature__", None) or inspect.signature(original)
    wrapper = functools.wraps(original)(made)
    del wrapper.__wrapped__  # python-fire reads signatures through it
    wrapper.__signature__ = signature
    wrapper.__doc__ = getattr(made, "__sparse_help__", original.__doc__)
    setattr(wrapper, MARK, original)
    setattr(owner, name, wrapper)
    _attached.append((owner, name, wrapper))


def detach() -> None:
    """Restore the doorways that are still ours."""
    while _attached:
        owner, name, wrapper = _attached.pop()
        if getattr(owner, name, None) is wrapper:
            setattr(owner, name, getattr(wrapper, MARK))


def attached() -> list[str]:
    """Return the doorways in place, as dotted names."""
    return [
        f"{getattr(o, '__module__', None) or o.__name__}.{n}"
        if not isinstance(o, type)
        else f"{o.__module__}.{o.__name__}.{n}"
        for o, n, _ in _attached
    ]


def attach_module(module: ModuleType) -> None:
    """Wrap the doorways that `module` holds. Twice is a no-op."""
    name = module.__name__
    if name == "yolov5.train":
        wrap(module, "parse_opt", parse_opt)
        wrap(module, "run", run)
        wrap(module, "run_cli", run_cli)
        wrap(module, "train", train)
        wrap(module, "check_yaml", check_yaml)
    elif name == "yolov5.export":
        wrap(module, "parse_opt", functools.partial(parse_opt, command="export"))
        wrap(module, "run", export)
        provide(module, "export_run", export_run)
    elif name == "yolov5.val":
        wrap(module, "parse_opt", functools.partial(parse_opt, command="val"))
        wrap(module, "run", functools.partial(infer, command="val", summary="Validate a YOLOv5 model."))
        provide(module, "val_run", lambda run: lambda **kwargs: exit_plainly(lambda: run(**kwargs)))
    elif name == "yolov5.detect":
        wrap(module, "parse_opt", functools.partial(parse_opt, command="detect"))
        wrap(module, "run", functools.partial(infer, command="detect", summary="Detect objects with a YOLOv5 model."))
    elif name == "yolov5.segment.train":
        wrap(module, "train", segment_train)
        wrap(module, "run_cli", lambda original: lambda **kwargs: exit_plainly(lambda: original(**kwargs)))
    elif name == "yolov5.helpers":
        wrap(module, "load_model", load_model)
    elif name == "yolov5.models.experimental":
        wrap(module, "attempt_load", attempt_load)
    elif name == "yolov5.models.common":
        wrap(module.DetectMultiBackend, "__init__", detect_multi_backend)


def provide(module: ModuleType, name: str, make: Callable[[Callable], Callable]) -> None:
    """Give a module the function `name` that only the predecessor's had, made from its `run`; SparseML imports it."""
    if not hasattr(module, name):
        setattr(module, name, make(module.run))


def serve(name: str) -> None:
    """Run one of YOLOv5's scripts for `python -m`, as a module that the doorways are attached to."""
    script = importlib.import_module(name)
    exit_plainly(lambda: script.main(script.parse_opt()) if name == "yolov5.train" else script.main())


def run(original: Callable) -> Callable:
    """Remember the keywords of `yolov5.train.run(**kwargs)`."""

    def wrapper(**kwargs: Any) -> Any:
        typed = dict(TYPED) if kwargs == PARSED else kwargs
        TYPED.clear()
        TYPED.update(typed)
        call = functools.partial(original, **kwargs)
        try:
            return exit_plainly(call) if sys._getframe(1).f_globals.get("__name__") == SCRIPTS else call()
        finally:
            TYPED.clear()

    return wrapper


def run_cli(original: Callable) -> Callable:
    """Remember the flags of `yolov5 train …`, and end in a sentence instead of a traceback."""
    inner = run(original)

    def wrapper(**kwargs: Any) -> Any:
        return exit_plainly(lambda: inner(**kwargs))

    return wrapper


def export(original: Callable) -> Callable:
    """Export through the plugin."""

    def execute(arguments: dict[str, Any], own: dict[str, Any], typed: set[str]) -> Any:
        from yolov5_sparse_plugin.export import entry

        return entry.export(original, arguments, own, typed)

    return with_options(original, "export", execute, "Export a YOLOv5 model.")


def export_run(run: Callable) -> Callable:
    """Export as the predecessor did: several weights one after the other, as ONNX unless told otherwise."""

    def each(**kwargs: Any) -> list[Any]:
        typed = set(TYPED) if kwargs == PARSED else set(kwargs)
        weights = kwargs.pop("weights", [])
        files = []
        for file in weights if isinstance(weights, (list, tuple)) else [weights]:
            given = {name: value for name, value in kwargs.items() if name in typed}
            files += exit_plainly(lambda given=given, file=file: run(**{"include": ["onnx"], **given, "weights": file}))
        return files

    return each


def infer(original: Callable, command: str, summary: str) -> Callable:
    """Validate or detect as upstream does, once stubs are files."""

    def execute(arguments: dict[str, Any], own: dict[str, Any], typed: set[str]) -> Any:
        from yolov5_sparse_plugin.inference import prepared

        with prepared(arguments, own, command) as arguments:
            return original(**arguments)

    return with_options(original, command, execute, summary)


def train(original: Callable) -> Callable:
    """Train sparse where something sparse was asked for, else as upstream does."""

    def wrapper(hyp: Any, opt: Any, device: Any, callbacks: Any) -> Any:
        from yolov5_sparse_plugin.hosts.class_tree import own_activation
        from yolov5_sparse_plugin.training import entry

        with own_activation():  # a v5.0 model's Hardswish is not the next run's
            return entry.train(original, hyp, opt, device, callbacks, dict(TYPED))

    return wrapper


def check_yaml(original: Callable) -> Callable:
    """Find the files for `--cfg` and `--hyp` that YOLOv5 no longer has; a file of the user's goes first."""

    def wrapper(file: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin import legacy_files

        return original(legacy_files.find(file) or file, *args, **kwargs)

    return wrapper


def segment_train(original: Callable) -> Callable:
    """Let segmentation start from a stub; upstream's own would start from random weights without a word."""

    def wrapper(hyp: Any, opt: Any, device: Any, callbacks: Any) -> Any:
        from yolov5_sparse_plugin.inference import located

        opt.weights = located(opt.weights)
        return original(hyp, opt, device, callbacks)

    return wrapper


def mend_loggers(loggers: Any) -> Any:
    """Let a sparse run log to Weights & Biases: 7.0.14 passes `best_result` to an `end_epoch` that lost it."""
    wandb = getattr(loggers, "wandb", None)
    if wandb is not None and "best_result" not in inspect.signature(wandb.end_epoch).parameters:
        end_epoch = wandb.end_epoch
        wandb.end_epoch = lambda **_: end_epoch()
    return loggers


def attempt_load(original: Callable) -> Callable:
    """Load a quantized checkpoint with its quantizers; every other file as upstream does."""

    def wrapper(weights: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.inference import brought

        with brought(weights) as files:
            return load(absolute(files), *args, **kwargs)

    def load(weights: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.training import checkpoints, legacy, unpickling

        files = weights if isinstance(weights, list) else [weights]
        for file in files:
            unpickling.check_whole(file)
        guarding = checkpoints.guarding()  # an export reads every checkpoint, upstream's own commands read theirs
        if not guarding and not any(checkpoints.is_sparse(file) for file in files):
            return original(weights, *args, **kwargs)
        namespace = original.__globals__
        torch = namespace["torch"]
        view = View(torch)
        view.load = checkpoints.loader(legacy.readable(torch.load) if guarding else torch.load)
        namespace["torch"] = view
        try:
            return original(weights, *args, **kwargs)
        finally:
            namespace["torch"] = torch

    return wrapper


def detect_multi_backend(original: Callable) -> Callable:
    """Hand over absolute paths: upstream asks a model hub for `weights/best.pt` before it looks at the disk."""

    def wrapper(self: Any, weights: Any = "yolov5s.pt", *args: Any, **kwargs: Any) -> None:
        from yolov5_sparse_plugin.inference import brought

        with brought(weights) as files:
            original(self, absolute(files), *args, **kwargs)

    return wrapper


def load_model(original: Callable) -> Callable:
    """Let `yolov5.load` load by stub; upstream's own would try twice, and log the first error as a warning."""

    def wrapper(model_path: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.inference import brought

        with brought(model_path) as file:
            return original(file, *args, **kwargs)

    return wrapper


def absolute(file: Any) -> Any:
    """Return the absolute path of a file that exists: upstream asks a model hub about relative ones, offline too.

    Of several, a list.
    """
    if isinstance(file, (list, tuple)):
        return [absolute(each) for each in file]
    return str(Path(file).resolve()) if isinstance(file, (str, Path)) and Path(file).is_file() else file
