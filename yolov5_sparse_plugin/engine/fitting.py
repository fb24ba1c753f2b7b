"""Whether a recipe fits a model: its patterns written out, and what matches nothing, or cannot be, named.

Says the same for every engine, before one touches the model.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.recipe import AnyEntry, Recipe, matches
from yolov5_sparse_plugin.engine.schema.values import ALL, ALL_PRUNABLE, nm_sparsity
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.hosts.class_tree import layer_class

# fields of a quantization modifier that name modules, or classes of modules
OF_MODULES = ("ignore", "submodules", "scheme_overrides", "exclude_module_types", "custom_quantizable_module_types")


@dataclass
class Fit:
    """What an entry of a recipe means in a model.

    Attributes:
        parameters: names of the parameters that it is about, in the model's order; none of a quantization.
        ignore: names of modules, and classes of modules, that a quantization leaves alone, patterns written out.
        submodules: names of modules to quantize, patterns written out; None: the whole model.
        remarks: what a user should know of it, as sentences.
    """

    entry: AnyEntry
    parameters: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)
    submodules: list[str] | None = None
    remarks: list[str] = field(default_factory=list)


def fit(recipe: Recipe, model: nn.Module) -> list[Fit]:
    """Return what each entry means in `model`, a float one, in the recipe's order.

    Raises:
        RecipeError: a pattern matches nothing, a mask does not fit a layer, or entries contradict each other.
    """
    fits = [_fit(entry, model, recipe.source) for entry in recipe.entries]
    for each in fits:
        check_mask(each, model, recipe.source)
        check_values(each, model, recipe.source)
    check_frozen(fits, recipe.source)
    return fits


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that `__ALL_PRUNABLE__` means: those of every convolution and linear layer."""
    kinds = (nn.Linear, nn.Embedding, _ConvNd)
    return {f"{name}.weight": layer.weight for name, layer in model.named_modules() if isinstance(layer, kinds)}


def _fit(entry: AnyEntry, model: nn.Module, source: str) -> Fit:
    found = Fit(entry)
    if isinstance(entry.spec, schema.Quantization):
        _fit_modules(found, model, source)
    elif entry.spec is not None and hasattr(entry.spec, "params"):
        found.parameters = parameters_of(entry, entry.spec.params, model, source)
    if isinstance(entry.spec, schema.PRUNING):
        weights = prunable(model)
        besides = [name for name in found.parameters if name not in weights]
        if besides:
            too = "also" if len(besides) < len(found.parameters) else "only"
            found.remarks.append(
                f"{entry.where(source, 'params')}: params {too} means {len(besides)} parameters that are no weights of "
                f"convolutions or linear layers, {besides[0]} is the first. Their zeros save nothing and cost "
                f"accuracy; the weights alone are {ALL_PRUNABLE}"
            )
    return found


def check_groups(recipe: Recipe, count: int) -> None:
    """Refuse groups of parameters that the optimizer, which has `count` of them, has not got."""
    for entry in recipe.entries:
        for place in getattr(entry.spec, "param_groups", None) or ():
            if isinstance(place, int) and place >= count:
                raise RecipeError(
                    f"{entry.where(recipe.source, 'param_groups')}: param_groups names {place}, but the optimizer has "
                    f"{count}, from 0 on; YOLOv5's are 0 (biases), 1 (weights) and 2 (batch norm)."
                )


# ----------------------------------------------------------------------------------------------------------- parameters


def parameters_of(entry: AnyEntry, listed: Any, model: nn.Module, source: str) -> list[str]:
    """Return the names of the parameters that an entry is about, `listed` as its `params`."""
    names = [name for name, _ in model.named_parameters()]
    by_sparsity = getattr(entry.spec, "final_sparsity", None)
    if isinstance(by_sparsity, dict):
        listed = [pattern for patterns in by_sparsity.values() for pattern in patterns]
    if listed == ALL_PRUNABLE or ALL_PRUNABLE in listed:
        return list(prunable(model))
    if listed == ALL or ALL in listed:
        return names
    found: set[str] = set()
    for pattern in listed:
        meant = [name for name in names if matches(pattern, name)]
        if not meant and getattr(entry.spec, "params_strict", True):
            raise nothing_matches(entry, "params", pattern, names, source)
        found.update(meant)
    return [name for name in names if name in found]


def nothing_matches(entry: AnyEntry, key: str, pattern: str, names: Iterable[str], source: str) -> RecipeError:
    meant = " (a pattern begins with re:)" if re.search(r"[*\\\[|+$^]", pattern) and pattern[:3] != "re:" else ""
    return RecipeError(
        f"{entry.where(source, key)} names {key} {pattern!r}, which matches nothing in this model{meant}. "
        f"Nearest: {', '.join(nearest_of(pattern, names))}."
    )


def nearest_of(pattern: str, names: Iterable[str]) -> list[str]:
    names = [name for name in names if name]
    plain = re.sub(r"[\\^$]", "", pattern[3:] if pattern.startswith("re:") else pattern)
    return difflib.get_close_matches(plain, names, n=4, cutoff=0.3) or names[:4]


