"""Find a model's tensors under the names that the fork's quantization gave them.

SparseML's conversion wraps layers, so that `model.0.conv.weight` becomes `model.0.conv.module.weight`, and puts
quantizers beside them. What is said here of names holds for SparseML 0.9 to 1.8.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

# a quantizer's place in the model, or one of its values
OF_QUANTIZERS = re.compile(
    r"(^|\.)(activation_post_process|weight_fake_quant|quant|dequant|input_quant_stubs|output_quant_stubs|"
    r"fake_quant_enabled|observer_enabled|scale|zero_point)(\.|$)"
)
# the fork's `+` of a bottleneck, and ours
THEIR_ADD, OUR_ADD = ".add_node.", ".residual."
# no weights: the anchors in pixels that YOLOv5 5.0 kept beside those in strides
DERIVED = ("anchor_grid",)


def is_quantized(names: Iterable[str]) -> bool:
    return any(name.endswith("zero_point") for name in names)


def unwrapped(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take off the `module.` that training on several GPUs puts before every name."""
    several = bool(state) and all(name.startswith("module.") for name in state)
    return {name[len("module.") :] if several else name: value for name, value in state.items()}


def float_name(name: str, known: Mapping[str, torch.Tensor]) -> str | None:
    """Return the float model's name for a tensor of the quantized one, None for what only that one has.

    A batch norm is found in the convolution that it was fused into (`conv.module.bn.weight`) or in a wrapper
    (`bn.bn.weight`).
    """
    if OF_QUANTIZERS.search(name) or THEIR_ADD in name:
        return None
    plain = re.sub(r"\.module(?=\.)", "", name)
    moved = re.sub(r"\.(conv|bn)\.bn\.(?=\w+$)", ".bn.", plain)
    return next((candidate for candidate in (name, plain, moved) if candidate in known), None)


def float_state(state: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what a state dict, quantized or not, holds of a float model.

    Args:
        state: as in the checkpoint.
        known: state dict of the float model.
    """
    named = ((float_name(name, known), value) for name, value in state.items())
    return {name: value for name, value in named if name is not None}


def ignored(state: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names that belong to neither the model nor its quantizers: what distillation left behind."""
    foreign = (n for n in state if float_name(n, known) is None and not OF_QUANTIZERS.search(n) and THEIR_ADD not in n)
    return [name for name in foreign if name.rpartition(".")[2] not in DERIVED]


def quantized_state(
    state: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor], adding: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Return the state of the quantized structure under the names that it has in this plugin.

    Args:
        state: as in the checkpoint. known: state dict of the float model.
        adding: names of the bottlenecks that add; the fork gave every one a quantizable `+`, used or not.
    """
    foreign, adding, found = set(ignored(state, known)), set(adding), {}
    for name, value in state.items():
        if name in foreign or name.rpartition(".")[2] in DERIVED:
            continue
        owner, add, rest = name.partition(THEIR_ADD)
        if add and owner not in adding:
            continue
        value = value.float() if value.dtype == torch.float16 else value
        found[owner + OUR_ADD + rest if add else name] = value
    return found


def completed(state: dict[str, torch.Tensor], structure: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add what older releases of torch did not count (`num_batches_tracked`)."""
    constants = {n: v for n, v in structure.items() if n.rpartition(".")[2] == "num_batches_tracked"}
    return {**{name: value.clone() for name, value in constants.items()}, **state}
