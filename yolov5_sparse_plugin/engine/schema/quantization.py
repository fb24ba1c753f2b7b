"""Quantization-aware training, in the two forms that recipes have of it."""

from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator, model_validator

from yolov5_sparse_plugin.engine.schema.base import Modifier, Plain
from yolov5_sparse_plugin.engine.schema.values import (
    Bits,
    FullRange,
    Fuse,
    NoSteps,
    OptionalEpoch,
    OptionalNames,
    Unused,
    WholeTensor,
    null,
    scheme,
)


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


LEGACY_FIELDS = set(LegacyQuantizationModifier.model_fields) - set(QuantizationModifier.model_fields)
