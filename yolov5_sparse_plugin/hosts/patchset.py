"""Replace globals of one function's module while one call lasts, and put them back.

Only the namespace that reads a name is changed, never the library that owns it: `torch.save` is replaced by putting
a view of `torch` into the namespace of `train()`; everybody else's `torch` stays as it is.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any, Callable

from yolov5_sparse_plugin.errors import HostError
from yolov5_sparse_plugin.hosts.seams import SEAMS, SUPPORTED

ABSENT = object()


class View:
    """An object that looks like `target` but for a few attributes: `own`, and what is put into its `vars`."""

    def __init__(self, target: Any, **own: Any):
        self._target = target
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __repr__(self) -> str:
        return f"<view of {self._target!r}>"


@functools.cache
def globals_read(code: CodeType) -> set[str]:
    """Return the names that `code`, or a function nested in it, loads as globals."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= globals_read(constant)
    return names


def with_nominal_batch(train: FunctionType, images: int, version: str = "?") -> FunctionType:
    """Return a copy of the host's `train()` that steps its optimizer every `images` images, not every 64.

    Everything that upstream derives from the number follows: accumulation, its warm-up, the scale of weight decay.

    Raises:
        HostError: `train()` does not say `nbs = 64` once.
    """
    code = train.__code__
    found = list(dis.get_instructions(code))
    pairs = [(a.argval, b.argval) for a, b in zip(found, found[1:]) if a.opname == "LOAD_CONST" and a.argval == 64]
    if pairs != [(64, "nbs")]:
        raise HostError(
            f"This YOLOv5 ({version}) does not accumulate to a nominal batch size 'nbs' of 64 in {train.__name__}(); "
            f"yolov5-sparse-plugin knows {SUPPORTED}. Leave --gradient-accum-steps out."
        )
    constants = tuple(images if type(c) is int and c == 64 else c for c in code.co_consts)
    copy = FunctionType(
        code.replace(co_consts=constants), train.__globals__, train.__name__, train.__defaults__, train.__closure__
    )
    copy.__kwdefaults__ = train.__kwdefaults__
    functools.update_wrapper(copy, train, assigned=(), updated=())  # `inspect.unwrap` finds the way back
    return copy


def look_up(namespace: dict[str, Any], dotted: str) -> Any:
    """Return what `torch.cuda.amp.autocast` is in `namespace`; raise LookupError where there is nothing."""
    root, *rest = dotted.split(".")
    value = namespace[root]
    for name in rest:
        try:
            value = getattr(value, name)
        except AttributeError as error:
            raise LookupError(dotted) from error
    return value


def undecorated(function: Callable) -> Callable:
    """Return what upstream's `@try_export` wraps: the decorator turns every exception into a line of log."""
    inner = inspect.getclosurevars(function).nonlocals.get("inner_func")
    return inner if callable(inner) else function


def present(function: Callable[..., Any], dotted: str) -> bool:
    """Return whether `function` reads the global that `dotted` begins with, and the rest of it is there."""
    try:
        look_up(function.__globals__, dotted)
    except LookupError:
        return False
    return dotted.split(".")[0] in globals_read(function.__code__)


class PatchSet:
    """The replacements of one call of `function`; use as a context manager.

    Args:
        function: the host's function whose globals are replaced, usually `train`.
        wrappers: seam name -> function that takes the original and returns the replacement.
        version: the host's version, for messages.

    Raises:
        HostError: a seam is missing, on construction, before anything is replaced.
    """

    def __init__(self, function: Callable[..., Any], wrappers: Mapping[str, Callable[[Any], Any]], version: str = "?"):
        self.namespace = function.__globals__
        self.calls = {name: 0 for name in wrappers}
        self._wrappers = wrappers
        self._version = version
        self._restore: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._targets: dict[str, str] = {}
        for name in wrappers:
            found = [dotted for dotted in SEAMS[name].targets if present(function, dotted)]
            if found:
                self._targets[name] = found[0]
            elif SEAMS[name].required:
                raise HostError(
                    f"This YOLOv5 ({version}) has no {SEAMS[name].targets[0]!r} in {function.__name__}(); "
                    f"yolov5-sparse-plugin knows {SUPPORTED}. Nothing was changed. "
                    "Install one of these, or run without sparse options."
                )

    def _counted(self, name: str, replacement: Any) -> Any:
        """Count calls, so that a seam that the host no longer calls is noticed; classes stay what they are."""
        if isinstance(replacement, type):
            return replacement

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return replacement(*args, **kwargs)

        return call

    def __enter__(self) -> PatchSet:
        for name, dotted in self._targets.items():
            replacement = self._wrappers[name](look_up(self.namespace, dotted))
            self._put(dotted, self._counted(name, replacement))
        return self

    def _put(self, dotted: str, replacement: Any) -> None:
        *path, leaf = dotted.split(".")
        holder, value = self.namespace, None
        for name in path:
            value = holder[name] if value is None else getattr(value, name)
            if not isinstance(value, View):  # a set around this one may have put it there
                value = View(value)
                self._set(holder, name, value)
            holder = vars(value)
        self._set(holder, leaf, replacement)

    def _set(self, holder: dict[str, Any], name: str, value: Any) -> None:
        self._restore.append((holder, name, holder.get(name, ABSENT), value))
        holder[name] = value

    def __exit__(self, *exc: object) -> None:
        for holder, name, before, ours in reversed(self._restore):
            if holder.get(name) is not ours:  # somebody else's later patch is theirs to take off
                continue
            if before is ABSENT:
                del holder[name]
            else:
                holder[name] = before
        self._restore.clear()

    def require_called(self, leads: bool = True) -> None:
        """Raise HostError where the host finished without passing through a required seam.

        Args:
            leads: whether this process validates and writes; others don't come by some of the seams.
        """
        for name, count in self.calls.items():
            seam = SEAMS[name]
            if count or not seam.required or seam.is_class or (seam.leader and not leads):
                continue
            raise HostError(
                f"This YOLOv5 ({self._version}) never called {self._targets[name]!r}, which the plugin needs for: "
                f"{seam.reason}. The run's result cannot be trusted."
            )
