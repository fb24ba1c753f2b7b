"""Bad input gets a sentence: what was asked, what was found, what to do. Nothing on disk is lost."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest
import torch
import yolov5
from conftest import RECIPE, TRUST, hyperparameters, yolov5_train

from yolov5_sparse_plugin.errors import CheckpointError, HostError, RecipeError, ZooError
from yolov5_sparse_plugin.hosts.patchset import PatchSet
from yolov5_sparse_plugin.recipes_io import RecipeText, read


def load(text, **variables):
    from yolov5_sparse_plugin.engine import engines

    return engines.load(RecipeText(textwrap.dedent(text), "r.yaml"), variables)


def refused(tmp_path, shapes, *words, **kwargs):
    """Run `yolov5 train`, which must refuse, in one sentence, and leave the folder as it was."""
    before = sorted(p for p in tmp_path.rglob("*"))
    run = yolov5_train(tmp_path, shapes, *words, status=2, **kwargs)
    assert "Traceback" not in run.output
    assert sorted(p for p in tmp_path.rglob("*")) == before
    return next(line for line in run.output.splitlines() if line.startswith("yolov5-sparse: error: "))


def test_missing_recipe_names_the_nearest(tmp_path, shapes):
    message = refused(tmp_path, shapes, "--sparse-recipe", "transfer_prunned")
    assert "--sparse-recipe transfer_prunned: no such file, and no shipped recipe has that name." in message
    assert "'transfer_pruned'" in message


def test_recipe_that_is_no_recipe(tmp_path):
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    (tmp_path / "r.txt").write_text("x")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "card.md").write_text("# no front matter\n")
    for name, message in (
        ("folder.yaml", "is a directory"),
        ("r.txt", r"a recipe is a \.yaml or \.md file, this is '\.txt'"),
        ("binary.yaml", "not a text file"),
        ("card.md", "needs its YAML as front matter"),
    ):
        with pytest.raises(RecipeError, match=message):
            read(str(tmp_path / name))


@pytest.mark.parametrize(
    "text, message",
    [
        ("modifiers:\n  - !EpochRangeModifier\n   x: [", r"r\.yaml: not valid YAML at line \d.*Indent with spaces"),
        ("- a\n- b\n", "a recipe is a YAML mapping"),
        ("num_epochs: 3\n", "no modifier found"),
        (
            "modifiers:\n  - !EpochRangeModifer\n      start_epoch: 0.0\n      end_epoch: 3.0\n",
            r"r\.yaml, line \d: no modifier 'EpochRangeModifer'\. Did you mean 'EpochRangeModifier'",
        ),
        (
            "modifiers:\n  - !EpochRangeModifier\n      start_epoch: 0.0\n      end_epochs: 3.0\n",
            r"r\.yaml, line 4: EpochRangeModifier has no key 'end_epochs'\. Did you mean 'end_epoch'",
        ),
        (
            "n: 3\nmodifiers:\n  - !EpochRangeModifier\n      start_epoch: 0.0\n      end_epoch: eval(m * 2)\n",
            r"r\.yaml, line 5: cannot compute the recipe's variables: eval\(m \* 2\): there is no variable 'm'",
        ),
        (
            "modifiers:\n  - !LearningRateFunctionModifier\n      {start_epoch: 0.0, end_epoch: 3.0, lr_func: sine, "
            "init_lr: 0.1, final_lr: 0.01}\n",
            r"r\.yaml, line 3: LearningRateFunctionModifier: lr_func 'sine': expected 'linear'",
        ),
    ],
)
def test_faults_in_a_recipe_are_named_with_their_line(text, message):
    with pytest.raises(RecipeError, match=message):
        load(text)


def test_unknown_recipe_argument():
    with pytest.raises(
        RecipeError, match="sets 'num_epoch', which this recipe does not have. Did you mean 'num_epochs'"
    ):
        load(RECIPE, num_epoch=3)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, shapes):
    """The recipe does not fit the model, which is known only when YOLOv5 has built it, and its folder."""
    (tmp_path / "r.yaml").write_text("modifiers:\n  - !ConstantPruningModifier {params: ['re:layer1.*']}\n")
    message = refused(tmp_path, shapes, "--sparse-recipe", "r.yaml", "--epochs", 1)
    assert "names params 're:layer1.*', which matches nothing in this model. Nearest: " in message


BROKEN = """
from sparseml.pytorch.sparsification import PyTorchModifierYAML, ScheduledModifier

