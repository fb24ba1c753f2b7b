"""Fitness that compares by phase first, so that a later phase always wins; see `checkpoints.phases`."""

from __future__ import annotations

from typing import Any

from yolov5_sparse_plugin.checkpoints.phases import rank


class PhaseFitness(float):
    """Upstream's fitness, a float that is printed and logged as such but compares by phase first.

    Upstream compares fitness with `>`, `>=` and `==` (best model, early stopping, loggers); the phase decides, and
    only within one phase the value.

    Args:
        phase: name of the phase that the model was in.
    """

    phase: str

    def __new__(cls, value: Any, phase: str) -> PhaseFitness:
        self = super().__new__(cls, value)
        self.phase = phase
        return self

    @property
    def rank(self) -> int:
        return rank(self.phase)

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return float, (float(self),)  # a checkpoint must be readable without this plugin

    def _key(self, other: Any) -> tuple[tuple[int, float], tuple[int, float]]:
        theirs = float(other)
        # upstream starts from 0.0, which every model beats, whatever its phase
        return (self.rank, float(self)), (getattr(other, "rank", self.rank if theirs else -1), theirs)

    def __gt__(self, other: Any) -> bool:
        mine, theirs = self._key(other)
        return mine > theirs

    def __ge__(self, other: Any) -> bool:
        mine, theirs = self._key(other)
        return mine >= theirs

    def __lt__(self, other: Any) -> bool:
        return not self >= other

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __eq__(self, other: Any) -> bool:
        mine, theirs = self._key(other)
        return mine == theirs

    def __ne__(self, other: Any) -> bool:
        return not self == other

    __hash__ = float.__hash__
