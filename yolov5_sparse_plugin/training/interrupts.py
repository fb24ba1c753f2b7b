"""Ctrl-C and SIGTERM: a run ends with its last complete checkpoint, and says how to go on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Run


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: everything is restored and closed on the way out."""

    exit_status = 128 + signal.SIGTERM


_listening = False


def _before_fork() -> None:
    """Hold SIGTERM back: one that reaches a child before it is on its own would be lost, and be waited for."""
    if _listening:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _after_fork() -> None:
    if _listening:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _in_child() -> None:
    """Let a child (a worker that scans labels or loads images) die of SIGTERM as it would without us."""
    if _listening:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _after_fork()


if hasattr(os, "register_at_fork"):  # cannot be undone, hence `_listening`
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM, unless somebody else sees to it, or the run is not in the main thread."""

    def end(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    global _listening
    signal.signal(signal.SIGTERM, end)
    _listening = True
    try:
        yield
    finally:
        _listening = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell(run: Run, interrupt: KeyboardInterrupt) -> None:
    """Say where the run was, and how to go on; note that it has been said."""
    how = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
    trained = run.saved < run.completed and not run.opt.nosave  # and not validated
    epoch = run.completed if trained else min(run.completed + 1, run.epochs)
    where = f"{how} in epoch {epoch} of {run.epochs} ({run.phase})"
    if run.saved:
        last = run.save_dir / "weights" / "last.pt"
        run.say(
            f"{where}; {last} holds {run.saved} complete epoch{'s' * (run.saved > 1)}. Go on with: --resume {last}",
            warn=True,
        )
    else:
        run.say(f"{where}; there is no checkpoint yet to go on from", warn=True)
    vars(interrupt)["said"] = True
