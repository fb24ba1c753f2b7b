"""The random numbers that a run draws, so that a resumed run sees the pictures that it would have seen.

Exact with `--workers 0`: workers of a loader draw from generators of their own, whose states stay with them. With
`--image-weights` the order of an epoch is drawn otherwise, and a resumed run sees another one.
"""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch


def state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators, as plain values."""
    name, keys, *rest = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }


def restore(saved: dict[str, Any], loader: Any, epochs: int) -> None:
    """Go on where `state` was taken.

    Args:
        loader: the training set's DataLoader, as the host builds it; its sampler, which it seeds itself, shuffles.
        epochs: how often it has been gone through.
    """
    for _ in range(epochs):
        list(loader.sampler)
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
