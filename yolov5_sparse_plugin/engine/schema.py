"""The schema of recipes: which modifiers there are, which fields each has, and what a field may be.

One table for every engine. A class below is a modifier as a recipe writes it; its name is the tag, its docstring says
what it does. pydantic refuses unknown and missing fields and wrong types; what it cannot know stands in validators.
Times are epochs, fractional. `Start` and `End` say where -1 is allowed, for "not set": from the beginning, never.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Optional

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from yolov5_sparse_plugin.engine.field_values import (
    ALL_PRUNABLE,
    FROM_PARAM,
    Bits,
    Count,
    End,
    Epoch,
    FinalSparsity,
    FullRange,
    Fuse,
    Groups,
    InitialSparsity,
    Interpolation,
    Keys,
    Mask,
    Names,
    NoSteps,
    NotNegative,
    Number,
    OptionalEpoch,
    OptionalNames,
    Parameters,
    Positive,
    Rate,
    SomeParameters,
    Sparsity,
    Start,
    Structure,
    Unused,
    Values,
    Whole,
    WholeTensor,
    nm_sparsity,
    null,
    scheme,
)

SLACK = 0.01  # SparseML's, between a sparsity and the ratio of an N:M mask


class Plain(BaseModel):
    """Unknown fields are refused, and what is no finite number is no number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


# ------------------------------------------------------------------------------------------------------------ modifiers


class Modifier(Plain):
    """What every modifier has: when it starts."""

    start_epoch: Start = -1.0

    @property
    def start(self) -> float:
        return max(self.start_epoch, 0.0)


def ends_after_start(self: Any) -> Any:
    if self.end_epoch != -1 and self.end_epoch <= self.start:
        raise ValueError(f"end_epoch {self.end_epoch:g} is not after start_epoch {self.start:g}")
    return self


class EpochRangeModifier(Modifier):
    """The length of a run."""

    start_epoch: Start
    end_epoch: Epoch
    ordered = model_validator(mode="after")(ends_after_start)


class SetLearningRateModifier(Modifier):
    """A learning rate from an epoch on."""

    learning_rate: Optional[NotNegative]
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
    gamma: Number = 0.1


class MultiStepLR(Plain):
    milestones: list[Epoch]
    gamma: Number = 0.1


class ExponentialLR(Plain):
    gamma: Number


class CosineAnnealingWarmRestarts(Plain):
    lr_min: Rate
    cycle_epochs: Count


class LearningRateModifier(Modifier):
    """A learning rate by one of torch's schedulers."""

    CLASSES: ClassVar[Mapping[str, type]] = {
        cls.__name__: cls for cls in (StepLR, MultiStepLR, ExponentialLR, CosineAnnealingWarmRestarts)
    }
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
        try:
            return wanted(**value).model_dump(exclude_unset=True) if wanted else value
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise ValueError(f"{wanted.__name__} takes {', '.join(wanted.model_fields)}; look at {place}") from error


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


# -------------------------------------------------------------------------------------------------------------- pruning


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


# --------------------------------------------------------------------------------------------------------- quantization


class ObserverArguments(Plain):
    reduce_range: FullRange = False


class FuseArguments(Plain):
    inplace: bool = True


class QuantizationArguments(Plain):
    """How a tensor is quantized."""

    num_bits: Bits = 8
    symmetric: bool = False
    strategy: Literal["tensor", "channel"] = "tensor"
    kwargs: ObserverArguments = ObserverArguments()


class ActivationArguments(QuantizationArguments):
    """How activations are quantized."""

    strategy: WholeTensor = "tensor"


Arguments = Annotated[Optional[QuantizationArguments], BeforeValidator(null)]
Activations = Annotated[Optional[ActivationArguments], BeforeValidator(null)]


class Scheme(Plain):
    """How a layer is quantized; what is null stays float, what is left out is as SparseML has it."""

    input_activations: Activations = ActivationArguments()
    weights: Arguments = QuantizationArguments(symmetric=True)
    output_activations: Activations = None
    target_hardware: Annotated[Optional[Literal["deepsparse", "tensorrt"]], BeforeValidator(null)] = None


AnyScheme = Annotated[Optional[Scheme], BeforeValidator(scheme)]


ONCE_QUANTIZED = ("disable_quantization_observer_epoch", "freeze_bn_stats_epoch")


class Quantization(Modifier):
    """Train with 8-bit weights and activations from an epoch on."""

    end_epoch: Unused = -1
    model_fuse_fn_name: Fuse = None
    model_fuse_fn_kwargs: Optional[FuseArguments] = None
    disable_quantization_observer_epoch: OptionalEpoch = None
    freeze_bn_stats_epoch: OptionalEpoch = None
    num_calibration_steps: NoSteps = None

    @model_validator(mode="after")
    def goes_on(self) -> Any:
        for name in ONCE_QUANTIZED:
            value = getattr(self, name)
            if value is not None and value < self.start:
                raise ValueError(f"{name} {value:g} is before start_epoch {self.start:g}")
        return self


