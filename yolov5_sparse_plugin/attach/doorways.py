"""The doorways: functions of the host that are wrapped where they are defined, once, as soon as their module is there.

A doorway passes everything through while nothing sparse is in play. `DOORWAYS`, at the end, lists them by module; they
are the same in every host, which only names its modules: `yolov5.train`, or `train` in a checkout.
"""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Callable

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.attach.command_line import PARSED, TYPED, caller, exit_plainly, parse_opt, with_options
from yolov5_sparse_plugin.errors import HostError, OptionError, end
from yolov5_sparse_plugin.hosts import current, mends
from yolov5_sparse_plugin.hosts.host import Host
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.hosts.seams import SUPPORTED

MARK = "__yolov5_sparse_original__"
_attached: list[tuple[Any, str, Any]] = []
SCRIPTS = "sparseml.yolov5.scripts"


@dataclass(frozen=True)
class Doorway:
    """A function of the host that is wrapped.

    Attributes:
        name: in its module; `Class.method` too.
        make: the original -> what is called in its place.
        required: without it the plugin cannot keep what it promises; others exist in some hosts only.
    """

    name: str
    make: Callable[[FunctionType], Callable]
    required: bool = True


def wrap(host: Host, owner: Any, name: str, make: Callable[[FunctionType], Callable]) -> None:
    """Replace `owner.name` by `make(original)`, unless it is ours already."""
    original = owner.__dict__.get(name) if isinstance(owner, type) else getattr(owner, name, None)
    if original is None or hasattr(original, MARK):
        return
    made = make(original)
    signature = getattr(made, "__sparse_signature__", None) or inspect.signature(original)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with current.using(host):
            return made(*args, **kwargs)

    del wrapper.__wrapped__  # python-fire reads signatures through it
    vars(wrapper).update({"__signature__": signature, MARK: original})
    wrapper.__doc__ = getattr(made, "__sparse_help__", original.__doc__)
    setattr(owner, name, wrapper)
    _attached.append((owner, name, wrapper))


def detach() -> None:
    """Restore the doorways that are still ours, and take off the mends."""
    mends.undo()
    while _attached:
        owner, name, wrapper = _attached.pop()
        if getattr(owner, name, None) is wrapper:
            setattr(owner, name, getattr(wrapper, MARK))


def attached() -> list[str]:
    """Return the doorways in place, as dotted names."""
    owners = [f"{o.__module__}.{o.__name__}" if isinstance(o, type) else o.__name__ for o, _, _ in _attached]
    return [f"{owner}.{name}" for owner, (_, name, _) in zip(owners, _attached)]


def attach(host: Host, module: ModuleType, name: str) -> None:
    """Wrap the doorways of the host's module `name` (`train`), all of them or none. Twice is a no-op."""
    mends.mend(host)
    doors = [(*_owner(module, door.name), door) for door in DOORWAYS.get(name, ())]
    missing = [door.name for owner, leaf, door in doors if door.required and not hasattr(owner, leaf)]
    if missing:
        moved_on(host, name, missing[0])
        return
    for owner, leaf, door in doors:
        wrap(host, owner, leaf, door.make)


def _owner(module: ModuleType, dotted: str) -> tuple[Any, str]:
    holder, _, leaf = dotted.rpartition(".")
    return (getattr(module, holder, None) if holder else module), leaf


def moved_on(host: Host, name: str, missing: str) -> None:
    """Refuse a sparse command, warn in any other: this YOLOv5 lacks a doorway."""
    message = (
        f"This YOLOv5 ({host.title}) has no {missing!r} in {name.replace('.', '/')}.py; yolov5-sparse-plugin knows "
        f"{SUPPORTED}. Nothing was changed. Install one of these, or run without sparse options."
    )

    if options.wanted():
        end(HostError(message))
    print(f"yolov5-sparse: warning: {message}", file=sys.stderr)


def run(original: Callable) -> Callable:
    """Remember the keywords of `yolov5.train.run(**kwargs)`."""

    def wrapper(**kwargs: Any) -> Any:
        typed = dict(TYPED) if kwargs == PARSED else kwargs
        TYPED.clear()
        TYPED.update(typed)
        call = functools.partial(original, **kwargs)
        try:
            return exit_plainly(call) if caller().get("__name__") == SCRIPTS else call()
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


def infer(original: Callable, command: str, summary: str) -> Callable:
    """Validate or detect as upstream does, once stubs are files."""

    def execute(arguments: dict[str, Any], own: dict[str, Any], typed: set[str]) -> Any:
        from yolov5_sparse_plugin.attach.inference import prepared

        with prepared(arguments, own, command) as arguments:
            return original(**arguments)

    return with_options(original, command, execute, summary)


