"""Checkpoints of the sparse fork load, bit by bit, in every form that it wrote, and none runs its author's code."""

from __future__ import annotations

import pickle
import time
from copy import deepcopy

import fork
import pytest
import torch
from commands import run_commands
from conftest import results, yolov5_train, zeros
from yolov5.utils.general import LOGGER

from yolov5_sparse_plugin.checkpoints import archive, legacy, quantizers, reading, unpickling
from yolov5_sparse_plugin.engine.native import structure
from yolov5_sparse_plugin.errors import CheckpointError, RecipeError
from yolov5_sparse_plugin.hosts import model_yaml

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=list(fork.QUANTIZED))
def quantized(request, pruned, tmp_path_factory):
    """A model that SparseML quantized, and the fork's checkpoint of it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = fork.with_add_nodes(deepcopy(pruned))
    text = fork.quantize(model, fork.PRUNED + fork.QUANTIZED[request.param])
    torch.save(fork.checkpoint(model, checkpoint_recipe=text), folder / "model.pt")
    return model, folder / "model.pt"


@pytest.fixture
def said(monkeypatch):
    """What the plugin says through YOLOv5's logger."""
    lines: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", lines.append)
    return lines


def assert_same(model, original):
    """Assert that two models have the same tensors and find the same."""
    ours, theirs = model.state_dict(), original.state_dict()
    assert [n for n, v in theirs.items() if not torch.equal(ours[n].float(), v.float())] == []
    with torch.no_grad():
        assert torch.equal(model.float().eval()(IMAGES)[0], original.float().eval()(IMAGES)[0])


# --------------------------------------------------------------------------------------------- formats


def test_a_state_dict_becomes_a_model_of_this_host(tmp_path, pruned):
    file = fork.saved(tmp_path, fork.checkpoint(pruned))
    assert legacy.is_legacy(file)
    ckpt = reading.read(file)
    assert type(ckpt["model"]).__module__ == "yolov5.models.yolo" and ckpt["ema"] is None and ckpt["epoch"] == -1
    assert ckpt["sparse"]["phase"] == "pruned" and ckpt["sparse"]["sparsity"] == pytest.approx(0.6, abs=0.001)
    assert ckpt["model"].nc == 3 and ckpt["model"].hyp["box"] == 0.05 and list(ckpt["model"].stride) == [8, 16, 32]
    assert_same(ckpt["model"], pruned)


def test_half_precision_comes_back_as_it_was_written(tmp_path, pruned):
    half = deepcopy(pruned).half()
    ckpt = reading.read(fork.saved(tmp_path, fork.checkpoint(half)))
    assert ckpt["model"].state_dict()["model.0.conv.weight"].dtype == torch.float32
    assert_same(ckpt["model"], half)


@pytest.mark.parametrize(
    "keys",
    [
        {"checkpoint_recipe": fork.PRUNED},
        {"checkpoint_recipe": None, "intermediate_recipe": fork.PRUNED, "epoch": 7},
        {"checkpoint_recipe": ..., "intermediate_recipe": ..., "recipe": fork.PRUNED},
        {"checkpoint_recipe": ..., "intermediate_recipe": ..., "recipe": None},
        {"checkpoint_recipe": ..., "intermediate_recipe": ...},
    ],
    ids=["finished", "unfinished", "before-1.0", "before-1.0-dense", "no-recipe-at-all"],
)
def test_the_recipe_is_found_under_each_of_its_names(tmp_path, pruned, keys):
    ckpt = {k: v for k, v in fork.checkpoint(pruned, **keys).items() if v is not ...}
    file = fork.saved(tmp_path, ckpt)
    assert legacy.is_legacy(file)
    part = reading.read(file)["sparse"]
    assert part["recipe"] == (fork.PRUNED if fork.PRUNED in keys.values() else "")
    assert part["epoch"] == keys.get("epoch", -1)


@pytest.mark.parametrize("ema", ["absent", "none", "state", "updates absent"])
def test_averaged_weights_are_read_where_there_are_any(tmp_path, pruned, ema):
    averaged = fork.model(seed=1)
    ckpt = fork.checkpoint(pruned, ema=fork.state(averaged), updates=12)
    if ema == "absent":
        del ckpt["ema"], ckpt["updates"]
    elif ema == "none":
        ckpt["ema"] = ckpt["updates"] = None
    elif ema == "updates absent":
        del ckpt["updates"]
    read = reading.read(fork.saved(tmp_path, ckpt))
    assert_same(read["model"], pruned)
    assert read["updates"] == (12 if ema == "state" else None)
    if ema in ("absent", "none"):
        assert read["ema"] is None
    else:
        assert_same(read["ema"], averaged)


