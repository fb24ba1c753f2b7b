"""`--noval`, on which 7.0.14 fails: after its first epoch it logs figures of a validation that it has skipped.

`--evolve` implies it. A sparse run lets `train()` believe that it validates every epoch, and skips all but the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Callable

import numpy as np


def broken(train: FunctionType) -> bool:
    """Return whether `train()` reads what only a validation sets (mAP50 by class; older ones don't log it)."""
    return "map50s" in train.__code__.co_varnames


@contextlib.contextmanager
def mended(train: FunctionType, opt: Any, callbacks: Any) -> Iterator[None]:
    """Hide `--noval` from `train()` while it reads its options; what it writes down afterwards is the truth."""
    if not (opt.noval and broken(train)):
        yield
        return

    def told() -> None:
        opt.noval = True

    opt.noval = False
    callbacks.register_action("on_pretrain_routine_start", name="yolov5_sparse", callback=told)  # it has read them
    try:
        yield
    finally:
        told()


def last_only(run: Any) -> dict[str, Callable[[Any], Any]]:
    """Return the seam that skips the validations of a run with `--noval`, but the last epoch's and that of best.pt."""

    def validate(upstream: Callable[..., Any]) -> Callable[..., Any]:
        def unless_skipped(*args: Any, **kwargs: Any) -> Any:
            if run.completed >= run.epochs:
                return upstream(*args, **kwargs)
            none = np.zeros(run.model.nc)
            return (0.0,) * 7, none, none, (0.0, 0.0, 0.0)  # upstream's own figures before the first validation

        return unless_skipped

    return {"validate": validate} if run.opt.noval and broken(run.train) else {}
