"""Quantization needs memory: it is said before the run, and --sparse-qat-batch-size lowers it, not the result."""

from __future__ import annotations

import json
import os
import re
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
import yolov5
from conftest import RECIPE, REPOSITORY, call, command, hyperparameters, results, yolov5_train

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.engine.contract import quantizers_of
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.errors import OptionError
from yolov5_sparse_plugin.recipes_io import RecipeText
from yolov5_sparse_plugin.training import memory


def build():
    """Return YOLOv5n in quantization-aware training, its ranges observed once."""
    from yolov5.models.yolo import Model

    from yolov5_sparse_plugin.engine import engines

    torch.manual_seed(0)
    model = Model(str(Path(yolov5.__file__).parent / "models" / "yolov5n.yaml"), ch=3, nc=3)
    model.hyp = {**yaml.safe_load(Path(hyperparameters()).read_text()), "label_smoothing": 0.0}
    make_adds_quantizable(model)
    engines.load(RecipeText(RECIPE, "r.yaml"), {}).apply_quantization(model)
    for quantizer in quantizers_of(model.train()):
        quantizer.enable_observer()
    model(torch.rand(4, 3, 64, 64))
    return model


@pytest.fixture(scope="module")
def quantized():
    return build()


def still(model):
    """Let batch norm and observers be what they are, so that a batch's parts don't see each other."""
    for quantizer in quantizers_of(model):
        quantizer.enable_observer(False)
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
from pathlib import Path
from test_memory import build, memory, step
def peak():  # in kB; getrusage() would tell of the process that started this one, too
    return next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
model = build()
peaks = [peak()]
for parts in (2, None):  # the smaller first: a peak is never forgotten
    if parts:
        memory.split_batches(model, parts)
    else:
        del model.forward
    step(model, images=32, side=96)
    peaks.append(peak())
print(*peaks)
"""


def test_a_batch_in_parts_has_a_lower_peak(tmp_path):
    """Of the whole process, backward pass included, above what it had before the first step."""
    run = call([sys.executable, "-c", PEAK], REPOSITORY / "tests", MALLOC_MMAP_THRESHOLD_="65536")
    start, parts, whole = map(int, run.output.splitlines()[-1].split())
    assert parts - start < 0.5 * (whole - start)


# writes down what reaches the model, and how often the host's optimizer steps
WATCH = """
import json, torch
from yolov5_sparse_plugin import hookimpl
seen = {"batches": [], "parts": [], "steps": 0}
@hookimpl
def sparse_model_built(run, model):
    def count(module, inputs):
        if run.model.training and run.quantized:
            seen["parts" if module is run.model.model[0] else "batches"].append(len(inputs[0]))
    model.register_forward_pre_hook(count)
    model.model[0].register_forward_pre_hook(count)
inner = torch.optim.SGD.step
def step(self, *args, **kwargs):
    seen["steps"] += 1
    return inner(self, *args, **kwargs)
torch.optim.SGD.step = step
@hookimpl
def sparse_run_end(run, error):
    with open("seen.json", "w") as file:
        json.dump(seen, file)