@pytest.mark.parametrize("package", ["models", "yolov5.models"])
def test_a_pickled_module_of_either_class_tree_becomes_one_of_this_host(tmp_path, pruned, package):
    model = fork.with_add_nodes(deepcopy(pruned), forward=False)
    with fork.class_tree(package):
        ckpt = {"epoch": -1, "model": model, "ema": deepcopy(model).half(), "updates": 3, "yaml": model.yaml}
        file = fork.saved(tmp_path, {**ckpt, "recipe": fork.PRUNED, "hyp": {}, "optimizer": None})
    names = archive.contents(file)[0]
    assert {f"{package}.common _Add", f"{package}.yolo DetectionModel"} <= names
    assert legacy.is_legacy(file)
    read = reading.read(file)
    for module in read["model"].modules():
        assert type(module).__module__.startswith(("yolov5.models.", "torch.nn.modules.")), type(module)
        assert not hasattr(module, "add_node")
    assert_same(read["model"], pruned)
    assert_same(read["ema"], deepcopy(pruned).half())


def test_a_module_of_release_5_keeps_its_weights_and_gets_todays_detect_layer(tmp_path, pruned):
    """v5.0 kept the anchors in pixels as a buffer; pickled by a checkout, before torch 1.6's format."""
    model = deepcopy(pruned)
    detect = model.model[-1]
    del detect.anchor_grid, detect.inplace
    detect.register_buffer("anchor_grid", (detect.anchors * detect.stride.view(-1, 1, 1)).view(3, 1, -1, 1, 1, 2))
    with torch.no_grad():
        pruned(IMAGES)  # a checkpoint's model has been validated: its grids are those of the last images
    model.model[-1].grid = pruned.model[-1].grid
    with fork.class_tree("models"):
        ckpt = {"epoch": -1, "model": model, "ema": None, "yaml": model.yaml, "recipe": None}
        file = fork.saved(tmp_path, ckpt, _use_new_zipfile_serialization=False)
    assert legacy.is_legacy(file)
    read = reading.read(file)["model"]
    assert isinstance(read.model[-1].anchor_grid, list)
    assert_same(read, pruned)


@pytest.mark.parametrize("package", ["models", "yolov5.models"])
def test_a_segmentation_model_is_read(tmp_path, package):
    """It keeps a function of another class, `Detect.forward`, which a pickle fetches with `getattr`."""
    from yolov5.models.experimental import attempt_load
    from yolov5.models.yolo import SegmentationModel

    torch.manual_seed(0)
    model = SegmentationModel(str(fork.YOLOV5N.parent / "segment" / "yolov5n-seg.yaml"), ch=3, nc=3).eval()
    with fork.class_tree(package):
        file = fork.saved(tmp_path, {"epoch": -1, "model": model, "ema": None})
    assert any(name.endswith(" getattr") for name in archive.contents(file)[0]), "this test shows nothing"
    with reading.whole_pickles():
        read = attempt_load(str(file), device=torch.device("cpu"), fuse=False)
    assert type(read) is SegmentationModel
    assert_same(read, model)


def test_a_plain_model_of_release_5_is_brought_up_to_date_where_this_plugin_reads_it(tmp_path, pruned):
    """What a zoo has for a dense model; read by us in a sparse run, in an export, and where `whole_pickles` is on."""
    from yolov5.models.experimental import attempt_load

    model = deepcopy(pruned)
    detect = model.model[-1]
    del detect.anchor_grid
    detect.register_buffer("anchor_grid", torch.ones(3, 1, 3, 1, 1, 2))
    with fork.class_tree("models"):
        file = fork.saved(tmp_path, {"epoch": -1, "model": model, "ema": None})
    assert not reading.is_sparse(file)
    with reading.whole_pickles():
        assert_same(attempt_load(str(file), device=torch.device("cpu"), fuse=False), pruned)


def test_the_format_before_torch_1_6_is_read(tmp_path, pruned):
    file = fork.saved(tmp_path, fork.checkpoint(pruned), _use_new_zipfile_serialization=False)
    assert legacy.is_legacy(file)
    assert_same(reading.read(file)["model"], pruned)


def test_names_from_several_gpus_are_the_same_names(tmp_path, pruned):
    state = {f"module.{name}": value for name, value in fork.state(pruned).items()}
    assert_same(reading.read(fork.saved(tmp_path, fork.checkpoint(pruned, model=state)))["model"], pruned)


