"""The doorway of validation, detection and loading: stubs become files before YOLOv5 looks at their suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from yolov5_sparse_plugin import manager, options
from yolov5_sparse_plugin.hosts import datasets
from yolov5_sparse_plugin.stubs import is_stub


@contextmanager
def prepared(arguments: Mapping[str, Any], own: Mapping[str, Any], command: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `val` or `detect` as upstream takes them: weights are files, `data` is where it is.

    Args:
        arguments: upstream's, by name. own: the plugin's options by keyword, as typed.
    """
    found, root = dict(arguments), options.resolve(own, command=command).data_path
    with (
        brought(arguments["weights"], own, command) as found["weights"],
        datasets.relocated(found["data"], root if command == "val" else None) as found["data"],
    ):
        yield found


@contextmanager
def brought(weights: Any, own: Mapping[str, Any] | None = None, command: str = "val") -> Iterator[Any]:
    """Yield weights as from `located`; while it lasts, checkpoints that came by stub are read with care.

    Who made them is not known: nothing in them is called that is no part of a YOLOv5 model, see `unpickling`.
    """
    from yolov5_sparse_plugin.checkpoints import reading

    found = located(weights, own, command)
    with nullcontext() if found is weights else reading.whole_pickles():
        yield found


def located(weights: Any, own: Mapping[str, Any] | None = None, command: str = "val") -> Any:
    """Return weights, one or several, with files in place of stubs; anything else as it is.

    Args:
        own: the plugin's options by keyword, as typed.

    Raises:
        OptionError, ZooError: with what to type instead.
    """
    several = isinstance(weights, (list, tuple))
    listed = list(weights) if several else [weights]
    stubs = [is_stub(word) for word in listed]
    if not own and not any(stubs):
        return weights
    chosen = options.resolve(own or {}, command=command)
    if not any(stubs):
        return weights
    hooks = manager.create(chosen.hooks, options.disabled_hooks())
    found = [manager.resolve(hooks, "weights", w, chosen) if stub else w for w, stub in zip(listed, stubs)]
    return found if several else found[0]
