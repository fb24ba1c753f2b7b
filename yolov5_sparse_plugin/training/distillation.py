"""Distillation: a trained model, the teacher, shows the student what it sees in every image of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from yolov5_sparse_plugin.errors import CheckpointError, SparsePluginError

if TYPE_CHECKING:
    from yolov5_sparse_plugin.training.run import TrainingRun

# upstream's weights of the scales' objectness, from the finest (stride 8) on, for models of 3 and of 4 scales
BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}


def detection_loss(
    student: Sequence[torch.Tensor],
    teacher: Sequence[torch.Tensor],
    anchors: torch.Tensor,
    gains: dict[str, float],
) -> torch.Tensor:
    """Return how far a student's detections are from its teacher's, in the units of upstream's own loss.

    Objectness-scaled distillation (Mehta and Ozturk, Object detection at 200 Frames Per Second, 2018,
    arXiv:1805.06361): the teacher's objectness is a target everywhere; its boxes and classes count as much as it
    believes in them.

    Args:
        student, teacher: raw outputs of Detect, one tensor a scale, [B, anchors, H, W, 5 + classes].
        anchors: width and height in cells, [scales, anchors, 2].
        gains: upstream's hyperparameters `box`, `obj` and `cls`.

    Returns:
        A float32 scalar, times the batch size, as upstream's loss is.
    """
    balance = BALANCE.get(len(student), (1.0,) * len(student))
    box = obj = cls = torch.zeros((), device=student[0].device)
    for s, t, sizes, weight in zip(student, teacher, anchors, balance):
        s, t = s.float(), t.float()
        target = t.sigmoid()
        belief = target[..., 4]
        total = belief.sum().clamp(min=1e-6)
        obj = obj + weight * cross_entropy(s[..., 4], belief)
        sizes = sizes.view(1, -1, 1, 1, 2).to(s)
        box = box + (belief * (1 - overlap(corners(s, sizes), corners(t, sizes)))).sum() / total
        if s.shape[-1] > 6:  # a single class is certain, as in upstream's loss
            pixelwise = cross_entropy(s[..., 5:], target[..., 5:], reduction="none").mean(-1)
            cls = cls + (belief * pixelwise).sum() / total
    return (gains["box"] * box + gains["obj"] * obj + gains["cls"] * cls) * student[0].shape[0]


def corners(raw: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Decode raw boxes [..., 4+] as Detect does, relative to their cells: x1, y1, x2, y2 in cells, [..., 4]."""
    box = raw[..., :4].sigmoid()
    middle, half = box[..., :2] * 2 - 0.5, (box[..., 2:4] * 2) ** 2 * anchors / 2
    return torch.cat((middle - half, middle + half), -1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of boxes x1, y1, x2, y2, [..., 4] -> [...]."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    both = size.prod(-1)
    return both / ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both + 1e-7)


class Lesson:
    """What passes between teacher and student in a run.

    Attributes:
        teacher: float, in `eval()`; called with images it returns raw outputs as a model in training does.
    """

    def __init__(self, teacher: torch.nn.Module):
        self.teacher = teacher
        self._images: torch.Tensor | None = None
        self._sum, self._count = 0.0, 0

    @classmethod
    def prepare(cls, run: TrainingRun) -> Lesson:
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

    def check(self, run: TrainingRun, student: torch.nn.Module) -> None:
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

    def add(self, run: TrainingRun, loss: torch.Tensor, outputs: Any) -> torch.Tensor:
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
