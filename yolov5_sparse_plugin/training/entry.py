"""The doorway of training: decide whether a call of the host's `train()` is sparse, and prepare it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import indent
from types import FunctionType
from typing import Any, Callable

from yolov5_sparse_plugin import manager, option_values, options, recipes_io
from yolov5_sparse_plugin.checkpoints import architecture, formats, legacy, phases, reading
from yolov5_sparse_plugin.checkpoints.file import look
from yolov5_sparse_plugin.engine import engines, timeline
from yolov5_sparse_plugin.engine.contract import Schedule
from yolov5_sparse_plugin.engine.recipe import Recipe
from yolov5_sparse_plugin.errors import CheckpointError, OptionError, RecipeError, nearest
from yolov5_sparse_plugin.hosts import current, datasets
from yolov5_sparse_plugin.hosts.log import redirected, say
from yolov5_sparse_plugin.hosts.patchset import PatchSet, with_nominal_batch
from yolov5_sparse_plugin.options import SparseOptions
from yolov5_sparse_plugin.recipes_io import RecipeText
from yolov5_sparse_plugin.stubs import is_stub

# what a recipe says of distillation where it says nothing
TEACHER_ALONE = "distillation_modifiers:\n- !DetectionDistillationModifier\n  gain: 1.0\n  start_epoch: 0.0\n"


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
        # --data was written down with the images where they are; a data_path there is not of ours
        recorded = {names[k].name: v for k, v in on_opt.items() if k in names and names[k].name != "data_path"}
        chosen = options.resolve(typed, recorded)
    else:
        chosen = options.resolve({**typed, **on_opt})
    if opt.resume and chosen.sparse:
        take_over(opt, typed, upstream.__globals__)
    if chosen.gradient_accum_steps:
        upstream = accumulating(upstream, chosen, opt)
    if chosen.data_path:
        opt.data = str(datasets.moved(Path(opt.data), chosen.data_path, Path(opt.save_dir)))
    if isinstance(opt.weights, str) and Path(opt.weights).is_file():
        opt.weights = str(Path(opt.weights).resolve())  # upstream takes 'weights/best.pt' for a model hub's address
    file = look(opt.weights)
    file.check()
    if not (chosen.sparse or chosen.hooks or is_stub(opt.weights) or file.sparse):
        with PatchSet(upstream, log_seam(chosen), current.host().title):
            return upstream(hyp, opt, device, callbacks)
    with reading.whole_pickles(chosen.trust_pickle):
        return sparse(upstream, hyp, opt, device, callbacks, chosen, typed)


def take_over(opt: Any, typed: dict[str, Any], host: dict[str, Any]) -> None:
    """Let a resumed run go on with the batch size that was typed, and say what else of upstream's it does not follow.

    Upstream's `main` has put the recorded options in place of what was typed.
    """
    if "batch_size" in typed:
        opt.batch_size = option_values.whole(typed["batch_size"], "--batch-size")
        processes = host.get("WORLD_SIZE", 1)
        if opt.batch_size % processes:
            raise OptionError(f"--batch-size {opt.batch_size}: needs a multiple of the {processes} processes.")
    recorded = vars(opt)
    for name in sorted(set(typed) & set(recorded) - {"resume", "weights", "cfg", "hyp", "batch_size"}):
        both = {str(typed[name]), str(recorded[name])}
        if len({str(Path(value).resolve()) for value in both}) > 1:  # a path may have been relative
            say(
                host,
                f"--{name.replace('_', '-')} {typed[name]}: a resumed run keeps what its opt.yaml says, "
                f"{recorded[name]!r}; of YOLOv5's own options only --batch-size can change",
                warn=True,
            )


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
        opt.weights = manager.resolve(hooks, "weights", opt.weights, chosen)
    file = look(opt.weights)
    part = file.part
    if part and opt.cfg and not opt.resume:
        architecture.check(opt.cfg, opt.weights, file.ckpt)
    if opt.resume and part and "from" in part:
        raise CheckpointError(
            f"--resume {opt.weights}: this run was started with the fork of YOLOv5, whose optimizer and options this "
            f"one does not have. Start a new run from it: --weights {opt.weights}."
        )
    host = upstream.__globals__
    if not chosen.sparse or not hooks.has_plugin("sparse_training"):
        warn_of_regrowth(part, opt, host)
        if chosen.sparse:
            say(host, "the hook sparse_training is blocked, the recipe will not be executed", warn=True)
        load = lambda load: reading.loader(legacy.readable(load), quantized=False)  # noqa: E731
        seams = {"load": load, "strip": legacy.stripping, **log_seam(chosen)}
        with PatchSet(upstream, seams, current.host().title):
            return upstream(hyp, opt, device, callbacks)
    return prepare(upstream, chosen, opt, hooks, part, typed).execute(hyp, device, callbacks)


def log_seam(chosen: SparseOptions) -> dict[str, Callable[[Any], Any]]:
    return {"loggers": partial(redirected, folder=chosen.log_dir)} if chosen.log_dir else {}


def accumulating(upstream: FunctionType, chosen: SparseOptions, opt: Any) -> FunctionType:
    """Return a `train()` that steps its optimizer as often as the user wants."""
    if opt.batch_size < 1:
        raise OptionError(f"{chosen.asked('gradient_accum_steps')}: needs a --batch-size, not one that is found out.")
    opt.sparse_gradient_accum_steps = chosen.gradient_accum_steps
    return with_nominal_batch(upstream, chosen.gradient_accum_steps * opt.batch_size, current.host().title)


def warn_of_regrowth(part: dict[str, Any] | None, opt: Any, host: dict[str, Any]) -> None:
    """Say that pruned weights grow back in a run without a recipe, and how to keep them at zero."""
    if part and part["sparsity"] > phases.PRUNED:
        kind = "transfer_pruned_quantized" if formats.is_quantized(part) else "transfer_pruned"
        say(
            host,
            f"{opt.weights} is {part['sparsity']:.0%} sparse and will become dense again. "
            f"Add --sparse-recipe {kind} to keep its zeros at zero.",
            warn=True,
        )


def find_teacher(chosen: SparseOptions, opt: Any, hooks: Any) -> str:
    """Return the path, or the name that upstream downloads, of the checkpoint to learn from."""
    teacher = str(chosen.teacher)
    if teacher == "self":
        if not opt.weights:
            raise OptionError("--sparse-teacher self: the run starts from no weights. Add --weights.")
        teacher = str(opt.weights)
    teacher = manager.resolve(hooks, "weights", teacher, chosen)
    file = Path(teacher)
    if not file.is_file() and (len(file.parts) > 1 or not file.name.startswith("yolov5")):
        near = [p.name for p in file.parent.glob("*.pt")] if file.parent.is_dir() else []
        raise CheckpointError(
            f"{chosen.asked('teacher')}: there is no such file. "
            + (nearest(file.name, near) if near else "Check the path.")
        )
    return str(file.resolve()) if file.is_file() else teacher


def with_teacher(recipe: Recipe) -> RecipeText:
    """Return a recipe that distills as well, as `TEACHER_ALONE` says; in a stage of its own where it has stages."""
    added = "teacher:\n" + indent(TEACHER_ALONE, "  ") if recipe.stages else TEACHER_ALONE
    return RecipeText(f"{recipe.text.rstrip()}\n{added}", recipe.source)


def engine_of(chosen: SparseOptions, resumed: dict[str, Any] | None, host: dict[str, Any]) -> type[Schedule]:
    """Return the schedule of the engine that executes the recipe; a resumed run keeps its own, where it can."""
    asked, how = chosen.engine, chosen.asked("engine")
    begun = resumed.get("engine") if resumed else None
    if begun in option_values.ENGINES and chosen.origin.get("engine") in (None, "opt.yaml"):
        asked = begun
        if begun == engines.SPARSEML and not engines.installed():
            say(host, "this run began with SparseML, which is not installed here; it goes on with native", warn=True)
            asked = engines.NATIVE
    return engines.schedules(engines.chosen(asked, how))


def prepare(
    upstream: FunctionType,
    chosen: SparseOptions,
    opt: Any,
    hooks: Any,
    part: dict[str, Any] | None,
    typed: dict[str, Any],
) -> Any:
    """Read and check the recipe against options and weights, and build the run. Nothing is written yet."""
    from yolov5_sparse_plugin.training.run import TrainingRun

    resumed = part if opt.resume else None
    if chosen.teacher is not None:
        chosen = replace(chosen, teacher=find_teacher(chosen, opt, hooks))
        opt.sparse_teacher = chosen.teacher
    if opt.resume and part is None:
        raise CheckpointError(
            f"--resume {opt.weights}: this run was started without a recipe, it cannot go on with one. "
            f"Start a new run: --weights {opt.weights} --sparse-recipe {chosen.recipe}."
        )
    load = engine_of(chosen, resumed, upstream.__globals__).load
    if resumed and chosen.origin.get("recipe") in (None, "opt.yaml"):
        schedule = load(RecipeText(resumed["recipe"], "the checkpoint's recipe"))
    elif chosen.recipe is None:
        schedule = load(RecipeText(TEACHER_ALONE, chosen.asked("teacher")))
    else:
        address = manager.resolve(hooks, "recipe", chosen.recipe, chosen)
        schedule = load(recipes_io.read(address, chosen.asked("recipe")), chosen.recipe_args)
    if schedule.quantizes and part and formats.is_quantized(part) and not resumed:
        raise RecipeError(
            f"{schedule.source}: the recipe quantizes, but {opt.weights} is quantized already. Start from the run's "
            "best_pruned.pt or best_dense.pt, or leave the QuantizationModifier out to fine-tune its float weights."
        )
    if chosen.teacher is not None and not schedule.distills:
        schedule = load(with_teacher(schedule.recipe))
    origin = "--epochs"
    if "epochs" not in typed and not resumed:
        if schedule.epochs:
            opt.epochs, origin = schedule.epochs, "the recipe"
        else:
            origin = "--epochs (default)"
    timeline.check_length(schedule.recipe, opt.epochs, origin)
    if not resumed:
        timeline.check_asked(schedule.recipe, chosen.recipe_args, opt.epochs, origin)
    if chosen.teacher is not None:
        schedule.check_distillation()
    for name in ("recipe", "recipe_args"):
        value = getattr(chosen, name)
        if value:
            file = Path(value) if name == "recipe" and "\n" not in value else None
            setattr(opt, "sparse_" + name, str(file.resolve()) if file and file.is_file() else value)
    if chosen.engine:
        opt.sparse_engine = chosen.engine
    if chosen.hooks:  # for a resumed run to say that it needs them
        opt.sparse_hooks = [str(Path(file).resolve()) for file in chosen.hooks]
    if chosen.log_dir:
        opt.sparse_log_dir = str(Path(chosen.log_dir).resolve())
    if chosen.qat_batch_size:
        if not schedule.quantizes:
            raise OptionError(
                f"{chosen.asked('qat_batch_size')}: {schedule.source} does not quantize. Leave it out, or lower "
                "--batch-size."
            )
        opt.sparse_qat_batch_size = chosen.qat_batch_size
    return TrainingRun(upstream, chosen, schedule, opt, hooks, resumed)
