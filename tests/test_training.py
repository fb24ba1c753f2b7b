"""A sparse run does what the recipe says: epochs, masks, phases, learning rate, logs."""

from __future__ import annotations

import argparse
import shutil

import pytest
import torch
import yaml
from commands import run_commands
from conftest import RECIPE, REPOSITORY, Result, hyperparameters, results, train_words, yolov5_train, zeros

from yolov5_sparse_plugin.checkpoints import reading, summary


def test_epochs_come_from_the_recipe(finished):
    assert results(finished)["epoch"] == [0, 1, 2, 3, 4]
    assert yaml.safe_load((finished.folder / "opt.yaml").read_text())["epochs"] == 5


def test_every_checkpoint_has_the_sparsity_of_its_epoch_in_model_and_average(finished):
    for epoch in (1, 2, 3, 4):
        ckpt = reading.read(finished.weights / f"epoch{epoch}.pt")
        for model in (ckpt["model"], ckpt["ema"]):
            weights = {n: p for n, p in model.named_parameters() if n in ckpt["sparse"]["layers"]}
            assert len(weights) == 60
            for name, weight in weights.items():
                assert zeros(weight) == pytest.approx(0.6, abs=1.0 / weight.numel() + 1e-9), (epoch, name)


def test_phases_follow_the_recipe(finished):
    assert results(finished)["sparse/phase"] == [0, 1, 1, 3, 3]
    assert results(finished)["sparse/sparsity"] == pytest.approx([0, 0.6, 0.6, 0.6, 0.6], abs=1e-4)
    assert "phase pruned_quantized  sparsity 0.6000" in finished.output
    assert "dense -> pruned after 2 epochs" in finished.output
    assert "pruned -> pruned_quantized after 3 epochs" in finished.output


def test_the_best_of_each_phase_stands_beside_best(finished):
    names = {path.name for path in finished.weights.glob("best*.pt")}
    assert names == {"best.pt", "best_dense.pt", "best_pruned.pt", "best_pruned_quantized.pt"}
    for phase in ("dense", "pruned", "pruned_quantized"):
        part = reading.read(finished.weights / f"best_{phase}.pt")["sparse"]
        assert part["phase"] == phase
        assert part["sparsity"] == pytest.approx(0 if phase == "dense" else 0.6, abs=1e-4)
    assert reading.read(finished.weights / "best.pt")["sparse"]["phase"] == "pruned_quantized"


def test_the_run_ends_with_a_table_of_its_checkpoints(finished):
    table = finished.output[finished.output.index("Checkpoints of this run") :]
    for name in ("best_dense.pt", "best_pruned.pt", "best_pruned_quantized.pt", "last.pt"):
        assert name in table
    assert "60.0%" in table


def test_markup_in_the_name_of_its_folder_is_text(finished, tmp_path, capsys):
    (tmp_path / "[red]").mkdir()
    shutil.copyfile(finished.weights / "best.pt", tmp_path / "[red]" / "best.pt")
    summary.print_table(tmp_path / "[red]", "[bold]Checkpoints")
    assert "[bold]Checkpoints, in" in capsys.readouterr().out.replace("\n", "")


def test_sparseml_writes_its_log_into_the_run_and_nothing_beside_it(finished):
    assert "MagnitudePruningModifier" in (finished.folder / "sparseml.log").read_text()
    assert sorted(path.name for path in finished.folder.parent.parent.iterdir()) == ["runs"]


@pytest.fixture(scope="module")
def watched(once, shapes, prune_two):
    """A run whose recipe stands in the environment only, in which the socket module notes and refuses connections."""

    def run(folder):
        (folder / "sitecustomize.py").write_text(
            "import socket\n"
            "open('connections', 'a').close()\n"
            "def refuse(self, address):\n"
            "    open('connections', 'a').write(f'{address}\\n'); raise OSError('no network in this test')\n"
            "socket.socket.connect = refuse\n"
        )
        return yolov5_train(folder, shapes, env={"PYTHONPATH": str(folder), "YOLOV5_SPARSE_RECIPE": str(prune_two)})

    return once("watched", run)


def test_no_analytics_and_no_version_check_while_training(watched):
    made = (watched.folder.parent.parent / "connections").read_text()
    assert "google" not in made and "neuralmagic" not in made, made


def test_environment_alone_makes_a_run_sparse(watched):
    assert reading.read(watched.weights / "last.pt")["sparse"]["sparsity"] == pytest.approx(0.7, abs=1e-4)


