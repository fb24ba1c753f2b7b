"""The commands of Neural Magic's tutorial of sparse transfer learning, as they stand, with a zoo folder for its server.

Only what would take hours is shortened, by words at the end: epochs, image size, batch size.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import fork
import pytest
import torch
import yaml
from conftest import Result, call, command

import yolov5_sparse_plugin

COCO = "cv/detection/yolov5-{}/pytorch/ultralytics/coco/{}"
SHORT = "--img 64 --batch-size 4 --workers 0 --device cpu --noautoanchor --noplots --project runs/train"
# size, model of the zoo, further words: two epochs where the second one quantizes
RUNS = {
    "s pruned": ("s", "pruned-aggressive_96", "--recipe-args num_epochs=1"),
    "s pruned and quantized": ("s", "pruned_quant-aggressive_94", "--recipe-args num_epochs=2"),
    "s baseline": ("s", "base-none", "--epochs 1"),
    "l pruned": ("l", "pruned-aggressive_98", "--recipe-args num_epochs=1"),
    "l pruned and quantized": ("l", "pruned_quant-aggressive_95", "--recipe-args num_epochs=2"),
    "l baseline": ("l", "base-none", "--epochs 1"),
}
TRANSFER = """---
num_epochs: {epochs}
modifiers:
  - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
  - !LearningRateFunctionModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
      lr_func: cosine
      init_lr: 0.0032
      final_lr: 0.000384
  - !ConstantPruningModifier
      start_epoch: 0.0
      params: __ALL_PRUNABLE__
{more}---
# How it was transferred
"""
QUANTIZED = """  - !QuantizationModifier
      start_epoch: eval(num_epochs - 1)
      submodules: [{submodules}]
"""


def training(size: str, model: str) -> str:
    """Return a training command of the tutorial."""
    stub = "zoo:" + COCO.format(size, model)
    words = f"sparseml.yolov5.train --data VOC.yaml --cfg models_v5.0/yolov5{size}.yaml --weights {stub}"
    if model == "base-none":
        return f"{words} --hyp data/hyps/hyp.finetune.yaml --epochs 50"
    kind = "?recipe_type=transfer"
    return f"{words}{kind} --hyp data/hyps/hyp.finetune.yaml --recipe {stub}{kind}"


def type_in(line: str, cwd: Path, **env: str):
    name, *words = shlex.split(line)
    return call([command(name), *words], cwd, **env)


@pytest.fixture(scope="session")
def vendor_zoo(once) -> Path:
    """A folder in the zoo's layout: COCO models of release 5.0's architecture, in the fork's form, with its recipes."""

    def write(root: Path) -> Result:
        shipped = Path(yolov5_sparse_plugin.__file__).parent / "legacy_files" / "models_v5.0"
        for size in "sl":
            dense = fork.model(shipped / f"yolov5{size}.yaml", classes=80, sparsity=0)
            pruned = fork.model(shipped / f"yolov5{size}.yaml", classes=80, sparsity=0.8)
            for _, model, _ in (run for run in RUNS.values() if run[0] == size):
                folder = root / COCO.format(size, model)
                (folder / "training").mkdir(parents=True)
                (folder / "recipe").mkdir()
                torch.save(fork.checkpoint(dense if model == "base-none" else pruned), folder / "training" / "model.pt")
                if model != "base-none":
                    os.link(folder / "training" / "model.pt", folder / "training" / "model.ckpt.pt")
                    more = QUANTIZED.format(submodules=fork.SUBMODULES) if "quant" in model else ""
                    text = TRANSFER.format(epochs=52 if more else 50, more=more)
                    (folder / "recipe" / "recipe_transfer_learn.md").write_text(text)
        return Result(0, "", root)

    return once("vendor_zoo", write).folder


@pytest.fixture(scope="session")
def trained(once, shapes, vendor_zoo):
    """Return a function that runs one of RUNS, once, in a folder with a VOC.yaml of twenty classes."""

    def train(name: str) -> Result:
        size, model, more = RUNS[name]

        def run(cwd: Path) -> Result:
            write_voc(cwd, shapes)
            line = f"{training(size, model)} {SHORT} {more}"
            result = type_in(line, cwd, YOLOV5_SPARSE_ZOO=str(vendor_zoo))
            return Result(result.status, result.output, cwd / "runs" / "train" / "exp")

        return once("tutorial_" + name.replace(" ", "_"), run)

    return train


def write_voc(folder: Path, shapes: Path) -> None:
    """Write a VOC.yaml of twenty classes, of which the pictures show three."""
    content = yaml.safe_load(shapes.read_text())
    content["names"] = {i: f"class {i}" for i in range(20)}
    content.pop("nc", None)
    (folder / "VOC.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_every_training_command_of_the_tutorial_trains(trained, name):
    result = trained(name)
    size, model, _ = RUNS[name]
    count = {"s": "7.1|7.2", "l": "46."}[size]
    assert "Transferred" in result.output, "from the zoo's weights, not from random ones"
    moved, total = (int(n) for n in result.output.split("Transferred ")[1].split(" items")[0].split("/"))
    assert total - 7 <= moved < total, "all but anchors and Detect outputs: VOC has twenty classes, COCO eighty"
    ckpt = torch.load(result.weights / "best.pt", weights_only=False)
    parameters = sum(p.numel() for p in ckpt["model"].parameters()) / 1e6
    assert str(parameters).startswith(tuple(count.split("|"))) and ckpt["model"].yaml["activation"] == "nn.Hardswish()"
    sparse = ckpt.get("sparse")
    if model == "base-none":
        assert sparse is None
    else:
        assert sparse["phase"] == ("pruned_quantized" if "quant" in model else "pruned")
        assert 0.75 < sparse["sparsity"] < 0.85


@pytest.mark.long
@pytest.mark.parametrize("name", ["s pruned", "s pruned and quantized"])
def test_export_and_validation_of_the_tutorial(trained, name, tmp_path, shapes):
    shutil.copytree(trained(name).folder, tmp_path / "runs" / "train" / "exp")
    write_voc(tmp_path, shapes)
    weights = Path("runs/train/exp/weights/best.pt")
    type_in(f"sparseml.yolov5.export_onnx --weights {weights} --dynamic --imgsz 64", tmp_path)
    assert (tmp_path / weights.with_suffix(".onnx")).is_file()
    for file in (weights, weights.with_suffix(".onnx")):
        line = f"sparseml.yolov5.validation --data VOC.yaml --weights {file} --imgsz 64 --device cpu --workers 0"
        assert "mAP50" in type_in(line, tmp_path).output


def test_a_script_of_sparseml_ends_in_a_sentence(tmp_path, shapes, vendor_zoo):
    write_voc(tmp_path, shapes)
    name, *words = shlex.split(training("s", "pruned-agressive_96"))
    run = call([command(name), *words], tmp_path, status=2, YOLOV5_SPARSE_ZOO=str(vendor_zoo))
    assert "Traceback" not in run.output
    assert "pruned-aggressive_96" in run.output, "the stub that was meant"
