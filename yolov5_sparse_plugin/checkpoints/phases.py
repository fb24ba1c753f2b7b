"""Phases of a sparse run, and why a later one always wins.

A recipe turns one model into another: dense, then pruned, then quantized. The dense one scores best and is not what
the user asked for, so `best.pt` is the best model of the last phase, and `best_<phase>.pt` stand beside it.
"""

from __future__ import annotations

PHASES = ("dense", "pruned", "quantized", "pruned_quantized")
RANKED = ("dense", "pruned", "quantized", "pruned_quantized")  # as checkpoints once had it
PRUNED = 0.05  # a share of zeros above it is meant; below, some weights happen to be zero


def phase_of(pruned: bool, quantized: bool) -> str:
    """Name the phase of a model."""
    return {(False, False): "dense", (True, False): "pruned", (False, True): "quantized"}.get(
        (pruned, quantized), "pruned_quantized"
    )


def rank(phase: str) -> int:
    """Return a phase's place in the order dense < pruned < quantized < pruned_quantized."""
    return PHASES.index(phase)
