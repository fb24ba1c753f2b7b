"""Read the checkpoints of the sparse fork that this plugin replaces, in every form that it wrote.

    model, ema         a pickled module (until its first quantized epoch, up to release 1.3), or a state dict
    yaml, nc, hyp      what the model is built from, beside a state dict
    checkpoint_recipe  the recipe of a finished run; `recipe` until release 1.0
    intermediate_recipe  of an unfinished one
    epoch              -1 once finished
    updates            how often `ema` was updated; both None or absent once finished

They come out as this plugin's own format has them, see `checkpoints.formats`: everything else need not know.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Callable

import torch
from torch import nn

from yolov5_sparse_plugin.checkpoints import archive, legacy_names, phases, plain, unpickling
from yolov5_sparse_plugin.checkpoints.formats import FORMAT
from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.native.structure import state_from_sparseml
from yolov5_sparse_plugin.engine.residual import adding_bottlenecks, make_adds_quantizable
from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.hosts import model_yaml
from yolov5_sparse_plugin.hosts.current import host
from yolov5_sparse_plugin.hosts.host import HostModel
from yolov5_sparse_plugin.hosts.log import say
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.recipes_io import front_matter, is_card

RECIPES = ("checkpoint_recipe", "intermediate_recipe", "recipe")


def is_legacy(file: Any) -> bool:
    """Return whether `file` is a checkpoint that the fork wrote; nothing is unpickled to find out."""
    if not archive.is_path(file):
        return False
    names, strings = archive.contents(file)
    if "model" not in strings:
        return False
    with_recipe = any(key in RECIPES and is_recipe(value) for key, value in zip(strings, strings[1:]))
    modules = any(name.split(" ")[0].endswith(("models.yolo", "models.common")) for name in names)
    return with_recipe or any(name.endswith(" _Add") for name in names) or (not modules and "yaml" in strings)


def is_recipe(value: str | None) -> bool:
    """Return whether this may stand for `recipe`; a class of objects can have that name, too."""
    return value is None or "modifiers" in value


def read(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read one of the fork's checkpoints into this plugin's format.

    Returns:
        `model` and `ema` are float modules of this host's own classes; `sparse` holds the recipe, and for a quantized
        model the state that its quantizers are rebuilt from.

    Raises:
        CheckpointError: damaged, refused, or weights do not fit the model that it describes.
    """
    ckpt = unpickling.load(file, map_location)
    with archive.reading(file):
        return in_our_format(ckpt, file)


