"""Checkpoints that every YOLOv5 can read, with what only this plugin understands beside it under `sparse`.

`model` and `ema` are plain float modules of the host's classes. `ckpt["sparse"]` holds, as plain values and tensors:

    format    this layout's name and version
    recipe    YAML with all variables resolved
    phase     dense, pruned, quantized or pruned_quantized
    epoch     the recipe's clock: epochs completed, fractional
    sparsity  zeros among the prunable weights, 0..1
    layers    the same by layer: parameter name -> sparsity
    metrics   precision, recall, mAP50 and mAP50-95 of its validation while it was trained, or None
    best_phase  the phase that `best_fitness` belongs to (`rank`, its place in `phases.RANKED`, before it had a name)
    engine    what executed the recipe: sparseml or native; missing in the fork's
    state     full-precision state dict of the live model, quantizers included, under the names of `engine.native`,
              whichever engine it was. Always there for a quantized model; in an unfinished run for every model
    ema       full-precision state dict of the averaged weights, in an unfinished run that is not quantized yet
    pruned_at the recipe's clock when each pruning modifier last computed its masks, in an unfinished run
    random    state of the random numbers, in an unfinished run of one process; see `randomness`
"""

from __future__ import annotations

from typing import Any

import torch

from yolov5_sparse_plugin.checkpoints import archive, phases

FORMAT = "yolov5-sparse-plugin/2"
OLD = "yolov5-sparse-plugin/1"  # `state` of a quantized model has the names of SparseML's structure


def check_parts(ckpt: dict[str, Any], file: Any) -> None:
    """Refuse a checkpoint of ours that lacks a part, or whose numbers are none.

    Raises:
        CheckpointError: naming the first.
    """
    part = ckpt["sparse"]
    number = (int, float)
    kinds: dict[str, Any] = {"recipe": str, "phase": str, "epoch": number, "sparsity": number, "layers": dict}
    if is_quantized({"phase": "", **part}):
        kinds["state"] = dict
    wrong = [name for name, kind in kinds.items() if not isinstance(part.get(name), kind)]
    wrong += [name for name in ("phase", "best_phase") if part.get(name) not in phases.PHASES]
    if not isinstance(ckpt.get("model"), torch.nn.Module):
        wrong.append("model")
    if wrong:
        raise archive.damaged(file, f"its {wrong[0]} is missing, or is something else")
    archive.check_numbers(part.get("state") or {}, file)
    archive.check_numbers(ckpt["model"].state_dict(), file)


def is_quantized(sparse: dict[str, Any]) -> bool:
    return "quantized" in sparse["phase"]
