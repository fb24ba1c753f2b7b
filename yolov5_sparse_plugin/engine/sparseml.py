"""Execute a recipe with SparseML: read it, check it against model and run, and wrap the optimizer."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from yolov5_sparse_plugin.engine import compat  # noqa: F401  first: shims, and no analytics

from sparseml.optim.helpers import evaluate_recipe_yaml_str_equations, update_recipe_variables  # isort: skip
from sparseml.pytorch.optim import ScheduledModifierManager, ScheduledOptimizer  # isort: skip
from sparseml.pytorch.utils import LambdaLogger, LoggerManager, PythonLogger, get_prunable_layers  # isort: skip
from yolov5_sparse_plugin.errors import RecipeError, nearest
from yolov5_sparse_plugin.recipes_io import RecipeText

TAG_PREFIX = "!pytorch."


# ---------------------------------------------------------------------------------------------- reading and checking


def modifier_classes() -> dict[str, type]:
    """Return every modifier that SparseML knows, class name -> class."""
    from sparseml.pytorch.sparsification import modifier
    from sparseml.pytorch.sparsification.quantization.legacy_modifier_quantization import QuantizationModifier

    def below(cls: type) -> Iterable[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    known = {name[len(TAG_PREFIX) :] for name in yaml.SafeLoader.yaml_constructors if str(name).startswith(TAG_PREFIX)}
    classes = {cls.__name__: cls for cls in below(modifier.Modifier) if cls is not QuantizationModifier}
    return {name: cls for name, cls in classes.items() if name in known}


def modifier_keys(cls: type) -> set[str]:
    """Return the keys that a modifier takes in YAML: its constructor's arguments, the legacy class's included."""
    import inspect

    from sparseml.pytorch.sparsification.quantization.legacy_modifier_quantization import QuantizationModifier

    keys: set[str] = set()
    for owner in (cls, QuantizationModifier) if cls.__name__ == "QuantizationModifier" else (cls,):
        keys |= {n for n, p in inspect.signature(owner.__init__).parameters.items() if p.kind is not p.VAR_KEYWORD}
    return keys - {"self"}


def parse(recipe: RecipeText, variables: dict[str, Any]) -> str:
    """Return the recipe's YAML with `variables` put in and every `eval(…)` computed.

    Raises:
        RecipeError: not YAML, an unknown variable, modifier or key, or an expression that cannot be computed.
    """
    try:
        root = yaml.compose(recipe.text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{recipe.source}: not valid YAML{where}: {getattr(error, 'problem', error)}. "
            "Indent with spaces and put patterns such as 're:.*' in quotes."
        ) from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{recipe.source}: a recipe is a YAML mapping with '*_modifiers' lists; this is not one.")
    check_modifiers(root, recipe.source)
    known = re.findall(r"^[ ]*(\w+)[ ]*:", recipe.text, re.M)
    for name in variables:
        if name not in known:
            raise RecipeError(
                f"{recipe.source}: --sparse-recipe-args sets {name!r}, which this recipe does not have. "
                + nearest(name, known)
            )
    text = in_block_style(root)
    try:
        if variables:
            text = update_recipe_variables(text, variables)
        return evaluate_recipe_yaml_str_equations(text)
    except Exception as error:
        raise RecipeError(f"{recipe.source}: cannot compute the recipe's variables: {error}") from error


def in_block_style(root: yaml.Node) -> str:
    """Return a recipe's text as SparseML can read it: its pattern for tags fails on `!Modifier {start_epoch: 0.0}`."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
            stack.extend(child for item in node.value for child in (item if isinstance(item, tuple) else (item,)))
    return yaml.serialize(root)


def check_modifiers(root: yaml.MappingNode, source: str) -> None:
    """Refuse modifiers and keys that SparseML does not know, by name (its own errors show Python internals)."""
    classes, count = modifier_classes(), 0
    stack: list[yaml.Node] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            stack.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
        tag = node.tag[1:] if node.tag.startswith("!") else None
        if tag is None:
            continue
        count += 1
        tag = tag[len(TAG_PREFIX) - 1 :] if tag.startswith(TAG_PREFIX[1:]) else tag
        line = node.start_mark.line + 1
        if tag not in classes:
            raise RecipeError(f"{source}, line {line}: no modifier {tag!r}. {nearest(tag, classes)}")
        if isinstance(node, yaml.MappingNode):
            allowed = modifier_keys(classes[tag])
            for key, _ in node.value:
                if key.value not in allowed:
                    raise RecipeError(
                        f"{source}, line {key.start_mark.line + 1}: {tag} has no key {key.value!r}. "
                        + nearest(key.value, allowed)
                    )
    if not count:
        raise RecipeError(f"{source}: no modifier found. Modifiers stand in lists whose name ends in 'modifiers'.")


