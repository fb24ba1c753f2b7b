"""The schema of recipes: which modifiers there are, which fields each has, and what a field may be.

One table for every engine. A class is a modifier as a recipe writes it; its name is the tag, its docstring says what
it does. pydantic refuses unknown and missing fields and wrong types; what it cannot know stands in validators.
Times are epochs, fractional. `Start` and `End` say where -1 is allowed, for "not set": from the beginning, never.
"""

from collections.abc import Mapping
from typing import Any

from yolov5_sparse_plugin.engine.schema.base import Modifier
from yolov5_sparse_plugin.engine.schema.distillation import (
    DetectionDistillationModifier,
    DistillationModifier,
    PerLayerDistillationModifier,
)
from yolov5_sparse_plugin.engine.schema.parameters import (
    GradualParamModifier,
    SetParamModifier,
    SetWeightDecayModifier,
    SparsificationLoggingModifier,
    TrainableParamsModifier,
)
from yolov5_sparse_plugin.engine.schema.pruning import (
    PRUNING,
    ACDCPruningModifier,
    ConstantPruningModifier,
    GlobalMagnitudePruningModifier,
    GMPruningModifier,
    GradualPruning,
    MagnitudePruningModifier,
    MovementPruningModifier,
    StructuredPruningModifier,
)
from yolov5_sparse_plugin.engine.schema.quantization import (
    LEGACY_FIELDS,
    ONCE_QUANTIZED,
    LegacyQuantizationModifier,
    Quantization,
    QuantizationModifier,
)
from yolov5_sparse_plugin.engine.schema.rates import (
    EpochRangeModifier,
    LearningRateFunctionModifier,
    LearningRateModifier,
    SetLearningRateModifier,
)

__all__ = ["ONCE_QUANTIZED", "PRUNING", "GradualPruning", "Quantization"]  # kinds, for others to ask after

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


def model_of(tag: str, fields: Mapping[str, Any]) -> type[Modifier]:
    """Return the class for a modifier; a QuantizationModifier has two forms, which its fields tell apart."""
    if tag == "QuantizationModifier" and LEGACY_FIELDS & set(fields):
        return LegacyQuantizationModifier
    return MODIFIERS[tag]
