"""What a recipe does, by epoch, computed from what it says: learning rates, sparsity, phases. Nothing is trained.

The formulas are those that SparseML 1.8 executes (sparseml.utils.interpolate, the modifiers of
sparseml.pytorch.sparsification.training.modifier_lr); tests hold them against real runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.fitting import Fit
from yolov5_sparse_plugin.engine.recipe import AnyEntry, Entry, Recipe, matches
from yolov5_sparse_plugin.engine.schema.rates import CosineAnnealingWarmRestarts, MultiStepLR, StepLR
from yolov5_sparse_plugin.engine.schema.values import FROM_PARAM
from yolov5_sparse_plugin.errors import RecipeError

RATES = (schema.SetLearningRateModifier, schema.LearningRateFunctionModifier, schema.LearningRateModifier)

Kind = TypeVar("Kind", bound=schema.Modifier)


def of_kind(recipe: Recipe, *kinds: type[Kind]) -> list[Entry[Kind]]:
    return [cast("Entry[Kind]", entry) for entry in recipe.entries if isinstance(entry.spec, kinds)]


# --------------------------------------------------------------------------------------------------------------- length


def length(recipe: Recipe) -> int:
    """Return the number of epochs that a recipe asks for, rounded up; 0 where it names none."""
    return max([0, *(math.ceil(end_of(entry)) for entry in recipe.entries)])


def end_of(entry: AnyEntry) -> float:
    """Return when a modifier ends, -1 where it does not, or does not say so in a number (it may be of a hook file)."""
    end = entry.fields.get("end_epoch", -1)
    return end if isinstance(end, (int, float)) else -1


def check_length(recipe: Recipe, epochs: int, origin: str) -> None:
    """Refuse a run that is too short for what a recipe starts in it (SparseML accepts it in silence).

    Args:
        epochs: length of the run.
        origin: `--epochs` or what else decided the length, for the message.

    Raises:
        RecipeError: naming the modifier, and what to type.
    """
    entries = of_kind(recipe, *schema.PRUNING, schema.Quantization)
    least = max((max(math.floor(entry.spec.start) + 1, math.ceil(end_of(entry))) for entry in entries), default=0)
    for entry in entries:
        start, what = entry.spec.start_epoch, "pruning"
        if isinstance(entry.spec, schema.Quantization):
            what = "quantization"
        if start >= epochs:
            fix = f"Raise --epochs to at least {least}"
            if origin == "the recipe":
                ranges = of_kind(recipe, schema.EpochRangeModifier)
                longer = "Let the recipe's EpochRangeModifier end" if ranges else "Add an EpochRangeModifier that ends"
                fix = f"{longer} at {least} or later, or start {what} earlier"
            elif length(recipe) > start:
                fix += f", or drop it to take {length(recipe)} from the recipe" + follow(recipe, epochs)
            raise RecipeError(f"{recipe.source}: {what} starts at epoch {start:g} but {origin} is {epochs}. {fix}.")
        if what == "pruning" and end_of(entry) > epochs:
            raise RecipeError(
                f"{recipe.source}: pruning ends at epoch {end_of(entry):g} but {origin} is {epochs}: the final "
                f"sparsity would not be reached. Raise --epochs to at least {least}"
                f"{follow(recipe, epochs)}."
            )
        for name in schema.ONCE_QUANTIZED if what == "quantization" else ():
            late = getattr(entry.spec, name)
            if late is not None and late >= epochs:
                raise RecipeError(
                    f"{entry.where(recipe.source, name)}: {name} {late:g} would never come: {origin} is {epochs}. Set "
                    f"it lower, or take it out{follow(recipe, epochs)}."
                )


def follow(recipe: Recipe, epochs: int) -> str:
    """Return what else to type where a recipe's times follow its variable num_epochs."""
    known = "num_epochs" in recipe.variables
    return f", or let the recipe follow: --sparse-recipe-args num_epochs={epochs}" if known else ""


def check_asked(recipe: Recipe, asked: Mapping[str, Any], epochs: int, origin: str) -> None:
    """Refuse `num_epochs` as the user sets it beside another length of the run.

    Args:
        asked: the variables that the user set. epochs, origin: as for `check_length`.
    """
    wanted = asked.get("num_epochs")
    if isinstance(wanted, (int, float)) and math.ceil(wanted) != epochs:
        why = f"{origin} is {epochs}"
        fix = "Take one of the two out"
        if origin == "the recipe":
            why = f"the recipe ends at epoch {epochs}"
            later = [entry for entry in recipe.entries if end_of(entry) > wanted]
            if later:
                why += f", where {later[0].tag} of line {later[0].line} does not follow num_epochs"
            fix = "Set that as well, or type --epochs"
        raise RecipeError(f"{recipe.source}: --sparse-recipe-args sets num_epochs to {wanted:g}, but {why}. {fix}.")


