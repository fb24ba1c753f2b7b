"""Which weights are zero, from when on."""

from typing import Any, Literal, Optional

from pydantic import model_validator

from yolov5_sparse_plugin.engine.schema.base import Modifier, ends_after_start
from yolov5_sparse_plugin.engine.schema.values import (
    ALL_PRUNABLE,
    FROM_PARAM,
    Count,
    End,
    Epoch,
    FinalSparsity,
    InitialSparsity,
    Interpolation,
    Mask,
    Names,
    Number,
    Parameters,
    SomeParameters,
    Sparsity,
    Start,
    Structure,
    Whole,
    nm_sparsity,
)

SLACK = 0.01  # SparseML's, between a sparsity and the ratio of an N:M mask


class GradualPruning(Modifier):
    """Prune gradually, from one sparsity to another."""

    params: Parameters
    init_sparsity: InitialSparsity
    final_sparsity: FinalSparsity
    start_epoch: Start
    end_epoch: Epoch
    update_frequency: Number
    leave_enabled: bool = True
    inter_func: Interpolation = "cubic"
    mask_type: Mask = "unstructured"
    ordered = model_validator(mode="after")(ends_after_start)

    @model_validator(mode="after")
    def prunes_something(self) -> Any:
        by_layer = isinstance(self.final_sparsity, dict)
        if by_layer and self.params:
            raise ValueError("final_sparsity names its own parameters, so params is to be []")
        if not by_layer and not self.params:
            raise ValueError(f"params is empty. For all of them: {ALL_PRUNABLE}")
        if by_layer and not all(self.final_sparsity.values()):
            raise ValueError("final_sparsity has a sparsity without parameters")
        return self

    @model_validator(mode="after")
    def goes_upwards(self) -> Any:
        lowest = min(self.final_sparsities)
        if self.init_sparsity != FROM_PARAM and self.init_sparsity > lowest:
            raise ValueError(f"init_sparsity {self.init_sparsity:g} is above final_sparsity {lowest:g}")
        ratio = nm_sparsity(self.mask_type)
        if ratio is not None:
            given = (self.init_sparsity, *self.final_sparsities)
            wrong = [value for value in given if value == FROM_PARAM or abs(value - ratio) > SLACK]
            if wrong:
                raise ValueError(
                    f"mask_type {self.mask_type} always makes {ratio:.3g} of the weights zero: init_sparsity and "
                    f"final_sparsity have to be {ratio:.3g}, found {wrong[0]}"
                )
        return self

    @property
    def final_sparsities(self) -> list[float]:
        return list(self.final_sparsity) if isinstance(self.final_sparsity, dict) else [self.final_sparsity]


class MagnitudePruningModifier(GradualPruning):
    """Prune the smallest weights of each layer."""


class GMPruningModifier(GradualPruning):
    """Prune the smallest weights of each layer, or of all together (SparseML's older name)."""

    global_sparsity: bool = False
    phased: Literal[False] = False
    score_type: Literal["magnitude"] = "magnitude"


class GlobalMagnitudePruningModifier(GradualPruning):
    """Prune the smallest weights of all layers together."""

    final_sparsity: Sparsity


class MovementPruningModifier(GradualPruning):
    """Prune the weights that move towards zero."""

    init_sparsity: Sparsity


class StructuredPruningModifier(GradualPruning):
    """Prune whole filters or input channels; they stay where they are, as zeros."""

    params: Parameters = ALL_PRUNABLE
    init_sparsity: Sparsity
    final_sparsity: Sparsity
    mask_type: Structure = "filter"
    param_groups: Optional[list[Names]] = None


class ACDCPruningModifier(Modifier):
    """Alternate between a sparse and a dense model."""

    compression_sparsity: Sparsity
    params: SomeParameters
    start_epoch: Whole
    end_epoch: Whole
    update_frequency: Count
    global_sparsity: bool = True
    leave_enabled: bool = True
    momentum_buffer_reset: bool = True
    mask_type: Mask = "unstructured"
    ordered = model_validator(mode="after")(ends_after_start)


class ConstantPruningModifier(Modifier):
    """Hold the weights at zero that are zero when it starts."""

    params: SomeParameters
    end_epoch: End = -1.0
    update_frequency: Number = -1.0  # SparseML reads it and does nothing with it
    ordered = model_validator(mode="after")(ends_after_start)


PRUNING = (GradualPruning, ACDCPruningModifier, ConstantPruningModifier)
