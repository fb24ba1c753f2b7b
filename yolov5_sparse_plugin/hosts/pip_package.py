"""The doorways of the PyPI package `yolov5`: functions wrapped where they are defined, once, at import.

A doorway passes everything through while nothing sparse is in play.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.errors import SparsePluginError
from yolov5_sparse_plugin.hosts.patchset import View

MARK = "__yolov5_sparse_original__"
_attached: list[tuple[Any, str, Any]] = []
# what the user typed, from the doorway (`run`, `run_cli`, `parse_opt`) to `train()`; `main` replaces `opt` on resume
_typed: dict[str, Any] = {}


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
    elif name in ("yolov5.val", "yolov5.detect"):
        wrap(module, "run", plain_words)
    elif name == "yolov5.models.experimental":
        wrap(module, "attempt_load", attempt_load)
    elif name == "yolov5.models.common":
        wrap(module.DetectMultiBackend, "__init__", detect_multi_backend)


def serve(name: str) -> None:
    """Run `yolov5.train` or `yolov5.export` for `python -m`, as a module that the doorways are attached to."""
    script = importlib.import_module(name)
    exit_plainly(lambda: script.main(script.parse_opt()) if name == "yolov5.train" else script.main())


def exit_plainly(call: Callable[[], Any]) -> Any:
    """Run a command; print an error of ours as a sentence, not as a traceback, and exit with its status."""
    try:
        return call()
    except SparsePluginError as error:
        print(f"yolov5-sparse: error: {error}", file=sys.stderr)
        if os.environ.get("YOLOV5_SPARSE_TRACE", "0") not in ("", "0"):
            raise
        raise SystemExit(error.exit_status) from None


def parse_opt(original: Callable, command: str = "train") -> Callable:
    """Add the sparse options to the parser that upstream's parse_opt builds, and note what was typed."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        namespace = original.__globals__
        argparse = namespace["argparse"]

        class Parser(argparse.ArgumentParser):
            def parse_known_args(self, words=None, namespace=None):
                options.add_to_parser(self, command)
                result = super().parse_known_args(words, namespace)
                absent = object()
                probe = argparse.Namespace(**{a.dest: absent for a in self._actions})
                super().parse_known_args(words, probe)
                for name, value in vars(probe).items():
                    if value is not absent:
                        _typed.setdefault(name, value)  # keywords of run() go before the words of sys.argv
                return result

        view = View(argparse)
        view.ArgumentParser = Parser
        namespace["argparse"] = view
        try:
            return original(*args, **kwargs)
        finally:
            namespace["argparse"] = argparse

    return wrapper


def run(original: Callable) -> Callable:
    """Remember the keywords of `yolov5.train.run(**kwargs)`."""

    def wrapper(**kwargs: Any) -> Any:
        _typed.clear()
        _typed.update(kwargs)
        try:
            return original(**kwargs)
        finally:
            _typed.clear()

    return wrapper


def run_cli(original: Callable) -> Callable:
    """Remember the flags of `yolov5 train …`, and end in a sentence instead of a traceback."""
    inner = run(original)

    def wrapper(**kwargs: Any) -> Any:
        return exit_plainly(lambda: inner(**kwargs))

    return wrapper


def export(original: Callable) -> Callable:
    """Export with the sparse options in the signature: python-fire reads flags, defaults and help from it."""
    upstream = inspect.signature(original)
    ours = options.of_command("export")
    names = list(options.typed_names("export"))
    keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    others = inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)  # a misspelt flag reaches us, not fire

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.export import entry

        caller = sys._getframe(1).f_globals.get("__name__")
        by_fire = caller == "fire.core"
        if by_fire:
            if kwargs.get("help") is True:
                return show_help(wrapper, "yolov5 export")
            kwargs = {spelt_out(k, [*upstream.parameters, *names]): v for k, v in kwargs.items()}
        own = {k: v for k, v in kwargs.items() if k not in upstream.parameters and v is not None}
        call = upstream.bind(*args, **{k: v for k, v in kwargs.items() if k in upstream.parameters})
        # fire and argparse hand over every default; callers in Python only what they mean
        typed = flags_typed() if by_fire else set(_typed) if caller == "yolov5.export" else set(call.arguments)
        call.apply_defaults()
        execute = functools.partial(entry.export, original, call.arguments, own, typed)
        return exit_plainly(execute) if by_fire else execute()

    wrapper.__sparse_signature__ = upstream.replace(parameters=[*upstream.parameters.values(), *keywords, others])
    wrapper.__sparse_help__ = "Export a YOLOv5 model.\n\nArgs:\n" + "\n".join(
        f"    sparse_{o.name}: {o.help}" for o in ours
    )
    return wrapper


def show_help(function: Callable, name: str) -> None:
    """Print fire's help of a function that takes any flag, for which fire takes `--help` for one of them."""
    from fire import helptext, trace

    def shown() -> None: ...

    signature = inspect.signature(function)
    shown.__signature__ = signature.replace(
        parameters=[p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
    )
    shown.__doc__ = function.__doc__
    print(helptext.HelpText(shown, trace=trace.FireTrace(shown, name=name)))


def spelt_out(flag: str, names: list[str]) -> str:
    """Return the name that a one-letter flag is short for, as fire does where a function does not take any flag."""
    meant = [name for name in names if name.startswith(flag)] if len(flag) == 1 else []
    return meant[0] if len(meant) == 1 else flag


def flags_typed() -> set[str]:
    """Return the names of the flags on this process's command line; fire takes one dash for two."""
    flags = (word.lstrip("-") for word in sys.argv[1:] if word.startswith("-"))
    return {flag.split("=")[0].replace("-", "_") for flag in flags}


def train(original: Callable) -> Callable:
    """Train sparse where something sparse was asked for, else as upstream does."""

    def wrapper(hyp: Any, opt: Any, device: Any, callbacks: Any) -> Any:
        from yolov5_sparse_plugin.hosts.class_tree import own_activation
        from yolov5_sparse_plugin.training import entry

        with own_activation():  # a v5.0 model's Hardswish is not the next run's
            return entry.train(original, hyp, opt, device, callbacks, dict(_typed))

    return wrapper


def check_yaml(original: Callable) -> Callable:
    """Find the files for `--cfg` and `--hyp` that YOLOv5 no longer has; a file of the user's goes first."""

    def wrapper(file: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin import legacy_files

        return original(legacy_files.find(file) or file, *args, **kwargs)

    return wrapper


def plain_words(original: Callable) -> Callable:
    """Let `yolov5 val` and `yolov5 detect` end in a sentence where a checkpoint is refused; in Python it raises."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = functools.partial(original, *args, **kwargs)
        return exit_plainly(call) if sys._getframe(1).f_globals.get("__name__") == "fire.core" else call()

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
        from yolov5_sparse_plugin.training import checkpoints, legacy, unpickling

        files = weights if isinstance(weights, (list, tuple)) else [weights]
        weights = [absolute(f) for f in files] if isinstance(weights, (list, tuple)) else absolute(weights)
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
        several = isinstance(weights, (list, tuple))
        original(self, [absolute(f) for f in weights] if several else absolute(weights), *args, **kwargs)

    return wrapper


def absolute(file: Any) -> Any:
    """Return the absolute path of a file that exists: upstream asks a model hub about relative ones, offline too."""
    return str(Path(file).resolve()) if isinstance(file, (str, Path)) and Path(file).is_file() else file