def is_pruning(modifier: Any) -> bool:
    return hasattr(modifier, "params") and hasattr(modifier, "mask_creator")


def is_quantization(modifier: Any) -> bool:
    return type(modifier).__name__ == "QuantizationModifier"


def is_learning_rate(modifier: Any) -> bool:
    return "LearningRate" in type(modifier).__name__


def is_epoch_range(modifier: Any) -> bool:
    return type(modifier).__name__ == "EpochRangeModifier"


class Schedule:
    """A recipe that is ready to run: SparseML's modifiers, and what a YOLOv5 run must know of them.

    Attributes:
        text: the recipe's YAML with all variables resolved; this is what a checkpoint keeps.
        source: where the recipe came from, for messages.
        epochs: number of epochs that the recipe asks for, rounded up; 0 where it names none.
    """

    def __init__(self, text: str, source: str):
        self.text, self.source = text, source
        try:
            self.manager = ScheduledModifierManager.from_yaml(text)
        except Exception as error:
            raise RecipeError(f"{source}: SparseML refuses this recipe: {error}") from error
        self.modifiers = list(self.manager.iter_modifiers())
        ends = [m.end_epoch for m in self.modifiers if m.end_epoch and m.end_epoch > 0]
        self.epochs = math.ceil(max(ends)) if ends else 0

    @classmethod
    def load(cls, recipe: RecipeText, variables: dict[str, Any] | None = None) -> Schedule:
        """Read a recipe; see `parse` for the errors."""
        return cls(parse(recipe, variables or {}), recipe.source)

    # ---- what the recipe says

    @property
    def pruning(self) -> list[Any]:
        return [m for m in self.modifiers if is_pruning(m)]

    @property
    def quantization(self) -> list[Any]:
        return [m for m in self.modifiers if is_quantization(m)]

    @property
    def quantization_start(self) -> float | None:
        """Epoch (fractional) at which the first quantization starts, None where nothing is quantized."""
        return min((max(m.start_epoch, 0.0) for m in self.quantization), default=None)

    @property
    def pruning_start(self) -> float | None:
        return min((max(m.start_epoch, 0.0) for m in self.pruning), default=None)

    @property
    def pruning_end(self) -> float | None:
        """Epoch (fractional) from which on the sparsity no longer changes; a constant modifier changes nothing."""
        ends = [max(m.start_epoch, 0.0) if "Constant" in type(m).__name__ else m.end_epoch for m in self.pruning]
        return max(ends, default=None)

    @property
    def last_change(self) -> float:
        """Epoch (fractional) after which the recipe leaves the model alone but for its learning rate."""
        changes = [0.0, self.pruning_end or 0.0]
        for modifier in self.quantization:
            for name in ("start_epoch", "disable_quantization_observer_epoch", "freeze_bn_stats_epoch"):
                changes.append(getattr(modifier, name) or 0.0)
        return max(changes)

    def owns_learning_rate(self, epoch: float) -> bool:
        """Return whether a learning-rate modifier has started by `epoch`; from then on upstream's schedule is off."""
        return any(max(m.start_epoch, 0.0) <= epoch for m in self.modifiers if is_learning_rate(m))

    def check_epochs(self, epochs: int, origin: str) -> None:
        """Refuse a run that is too short for what the recipe starts in it (SparseML accepts it in silence).

        Args:
            epochs: length of the run.
            origin: `--epochs` or what else decided the length, for the message.
        """
        for modifier in self.pruning + self.quantization:
            if modifier.start_epoch >= epochs:
                what = "quantization" if is_quantization(modifier) else "pruning"
                start = f"{modifier.start_epoch:g}"
                least = math.floor(modifier.start_epoch) + 1
                fix = f"Raise --epochs to at least {least}"
                if origin != "the recipe" and self.epochs > modifier.start_epoch:
                    fix += f", or drop it to take {self.epochs} from the recipe"
                elif origin == "the recipe":
                    fix = f"Let the recipe's EpochRangeModifier end at {least} or later, or start {what} earlier"
                raise RecipeError(f"{self.source}: {what} starts at epoch {start} but {origin} is {epochs}. {fix}.")
            if is_pruning(modifier) and modifier.end_epoch > epochs:
                raise RecipeError(
                    f"{self.source}: pruning ends at epoch {modifier.end_epoch:g} but {origin} is {epochs}: the final "
                    f"sparsity would not be reached. Raise --epochs to at least {math.ceil(modifier.end_epoch)}."
                )

    def check_model(self, model: torch.nn.Module) -> None:
        """Expand patterns, and refuse those that match nothing, naming the nearest parameters or modules.

        SparseML takes `re:` patterns for parameters only; here `ignore` and `submodules` of a quantization modifier
        take them too, so that one recipe fits models of any size.
        """
        parameters = [name for name, _ in model.named_parameters()]
        modules = dict(model.named_modules())
        for modifier in self.pruning:
            params = modifier.params if isinstance(modifier.params, list) else [modifier.params]
            for pattern in params:
                if pattern.startswith("__ALL"):
                    continue
                found = [n for n in parameters if matches(pattern, n)]
                if not found:
                    raise self._nothing_matches(type(modifier).__name__, "params", pattern, parameters)
        for modifier in self.quantization:
            for key in ("ignore", "submodules"):
                listed = getattr(modifier, key, None)
                if not listed:
                    continue
                expanded: list[str] = []
                for pattern in listed:
                    if pattern.startswith("re:"):
                        found = [n for n in modules if n and matches(pattern, n)]
                    else:
                        found = [pattern] if pattern in modules or key == "ignore" else []
                    if not found:
                        raise self._nothing_matches("QuantizationModifier", key, pattern, [m for m in modules if m])
                    expanded += found
                setattr(modifier, f"_{key}", set(expanded) if key == "submodules" else expanded)

    def _nothing_matches(self, modifier: str, key: str, pattern: str, names: list[str]) -> RecipeError:
        plain = re.sub(r"[\\^$]", "", pattern[3:] if pattern.startswith("re:") else pattern)
        close = difflib.get_close_matches(plain, names, n=4, cutoff=0.3) or names[:4]
        return RecipeError(
            f"{self.source}: {modifier} names {key} {pattern!r}, which matches nothing in this model. "
            f"Nearest: {', '.join(close)}."
        )

    # ---- running it

    def loggers(self, log_file: Path | None) -> LoggerManager:
        """Return SparseML's logger, writing to `log_file`; by itself it would create sparse_logs/ where you are."""
        if log_file is None:  # an empty manager counts as none given
            return LoggerManager([LambdaLogger(lambda **_: True, enabled=False)], log_python=False)
        logger = logging.Logger("yolov5_sparse_plugin.sparseml")
        handler = logging.FileHandler(log_file, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        return LoggerManager([PythonLogger(logger=logger)], log_python=False)

    def wrap(self, optimizer: torch.optim.Optimizer, model: torch.nn.Module, log_file: Path | None) -> Optimizer:
        """Wrap upstream's optimizer in SparseML's ScheduledOptimizer, at epoch 0."""
        self.check_model(model)
        return Optimizer(optimizer, model, self, self.loggers(log_file))

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


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` is meant by `pattern`, by SparseML's rule: `re:` matches from the start, else equality."""
    return bool(re.match(pattern[3:], name)) if pattern.startswith("re:") else pattern == name


class Optimizer(ScheduledOptimizer):
    """SparseML's ScheduledOptimizer, made fit for upstream's loop.

    - `state_dict` and `load_state_dict` reach the wrapped optimizer; SparseML's fill the wrapper's own fields, so
      that a resumed run loses its momentum and later learning rates reach nobody;
    - the clock is bound late (`bind`), because upstream builds the optimizer before it knows its batches per epoch,
      and can be set (`seek`), which SparseML switched off;
    - a recipe that owns the learning rate keeps it through upstream's warm-up, which writes learning rate and
      momentum into every group for the first max(3 epochs, 100 batches), after the batch has started;
    - it tells of events (assign functions): a step was taken; a step is about to quantize the model, or has done so,
      so that parameters can be followed to their new names.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: torch.nn.Module, schedule: Schedule, loggers: Any):
        super().__init__(optimizer, model, schedule.manager, steps_per_epoch=1, loggers=loggers)
        own = self.__dict__  # __setattr__ forwards to the wrapped optimizer
        own["schedule"], own["model"] = schedule, model
        own["momenta"] = [momentum(group) for group in optimizer.param_groups]
        own["rates"] = None
        for event in self.EVENTS:
            own[event] = lambda: None

    EVENTS = ("before_quantization", "after_quantization", "stepped")

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "rates" or key in self.EVENTS:
            self.__dict__[key] = value
        else:
            super().__setattr__(key, value)

    @property
    def wrapped(self) -> torch.optim.Optimizer:
        """Upstream's optimizer."""
        return self._wrapper.wrapped_optimizer

    @property
    def epoch(self) -> float:
        """The recipe's clock: epochs completed, fractional."""
        return self._wrapper.wrapped_epoch

    def state_dict(self) -> dict[str, Any]:
        return self.wrapped.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.wrapped.load_state_dict(state)
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.wrapped.zero_grad(*args, **kwargs)

    def bind(self, steps_per_epoch: int, epoch: int = 0) -> None:
        """Set the clock: `steps_per_epoch` batches make an epoch, `epoch` of them are over."""
        self._wrapper._wrapped_steps_per_epoch = steps_per_epoch
        self._wrapper._wrapped_steps = epoch * steps_per_epoch
        self._wrapper._wrapped_epoch = float(epoch)

    def step(self, closure: Any = None) -> None:
        """Count a batch that ends in an optimizer step."""
        self._counted(lambda: self._wrapper.step(closure) if closure else self._wrapper.step())
        self.stepped()

    def emulated_step(self) -> None:
        """Count a batch whose gradients are only accumulated, or whose step mixed precision skipped."""
        self._counted(self._wrapper.emulated_step)

    def _counted(self, step: Any) -> None:
        with self._following_quantization(self.epoch):
            self.reassert()
            step()
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def reassert(self) -> None:
        """Put back the recipe's learning rates, and the momentum, where upstream's warm-up changed them."""
        if not self.schedule.owns_learning_rate(self.epoch):
            return
        groups = self.wrapped.param_groups
        for group, rate, kept in zip(groups, self.rates or [None] * len(groups), self.momenta):
            if rate is not None:  # before the first batch the recipe has set none
                group["lr"] = rate
            if kept is not None:
                group["momentum"] = kept

    def _following_quantization(self, epoch: float):
        import contextlib

        @contextlib.contextmanager
        def follow():
            starting = [m for m in self.schedule.quantization if not m._qat_enabled and m.start_epoch <= epoch]
            if starting:
                self.before_quantization()
            yield
            if starting:
                self.after_quantization()

        return follow()

    def tick(self, epoch: float) -> None:
        """Deliver the modifiers that end at `epoch`, between two steps.

        SparseML ends a modifier on the first call with `epoch >= end_epoch`, but the last step of N epochs is
        counted at N - 1/batches: without this, a run's last validation sees a sparsity of 0.599 instead of 0.600.
        """
        wrapper = self._wrapper
        for modifier in self.schedule.modifiers:
            if modifier.enabled and modifier.end_pending(epoch, wrapper.wrapped_steps_per_epoch):
                modifier.scheduled_update(wrapper.wrapped_module, self.wrapped, epoch, wrapper.wrapped_steps_per_epoch)
                if is_pruning(modifier):
                    modifier.optimizer_post_step(
                        wrapper.wrapped_module, self.wrapped, epoch, wrapper.wrapped_steps_per_epoch
                    )
        self.rates = [group["lr"] for group in self.wrapped.param_groups]

    def seek(self, epoch: float) -> None:
        """Bring the model to where the recipe has it at `epoch`: masks from the zeros in the weights, quantizers."""
        wrapper = self._wrapper
        with self._following_quantization(epoch):
            self.schedule.manager.update(
                wrapper.wrapped_module, self.wrapped, epoch, wrapper.wrapped_steps_per_epoch, log_updates=False
            )


def momentum(group: dict[str, Any]) -> float | None:
    """Return a parameter group's momentum, None where its optimizer calls it differently (Adam's betas)."""
    return group.get("momentum")


# ------------------------------------------------------------------------------------------------------- measuring


def prunable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights that a recipe's `__ALL_PRUNABLE__` means: those of every convolution and linear layer."""
    return {f"{name}.weight": layer.weight for name, layer in get_prunable_layers(model)}


__all__ = ["Optimizer", "Schedule", "matches", "modifier_classes", "parse", "prunable"]
