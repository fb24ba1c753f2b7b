"""A teacher pulls its student towards its own detections; what it cannot teach is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
import yolov5
from conftest import ENGINES, RECIPE, results, yolov5_train

from yolov5_sparse_plugin.engine.detection_loss import corners, detection_loss, overlap
from yolov5_sparse_plugin.errors import HostError, RecipeError
from yolov5_sparse_plugin.hosts.patchset import with_nominal_batch

GAINS = {"box": 0.05, "obj": 1.0, "cls": 0.5}
ANCHORS = torch.tensor([[[1.25, 1.6], [2.0, 3.75], [4.1, 2.9]]] * 3)
# counts the optimizer's steps, and keeps what the loss was made of
COUNTING = """
import json
from yolov5_sparse_plugin import hookimpl
steps = []
@hookimpl
def sparse_batch_start(run, epoch):
    if not steps:
        inner = run.optimizer.wrapped.step
        def step(*args, **kwargs):
            steps.append(1)
            return inner(*args, **kwargs)
        run.optimizer.wrapped.step = step
        steps.append(0)
@hookimpl
def sparse_run_end(run, error):
    json.dump({"steps": sum(steps)}, open("steps", "w"))
"""


def outputs(seed: int, classes: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(2, 3, size, size, 5 + classes) for size in (8, 4, 2)]


def test_overlap_is_intersection_over_union():
    torch.manual_seed(0)
    a, b = (torch.rand(50, 4).cumsum(-1)[:, [0, 1, 2, 3]] for _ in range(2))
    expected = torchvision.ops.box_iou(a, b).diagonal()
    torch.testing.assert_close(overlap(a, b), expected, atol=1e-5, rtol=1e-5)


def test_corners_decode_as_detect_does():
    from yolov5.models.yolo import Detect

    detect = Detect(nc=4, anchors=[[10, 13, 16, 30, 33, 23]], ch=[8]).eval()
    detect.stride = torch.tensor([8.0])
    detect.anchors = detect.anchors / 8
    features = torch.randn(1, 8, 5, 5)
    decoded, raw = detect([features.clone()])
    cells = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(5), indexing="xy"), -1).repeat(1, 1, 2)
    ours = (corners(raw[0], detect.anchors[0].view(1, -1, 1, 1, 2)) + cells) * 8
    x, y, w, h = decoded[..., :4].unbind(-1)
    theirs = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
    torch.testing.assert_close(ours.reshape(1, -1, 4), theirs, atol=1e-3, rtol=1e-4)


def test_a_student_that_sees_what_its_teacher_sees_is_left_alone():
    teacher = outputs(0)
    student = [t.clone().requires_grad_() for t in teacher]
    detection_loss(student, teacher, ANCHORS, GAINS).backward()
    assert max(s.grad.abs().max() for s in student) < 1e-4
    other = [t.requires_grad_() for t in outputs(1)]
    detection_loss(other, teacher, ANCHORS, GAINS).backward()
    assert min(s.grad.abs().max() for s in other) > 1e-3


def test_boxes_and_classes_count_where_the_teacher_believes_in_an_object():
    teacher, student = outputs(0), [t.requires_grad_() for t in outputs(1)]
    for t in teacher:
        t[..., 4] = -20.0
    teacher[0][0, 0, 3, 3, 4] = 20.0
    detection_loss(student, teacher, ANCHORS, {**GAINS, "obj": 0.0}).backward()
    grad = student[0].grad.abs().sum(-1)
    assert grad[0, 0, 3, 3] > 0
    grad[0, 0, 3, 3] = 0
    assert grad.max() < 1e-6


def test_the_loss_grows_with_the_batch_as_upstream_s_does():
    teacher, student = outputs(0), outputs(1)
    twice = [torch.cat((t, t)) for t in teacher], [torch.cat((s, s)) for s in student]
    one = detection_loss(student, teacher, ANCHORS, GAINS)
    torch.testing.assert_close(detection_loss(twice[1], twice[0], ANCHORS, GAINS), 2 * one)


def upstream_steps(accumulate: float, batches: int, warmup: int = 100) -> int:
    """Count the optimizer's steps in upstream's warm-up, in which accumulation grows from 1."""
    last, steps = -1, 0
    for batch in range(batches):
        if batch - last >= max(1, round(1 + (accumulate - 1) * batch / warmup)):
            last, steps = batch, steps + 1
    return steps


def test_accumulation_replaces_upstream_s_nominal_batch():
    def train(batch_size):
        nbs = 64
        return max(round(nbs / batch_size), 1)

    assert with_nominal_batch(train, 8)(8) == 1 and with_nominal_batch(train, 80)(8) == 10
    assert train(8) == 8, "the host's own function stays what it is"
    with pytest.raises(HostError, match="Leave --gradient-accum-steps out"):
        with_nominal_batch(lambda: 64, 8)


@pytest.fixture(scope="module")
def moved(shapes, tmp_path_factory):
    """The YAML of a data set that is somewhere else by now, and where it is."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(shapes.parent, folder / "data")
    lines = [line if not line.startswith("path:") else "path: /nowhere" for line in shapes.read_text().splitlines()]
    (folder / "shapes.yaml").write_text("\n".join(lines) + "\n")
    return folder / "shapes.yaml", folder / "data"


