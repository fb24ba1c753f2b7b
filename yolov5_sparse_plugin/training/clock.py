"""The recipe's clock: it counts batches, whatever gradient accumulation does with them."""

from __future__ import annotations

from typing import Callable


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
