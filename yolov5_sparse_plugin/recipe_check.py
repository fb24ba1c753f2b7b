"""`yolov5-sparse recipes check`: what a recipe will do to a model, epoch by epoch, without training."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from yolov5_sparse_plugin import manager, options, recipes_io
from yolov5_sparse_plugin.checkpoints import formats, legacy, phases
from yolov5_sparse_plugin.checkpoints.file import look
from yolov5_sparse_plugin.engine import engines, schema, timeline
from yolov5_sparse_plugin.engine.fitting import Fit, fit, prunable
from yolov5_sparse_plugin.engine.recipe import Recipe
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.engine.schema.values import ALL_PRUNABLE, FROM_PARAM
from yolov5_sparse_plugin.errors import CheckpointError, OptionError, RecipeError
from yolov5_sparse_plugin.hosts import model_yaml
from yolov5_sparse_plugin.hosts.current import host
from yolov5_sparse_plugin.training import memory

GROUPS = {0: "biases", 1: "weights", 2: "batch norm"}  # of YOLOv5's optimizer
SHORT = 0.02  # of a sparsity that a recipe names: not worth a word
ROWS = 14  # about as many as one looks at


@dataclass
class Check:
    """What was found.

    Attributes:
        recipe, fits: the recipe, and what each of its entries means in the model.
        epochs: length of the run.
        model: float. subject: what it is, for people.
        zeros: share of zeros of each prunable weight, by name.
        given: whether the user named weights.
        floats: convolutions and linear layers that the recipe's quantization leaves float; None: it does not quantize.
        need: what a batch keeps before and after quantization, of a model that the user named.
    """

    recipe: Recipe
    fits: list[Fit]
    epochs: int
    model: nn.Module
    subject: str
    zeros: dict[str, float]
    given: bool
    floats: list[str] | None = None
    need: tuple[memory.Need, memory.Need] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        return {name: weight.numel() for name, weight in prunable(self.model).items()}

    def sparsity(self, epoch: float) -> float:
        """Return the share of zeros among the prunable weights that masks hold at `epoch`."""
        return timeline.sparsity_at(self.fits, self.sizes, self.zeros, epoch)

    def phase(self, epoch: float) -> str:
        """Return the model's phase at `epoch` (fractional); at a whole one, that in which it is validated."""
        end, start = timeline.pruning_end(self.recipe), timeline.quantization_start(self.recipe)
        pruned = end is not None and epoch >= end and self.sparsity(epoch) > phases.PRUNED
        return phases.phase_of(pruned, start is not None and start < epoch)


def check(address: str, variables: Any, weights: str | None, epochs: int | None) -> Check:
    """Read a recipe as a run would, and look at what it means in a model.

    Args:
        address: a file, a shipped name or a stub. variables: as `--sparse-recipe-args` takes them.
        weights: a checkpoint; None: YOLOv5n, as the YOLOv5 here builds it.
        epochs: length of the run; None: the recipe's.
    """
    typed = {"sparse_recipe": address, **({"sparse_recipe_args": variables} if variables is not None else {})}
    chosen = options.resolve(typed)
    hooks = manager.create(chosen.hooks, options.disabled_hooks())
    text = recipes_io.read(manager.resolve(hooks, "recipe", address, chosen), f"recipes check {address}")
    schedule = engines.look_into(text, chosen.recipe_args, chosen.engine)
    recipe = schedule.recipe
    length, origin = (epochs, "--epochs") if epochs is not None else (timeline.length(recipe), "the recipe")
    if length < 1:
        raise OptionError("recipes check: the recipe names no length, and no --epochs N was given.")
    timeline.check_length(recipe, length, origin)
    timeline.check_asked(recipe, chosen.recipe_args, length, origin)
    file = weights and manager.resolve(hooks, "weights", weights, chosen)
    model, subject, quantized = loaded(file) if file else built()
    if quantized and schedule.quantizes:
        raise RecipeError(f"{recipe.source}: the recipe quantizes, but {weights} is quantized already.")
    zeros = {name: legacy.zeros(weight) for name, weight in prunable(model).items()}
    found = Check(recipe, fit(recipe, model), length, model, subject, zeros, weights is not None)
    if schedule.quantizes:
        copy = deepcopy(model)
        if found.given:
            found.need = memory.needs(copy, schedule)
        else:
            make_adds_quantizable(copy)
            schedule.apply_quantization(copy)
        layers = ((name, module) for name, module in copy.named_modules() if isinstance(module, KINDS))
        found.floats = [name for name, layer in layers if not QUANTIZED & set(dict(layer.named_children()))]
    return found


KINDS = (nn.Conv2d, nn.Linear)
QUANTIZED = {"weight_fake_quant", "weight_quantizer"}  # as SparseML and native call the quantizer of a weight


def built() -> tuple[nn.Module, str, bool]:
    """Return a YOLOv5n of this YOLOv5, what it is, and that it is not quantized."""
    import yaml

    file = host().root / "models" / "yolov5n.yaml"
    model = model_yaml.build(yaml.safe_load(file.read_text(errors="ignore")))
    return model, "an untrained YOLOv5n (name yours with --weights)", False