def check_mask(found: Fit, model: nn.Module, source: str) -> None:
    """Refuse blocks and N:M groups that do not divide a layer's weight, naming the first.

    SparseML lays a block [rows, columns] over output and input channels, and takes N:M groups of a weight's elements.
    """
    mask_type, weights = getattr(found.entry.spec, "mask_type", None), dict(model.named_parameters())
    if mask_type is None:
        return
    for name in found.parameters:
        shape = list(weights[name].shape)
        ratio = nm_sparsity(mask_type)
        size = int(mask_type.split(":")[1]) if ratio is not None else 1
        block = mask_type if isinstance(mask_type, list) else [1, 1]
        if mask_type in ("unstructured", "filter", "channel", "block4"):
            continue
        if len(shape) < 2 or any(whole % part for whole, part in zip(shape, block)) or weights[name].numel() % size:
            raise RecipeError(
                f"{found.entry.where(source, 'mask_type')}: mask_type {mask_type} does not divide {name}, whose shape "
                f"is {shape}. Take that layer out of params (the image's 3 channels make no blocks of four), or use "
                "block4, which pads."
            )


def check_values(found: Fit, model: nn.Module, source: str) -> None:
    """Refuse values for a parameter that has another shape."""
    weights = dict(model.named_parameters())
    for key in ("val", "init_val", "final_val"):
        values = getattr(found.entry.spec, key, None)
        for name in found.parameters if values is not None else ():
            if shape_of(values) != list(weights[name].shape):
                raise RecipeError(
                    f"{found.entry.where(source, key)}: {key} has the shape {shape_of(values)}, and {name} "
                    f"{list(weights[name].shape)}."
                )


def shape_of(values: Any) -> list[int] | None:
    """Return the shape of numbers in nested lists, None where the lists differ in length."""
    if not isinstance(values, list):
        return []
    inner = [shape_of(value) for value in values]
    first = inner[0] if inner else None
    return None if first is None or any(shape != first for shape in inner) else [len(values), *first]


def check_frozen(fits: list[Fit], source: str) -> None:
    """Refuse to prune what TrainableParamsModifier freezes when the pruning starts: masks hang on gradients."""
    specs = [(each, each.entry.spec) for each in fits]
    trained = [(each, spec) for each, spec in specs if isinstance(spec, schema.TrainableParamsModifier)]
    pruning = [(each, spec.start) for each, spec in specs if isinstance(spec, schema.PRUNING)]
    for ice, spec in ((each, spec) for each, spec in trained if not spec.trainable):
        end = spec.end_epoch
        for each, start in pruning:
            both = [name for name in each.parameters if name in set(ice.parameters)]
            if both and spec.start <= start and (end < 0 or start < end):
                raise RecipeError(
                    f"{each.entry.where(source)} starts at epoch {start:g}, when {ice.entry.tag} of line "
                    f"{ice.entry.line} keeps {both[0]}{f' and {len(both) - 1} more' * (len(both) > 1)} from learning. "
                    "Take those parameters out of one of the two, or prune before or after."
                )


# -------------------------------------------------------------------------------------------------------------- modules


def _fit_modules(found: Fit, model: nn.Module, source: str) -> None:
    entry, modules = found.entry, {name: module for name, module in model.named_modules() if name}
    classes = {type(module).__name__ for module in modules.values()}
    for key in OF_MODULES:
        expanded: list[str] = []
        for pattern in getattr(entry.spec, key, None) or ():
            meant = _meant(pattern, key, modules, classes)
            if not meant and (key == "submodules" or getattr(entry.spec, "strict", False)):
                check_shared(entry, key, pattern, model, source)
                raise nothing_matches(entry, key, pattern, [*modules, *sorted(classes)], source)
            if not meant and not layer_class(pattern) and not layer_class(f"nn.{pattern}"):
                near = ", ".join(nearest_of(pattern, [*sorted(classes), *modules])[:3])
                found.remarks.append(
                    f"{entry.where(source, key)}: {key} {pattern!r} matches nothing in this model. Nearest: {near}"
                )
            expanded += meant or [pattern]
        if key == "ignore":
            found.ignore = expanded
        elif key == "submodules" and getattr(entry.spec, key, None) is not None:
            found.submodules = expanded
    blocks = transformers(model)
    if blocks:
        found.ignore += blocks
        found.remarks.append(
            f"{', '.join(blocks)}: attention stays float; the engines' 8-bit kernels, and SparseML, know convolutions"
        )


def check_shared(entry: AnyEntry, key: str, name: str, model: nn.Module, source: str) -> None:
    """Refuse, with the reason, the second name of a module: since 7.0, one activation serves all convolutions."""
    every = dict(model.named_modules(remove_duplicate=False))
    if name in every:
        first = next(other for other, module in every.items() if module is every[name])
        raise RecipeError(
            f"{entry.where(source, key)} names {key} {name!r}, which is the same module as {first!r}: one "
            f"{type(every[name]).__name__} serves all layers. Name the class, {type(every[name]).__name__}."
        )


def _meant(pattern: str, key: str, modules: dict[str, nn.Module], classes: Iterable[str]) -> list[str]:
    """Return what a word of a quantization modifier means, by SparseML's rules: a module's name or the beginning of
    names, or a class. Patterns (`re:`) are ours, for modules: one recipe fits models of any size."""
    if pattern.startswith("re:"):
        return [name for name in modules if matches(pattern, name)]
    if key == "submodules":
        return [pattern] if pattern in modules else []
    known = pattern in classes or ("types" not in key and any(name.startswith(pattern) for name in modules))
    return [pattern] if known else []


def transformers(model: nn.Module) -> list[str]:
    """Return the names of the blocks around attention layers, the outermost that are called Transformer."""
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if not inside and ("Transformer" in type(module).__name__ or isinstance(module, nn.MultiheadAttention)):
            found.append(name)
    return found