class QuantizationModifier(Quantization):
    """In its form with schemes."""

    scheme: AnyScheme = None
    scheme_overrides: Annotated[Optional[dict[str, AnyScheme]], BeforeValidator(null)] = None
    ignore: OptionalNames = None
    strict: bool = True


class LegacyQuantizationModifier(Quantization):
    """In the form that SparseML had first, which selects submodules."""

    submodules: OptionalNames = None
    quantize_embeddings: bool = True
    reduce_range: FullRange = False
    quantize_linear_activations: bool = True
    quantize_conv_activations: bool = True
    quantize_embedding_activations: bool = True
    activation_bits: Bits = 8
    weight_bits: Bits = 8
    exclude_batchnorm: bool = True
    exclude_module_types: OptionalNames = None
    custom_quantizable_module_types: OptionalNames = None
    activation_qconfig_kwargs: Annotated[Optional[ObserverArguments], BeforeValidator(null)] = None
    weight_qconfig_kwargs: Annotated[Optional[ObserverArguments], BeforeValidator(null)] = None
    tensorrt: bool = False


# --------------------------------------------------------------------------------------------------------- distillation


class DetectionDistillationModifier(Modifier):
    """Learn a teacher's detections (this project's own)."""

    gain: NotNegative = 1.0
    end_epoch: End = -1.0
    update_frequency: Number = -1.0
    ordered = model_validator(mode="after")(ends_after_start)


class DistillationModifier(Modifier):
    """Learn a teacher's outputs."""

    end_epoch: End = -1.0
    update_frequency: Number = -1.0
    hardness: Rate = 0.5
    temperature: Positive = 2.0
    distill_output_keys: Optional[Keys] = None
    teacher_input_keys: Optional[Keys] = None
    ordered = model_validator(mode="after")(ends_after_start)


class PerLayerDistillationModifier(Modifier):
    """Learn the outputs of a teacher's layers."""

    gain: NotNegative = 1.5
    end_epoch: End = -1.0
    update_frequency: Number = -1.0
    normalize: bool = True
    student_layer_names: Optional[Names] = None
    teacher_layer_names: Optional[Names] = None
    project_features: bool = True
    epsilon: Positive = 1e-6
    ordered = model_validator(mode="after")(ends_after_start)


# ------------------------------------------------------------------------------------------------------------ the table

MODIFIERS: dict[str, type[Modifier]] = {
    cls.__name__: cls
    for cls in (
        EpochRangeModifier,
        SetLearningRateModifier,
        LearningRateFunctionModifier,
        LearningRateModifier,
        SetWeightDecayModifier,
        TrainableParamsModifier,
        SetParamModifier,
        GradualParamModifier,
        SparsificationLoggingModifier,
        MagnitudePruningModifier,
        GMPruningModifier,
        GlobalMagnitudePruningModifier,
        MovementPruningModifier,
        StructuredPruningModifier,
        ACDCPruningModifier,
        ConstantPruningModifier,
        QuantizationModifier,
        DetectionDistillationModifier,
        DistillationModifier,
        PerLayerDistillationModifier,
    )
}
PRUNING = (GradualPruning, ACDCPruningModifier, ConstantPruningModifier)
GRADIENTS = "it collects gradients of its own with a sampler of data and loss, which YOLOv5's training loop has not got"
STRUCTURE = "it takes layers of the model out or apart, and YOLOv5 finds its layers by their places"
INSTEAD = "MagnitudePruningModifier prunes by size"
# SparseML's that do not work in YOLOv5's loop, why, and what does
REFUSED = {
    "OBSPruningModifier": (GRADIENTS, INSTEAD),
    "MFACPruningModifier": (GRADIENTS, INSTEAD),
    "RigLPruningModifier": (GRADIENTS, INSTEAD),
    "TopKASTPruningModifier": ("its weights are zero in forward passes only, and dense in every checkpoint", INSTEAD),
    "PowerpropagationModifier": (STRUCTURE, INSTEAD),
    "LayerPruningModifier": (STRUCTURE, "build the model from a YAML with fewer layers, or a smaller width_multiple"),
    "LayerThinningModifier": (STRUCTURE, "build the model from a YAML with fewer layers, or a smaller width_multiple"),
}
LEGACY_FIELDS = set(LegacyQuantizationModifier.model_fields) - set(QuantizationModifier.model_fields)


def model_of(tag: str, fields: Mapping[str, Any]) -> type[Modifier]:
    """Return the class for a modifier; a QuantizationModifier has two forms, which its fields tell apart."""
    if tag == "QuantizationModifier" and LEGACY_FIELDS & set(fields):
        return LegacyQuantizationModifier
    return MODIFIERS[tag]