def loaded(weights: str) -> tuple[nn.Module, str, bool]:
    """Return the float model of a checkpoint, what it is, and whether it is quantized."""
    file = Path(weights)
    found = look(file)
    found.check()
    if not file.is_file():
        raise CheckpointError(f"recipes check --weights {weights}: there is no such file.")
    ckpt = found.take() if found.sparse else legacy.readable(None)(file)
    model = ckpt.get("ema") or ckpt.get("model")
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"recipes check --weights {weights}: there is no model in this checkpoint.")
    quantized = "sparse" in ckpt and formats.is_quantized(ckpt["sparse"])
    return model.float(), file.name, quantized


# -------------------------------------------------------------------------------------------------------------- telling


def span(start: float, end: float) -> str:
    return f"{start:.4g} on" if end < 0 else f"{start:.4g} to {end:.4g}"


def described(found: Fit, weights: Collection[str]) -> str:
    """Say in a few words what an entry does; `weights`: the names of those that are prunable."""
    spec, others = found.entry.spec, len(set(found.parameters) - set(weights))
    many = f"{len(found.parameters) - others} of {len(weights)} weights" + f" and {others} others" * bool(others)
    if isinstance(spec, timeline.RATES):
        groups = ", ".join(GROUPS.get(place, str(place)) for place in getattr(spec, "param_groups", None) or GROUPS)
        if isinstance(spec, schema.LearningRateFunctionModifier):
            return f"{groups}: {spec.lr_func} {spec.init_lr:g} to {spec.final_lr:g}"
        if isinstance(spec, schema.SetLearningRateModifier):
            return f"{groups}: {'as it is' if spec.learning_rate is None else f'{spec.learning_rate:g}'}"
        return f"{groups}: {spec.lr_class} from {spec.init_lr:g}"
    if isinstance(spec, schema.GradualPruning):
        first = "what they have" if spec.init_sparsity == FROM_PARAM else f"{spec.init_sparsity:.1%}"
        last = " and ".join(f"{share:.1%}" for share in sorted(set(spec.final_sparsities)))
        kind = "" if spec.mask_type == "unstructured" else f", {spec.mask_type}"
        return f"{many}: {first} to {last}, {spec.inter_func}{kind}" + "; they grow back then" * (
            not spec.leave_enabled
        )
    if isinstance(spec, schema.ACDCPruningModifier):
        return f"{many}: {spec.compression_sparsity:.1%}, by turns"
    if isinstance(spec, schema.ConstantPruningModifier):
        return f"{many}: zeros stay zero"
    if isinstance(spec, schema.Quantization):
        left = f"; ignored: {', '.join(found.ignore)}" if found.ignore else ""
        return f"8-bit weights and activations{left}"
    if found.parameters:
        return f"{len(found.parameters)} parameters, the first is {found.parameters[0]}"
    return ""


