"""What `recipes check` says that a recipe will do is what it does."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import ENGINES, call, command

from yolov5_sparse_plugin.engine import engines, timeline
from yolov5_sparse_plugin.engine.fitting import prunable
from yolov5_sparse_plugin.errors import RecipeError, SparsePluginError
from yolov5_sparse_plugin.recipes_io import RecipeText, read, shipped

BATCHES = 4
LENGTH = "  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 6.0}\n"


def written(*modifiers):
    lines = "".join(f"  - !{tag} {json.dumps(fields)}\n" for tag, fields in modifiers)
    return RecipeText(f"modifiers:\n{LENGTH}{lines}", "r.yaml")


def executed(text, engine):
    """Run a recipe on a small model; return, beside it, the zeros after each epoch and the rates by batch."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(4, 32, 3), torch.nn.Conv2d(32, 32, 3)]
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        layers[1].weight[:8] = 0  # a quarter of it is pruned already
    groups = [{"params": [layer.bias for layer in layers]}, {"params": [layer.weight for layer in layers]}]
    schedule = engines.load(text, engine=engine)
    zeros_before = {name: timeline_zeros(weight) for name, weight in prunable(model).items()}
    optimizer = schedule.wrap(torch.optim.SGD(groups, lr=0.5, momentum=0.9), model, None)
    optimizer.bind(BATCHES)
    zeros, rates = [], []
    for epoch in range(6):
        for _ in range(BATCHES):
            model(torch.rand(1, 4, 8, 8)).square().mean().backward()
            optimizer.step()
            rates.append(list(optimizer.rates))
            optimizer.zero_grad()
        optimizer.tick(float(epoch + 1))
        held = schedule.masks().values()
        zeros.append(sum((mask == 0).sum().item() for mask in held) / sum(layer.weight.numel() for layer in layers))
    fits = schedule.check_model(model) if not schedule.quantizes else []
    schedule.close(model)
    return schedule.recipe, fits, zeros_before, model, zeros, rates


def timeline_zeros(weight):
    return (weight == 0).float().mean().item()


GRADUAL = {"params": "__ALL_PRUNABLE__", "init_sparsity": 0.1, "final_sparsity": 0.8, "start_epoch": 1.0,
           "end_epoch": 4.0, "update_frequency": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    "modifiers",
    [
        [("MagnitudePruningModifier", GRADUAL)],
        [("GlobalMagnitudePruningModifier", {**GRADUAL, "inter_func": "linear", "update_frequency": -1})],
        [("MagnitudePruningModifier", {**GRADUAL, "inter_func": "inverse_cubic", "update_frequency": 1.0})],
        [("MagnitudePruningModifier", {**GRADUAL, "init_sparsity": "__FROM_PARAM__", "start_epoch": -1})],
        [("MagnitudePruningModifier", {**GRADUAL, "leave_enabled": False})],
        [("MagnitudePruningModifier", {**GRADUAL, "params": ["1.weight"], "mask_type": [1, 4]})],
        [("MagnitudePruningModifier", {**GRADUAL, "mask_type": "2:4", "init_sparsity": 0.5, "final_sparsity": 0.5})],
        [("ConstantPruningModifier", {"params": "__ALL_PRUNABLE__"})],
        [("ConstantPruningModifier", {"params": "__ALL_PRUNABLE__", "start_epoch": 0, "end_epoch": 4})],
        [("ACDCPruningModifier", {"params": "__ALL_PRUNABLE__", "compression_sparsity": 0.6, "start_epoch": 0,
                                  "end_epoch": 5, "update_frequency": 1})],
    ],
    ids=lambda modifiers: modifiers[0][0] + str(len(json.dumps(modifiers))),
)  # fmt: skip
@pytest.mark.parametrize("engine", ENGINES)
def test_sparsity_by_epoch_is_that_of_the_engine(modifiers, engine):
    if engine == "native" and modifiers[0][0] == "ACDCPruningModifier":
        pytest.skip("native refuses ACDCPruningModifier by name")
    found, fits, before, model, zeros, _ = executed(written(*modifiers), engine)
    sizes = {name: weight.numel() for name, weight in prunable(model).items()}
    foretold = [timeline.sparsity_at(fits, sizes, before, epoch) for epoch in range(1, 7)]
    every_batch = modifiers[0][1].get("update_frequency") == -1  # the last batch of four comes a quarter earlier
    assert zeros == pytest.approx(foretold, abs=0.06 if every_batch else 0.002)
    assert max(zeros) > 0.1