def train(original: FunctionType) -> Callable:
    """Train sparse where something sparse was asked for, else as upstream does."""

    def wrapper(hyp: Any, opt: Any, device: Any, callbacks: Any) -> Any:
        from yolov5_sparse_plugin.hosts.model_yaml import own_activation
        from yolov5_sparse_plugin.training import entry

        with own_activation():  # a v5.0 model's Hardswish is not the next run's
            return entry.train(original, hyp, opt, device, callbacks, dict(TYPED))

    return wrapper


def main(original: Callable) -> Callable:
    """Let `--resume` read the options of a run without opt.yaml as checkpoints are read; the rest is upstream's."""

    def wrapper(opt: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.checkpoints import reading, unpickling

        def reader(torch_load: Callable) -> Callable:
            def load(file: Any, *args: Any, **kwargs: Any) -> Any:
                if reading.is_sparse(file) or options.resolve(TYPED).sparse:
                    return unpickling.load(file)
                return torch_load(file, *args, **kwargs)

            return load

        if not opt.resume:
            return original(opt, *args, **kwargs)
        with PatchSet(original, {"resume_load": reader}, current.host().title):
            return original(opt, *args, **kwargs)

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
        from yolov5_sparse_plugin.attach.inference import located
        from yolov5_sparse_plugin.checkpoints import legacy

        what = options.resolve({}).sparse
        if what:
            raise OptionError(f"{what}: recipes are for detection models; this is segmentation. Take it out.")
        found = located(opt.weights)
        came = {"load": legacy.readable} if found != opt.weights else {}
        opt.weights = found
        with PatchSet(original, came, current.host().title):
            return original(hyp, opt, device, callbacks)

    return wrapper


def attempt_load(original: Callable) -> Callable:
    """Load a quantized checkpoint with its quantizers; every other file as upstream does."""

    def wrapper(weights: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.attach.inference import brought

        with brought(weights) as files:
            return load(absolute(files), *args, **kwargs)

    def load(weights: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.checkpoints import legacy, reading
        from yolov5_sparse_plugin.checkpoints.file import look

        files = [look(file) for file in (weights if isinstance(weights, list) else [weights])]
        for file in files:
            file.check()
        guarding = reading.guarding()  # an export reads every checkpoint, upstream's own commands read theirs
        if not guarding and not any(file.sparse for file in files):
            return original(weights, *args, **kwargs)

        def reader(torch_load: Callable) -> Callable:
            return reading.loader(legacy.readable(torch_load) if guarding else torch_load)

        with PatchSet(original, {"weights": reader}, current.host().title):
            return original(weights, *args, **kwargs)

    return wrapper


def detect_multi_backend(original: Callable) -> Callable:
    """Hand over absolute paths: upstream asks a model hub for `weights/best.pt` before it looks at the disk."""

    def wrapper(self: Any, weights: Any = "yolov5s.pt", *args: Any, **kwargs: Any) -> None:
        from yolov5_sparse_plugin.attach.inference import brought

        with brought(weights) as files:
            original(self, absolute(files), *args, **kwargs)

    return wrapper


def load_model(original: Callable) -> Callable:
    """Let `yolov5.load` load by stub; upstream's own would try twice, and log the first error as a warning."""

    def wrapper(model_path: Any, *args: Any, **kwargs: Any) -> Any:
        from yolov5_sparse_plugin.attach.inference import brought

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


DOORWAYS: dict[str, tuple[Doorway, ...]] = {
    "train": (
        Doorway("parse_opt", parse_opt),
        Doorway("run", run),
        Doorway("run_cli", run_cli, required=False),
        Doorway("main", main),
        Doorway("train", train),
        Doorway("check_yaml", check_yaml),
    ),
    "export": (Doorway("parse_opt", functools.partial(parse_opt, command="export")), Doorway("run", export)),
    "val": (
        Doorway("parse_opt", functools.partial(parse_opt, command="val")),
        Doorway("run", functools.partial(infer, command="val", summary="Validate a YOLOv5 model.")),
    ),
    "detect": (
        Doorway("parse_opt", functools.partial(parse_opt, command="detect")),
        Doorway("run", functools.partial(infer, command="detect", summary="Detect objects with a YOLOv5 model.")),
    ),
    "segment.train": (
        Doorway("train", segment_train),
        Doorway("run_cli", lambda original: lambda **kw: exit_plainly(lambda: original(**kw)), required=False),
    ),
    "helpers": (Doorway("load_model", load_model),),
    "models.experimental": (Doorway("attempt_load", attempt_load),),
    "models.common": (Doorway("DetectMultiBackend.__init__", detect_multi_backend),),
}
