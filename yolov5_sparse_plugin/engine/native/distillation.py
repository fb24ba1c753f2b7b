"""Distillation: what a teacher adds to the loss."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from yolov5_sparse_plugin.engine.detection_loss import detection_loss
from yolov5_sparse_plugin.engine.fitting import prunable
from yolov5_sparse_plugin.engine.native.base import Modifier, Moment
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.hosts.host import HostModel


class Distillation(Modifier):
    """Adds to the loss how far the student is from its teacher; without a teacher it does nothing."""

    frequency = -1.0
    _teacher: HostModel = None
    _student: HostModel = None

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        self._student, self._teacher = model, teacher

    def due(self, epoch: float) -> bool:
        return self._teacher is not None and super().due(epoch)

    def finalize(self) -> None:
        self._student = self._teacher = None

    def loss(self, loss: torch.Tensor, epoch: float, student_inputs: Any, student_outputs: Any) -> torch.Tensor:
        """Return the loss of a batch with the teacher's part in it."""
        if not self.due(epoch):
            return loss
        self._teacher.eval()
        if next(self._teacher.parameters()).device != student_inputs.device:
            self._teacher.to(student_inputs.device)
        with torch.no_grad():
            teacher_outputs = self._teacher(student_inputs)
        return self.total(loss, self.distance(student_outputs, teacher_outputs))

    def distance(self, student: Any, teacher: Any) -> torch.Tensor:
        raise NotImplementedError

    def total(self, loss: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        return loss + self.spec.gain * distance


class DetectionDistillation(Distillation):
    """A YOLOv5 teacher's detections, see `detection_loss`."""

    def distance(self, student: Any, teacher: Any) -> torch.Tensor:
        return detection_loss(student, teacher, self._student.model[-1].anchors, self._student.hyp)


class OutputDistillation(Distillation):
    """A teacher's outputs as distributions over their last axis."""

    def distance(self, student: Any, teacher: Any) -> torch.Tensor:
        if type(student) is not type(teacher):
            kinds = f"the teacher's outputs are a {type(teacher).__name__}, the student's a {type(student).__name__}"
            raise RecipeError(f"{self.entry.where(self.source)}: {kinds}. Take a teacher of the same kind.")
        if isinstance(student, torch.Tensor):
            return self._divergence(student, teacher)
        keys = self.spec.distill_output_keys or (student if isinstance(student, Mapping) else range(len(student)))
        parts = [self._divergence(student[key], teacher[key]) for key in keys]
        return functools.reduce(torch.add, parts) / len(parts)

    def total(self, loss: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        return (1.0 - self.spec.hardness) * loss + self.spec.hardness * distance

    def _divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the Kullback-Leibler divergence, a row, of outputs softened by the temperature."""
        soft, rows = self.spec.temperature, student.numel() / teacher.size(-1)
        ours, theirs = (functional.log_softmax(each / soft, dim=-1) for each in (student, teacher))
        return functional.kl_div(ours, theirs, log_target=True, reduction="sum") * soft**2 / rows


class LayerDistillation(Distillation):
    """The outputs of a teacher's layers, as they are."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.student_names = self.spec.student_layer_names or self.spec.teacher_layer_names
        self.teacher_names = self.spec.teacher_layer_names or self.spec.student_layer_names
        if len(self.student_names or ()) != len(self.teacher_names or ()):
            counts = f"{len(self.student_names)} student_layer_names and {len(self.teacher_names)} teacher_layer_names"
            raise RecipeError(f"{self.entry.where(self.source)} has {counts}. Name as many of both.")
        self._seen: dict[tuple[str, str], torch.Tensor] = {}
        self._hooks: list[Any] = []

    def layers(self, student: torch.nn.Module, teacher: torch.nn.Module) -> list[list[tuple[str, torch.nn.Module]]]:
        """Return the layers of both that are compared, by name; those with weights where none are named."""
        found = []
        for model, names in ((student, self.student_names), (teacher, self.teacher_names)):
            modules = dict(model.named_modules())
            names = names or [name.rpartition(".")[0] for name in prunable(model)]
            found.append([(name, modules[name]) for name in names if name in modules])
        if not found[0] or len(found[0]) != len(found[1]):
            counts = f"{len(found[0])} layers in the student and {len(found[1])} in the teacher"
            raise RecipeError(f"{self.entry.where(self.source)} finds {counts}. Name them, as many of both.")
        return found

    def initialize(self, model: torch.nn.Module, teacher: torch.nn.Module | None = None) -> None:
        super().initialize(model, teacher)
        if teacher is not None:
            self._pairs = self.layers(model, teacher)
            for side, layers in zip(("student", "teacher"), self._pairs):
                self._hooks += [layer.register_forward_hook(self._seeing((side, name))) for name, layer in layers]

    def _seeing(self, key: tuple[str, str]) -> Any:
        def see(layer: torch.nn.Module, given: Any, output: torch.Tensor) -> None:
            self._seen[key] = output

        return see

    def update(self, moment: Moment) -> None:
        if 0 < self.end_epoch <= moment.epoch:
            self._take_off()

    def finalize(self) -> None:
        super().finalize()
        self._take_off()

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._seen = [], {}

    def distance(self, student: Any, teacher: Any) -> torch.Tensor:
        total: Any = 0.0
        for (ours, _), (theirs, _) in zip(*self._pairs):
            mine, other = self._seen["student", ours], self._seen["teacher", theirs]
            error = (mine - other).square().mean()
            if self.spec.normalize:
                error = error / (other.square().mean() + self.spec.epsilon)
            total = total + error
        return total