@pytest.mark.parametrize(
    "modifiers",
    [
        [("SetLearningRateModifier", {"learning_rate": 0.1}),
         ("SetLearningRateModifier", {"learning_rate": 0.05, "start_epoch": 2.5, "param_groups": [1]})],
        [("LearningRateFunctionModifier", {"lr_func": "linear", "init_lr": 0.0, "final_lr": 0.1, "start_epoch": 0.0,
                                           "end_epoch": 2.0, "param_groups": [1]}),
         ("LearningRateFunctionModifier", {"lr_func": "cosine", "init_lr": 0.1, "final_lr": 0.01, "start_epoch": 2.0,
                                           "end_epoch": 5.0})],
        [("LearningRateFunctionModifier", {"lr_func": "cosine", "init_lr": 0.01, "final_lr": 0.1, "start_epoch": 1.0,
                                           "end_epoch": 6.0}),
         ("SetLearningRateModifier", {"learning_rate": 0.001, "start_epoch": 4.0})],
        [("LearningRateModifier", {"lr_class": "StepLR", "lr_kwargs": {"step_size": 2.0, "gamma": 0.5}, "init_lr": 0.1,
                                   "start_epoch": 0.0})],
        [("LearningRateModifier", {"lr_class": "ExponentialLR", "lr_kwargs": {"gamma": 0.9}, "init_lr": 0.1,
                                   "start_epoch": 0.0, "end_epoch": 4.0})],
        [("LearningRateModifier", {"lr_class": "MultiStepLR", "lr_kwargs": {"milestones": [2, 4], "gamma": 0.1},
                                   "init_lr": 0.1, "start_epoch": 0.0, "end_epoch": 6.0})],
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ENGINES)
def test_learning_rates_are_those_of_the_engine(modifiers, engine):
    found, _, _, _, _, rates = executed(written(*modifiers), engine)
    for batch, applied in enumerate(rates):
        for group, rate in enumerate(applied):
            foretold = timeline.rate_at(found, group, batch / BATCHES)
            assert rate == pytest.approx(0.5 if foretold is None else foretold, abs=1e-6), (group, batch / BATCHES)


# ------------------------------------------------------------------------------------------------------- num_epochs


@pytest.mark.parametrize("epochs", [1, 4, 20, 300])
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_follows_num_epochs_in_all_its_times(name, epochs):
    """Of a single epoch, quantization takes the second half."""
    from yolov5_sparse_plugin import recipe_check

    found = recipe_check.check(name, {"num_epochs": epochs}, None, None)
    assert found.epochs == epochs and all(timeline.end_of(entry) <= epochs for entry in found.recipe.entries)
    last = {"dense": "transfer_pruned", "pruned": "pruned", "quantized": "quantized transfer_pruned_quantized",
            "pruned_quantized": "pruned_quantized finetune_pruned_quantized"}  # fmt: skip
    assert name in last[found.phase(epochs)].split()
    start = timeline.quantization_start(found.recipe)
    if start is not None:
        assert found.floats == [] and epochs - start >= min(1, epochs / 2)
    own = timeline.length(engines.load(read(name)).recipe)
    for mine, theirs in zip(found.recipe.entries, engines.load(read(name)).recipe.entries):
        if theirs.spec.start / own <= 0.5:  # the last epochs of quantization are a number, not a share
            assert mine.spec.start == pytest.approx(theirs.spec.start * epochs / own, abs=0.51)


@pytest.mark.parametrize(
    "variables, epochs, message",
    [
        ({"num_epochs": 4, "pruning_end_epoch": 100}, None, r"sets num_epochs to 4, but the recipe ends at epoch 100, "
         r"where MagnitudePruningModifier of line 46 does not follow num_epochs\. Set that as well"),
        ({"num_epochs": 4}, 5, r"sets num_epochs to 4, but --epochs is 5\. Take one of the two out"),
        ({"num_epochs": math.nan}, None, r"sets 'num_epochs' to nan, which is no number"),
        (None, 30, r"pruning ends at epoch 100 but --epochs is 30.*or let the recipe follow: --sparse-recipe-args"),
    ],
)  # fmt: skip
def test_a_length_that_contradicts_num_epochs_is_refused(variables, epochs, message):
    from yolov5_sparse_plugin import recipe_check

    with pytest.raises(RecipeError, match=message):
        recipe_check.check("pruned", variables, None, epochs)


def test_what_would_never_come_is_refused():
    text = "modifiers:\n  - !QuantizationModifier {start_epoch: 1.0, freeze_bn_stats_epoch: 3.0}\n"
    recipe = engines.load(RecipeText(text, "r.yaml")).recipe
    with pytest.raises(RecipeError, match=r"freeze_bn_stats_epoch 3 would never come: --epochs is 3\. Set it lower"):
        timeline.check_length(recipe, 3, "--epochs")
    with pytest.raises(RecipeError, match=r"Add an EpochRangeModifier that ends at 2 or later"):
        timeline.check_length(recipe, 1, "the recipe")
    timeline.check_length(recipe, 4, "--epochs")


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_shows_phases_layers_and_memory(finished, recipe, tmp_path):
    words = [command("yolov5-sparse"), "recipes", "check", recipe, "--weights", finished.weights / "best_pruned.pt"]
    run = call([*words, "--plot", "plan.png", "--batch-size", 8, "--img", 64], tmp_path)
    said = " ".join(run.output.split())
    assert re.search(r"5 epochs, on best_pruned\.pt: 60 prunable weights, 1\.\d+ million values, 60\.0% of them", said)
    rows = re.findall(r"^\s+(\d)\s+(dense|pruned|pruned_quantized)\s+([\d.]+)%\s+YOLOv5's own", run.output, re.M)
    assert rows == [("1", "dense", "0.0"), ("2", "pruned", "60.0"), ("3", "pruned", "60.0"),
                    ("4", "pruned_quantized", "60.0"), ("5", "pruned_quantized", "60.0")]  # fmt: skip
    assert "8 bits in 60 of 60 convolutions" in run.output
    assert "from epoch 3 on, a batch of 8 images of 64 px keeps about" in said
    from PIL import Image

    assert Image.open(tmp_path / "plan.png").size == (1500, 900)


def test_what_is_not_as_it_seems_is_said():
    from yolov5_sparse_plugin import recipe_check

    text = written(
        ("MagnitudePruningModifier", {"params": ["re:model.0.conv.weight"], "init_sparsity": 0.1, "final_sparsity": 0.6,
                                      "start_epoch": 0.0, "end_epoch": 9.0, "update_frequency": 1.0}),
    )  # fmt: skip
    lines = recipe_check.remarks(recipe_check.check(text.text, None, None, None), 16, 640)
    assert lines[0].startswith("1 of 60 weights are pruned, so that the model ends with 0.1% zeros, not 60.0%")
    assert lines[1].endswith("EpochRangeModifier ends at 6, before other modifiers; the run goes on to 9")


def test_what_a_run_would_refuse_is_refused(finished, recipe, tmp_path, monkeypatch):
    from yolov5_sparse_plugin import recipe_check

    monkeypatch.chdir(tmp_path)
    for given, message in (
        ((recipe, None, finished.weights / "best.pt", None, None), "is quantized already"),
        ((recipe, None, None, 3, None), "quantization starts at epoch 3 but --epochs is 3"),
        ((recipe, None, "no.pt", None, None), "recipes check --weights no.pt: there is no such file"),
        ((recipe, None, str(tmp_path), None, None), "this is a folder. Name the checkpoint in it, a .pt file"),
        ((recipe, None, None, None, Path("plan.doc")), "--plot plan.doc: name a file in a folder that exists and that"),
    ):
        address, variables, weights, epochs, picture = given
        with pytest.raises(SparsePluginError, match=message):
            recipe_check.run(str(address), variables, weights and str(weights), epochs, picture, (16, 640))
    run = call([command("yolov5-sparse"), "recipes", "check", "prunned"], tmp_path, status=2)
    assert "error: recipes check prunned: no such file, and no shipped recipe has that name. Did you mean" in run.output
    assert "Traceback" not in run.output and not list(tmp_path.iterdir())
