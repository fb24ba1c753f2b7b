"""What training, export and checkpoints may use of an engine, whichever it is: a schedule, and its optimizer.

load                     a recipe's text goes in; refused as a whole, or accepted as a whole
what it says             read off the recipe, the same for every engine
wrap                     around upstream's optimizer: from here on the recipe is at work
  bind                   batches in an epoch are known
  step, emulated_step    one for each batch; what is due happens before the inner step, masks hold after it
  tick                   an epoch is over, what ends with it ends before it is validated
close                    the model is nobody's again
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, ClassVar, TypeVar

import torch
from torch import nn

from yolov5_sparse_plugin.engine import schema, timeline
from yolov5_sparse_plugin.engine.fitting import Fit
from yolov5_sparse_plugin.engine.recipe import Recipe
from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText

Own = TypeVar("Own", bound="Schedule")


class Schedule(abc.ABC):
    """A recipe that is ready to run, and what a YOLOv5 run must know of it.

    Attributes:
        engine: how `--sparse-engine` calls what executes it.
        recipe: what it was built from. text, source: the recipe's.
        epochs: number of epochs that the recipe asks for, rounded up; 0 where it names none.
        frozen: names of the parameters that `--freeze` keeps out of the pruning, once the optimizer is wrapped.
        remarks: what a user should know of the recipe on this model, as sentences, once the optimizer is wrapped.
    """

    engine: ClassVar[str]

    def __init__(self, recipe: Recipe):
        self.recipe, self.text, self.source = recipe, recipe.text, recipe.source
        self.epochs = timeline.length(recipe)
        self.frozen: set[str] = set()
        self.remarks: list[str] = []

    @classmethod
    @abc.abstractmethod
    def load(cls: type[Own], recipe: RecipeText, variables: dict[str, Any] | None = None) -> Own:
        """Read a recipe, whoever wrote it; see `recipe.parse` for the errors."""

    @classmethod
    @abc.abstractmethod
    def of_structure(cls: type[Own], text: str, source: str) -> Own:
        """Read what a checkpoint's recipe says of the model's structure: how it quantizes.

        What else it did to the model stands in the weights, and may be a modifier that nobody has any more.
        """

    def fresh(self: Own) -> Own:
        """Return the same recipe, with modifiers that have done nothing yet."""
        return type(self)(self.recipe)

    # ---- what the recipe says

    @property
    def prunes(self) -> bool:
        return bool(timeline.pruning(self.recipe))

    @property
    def quantizes(self) -> bool:
        return self.quantization_start is not None

    @property
    def distills(self) -> bool:
        return bool(timeline.distillation(self.recipe))

    @property
    def quantization_start(self) -> float | None:
        """Epoch (fractional) at which the first quantization starts, None where nothing is quantized."""
        return timeline.quantization_start(self.recipe)

    @property
    def pruning_start(self) -> float | None:
        return timeline.pruning_start(self.recipe)

    @property
    def pruning_end(self) -> float | None:
        """Epoch (fractional) from which on the sparsity no longer changes; a constant modifier changes nothing."""
        return timeline.pruning_end(self.recipe)

    @property
    def last_change(self) -> float:
        """Epoch (fractional) after which the recipe leaves the model alone but for its learning rate."""
        return timeline.last_change(self.recipe)

    def owns_learning_rate(self, epoch: float) -> bool:
        """Return whether a learning-rate modifier has started by `epoch`; from then on upstream's schedule is off."""
        return timeline.owns_learning_rate(self.recipe, epoch)

    def check_distillation(self) -> None:
        """Refuse to distill layer by layer beyond the start of quantization, which replaces the layers."""
        start = self.quantization_start
        for entry in timeline.of_kind(self.recipe, schema.PerLayerDistillationModifier):
            end = timeline.end_of(entry)
            if start is not None and (end < 0 or end > start):
                raise RecipeError(
                    f"{self.source}: {entry.tag} watches layers until epoch {end:g}, but quantization replaces them at "
                    f"{start:g}. End it there, or use DetectionDistillationModifier, which looks at the outputs."
                )

    # ---- what an engine does with it

    @property
    @abc.abstractmethod
    def quantizes_already(self) -> bool:
        """Whether the model has quantizers: wrapping the optimizer starts what starts at epoch 0."""

    @abc.abstractmethod
    def check_model(self, model: nn.Module) -> list[Fit]:
        """Write patterns out for this model, and refuse what does not fit it; see `fitting.fit`."""

    @abc.abstractmethod
    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        log_file: Path | None,
        teacher: nn.Module | None = None,
    ) -> Optimizer:
        """Wrap upstream's optimizer, at epoch 0.

        Args:
            log_file: for what the engine has to say of itself; None: nowhere.
            teacher: a module whose outputs have the form of the model's in training; None: nothing is distilled.
        """

    @abc.abstractmethod
    def apply_quantization(self, model: nn.Module) -> None:
        """Give a float model the quantized structure that the recipe ends with; observers off, batch norm frozen.

        Args:
            model: float, host classes; changed in place. Its scales are unset until a state is loaded.
        """

    @abc.abstractmethod
    def state(self, model: nn.Module, plain: nn.Module) -> dict[str, torch.Tensor]:
        """Return a copy, on the CPU and in full precision, of all tensors of a model that this schedule has shaped.

        Whichever engine it is, the names are the float model's, and quantizers stand beside these as `engine.native`
        has them (`model.0.conv.weight_quantizer.scale`): what one engine wrote, the other reads.

        Args:
            plain: the float model, for its names.
        """

    @abc.abstractmethod
    def load_state(self, model: nn.Module, plain: nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Give a model, changed in place, the values that `state` returned.

        Raises:
            CheckpointError: they do not fit.
        """

    @abc.abstractmethod
    def prune_at_once(self, model: nn.Module) -> None:
        """Zero, in place, the weights that the recipe ends without, by the magnitudes that they have now."""

    @abc.abstractmethod
    def masks(self) -> dict[int, torch.Tensor]:
        """Return the pruning masks in force, id of the parameter -> mask of its shape (1 keeps, 0 zeroes)."""

    @abc.abstractmethod
    def close(self, model: nn.Module) -> None:
        """Take the engine's hooks off the model."""


class Optimizer(torch.optim.Optimizer):
    """Upstream's optimizer, and the recipe's clock around it.

    An engine's own derives from this one and calls none of its constructor: it is an `Optimizer` for torch's
    schedulers and scalers, and holds nothing but the wrapped one.

    Attributes:
        wrapped: upstream's optimizer.
        epoch: the recipe's clock: epochs completed, fractional.
        rates: learning rates of the groups as the last batch left them, None before the first.
        stepped, before_quantization, after_quantization: assign functions to be told that a step was taken; that a step
            is about to quantize the model, or has done so, so that parameters can be followed to their new names.
    """

    wrapped: torch.optim.Optimizer
    epoch: float
    rates: list[float] | None
    stepped: Callable[[], None]
    before_quantization: Callable[[], None]
    after_quantization: Callable[[], None]

    @abc.abstractmethod
    def bind(self, steps_per_epoch: int, epoch: int = 0) -> None:
        """Set the clock: `steps_per_epoch` batches make an epoch, `epoch` of them are over."""

    @abc.abstractmethod
    def emulated_step(self) -> None:
        """Count a batch whose gradients are only accumulated, or whose step mixed precision skipped."""

    @abc.abstractmethod
    def loss_update(self, loss: torch.Tensor, **batch: Any) -> torch.Tensor:
        """Return the batch's loss with what the recipe's distillation adds to it.

        Args:
            batch: `student_inputs`, `student_outputs`: images float32 [B, 3, H, W] 0..1, and the model's outputs.
        """

    @abc.abstractmethod
    def reassert(self) -> None:
        """Put back the recipe's learning rates, and the momentum, where upstream's warm-up changed them."""

    @abc.abstractmethod
    def tick(self, epoch: float) -> None:
        """Deliver what ends at `epoch`, between two steps: the last step of N epochs is counted before N."""

    @abc.abstractmethod
    def seek(self, epoch: float) -> None:
        """Bring the model to where the recipe has it at `epoch`: masks from the zeros in the weights, quantizers.

        What starts at `epoch` itself starts with the next batch, as it does in a run that was not interrupted.
        """

    @abc.abstractmethod
    def pruned_at(self) -> list[float]:
        """Return the epoch (fractional) at which each pruning modifier last computed its masks; -1: not yet."""

    @abc.abstractmethod
    def recall(self, pruned_at: list[float]) -> None:
        """Take masks from the zeros in the weights, and compute the next ones when an uninterrupted run would."""


def quantizers_of(model: nn.Module) -> Iterator[Any]:
    """Yield the quantizers of a model, whichever engine made them."""
    return (module for module in model.modules() if hasattr(module, "fake_quant_enabled"))


def full_precision(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy, on the CPU, of a model's whole state dict."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def load_strictly(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state dict into a model, in place, every tensor of both.

    Raises:
        CheckpointError: one of them lacks some.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        raise CheckpointError(f"the checkpoint's weights do not fit its recipe: {error}") from error
    if missing or unexpected:
        raise CheckpointError(
            f"the checkpoint's weights do not fit its recipe: {len(missing)} missing (first: "
            f"{(missing or ['-'])[0]}), {len(unexpected)} unexpected (first: {(unexpected or ['-'])[0]}). "
            "Its float twin can still be used with YOLOV5_SPARSE_AUTOLOAD=0."
        )
