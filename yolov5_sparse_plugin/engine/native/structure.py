"""States of quantized models: this engine's names are the neutral ones, and SparseML's can be turned into them.

SparseML puts layers into wrappers: `model.0.conv.weight` is `model.0.conv.module.weight` there, a batch norm that is
fused `model.0.conv.module.bn.weight`, one that is not `model.0.bn.bn.weight`. What is left without the wrappers' own
names is the float model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer, Grid
from yolov5_sparse_plugin.errors import CheckpointError

OBSERVER = "activation_post_process."
# a quantizer in SparseML's structure: where it hangs, and which of its values it is
THEIRS = re.compile(
    r"^(?P<owner>.*?)\.?(?:(?P<input>quant\.activation_post_process)|"
    r"input_quant_stubs\.(?P<number>\d+)\.activation_post_process|(?P<weight>weight_fake_quant)|activation_post_process)"
    r"\.(?P<value>(?:activation_post_process\.)?\w+)$"
)
OURS = re.compile(
    r"^(?P<owner>.*?)\.?(?P<role>(?:input|weight|output)_quantizer|input_quantizers\.\d+)\.(?P<value>\w+)$"
)
ROLES = {"input": "input_quantizer", "weight": "weight_quantizer"}
RESIDUAL = ".residual"  # the adds that engine.residual makes layers; a float model has none


def grids(model: nn.Module) -> dict[str, Grid]:
    """Return every quantizer's grid by the float name of its layer and what it rounds, see `quantizers`."""
    return {place: quantizer.grid for place, quantizer in quantizers(model).items()}


def quantizers(model: nn.Module) -> dict[str, FakeQuantizer]:
    """Return the quantizers by the float name of their layer and what they round: `model.0.conv.weight`.

    The others are `.input`, `.output`, and `.input.0` where a layer has several.
    """
    found: dict[str, FakeQuantizer] = {}
    for name, each in model.named_modules():
        if isinstance(each, FakeQuantizer):
            found[re.sub(r"(input|weight|output)_quantizers?(?=\.\d+$|$)", r"\1", name)] = each
    return found


def state_from_sparseml(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of SparseML's quantized structure under this engine's names.

    Args:
        model: the float model, or the quantized one; its names tell.

    Raises:
        CheckpointError: a tensor belongs to neither the model nor its quantizers.
    """
    names = names_from_sparseml(state, model)
    found = {ours: _as_ours(ours, state[theirs]) for theirs, ours in names.items() if ours is not None}
    for name in [name for name in found if name.endswith("weight_quantizer.min_val") and not found[name].numel()]:
        place = name[: -len(".min_val")]  # channels that were not observed yet have no size there
        channels = len(found[f"{place.rpartition('.')[0]}.weight"])
        for leaf, value in FakeQuantizer(-128, 127, True, channels).named_buffers():
            found[f"{place}.{leaf}"] = value
    return found


def names_from_sparseml(names: Iterable[str], model: nn.Module) -> dict[str, str | None]:
    """Return this engine's name for every tensor of SparseML's quantized structure, None for constants.

    Args:
        names: SparseML's. model: the float model, or the quantized one.

    Raises:
        CheckpointError: a tensor belongs to neither the model nor its quantizers.
    """
    names = list(names)
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    layers |= {owner + RESIDUAL for owner, add, _ in (name.partition(RESIDUAL) for name in names) if add}
    known = {name for name in _tensors(model) if not OURS.match(name)}
    fused = {_plain(name[: -len(".bn.running_var")], layers) for name in names if name.endswith(".bn.running_var")}
    fused = {name for name in fused if f"{name}.weight" in known and f"{name}.running_var" not in known}
    found: dict[str, str | None] = {}
    for name in names:
        match = THEIRS.match(name)
        if match is None:
            found[name] = _float_name(name, known, layers)
            continue
        leaf, owner = match["value"].removeprefix(OBSERVER), _plain(match["owner"], layers)
        if leaf == "eps":
            found[name] = None
            continue
        role = f"input_quantizers.{match['number']}" if match["number"] else None
        role = role or next((ours for theirs, ours in ROLES.items() if match[theirs]), "output_quantizer")
        if role == "output_quantizer" and owner in fused:
            owner = _norm_of(owner, known)
        found[name] = f"{owner}.{role}.{leaf}" if owner else f"{role}.{leaf}"
    return found


def _as_ours(name: str, value: Tensor) -> Tensor:
    return value.to(torch.uint8) if name.endswith("_enabled") else value


def _tensors(model: nn.Module) -> Iterator[str]:
    yield from model.state_dict(keep_vars=True)


def _plain(name: str, layers: Iterable[str]) -> str:
    """Return the float name of a layer of SparseML's: wrappers' parts are left out, unless the model has them."""
    found = ""
    for part in name.split(".") if name else ():
        longer = f"{found}.{part}" if found else part
        if longer in layers:
            found = longer
    return found


def _norm_of(conv: str, known: Iterable[str]) -> str:
    """Return the name of the batch norm that follows a convolution in the model: beside it, as YOLOv5 has it."""
    owner, _, leaf = conv.rpartition(".")
    after = str(int(leaf) + 1) if leaf.isdigit() else "bn"
    return f"{owner}.{after}" if owner else after


def _float_name(name: str, known: set[str], layers: set[str]) -> str:
    owner, _, leaf = name.rpartition(".")
    plain = _plain(owner, layers)
    candidates = (f"{plain}.{leaf}" if plain else leaf, f"{_norm_of(plain, known)}.{leaf}")
    if owner.endswith(".bn") and not plain.endswith(".bn"):  # fused
        candidates = candidates[::-1]
    found = next((each for each in candidates if each in known), None)
    if found is None:
        raise CheckpointError(f"the checkpoint's {name} belongs to neither the model nor its quantizers")
    return found
