"""The native engine does to rates, weights and masks what SparseML does, bit for bit, and runs without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from native_runs import RECIPES, flat, native, pruning, rate, recipe_of, run, same, sgd, sparseml, toy

from yolov5_sparse_plugin.engine.native import base, masks
from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText, read, shipped

PACKAGE = Path(native.__file__).parent


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_run_is_sparsemls(name):
    other = run(sparseml(), recipe_of(RECIPES[name]))
    same(run(native, recipe_of(RECIPES[name])), other)


@pytest.mark.parametrize("name", ["rates by group", "all layers as one", "StepLR", "let go at the end"])
def test_batches_that_only_accumulate_count_as_sparseml_counts_them(name):
    other = run(sparseml(), recipe_of(RECIPES[name]), accumulate=3)
    same(run(native, recipe_of(RECIPES[name]), accumulate=3), other)


def resumed(engine, weights, epoch, pruned_at):
    model = toy(1)
    schedule = engine.Schedule.load(recipe_of(RECIPES["rates by group"]))
    wrapped = schedule.wrap(sgd(model), model, None)
    wrapped.seek(epoch)
    wrapped.bind(5, int(epoch))
    model.load_state_dict(weights, strict=False)
    wrapped.recall(pruned_at)
    found = [wrapped.epoch, wrapped.pruned_at(), [group["lr"] for group in wrapped.param_groups]]
    for _ in range(4):
        model(torch.ones(2, 4, 6, 6)).sum().backward()
        wrapped.step()
        wrapped.zero_grad()
        kept = schedule.masks()
        found.append([wrapped.rates, wrapped.pruned_at(), [kept[id(p)] for p in model.parameters() if id(p) in kept]])
        found.append([p.detach().clone() for p in model.parameters()])
    return found


def test_a_run_that_goes_on_has_the_masks_and_rates_of_sparsemls():
    before = run(native, recipe_of(RECIPES["rates by group"]), steps=10)[-3]
    other = resumed(sparseml(), before["weights"], 2.0, before["pruned_at"])
    same(resumed(native, before["weights"], 2.0, before["pruned_at"]), other)


@pytest.mark.parametrize("name", ["gradual", "all layers as one", "2:4", "by layer", "constant", "let go at the end"])
def test_pruning_at_once_leaves_the_weights_that_sparseml_leaves(name):
    ours, theirs = toy(), toy()
    for engine, model in ((native, ours), (sparseml(), theirs)):
        engine.Schedule.load(recipe_of(RECIPES[name])).prune_at_once(model)
    same(dict(ours.named_parameters()), dict(theirs.named_parameters()))


DISTILLED = {
    "outputs": rate("Distillation", start_epoch=0.2, end_epoch=1.0, hardness=0.3, temperature=3.0),
    "layers": rate("PerLayerDistillation", end_epoch=1.0, gain=0.7),
    "some layers": rate("PerLayerDistillation", student_layer_names=["3"], teacher_layer_names=["3"], normalize=False),
}


def distilled(engine, body):
    student, teacher = toy(), toy(1).eval()
    wrapped = engine.Schedule.load(recipe_of(body)).wrap(sgd(student), student, None, teacher)
    wrapped.bind(5)
    found = []
    for step in range(8):
        given = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(step))
        outputs = student(given)
        loss = wrapped.loss_update(outputs.square().mean(), student_inputs=given, student_outputs=outputs)
        loss.backward()
        wrapped.step()
        wrapped.zero_grad()
        found.append([loss.detach(), *(p.detach().clone() for p in student.parameters())])
    return found


@pytest.mark.parametrize("name", DISTILLED)
def test_a_teacher_adds_to_the_loss_what_sparseml_adds(name):
    same(distilled(native, DISTILLED[name]), distilled(sparseml(), DISTILLED[name]))


def test_a_layer_is_not_compared_with_one_of_another_size():
    student, teacher = toy(), torch.nn.Sequential(*[torch.nn.Identity()] * 3, torch.nn.Conv2d(8, 16, 3))
    schedule = native.Schedule.load(recipe_of(DISTILLED["some layers"]))
    with pytest.raises(RecipeError, match="compares 3 with the teacher's 3, which has 16 channels, not 12"):
        schedule.wrap(sgd(student), student, None, teacher)


# ------------------------------------------------------------------------------------ numbers that decide which weights


def test_of_equal_weights_the_first_ones_stay():
    scores = torch.tensor([0.3, 0.1, 0.3, 0.2, 0.3, 0.9])
    assert masks.smallest(scores, 0.5).tolist() == [1, 0, 1, 0, 0, 1]


def test_of_too_many_smallest_weights_the_same_ones_are_drawn_every_time():
    scores = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    assert masks.smallest(scores, 0.34).tolist() == masks.smallest(scores, 0.34).tolist() == [1, 0, 0, 1, 1, 1]


def test_the_number_of_zeros_is_rounded_half_to_even():
    scores = torch.arange(1.0, 11.0)
    assert [int((masks.smallest(scores, share) == 0).sum()) for share in (0.04, 0.25, 0.35, 0.45)] == [0, 2, 4, 4]


def test_blocks_go_by_their_mean():
    scores = torch.tensor([[0.0, 0.9, 0.0, 0.9, 0.4, 0.4, 0.4, 0.4]])
    (mask,) = masks.masks_of([scores], [0.5], [1, 4], together=False)
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    (mask,) = masks.masks_of([scores[:, :6]], [0.5], "block4", together=False)  # of the last block only two are there
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0]]


def test_n_of_m_groups_lie_along_the_input_channels():
    weight = torch.rand(2, 8, 3, 3)
    (mask,) = masks.masks_of([weight], [0.5], "2:4", together=False)
    assert mask.shape == weight.shape
    assert bool((mask.reshape(2, 2, 4, 3, 3).sum(2) == 2).all())


@pytest.mark.parametrize("inter_func", ["linear", "cubic", "inverse_cubic"])
def test_a_sparsity_on_its_way_is_rounded_as_sparseml_rounds_it(inter_func):
    sparseml()
    from sparseml.utils import interpolate

    for step in range(131):
        epoch = 1.1 + step / 43
        mine = base.interpolated(base.share_of(epoch, 1.1, 4.1), 0.05, 0.7, inter_func)
        assert mine == interpolate(min(epoch, 4.1), 1.1, 4.1, 0.05, 0.7, inter_func)


def test_pruning_that_ends_between_two_batches_reaches_its_end():  # SparseML's inverse_cubic fails there
    found = run(native, recipe_of(pruning(inter_func="inverse_cubic", end_epoch=2.95)))[-2]["weights"]
    assert int((found["7.weight"] == 0).sum()) == round(0.7 * found["7.weight"].numel())


# ------------------------------------------------------------------------------------------------------- the contract


def wrapped_toy(body=RECIPES["rates by group"]):
    model = toy()
    schedule = native.Schedule.load(recipe_of(body))
    return model, schedule, schedule.wrap(sgd(model), model, None)


def test_what_a_shipped_recipe_says_is_what_sparseml_says():
    names = ("epochs", "quantization_start", "pruning_start", "pruning_end", "last_change", "quantizes_already")
    for name in shipped():
        ours, theirs = native.Schedule.load(read(name)), sparseml().Schedule.load(read(name))
        assert [getattr(ours, each) for each in names] == [getattr(theirs, each) for each in names]
        assert [type(m).__name__ for m in theirs.modifiers] == [m.entry.tag for m in ours.modifiers]
        assert [ours.owns_learning_rate(e) for e in (0.0, 3.0)] == [theirs.owns_learning_rate(e) for e in (0.0, 3.0)]


def test_schedulers_and_scalers_of_torch_work_on_the_wrapped_optimizer():
    model, _, optimizer = wrapped_toy(RECIPES["gradual"])
    assert isinstance(optimizer, torch.optim.Optimizer)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    scaler = torch.cuda.amp.GradScaler(enabled=False)
    model(torch.ones(2, 4, 6, 6)).sum().backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    cycle.step()
    assert optimizer.epoch == 1.0 and optimizer.param_groups is optimizer.wrapped.param_groups
    assert optimizer.defaults["momentum"] == 0.9


def test_the_state_of_the_optimizer_is_the_wrapped_ones():
    model, _, optimizer = wrapped_toy()
    optimizer.bind(5)
    model(torch.ones(2, 4, 6, 6)).sum().backward()
    optimizer.step()
    _, _, other = wrapped_toy()
    other.load_state_dict(optimizer.state_dict())
    same(other.wrapped.state_dict(), optimizer.wrapped.state_dict())
    assert other.rates == optimizer.rates
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_events_are_told_in_their_order():
    body = "  - !QuantizationModifier {start_epoch: 0.2}\n"
    model, schedule, optimizer = wrapped_toy(body)
    told = []
    for event in ("before_quantization", "after_quantization", "stepped"):
        setattr(optimizer, event, lambda event=event: told.append((event, schedule.quantizes_already)))
    optimizer.bind(5)
    for _ in range(2):
        model(torch.ones(2, 4, 6, 6)).sum().backward()
        optimizer.step()
    first, then = ("stepped", False), [("before_quantization", False), ("after_quantization", True), ("stepped", True)]
    assert told == [first, *then]


def test_a_layer_that_is_frozen_is_passed_over():
    model = toy()
    model[0].weight.requires_grad_(False)
    schedule = native.Schedule.load(recipe_of(RECIPES["gradual"]))
    schedule.wrap(sgd(model), model, None)
    assert schedule.frozen == {"0.weight"} and schedule.pruning[0].names == ["3.weight", "7.weight"]
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match="prunes 3 layers, 0.weight and so on, and --freeze keeps all of them"):
        native.Schedule.load(recipe_of(RECIPES["gradual"])).wrap(sgd(model), model, None)


@pytest.mark.parametrize(
    "body, words",
    [
        (
            "  - !ACDCPruningModifier {compression_sparsity: 0.9, start_epoch: 0, end_epoch: 4, update_frequency: 1, "
            "params: __ALL_PRUNABLE__}",
            "line 3: ACDCPruningModifier: the native engine does not have it. --sparse-engine sparseml, on Python 3.9",
        ),
        ("  - !HouseSpecialty {heat: 3}", "line 3: HouseSpecialty: the native engine does not have it"),
        ("  - !QuantisationModifier {start_epoch: 1.0}", "Did you mean 'QuantizationModifier'"),
        (
            pruning("GlobalMagnitudePruning", init_sparsity="__FROM_PARAM__"),
            "line 3: GlobalMagnitudePruningModifier ranks the weights of all layers as one",
        ),
    ],
)
def test_what_this_engine_cannot_do_is_refused_by_name_and_line(body, words):
    with pytest.raises(RecipeError, match=words):
        wrapped_toy(body)


def test_no_module_of_the_engine_names_sparseml_or_torch_ao():
    words = ("import sparseml", "from sparseml", "torch.ao", "torch.quantization", "ao.quantization")
    for file in PACKAGE.glob("*.py"):
        found = [word for word in words if word in file.read_text()]
        assert not found, (file.name, found)


def test_the_engine_works_where_there_is_no_sparseml():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sparseml", "sparsezoo"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch
from native_runs import RECIPES, native, quantizing, recipe_of, run, sgd, toy
run(native, recipe_of(RECIPES["rates by group"]), steps=3)
model = toy()
native.Schedule.load(quantizing("batch norm fused")).wrap(sgd(model), model, None)
model(torch.ones(2, 4, 6, 6)).sum().backward()
assert "sparseml" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_checkpoints_recipe_says_how_it_quantizes_whatever_else_is_in_it():
    text = "modifiers:\n  - !SomebodysModifier {a: 1}\n  - !QuantizationModifier {start_epoch: 3.0}\n"
    schedule = native.Schedule.of_structure(text, "the checkpoint's recipe")
    model = toy()
    schedule.apply_quantization(model)
    assert len(schedule.quantizers(model)) > 0 and flat(model.eval()(torch.ones(1, 4, 6, 6)))
    assert RecipeText(text, "x") != schedule.source
