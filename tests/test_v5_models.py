"""Files that YOLOv5 no longer has are found by the names of old commands, and describe the models of release 5.0."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from conftest import call, command, results, train_words
from torch import nn

from yolov5_sparse_plugin import legacy_files
from yolov5_sparse_plugin.errors import OptionError, RecipeError
from yolov5_sparse_plugin.hosts import model_yaml

# parameters of release 5.0's models at 80 classes, as its own summary printed them: as trained; with batch norm folded
TRAINED = {"s": 7_276_605, "m": 21_375_645, "l": 47_056_765}
FOLDED = {"s": 7_266_973, "x": 87_730_285}


def built(size, classes=80):
    file = legacy_files.find(f"models_v5.0/yolov5{size}.yaml")
    return model_yaml.build(yaml.safe_load(Path(file).read_text()), classes)


@pytest.mark.parametrize("size", "nsmlx")
def test_each_model_has_the_layers_of_release_5(size):
    model = built(size)
    layers = [type(layer).__name__ for layer in model.model]
    assert layers == (
        ["Focus", "Conv", "C3", "Conv", "C3", "Conv", "C3", "Conv", "SPP", "C3"]
        + ["Conv", "Upsample", "Concat", "C3"] * 2
        + ["Conv", "Concat", "C3"] * 2
        + ["Detect"]
    )
    depth, width = (
        yaml.safe_load(Path(legacy_files.find(f"models_v5.0/yolov5{size}.yaml")).read_text())["depth_multiple"],
        model.yaml["width_multiple"],
    )
    assert [len(model.model[i].m) for i in (2, 4, 6, 9)] == [max(round(n * depth), 1) for n in (3, 9, 9, 3)]
    assert model.model[0].conv.conv.weight.shape == (64 * width, 12, 3, 3)
    assert [pool.kernel_size for pool in model.model[8].m] == [5, 9, 13]
    shortcuts = {i: model.model[i].m[0].add for i in (2, 4, 6, 9, 13, 17, 20, 23)}
    assert shortcuts == {2: True, 4: True, 6: True, 9: False, 13: False, 17: False, 20: False, 23: False}
    activations = {type(m.act) for m in model.modules() if hasattr(m, "act")}
    assert activations == {nn.Hardswish}
    assert list(model.stride) == [8, 16, 32]


@pytest.mark.parametrize("size", "smlx")
def test_parameters_are_those_that_release_5_counted(size):
    model = built(size)
    assert sum(p.numel() for p in model.parameters()) == TRAINED.get(size, 87_775_965)
    if size in FOLDED:
        assert sum(p.numel() for p in model.fuse().parameters()) == FOLDED[size]


def test_the_small_one_scales_as_the_others_do():
    """n: a quarter of l's width, so a sixteenth of the weights between layers, as in YOLOv5n of release 6 (1.87 M)."""
    assert sum(p.numel() for p in built("n").parameters()) == pytest.approx(1.87e6, rel=0.03)


def test_a_file_of_the_users_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models_v5.0/yolov5s.yaml", "data/hyps/hyp.finetune.yaml"):
        assert Path(legacy_files.find(name)).is_file()
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("mine: true\n")
        assert legacy_files.find(name) is None


@pytest.mark.parametrize(
    "name", ["", None, "yolov5s.yaml", "hyp.VOC.yaml", "data/hyps/hyp.scratch-low.yaml", "x/y.yaml"]
)
def test_every_other_name_is_upstreams_business(name):
    assert legacy_files.find(name) is None


def test_a_misspelt_model_names_the_nearest():
    with pytest.raises(OptionError, match=r"--cfg models_v5.0/yolov5z.yaml: there is no such file.*yolov5"):
        legacy_files.find("models_v5.0/yolov5z.yaml")


def test_the_hyperparameters_are_complete_and_keep_the_anchors():
    import yolov5

    ours = yaml.safe_load(Path(legacy_files.find("data/hyps/hyp.finetune.yaml")).read_text())
    theirs = yaml.safe_load((Path(yolov5.__file__).parent / "data/hyps/hyp.scratch-low.yaml").read_text())
    assert set(ours) == set(theirs) and "anchors" not in ours
    assert ours["lr0"] == 0.0032 and ours["lr0"] * ours["lrf"] == pytest.approx(0.000384)
    assert all(isinstance(value, float) for value in ours.values())