def moments(found: Check) -> list[int]:
    """Return the epochs to show: of a long run those at which something changes, and some between."""
    last = found.epochs
    if last <= ROWS:
        return list(range(1, last + 1))
    step = math.ceil(last / (ROWS // 2))
    changes = {
        math.ceil(time)
        for entry in found.recipe.entries
        for time in (entry.fields.get("start_epoch", 0), timeline.end_of(entry))
        if isinstance(time, (int, float))
    }
    shown = {1, last, *range(step, last, step), *(change for change in changes if 1 <= change <= last)}
    start = timeline.quantization_start(found.recipe)
    return sorted(shown | ({min(math.floor(start) + 1, last)} if start is not None else set()))


def rates(found: Check, epoch: float) -> str:
    """Return the learning rate at `epoch`: that of the weights, and of the biases where it is another."""
    weights, biases = (timeline.rate_at(found.recipe, group, epoch) for group in (1, 0))
    if weights is None:
        return "YOLOv5's own"
    return f"{weights:.3g}" + (f" (biases {biases:.3g})" if biases is not None and biases != weights else "")


def print_tables(found: Check, batch: int, img: int) -> None:
    """Print what was found to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, weights = Console(), found.sizes
    zeros = sum(found.zeros[name] * size for name, size in weights.items()) / max(sum(weights.values()), 1)
    length = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    console.print(
        f"{found.recipe.source}: {length}, on {found.subject}: {len(weights)} prunable weights, "
        f"{sum(weights.values()) / 1e6:.2f} million values, {zeros:.1%} of them zero",
        markup=False,
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("line", justify="right")
    for title in ("modifier", "epochs", "what"):
        table.add_column(title)
    for each in found.fits:
        entry = each.entry
        start = max(entry.fields.get("start_epoch", 0), 0)
        cells = (entry.tag, span(start, timeline.end_of(entry)), described(each, weights))
        table.add_row(str(entry.line), *(Text(cell) for cell in cells))
    console.print(table)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("after epoch", justify="right")
    table.add_column("phase")
    for title in ("sparsity", "learning rate"):
        table.add_column(title, justify="right")
    for epoch in moments(found):
        table.add_row(str(epoch), found.phase(epoch), f"{found.sparsity(epoch):.1%}", rates(found, epoch))
    console.print(table)
    for line in remarks(found, batch, img):
        console.print(line, markup=False, highlight=False)


def gradual(found: Check) -> list[tuple[Fit, schema.GradualPruning]]:
    specs = ((each, each.entry.spec) for each in found.fits)
    return [(each, spec) for each, spec in specs if isinstance(spec, schema.GradualPruning)]


def remarks(found: Check, batch: int, img: int) -> list[str]:
    """Return what a user should know beside the tables, as sentences."""
    lines = [remark for each in found.fits for remark in each.remarks]
    pruning, weights = gradual(found), found.sizes
    wanted = max((max(spec.final_sparsities) for _, spec in pruning), default=0.0)
    named = {name for each, _ in pruning for name in each.parameters if name in weights}
    reached = found.sparsity(found.epochs)
    if len(named) < len(weights) and reached < wanted - SHORT:
        lines.append(
            f"{len(named)} of {len(weights)} weights are pruned, so that the model ends with {reached:.1%} zeros, "
            f"not {wanted:.1%}; all of them are {ALL_PRUNABLE}"
        )
    ranges = timeline.of_kind(found.recipe, schema.EpochRangeModifier)
    lines += [
        f"{entry.where(found.recipe.source)} ends at {entry.spec.end_epoch:g}, before other modifiers; the run goes on "
        f"to {timeline.length(found.recipe)}"
        for entry in ranges
        if entry.spec.end_epoch < timeline.length(found.recipe)
    ]
    if found.floats is not None:
        total = sum(isinstance(module, KINDS) for module in found.model.modules())
        left = f"; float: {', '.join(found.floats)}" if found.floats else ""
        lines.append(f"8 bits in {total - len(found.floats)} of {total} convolutions and linear layers{left}")
    if found.need is not None:
        lines.append(memory.said(*found.need, batch, img, batch, timeline.quantization_start(found.recipe) or 0.0))
    return lines


def plot(found: Check, file: Path) -> None:
    """Draw sparsity, phases and learning rates over the run into `file`; its suffix says in which format."""
    from matplotlib.figure import Figure

    steps = [found.epochs * i / 400 for i in range(401)]
    figure = Figure(figsize=(10, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(steps, [100 * found.sparsity(step) for step in steps], color="#2a78b5", linewidth=2)
    upper.set_ylim(0, 100)
    upper.set_ylabel("weights held at zero, %")
    for group, colour in ((1, "#2a78b5"), (0, "#d08a2e")):
        values = [timeline.rate_at(found.recipe, group, step) for step in steps]
        if any(value is not None for value in values):
            line = [math.nan if value is None else value for value in values]
            lower.plot(steps, line, color=colour, label=f"learning rate, {GROUPS[group]}", linewidth=2)
    lower.set_ylabel("learning rate")
    if lower.lines:
        lower.legend(loc="upper right")
    else:
        lower.text(0.5, 0.5, "YOLOv5's own", transform=lower.transAxes, ha="center")
    lower.set_xlabel("epoch")
    lower.set_xlim(0, found.epochs)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        shade(axes, found, named=axes is upper)
    figure.suptitle(f"{Path(found.recipe.source).name} on {found.subject}", parse_math=False)
    figure.savefig(file, dpi=150)


def shade(axes: Any, found: Check, named: bool) -> None:
    """Colour the background by phase; `named`: write its name at its beginning."""
    colours = dict(zip(phases.PHASES, ("#ffffff", "#eaf2f8", "#fdf3e3", "#e6efe4")))
    changes = (timeline.pruning_end(found.recipe), timeline.quantization_start(found.recipe))
    times = sorted({0.0, float(found.epochs), *(time for time in changes if time is not None)})
    before = ""
    for begin, end in zip(times, times[1:]):
        phase = found.phase((begin + end) / 2)
        axes.axvspan(begin, end, color=colours[phase], zorder=0)
        if named and phase != before:
            axes.text(begin, 1.0, f" {phase}", transform=axes.get_xaxis_transform(), va="top", fontsize=8)
        before = phase


def run(
    address: str,
    variables: Any,
    weights: str | None,
    epochs: int | None,
    picture: Path | None,
    size: tuple[int, int],
) -> int:
    """Execute the command; return its exit status.

    Args:
        size: images in a batch, and their side in pixels, for what is said of memory.
    """
    if picture is not None:
        from matplotlib.figure import Figure

        known = Figure().canvas.get_supported_filetypes()
        if picture.suffix[1:].lower() not in known or not os.access(picture.parent, os.W_OK | os.X_OK):
            raise OptionError(
                f"recipes check --plot {picture}: name a file in a folder that exists and that you may write to, .png, "
                ".svg or .pdf."
            )
    found = check(address, variables, weights, epochs)
    print_tables(found, *size)
    if picture is not None:
        plot(found, picture)
        print(f"picture: {picture}")
    return 0