@pytest.mark.parametrize("batch", [4, 16, 64])
def test_the_clock_counts_batches_whatever_accumulation_does(tmp_path, shapes, prune_two, batch):
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", prune_two, batch=batch)
    for weight in _prunable(reading.read(run.weights / "last.pt")):
        assert zeros(weight) == pytest.approx(0.7, abs=1.0 / weight.numel() + 1e-9)
    assert results(run)["sparse/sparsity"][-1] == pytest.approx(0.7, abs=1e-4)
    assert results(run)["epoch"] == [0, 1]


def _prunable(ckpt):
    return [p for n, p in ckpt["model"].named_parameters() if n in ckpt["sparse"]["layers"]]


RATES = """\
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 3.0}
  - !LearningRateFunctionModifier
      {start_epoch: 0.0, end_epoch: 3.0, lr_func: linear, init_lr: 0.03, final_lr: 0.0}
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, shapes):
    """A run inside this process whose inner optimizer writes down what each of its steps was made with."""
    import yolov5.train

    seen: list[tuple[float, float]] = []
    inner = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        seen.extend((group["lr"], group["momentum"]) for group in self.param_groups)
        return inner(self, *args, **kwargs)

    folder = tmp_path_factory.mktemp("rates")
    torch.optim.SGD.step = step
    try:
        opt = yolov5.train.run(
            data=str(shapes),
            hyp=hyperparameters(),
            weights="",
            cfg="yolov5n.yaml",
            imgsz=64,
            batch_size=4,
            device="cpu",
            workers=0,
            noplots=True,
            noautoanchor=True,
            project=str(folder),
            name="exp",
            sparse_recipe=RATES,
        )
    finally:
        torch.optim.SGD.step = inner
    return opt, seen, Result(0, "", folder / "exp")


def test_a_recipe_with_learning_rates_owns_them_through_warmup(recorded):
    """Upstream's warm-up lasts at least 100 batches, here longer than the run, and writes into every group."""
    opt, seen, _ = recorded
    rates = [rate for rate, _ in seen[::3]]
    assert all(seen[i][0] == seen[i + 1][0] == seen[i + 2][0] for i in range(0, len(seen), 3))
    assert rates[0] == pytest.approx(0.03)
    assert rates == sorted(rates, reverse=True)
    assert {momentum for _, momentum in seen} == {0.937}  # not the 0.8 at which upstream's warm-up starts
    assert opt.epochs == 3


def test_the_logged_learning_rate_is_the_recipes(recorded):
    _, _, run = recorded
    logged = results(run)
    for column in ("x/lr0", "x/lr1", "x/lr2"):
        # the last of 8 batches of each epoch, of 0.03 falling to zero within 24
        assert logged[column] == pytest.approx([0.03 * (1 - n / 24) for n in (8, 16, 24)], abs=0.00126)


def test_pruned_weights_may_be_quantized_from_the_first_batch_on(tmp_path, shapes, finished):
    before, quantization = RECIPE.split("  - !MagnitudePruning")[0], RECIPE.split("  - !Quantization")[1]
    kept = "  - !ConstantPruningModifier {params: __ALL_PRUNABLE__, start_epoch: 0.0}\n"
    (tmp_path / "recipe.yaml").write_text(f"{before}{kept}  - !Quantization{quantization}")
    words = ["--sparse-recipe", "recipe.yaml", "--sparse-recipe-args", "num_epochs=2,quantization_start_epoch=0.0"]
    run = yolov5_train(tmp_path, shapes, *words, weights=finished.weights / "best_pruned.pt")
    assert results(run)["sparse/phase"] == [3, 3]
    assert results(run)["sparse/sparsity"] == pytest.approx([0.6, 0.6], abs=1e-4)
    assert any(n.endswith(".scale") for n in reading.read(run.weights / "last.pt")["sparse"]["state"])


def test_real_weights_and_photos_go_through_every_phase(tmp_path, bccd, coco_weights):
    """BCCD from the COCO checkpoint, short: two epochs at 160 px."""
    args = "num_epochs=3,pruning_end_epoch=1,quantization_start_epoch=2"
    run = yolov5_train(
        tmp_path,
        bccd,
        "--sparse-recipe",
        REPOSITORY / "benchmarks" / "recipes" / "uniform60.yaml",
        "--sparse-recipe-args",
        args,
        weights=coco_weights,
        img=160,
        batch=16,
    )
    assert "Transferred 343/349 items" in run.output
    assert results(run)["sparse/phase"] == [1, 1, 3]
    ckpt = reading.read(run.weights / "last.pt")
    assert list(ckpt["model"].names.values()) == ["RBC", "WBC", "Platelets"]
    for weight in _prunable(ckpt):
        assert zeros(weight) == pytest.approx(0.6, abs=1.0 / weight.numel() + 1e-9)