# ------------------------------------------------------------------------------------------------------ learning rates


def rate_at(recipe: Recipe, group: int, epoch: float) -> float | None:
    """Return the learning rate of a group of parameters at `epoch` (fractional), None where the recipe sets none.

    Of several modifiers the one that wrote last counts; of those that write together, the one that ends last.
    """
    found: tuple[tuple[float, bool, float, float], float] | None = None
    for entry in of_kind(recipe, *RATES):
        spec, start = entry.spec, entry.spec.start
        groups = getattr(spec, "param_groups", None)
        if epoch < start or (groups and group not in groups):
            continue
        end = end_of(entry) if end_of(entry) >= 0 else math.inf
        written = start if isinstance(spec, schema.SetLearningRateModifier) else min(epoch, end)
        key = (written, end == math.inf, end, start)
        if found is None or key >= found[0]:
            found = key, rate_of(spec, written)
    return found[1] if found else None


def rate_of(spec: Any, epoch: float) -> float:
    """Return the learning rate that a modifier sets at `epoch`, at which it is at work."""
    if isinstance(spec, schema.SetLearningRateModifier):
        return spec.learning_rate
    if isinstance(spec, schema.LearningRateModifier):
        over = spec.end_epoch == epoch  # its last step is the one before
        return scheduled(spec, epoch - spec.start - (1e-9 if over else 0.0))
    share = (epoch - spec.start) / (spec.end_epoch - spec.start)
    if spec.lr_func == "cyclic_linear":
        share = ((epoch - spec.start) % spec.cycle_epochs) / spec.cycle_epochs
    if spec.lr_func == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return spec.init_lr + share * (spec.final_lr - spec.init_lr)


def scheduled(spec: schema.LearningRateModifier, time: float) -> float:
    """Return what torch's scheduler of the modifier makes of its first rate, `time` epochs after its start."""
    given = spec.CLASSES[spec.lr_class](**spec.lr_kwargs)
    if isinstance(given, MultiStepLR):
        return spec.init_lr * given.gamma ** sum(time >= milestone - spec.start for milestone in given.milestones)
    if isinstance(given, CosineAnnealingWarmRestarts):
        share = (1 + math.cos(math.pi * (time % given.cycle_epochs) / given.cycle_epochs)) / 2
        return given.lr_min + (spec.init_lr - given.lr_min) * share
    return spec.init_lr * given.gamma ** math.floor(time / (given.step_size if isinstance(given, StepLR) else 1.0))


# ------------------------------------------------------------------------------------------------- sparsity and phases


def interpolated(share: float, first: float, last: float, inter_func: str) -> float:
    """Return the value between `first` and `last` at `share` (0..1) of the way, as SparseML's `inter_func` has it."""
    share = min(max(share, 0.0), 1.0)
    if inter_func == "cubic":
        share = 1 - (1 - share) ** 3
    elif inter_func == "inverse_cubic":
        share = 1 - (1 - share) ** (1 / 3)
    return first + share * (last - first)


def sparsity_of(spec: Any, epoch: float, now: float, final: float | None = None) -> float | None:
    """Return the share of zeros that a pruning modifier holds after `epoch` epochs, None where it holds none.

    What is due at that very moment comes with the next batch; only an end is delivered before.

    Args:
        now: the share that the weights have before it starts.
        final: where it ends, of the parameters in question; None: its only one.
    """
    end = spec.end_epoch if spec.end_epoch >= 0 else math.inf
    if epoch <= spec.start or (epoch >= end and not getattr(spec, "leave_enabled", False)):
        return None
    if isinstance(spec, schema.ConstantPruningModifier):
        return now
    if isinstance(spec, schema.ACDCPruningModifier):  # dense and sparse by turns; sparse from the last turn on
        turn, last = math.ceil((epoch - spec.start) / spec.update_frequency) - 1, end - spec.update_frequency
        due = spec.start + turn * spec.update_frequency
        return 0.0 if turn % 2 == 0 and due < last else spec.compression_sparsity
    first = now if spec.init_sparsity == FROM_PARAM else spec.init_sparsity
    last = spec.final_sparsities[0] if final is None else final
    time = min(epoch, end)
    if time < end and spec.update_frequency > 0:  # masks are computed from time to time
        time = spec.start + (math.ceil((time - spec.start) / spec.update_frequency - 1e-9) - 1) * spec.update_frequency
    return interpolated((time - spec.start) / (end - spec.start), first, last, spec.inter_func)