def test_hooks_that_sparseml_left_in_a_pickled_module_are_dropped(tmp_path, pruned, monkeypatch):
    """Pickled in the middle of pruning, a module drags SparseML's masks along."""
    monkeypatch.chdir(tmp_path)
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    model = deepcopy(pruned).train()
    optimizer = engines.load(RecipeText(fork.PRUNED, "recipe")).wrap(
        torch.optim.SGD(model.parameters(), lr=0.0), model, None
    )
    optimizer.bind(4, 0)
    sum(output.mean() for output in model(IMAGES)).backward()
    optimizer.step()
    with fork.class_tree("models"):
        file = fork.saved(
            tmp_path, {"epoch": 3, "model": deepcopy(model), "ema": None, "recipe": fork.PRUNED, "yaml": {}}
        )
    assert any(module._forward_pre_hooks for module in model.modules()), "this test shows nothing"
    assert any(name.startswith("sparseml.") for name in archive.contents(file)[0]), "this test shows nothing"
    read = reading.read(file)["model"]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in read.modules())
    plain = deepcopy(pruned)
    plain.load_state_dict(model.state_dict())
    assert_same(read, plain)


def test_what_distillation_left_behind_is_ignored_by_name(tmp_path, pruned, said):
    state = {**fork.state(pruned), "teacher.model.0.conv.weight": torch.zeros(1), "kd_projection.weight": torch.ones(2)}
    read = reading.read(fork.saved(tmp_path, fork.checkpoint(pruned, model=state)))
    assert_same(read["model"], pruned)
    assert "2 tensors are no part of the model and were left out, the first is teacher.model.0.conv.weight" in said[0]


def test_the_forks_word_for_an_activation_is_understood(tmp_path):
    """`act: Hardswish` says nothing to YOLOv5 7.0, which would build SiLU without a word."""
    description = {**fork.yaml_of(fork.YOLOV5N), "activation": "nn.Hardswish()"}
    with model_yaml.own_activation():
        model = fork.model(cfg=fork.write_yaml(tmp_path / "h.yaml", description))
    assert any(isinstance(m, torch.nn.Hardswish) for m in model.modules())
    written = fork.checkpoint(model)
    del written["yaml"]["activation"]
    written["yaml"]["act"] = "Hardswish"
    read = reading.read(fork.saved(tmp_path, written))["model"]
    assert_same(read, model)
    assert not any(isinstance(m, torch.nn.Hardswish) for m in fork.model().modules()), "the next model has it, too"


# ---------------------------------------------------------------------------------- quantization aware


def test_a_quantized_state_is_rebuilt_bit_by_bit(quantized, pruned):
    model, file = quantized
    ckpt = reading.read(file)
    assert ckpt["sparse"]["phase"] == "pruned_quantized"
    weights = {n: v for n, v in pruned.state_dict().items() if n.endswith(("weight", "bias", "anchors"))}
    twin = ckpt["model"].state_dict()
    assert set(twin) == set(pruned.state_dict()) and all(torch.equal(twin[n], v) for n, v in weights.items())
    again = quantizers.quantized_model(ckpt)
    theirs = {n.replace("add_node", "residual"): value for n, value in model.state_dict().items()}
    names = structure.names_from_sparseml([n for n in theirs if n.endswith("scale")], pruned)
    ours = again.state_dict()
    known = [n for n, own in names.items() if own in ours]  # the fork has an add in every bottleneck, used or not
    assert len(known) > 100 and sum(".residual." in n for n in known) == 14
    assert all(torch.equal(ours[names[n]], theirs[n]) for n in known)
    with torch.no_grad():
        assert torch.equal(again(IMAGES)[0], model(IMAGES)[0])
        assert not torch.equal(again(IMAGES)[0], pruned(IMAGES)[0]), "nothing was quantized: this test shows nothing"


def test_a_staged_recipe_is_rebuilt_as_well(tmp_path, pruned, monkeypatch, said):
    """Weights that were trained in two runs carry both recipes, one after the other."""
    monkeypatch.chdir(tmp_path)
    model = fork.with_add_nodes(deepcopy(pruned))
    text = fork.quantize(model, fork.PRUNED + fork.QUANTIZED["unfused"])
    from sparseml.pytorch.optim import ScheduledModifierManager

    staged = str(ScheduledModifierManager.compose_staged(fork.PRUNED, text))
    assert "stage" in staged
    ckpt = reading.read(fork.saved(tmp_path, fork.checkpoint(model, checkpoint_recipe=staged)))
    with torch.no_grad():
        assert torch.equal(quantizers.quantized_model(ckpt)(IMAGES)[0], model(IMAGES)[0])
    assert said == []


