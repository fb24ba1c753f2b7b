"""The doorway of validation, detection and loading: stubs become files before YOLOv5 looks at their suffix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yolov5_sparse_plugin import datasets, manager, options


@contextmanager
def prepared(arguments: Mapping[str, Any], own: Mapping[str, Any], command: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `val` or `detect` as upstream takes them: weights are files, `data` is where it is.

    Args:
        arguments: upstream's, by name. own: the plugin's options by keyword, as typed.
    """
    found = {**arguments, "weights": located(arguments["weights"], own, command)}
    root = options.resolve(own, command=command).data_path
    with datasets.relocated(found["data"], root if command == "val" else None) as found["data"]:
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
    stubs = [isinstance(word, str) and word.strip().startswith("zoo:") for word in listed]
    if not own and not any(stubs):
        return weights
    chosen = options.resolve(own or {}, command=command)
    if not any(stubs):
        return weights
    hooks = manager.create(chosen.hooks, options.disabled_hooks())
    found = [manager.resolve(hooks, "weights", w, chosen) if stub else w for w, stub in zip(listed, stubs)]
    return found if several else found[0]
