"""The host's loggers: our lines stand among its own, and its files where the user wants them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable


class Said(list):
    """What a command returns and has said; python-fire would print it again, below what there is to say of it."""


def say(host: dict[str, Any], message: str, warn: bool = False) -> None:
    """Print a line; `host` is the namespace of the host's module that is running."""
    log = host["LOGGER"]
    prefix = host["colorstr"]("sparse: ")
    (log.warning if warn else log.info)(prefix + ("WARNING ⚠️ " if warn else "") + message)


def redirected(build: Callable[..., Any], folder: str | None) -> Callable[..., Any]:
    """Return what builds the host's `Loggers`, so that they write into `folder`; None: into the run's own."""
    if folder is None:
        return build

    def loggers(save_dir: Path, *args: Any, **kwargs: Any) -> Any:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return build(Path(folder), *args, **kwargs)

    return loggers


def mend_loggers(loggers: Any) -> Any:
    """Let a sparse run log to Weights & Biases: 7.0.14 passes `best_result` to an `end_epoch` that lost it."""
    wandb = getattr(loggers, "wandb", None)
    if wandb is not None and "best_result" not in inspect.signature(wandb.end_epoch).parameters:
        end_epoch = wandb.end_epoch
        wandb.end_epoch = lambda **_: end_epoch()
    return loggers


def with_figures(loggers: Any, figures: Callable[[], dict[str, float]]) -> Any:
    """Let the host's loggers, changed in place, write down `figures` with those of every validation."""
    write = loggers.on_fit_epoch_end

    def write_all(vals: list[Any], *args: Any, **kwargs: Any) -> Any:
        add(loggers, vals, figures())
        return write(vals, *args, **kwargs)

    loggers.on_fit_epoch_end = write_all
    return loggers


def add(loggers: Any, vals: list[Any], figures: dict[str, float]) -> None:
    """Add figures, in place, to the values that the host's loggers are about to get, and to the names of these."""
    names = getattr(loggers, "class_name_keys", loggers.keys)
    if len(vals) < len({*loggers.keys, *names} - set(figures)):
        return  # upstream's extra call after COCO's own evaluation has no per-class figures to put ours behind
    for position, name in enumerate(loggers.keys):
        if name in figures and position < len(vals):
            vals[position] = figures.pop(name)
    for name, value in figures.items():
        if name not in names:
            names.append(name)
        vals.append(value)


@contextlib.contextmanager
def registered(callbacks: Any) -> Iterator[None]:
    """Take off what `train()` registers with the host's Callbacks while this lasts.

    Upstream's default Callbacks() outlives the call: afterwards it holds what it held before, so that this run's
    loggers don't write down the epochs of the next one in the same process.
    """
    actions = callbacks._callbacks  # master has no public way to them
    before = {event: list(listed) for event, listed in actions.items()}
    try:
        yield
    finally:
        for event, listed in actions.items():
            listed[:] = before[event]
