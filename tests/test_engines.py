"""Two engines, one run: what the real `train()` makes of a recipe does not depend on who executes it."""

from __future__ import annotations

import os

import pytest
import torch
from conftest import ENGINES, call, command, results, yolov5_train

from yolov5_sparse_plugin.checkpoints import reading
from yolov5_sparse_plugin.engine import engines
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


def test_an_engine_that_is_not_there_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: False)
    assert engines.chosen(None) == "native"
    with pytest.raises(OptionError, match="SparseML is not installed.*'native' executes the same recipes"):
        engines.chosen("sparseml")