"""


@pytest.fixture(scope="module")
def lowered(tmp_path_factory, shapes, recipe, finished):
    """A run that was interrupted in quantization, of batches of 8, goes on with batches of 2 in parts of 1."""
    folder = tmp_path_factory.mktemp("lowered")
    (folder / "watch.py").write_text(WATCH)
    words = ["--batch-size", 2, "--sparse-qat-batch-size", 1, "--epochs", 9, "--sparse-hooks", "watch.py"]
    return interrupted(finished, "epoch3.pt", folder, *words)


def interrupted(finished, checkpoint, folder, *words):
    """Put a checkpoint where an interrupted run would have left it, and resume it."""
    run = folder / "runs" / "exp"
    (run / "weights").mkdir(parents=True)
    os.link(finished.weights / checkpoint, run / "weights" / "last.pt")
    text = (finished.folder / "opt.yaml").read_text()
    (run / "opt.yaml").write_text(text.replace("save_dir: runs/exp", f"save_dir: {run}"))
    return call([command("yolov5"), "train", "--resume", run / "weights" / "last.pt", *words], folder)


def test_a_resumed_run_takes_a_smaller_batch(lowered, finished):
    """32 pictures in batches of 2, accumulated as upstream does at that size: 64 images a step, warm-up included."""
    seen = json.loads((lowered.folder.parent.parent / "seen.json").read_text())
    assert seen["batches"] == [2] * 16
    last, steps = -1, 0
    for batch in range(4 * 16, 5 * 16):
        if batch - last >= max(1, round(1 + 31 * batch / 100)):
            last, steps = batch, steps + 1
    assert seen["steps"] == steps
    assert results(lowered)["epoch"] == [4] and results(lowered)["sparse/phase"] == [3]
    rate = 0.01 * (0.2 * 0.99 + 0.01)  # upstream's linear schedule in the last of 5 epochs
    assert results(lowered)["x/lr1"] == [pytest.approx(rate * 79 / 100, rel=1e-3)]
    opt = yaml.safe_load((lowered.folder / "opt.yaml").read_text())
    assert opt["batch_size"] == 2 and opt["sparse_qat_batch_size"] == 1 and opt["epochs"] == 5
    part = reading.read(lowered.weights / "last.pt")["sparse"]
    assert part["sparsity"] == pytest.approx(0.6, abs=1e-4) and part["epoch"] == 5


def test_what_a_resumed_run_does_not_follow_is_said(lowered):
    assert "--epochs 9: a resumed run keeps what its opt.yaml says, 5; of YOLOv5's own options only" in lowered.output
    assert lowered.output.count("a resumed run keeps") == 1


def test_a_quantized_run_that_is_resumed_keeps_one_image_at_a_time(lowered):
    assert (
        json.loads((lowered.folder.parent.parent / "seen.json").read_text())["parts"] == [1] * 3 * 16
    )  # the second of two is kept
    assert "because --sparse-qat-batch-size keeps those of 1 images at a time" in lowered.output


def test_parts_begin_with_quantization_and_a_teacher_sees_whole_batches(tmp_path, shapes, recipe, finished):
    (tmp_path / "watch.py").write_text(WATCH)
    words = ["--sparse-recipe-args", "num_epochs=2,pruning_end_epoch=1.5,quantization_start_epoch=1"]
    words += ["--sparse-qat-batch-size", 3, "--sparse-teacher", "self", "--sparse-hooks", "watch.py"]
    start = finished.weights / "best_pruned.pt"
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", recipe, *words, weights=start)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["batches"] == [8] * 3  # the first of four batches is the one that quantization starts in
    # forwards of each batch's parts, then backwards again: all but the last
    assert seen["parts"] == [3, 3, 2, 3, 3] * 3
    assert "because --sparse-qat-batch-size keeps those of 3 images at a time" in run.output
    assert results(run)["sparse/phase"] == [0, 3]
    assert all(value > 0 for value in results(run)["sparse/distillation"])
    assert reading.read(run.weights / "best.pt")["sparse"]["sparsity"] == pytest.approx(0.6, abs=1e-4)


def test_the_memory_that_quantization_takes_is_said_before_the_run(finished):
    said = re.search(
        r"from epoch 3 on, a batch of 8 images of 64 px keeps about (\d+) MB of activations, (1\.\d+) times as much",
        finished.output,
    )
    assert said and int(said[1]) > 10
    assert finished.output.index(said[0]) < finished.output.index("Starting training")


def test_a_batch_size_for_quantization_needs_quantization(tmp_path, shapes, prune_two):
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", prune_two, "--sparse-qat-batch-size", 2, status=2)
    assert "--sparse-qat-batch-size 2: " in run.output and "prune_two.yaml does not quantize" in run.output
    assert not (tmp_path / "runs").exists()
    with pytest.raises(OptionError, match="--sparse-qat-batch-size: expected 1 or more images, got 0"):
        options.resolve({"sparse_qat_batch_size": 0}, environ={}, cwd=tmp_path)