def test_the_predecessor_s_options_have_their_effect(finished, moved, tmp_path):
    """One run with all of them: a teacher, a step every second batch, images and logs somewhere else."""
    data, images = moved
    (tmp_path / "counting.py").write_text(COUNTING)
    words = ["--recipe", "transfer_pruned", "--recipe-args", "num_epochs=3", "--teacher-weights", "self"]
    words += ["--gradient-accum-steps", 30, "--data-path", images, "--log-dir", "logs"]
    weights = finished.weights / "best_pruned.pt"
    run = yolov5_train(tmp_path, data, *words, "--sparse-hooks", "counting.py", weights=weights)
    counted = json.loads((tmp_path / "steps").read_text())
    assert counted["steps"] == upstream_steps(30, 12) != upstream_steps(64 / 8, 12), "three epochs of four batches"
    assert (tmp_path / "logs" / "results.csv").exists() and not (run.folder / "results.csv").exists()
    run.folder = tmp_path / "logs"
    column = results(run)["sparse/distillation"]
    assert len(column) == 3 and all(0 < value < 10 for value in column)
    opt = (tmp_path / "runs" / "exp" / "opt.yaml").read_text()
    assert f"sparse_teacher: {weights}" in opt and "sparse_gradient_accum_steps: 30" in opt


def test_a_teacher_needs_no_recipe_and_teaches_the_same_under_every_engine(finished, shapes, tmp_path):
    runs = []
    for engine in ENGINES:
        (tmp_path / engine).mkdir()
        words = ["--epochs", 2, "--sparse-teacher", finished.weights / "best_pruned.pt", "--sparse-engine", engine]
        runs.append(yolov5_train(tmp_path / engine, shapes, *words))
        ckpt = torch.load(runs[-1].weights / "last.pt", weights_only=False)
        assert "DetectionDistillationModifier" in ckpt["sparse"]["recipe"] and ckpt["sparse"]["phase"] == "dense"
        assert all(value > 0 for value in results(runs[-1])["sparse/distillation"])
    assert all(results(run) == results(runs[0]) for run in runs)


def test_layers_can_be_distilled_as_published_recipes_do(finished, shapes, tmp_path):
    (tmp_path / "layers.yaml").write_text(
        "distillation_modifiers:\n  - !PerLayerDistillationModifier\n      gain: 0.01\n      start_epoch: 0.0\n"
        "      end_epoch: 2.0\n      student_layer_names: [model.9.cv2.conv, model.23.cv3.conv]\n"
    )
    words = ["--sparse-recipe", "layers.yaml", "--sparse-teacher", finished.weights / "best_pruned.pt"]
    run = yolov5_train(tmp_path, shapes, "--epochs", 2, *words)
    assert results(run)["sparse/distillation"][0] > 0


def refused(tmp_path, data, *words, **kwargs) -> str:
    return yolov5_train(tmp_path, data, "--epochs", 2, *words, status=2, **kwargs).output.splitlines()[-1]


def test_what_cannot_teach_is_refused(shapes, coco_weights, finished, tmp_path):
    assert "the teacher knows 80 classes, the data set has 3" in refused(
        tmp_path, shapes, "--teacher-weights", coco_weights
    )
    (tmp_path / "best_prund.pt").touch()
    message = refused(tmp_path, shapes, "--teacher-weights", "./best_pruned.pt")
    assert "there is no such file" in message and "best_prund.pt" in message
    assert "starts from no weights" in refused(tmp_path, shapes, "--teacher-weights", "self")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    assert "text.pt: not a" in refused(tmp_path, shapes, "--teacher-weights", tmp_path / "text.pt")
    (tmp_path / "late.yaml").write_text(
        RECIPE + "\ndistillation_modifiers:\n  - !PerLayerDistillationModifier\n      start_epoch: 0.0\n"
    )
    words = ["--recipe", "late.yaml", "--teacher-weights", finished.weights / "best_pruned.pt", "--epochs", 9]
    assert "quantization replaces them at" in refused(tmp_path, shapes, *words)


def test_accumulation_needs_a_count_and_a_batch_size(shapes, tmp_path):
    assert "expected 1 or more batches" in refused(tmp_path, shapes, "--gradient-accum-steps", 0)
    assert "needs a --batch-size" in refused(tmp_path, shapes, "--gradient-accum-steps", 2, batch=-1)
    assert "--data-path nowhere: there is no such folder" in refused(tmp_path, shapes, "--data-path", "nowhere")


def test_layers_of_another_size_are_refused_by_name():
    from yolov5.models.yolo import Model

    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    text = "modifiers:\n- !PerLayerDistillationModifier\n  start_epoch: 0.0\n  end_epoch: 1.0\n"
    small, large = (Model(f"{Path(yolov5.__file__).parent}/models/yolov5{size}.yaml", ch=3, nc=3) for size in "ns")
    schedule = engines.load(RecipeText(text, "recipe.yaml"))
    schedule.match_layers(small, small)
    with pytest.raises(RecipeError, match=r"compares model\.0\.conv with the teacher's model\.0\.conv, which has 32"):
        schedule.match_layers(small, large)