def test_a_recipe_that_names_layers_of_release_5_does_not_fit_todays_models():
    """And fits ours: layer 0 of release 5 is `model.0.conv.conv`, today's is `model.0.conv`."""
    import fork

    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    text = "modifiers:\n  - !ConstantPruningModifier {params: [model.0.conv.conv.weight], start_epoch: 0.0}\n"
    recipe = engines.load(RecipeText(text, "recipe.md"))
    recipe.check_model(built("n", 3))
    with pytest.raises(
        RecipeError, match=r"names params 'model.0.conv.conv.weight', which matches nothing in this mod"
    ):
        recipe.check_model(fork.model())


@pytest.fixture(scope="module")
def trained(once, shapes):
    """One epoch of the small v5.0 model, by the old names, from a folder that has neither file."""
    words = train_words(shapes, "--cfg", "models_v5.0/yolov5n.yaml", "--hyp", "data/hyps/hyp.finetune.yaml")
    del words[words.index("yolov5n.yaml") - 1 : words.index("yolov5n.yaml") + 1]
    return once("trained_v5", lambda cwd: call([command("yolov5"), *words, "--epochs", 1], cwd, **TRUST))


TRUST = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}


def test_training_finds_both_files_by_their_old_names(trained):
    assert results(trained)["epoch"] == [0]
    options = yaml.safe_load((trained.folder / "opt.yaml").read_text())
    assert options["cfg"].endswith("legacy_files/models_v5.0/yolov5n.yaml") and options["hyp"]["lr0"] == 0.0032
    model = torch.load(trained.weights / "last.pt", map_location="cpu", weights_only=False)["model"]
    assert type(model.model[0]).__name__ == "Focus" and isinstance(model.model[1].act, nn.Hardswish)
    assert "sparse" not in trained.output


def test_a_v5_model_validates_detects_and_exports(trained, shapes, tmp_path):
    import onnxruntime
    from test_legacy_checkpoints import run_commands

    file, place = trained.weights / "best.pt", ["--device", "cpu", "--img", 64]
    picture = next((shapes.parent / "images" / "val").iterdir())
    (tmp_path / "best.pt").write_bytes(file.read_bytes())
    done = run_commands(
        tmp_path,
        ["val", "--weights", "best.pt", "--data", shapes, "--workers", 0, *place],
        ["detect", "--weights", "best.pt", "--source", picture, "--project", "detected", *place],
        ["export", "--weights", "best.pt", "--include", "onnx", *place],
        **TRUST,
    )
    assert [status for status, _ in done] == [0, 0, 0], done
    assert "all         16" in done[0][1] and len(list((tmp_path / "detected").rglob("*.jpg"))) == 1
    session = onnxruntime.InferenceSession(str(tmp_path / "best.onnx"))
    images = torch.rand(1, 3, 64, 64)
    model = torch.load(file, map_location="cpu", weights_only=False)["model"].float().eval()
    with torch.no_grad():
        expected = model(images)[0]
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-3)


def test_a_v5_model_trains_sparse_with_a_recipe_by_pattern(trained, shapes, tmp_path):
    """Pruning reaches the Focus stem, and a run after it in the same process has its own activation."""
    from yolov5 import train
    from yolov5.models.common import Conv

    from yolov5_sparse_plugin.checkpoints import reading

    (tmp_path / "r.yaml").write_text(
        "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
        "  - !MagnitudePruningModifier\n      params: __ALL_PRUNABLE__\n      init_sparsity: 0.3\n"
        "      final_sparsity: 0.5\n      start_epoch: 0.0\n      end_epoch: 1.0\n      update_frequency: 0.25\n"
    )
    train.run(
        data=str(shapes), cfg="models_v5.0/yolov5n.yaml", weights=str(trained.weights / "last.pt"), imgsz=64,
        batch_size=8, device="cpu", workers=0, noplots=True, noautoanchor=True, project=str(tmp_path), name="exp",
        sparse_recipe=str(tmp_path / "r.yaml"),
    )  # fmt: skip
    ckpt = reading.read(tmp_path / "exp" / "weights" / "last.pt")
    assert ckpt["sparse"]["layers"]["model.0.conv.conv.weight"] == pytest.approx(0.5, abs=0.01)
    assert type(Conv.default_act) is nn.SiLU