@pytest.mark.parametrize("quantized", ["fused"], indirect=True)
def test_constants_that_older_torch_did_not_write_are_added(quantized):
    model, file = quantized
    ckpt = torch.load(file, weights_only=True)
    ckpt["model"] = {
        n: v.long() if n.endswith("zero_point") else v for n, v in ckpt["model"].items() if not n.endswith(".eps")
    }
    torch.save(ckpt, file.with_name("older.pt"))
    again = quantizers.quantized_model(reading.read(file.with_name("older.pt")))
    with torch.no_grad():
        assert torch.equal(again(IMAGES)[0], model(IMAGES)[0])


@pytest.mark.parametrize("recipe", [fork.PRUNED, "", "modifiers:\n  - !ForgottenModifier {a: 1}\n"])
@pytest.mark.parametrize("quantized", ["fused"], indirect=True)
def test_quantizers_that_cannot_be_rebuilt_leave_the_float_model_and_a_warning(quantized, pruned, recipe, said):
    _, file = quantized
    ckpt = torch.load(file, weights_only=True)
    torch.save({**ckpt, "checkpoint_recipe": recipe}, file.with_name("unfit.pt"))
    read = reading.read(file.with_name("unfit.pt"))
    assert read["sparse"]["phase"] == "pruned" and "state" not in read["sparse"]
    weights = read["model"].state_dict()
    assert all(torch.equal(weights[n], v) for n, v in pruned.state_dict().items() if n.endswith(("weight", "bias")))
    assert len(said) == 1 and "quantizers cannot be rebuilt and were left out; this is the float model" in said[0]


def test_a_class_of_objects_may_be_called_recipe(tmp_path, pruned):
    model = deepcopy(pruned)
    model.names = ["recipe", "card", "yaml"]
    file = fork.saved(tmp_path, {"epoch": -1, "model": model, "ema": None, "yaml": None})
    assert not legacy.is_legacy(file)


# --------------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-1.6"])
def test_a_truncated_checkpoint_is_named(tmp_path, pruned, share, zipped):
    file = fork.saved(tmp_path, fork.checkpoint(pruned), _use_new_zipfile_serialization=zipped)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="not a checkpoint that torch can read, or it is damaged"):
        reading.read(file)


def test_weights_of_another_model_than_the_description(tmp_path, pruned):
    ckpt = fork.checkpoint(pruned)
    ckpt["yaml"]["width_multiple"] = 0.5
    with pytest.raises(
        CheckpointError, match="do not fit the model that the checkpoint describes: 0 are missing, 288 of"
    ):
        reading.read(fork.saved(tmp_path, ckpt))
    ckpt = fork.checkpoint(pruned)
    del ckpt["model"]["model.1.conv.weight"]
    with pytest.raises(CheckpointError, match=r"1 are missing.*first: model.1.conv.weight, missing"):
        reading.read(fork.saved(tmp_path, ckpt))


def test_a_file_of_something_else(tmp_path):
    for content in (pickle.dumps(["a", 2]), b"", b"only text"):
        (tmp_path / "model.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a checkpoint that torch can read, or it is damaged"):
            reading.read(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="it holds a list, not a dict"):
        unpickling.load(fork.saved(tmp_path, ["a", 2]))


# --------------------------------------------------------------------------------- recipes without end


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9**9",
        "2**100000000000",
        "1" + "0" * 200_000,
        "(" * 900 + "1" + ")" * 900,
        "-" * 900 + "1",
        "+".join(["1"] * 100_000),
        "round(7, -10**10)",
        "int(1e308) * int(1e308)",
        "[0] * 10**12",
        "__import__('os').system('true')",
        "(1).__class__",
    ],
)
def test_a_huge_expression_is_refused_at_once(expression):
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    text = f"n: eval({expression})\nmodifiers:\n  - !EpochRangeModifier {{start_epoch: 0.0, end_epoch: eval(n)}}\n"
    started = time.monotonic()
    with pytest.raises(RecipeError, match=r"r\.yaml(, line 1)?: (cannot compute|not valid YAML)"):
        engines.load(RecipeText(text, "r.yaml"))
    assert time.monotonic() - started < 5


