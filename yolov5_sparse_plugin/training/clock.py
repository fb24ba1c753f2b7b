"""The recipe's clock: it counts batches, whatever gradient accumulation does with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable


class EpochClock:
    """Count every batch exactly once.

    Upstream calls `optimizer.step()` only every `accumulate` batches, and that number grows during warm-up; a recipe
    that says "epoch 2" means two passes over the data. A batch is opened when it starts and counted either by the
    step that ends it or, where none came, when the next one starts or the epoch ends.

    Args:
        count: called for a batch without a step (SparseML's `emulated_step`).
    """

    def __init__(self, count: Callable[[], None]):
        self._count = count
        self._open = False

    def start_batch(self) -> None:
        """Settle the previous batch and open the next."""
        self.settle()
        self._open = True

    def stepped(self) -> None:
        """Note that an optimizer step counted the open batch."""
        self._open = False

    def settle(self) -> None:
        """Count the open batch if no step did."""
        if self._open:
            self._open = False
            self._count()


def watch(loader: Any, epoch: Callable[[], None], batch: Callable[[], None]) -> None:
    """Let a DataLoader, changed in place, tell when a pass over the data begins, and each batch of it.

    This is where every `train()` of YOLOv5 passes on every rank; segmentation's fires no callbacks.

    Args:
        epoch: called before the first batch of a pass is fetched.
        batch: called with each batch at hand, before the loop gets it.
    """

    kind: Any = type(loader)

    class Watched(kind):
        def __iter__(self) -> Iterator[Any]:
            epoch()
            for item in super().__iter__():
                batch()
                yield item

    Watched.__name__ = Watched.__qualname__ = kind.__name__
    loader.__class__ = Watched
