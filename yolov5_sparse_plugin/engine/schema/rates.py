"""Learning rates, and the length of a run."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Optional, Union, get_args

from pydantic import ValidationError, field_validator, model_validator

from yolov5_sparse_plugin.engine.schema.base import Modifier, Plain, ends_after_start
from yolov5_sparse_plugin.engine.schema.values import (
    Count,
    End,
    Epoch,
    Groups,
    NotNegative,
    Number,
    Positive,
    Rate,
    Start,
    Unused,
)


class EpochRangeModifier(Modifier):
    """The length of a run."""

    start_epoch: Start
    end_epoch: Epoch
    ordered = model_validator(mode="after")(ends_after_start)


class SetLearningRateModifier(Modifier):
    """A learning rate from an epoch on."""

    learning_rate: NotNegative
    param_groups: Optional[Groups] = None
    end_epoch: Unused = -1
    constant_logging: bool = False


class LearningRateFunctionModifier(Modifier):
    """A learning rate that moves along a line, a cosine or a saw."""

    lr_func: Literal["linear", "cosine", "cyclic_linear"]
    init_lr: Rate
    final_lr: Rate
    start_epoch: Start
    end_epoch: Epoch
    cycle_epochs: Positive = 1.0
    param_groups: Optional[Groups] = None
    update_frequency: Unused = -1
    ordered = model_validator(mode="after")(ends_after_start)


class StepLR(Plain):
    step_size: Positive
    gamma: Number


class MultiStepLR(Plain):
    milestones: list[Epoch]
    gamma: Number


class ExponentialLR(Plain):
    gamma: Number


class CosineAnnealingWarmRestarts(Plain):
    lr_min: Rate
    cycle_epochs: Count


Scheduler = Union[StepLR, MultiStepLR, ExponentialLR, CosineAnnealingWarmRestarts]


class LearningRateModifier(Modifier):
    """A learning rate by one of torch's schedulers."""

    CLASSES: ClassVar[Mapping[str, type[Scheduler]]] = {cls.__name__: cls for cls in get_args(Scheduler)}
    lr_class: Literal["StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingWarmRestarts"]
    lr_kwargs: dict[str, Any]
    init_lr: Rate
    start_epoch: Start
    end_epoch: End = -1.0
    update_frequency: Unused = -1
    constant_logging: bool = False
    ordered = model_validator(mode="after")(ends_after_start)

    @field_validator("lr_kwargs")
    @classmethod
    def of_its_class(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        wanted = cls.CLASSES.get(info.data.get("lr_class"))
        if wanted is None:  # which is refused itself
            return value
        try:
            return wanted(**value).model_dump(exclude_unset=True)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise ValueError(f"{wanted.__name__} takes {', '.join(wanted.model_fields)}; look at {place}") from error
