"""Execute a recipe with SparseML: what it asks for, whether it fits model and run, and its modifiers at work."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch

from yolov5_sparse_plugin.engine.sparseml import compat  # noqa: F401  first: shims, and no analytics

from sparseml.pytorch.optim import ScheduledModifierManager  # isort: skip
from sparseml.pytorch.utils import LambdaLogger, LoggerManager, PythonLogger, get_prunable_layers  # isort: skip
from yolov5_sparse_plugin.engine import contract, schema
from yolov5_sparse_plugin.engine.fitting import Fit, check_groups, fit
from yolov5_sparse_plugin.engine.recipe import Recipe, parse
from yolov5_sparse_plugin.engine.sparseml import (
    distillation,  # noqa: F401  its modifier becomes known to recipes
    wiring,
)
from yolov5_sparse_plugin.engine.sparseml.frozen import leave_out
from yolov5_sparse_plugin.engine.sparseml.modifiers import (
    build,
    is_distillation,
    is_pruning,
    is_quantization,
    of_hooks,
)
from yolov5_sparse_plugin.engine.sparseml.optimizer import Optimizer
from yolov5_sparse_plugin.engine.sparseml.state import load, neutral
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText


class Schedule(contract.Schedule):
    """A recipe that SparseML executes: its modifiers."""

    engine = "sparseml"

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        self._built = [build(entry, recipe.source) for entry in recipe.entries]
        for modifier in filter(is_quantization, self._built):
            wiring.keep(modifier)
        stages = {
            name: [modifier for entry, modifier in zip(recipe.entries, self._built) if entry.stage == name]
            for name in recipe.stages
        }
        self.manager = ScheduledModifierManager(stages or list(self._built))
        self.modifiers = list(self.manager.iter_modifiers())

    @classmethod
    def load(cls, recipe: RecipeText, variables: dict[str, Any] | None = None) -> Schedule:
        """Read a recipe, whoever wrote it; see `recipe.parse` for the errors."""
        return cls(parse(recipe, variables or {}, of_hooks()))

    @classmethod
    def of_structure(cls, text: str, source: str) -> Schedule:
        """Read what a checkpoint's recipe says of the model's structure: how it quantizes.

        What else it did to the model stands in the weights, and may be a modifier that nobody has any more.
        """
        return cls(parse(RecipeText(text, source), {}, of_hooks(), only=("QuantizationModifier",)))

    # ---- its modifiers, by kind

    @property
    def pruning(self) -> list[Any]:
        return [m for m in self.modifiers if is_pruning(m)]

    @property
    def quantization(self) -> list[Any]:
        return [m for m in self.modifiers if is_quantization(m)]

    @property
    def distillation(self) -> list[Any]:
        return [m for m in self.modifiers if is_distillation(m)]

    @property
    def quantizes_already(self) -> bool:
        """Whether the model has quantizers: wrapping the optimizer starts what starts at epoch 0."""
        return any(modifier._qat_enabled for modifier in self.quantization)

    def match_layers(self, student: torch.nn.Module, teacher: torch.nn.Module) -> None:
        """Let layers be compared as they are: SparseML would put a projection between them, and its parameters into a
        group of the optimizer's that upstream's schedule and loggers do not expect.

        Raises:
            RecipeError: a layer's outputs have another shape than its teacher's.
        """
        for modifier in self.distillation:
            if not hasattr(modifier, "project_features"):
                continue
            modifier.project_features = False
            modifier._patch_state_dict_loading = lambda optimizer: None  # it adds the group, empty or not
            pairs = zip(_layers(student, modifier.student_layer_names), _layers(teacher, modifier.teacher_layer_names))
            for (name, ours), (other, theirs) in pairs:
                if ours.weight.shape[0] != theirs.weight.shape[0]:
                    raise RecipeError(
                        f"{self.source}: {type(modifier).__name__} compares {name} with the teacher's {other}, which "
                        f"has {theirs.weight.shape[0]} channels, not {ours.weight.shape[0]}. Take one of the same "
                        "size, or DetectionDistillationModifier, which looks at the outputs."
                    )

    def check_model(self, model: torch.nn.Module) -> list[Fit]:
        """Write patterns out for this model, and refuse what does not fit it; see `fitting.fit`.

        SparseML takes `re:` patterns for parameters only; here `ignore` and `submodules` of a quantization modifier
        take them too, so that one recipe fits models of any size.
        """
        fits = fit(self.recipe, model)
        for each, modifier in zip(fits, self._built):
            if isinstance(each.entry.spec, schema.LegacyQuantizationModifier):
                modifier._submodules = None if each.submodules is None else set(each.submodules)
            elif isinstance(each.entry.spec, schema.QuantizationModifier):
                modifier._ignore = each.ignore
        return fits

    # ---- running it

    def loggers(self, log_file: Path | None) -> LoggerManager:
        """Return SparseML's logger, writing to `log_file`; by itself it would create sparse_logs/ where you are."""
        if log_file is None:  # an empty manager counts as none given
            return LoggerManager([LambdaLogger(lambda **_: True, enabled=False)], log_python=False)
        logger = logging.Logger("yolov5_sparse_plugin.sparseml")
        handler = logging.FileHandler(log_file, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        return LoggerManager([PythonLogger(logger=logger)], log_frequency=1.0, log_python=False)  # once an epoch

    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        log_file: Path | None,
        teacher: torch.nn.Module | None = None,
    ) -> Optimizer:
        """Wrap upstream's optimizer in SparseML's ScheduledOptimizer, at epoch 0.

        Args:
            teacher: a module whose outputs have the form of the model's in training; None: nothing is distilled.
        """
        self.remarks = [remark for each in self.check_model(model) for remark in each.remarks]
        check_groups(self.recipe, len(optimizer.param_groups))
        self.frozen = leave_out(self.pruning, model, self.source)
        if teacher is not None:
            self.match_layers(model, teacher)
        return Optimizer(optimizer, model, self.manager, self.owns_learning_rate, self.loggers(log_file), teacher)

    def apply_quantization(self, model: torch.nn.Module) -> None:
        """Give a float model the quantized structure that the recipe ends with; observers off, batch norm frozen.

        Args:
            model: float, host classes; changed in place. Its scales are unset until a state is loaded.
        """
        self.check_model(model)
        training = model.training
        model.train()
        for modifier in self.quantization:
            modifier.apply_structure(model, epoch=math.inf, loggers=self.loggers(None))
            if getattr(modifier, "disable_quantization_observer_epoch", None) is None:
                model.apply(torch.ao.quantization.disable_observer)
        model.train(training)

    def state(self, model: torch.nn.Module, plain: torch.nn.Module) -> dict[str, torch.Tensor]:
        return neutral(model, plain)

    def load_state(self, model: torch.nn.Module, plain: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        load(model, plain, state)

    def prune_at_once(self, model: torch.nn.Module) -> None:
        """Zero, in place, the weights that the recipe ends without, by the magnitudes that they have now."""
        model.requires_grad_(True)  # masks hang on gradients; finished checkpoints have none
        for modifier in self.pruning:
            modifier.initialize(model, epoch=math.inf, loggers=self.loggers(None))
            modifier.finalize(model)

    def masks(self) -> dict[int, torch.Tensor]:
        """Return the pruning masks in force, id of the parameter -> mask of its shape (1 keeps, 0 zeroes)."""
        found: dict[int, torch.Tensor] = {}
        for modifier in self.pruning:
            masks = modifier.module_masks
            if masks is not None and masks.enabled:
                for parameter, mask in zip(masks._params, masks.param_masks):
                    found[id(parameter)] = mask
        return found

    def close(self, model: torch.nn.Module) -> None:
        """Take SparseML's hooks off the model."""
        if self.manager.initialized:
            self.manager.finalize(model)


def _layers(model: torch.nn.Module, names: list[str] | None) -> list[tuple[str, torch.nn.Module]]:
    """Return the layers of these names, in their order; without names, those that SparseML would distill."""
    if names is not None:
        modules = dict(model.named_modules())
        return [(name, modules[name]) for name in names if hasattr(modules.get(name), "weight")]
    return get_prunable_layers(model)
