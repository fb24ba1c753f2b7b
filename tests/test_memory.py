"""Quantization needs memory: it is said before the run, and --sparse-qat-batch-size lowers it without another result."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
import yolov5
from conftest import RECIPE, REPOSITORY, call, hyperparameters, results, yolov5_train

from yolov5_sparse_plugin.recipes_io import RecipeText
from yolov5_sparse_plugin.training import checkpoints, memory
from yolov5_sparse_plugin.training.residual import make_adds_quantizable


def build():
    """Return YOLOv5n in quantization-aware training, its ranges observed once."""
    from yolov5.models.yolo import Model

    from yolov5_sparse_plugin.engine.sparseml import Schedule

    torch.manual_seed(0)
    model = Model(str(Path(yolov5.__file__).parent / "models" / "yolov5n.yaml"), ch=3, nc=3)
    model.hyp = {**yaml.safe_load(Path(hyperparameters()).read_text()), "label_smoothing": 0.0}
    make_adds_quantizable(model)
    Schedule.load(RecipeText(RECIPE, "r.yaml"), {}).apply_quantization(model)
    model.apply(torch.ao.quantization.enable_observer).train()
    model(torch.rand(4, 3, 64, 64))
    return model


@pytest.fixture(scope="module")
def quantized():
    return build()


def still(model):
    """Let batch norm and observers be what they are, so that a batch's parts don't see each other."""
    model.apply(torch.ao.quantization.disable_observer)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def step(model, images, side=64):
    """Return loss and gradients of one batch, and the bytes that its forward pass kept."""
    from yolov5.utils.loss import ComputeLoss

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(images, 3, side, side, generator=generator)
    boxes = torch.rand(len(images) * 3, 4, generator=generator) * 0.4 + 0.3
    which = torch.arange(len(boxes))[:, None]
    targets = torch.cat([(which % len(images)).float(), (which % 3).float(), boxes], 1)  # image, class, x, y, w, h
    held = {}

    def pack(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)
    loss, _ = ComputeLoss(model)(outputs, targets)
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, sum(held.values())


def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(quantized):
    whole, parts = still(deepcopy(quantized)), still(deepcopy(quantized))
    memory.split_batches(parts, 2)
    expected, gradients, _ = step(whole, images=7)  # the last part is a single image
    loss, found, _ = step(parts, images=7)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item() + 1e-7), name


def test_parts_are_computed_again_from_the_ranges_they_were_rounded_with(quantized, monkeypatch):
    """Against parts that are kept: the same gradients and, after the step, the same buffers, bit by bit."""
    again, at_once = deepcopy(quantized), deepcopy(quantized)
    memory.split_batches(again, 2)
    memory.split_batches(at_once, 2)
    _, found, _ = step(again, images=6)
    monkeypatch.setattr(memory, "_computed_twice", lambda model, forward, part: forward(part))
    _, expected, _ = step(at_once, images=6)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    buffers = dict(at_once.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in again.named_buffers())
    moved = dict(quantized.named_buffers())
    assert any(not torch.equal(value, moved[name]) for name, value in buffers.items())


def test_a_batch_in_parts_keeps_less(quantized):
    model = deepcopy(quantized)
    _, _, whole = step(model, images=16)
    memory.split_batches(model, 2)
    _, _, parts = step(model, images=16)
    assert parts < 0.45 * whole  # the rounded weights, 9 MB, are kept for each part that is kept


@pytest.mark.parametrize("images, side", [(8, 64), (2, 160)])
def test_what_is_said_before_the_run_is_what_a_batch_keeps(quantized, images, side):
    measured = memory.kept(quantized, torch.rand(images, 3, side, side))
    assert memory.Need.of(quantized).bytes(images, side) == pytest.approx(measured, rel=0.05)


PEAK = """
import resource, sys
from test_memory import build, memory, step
model = build()
peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
for parts in (2, None):  # the smaller first: a peak is never forgotten
    if parts:
        memory.split_batches(model, parts)
    else:
        del model.forward
    step(model, images=32, side=96)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""


def test_a_batch_in_parts_has_a_lower_peak(tmp_path):
    """Of the whole process, backward pass included, above what it had before the first step."""
    run = call([sys.executable, "-c", PEAK], REPOSITORY / "tests", MALLOC_MMAP_THRESHOLD_="65536")
    start, parts, whole = map(int, run.output.splitlines()[-1].split())
    assert parts - start < 0.5 * (whole - start)