def test_expressions_that_build_on_each_other_stay_small():
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    lines = ["a0: 9"] + [f"a{i + 1}: eval(a{i} * a{i})" for i in range(60)]
    text = "\n".join(lines) + "\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
    with pytest.raises(RecipeError, match="a number that large has no use in a recipe"):
        engines.load(RecipeText(text, "r.yaml"))


def test_ordinary_expressions_mean_what_they_meant():
    from sparseml.utils import restricted_eval

    from yolov5_sparse_plugin.engine.expressions import UnknownVariable, evaluate

    known = {"num_epochs": 52, "rate": 0.0032}
    for expression in ("num_epochs - 2", "rate * 0.12", "2 ** 3 // 3", "max(0, 1.5)", "round(7 / 3)", "2 ** 0.5",
                       "min(num_epochs, 10) % 4", "int(7.9)", "round(rate * 3, 4)", "2 ** 10"):  # fmt: skip
        ours, theirs = evaluate(expression, known), restricted_eval(expression, known)
        assert ours == theirs and type(ours) is type(theirs), expression
    with pytest.raises(UnknownVariable):
        evaluate("unknown + 1", known)


def test_aliases_that_multiply_a_recipe_are_refused_at_once():
    from yolov5_sparse_plugin.engine import engines
    from yolov5_sparse_plugin.recipes_io import RecipeText

    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(12)]
    text = "\n".join(lines) + "\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
    started = time.monotonic()
    with pytest.raises(RecipeError, match="aliases make a recipe of more than"):
        engines.load(RecipeText(text, "r.yaml"))
    assert time.monotonic() - started < 5


# -------------------------------------------------------------------------------------------- the commands, for real


@pytest.mark.long
def test_val_detect_load_and_export_take_the_forks_checkpoints(tmp_path, shapes, pruned):
    """The form that the published recipes leave behind: pruned, and pruned and quantized."""
    import onnx

    model = fork.with_add_nodes(deepcopy(pruned))
    text = fork.quantize(model, fork.PRUNED + fork.QUANTIZED["fused"])
    torch.save(fork.checkpoint(pruned), tmp_path / "pruned.pt")
    torch.save(fork.checkpoint(model, checkpoint_recipe=text), tmp_path / "quantized.pt")
    picture, place = next((shapes.parent / "images" / "val").iterdir()), ["--device", "cpu", "--img", 64]
    words = []
    for name in ("pruned.pt", "quantized.pt"):
        words.append(["val", "--weights", name, "--data", shapes, "--workers", 0, *place])
        words.append(["detect", "--weights", name, "--source", picture, "--project", "detected", *place])
    words.append(["export", "--weights", "quantized.pt", "--include", "onnx", "--data", shapes, *place])
    done = run_commands(tmp_path, *words)
    assert [status for status, _ in done] == [0] * 5, done
    assert all("all         16" in done[i][1] for i in (0, 2))
    assert len(list((tmp_path / "detected").rglob("*.jpg"))) == 2
    graph = onnx.load(tmp_path / "quantized.onnx").graph
    eight_bits = [i for i in graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]
    assert len(eight_bits) >= 57

    import yolov5

    for name, original in (("pruned.pt", pruned), ("quantized.pt", model)):
        loaded = yolov5.load(str(tmp_path / name), device="cpu").model
        with torch.no_grad():
            # a float model is loaded with its batch norms folded, which moves the last bits
            found, expected = loaded(IMAGES), original(IMAGES)[0]
            found = found if torch.is_tensor(found) else found[0]
            assert found.sum().item() == pytest.approx(expected.sum().item(), rel=1e-4), name


def test_training_from_a_pruned_checkpoint_keeps_its_zeros(tmp_path, shapes, pruned):
    file = fork.saved(tmp_path, fork.checkpoint(pruned))
    args = ["--sparse-recipe", "transfer_pruned", "--sparse-recipe-args", "num_epochs=2,warmup_epochs=1"]
    run = yolov5_train(tmp_path, shapes, *args, weights=file)
    assert results(run)["epoch"] == [0, 1] and "Transferred 34" in run.output
    ckpt = reading.read(run.weights / "last.pt")
    before, after = pruned.state_dict(), ckpt["model"].state_dict()
    for name in ckpt["sparse"]["layers"]:
        assert not (after[name][before[name] == 0] != 0).any(), name
    assert zeros(after["model.9.cv2.conv.weight"]) == pytest.approx(0.6, abs=0.001)
    assert not torch.equal(before["model.1.conv.weight"].half(), after["model.1.conv.weight"].half())
