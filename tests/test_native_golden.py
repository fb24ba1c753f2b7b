"""What SparseML made of the same weights and gradients, written down by `make_golden.py`: needs no SparseML."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from make_golden import FIGURES, FILE, masks_of
from native_runs import GRIDS, NAMED, RECIPES, SERIES, native, quantizing, recipe_of, run, sgd, yolo

from yolov5_sparse_plugin.engine.native import structure
from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer


@pytest.fixture(scope="module")
def golden():
    with np.load(FILE) as file:
        return dict(file)


@pytest.mark.parametrize("name", RECIPES)
def test_rates_and_masks_are_those_that_sparseml_left(golden, name):
    start = {key[len("start/") :]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("start/")}
    *steps, _ = run(native, recipe_of(RECIPES[name]), start=start)
    for figure in FIGURES:
        np.testing.assert_array_equal([state[figure] for state in steps], golden[f"run/{name}/{figure}"], figure)
    np.testing.assert_array_equal(masks_of(steps), golden[f"run/{name}/masks"])


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("place", range(len(GRIDS)))
def test_scales_and_zero_points_are_those_that_sparseml_left(golden, series, place):
    symmetric, per_channel, low, high = GRIDS[place]
    quantizer = FakeQuantizer(low, high, symmetric, 6 if per_channel else 0)
    for values in torch.from_numpy(golden[f"series/{series}"]):
        quantizer(values)
    scale, zero_point, *ranges = golden[f"grid/{series}/{place}"]
    np.testing.assert_array_max_ulp(quantizer.scale.numpy(), scale, 1)
    np.testing.assert_array_equal(quantizer.zero_point.numpy(), zero_point)
    for mine, theirs in zip((quantizer.min_val, quantizer.max_val), ranges):
        np.testing.assert_array_max_ulp(mine.numpy().reshape(-1), theirs, 1)


@pytest.mark.parametrize("name", NAMED)
def test_every_tensor_of_sparsemls_has_its_name_here(golden, name):
    pytest.importorskip("yolov5", reason="the names are those of a YOLOv5, which is not installed")
    model = yolo()
    native.Schedule.load(quantizing(name)).wrap(sgd(model), model, None)
    theirs = golden[f"names/{name}"].tobytes().decode().splitlines()
    found = structure.names_from_sparseml(theirs, yolo())
    assert sorted(ours for ours in found.values() if ours is not None) == sorted(model.state_dict())
