"""The modifier of SparseML that distills detections; SparseML's own distill layers, or outputs of a classifier."""

from __future__ import annotations

from typing import Any

import torch

from yolov5_sparse_plugin.engine.sparseml import compat  # noqa: F401  first: shims, and no analytics

from sparseml.optim import ModifierProp  # isort: skip
from sparseml.pytorch.sparsification.distillation.modifier_distillation_base import (  # isort: skip
    BaseDistillationModifier,
)
from sparseml.pytorch.sparsification.modifier import PyTorchModifierYAML  # isort: skip
from yolov5_sparse_plugin.engine.detection_loss import detection_loss


@PyTorchModifierYAML()
class DetectionDistillationModifier(BaseDistillationModifier):
    """Add a YOLOv5 teacher's detections to the loss, see `engine.detection_loss`.

    In a recipe:

        distillation_modifiers:
          - !DetectionDistillationModifier
              gain: 1.0
              start_epoch: 0.0
              end_epoch: 40.0

    Args:
        gain: factor of the teacher's part of the loss.
        start_epoch, end_epoch: when it teaches; an `end_epoch` of -1 is the end of the run.
    """

    def __init__(
        self, gain: float = 1.0, start_epoch: float = -1.0, end_epoch: float = -1.0, update_frequency: float = -1.0
    ):
        super().__init__(start_epoch=start_epoch, end_epoch=end_epoch, update_frequency=update_frequency)
        self._gain = gain
        self._student: torch.nn.Module | None = None

    @ModifierProp()
    def gain(self) -> float:
        return self._gain

    @gain.setter
    def gain(self, value: float) -> None:
        self._gain = value

    def initialize(self, module: torch.nn.Module, epoch: float = 0, loggers: Any = None, **kwargs: Any) -> None:
        super().initialize(module, epoch, loggers, **kwargs)
        self._student = module

    def finalize(self, module: Any = None, reset_loggers: bool = True, **kwargs: Any) -> None:
        super().finalize(module, reset_loggers, **kwargs)
        self._student = None

    def compute_distillation_loss(self, student_outputs: Any, teacher_outputs: Any, **kwargs: Any) -> torch.Tensor:
        student = self._student
        return detection_loss(student_outputs, teacher_outputs, student.model[-1].anchors, student.hyp)

    def compute_total_loss(self, loss: torch.Tensor, distillation_loss: torch.Tensor) -> torch.Tensor:
        return loss + self.gain * distillation_loss