def sparsity_at(fits: Sequence[Fit], sizes: Mapping[str, int], zeros: Mapping[str, float], epoch: float) -> float:
    """Return the share of zeros among all prunable weights that masks hold at `epoch`.

    Args:
        fits: the recipe's entries on the model. sizes: number of values of each prunable weight, by name.
        zeros: share of zeros that each has at the start; a recipe without masks would lose them.
    """
    held: dict[str, float] = {}
    for each in fits:
        if isinstance(each.entry.spec, schema.PRUNING):
            for name, final in finals(each).items():
                share = sparsity_of(each.entry.spec, epoch, zeros.get(name, 0.0), final)
                if share is not None and name in sizes:
                    held[name] = share
    return sum(held.get(name, 0.0) * size for name, size in sizes.items()) / max(sum(sizes.values()), 1)


def finals(found: Fit) -> dict[str, float | None]:
    """Return the final sparsity of each parameter, None where the modifier has only one."""
    by_layer = getattr(found.entry.spec, "final_sparsity", None)
    if not isinstance(by_layer, dict):
        return dict.fromkeys(found.parameters)
    return {
        name: next(share for share, words in by_layer.items() if any(matches(word, name) for word in words))
        for name in found.parameters
    }


def only_holds(recipe: Recipe) -> bool:
    """Return whether a recipe holds zeros and makes none."""
    pruning = of_kind(recipe, *schema.PRUNING)
    return bool(pruning) and all(isinstance(entry.spec, schema.ConstantPruningModifier) for entry in pruning)


def growing_back(recipe: Recipe) -> list[Entry[schema.Modifier]]:
    """Return the modifiers that prune, and let the weights grow back in the end."""
    return [entry for entry in of_kind(recipe, *schema.PRUNING) if getattr(entry.spec, "leave_enabled", True) is False]


# ---------------------------------------------------------------------------------------------------- what it is about


def pruning(recipe: Recipe) -> list[AnyEntry]:
    """Return the modifiers that prune, those of hook files included, which are told by their names."""
    return [e for e in recipe.entries if isinstance(e.spec, schema.PRUNING) or (e.spec is None and "Pruning" in e.tag)]


def distillation(recipe: Recipe) -> list[AnyEntry]:
    """Return the modifiers that learn from a teacher, those of hook files included."""
    return [entry for entry in recipe.entries if "Distillation" in entry.tag]


def start_of(entry: AnyEntry) -> float:
    """Return when a modifier starts, 0 where it does not say so in a number."""
    start = entry.fields.get("start_epoch", 0.0)
    return max(start, 0.0) if isinstance(start, (int, float)) else 0.0


def pruning_start(recipe: Recipe) -> float | None:
    """Return the epoch (fractional) at which the first pruning starts, None where nothing is pruned."""
    return min(map(start_of, pruning(recipe)), default=None)


def pruning_end(recipe: Recipe) -> float | None:
    """Return the epoch (fractional) from which on sparsity no longer changes, None where nothing is pruned."""
    ends = [start_of(entry) if "Constant" in entry.tag else end_of(entry) for entry in pruning(recipe)]
    return max(ends, default=None)


def quantization_start(recipe: Recipe) -> float | None:
    """Return the epoch (fractional) at which the first quantization starts, None where nothing is quantized."""
    return min(map(start_of, of_kind(recipe, schema.Quantization)), default=None)


def last_change(recipe: Recipe) -> float:
    """Return the epoch (fractional) after which a recipe leaves the model alone but for its learning rate."""
    changes = [0.0, pruning_end(recipe) or 0.0]
    for entry in of_kind(recipe, schema.Quantization):
        changes += [start_of(entry), *(getattr(entry.spec, name) or 0.0 for name in schema.ONCE_QUANTIZED)]
    return max(changes)


def owns_learning_rate(recipe: Recipe, epoch: float) -> bool:
    """Return whether one of the learning-rate modifiers, those of hook files included, has started by `epoch`."""
    return any(start_of(entry) <= epoch for entry in recipe.entries if "LearningRate" in entry.tag)
