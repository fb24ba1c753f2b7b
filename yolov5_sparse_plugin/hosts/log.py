"""The host's loggers: our lines stand among its own, and its files where the user wants them."""

from __future__ import annotations

import inspect
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
