"""The contract that every engine fulfils: state, clock and masks of the wrapped optimizer, without a host around it."""

from __future__ import annotations

import pytest
import torch
from conftest import ENGINES, PRUNE_TWO, zeros

from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.recipes_io import RecipeText


@pytest.fixture(params=ENGINES)
def build(request):
    """Return a function that makes a model, its wrapped optimizer and the schedule, anew each time."""

    def made(text=PRUNE_TWO):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
        schedule = engines.load(RecipeText(text, "r.yaml"), engine=request.param)
        return model, schedule.wrap(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), model, None), schedule

    return made


def train(model, optimizer, batches, every=1):
    for number in range(batches):
        model(torch.rand(2, 3, 8, 8)).square().mean().backward()
        if number % every == every - 1:
            optimizer.step()
            optimizer.zero_grad()
        else:
            optimizer.emulated_step()


def test_momentum_and_learning_rate_survive_a_state_dict(build):
    model, optimizer, _ = build()
    optimizer.bind(4)
    train(model, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.005
    state = optimizer.state_dict()
    other_model, other, _ = build()
    other.load_state_dict(state)
    inner = other.wrapped.state[other_model[0].weight]["momentum_buffer"]
    assert torch.equal(inner, optimizer.wrapped.state[model[0].weight]["momentum_buffer"])
    assert other.wrapped.param_groups[0]["lr"] == 0.005


@pytest.mark.parametrize("every", [1, 2, 4])
def test_two_epochs_of_batches_reach_the_final_sparsity_however_few_steps_they_make(build, every):
    model, optimizer, _ = build()
    optimizer.bind(4)
    train(model, optimizer, 8, every)
    assert optimizer.epoch == 2.0
    assert zeros(model[1].weight) < 0.699
    optimizer.tick(2.0)
    assert zeros(model[1].weight) == pytest.approx(0.7, abs=1 / model[1].weight.numel())


def test_masked_weights_stay_zero_against_momentum(build):
    model, optimizer, schedule = build()
    optimizer.bind(4)
    train(model, optimizer, 8)
    optimizer.tick(2.0)
    gone = model[1].weight == 0
    train(model, optimizer, 6)
    assert bool((model[1].weight[gone] == 0).all())
    assert len(schedule.masks()) == 2


def test_seeking_finds_the_masks_in_the_zeros(build):
    model, optimizer, _ = build()
    optimizer.bind(4)
    train(model, optimizer, 8)
    optimizer.tick(2.0)
    gone = model[1].weight == 0
    again, other, schedule = build()
    again.load_state_dict(model.state_dict())
    other.seek(2.0)
    mask = schedule.masks()[id(again[1].weight)]
    assert torch.equal(mask == 0, gone)


def test_closing_takes_every_hook_off(build):
    model, optimizer, schedule = build()
    optimizer.bind(4)
    train(model, optimizer, 4)
    assert model[0]._forward_pre_hooks or model[0].weight._backward_hooks
    schedule.close(model)
    assert not model[0]._forward_pre_hooks and not model[0].weight._backward_hooks
