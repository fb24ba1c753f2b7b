"""Layers that `--freeze` keeps as they are are left out of the pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from yolov5_sparse_plugin.errors import RecipeError


def leave_out(pruning: Iterable[Any], model: torch.nn.Module, source: str) -> set[str]:
    """Let pruning modifiers pass over parameters that need no gradient.

    To freeze a layer is to keep what it has learned, its zeros included; SparseML would fail on it, because masks hang
    on gradients. Quantizers it gets like every other layer: they round its weights, and change none.

    Args:
        pruning: SparseML's modifiers, not initialized yet; changed in place. source: the recipe's, for messages.

    Returns:
        The names of the parameters that were left out.

    Raises:
        RecipeError: a modifier has nothing else to prune.
    """
    left: set[str] = set()
    for modifier in pruning:
        found = modifier._create_named_layers_and_params(model)
        frozen = [f"{each.layer_name}.{each.param_name}" for each in found if not each.param.requires_grad]
        if not frozen:
            continue
        if len(frozen) == len(found):
            raise RecipeError(
                f"{source}: {type(modifier).__name__} prunes {len(found)} layers, {frozen[0]} and so on, and "
                "--freeze keeps all of them as they are. Freeze fewer layers, or take the modifier out."
            )
        left.update(frozen)
        _pass_over(modifier)
    return left


def _pass_over(modifier: Any) -> None:
    find = modifier._create_named_layers_and_params

    def trained(model: torch.nn.Module) -> list[Any]:
        found = find(model)
        kept = [place for place, each in enumerate(found) if each.param.requires_grad]
        if isinstance(modifier._final_sparsity, list):  # one for each, where the recipe gives them layer by layer
            modifier._final_sparsity = [modifier._final_sparsity[place] for place in kept]
        return [found[place] for place in kept]

    modifier._create_named_layers_and_params = trained
