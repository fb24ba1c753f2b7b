"""Learning from a teacher."""

from typing import Optional

from pydantic import model_validator

from yolov5_sparse_plugin.engine.schema.base import Modifier, ends_after_start
from yolov5_sparse_plugin.engine.schema.values import End, Keys, Names, NotNegative, Number, Positive, Rate


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
