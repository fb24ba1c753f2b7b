"""No file that somebody else wrote runs code: each road by which one comes, with each kind of it; a witness tells."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import fork
import pytest
import torch
from commands import run_commands

from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.recipes_io import read
from yolov5_sparse_plugin.training import checkpoints, unpickling


@pytest.fixture
def witness(tmp_path):
    """A file that hostile code would create."""
    return tmp_path / "executed"


def touching(witness):
    """Return the Python expression that creates the witness."""
    return f"__import__('pathlib').Path({str(witness)!r}).touch()"


# ------------------------------------------------------------------------------------------------------------- recipes


def evil_cfg(witness):
    """Return a model's description, a string of which YOLOv5's parse_model evaluates."""
    row = [-1, 1, touching(witness), []]
    return {"nc": 1, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[1, 2]], "backbone": [row], "head": []}


def quantizing(**fields):
    lines = [f"      {name}: {json.dumps(value)}\n" for name, value in fields.items()]
    return "modifiers:\n  - !QuantizationModifier\n      start_epoch: 0.0\n" + "".join(lines)


def recipe_of_kind(kind, witness, folder):
    """Return a recipe's text that would run code, or reach where it could."""
    arguments = {"cfg": evil_cfg(witness), "ch": 3}
    fuse = quantizing(model_fuse_fn_name="__class__", model_fuse_fn_kwargs=arguments)
    scheme = {"weights": {"num_bits": 8, "kwargs": {"observer": touching(witness)}}}
    if kind == "path":  # SparseML opens a text without line breaks
        (folder / "evil.yaml").write_text(fuse)
        return str(folder / "evil.yaml")
    return {
        "fuse": fuse,
        "legacy fuse": quantizing(submodules=["model"], model_fuse_fn_name="__class__", model_fuse_fn_kwargs=arguments),
        "arguments": quantizing(model_fuse_fn_kwargs=arguments),
        "scheme": quantizing(model_fuse_fn_name="no_fuse", scheme=scheme),
        "override": quantizing(model_fuse_fn_name="no_fuse", scheme_overrides={"Conv2d": scheme}),
        "qconfig": quantizing(submodules=["model"], weight_qconfig_kwargs={"observer": touching(witness)}),
        # SparseML rewrites a recipe's text: what is a key of a plain mapping for YAML becomes a modifier
        "smuggled": "modifiers:\n  - OBJECT.QuantizationModifier: "
        + json.dumps({"model_fuse_fn_name": "__class__", "model_fuse_fn_kwargs": arguments}),
        "tag": f"modifiers:\n  - !!python/object/apply:eval [{touching(witness)!r}]\n",
        "stub": "zoo:yolov5-n-mine-pruned60_quantized",
    }[kind]


RECIPES = ("fuse", "legacy fuse", "arguments", "scheme", "override", "qconfig", "smuggled", "tag", "path", "stub")


@pytest.mark.parametrize("kind", ["fuse", "legacy fuse"])
def test_the_hostile_recipes_are_hostile(tmp_path, witness, kind, monkeypatch):
    """SparseML alone runs them."""
    from sparseml.pytorch.optim import ScheduledModifierManager

    monkeypatch.chdir(tmp_path)
    manager = ScheduledModifierManager.from_yaml(recipe_of_kind(kind, witness, tmp_path))
    with pytest.raises(BaseException):  # noqa: B017  the model that it builds is none
        manager.apply_structure(fork.model(sparsity=0).train(), math.inf)
    assert witness.exists()


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_that_is_typed(tmp_path, witness, kind):
    from yolov5_sparse_plugin.engine.sparseml import Schedule

    text = recipe_of_kind(kind, witness, tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError):
        Schedule.load(read(str(file)))
    assert not witness.exists()


@pytest.fixture(scope="module")
def quantized(finished):
    """A checkpoint of this plugin, quantized, as a dict; tests change its recipe."""
    return unpickling.load(finished.weights / "best.pt")


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_inside_a_checkpoint_of_ours(tmp_path, witness, kind, quantized):
    ckpt = {**quantized, "sparse": {**quantized["sparse"], "recipe": recipe_of_kind(kind, witness, tmp_path)}}
    torch.save(ckpt, tmp_path / "model.pt")
    with pytest.raises((RecipeError, CheckpointError)):
        checkpoints.quantized_model(checkpoints.read(tmp_path / "model.pt"))
    assert not witness.exists()


@pytest.mark.parametrize("kind", RECIPES)
def test_a_recipe_inside_a_checkpoint_of_the_fork(tmp_path, witness, kind):
    """Its quantizers are left out then, and a warning says why."""
    model = fork.model(sparsity=0)
    state = {**fork.state(model), "model.0.conv.quant.activation_post_process.zero_point": torch.zeros(1)}
    ckpt = fork.checkpoint(model, model=state, checkpoint_recipe=recipe_of_kind(kind, witness, tmp_path))
    torch.save(ckpt, tmp_path / "model.pt")
    read = checkpoints.read(tmp_path / "model.pt")
    assert "state" not in read["sparse"] and not witness.exists()


def test_the_commands_refuse_a_hostile_recipe_by_each_road(tmp_path, witness, quantized, shapes, finished):
    text = recipe_of_kind("fuse", witness, tmp_path)
    (tmp_path / "evil.yaml").write_text(text)
    run = tmp_path / "exp"
    (run / "weights").mkdir(parents=True)
    for name in ("model.pt", "exp/weights/last.pt"):
        torch.save({**deepcopy(quantized), "sparse": {**quantized["sparse"], "recipe": text}}, tmp_path / name)
    (run / "opt.yaml").write_text((finished.folder / "opt.yaml").read_text())
    cpu, data = ["--device", "cpu", "--img", 64], ["--data", shapes]
    commands = [
        ["train", "--weights", finished.weights / "best_dense.pt", *data, *cpu, "--sparse-recipe", "evil.yaml"],
        ["train", "--resume", run / "weights" / "last.pt"],
        ["val", "--weights", "model.pt", *data, *cpu],
        ["detect", "--weights", "model.pt", "--source", shapes.parent / "images" / "val", *cpu],
        ["export", "--weights", "model.pt", "--include", "onnx", *cpu],
        ["export", "--weights", finished.weights / "best_dense.pt", "--include", "onnx", *data, *cpu]
        + ["--sparse-one-shot", "evil.yaml"],
    ]
    for words, (status, output) in zip(commands, run_commands(tmp_path, *commands)):
        said = [line for line in output.splitlines() if line.startswith("yolov5-sparse: error: ")]
        assert status == 2 and len(said) == 1 and "names no function of its own choice" in said[0], (words, output)
        assert "Traceback" not in output
    assert not witness.exists()
