"""Ctrl-C and SIGTERM: a run ends with its last complete checkpoint, and says how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolov5_sparse_plugin.training.run import TrainingRun


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: everything is restored and closed on the way out."""

    exit_status = 128 + signal.SIGTERM


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM, unless somebody else sees to it, or the run is not in the main thread."""

    def end(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell(run: TrainingRun, interrupt: KeyboardInterrupt) -> None:
    """Say where the run was, and how to go on; note that it has been said."""
    last = run.save_dir / "weights" / "last.pt"
    how = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
    where = f"{how} in epoch {min(run.completed + 1, run.epochs)} of {run.epochs} ({run.phase})"
    if run.completed and last.is_file():
        run.say(f"{where}; {last} has the epochs before. Go on with: --resume {last}", warn=True)
    else:
        run.say(f"{where}; there is no checkpoint yet to go on from", warn=True)
    interrupt.said = True
