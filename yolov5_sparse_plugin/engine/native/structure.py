"""States of quantized models: this engine's names are the neutral ones, and SparseML's can be turned into them.

SparseML puts layers into wrappers: `model.0.conv.weight` is `model.0.conv.module.weight` there, a batch norm that is
fused `model.0.conv.module.bn.weight`, one that is not `model.0.bn.bn.weight`. What is left without the wrappers' own
names is the float model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer
from yolov5_sparse_plugin.engine.native.layers import FROZEN

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


class Grid(NamedTuple):
    """What a quantizer rounds to: scale (float32) and zero point (int32), [1] or [channels], and its integers."""

    scale: Tensor
    zero_point: Tensor
    quant_min: int
    quant_max: int


def grids(model: nn.Module) -> dict[str, Grid]:
    """Return every quantizer's grid by its layer's float name and `.input`, `.weight`, `.output` or `.input.0`."""
    found: dict[str, Grid] = {}
    for name, each in model.named_modules():
        if isinstance(each, FakeQuantizer):
            place = re.sub(r"(input|weight|output)_quantizers?(?=\.\d+$|$)", r"\1", name)
            found[place] = Grid(each.scale, each.zero_point, each.quant_min, each.quant_max)
    return found


def state_from_sparseml(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of SparseML's quantized structure under this engine's names.

    Args:
        model: the float model, or the quantized one; its names tell.

    Raises:
        KeyError: a tensor belongs to neither the model nor its quantizers.
    """
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    known = {name for name in model.state_dict(keep_vars=True) if not OURS.match(name)}
    fused = {_plain(name[: -len(".bn.running_var")], layers) for name in state if name.endswith(".bn.running_var")}
    fused = {name for name in fused if f"{name}.weight" in known and f"{name}.running_var" not in known}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = THEIRS.match(name)
        if match is None:
            found[_float_name(name, known, layers)] = value
            continue
        leaf, owner = match["value"].removeprefix(OBSERVER), _plain(match["owner"], layers)
        if leaf == "eps":
            continue
        role = f"input_quantizers.{match['number']}" if match["number"] else None
        role = role or next((ours for theirs, ours in ROLES.items() if match[theirs]), "output_quantizer")
        if role == "output_quantizer" and owner in fused:
            owner = _norm_of(owner)
        value = value.to(torch.uint8) if leaf.endswith("_enabled") else value
        found[f"{owner}.{role}.{leaf}" if owner else f"{role}.{leaf}"] = value
    for name in [name for name, value in found.items() if name.endswith("weight_quantizer.min_val")]:
        if not found[name].numel():  # channels that were not observed yet have no size there
            place = name[: -len(".min_val")]
            channels = len(found[f"{place.rpartition('.')[0]}.weight"])
            for leaf, value in FakeQuantizer(-128, 127, True, channels).named_buffers():
                found[f"{place}.{leaf}"] = value
    return found


def state_to_sparseml(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state dict of `model`, a quantized one, under the names that SparseML's structure has."""
    modules = dict(model.named_modules(remove_duplicate=False))
    convs = {id(norm): name for name, layer in modules.items() for norm in getattr(layer, "norms", ())}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = OURS.match(name)
        if match is None:
            owner, _, leaf = name.rpartition(".")
            found[f"{_wrapped(owner, modules, convs)}.{leaf}"] = value
            continue
        role, leaf, owner = match["role"], match["value"], match["owner"]
        if role == "weight_quantizer":
            place = f"{_wrapped(owner, modules, convs)}.weight_fake_quant"
        elif role == "output_quantizer":
            place = _wrapped(convs.get(id(modules[owner]), owner), modules, convs) + ".activation_post_process"
        else:
            stub = "quant" if role == "input_quantizer" else f"input_quant_stubs.{role.rpartition('.')[2]}"
            place = f"{_outer(owner, modules, convs)}.{stub}.activation_post_process"
        seen = state[name[: -len(leaf)] + "min_val"]
        if seen.dim() and not leaf.endswith("_enabled") and bool(seen.isinf().any()):
            value = value[: 0 if leaf.endswith("_val") else 1]
        if leaf in ("min_val", "max_val"):
            found[f"{place}.{OBSERVER}eps"] = torch.tensor([torch.finfo(torch.float32).eps])
            leaf = OBSERVER + leaf
        elif leaf.endswith("_enabled"):
            value = value.long()
        found[f"{place}.{leaf}"] = value
    return found


def _plain(name: str, layers: Iterable[str]) -> str:
    """Return the float name of a layer of SparseML's: wrappers' parts are left out, unless the model has them."""
    found = ""
    for part in name.split(".") if name else ():
        longer = f"{found}.{part}" if found else part
        if longer in layers:
            found = longer
    return found


def _norm_of(conv: str) -> str:
    """Return the name of the batch norm that follows a convolution in the model: beside it, as YOLOv5 has it."""
    owner, _, leaf = conv.rpartition(".")
    after = str(int(leaf) + 1) if leaf.isdigit() else "bn"
    return f"{owner}.{after}" if owner else after


def _float_name(name: str, known: set[str], layers: Iterable[str]) -> str:
    owner, _, leaf = name.rpartition(".")
    plain = _plain(owner, layers)
    candidates = (f"{plain}.{leaf}" if plain else leaf, f"{_norm_of(plain)}.{leaf}")
    if owner.endswith(".bn") and not plain.endswith(".bn"):  # fused
        candidates = candidates[::-1]
    found = [each for each in candidates if each in known]
    if not found:
        raise KeyError(name)
    return found[0]


def _outer(name: str, modules: Mapping[str, nn.Module], convs: Mapping[int, str]) -> str:
    """Return the name of what stands in a layer's place in SparseML's structure, the wrapper where it has one."""
    owner, _, leaf = name.rpartition(".")
    found = f"{_inside(_outer(owner, modules, convs), modules[owner])}.{leaf}" if owner else leaf
    alone = isinstance(modules[name], (*FROZEN, *FROZEN.values())) and id(modules[name]) not in convs
    return f"{found}.bn" if alone else found


def _wrapped(name: str, modules: Mapping[str, nn.Module], convs: Mapping[int, str]) -> str:
    """Return the name of a layer itself in SparseML's structure."""
    conv = convs.get(id(modules[name]))
    if conv is not None:
        place = _inside(_outer(conv, modules, convs), modules[conv])
        return f"{place}.bn" if hasattr(modules[conv], "weight_quantizer") else f"{place}.1.bn"
    place = _inside(_outer(name, modules, convs), modules[name])
    only_fused = getattr(modules[name], "norms", ()) and not hasattr(modules[name], "weight_quantizer")
    return f"{place}.0" if only_fused else place


def _inside(place: str, layer: nn.Module) -> str:
    if hasattr(layer, "input_quantizers"):
        return f"{place}.forward_fn"
    return f"{place}.module" if hasattr(layer, "input_quantizer") else place