@PyTorchModifierYAML()
class BrokenModifier(ScheduledModifier):
    def __init__(self, start_epoch: float):
        super().__init__(start_epoch=start_epoch, end_epoch=-1.0, end_comparator=-1)

    def initialize(self, *args, **kwargs):
        raise RuntimeError("the true reason")
"""


def test_the_error_of_the_start_is_not_buried_under_one_of_the_clean_up(tmp_path, shapes):
    """What is half initialized fails again when it is to be finalized."""
    (tmp_path / "hook.py").write_text(BROKEN)
    (tmp_path / "r.yaml").write_text(
        "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
        "  - !BrokenModifier {start_epoch: 0.0}\n"
        "  - !MagnitudePruningModifier {params: __ALL_PRUNABLE__, init_sparsity: 0.1, final_sparsity: 0.5, "
        "start_epoch: 0.0, end_epoch: 1.0, update_frequency: 0.5}\n"
    )
    words = ["--sparse-recipe", "r.yaml", "--sparse-hooks", "hook.py"]
    run = yolov5_train(tmp_path, shapes, *words, status=None)
    assert run.status != 0 and not (tmp_path / "runs").exists()
    assert "RuntimeError: the true reason" in run.output
    assert run.output.count("During handling") == 0 and "must be initialized" not in run.output


def test_quantization_after_the_last_epoch(tmp_path, shapes, recipe):
    message = refused(tmp_path, shapes, "--sparse-recipe", recipe, "--epochs", 3)
    assert (
        "quantization starts at epoch 3 but --epochs is 3. Raise --epochs to at least 4, or drop it to take 5"
        in message
    )


def test_pruning_after_the_last_epoch(tmp_path, shapes, prune_two):
    message = refused(tmp_path, shapes, "--sparse-recipe", prune_two, "--epochs", 1)
    assert "pruning ends at epoch 2 but --epochs is 1" in message and "Raise --epochs to at least 2" in message


def test_quantizing_a_quantized_checkpoint_again(tmp_path, shapes, finished, recipe):
    message = refused(tmp_path, shapes, "--sparse-recipe", recipe, weights=finished.weights / "best.pt")
    assert "the recipe quantizes, but" in message and "best_pruned.pt" in message


def test_pruned_weights_without_a_recipe_that_holds_them(tmp_path, shapes, finished):
    text = "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
    (tmp_path / "r.yaml").write_text(text)
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", "r.yaml", weights=finished.weights / "best_pruned.pt")
    assert "these weights are 60% sparse" in run.output and "ConstantPruningModifier" in run.output


OFFLINE = {"YOLOV5_SPARSE_ZOO_SOURCES": "directory,cache", "SPARSEZOO_MODELS_PATH": "cache"}


def test_a_stub_never_trains_from_random_weights(tmp_path, shapes, recipe):
    stub = "zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned-aggressive_96"
    message = refused(tmp_path, shapes, "--sparse-recipe", recipe, weights=stub, env=OFFLINE)
    assert f"--weights {stub}: no source has the weights of this stub." in message
    message = refused(tmp_path, shapes, "--sparse-recipe", stub, env=OFFLINE)
    assert f"--sparse-recipe {stub}: no source has the recipe of this stub." in message


def test_a_stub_without_a_recipe_is_refused_too(tmp_path, shapes):
    message = refused(tmp_path, shapes, "--epochs", 1, weights="zoo:yolov5-s-coco-pruned75_quantized", env=OFFLINE)
    assert "no source has the weights of this stub" in message


def test_a_stub_that_no_hook_resolves_never_trains_from_random_weights(tmp_path, shapes, recipe, monkeypatch):
    import yolov5.train

    stub, blocked = "zoo:yolov5-s-coco-pruned75_quantized", {"YOLOV5_SPARSE_DISABLE": "zoo_weights"}
    message = refused(tmp_path, shapes, "--epochs", 5, weights=stub, env=blocked)
    assert f"{stub}: no hook resolves this stub" in message and "Unblock zoo_weights" in message
    monkeypatch.setenv("YOLOV5_SPARSE_DISABLE", "zoo_weights")
    words = dict(data=str(shapes), hyp=hyperparameters(), cfg="yolov5n.yaml", device="cpu", project=str(tmp_path))
    with pytest.raises(ZooError, match="no hook resolves this stub"):
        yolov5.train.run(weights=stub, sparse_recipe=str(recipe), **words)


@pytest.mark.parametrize("kind", ["garbage", "truncated"])
def test_weights_that_are_no_checkpoint(tmp_path, shapes, recipe, finished, kind):
    whole = (finished.weights / "best_pruned.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(b"not a checkpoint" if kind == "garbage" else whole[:100_000])
    run = yolov5_train(tmp_path, shapes, "--sparse-recipe", recipe, weights=tmp_path / "x.pt", status=2)
    assert "x.pt: not a checkpoint that torch can read" in run.output


def test_a_host_that_has_moved_on_is_named_and_left_alone():
    namespace = {"Model": object, "__name__": "train"}
    exec("def train(): return Model, renamed_optimizer", namespace)
    before = dict(namespace)
    with pytest.raises(
        HostError, match=r"This YOLOv5 \(7\.1\.0\) has no 'smart_optimizer' in train\(\).*Nothing was changed"
    ):
        PatchSet(namespace["train"], {"model": lambda m: m, "optimizer": lambda o: o}, "7.1.0")
    assert namespace == before


def test_a_newer_yolov5_is_refused_by_name_and_trains_on_without_a_recipe(tmp_path, shapes, prune_two):
    """A copy of the real package whose train() builds its optimizer by another name."""
    host = tmp_path / "host" / "yolov5"
    shutil.copytree(Path(yolov5.__file__).parent, host, ignore=shutil.ignore_patterns("__pycache__"))
    script, package = host / "train.py", host / "__init__.py"
    renamed = "from yolov5.utils.torch_utils import smart_optimizer as clever_optimizer"
    text = script.read_text().replace("import yaml\n", f"import yaml\n{renamed}\n", 1)
    script.write_text(text.replace("optimizer = smart_optimizer(", "optimizer = clever_optimizer("))
    package.write_text(package.read_text().replace("7.0.14", "7.1.0"))
    work = tmp_path / "work"
    work.mkdir()
    env = {"PYTHONPATH": str(host.parent), **TRUST}
    message = refused(work, shapes, "--sparse-recipe", prune_two, env=env)
    assert "This YOLOv5 (7.1.0) has no 'smart_optimizer' in train(); yolov5-sparse-plugin knows" in message
    assert "Nothing was changed" in message
    run = yolov5_train(work, shapes, "--epochs", 1, env=env)
    assert (run.weights / "last.pt").exists()


def test_a_seam_that_the_host_no_longer_calls_is_an_error():
    namespace = {"Model": lambda: 1}
    exec("def train(fresh=False):\n    return Model() if fresh else 2", namespace)
    patches = PatchSet(namespace["train"], {"model": lambda m: m}, "7.1.0")
    with patches:
        namespace["train"]()
    with pytest.raises(HostError, match="never called 'Model'"):
        patches.require_called()


def test_a_damaged_or_newer_checkpoint(tmp_path):
    from yolov5_sparse_plugin.checkpoints import reading

    torch.save({"sparse": {"format": "yolov5-sparse-plugin/99"}}, tmp_path / "new.pt")
    assert reading.is_sparse(tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="written in format 'yolov5-sparse-plugin/99', this plugin reads"):
        reading.read(tmp_path / "new.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "new.pt").read_bytes()[:300])
    with pytest.raises(CheckpointError, match="is damaged"):
        reading.read(tmp_path / "cut.pt")
