"""Several processes that train one model together: what must be equal in all of them, and who writes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist

from yolov5_sparse_plugin.engine.contract import quantizers_of


def leads(host: dict[str, Any]) -> bool:
    """Return whether this process validates and writes: rank 0, or the only one.

    Args:
        host: the namespace of the host's `train()`.
    """
    return host.get("RANK", -1) in (-1, 0)


def several(host: dict[str, Any]) -> bool:
    """Return whether this process is one of several."""
    return host.get("RANK", -1) != -1


def share_quantizers(model: torch.nn.Module) -> None:
    """Give every process the scales, zero points and observed ranges of rank 0, in place; alone, do nothing.

    DistributedDataParallel does this before each forward pass for the buffers that a model had when it was wrapped,
    such as batch norm's averages; quantizers come later. All processes must have started quantization.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2:
        return
    alike: dict[torch.dtype, list[torch.Tensor]] = defaultdict(list)
    for quantizer in quantizers_of(model):
        for buffer in quantizer.buffers():
            alike[buffer.dtype].append(buffer)
    for buffers in alike.values():
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.broadcast(flat, 0)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers])):
            buffer.copy_(values.view_as(buffer))
