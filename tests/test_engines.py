"""Two engines, one run: what the real `train()` makes of a recipe does not depend on who executes it."""

from __future__ import annotations

import os
from copy import deepcopy

import pytest
import torch
from conftest import ENGINES, call, command, results, yolov5_train

from yolov5_sparse_plugin.checkpoints import formats, reading
from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.contract import full_precision
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.errors import OptionError

BOTH = pytest.mark.skipif("sparseml" not in ENGINES, reason="SparseML installs on Python 3.9 to 3.11")


def part_of(run):
    return reading.read(run.weights / "last.pt")["sparse"]


def same(ours, theirs):
    assert ours["engine"] != theirs["engine"]
    assert ours["phase"] == theirs["phase"] == "pruned_quantized"
    assert ours["layers"] == theirs["layers"] and ours["metrics"] == theirs["metrics"]
    assert ours["state"].keys() == theirs["state"].keys()
    different = [name for name, value in ours["state"].items() if not torch.equal(value, theirs["state"][name])]
    assert not different, f"{len(different)} tensors differ, the first is {different[0]}"


@BOTH
def test_a_run_through_every_phase_ends_with_the_same_weights_and_quantizers_bit_by_bit(
    finished, shapes, recipe, tmp_path
):
    other = yolov5_train(tmp_path, shapes, "--sparse-recipe", recipe, "--sparse-engine", "native")
    assert results(other) == results(finished)
    same(part_of(other), part_of(finished))


@BOTH
def test_a_run_that_began_under_one_engine_goes_on_under_the_other(finished, tmp_path):
    """Interrupted inside quantization: masks, clock, momentum, ranges and random numbers go over."""
    ended = []
    for engine in ENGINES:
        folder = tmp_path / engine / "runs" / "exp"
        (folder / "weights").mkdir(parents=True)
        last = folder / "weights" / "last.pt"
        os.link(finished.weights / "epoch3.pt", last)
        text = (finished.folder / "opt.yaml").read_text()
        (folder / "opt.yaml").write_text(text.replace("save_dir: runs/exp", f"save_dir: {folder}"))
        run = call([command("yolov5"), "train", "--resume", last, "--sparse-engine", engine], tmp_path / engine)
        assert "Resuming training" in run.output
        ended.append(reading.read(last)["sparse"])
    same(*ended)


@BOTH
def test_a_file_of_the_format_that_had_sparsemls_names_is_read_into_todays(finished, tmp_path):
    """The structure is SparseML's own, made anew; only what is written around it is put together here."""
    ckpt = reading.read(finished.weights / "best.pt")
    part, plain = ckpt["sparse"], ckpt["model"].float()
    theirs = deepcopy(plain)
    make_adds_quantizable(theirs)
    schedule = engines.schedules("sparseml").of_structure(part["recipe"], "its recipe")
    schedule.apply_quantization(theirs)
    schedule.load_state(theirs, plain, part["state"])
    old = {**part, "format": formats.OLD, "rank": 3, "state": full_precision(theirs)}
    for name in ("best_phase", "engine"):
        del old[name]
    torch.save({**ckpt, "sparse": old}, tmp_path / "best.pt")
    again = reading.read(tmp_path / "best.pt")["sparse"]
    assert "model.0.conv.module.weight" in old["state"]
    assert (again["format"], again["engine"], again["best_phase"]) == (formats.FORMAT, "sparseml", "pruned_quantized")
    assert again["state"].keys() == part["state"].keys()
    assert all(torch.equal(value, part["state"][name]) for name, value in again["state"].items())


def test_an_engine_that_is_not_there_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: False)
    assert engines.chosen(None) == "native"
    with pytest.raises(OptionError, match="SparseML is not installed.*'native' executes the same recipes"):
        engines.chosen("sparseml")
