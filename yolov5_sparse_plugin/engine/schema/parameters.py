"""Weight decay, and what is done to parameters by name."""

from typing import Optional

from pydantic import model_validator

from yolov5_sparse_plugin.engine.schema.base import Modifier, ends_after_start
from yolov5_sparse_plugin.engine.schema.values import (
    End,
    Epoch,
    Groups,
    Interpolation,
    NotNegative,
    Number,
    SomeParameters,
    Start,
    Unused,
    Values,
)


class SetWeightDecayModifier(Modifier):
    """A weight decay from an epoch on."""

    weight_decay: NotNegative
    param_groups: Optional[Groups] = None
    end_epoch: Unused = -1
    constant_logging: bool = False


class TrainableParamsModifier(Modifier):
    """Parameters that learn, or do not, for a time."""

    params: SomeParameters
    trainable: bool
    params_strict: bool = True
    end_epoch: End = -1.0
    ordered = model_validator(mode="after")(ends_after_start)


class SetParamModifier(Modifier):
    """A parameter's values at an epoch."""

    params: SomeParameters
    val: Values
    params_strict: bool = True
    start_epoch: Start = 0.0
    end_epoch: Unused = -1


class GradualParamModifier(Modifier):
    """A parameter's values, from one to another."""

    params: SomeParameters
    init_val: Values
    final_val: Values
    start_epoch: Start
    end_epoch: Epoch
    update_frequency: Number
    inter_func: Interpolation = "linear"
    params_strict: bool = True
    ordered = model_validator(mode="after")(ends_after_start)


class SparsificationLoggingModifier(Modifier):
    """Figures of the model's sparsity in the engine's own log."""

    start_epoch: Start
    end_epoch: End = -1.0
    update_frequency: Number = 1.0
