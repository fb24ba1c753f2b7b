"""What SparseML's quantized model holds, under the names that all engines share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yolov5_sparse_plugin.engine.contract import full_precision, load_strictly
from yolov5_sparse_plugin.engine.native import structure


def neutral(model: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """Return a copy, on the CPU, of all of a model's tensors, see `contract.Schedule.state`."""
    return structure.state_from_sparseml(full_precision(model), plain)


def load(model: nn.Module, plain: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load, in place, what `neutral` returned of a model of this structure."""
    names = structure.names_from_sparseml(model.state_dict(), plain)
    found = OrderedDict(
        (theirs, as_theirs(ours, state).to(value.dtype))
        for theirs, value in model.state_dict().items()
        for ours in [names[theirs]]
        if ours in state
    )
    modules = dict(model.named_modules())
    for name, value in found.items():
        # per-channel scales and ranges have no size before the first observation; not every torch resizes them itself
        owner, _, leaf = name.rpartition(".")
        buffers = modules[owner]._buffers
        kept = buffers.get(leaf)
        if kept is not None and kept.shape != value.shape:
            buffers[leaf] = torch.empty_like(value, device=kept.device)
    constants = {name: value for name, value in model.state_dict().items() if names[name] is None}
    found.update(constants)
    found._metadata = model.state_dict()._metadata  # without it torch 2.1 looks for observers' names of torch 1.4
    load_strictly(model, found)


def as_theirs(name: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return a tensor of `state` as SparseML has it: channels that were not observed yet have no size there."""
    value = state[name]
    owner, _, leaf = name.rpartition(".")
    seen = state.get(f"{owner}.min_val")
    if seen is None or not seen.dim() or leaf.endswith("_enabled") or not bool(seen.isinf().any()):
        return value
    return value[: 0 if leaf.endswith("_val") else 1]
