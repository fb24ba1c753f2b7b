"""The host's loggers: our lines stand among its own, and its files where the user wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable


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