def test_python_call_and_options_are_plain_values(recorded):
    opt, _, run = recorded
    assert isinstance(opt, argparse.Namespace)
    assert yaml.safe_load((run.folder / "opt.yaml").read_text())["sparse_recipe"].startswith("modifiers:")


def test_recipe_arguments_change_the_run(tmp_path, shapes, recipe):
    args = "num_epochs=2,pruning_end_epoch=1.5,quantization_start_epoch=1.5,final_sparsity=0.3"
    run = yolov5_train(tmp_path, shapes, "--recipe", recipe, "--recipe-args", args)
    assert results(run)["epoch"] == [0, 1]
    assert results(run)["sparse/sparsity"][-1] == pytest.approx(0.3, abs=1e-3)


@pytest.fixture(scope="module")
def logged(once, shapes, prune_two):
    """A run whose recipe stands in yolov5-sparse.yaml only, with TensorBoard and, offline, Weights & Biases."""

    def run(folder):
        (folder / "yolov5-sparse.yaml").write_text(f"recipe: {prune_two}\n")
        # offline, wandb.login() answers False and upstream leaves it alone: stand in for the server that says yes
        (folder / "sitecustomize.py").write_text("import wandb\nwandb.login = lambda *args, **kwargs: True\n")
        env = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "PYTHONPATH": str(folder)}
        return yolov5_train(folder, shapes, env=env)

    return once("logged", run)


def test_config_file_alone_makes_a_run_sparse(logged):
    assert reading.read(logged.weights / "last.pt")["sparse"]["sparsity"] == pytest.approx(0.7, abs=1e-4)


def test_tensorboard_and_wandb_get_sparsity_and_phase(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    events = EventAccumulator(str(logged.folder))
    events.Reload()
    assert events.Scalars("sparse/sparsity")[-1].value == pytest.approx(0.7, abs=1e-4)
    assert events.Scalars("sparse/phase")[-1].value == 1
    logs = list(logged.folder.parent.parent.glob("wandb/offline-run-*/*.wandb"))
    assert logs, logged.output[-3000:]
    assert b"sparse/sparsity" in logs[0].read_bytes()


def test_a_model_is_called_pruned_only_where_masks_hold_a_real_share_of_it(tmp_path, shapes):
    """A recipe that only holds zeros, on dense weights; one that lets them grow back; one whose length contradicts."""
    (tmp_path / "fleeting.yaml").write_text(
        "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 2.0}\n"
        "  - !MagnitudePruningModifier {params: __ALL_PRUNABLE__, init_sparsity: 0.1, final_sparsity: 0.6, "
        "start_epoch: 0.0, end_epoch: 1.0, update_frequency: 0.25, leave_enabled: false}\n"
    )
    words = [
        ["--sparse-recipe", "transfer_pruned", "--sparse-recipe-args", "num_epochs=1", "--project", "held"],
        ["--sparse-recipe", "fleeting.yaml", "--project", "fleeting"],
        ["--sparse-recipe", "pruned", "--sparse-recipe-args", "num_epochs=4,pruning_end_epoch=9", "--project", "never"],
    ]
    held, fleeting, never = run_commands(tmp_path, *(train_words(shapes, *more) for more in words))
    assert (
        "these weights are dense (0.0% zeros)" in held[1] and "holds zeros but makes none: nothing will be" in held[1]
    )
    assert "--sparse-recipe finetune_pruned_quantized" in held[1]
    assert (
        "line 3: MagnitudePruningModifier: leave_enabled is false, so the weights grow back from epoch 1 on"
        in fleeting[1]
    )
    for folder, (status, _) in (("held", held), ("fleeting", fleeting)):
        weights = tmp_path / folder / "exp" / "weights"
        assert status == 0 and sorted(path.name for path in weights.iterdir()) == ["best.pt", "last.pt"]
        part = reading.read(weights / "last.pt")["sparse"]
        assert part["phase"] == "dense" and part["sparsity"] < 0.05
    assert never[0] == 2 and "sets num_epochs to 4, but the recipe ends at epoch 9" in never[1]
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("run", ["plain", "finished"])
def test_what_a_run_prints_is_its_own(run, request):
    """No deprecation of YOLOv5's own code, once a batch, in the middle of the progress bar; nothing that repeats."""
    result = request.getfixturevalue(run)
    lines = [line for line in result.output.splitlines() if line.strip() and "it/s" not in line and "s/it" not in line]
    noise = [line for line in lines if "deprecated" in line and "wandb" not in line or "warnings.warn" in line]
    assert noise == [] and "pkg_resources" not in result.output and "torch.cuda.amp" not in result.output
    epochs = len(results(result)["epoch"])
    assert len(lines) < 75 + 8 * epochs
