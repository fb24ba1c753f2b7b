"""Distillation: a trained model, the teacher, shows the student what it sees in every image of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from yolov5_sparse_plugin.errors import CheckpointError, SparsePluginError
from yolov5_sparse_plugin.hosts.host import HostModel

if TYPE_CHECKING:
    from yolov5_sparse_plugin.runs import Run


class Lesson:
    """What passes between teacher and student in a run.

    Attributes:
        teacher: float, in `eval()`; called with images it returns raw outputs as a model in training does.
    """

    def __init__(self, teacher: HostModel):
        self.teacher = teacher
        self._images: torch.Tensor | None = None
        self._sum, self._count = 0.0, 0

    @classmethod
    def prepare(cls, run: Run) -> Lesson:
        """Load the teacher that the run was given.

        Raises:
            CheckpointError: it is no detection model.
        """
        weights = run.options.teacher
        try:
            teacher = run.host["attempt_load"](weights, device="cpu", fuse=False).float().eval()
        except SparsePluginError:
            raise
        except Exception as error:  # whatever a file that is no checkpoint makes of itself
            raise CheckpointError(f"{run.options.asked('teacher')}: not a YOLOv5 checkpoint ({error}).") from error
        if not hasattr(teacher, "model") or not hasattr(teacher.model[-1], "anchors"):
            raise CheckpointError(
                f"{run.options.asked('teacher')}: a {type(teacher).__name__}, not a detection model. Name a checkpoint "
                "of yolov5 train."
            )
        teacher.requires_grad_(False)
        teacher.register_forward_hook(lambda module, given, output: output[1] if isinstance(output, tuple) else output)
        return cls(teacher)

    def check(self, run: Run, student: HostModel) -> None:
        """Refuse a teacher that does not speak of the same boxes and classes as the student that the host built."""
        ours, theirs = student.model[-1], self.teacher.model[-1]
        asked = run.options.asked("teacher")
        if ours.nc != theirs.nc:
            raise CheckpointError(
                f"{asked}: the teacher knows {theirs.nc} classes, the data set has {ours.nc}. Train a teacher on this "
                "data set first: yolov5 train without a recipe."
            )
        if ours.anchors.shape != theirs.anchors.shape:
            raise CheckpointError(
                f"{asked}: the teacher has {theirs.nl} scales of {theirs.na} anchors, the student {ours.nl} of "
                f"{ours.na}. Take a teacher with the same heads: n, s, m, l and x share theirs, so do n6 to x6."
            )

    def see(self, model: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        """A forward pre-hook of the student: keep the images for the teacher."""
        if model.training:
            self._images = inputs[0]

    def add(self, run: Run, loss: torch.Tensor, outputs: Any) -> torch.Tensor:
        """Return a batch's loss with the teacher's part in it; a loss of validation comes back as it is."""
        if self._images is None or not torch.is_grad_enabled():
            return loss
        images, self._images = self._images, None
        whole = run.optimizer.loss_update(loss, student_outputs=outputs, student_inputs=images)
        self._sum, self._count = self._sum + float((whole - loss).detach()), self._count + images.shape[0]
        return whole

    def average(self) -> float:
        """Return the teacher's part an image since the last call, and start anew."""
        found = self._sum / max(self._count, 1)
        self._sum, self._count = 0.0, 0
        return found
