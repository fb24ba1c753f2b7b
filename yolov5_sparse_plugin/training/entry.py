"""The doorway of training: decide whether a call of the host's `train()` is sparse, and prepare it."""

from __future__ import annotations

from pathlib import Path
from types import FunctionType
from typing import Any

from yolov5_sparse_plugin import manager, options, recipes_io
from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.options import SparseOptions
from yolov5_sparse_plugin.training import architecture, checkpoints, legacy, unpickling


def train(upstream: FunctionType, hyp: Any, opt: Any, device: Any, callbacks: Any, typed: dict[str, Any]) -> Any:
    """Call the host's `train()`, sparse where something sparse was asked for.

    Args:
        upstream: the host's function.
        opt: upstream's options; the plugin's own are taken off it, and those of a sparse run put back in one spelling,
            as plain values: upstream writes `opt` to opt.yaml and pickles it.
        typed: what the user typed, flags or keywords, without defaults; on `--resume`, `main` has replaced `opt`.
    """
    names = options.typed_names("train")
    on_opt = {k: vars(opt).pop(k) for k in list(vars(opt)) if k in names or k.startswith("sparse")}
    if opt.resume:
        recorded = {names[k].name: v for k, v in on_opt.items() if k in names}
        chosen = options.resolve(typed, recorded)
    else:
        chosen = options.resolve({**typed, **on_opt})
    if isinstance(opt.weights, str) and Path(opt.weights).is_file():
        opt.weights = str(Path(opt.weights).resolve())  # upstream takes 'weights/best.pt' for a model hub's address
    unpickling.check_whole(opt.weights)
    is_stub = isinstance(opt.weights, str) and opt.weights.startswith("zoo:")
    if chosen.recipe is None and not (chosen.hooks or is_stub or checkpoints.is_sparse(opt.weights)):
        return upstream(hyp, opt, device, callbacks)
    with checkpoints.whole_pickles(chosen.trust_pickle):
        return sparse(upstream, hyp, opt, device, callbacks, chosen, typed)


def sparse(
    upstream: FunctionType,
    hyp: Any,
    opt: Any,
    device: Any,
    callbacks: Any,
    chosen: SparseOptions,
    typed: dict[str, Any],
) -> Any:
    """Call the host's `train()` with what was asked for: a recipe, hooks, or weights that only this plugin reads."""
    hooks = manager.create(chosen.hooks, options.disabled_hooks())
    if isinstance(opt.weights, str) and opt.weights:
        opt.weights = hooks.hook.sparse_resolve(kind="weights", address=opt.weights) or opt.weights
    ckpt = checkpoints.read(opt.weights) if checkpoints.is_sparse(opt.weights) else None
    part = ckpt["sparse"] if ckpt else None
    if ckpt and opt.cfg and not opt.resume:
        architecture.check(opt.cfg, opt.weights, ckpt)
    if opt.resume and part and "from" in part:
        raise CheckpointError(
            f"--resume {opt.weights}: this run was started with the fork of YOLOv5, whose optimizer and options this "
            f"one does not have. Start a new run from it: --weights {opt.weights}."
        )
    log = upstream.__globals__["LOGGER"]
    if chosen.recipe is None or not hooks.has_plugin("sparse_training"):
        warn_of_regrowth(part, opt, log)
        if chosen.recipe is not None:
            log.warning("WARNING ⚠️ sparse: the hook sparse_training is blocked, the recipe will not be executed")
        seams = {"load": lambda load: checkpoints.loader(legacy.readable(load), quantized=False)}
        with PatchSet(upstream, seams):
            return upstream(hyp, opt, device, callbacks)
    return prepare(upstream, chosen, opt, hooks, part, typed).execute(hyp, device, callbacks)


def warn_of_regrowth(part: dict[str, Any] | None, opt: Any, log: Any) -> None:
    """Say that pruned weights grow back in a run without a recipe, and how to keep them at zero."""
    if part and part["sparsity"] > 0.05:
        kind = "transfer_pruned_quantized" if checkpoints.is_quantized(part) else "transfer_pruned"
        log.warning(
            f"WARNING ⚠️ sparse: {opt.weights} is {part['sparsity']:.0%} sparse and will become dense again. "
            f"Add --sparse-recipe {kind} to keep its zeros at zero."
        )


def prepare(
    upstream: FunctionType,
    chosen: SparseOptions,
    opt: Any,
    hooks: Any,
    part: dict[str, Any] | None,
    typed: dict[str, Any],
) -> Any:
    """Read and check the recipe against options and weights, and build the run. Nothing is written yet."""
    from yolov5_sparse_plugin.engine.sparseml import Schedule
    from yolov5_sparse_plugin.training.run import TrainingRun

    resumed = part if opt.resume else None
    if opt.resume and part is None:
        raise CheckpointError(
            f"--resume {opt.weights}: this run was started without a recipe, it cannot go on with one. "
            f"Start a new run: --weights {opt.weights} --sparse-recipe {chosen.recipe}."
        )
    if resumed and chosen.origin.get("recipe") in (None, "opt.yaml"):
        schedule = Schedule(resumed["recipe"], "the checkpoint's recipe")
    else:
        address = hooks.hook.sparse_resolve(kind="recipe", address=chosen.recipe) or chosen.recipe
        schedule = Schedule.load(recipes_io.read(address), chosen.recipe_args)
    if schedule.quantization and part and checkpoints.is_quantized(part) and not resumed:
        raise RecipeError(
            f"{schedule.source}: the recipe quantizes, but {opt.weights} is quantized already. Start from the run's "
            "best_pruned.pt or best_dense.pt, or leave the QuantizationModifier out to fine-tune its float weights."
        )
    origin = "--epochs"
    if "epochs" not in typed and not resumed:
        if schedule.epochs:
            opt.epochs, origin = schedule.epochs, "the recipe"
        else:
            origin = "--epochs (default)"
    schedule.check_epochs(opt.epochs, origin)
    for name in ("recipe", "recipe_args"):
        value = getattr(chosen, name)
        if value:
            file = Path(value) if name == "recipe" and "\n" not in value else None
            setattr(opt, "sparse_" + name, str(file.resolve()) if file and file.is_file() else value)
    return TrainingRun(upstream, chosen, schedule, opt, hooks, resumed)
