"""A recipe at work: which modifiers it makes, whether it fits model and run, and what it holds."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import torch

from yolov5_sparse_plugin.engine import contract, schema
from yolov5_sparse_plugin.engine.fitting import Fit, check_groups, fit
from yolov5_sparse_plugin.engine.native import distillation, fake_quantize, parameters, pruning, quantization, rates
from yolov5_sparse_plugin.engine.native.base import Modifier
from yolov5_sparse_plugin.engine.native.optimizer import Optimizer
from yolov5_sparse_plugin.engine.recipe import Entry, Recipe, parse
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText

CLASSES: dict[str, type[Modifier]] = {
    "EpochRangeModifier": rates.EpochRange,
    "SetLearningRateModifier": rates.SetLearningRate,
    "LearningRateFunctionModifier": rates.LearningRateFunction,
    "LearningRateModifier": rates.LearningRate,
    "SetWeightDecayModifier": parameters.SetWeightDecay,
    "TrainableParamsModifier": parameters.TrainableParams,
    "SetParamModifier": parameters.SetParam,
    "GradualParamModifier": parameters.GradualParam,
    "SparsificationLoggingModifier": rates.EpochRange,  # there is no log of the engine's own
    "MagnitudePruningModifier": pruning.GradualPruning,
    "GMPruningModifier": pruning.GradualPruning,
    "GlobalMagnitudePruningModifier": pruning.GradualPruning,
    "ConstantPruningModifier": pruning.ConstantPruning,
    "QuantizationModifier": quantization.Quantization,
    "DetectionDistillationModifier": distillation.DetectionDistillation,
    "DistillationModifier": distillation.OutputDistillation,
    "PerLayerDistillationModifier": distillation.LayerDistillation,
}


class Schedule(contract.Schedule):
    """A recipe that is ready to run: its modifiers, and what a YOLOv5 run must know of them.

    Attributes:
        modifiers: in the order in which they act.
    """

    engine = "native"

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self._built = [build(entry, recipe.source) for entry in recipe.entries]
        self.modifiers = in_order(self._built)

    @classmethod
    def load(cls, recipe: RecipeText, variables: dict[str, Any] | None = None) -> Schedule:
        """Read a recipe, whoever wrote it; see `recipe.parse` for the errors."""
        return cls(parse(recipe, variables or {}, Foreign()))

    @classmethod
    def of_structure(cls, text: str, source: str) -> Schedule:
        """Read how a checkpoint's recipe quantizes; what else it did to the model stands in the weights."""
        return cls(parse(RecipeText(text, source), {}, Foreign(), only=("QuantizationModifier",)))

    # ---- its modifiers

    @property
    def pruning(self) -> list[pruning.Pruning]:
        return [m for m in self.modifiers if isinstance(m, pruning.Pruning)]

    @property
    def quantization(self) -> list[quantization.Quantization]:
        return [m for m in self.modifiers if isinstance(m, quantization.Quantization)]

    @property
    def distillation(self) -> list[distillation.Distillation]:
        return [m for m in self.modifiers if isinstance(m, distillation.Distillation)]

    @property
    def quantizes_already(self) -> bool:
        """Whether the model has quantizers: wrapping the optimizer starts what starts at epoch 0."""
        return any(modifier.quantized for modifier in self.quantization)

    # ---- on a model

    def check_model(self, model: torch.nn.Module) -> list[Fit]:
        """Write patterns out for this model, and refuse what does not fit it; see `fitting.fit`."""
        fits = fit(self.recipe, model)
        for each, modifier in zip(fits, self._built):
            modifier.suit(each)
        return fits

    def match_layers(self, student: torch.nn.Module, teacher: torch.nn.Module) -> None:
        """Refuse layers whose outputs have another shape than their teacher's."""
        for modifier in self.distillation:
            pairs = zip(*modifier.layers(student, teacher)) if hasattr(modifier, "layers") else ()
            for (name, ours), (other, theirs) in pairs:
                if not (hasattr(ours, "weight") and hasattr(theirs, "weight")):
                    continue
                here, there = len(ours.weight), len(theirs.weight)
                if here != there:
                    raise RecipeError(
                        f"{self.source}: {modifier.entry.tag} compares {name} with the teacher's {other}, which has "
                        f"{there} channels, not {here}. Take one of the same size, or DetectionDistillationModifier, "
                        "which looks at the outputs."
                    )

    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        log_file: Path | None = None,
        teacher: torch.nn.Module | None = None,
    ) -> Optimizer:
        """Wrap upstream's optimizer, at epoch 0; nothing is written to `log_file`.

        Args:
            teacher: a module whose outputs have the form of the model's in training; None: nothing is distilled.
        """
        fits = self.check_model(model)
        self.remarks = [remark for each in fits for remark in each.remarks]
        self.remarks += [remark for each in self._built for remark in remarks_on(each)]
        check_groups(self.recipe, len(optimizer.param_groups))
        self.frozen = self._frozen(model)
        if teacher is not None:
            self.match_layers(model, teacher)
        return Optimizer(optimizer, model, self.modifiers, self.owns_learning_rate, teacher)

    def _frozen(self, model: torch.nn.Module) -> set[str]:
        """Return the parameters that the pruning passes over: to freeze a layer is to keep what it has learned.

        Raises:
            RecipeError: a modifier has nothing else to prune.
        """
        left, learning = set(), {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for modifier in self.pruning:
            names = modifier.fit.parameters
            frozen = [name for name in names if name not in learning]
            if frozen and len(frozen) == len(names):
                raise RecipeError(
                    f"{self.source}: {modifier.entry.tag} prunes {len(names)} layers, {frozen[0]} and so on, and "
                    "--freeze keeps all of them as they are. Freeze fewer layers, or take the modifier out."
                )
            left.update(frozen)
        return left

    def apply_quantization(self, model: torch.nn.Module) -> None:
        """Give a float model, in place, the quantized structure that the recipe ends with; observers off."""
        self.check_model(model)
        for modifier in self.quantization:
            modifier.apply(model, math.inf)
        fake_quantize.disable_observers(model)

    def prune_at_once(self, model: torch.nn.Module) -> None:
        """Zero, in place, the weights that the recipe ends without, by the magnitudes that they have now."""
        if not all(modifier.fitted for modifier in self._built):
            self.check_model(model)
        model.requires_grad_(True)  # finished checkpoints need no gradient, and pass for frozen
        for modifier in self.pruning:
            modifier.initialize(model)
            modifier.prune_at_once()

    def masks(self) -> dict[int, torch.Tensor]:
        """Return the pruning masks in force, id of the parameter -> mask of its shape (1 keeps, 0 zeroes)."""
        found: dict[int, torch.Tensor] = {}
        for modifier in self.pruning:
            found.update(modifier.in_force())
        return found

    def quantizers(self, model: torch.nn.Module) -> list[fake_quantize.FakeQuantizer]:
        return fake_quantize.quantizers_of(model)

    def state(self, model: torch.nn.Module, plain: torch.nn.Module) -> dict[str, torch.Tensor]:
        return contract.full_precision(model)

    def load_state(self, model: torch.nn.Module, plain: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        contract.load_strictly(model, state)

    def close(self, model: torch.nn.Module) -> None:
        """Take the engine's hooks off the model; its quantizers stay."""
        for modifier in self.modifiers:
            modifier.finalize()


class Foreign(dict):
    """The modifiers that may be of a hook file: names like none of the recipe language's, with any keys."""

    def __contains__(self, tag: object) -> bool:
        known = {*schema.MODIFIERS, *schema.REFUSED}
        return tag not in known and not difflib.get_close_matches(str(tag), known, n=1, cutoff=0.8)

    def __missing__(self, tag: str) -> Any:
        return Foreign()  # of keys


def build(entry: Entry, source: str) -> Modifier:
    """Return the modifier for an entry of a recipe, or refuse it."""
    if entry.tag not in CLASSES:
        raise RecipeError(
            f"{entry.where(source)}: the native engine does not have it. --sparse-engine sparseml, on Python 3.9 to "
            "3.11, runs SparseML's modifiers and those of hook files."
        )
    return CLASSES[entry.tag](entry, source)


def in_order(modifiers: list[Modifier]) -> list[Modifier]:
    """Sort modifiers as SparseML does: by end, start and name; stages by the last end and the first start in each."""
    stages: dict[str | None, list[Modifier]] = {}
    for modifier in modifiers:
        stages.setdefault(modifier.entry.stage, []).append(modifier)

    def key(some: list[Modifier]) -> tuple[float, float, str]:
        end = max(each.end_epoch for each in some)
        return (math.inf if end == -1 else end, min(each.start_epoch for each in some), max(e.entry.tag for e in some))

    return [each for stage in sorted(stages.values(), key=key) for each in sorted(stage, key=lambda each: key([each]))]


def remarks_on(modifier: Modifier) -> list[str]:
    """Return what a user should know of how this engine takes a modifier."""
    where = modifier.entry.where(modifier.source)
    if isinstance(modifier.spec, schema.SparsificationLoggingModifier):
        return [f"{where} does nothing: the native engine has no log of its own"]
    if getattr(modifier.spec, "inter_func", "linear") != "linear" and isinstance(modifier, parameters.GradualParam):
        return [f"{where}: inter_func changes nothing, the values move along a line"]
    return []
