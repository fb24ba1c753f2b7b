"""Masks: which weights of which layers go, given how much each weight counts.

Ties, block means and thresholds are SparseML 1.8's (sparseml.pytorch.sparsification.pruning.mask_creator).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yolov5_sparse_plugin.engine.schema.values import nm_sparsity

SEED = 42  # which of too many smallest values go is drawn, always alike


def masks_of(scores: Sequence[Tensor], shares: Sequence[float], mask_type: Any, together: bool) -> list[Tensor]:
    """Return a mask for each layer, of its shape and dtype: 1 keeps, 0 zeroes.

    Args:
        scores: how much each weight counts. shares: of zeros, one for each layer.
        mask_type: as in a recipe. together: rank all layers as one; the shares are equal then.
    """
    if nm_sparsity(mask_type) is not None:
        keep, size = map(int, mask_type.split(":"))
        return [n_of_m(score, keep, size) if any(shares) else torch.ones_like(score) for score in scores]
    grouped = [group(score, mask_type) for score in scores]
    if together:
        flat = smallest(torch.cat([each.reshape(-1) for each in grouped]), shares[0])
        masks = [part.reshape(each.shape) for part, each in zip(flat.split([e.numel() for e in grouped]), grouped)]
    else:
        masks = [smallest(each, share) for each, share in zip(grouped, shares)]
    return [ungroup(mask, score.shape, mask_type) for mask, score in zip(masks, scores)]


def smallest(scores: Tensor, share: float) -> Tensor:
    """Return the mask that zeroes the smallest `share` of the scores, to the element."""
    if scores.numel() < 1 or not 0.0 < share <= 1.0:
        return torch.ones_like(scores)
    flat, count = scores.reshape(-1), round(scores.numel() * share)
    threshold = torch.sort(flat)[0][max(count - 1, 0)]
    if threshold > flat.min():
        keep = flat > threshold
        ties = (flat == threshold).nonzero().squeeze(1)
        keep[ties[: max(flat.numel() - int(keep.sum()) - count, 0)]] = True  # of equals, the first ones stay
        return keep.to(scores.dtype).reshape(scores.shape)
    ties = (flat == threshold).nonzero().squeeze(1)  # more of the smallest value than are to go
    order = list(range(len(ties)))
    random.Random(SEED).shuffle(order)
    mask = torch.ones_like(flat)
    mask[ties[torch.tensor(order[:count], dtype=torch.int64, device=ties.device)]] = 0
    return mask.reshape(scores.shape)


def n_of_m(scores: Tensor, keep: int, size: int) -> Tensor:
    """Return the mask that keeps the `keep` largest of every `size` neighbours, along the input channels."""
    rows = scores.permute(0, 2, 3, 1) if scores.dim() == 4 else scores
    groups = rows.reshape(-1, size)
    mask = torch.ones_like(groups).scatter_(1, torch.argsort(groups, dim=1)[:, : size - keep], 0)
    mask = mask.reshape(rows.shape)
    return mask.permute(0, 3, 1, 2).contiguous() if scores.dim() == 4 else mask


def group(scores: Tensor, mask_type: Any) -> Tensor:
    """Return the mean of every block; the scores themselves where there are no blocks."""
    if mask_type == "unstructured":
        return scores
    if mask_type == "block4":
        rows = scores.movedim(1, -1) if scores.dim() > 2 else scores
        rest = rows.shape[-1] % 4
        if rest:  # the last block is filled up with its own mean
            filling = torch.mean(rows[..., -rest:], dim=-1, keepdim=True)
            rows = torch.cat((rows, filling.expand(*rows.shape[:-1], 4 - rest)), -1)
        return torch.mean(rows.reshape(-1, 4), dim=1, keepdim=True)
    return torch.mean(scores.reshape(blocked(scores.shape, mask_type)), dim=1, keepdim=True)


def ungroup(mask: Tensor, shape: torch.Size, mask_type: Any) -> Tensor:
    """Return a mask of blocks as a mask of weights."""
    if mask_type == "unstructured":
        return mask
    if mask_type == "block4":
        last = shape[1] if len(shape) > 2 else shape[-1]
        rows = (shape[0], *shape[2:]) if len(shape) > 2 else shape[:-1]
        whole = mask.expand(-1, 4).reshape(*rows, -1)[..., :last]
        return (whole.movedim(-1, 1) if len(shape) > 2 else whole).contiguous()
    blocks, size, _ = blocked(shape, mask_type)
    return mask.expand(blocks, size, mask.shape[-1]).reshape(shape)


def blocked(shape: torch.Size, block: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape [blocks, weights of a block, rest] of a weight; blocks of several columns lie along inputs."""
    if block[1] > 1:
        return shape[0] * shape[1] // (block[0] * block[1]), block[0] * block[1], -1
    return shape[0] // block[0], block[0], -1
