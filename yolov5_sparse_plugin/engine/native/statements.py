"""What a recipe says of its times, as a run must know them; nothing here looks at a model."""

from __future__ import annotations

from yolov5_sparse_plugin.engine import schema, timeline
from yolov5_sparse_plugin.engine.recipe import Recipe
from yolov5_sparse_plugin.errors import RecipeError


class Statements:
    """The part of a schedule that follows from its `recipe` alone. All times are epochs, fractional."""

    recipe: Recipe
    source: str

    @property
    def quantization_start(self) -> float | None:
        """When the first quantization starts, None where nothing is quantized."""
        return timeline.quantization_start(self.recipe)

    @property
    def pruning_start(self) -> float | None:
        return min((entry.spec.start for entry in timeline.of_kind(self.recipe, *schema.PRUNING)), default=None)

    @property
    def pruning_end(self) -> float | None:
        """From when on the sparsity no longer changes; a constant modifier changes nothing."""
        return timeline.pruning_end(self.recipe)

    @property
    def last_change(self) -> float:
        """After when the recipe leaves the model alone but for its learning rate."""
        changes = [0.0, self.pruning_end or 0.0]
        for entry in timeline.of_kind(self.recipe, schema.Quantization):
            changes += [getattr(entry.spec, name) or 0.0 for name in ("start", *schema.ONCE_QUANTIZED)]
        return max(changes)

    def owns_learning_rate(self, epoch: float) -> bool:
        """Return whether a learning-rate modifier has started by `epoch`; from then on upstream's schedule is off."""
        return any(entry.spec.start <= epoch for entry in timeline.of_kind(self.recipe, *timeline.RATES))

    def check_distillation(self) -> None:
        """Refuse to distill layer by layer beyond the start of quantization, which replaces the layers."""
        start = self.quantization_start
        for entry in timeline.of_kind(self.recipe, schema.PerLayerDistillationModifier):
            end = entry.spec.end_epoch
            if start is not None and (end < 0 or end > start):
                raise RecipeError(
                    f"{self.source}: {entry.tag} watches layers until epoch {end:g}, but quantization replaces them "
                    f"at {start:g}. End it there, or use DetectionDistillationModifier, which looks at the outputs."
                )