def readable(_: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return a `torch.load` for the host's namespace that reads any YOLOv5's checkpoint, and runs no code of it."""

    def load(file: Any, map_location: Any = "cpu", **kwargs: Any) -> dict[str, Any]:
        ckpt = unpickling.load(file, map_location)
        with archive.reading(file):
            return of_today(ckpt, file)

    return load


def stripping(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Return upstream's `strip_optimizer` with `readable` for its `torch.load`."""

    def strip(*args: Any, **kwargs: Any) -> Any:
        with PatchSet(upstream, {"strip_load": readable}, host().title):
            return upstream(*args, **kwargs)

    return strip


def of_today(ckpt: dict[str, Any], file: Any) -> dict[str, Any]:
    """Bring the pickled modules of a checkpoint up to date, in place, and check what is said of them.

    See `modernized` and `plain.check`.

    Raises:
        CheckpointError: what it has for a model is none.
    """
    plain.check(ckpt, file)
    for key in ("model", "ema"):
        if isinstance(ckpt.get(key), nn.Module):
            modernized(ckpt[key], file)
        elif key == "model" or ckpt.get(key) is not None:
            raise no_model(ckpt.get(key), file)
    return ckpt


def no_model(found: Any, file: Any) -> CheckpointError:
    what = "missing" if found is None else f"a {type(found).__name__}"
    return CheckpointError(f"{file}: not a YOLOv5 checkpoint: its model is {what}.")


def in_our_format(ckpt: dict[str, Any], file: Any) -> dict[str, Any]:
    """Turn what the fork wrote, already loaded, into this plugin's format; `file` is for messages."""
    plain.check(ckpt, file)
    live, averaged = ckpt.get("model"), ckpt.get("ema")
    text = next((ckpt[key] for key in RECIPES if isinstance(ckpt.get(key), str) and ckpt[key].strip()), "")
    used: Any = averaged or live  # as the fork did, to validate and to export
    part: dict[str, Any] = {"format": FORMAT, "from": "fork", "recipe": text, "metrics": None}
    quantized = isinstance(used, dict) and legacy_names.is_quantized(used)
    result = {**ckpt, "model": float_model(live, ckpt, file), "ema": None}
    if averaged is not None:
        result["ema"] = float_model(averaged, ckpt, file)
    model = result["ema"] or result["model"]
    if quantized:
        rebuilt = quantizers(used, model, text, file)
        part.update(rebuilt)
        quantized = bool(rebuilt)
    part["layers"] = {name: zeros(weight) for name, weight in prunable(model).items()}
    part["sparsity"] = zeros(torch.cat([weight.flatten() for weight in prunable(model).values()]))
    part["phase"] = phases.phase_of(part["sparsity"] > phases.PRUNED, quantized)
    part["best_phase"] = part["phase"]
    part["epoch"] = float(ckpt.get("epoch") or 0)
    for key in ("updates", "optimizer", "best_fitness"):
        result.setdefault(key, None)
    result.setdefault("epoch", -1)
    return {**result, "sparse": part}


def float_model(found: Any, ckpt: dict[str, Any], file: Any) -> nn.Module:
    """Return the float model of `found`, a pickled module of this host's classes or a state dict.

    Raises:
        CheckpointError: it is neither, or weights are missing or of another shape.
    """
    if isinstance(found, nn.Module):
        return modernized(found, file)
    if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
        raise no_model(found, file)
    description = model_yaml.checked_description(ckpt.get("yaml"), file, unpickling.trusts())
    model = model_yaml.build(description, model_yaml.checked_classes(ckpt.get("nc"), file))
    state, known = legacy_names.unwrapped(found), model.state_dict()
    values = legacy_names.float_state(state, known)
    missing = [n for n in known if n not in values and not n.endswith("num_batches_tracked")]
    unfit = [n for n, value in values.items() if value.shape != known[n].shape]
    if missing or unfit:
        first = (missing or unfit)[0]
        shape = f"{list(values[first].shape)} instead of {list(known[first].shape)}" if unfit else "missing"
        raise CheckpointError(
            f"{file}: the weights do not fit the model that the checkpoint describes: {len(missing)} are missing, "
            f"{len(unfit)} of another shape (first: {first}, {shape}). The file is damaged or was written by a "
            "YOLOv5 with layers of its own; read it with that one."
        )
    model.load_state_dict(values, strict=False)
    foreign = legacy_names.ignored(state, known)
    if foreign:
        warn(f"{file}: {len(foreign)} tensors are no part of the model and were left out, the first is {foreign[0]}")
    model.hyp, model.nc = ckpt.get("hyp"), model.yaml["nc"]
    names = ckpt.get("names")
    if isinstance(names, (list, dict)) and len(names) == model.nc:
        model.names = names
    return model


def modernized(model: HostModel, file: Any) -> HostModel:
    """Bring a module that an older YOLOv5 pickled up to date, in place, as upstream does for one of its class trees.

    Raises:
        CheckpointError: its description holds what is no description, see `model_yaml.checked_description`.
    """
    if getattr(model, "yaml", None) is not None:
        model.yaml = model_yaml.checked_description(model.yaml, file, unpickling.trusts())
    for module in model.modules():
        if type(module).__name__ == "Segment":
            module.detect = host().module("models.yolo").Detect.forward
        if type(module).__name__ in ("Detect", "Segment"):
            if type(module.nl) is not int or module.nl != len(module.m):
                raise archive.damaged(file, f"it has {module.nl!r} layers of detections")
            if not isinstance(module.anchor_grid, list):
                del module.anchor_grid
                module.anchor_grid = [torch.zeros(1)] * module.nl
                module.grid = [torch.zeros(1)] * module.nl  # of its last image; the other is made anew only with it
            module.inplace = getattr(module, "inplace", True)
        elif type(module) is nn.Upsample and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
    return model


def quantizers(found: dict[str, torch.Tensor], model: nn.Module, recipe: str, file: Any) -> dict[str, Any]:
    """Return `recipe` and `state` of the quantized structure, nothing (and a warning) where it cannot be rebuilt.

    It is tried on a copy of the float model; `quantizers.quantized_model` does it again when the model is used.
    """
    state = legacy_names.unwrapped(found)
    archive.check_numbers(state, file)
    theirs = legacy_names.quantized_state(state, model.state_dict(), adding_bottlenecks(model))
    structure = deepcopy(model)
    try:
        text = front_matter(recipe, f"{file}: its recipe") if is_card(recipe) else recipe
        schedule = engines.schedules(engines.NATIVE).of_structure(text, f"{file}: its recipe")
        if not schedule.quantizes:
            raise RecipeError(f"{file}: its recipe has no QuantizationModifier")
        if any(legacy_names.OUR_ADD in name for name in theirs):
            make_adds_quantizable(structure)
        state = state_from_sparseml(theirs, structure)
        schedule.apply_quantization(structure)
        state = legacy_names.completed(state, structure.state_dict())
        schedule.load_state(structure, structure, state)
    except (RecipeError, CheckpointError) as error:
        count = sum(name.endswith("zero_point") for name in found)
        warn(
            f"{file}: its {count} quantizers cannot be rebuilt and were left out; this is the float model with "
            f"its weights. Why: {error}"
        )
        return {}
    return {"recipe": schedule.text, "state": state}


def prunable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of every convolution and linear layer, parameter name -> weight."""
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    return {f"{name}.weight": layer.weight.detach() for name, layer in layers}


def zeros(weight: torch.Tensor) -> float:
    return (weight == 0).sum().item() / max(weight.numel(), 1)


def warn(message: str) -> None:
    """Say through YOLOv5's own logger what was left out."""
    say(vars(host().module("utils.general")), message, warn=True)
