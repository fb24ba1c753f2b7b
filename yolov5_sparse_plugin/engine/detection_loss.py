"""How far a student's detections are from its teacher's: the loss of `DetectionDistillationModifier`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

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
