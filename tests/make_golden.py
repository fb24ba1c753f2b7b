"""Write what SparseML makes of the recipes of `native_runs.py`, for Pythons that have no SparseML.

python tests/make_golden.py        (Python 3.11, with SparseML)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from native_runs import (
    GRIDS,
    NAMED,
    RECIPES,
    SERIES,
    quantizing,
    recipe_of,
    run,
    sgd,
    sparseml,
    sparsemls_quantizer,
    toy,
    yolo,
)

FILE = Path(__file__).parent / "golden" / "native.npz"
FIGURES = ("rates", "lr", "momentum", "weight_decay", "pruned_at")


def masks_of(steps: list[Any]) -> np.ndarray:
    """Return all masks of a run, bit by bit."""
    bits = [mask.flatten().numpy() for state in steps for _, mask in sorted(state["masks"].items())]
    return np.packbits(np.concatenate(bits).astype(bool)) if bits else np.zeros(0, np.uint8)


def names_of(state: Any) -> np.ndarray:
    return np.frombuffer("\n".join(sorted(state)).encode(), np.uint8)


def main() -> None:
    found: dict[str, np.ndarray] = {f"start/{name}": p.detach().numpy() for name, p in toy().named_parameters()}
    for name, body in RECIPES.items():
        *steps, _ = run(sparseml(), recipe_of(body))
        for figure in FIGURES:
            found[f"run/{name}/{figure}"] = np.array([state[figure] for state in steps], np.float64)
        found[f"run/{name}/masks"] = masks_of(steps)
    for series, values in SERIES.items():
        found[f"series/{series}"] = torch.stack([values(step) for step in range(5)]).numpy()
        for place, grid in enumerate(GRIDS):
            quantizer = sparsemls_quantizer(*grid)
            for step in range(5):
                quantizer(values(step))
            observer = quantizer.activation_post_process
            state = (quantizer.scale, quantizer.zero_point.float(), observer.min_val, observer.max_val)
            found[f"grid/{series}/{place}"] = torch.stack([each.reshape(-1) for each in state]).numpy()
    for name in NAMED:
        model = yolo()
        sparseml().Schedule.load(quantizing(name)).wrap(sgd(model), model, None)
        found[f"names/{name}"] = names_of(model.state_dict())
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {len(found)} arrays, {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
