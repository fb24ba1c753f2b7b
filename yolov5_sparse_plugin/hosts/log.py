"""Speak through the host's own logger, so that our lines stand among its own."""

from __future__ import annotations

from typing import Any


def say(host: dict[str, Any], message: str, warn: bool = False) -> None:
    """Print a line; `host` is the namespace of the host's module that is running."""
    log = host["LOGGER"]
    prefix = host["colorstr"]("sparse: ")
    (log.warning if warn else log.info)(prefix + ("WARNING ⚠️ " if warn else "") + message)
