"""Shipped recipes fit every size, hold what they say, and their table says where the numbers come from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
import yolov5
from conftest import REPOSITORY, call, command

from yolov5_sparse_plugin import recipes_io
from yolov5_sparse_plugin.recipes_io import RecipeText, read, shipped

ROOT = Path(yolov5.__file__).parent / "models"
SIZES = {size: ROOT / f"yolov5{size}.yaml" for size in "nsmlx"} | {"n6": ROOT / "hub" / "yolov5n6.yaml"}


@pytest.fixture(scope="module", params=list(SIZES))
def build(request):
    """Build a fresh model with the layers of each size, without upstream's table of them.

    All are as narrow as the smallest: recipes go by names, and an x has 46 times as many weights to sort.
    """
    from copy import deepcopy

    from yolov5.models.yolo import Model
    from yolov5.utils.general import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    model = Model({**yaml.safe_load(SIZES[request.param].read_text()), "width_multiple": 0.25}, ch=3, nc=3)
    LOGGER.setLevel(level)
    return lambda: deepcopy(model)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_parses_and_applies_to_every_size(build, name):
    import torch
    from yolov5.utils.torch_utils import smart_optimizer

    from yolov5_sparse_plugin.engine import engines, timeline
    from yolov5_sparse_plugin.engine.fitting import prunable
    from yolov5_sparse_plugin.engine.residual import make_adds_quantizable

    model = build()
    make_adds_quantizable(model)
    schedule = engines.load(read(name))
    optimizer = schedule.wrap(smart_optimizer(model, "SGD", 0.01, 0.9, 0.0005), model, None)
    timeline.check_length(schedule.recipe, schedule.epochs, "the recipe")
    weights = prunable(model)
    if "transfer" in name:  # these hold zeros that are there already
        with torch.no_grad():
            for weight in weights.values():
                weight[weight.abs() < weight.abs().median()] = 0
    held = {n: (w == 0) for n, w in weights.items()}
    optimizer.bind(1, int(schedule.pruning_start or 0))
    optimizer.step()
    optimizer.tick(float(schedule.epochs))
    zeros = sum((w == 0).sum().item() for w in weights.values()) / sum(w.numel() for w in weights.values())
    if "transfer" in name:
        assert all(bool((weights[n][zero] == 0).all()) for n, zero in held.items())
        assert zeros == pytest.approx(0.5, abs=0.01)
    elif name == "quantized":
        assert zeros < 0.01
    else:
        assert 0.59 < zeros < 0.78
        groups = [m for m in schedule.pruning if isinstance(m.params, list)]
        covered = [n for m in groups for n in m.module_masks.names]
        assert len(covered) == len(set(covered)) and (not groups or len(covered) == len(weights))
    schedule.close(model)
    if schedule.quantization:
        fresh = build()
        make_adds_quantizable(fresh)
        engines.load(read(name)).apply_quantization(fresh)
        quantizers = [m for m in fresh.modules() if type(m).__name__ == "FakeQuantize"]
        assert len(quantizers) > 2 * len(weights)


def test_shipped_recipes_are_those_of_the_table():
    table = (REPOSITORY / "recipes" / "README.md").read_text()
    for name in shipped():
        assert f"`{name}`" in table
    assert {"pruned", "pruned_quantized", "quantized", "transfer_pruned", "transfer_pruned_quantized"} <= set(shipped())


def test_recipes_command_lists_and_prints(tmp_path):
    listed = call([command("yolov5-sparse"), "recipes"], tmp_path).output
    for name in shipped():
        assert name in listed
    printed = call([command("yolov5-sparse"), "recipes", "quantized"], tmp_path).output
    assert printed == shipped()["quantized"].read_text()
    wrong = call([command("yolov5-sparse"), "recipes", "quantised"], tmp_path, status=2).output
    assert "Did you mean 'quantized'" in wrong


def test_markdown_recipes_are_read_from_their_front_matter(tmp_path):
    card = tmp_path / "card.md"
    card.write_text(
        "---\n" + shipped()["transfer_pruned"].read_text() + "---\n# A recipe\n\nwith prose - and: colons\n"
    )
    from yolov5_sparse_plugin.engine import engines

    assert engines.load(read(str(card))).epochs == 50


def test_resolved_text_reads_back_as_the_same_recipe():
    from yolov5_sparse_plugin.engine import engines

    first = engines.load(read("finetune_pruned_quantized"), {"num_epochs": 20})
    again = engines.load(RecipeText(first.text, "checkpoint"))
    assert (first.epochs, first.quantization_start, first.pruning_end) == (20, 17, 10)
    assert [str(m) for m in first.modifiers] == [str(m) for m in again.modifiers]


def test_text_and_names_and_files_are_told_apart(tmp_path):
    assert read("modifiers:\n  - x\n").source == "recipe text"
    assert read("pruned").source == str(recipes_io.shipped()["pruned"])
    file = tmp_path / "pruned"
    assert isinstance(read(str(shipped()["pruned"])), RecipeText) and not file.exists()


STAGED = """\
version: 1.1.0
sparsity: 0.6
first:
  epochs: 4
  first_modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: eval(epochs)}
  - !MagnitudePruningModifier
      params: ['re:.*weight']
      init_sparsity: 0.05
      final_sparsity: eval(sparsity)
      start_epoch: 0.0
      end_epoch: eval(epochs / 2)
      update_frequency: 0.5
second:
  second_modifiers:
  - !EpochRangeModifier {start_epoch: 4.0, end_epoch: 6.0}
"""
ALIASED = """\
num_epochs: &num_epochs 2
rate: &rate 0.01
later: eval(earlier * 2)
earlier: eval(num_epochs / 4)
names: ['re:.*weight']
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: *num_epochs
  - !SetLearningRateModifier {learning_rate: *rate, start_epoch: eval(later)}
pruning_modifiers:
  - !ConstantPruningModifier
    params: eval(names)
"""


@pytest.mark.parametrize(
    "text, variables",
    [
        *((file.read_text(), {}) for file in shipped().values()),
        (shipped()["finetune_pruned_quantized"].read_text(), {"num_epochs": 20, "final_sparsity": 0.7}),
        (STAGED, {"sparsity": 0.5}),
        (STAGED, {"epochs": 2}),
        (ALIASED, {"num_epochs": 8}),
    ],
)
def test_a_recipe_says_to_us_what_it_says_to_sparseml(text, variables):
    from sparseml.pytorch.optim import ScheduledModifierManager

    from yolov5_sparse_plugin.engine import engines

    theirs = ScheduledModifierManager.from_yaml(block_style(text), recipe_variables=variables)
    ours = engines.load(RecipeText(text, "r.yaml"), variables)
    assert [str(m) for m in ours.modifiers] == [str(m) for m in theirs.iter_modifiers()]
    again = engines.load(RecipeText(ours.text, "a checkpoint's recipe"))
    assert [str(m) for m in again.modifiers] == [str(m) for m in ours.modifiers]


def block_style(text):
    """Write a recipe so that SparseML can read it: its pattern for tags fails on `!Modifier {start_epoch: 0.0}`."""
    from yolov5_sparse_plugin.engine.yaml_nodes import compose, in_block_style

    return in_block_style(compose(RecipeText(text, "r.yaml")))
